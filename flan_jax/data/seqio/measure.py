"""The postprocessor and the metrics of the SeqIO tasks."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_jax import metrics


def gold_or_text(decoded: str, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """Returns what `metrics` compares with, plus 'row' and 'option', for a target; else the text.

    Args:
      decoded: the text that the model wrote, or the target as text.
      example: an example of the task.
      is_target: whether `decoded` is the target.
    """
    if not is_target:
        return decoded
    return json.loads(example["gold"]) | {
        "row": int(example["row"]),
        "option": int(example["option"]),
    }


def text_metrics(
    targets: Sequence[Any], predictions: Sequence[Any], *, names: Sequence[str] = ()
) -> dict[str, float]:
    """Returns metrics of what a model wrote; with options, a text counts as the option it equals.

    Args:
      targets: what `gold_or_text` returned for the targets.
      predictions: what it returned for the predictions.
      names: names of metrics.
    """
    return _all_metrics(names, targets, list(predictions))


def rank_metrics(
    targets: Sequence[Any], scores: Sequence[float], *, names: Sequence[str] = ()
) -> dict[str, float]:
    """Returns metrics of rank classification (section 2.3 of the paper).

    The prediction is the option with the highest score, the first one in a tie. A row without all
    of its options (the evaluation was limited to some number of examples) is not counted.

    Args:
      targets: what `gold_or_text` returned for the targets, one for each option of each row.
      scores: the log-likelihood of each.
      names: names of metrics.
    """
    golds: dict[int, dict[str, Any]] = {}
    scores_by_row: dict[int, dict[int, float]] = collections.defaultdict(dict)
    for gold, score in zip(targets, scores):
        golds[gold["row"]] = gold
        scores_by_row[gold["row"]][gold["option"]] = float(score)
    whole = [row for row, gold in golds.items() if len(scores_by_row[row]) == len(gold["options"])]
    chosen = [_best_option(scores_by_row[row]) for row in whole]
    return _all_metrics(names, [golds[row] for row in whole], chosen)


def _best_option(scores: Mapping[int, float]) -> int:
    return int(np.argmax([scores[option] for option in sorted(scores)]))


def _all_metrics(
    names: Sequence[str], targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
    measured = metrics.score_all(names, targets, predictions)
    return {name: float(value) for name, value in measured.items()}
