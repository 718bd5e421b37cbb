"""The metrics by name, and what callers do with a name."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

from flan_jax import __version__
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest
from flan_jax.metrics.numbers import Number
from flan_jax.metrics.targets import Prediction, Target

Compute = Callable[[Sequence[Target], Sequence[Prediction]], dict[str, Number]]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric and what it requires.

    Attributes:
      compute: from targets and predictions to numbers; the first key is the one that tables show.
      needs_classes: whether it counts classes, which free text does not have.
      needs_two_classes: whether it is defined for two classes only.
      key: the first key of its numbers.
      signature: returns what to quote beside a number that a library computes; None for a metric
        that is computed here.
    """

    compute: Compute
    needs_classes: bool = False
    needs_two_classes: bool = False
    key: str = ""
    signature: Callable[[], str] | None = None


METRICS: dict[str, Metric] = {}


def metric(
    needs_classes: bool = False,
    needs_two_classes: bool = False,
    key: str = "",
    signature: Callable[[], str] | None = None,
) -> Callable[[Compute], Compute]:
    """Returns a decorator that registers a function as a metric under its name; see `Metric`."""

    def register(compute: Compute) -> Compute:
        METRICS[compute.__name__] = Metric(
            compute=compute,
            needs_classes=needs_classes or needs_two_classes,
            needs_two_classes=needs_two_classes,
            key=key or compute.__name__,
            signature=signature,
        )
        return compute

    return register


def score(
    name: str, targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """Returns the numbers of a metric; the first key is the one that tables show.

    Raises:
      UserError: if no metric has that name, or there is not one prediction for each of at least
        one target.
    """
    _check_known(name)
    if not targets or len(targets) != len(predictions):
        raise UserError(
            f"metric {name!r} got {len(predictions)} predictions for {len(targets)} targets; "
            "give one for each of at least one row."
        )
    return METRICS[name].compute(targets, predictions)


def score_all(
    names: Sequence[str], targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """Returns the numbers of several metrics; the first key is the one that tables show.

    A key that two of the metrics have ('f1' of `squad` and of `trivia_qa`) has the metric's name
    before it in both: 'squad_f1', 'trivia_qa_f1'.

    Raises:
      UserError: as `score` does.
    """
    numbers = [
        (name, key, number)
        for name in dict.fromkeys(names)
        for key, number in score(name, targets, predictions).items()
    ]
    count = collections.Counter(key for _, key, _ in numbers)
    return {key if count[key] == 1 else f"{name}_{key}": number for name, key, number in numbers}


def check_metric(name: str, options: Sequence[str] | str | None) -> None:
    """Checks that a metric can measure a dataset with these `Dataset.options`.

    Raises:
      UserError: if no metric has that name, or the dataset does not have the classes it needs.
    """
    _check_known(name)
    metric = METRICS[name]
    if metric.needs_classes and options is None:
        raise UserError(
            f"metric {name!r} counts classes, and free text has none; 'accuracy' is the share of "
            "right answers, 'squad' and 'rouge' compare words."
        )
    if metric.needs_two_classes and isinstance(options, tuple) and len(options) != 2:
        raise UserError(
            f"metric {name!r} is defined for two classes, and there are {len(options)} options; "
            "'macro_f1' is for any number."
        )


def _check_known(name: str) -> None:
    if name not in METRICS:
        hint = did_you_mean(nearest(name, METRICS))
        raise UserError(f"unknown metric {name!r}{hint} The metrics are {', '.join(METRICS)}.")


def signature(name: str) -> str:
    """Returns what to quote beside a published number: the library and settings, or the formula."""
    metric = METRICS[name]
    if metric.signature is not None:
        return metric.signature()
    summary = metric.compute.__doc__.partition("\n")[0]
    return f"flan_jax {__version__} {name}: {summary}"


def metric_of_key(key: str) -> str | None:
    """Returns the metric that a library computes and whose first number has this key, if any."""
    names = [name for name, metric in METRICS.items() if metric.signature and metric.key == key]
    return names[0] if names else None
