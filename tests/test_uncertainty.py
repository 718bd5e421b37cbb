"""Standard errors, intervals and p-values: golden numbers, repeated draws, and where they fail.

The golden numbers are from another implementation of the same formulas, in NumPy.
"""

import json

import numpy as np
import pytest

from flan_jax.metrics import students_t
from flan_jax.metrics.intervals import t_interval, welch_satterthwaite, wilson_interval
from flan_jax.metrics.measures import Measure
from flan_jax.metrics.multiple_comparisons import holm
from flan_jax.metrics.uncertainty import (
    confidence_interval,
    error_of_both,
    over_seeds,
    paired_difference,
    standard_error,
)
from tests.support.golden import ROOT

GOLDEN = ROOT / "statistics.json"


def measures(scores, groups=None):
    """The measures of scores [R, T], one for each template."""
    scores = np.asarray(scores, float)
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    units, numbers = np.unique(groups, return_inverse=True)
    rows = np.bincount(numbers)
    parts = [np.stack([np.bincount(numbers, column), rows], axis=1) for column in scores.T]
    return [Measure("ratio", tuple(units.astype(str).tolist()), each) for each in parts]


@pytest.mark.skipif(not GOLDEN.exists(), reason="shared/golden/statistics.json is not here")
def test_numbers_equal_the_golden_ones():
    golden = json.loads(GOLDEN.read_text())
    a, b = measures(golden["a"]), measures(golden["b"])
    summary, paired, seeds = golden["summary_a"], golden["paired"], golden["seeds_ab"]
    difference, both = paired_difference(a, b), over_seeds([a, b])
    grouped = [measures(golden[name], golden["groups"]) for name in "ab"]
    seen = {
        "se_rows": (standard_error(a), summary["se_rows"]),
        "se_both": (error_of_both(a), summary["se_both"]),
        "se_grouped": (standard_error(grouped[0]), golden["summary_a_grouped_se"]),
        "difference": (difference.value, paired["diff"]),
        "paired se": (difference.stderr, paired["se"]),
        "paired se, grouped": (paired_difference(*grouped).stderr, golden["paired_grouped_se"]),
        "sign_p": (100 * difference.sign_p, paired["sign_p"]),
        "seeds": (both.value, seeds["mean"]),
        "sd_seeds": (both.sd, seeds["sd_seeds"]),
        "seeds, se_rows": (both.stderr, seeds["se_rows"]),
        "seeds, se_both": (both.stderr_both, seeds["se_both"]),
    }
    for name, (value, expected) in seen.items():
        assert value == pytest.approx(100 * expected, abs=1e-6), name


def test_errors_are_those_of_repeated_draws():
    """2,000 evaluations of fresh rows whose templates agree within a row.

    The errors are right on average; 95 % intervals hold what they claim.
    """
    generator = np.random.default_rng(5)
    easy = generator.normal(0, 2, (2000, 40, 1))
    chances = [1 / (1 + np.exp(-easy - skill)) for skill in (0.5, 0.2)]
    scores = [generator.random((2000, 40, 5)) < chance for chance in chances]
    truth = 100 * (scores[0].mean() - scores[1].mean())
    errors, differences = [], []
    for ours, theirs in zip(*scores):
        errors.append(standard_error(measures(ours)))
        differences.append(paired_difference(measures(ours), measures(theirs)))
    means = 100 * scores[0].mean(axis=(1, 2))
    assert 0.95 < np.mean(errors) / np.std(means) < 1.05
    values = [each.value for each in differences]
    assert 0.95 < np.mean([each.stderr for each in differences]) / np.std(values) < 1.05
    for name in ("interval", "bootstrap"):
        intervals = [getattr(each, name) for each in differences]
        assert 0.93 < np.mean([low < truth < high for low, high in intervals]) < 0.97, name


def test_the_error_of_both_is_that_of_fresh_rows_and_fresh_templates():
    generator = np.random.default_rng(3)
    means, squares = [], []
    for _ in range(1500):
        rows, wordings = generator.normal(0, 1, (40, 1)), generator.normal(0, 0.5, (1, 5))
        scores = rows + wordings + generator.normal(0, 1, (40, 5))
        means.append(100 * scores.mean())
        squares.append(error_of_both(measures(scores)) ** 2)
    assert 0.95 < np.sqrt(np.mean(squares)) / np.std(means) < 1.05


def test_the_error_of_both_is_at_least_that_of_rows_and_that_of_templates():
    scores = np.random.default_rng(0).random((30, 4)) < [0.2, 0.5, 0.6, 0.9]
    values = [measure.value() for measure in measures(scores)]
    both = error_of_both(measures(scores))
    assert both > standard_error(measures(scores))
    assert both >= np.std(values, ddof=1) / 2
    assert error_of_both(measures(scores[:, :1])) is None  # one template has no spread


