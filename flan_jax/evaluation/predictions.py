"""The predictions behind numbers, on disk: one JSON line a row."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flan_jax.metrics.targets import Prediction, references
from flan_jax.storage.files import readable, write_file

if TYPE_CHECKING:
    from flan_jax.data.shards import EvalExamples


class Predictions(NamedTuple):
    """What a model predicts for the rows of a dataset in a template.

    Attributes:
      by_scoring: for each scoring, the first of which tables show, a prediction for each row.
      scores: log-probabilities [O] of each row's options; None for generated text.
      truncated: whether each generated text was truncated; empty for ranked options.
    """

    by_scoring: Mapping[str, Sequence[Prediction]]
    scores: Sequence[np.ndarray] | None
    truncated: Sequence[bool]


def file_name(dataset: str, split: str, template: str) -> str:
    """Returns the file name of the predictions on a split of a dataset in a template."""
    return f"{dataset}.{split}.{template}.jsonl"


def write_predictions(
    path: pathlib.Path,
    examples: EvalExamples,
    predictions: Predictions,
    row_scores: Sequence[float],
) -> None:
    """Writes predictions, whole or not at all.

    Args:
      path: of the file; see `file_name`.
      examples: the rows in a template.
      predictions: on these rows.
      row_scores: in percent; see `scored_rows.row_scores`.

    Raises:
      UserError: if the file cannot be written.
    """
    lines = [
        json.dumps(line, ensure_ascii=False) for line in _lines(examples, predictions, row_scores)
    ]
    write_file(path, "".join(line + "\n" for line in lines))


def read_predictions(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of predictions.

    Each has 'row', 'prompt', 'prediction' and 'answer'; 'options' and 'scores' where options were
    ranked. Files of version 0.1.0 lack 'score', 'references' and 'group'.

    Raises:
      UserError: if it is damaged.
    """
    lines = []
    with readable(path, "delete it: reports then go without these rows"):
        for text in path.read_text(encoding="utf-8").split("\n"):
            if text:
                line = json.loads(text)
                _check(line)
                lines.append(line)
    return lines


def _check(line: dict[str, Any]) -> None:
    """Raises a ValueError, KeyError or TypeError for a damaged line."""
    texts = [line[name] for name in ("row", "prompt", "prediction", "answer")]
    texts += [*line.get("options", ()), *line.get("references", ())]
    numbers = [*line.get("scores", ()), line.get("score", 0)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text of a row is another type")
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("a score is not a number")
    if "options" in line:
        if len(line["options"]) != len(line["scores"]):
            raise ValueError("a row does not have one score for each option")
        line["options"].index(line["prediction"])


def _lines(
    examples: EvalExamples, predictions: Predictions, row_scores: Sequence[float]
) -> Iterator[dict[str, Any]]:
    chosen = next(iter(predictions.by_scoring.values()))
    for index, (row_id, text) in enumerate(zip(examples.row_ids, examples.texts)):
        line = {"row": row_id, "prompt": text["inputs"]}
        if predictions.scores is None:
            if predictions.truncated[index]:
                line["cut"] = True
            line |= {"prediction": chosen[index]}
        else:
            line |= {
                "options": text["options"],
                "scores": [round(float(score), 6) for score in predictions.scores[index]],
                "prediction": text["options"][chosen[index]],
            }
        line |= {"answer": text["answer"], "score": round(row_scores[index], 4)}
        right = references(text)
        if len(right) > 1:
            line["references"] = right
        if text.get("group") is not None:
            line["group"] = text["group"]
        yield line
