"""Batches made all at once are those that the plain way makes, one example after the other.

And their counts.
"""

import collections

import numpy as np
import pytest

from flan_jax.data.batches import Batches
from flan_jax.data.layout import make_layout
from flan_jax.data.packing import Member, Plan
from flan_jax.data.shards import open_train_shard, train_shard

SOURCE, TARGET, BOS = 40, 24, 7


def plainly(architecture: str, rows) -> dict[str, np.ndarray]:
    """The features of rows of (inputs, targets), example by example."""
    layout = make_layout(architecture, SOURCE, TARGET, BOS)
    batch = {name: np.zeros(shape, np.int32) for name, shape in layout.shapes(len(rows)).items()}
    for number, examples in enumerate(rows):
        row = {name: array[number] for name, array in batch.items()}
        source = target = 0
        for segment, (inputs, targets) in enumerate(examples, 1):
            prefix, tokens = (
                (inputs, [*inputs, *targets]) if architecture == "decoder" else ([], targets)
            )
            for position, token in enumerate(tokens):
                at = target + position
                row["decoder_target_tokens"][at] = token
                row["decoder_input_tokens"][at] = tokens[position - 1] if position else BOS
                row["decoder_segment_ids"][at], row["decoder_positions"][at] = segment, position
                row["decoder_loss_weights"][at] = position >= len(prefix)
                if architecture == "decoder":
                    row["decoder_causal_attention"][at] = position <= len(prefix)
            target += len(tokens)
            if architecture == "t5":
                for position, token in enumerate(inputs):
                    row["encoder_input_tokens"][source + position] = token
                    row["encoder_segment_ids"][source + position] = segment
                    row["encoder_positions"][source + position] = position
                source += len(inputs)
    return batch


def assert_same(batch, expected) -> None:
    assert batch.keys() == expected.keys()
    for name, array in expected.items():
        assert batch[name].dtype == np.int32 and batch[name].shape == array.shape, name
        assert (batch[name] == array).all(), name


def random_examples(lengths, most: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(len(lengths))
    return [tuple(rng.integers(1, most, n) for n in pair) for pair in lengths]


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
@pytest.mark.parametrize(
    "rows",
    [
        [[(5, 3), (9, 1), (1, 7)], [(30, 20)]],
        [[], [(40, 24)], [(20, 12), (20, 12)], []],  # empty rows and full ones
        [
            [(0, 2), (3, 1)],
            [(4, 0), (0, 0), (2, 2)],
            [(3, 0)],
        ],  # examples without inputs or targets
        [[(1, 1)] * 24],
        [[], []],
    ],
    ids=["ragged", "empty and full", "one-sided", "many", "nothing"],
)
def test_a_layout_lays_rows_as_the_plain_way_does(architecture, rows):
    rows = [random_examples(lengths, 32_000) for lengths in rows]
    flat = [example for row in rows for example in row]
    layout = make_layout(architecture, SOURCE, TARGET, BOS)
    batch = layout.batch(
        [inputs for inputs, _ in flat], [targets for _, targets in flat], [len(row) for row in rows]
    )
    assert_same(batch, plainly(architecture, rows))


def made(architecture: str) -> tuple[Batches, list]:
    """Batches of 4 rows from a plan of 14, and the examples of each row.

    The rows are of two epochs and two datasets, one with ids beyond 16 bits.
    """
    rng, shards = np.random.default_rng(0), {}
    for name, most in (("small", 500), ("large", 100_000)):
        for epoch in range(2):
            examples = random_examples(rng.integers(1, 12, (30 + epoch, 2)).tolist(), most)
            shard = train_shard(
                f"{name}-{epoch}", *map(list, zip(*examples)), collections.Counter(), {}
            )
            shards[name, epoch] = open_train_shard(shard), examples
    counts = rng.integers(0, 3, 14)
    columns = [rng.integers(0, high, counts.sum()) for high in (2, 2, 30)]
    plan = Plan(
        np.concatenate([[0], np.cumsum(counts)]),
        *(c.astype(np.int32) for c in columns),
        np.ones((2, 2)),
    )
    members = [Member("small", 30, 1.0), Member("large", 30, 1.0)]
    rows = [[shards[members[m].name, e][1][i] for m, e, i in plan.row(r)] for r in range(len(plan))]
    layout = make_layout(architecture, SOURCE, TARGET, BOS)
    return Batches(plan, members, lambda name, epoch: shards[name, epoch][0], layout, 4), rows


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_every_batch_and_every_share_of_it_holds_the_planned_examples(architecture):
    batches, rows = made(architecture)
    assert len(batches) == 4
    for step in range(4):
        planned = (rows + [[], []])[
            4 * step : 4 * step + 4
        ]  # the last batch ends in rows of padding
        assert_same(batches.at(step), plainly(architecture, planned))
        for begin, end in ((0, 2), (2, 4), (1, 3), (3, 4)):
            assert_same(batches.at(step, begin, end), plainly(architecture, planned[begin:end]))
        assert batches.tokens_at(step) == sum(
            len(side) for row in planned for pair in row for side in pair
        )
    with pytest.raises(IndexError, match="the plan holds steps 0 to 3, not 4"):
        batches.at(4)


def test_a_plan_names_its_shards_and_a_batch_its_datasets():
    batches, _ = made("t5")
    plan = batches.plan
    assert plan.epochs() == sorted({(m, e) for r in range(len(plan)) for m, e, _ in plan.row(r)})
    for step in range(4):
        rows = range(4 * step, min(4 * step + 4, len(batches.plan)))
        expected = {
            ("small", "large")[member] for row in rows for member, _, _ in batches.plan.row(row)
        }
        assert batches.datasets_at(step) == sorted(expected)