def test_p_values_say_what_is_there():
    generator = np.random.default_rng(1)
    base = generator.random((60, 3))
    ours, theirs = measures(base < 0.7), measures(base < 0.4)  # each row is at least as good
    clear = paired_difference(ours, theirs)
    assert clear.p < 1e-6 and clear.sign_p < 2e-4 and clear.interval[0] > 0
    assert clear.bootstrap == pytest.approx(clear.interval, abs=2)
    same = paired_difference(ours, ours)
    assert (same.value, same.stderr, same.changed, same.p) == (0, 0, 0, 1)
    assert same.interval is same.sign_p is same.bootstrap is None
    # Every row gets better by as much: Student's t is not defined.
    always = paired_difference(measures(np.ones((8, 1))), measures(np.zeros((8, 1))))
    assert (always.value, always.stderr, always.interval) == (100, 0, None)
    assert always.p == pytest.approx(2 / 2**8) and always.sign_p == pytest.approx(
        2 / 2**8, abs=3e-3
    )
    one = paired_difference(measures([[1]]), measures([[0]]))
    assert (one.value, one.stderr, one.p, one.interval) == (100, None, None, None)
    # 100 rows are enough for Student's t.
    many = paired_difference(measures(np.eye(100)), measures(np.roll(np.eye(100), 1, axis=0)))
    assert many.p == pytest.approx(1) and many.sign_p is many.bootstrap is None


@pytest.mark.parametrize("statistic", ["f1", "rank_correlation"])
def test_numbers_that_are_no_means_are_computed_again(statistic):
    import flan_jax.metrics  # noqa: F401 (registers the statistics)

    generator = np.random.default_rng(0)
    parts = generator.integers(0, 2, (50, 3 if statistic == "f1" else 2)).astype(float)
    units = tuple(map(str, range(50)))
    ours = [Measure(statistic, units, parts)]
    theirs = [Measure(statistic, units, np.roll(parts, 1, axis=0))]  # other rows, equal numbers
    equal = paired_difference(ours, theirs)
    assert equal.value == pytest.approx(0) and equal.sign_p > 0.9 and equal.p > 0.9
    assert equal.bootstrap[0] < 0 < equal.bootstrap[1]
    good = [Measure(statistic, units, parts[:, [0, 0, 2]] if statistic == "f1" else parts[:, :1])]
    if statistic == "f1":
        good = [Measure(statistic, units, parts * [1, 0, 0] + [0.5, 0, 0])]
        better = paired_difference(good, theirs)
        assert better.p < 0.01 and better.sign_p < 0.01 and better.bootstrap[0] > 0


def test_a_share_of_0_or_100_percent_has_an_interval_with_a_width():
    # Wilson's interval of 10 of 10: from 10 / (10 + z^2), with z = 1.96.
    assert confidence_interval(measures(np.ones((10, 2)))) == pytest.approx((72.2467, 100))
    assert confidence_interval(measures(np.zeros((10, 2)))) == pytest.approx((0, 27.7533), abs=1e-3)
    # Newcombe 1998, table I: 81 of 263.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    some = measures(np.eye(10)[:, :2])
    low, high = confidence_interval(some)
    assert (low + high) / 2 == pytest.approx(10)
    assert high - low == pytest.approx(2 * 2.262157 * standard_error(some))
    assert confidence_interval(measures([[0.5], [0.5]])) == (50, 50)
    assert confidence_interval(measures([[0.5]])) is None


def test_seeds_are_averaged_for_each_row_and_meet_a_single_run():
    generator = np.random.default_rng(2)
    easy = generator.random((30, 1))
    runs = [measures(easy > generator.random((30, 2))) for _ in range(3)]
    base = measures(easy > generator.random((30, 2)))
    seeds = over_seeds(runs)
    every = [measure for run in runs for measure in run]
    assert seeds.seeds == 3 and seeds.stderr == standard_error(every)
    assert seeds.stderr < np.mean([standard_error(run) for run in runs])
    assert seeds.stderr <= seeds.stderr_both
    alone = over_seeds([base])
    assert (alone.sd, alone.stderr_both, alone.stderr) == (None, None, standard_error(base))
    difference = paired_difference(every, base)
    each = [paired_difference(run, base).value for run in runs]
    assert difference.value == pytest.approx(np.mean(each))
    assert paired_difference(every, [*base, *base]).stderr == pytest.approx(difference.stderr)


def test_several_comparisons_are_adjusted_by_holm():
    # The step-down example of Holm's paper, in R: p.adjust(c(.01, .04, .03, .005), "holm").
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": None}
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values) and adjusted.pop("none") is None
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_intervals_of_sums_use_satterthwaites_degrees_of_freedom():
    assert welch_satterthwaite([1.0, 1.0], [9.0, 9.0]) == pytest.approx(18)
    assert welch_satterthwaite([4.0, 0.0], [5.0, 100.0]) == pytest.approx(5)
    assert welch_satterthwaite([0.0, 0.0], [5.0, 5.0]) is None
    assert t_interval(10, 2, 1e9) == pytest.approx((6.08007, 13.91993))


@pytest.mark.parametrize("dof", [1, 1.5, 2, 3.7, 9, 47.3, 99, 100, 101, 2500.5, 1e6])
def test_students_t_is_scipys(dof):
    special = pytest.importorskip("scipy.special")
    assert students_t.quantile(dof) == pytest.approx(special.stdtrit(dof, 0.975), rel=1e-10)
    for t in (0, 1e-3, 0.5, 1.96, 5, 37):
        assert students_t.tail(dof, t) == pytest.approx(special.stdtr(dof, -t), rel=1e-9)
