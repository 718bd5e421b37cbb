"""Evaluating a model on datasets, one template at a time."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flan_jax.catalogue.records import Dataset
from flan_jax.errors import UserError
from flan_jax.evaluation import unit_scores
from flan_jax.evaluation.option_scores import UnconditionalScores, best_options
from flan_jax.evaluation.predictions import Predictions, file_name, write_predictions
from flan_jax.evaluation.result_rows import ResultRow, Setting
from flan_jax.evaluation.scored_rows import make_rows, row_scores, score_predictions
from flan_jax.metrics.numbers import Number

if TYPE_CHECKING:
    from flan_jax.data.shards import EvalExamples

# Inputs and options (int32 ids each) -> log-probabilities [O] of each row's options.
Rank = Callable[[Sequence[np.ndarray], Sequence[Sequence[np.ndarray]]], list[np.ndarray]]
# Inputs -> the text of each, and whether it was truncated.
Generate = Callable[[Sequence[np.ndarray]], list[tuple[str, bool]]]
# Options -> their log-probabilities [O] after `UNCONDITIONAL_INPUT`.
RankUnconditional = Callable[[Sequence[np.ndarray]], np.ndarray]


class TemplateResult(NamedTuple):
    """The numbers of a dataset in one template.

    Attributes:
      rows: of results.
      truncated: how many answers were truncated.
    """

    rows: list[ResultRow]
    truncated: int


def evaluate_templates(
    examples: Iterable[EvalExamples],
    datasets: Mapping[str, Dataset],
    setting: Setting,
    rank: Rank,
    generate: Generate,
    rank_unconditional: RankUnconditional,
    predictions_dir: str | pathlib.Path | None = None,
) -> Iterator[TemplateResult]:
    """Yields the numbers of each dataset in a template, once its predictions are on disk.

    Args:
      examples: rendered splits in forward templates, or in inverted ones of datasets with
        `inverted_metrics`.
      datasets: by name, for cluster and metrics; the catalogue will do.
      setting: the columns that all rows share.
      rank: see `RankScorer.scores`.
      generate: see `Generator.answers`.
      rank_unconditional: see `RankScorer.scores_apart`.
      predictions_dir: where to write `<dataset>.<split>.<template>.jsonl`; None writes nothing.

    Raises:
      UserError: for another inverted template, which the dataset's metrics do not measure, for no
        rows, or for scores that are not finite.
    """
    unconditional = UnconditionalScores(rank_unconditional)
    for example in examples:
        dataset = datasets[example.dataset]
        _check(example, dataset)
        if example.options is None:
            predictions = _generated(example, generate)
        else:
            predictions = _ranked(example, rank, unconditional)
        numbers = {
            scoring: score_predictions(example, dataset, chosen)
            for scoring, chosen in predictions.by_scoring.items()
        }
        rows: list[ResultRow] = []
        for scoring, values in numbers.items():
            rows += make_rows(example, dataset, setting, scoring, values)
        if predictions_dir is not None:
            headline = next(iter(next(iter(numbers.values())).values()))
            directory = pathlib.Path(predictions_dir)
            _write(directory, example, dataset, predictions, rows[0], headline)
        yield TemplateResult(rows, sum(predictions.truncated))


def _name(example: EvalExamples) -> str:
    return f"{example.dataset}/{example.template} ({example.split})"


def _check(example: EvalExamples, dataset: Dataset) -> None:
    """Checks that there are rows, in a template that the dataset's metrics measure.

    Raises:
      UserError: if not.
    """
    if example.kind != "forward" and not dataset.inverted_metrics:
        raise UserError(
            f"{_name(example)} is an inverted template, which is not evaluated; give forward "
            "templates only."
        )
    if not example.texts:
        raise UserError(
            f"{_name(example)} has no rows to evaluate; `flan-jax tasks check` shows why rows are "
            "dropped."
        )


def _generated(example: EvalExamples, generate: Generate) -> Predictions:
    answers = generate(example.inputs)
    texts = [text for text, _ in answers]
    return Predictions({"greedy": texts}, None, [is_truncated for _, is_truncated in answers])


def _ranked(example: EvalExamples, rank: Rank, unconditional: UnconditionalScores) -> Predictions:
    """The best options.

    Raises:
      UserError: if scores are not finite.
    """
    scores = rank(example.inputs, example.options)
    if not all(np.isfinite(row).all() for row in scores):
        raise UserError(
            f"{_name(example)}: the model gives scores that are not numbers, so no option is the "
            "best; check that its parameters are finite and its dtype is one it was made for."
        )
    by_scoring = best_options(
        scores,
        unconditional.of_rows(example.options),
        example.options,
        [text["options"] for text in example.texts],
    )
    return Predictions(by_scoring, scores, [])


def _write(
    directory: pathlib.Path,
    example: EvalExamples,
    dataset: Dataset,
    predictions: Predictions,
    row: ResultRow,
    number: Number,
) -> None:
    """Writes the predictions, and beside them what each unit of rows contributes to the number."""
    path = directory / file_name(example.dataset, example.split, example.template)
    chosen = next(iter(predictions.by_scoring.values()))
    write_predictions(path, example, predictions, row_scores(example, dataset, chosen, number))
    unit_scores.write(path.with_suffix(unit_scores.SUFFIX), row, number.measure, example.row_ids)
