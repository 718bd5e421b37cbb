"""Metrics of answers that are right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

from flan_jax.metrics.numbers import Number, mean
from flan_jax.metrics.registry import metric
from flan_jax.metrics.targets import (
    Prediction,
    Target,
    folded,
    option_index,
    references,
    text_of,
)


@metric()
def accuracy(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Share of right options, or of right texts where there are no options.

    Of two options with equal text either is right.
    """
    right = [_is_right(t, p) for t, p in zip(targets, predictions)]
    return {"accuracy": mean(right, targets)}


@metric()
def exact_match(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Share of predictions equal to one of the references up to white space."""
    right = [_equals_a_reference(t, p) for t, p in zip(targets, predictions)]
    return {"exact_match": mean(right, targets)}


def _is_right(target: Target, prediction: Prediction) -> bool:
    if not target.get("options"):
        return _equals_a_reference(target, prediction)
    options, index = target["options"], option_index(target, prediction)
    return index >= 0 and folded(options[index]) == folded(options[target["label"]])


def _equals_a_reference(target: Target, prediction: Prediction) -> bool:
    return folded(text_of(target, prediction)) in map(folded, references(target))
