"""Metrics by name: from targets and predictions to numbers with their standard errors.

To add a metric, write a function with the decorator `@metric()` in the module of its kind; its
name is the metric's. It returns a dict whose first key is the number that tables show. Every
number is in percent, and perfect predictions score 100 (except 'pearson_value' and
'spearman_value', which compare rounded answers with unrounded values). `targets` says what a
target and a prediction are, `uncertainty` how standard errors are computed, and `measures` from
what.
"""

# Importing a module of metrics registers them.
from flan_jax.metrics import classes, right_or_wrong, scales, short_answers, texts
from flan_jax.metrics.registry import (
    METRICS,
    check_metric,
    metric_of_key,
    score,
    score_all,
    signature,
)

__all__ = [
    "METRICS",
    "check_metric",
    "classes",
    "metric_of_key",
    "right_or_wrong",
    "scales",
    "score",
    "score_all",
    "short_answers",
    "signature",
    "texts",
]
