"""Metrics that count classes: F1 and Matthews' correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flan_jax.metrics.measures import statistic
from flan_jax.metrics.numbers import Number, mean_over_groups, paired, summed
from flan_jax.metrics.registry import metric
from flan_jax.metrics.targets import Prediction, Target, groups, labels_and_guesses


@metric(needs_two_classes=True)
def f1(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """F1 of the class with label 1, of two; a text that is neither option is wrong."""
    counts = _positive_counts(*_binary_labels(targets, predictions))
    return {"f1": summed("f1", counts, targets)}


@metric(needs_classes=True)
def macro_f1(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Mean of the F1 of each class, without classes that are neither a target nor predicted."""
    labels, guesses = labels_and_guesses(targets, predictions)
    classes = range(max(len(target["options"]) for target in targets))
    counts = [_positive_counts(labels, guesses, positive) for positive in classes]
    return {"macro_f1": summed("macro_f1", np.concatenate(counts, axis=1), targets)}


@metric(needs_two_classes=True)
def matthews(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Matthews' correlation of two classes, times 100.

    It is 0 where predictions or targets are of one class, unless all predictions are right.
    """
    labels, guesses = _binary_labels(targets, predictions)
    return {"matthews": paired("correlation", labels == 1, guesses == 1)}


@metric(needs_two_classes=True)
def multirc(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'f1a': F1 of the answers marked true; 'em': share of questions with all answers judged right.

    Rows of one 'group' are the answers of one question; the standard errors resample questions.
    Khashabi et al. 2018, "Looking Beyond the Surface", section 4.
    """
    labels, guesses = _binary_labels(targets, predictions)
    counts = _positive_counts(labels, guesses)
    all_right = [bool((labels[rows] == guesses[rows]).all()) for rows in groups(targets)]
    return {"f1a": summed("f1", counts, targets), "em": mean_over_groups(all_right, targets)}


def _binary_labels(
    targets: Sequence[Target], predictions: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of two, int64 [rows] each.

    A text that is no option counts as the wrong one; otherwise it would be a right "no".
    """
    labels, guesses = labels_and_guesses(targets, predictions)
    return labels, np.where(guesses < 0, 1 - labels, guesses)


def _positive_counts(labels: np.ndarray, guesses: np.ndarray, positive: int = 1) -> np.ndarray:
    """Whether each row is a true positive, false positive, false negative: int64 [rows, 3]."""
    is_label, is_guess = labels == positive, guesses == positive
    columns = [is_label & is_guess, ~is_label & is_guess, is_label & ~is_guess]
    return np.stack(columns, axis=1).astype(np.int64)


@statistic("f1")
def f1_of_counts(parts: np.ndarray) -> float:
    """Returns F1 of summed (true positives, false positives, false negatives) [G, 3].

    It is 1 where all three are 0.
    """
    hits, false_hits, misses = parts.sum(axis=0)
    return float(2 * hits / (2 * hits + false_hits + misses)) if hits + false_hits + misses else 1.0


@statistic("macro_f1")
def macro_f1_of_counts(parts: np.ndarray) -> float:
    """Returns the mean F1 over the classes that occur; three columns for each class [G, 3 k]."""
    counts = parts.reshape(len(parts), -1, 3).sum(axis=0)
    return float(np.mean([f1_of_counts(row[None]) for row in counts if row.any()]))
