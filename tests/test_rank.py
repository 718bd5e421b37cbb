"""Rank scores and greedy answers of tiny random models.

The same whatever shares a row, a batch or a width.
"""

import dataclasses
import functools
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation import batching
from flan_jax.evaluation.generator import Generator
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.models.decoder import DecoderLM
from flan_jax.models.decoding import beam, greedy, sampling
from flan_jax.models.t5 import T5
from support.processes import simulating
from support.random_models import VOCABULARY, make_model, rows, tokens


@pytest.mark.optimized
def test_rows_after_a_restart_score_what_they_would_have_scored_to_the_last_bit():
    model, params = make_model("t5")
    generator = np.random.default_rng(1)

    def text(count):
        return np.array([*generator.integers(3, 259, count - 1), 1], np.int32)

    # The width of the first rows suits the second ones, too, which would get another by themselves.
    first, second = (
        [text(n) for n in generator.integers(*lengths, 6)] for lengths in ((60, 110), (50, 100))
    )
    options = [[text(6), text(9)] for _ in first]
    undisturbed, restarted, by_itself = RankScorer(model), RankScorer(model), RankScorer(model)
    undisturbed.scores(params, first, options)
    expected = np.array(undisturbed.scores(params, second, options))
    restarted.pass_over(first, options)
    assert np.array(restarted.scores(params, second, options)).tobytes() == expected.tobytes()
    by_itself.pass_over(second, options)
    assert restarted.shapes == undisturbed.shapes and not by_itself.shapes <= undisturbed.shapes
    apart = by_itself.scores_apart(params, second[0][:2], options[0])
    assert apart.tobytes() == restarted.scores_apart(params, second[0][:2], options[0]).tobytes()
    assert restarted.shapes == undisturbed.shapes


def test_answers_after_a_restart_come_in_batches_of_the_same_shapes():
    model = make_model("t5")[0]
    first, second = ([tokens("a" * n) for n in lengths] for lengths in ((70, 120), (100, 60)))
    written = {}

    def watched(name):
        # in the place of a model, which would have to be compiled
        def generate(params, source, lengths, places):
            written.setdefault(name, []).append(source.shape)
            return jnp.zeros((len(source), 4), jnp.int32)

        generator = Generator(model, VOCABULARY, max_length=4)
        generator._generate = generate
        return generator

    undisturbed, restarted, by_itself = map(watched, ("undisturbed", "restarted", "by itself"))
    undisturbed.answers(None, first)
    undisturbed.answers(None, second)
    restarted.pass_over(first)
    restarted.answers(None, second)
    by_itself.answers(None, second)
    assert (
        written["restarted"]
        == written["undisturbed"][-len(written["restarted"]) :]
        != written["by itself"]
    )


@functools.cache
def plain(model):
    return jax.jit(lambda params, batch: jax.nn.log_softmax(model.apply({"params": params}, batch)))


def alone(model, params, source, option, bos_id=0):
    """Log-probability of one option by the plainest means.

    No packing, no padding, a batch of one.
    """
    if isinstance(model, DecoderLM):
        prompt = [*([] if bos_id is None else [bos_id]), *source]
        given = jnp.array([[*prompt, *option[:-1]]])
        places = jnp.arange(given.shape[1])[None]
        batch = {
            "decoder_positions": places,
            "decoder_causal_attention": (places < len(prompt)).astype(jnp.int32),
        }
    else:
        given = jnp.array([[bos_id, *option[:-1]]])
        batch = {
            "encoder_input_tokens": jnp.array([source]),
            "encoder_segment_ids": jnp.ones((1, len(source)), jnp.int32),
        }
    batch |= {"decoder_input_tokens": given, "decoder_segment_ids": jnp.ones_like(given)}
    log_probabilities = np.asarray(plain(model)(params, batch))[0, -len(option) :]
    return float(log_probabilities[np.arange(len(option)), option].sum())


def assert_close(scores, expected):
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=1e-6)


def test_packed_options_score_as_each_does_alone(model_and_params):
    model, params = model_and_params
    inputs, options = rows(6)
    scores = RankScorer(model, batch_tokens=1024).scores(params, inputs, options)
    for source, choices, of in zip(inputs, options, scores):
        assert of.dtype == np.float64
        assert_close(of, [alone(model, params, source, option) for option in choices])


@pytest.mark.parametrize("model_and_params", ["decoder"], indirect=True)
def test_a_decoder_reads_the_given_bos_or_none(model_and_params):
    model, params = model_and_params
    inputs, options = rows(1)
    for bos_id in (7, None):
        scores = RankScorer(model, bos_id=bos_id).scores(params, inputs, options)[0]
        assert_close(
            scores, [alone(model, params, inputs[0], option, bos_id) for option in options[0]]
        )
        answer = Generator(model, VOCABULARY, max_length=4, bos_id=bos_id).tokens(params, inputs)[0]
        prompt = np.array([[*([] if bos_id is None else [bos_id]), *inputs[0]]])
        assert (
            answer.tolist()
            == greedy.greedy(model, params, prompt, 4, lengths=np.array([prompt.size]))[0].tolist()
        )
    empty = [np.array([], np.int32)]
    assert len(RankScorer(model).scores(params, empty, options)[0]) == len(options[0])
    with pytest.raises(UserError, match="bos_id"):
        RankScorer(model, bos_id=None).scores(params, empty, options)


def test_the_decoder_of_a_t5_begins_with_its_start_id_in_scores_answers_and_beams():
    model, params = make_model("t5")
    model = T5(dataclasses.replace(model.config, decoder_start_id=7))
    inputs, options = rows(2)
    for source, choices, scores in zip(
        inputs, options, RankScorer(model).scores(params, inputs, options)
    ):
        assert_close(scores, [alone(model, params, source, option, 7) for option in choices])
    written = np.asarray(greedy.greedy(model, params, inputs[0][None], 1, eos_id=-1))[0]
    choices = [np.array([token], np.int32) for token in range(384)]
    assert written[0] == np.argmax(RankScorer(model).scores(params, inputs[:1], [choices])[0])
    beams, _ = beam.beam_search(model, params, inputs[0][None], 1, 1, eos_id=-1)
    drawn = sampling.sample(model, params, inputs[0][None], 1, 0, np.arange(1), top_k=1, eos_id=-1)
    assert beams[0, 0].tolist() == drawn[0].tolist() == written.tolist()
    with pytest.raises(UserError, match="decoder_start_id must be .* below 384, not 384"):
        dataclasses.replace(model.config, decoder_start_id=384)


def test_neither_batch_nor_width_nor_order_changes_a_score(model_and_params):
    model, params = model_and_params
    inputs, options = rows(40)
    scorer = RankScorer(model, batch_tokens=1024)
    scores = scorer.scores(params, inputs, options)
    # At most two batch sizes of each width.
    assert [len(of) for of in scores] == [len(choices) for choices in options] and len(
        scorer.shapes
    ) <= 4
    before = set(scorer.shapes)
    backwards = scorer.scores(params, inputs[::-1], options[::-1])[::-1]
    assert scorer.shapes == before
    assert_close(np.concatenate(backwards), np.concatenate(scores))
    # One row a batch, and in a wider one for the sake of an option of 100 tokens.
    assert_close(
        RankScorer(model, batch_tokens=1).scores(params, inputs[:1], options[:1])[0], scores[0]
    )
    assert_close(
        scorer.scores(params, inputs[:1], [options[0] + [tokens("x" * 99)]])[0][:-1], scores[0]
    )


def test_any_number_of_options(model_and_params):
    model, params = model_and_params
    many = [tokens(f"option {i}") for i in range(100, 180)]
    scorer = RankScorer(model, batch_tokens=1024)
    none, all_of_them, one = scorer.scores(params, [tokens("which?")] * 3, [[], many, many[:1]])
    assert (
        len(none) == 0
        and len(all_of_them) == 80
        and max(width for _, _, width in scorer.shapes) == 512
    )
    for index in (0, 50, 79):
        assert_close(all_of_them[index], alone(model, params, tokens("which?"), many[index]))
    assert_close(one, all_of_them[:1])


def test_equal_options_tie_exactly(model_and_params):
    model, params = model_and_params
    options = [[tokens("no"), tokens("yes"), tokens("no")]]
    scores = RankScorer(model, batch_tokens=1024).scores(params, [tokens("a b")], options)[0]
    assert scores[0] == scores[2] != scores[1]


def test_batches_cover_every_row_once_within_their_tokens():
    generator = np.random.default_rng(0)
    sources, targets = generator.integers(1, 1100, 500), generator.integers(1, 300, 500)
    seen = []
    for batch in batching.batches(sources, targets, batch_tokens=4096, multiple=4):
        assert batch.size % 4 == 0 and len(batch.rows) <= batch.size
        assert batch.size == 4 or batch.size * (batch.source_width + batch.target_width) <= 4 * 4096
        assert (sources[batch.rows] <= batch.source_width).all() and (
            targets[batch.rows] <= batch.target_width
        ).all()
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(500))
    ladder = sorted({batching.source_width(n) for n in range(1, 1025)})
    assert ladder == [*range(32, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)]


def test_batches_are_narrow_and_their_widths_are_used_again():
    generator = np.random.default_rng(0)
    sources, targets = generator.lognormal(4.7, 0.4, 1000).astype(int) + 1, [64] * 1000
    batches = list(batching.batches(sources, targets, batch_tokens=4096, multiple=1))
    shapes = {batch[1:] for batch in batches}
    assert len(shapes) <= 10 and max(batch.source_width for batch in batches) - sources.max() < 64
    assert sources.sum() / sum(batch.size * batch.source_width for batch in batches) > 0.83
    widths = {width for _, width, _ in shapes}
    again = batching.batches(
        sources[::3], targets[::3], batch_tokens=4096, multiple=1, known=widths
    )
    assert {batch.source_width for batch in again} <= widths


def test_greedy_answers_do_not_depend_on_the_batch(model_and_params):
    model, params = model_and_params
    inputs, _ = rows(9)
    generator = Generator(model, VOCABULARY, max_length=7)
    together = generator.tokens(params, inputs)
    given = batching.prompts(model, inputs, 0)
    widest = max(map(len, given))
    for row in (0, 4, 8):
        one = batching.padded([given[row]], 1, widest)
        expected = greedy.greedy(
            model, params, one, max_length=7, lengths=np.array([len(given[row])])
        )[0]
        assert together[row].tolist() == expected.tolist()
    assert generator.texts(params, inputs) == [VOCABULARY.decode(ids) for ids in together]
    assert len(generator.shapes) <= 4


def test_packed_rows_hold_every_row_once_with_little_padding():
    generator = np.random.default_rng(0)
    sizes = (
        np.stack(
            [generator.lognormal(4.7, 0.4, 1000), generator.lognormal(3, 0.3, 1000)], axis=1
        ).astype(int)
        + 1
    )
    computed, seen, shapes = 0, [], set()
    for batch in batching.packed_batches(sizes, batch_tokens=8192, multiple=4):
        assert batch.size % 4 == 0 and len(batch.rows) <= batch.size
        assert batch.size == 4 or batch.size * sum(batch[2:]) <= 4 * 8192
        assert all((sizes[row].sum(axis=0) <= batch[2:]).all() for row in batch.rows)
        seen += sum(batch.rows, [])
        computed += batch.size * sum(batch[2:])
        shapes.add(batch[1:])
    assert sorted(seen) == list(range(1000)) and len(shapes) <= 6
    assert sizes.sum() > 0.9 * computed
    # For a few rows, what is compiled already will do.
    known = {shape[1:] for shape in shapes}
    assert {batch[2:] for batch in batching.packed_batches(sizes[:5], 8192, 4, known)} <= known


@pytest.mark.parametrize("longest", [60, 400, 5_000])
def test_one_row_of_any_length_among_short_ones_is_packed(longest):
    sizes = np.array([[10, 3]] * 59 + [[longest, 3]])
    packed = [row for batch in batching.packed_batches(sizes, 8192, 1) for row in batch.rows]
    assert sorted(number for row in packed for number in row) == list(range(60))


def test_option_scores_say_what_greedy_decoding_would_write(model_and_params):
    model, params = model_and_params
    inputs, _ = rows(1)
    likeliest = Generator(model, VOCABULARY, max_length=5).tokens(params, inputs)[0]
    likeliest = likeliest[: np.argmax(likeliest == 1) + 1] if 1 in likeliest else likeliest
    other = np.append(likeliest[:-1], likeliest[-1] + 1).astype(np.int32)
    options = [[likeliest, other, likeliest[:1]]]
    scores = RankScorer(model).option_scores(params, inputs, options)[0]
    assert scores.is_greedy.tolist() == [True, False, True] and scores.sums[0] > scores.sums[1]


_OF_TWO = """
import sys
import jax
import numpy as np

sys.path.insert(0, "tests")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from support import random_models
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.parallel import partitioning
from support.processes import simulating

model, params = random_models.make_model("t5")
scores = RankScorer(model, partitioning.make_mesh({"data": -1}), 1024).scores(
    params, *random_models.rows(7)
)
print("scores", *np.concatenate(scores).tolist())
"""


def test_two_processes_score_as_one():
    model, params = make_model("t5")
    expected = np.concatenate(RankScorer(model).scores(params, *rows(7)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OF_TWO, address, str(i)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=simulating(1),
        )
        for i in (0, 1)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert_close([float(score) for score in output.split("scores", 1)[1].split()], expected)


@pytest.mark.devices
def test_a_mesh_changes_no_score(model_and_params):
    from flan_jax.parallel import partitioning

    model, params = model_and_params
    inputs, options = rows(7)
    mesh = partitioning.make_mesh({"data": -1})
    one, split = (RankScorer(model, mesh=m).scores(params, inputs, options) for m in (None, mesh))
    assert_close(np.concatenate(split), np.concatenate(one))
    texts = [
        Generator(model, VOCABULARY, mesh=m, max_length=5).texts(params, inputs)
        for m in (None, mesh)
    ]
    assert texts[0] == texts[1]


@pytest.mark.devices
def test_parameters_have_the_same_digest_on_a_mesh(model_and_params):
    from flan_jax.evaluation.digests import parameters_digest
    from flan_jax.parallel import partitioning

    _, params = model_and_params
    mesh = partitioning.make_mesh({"fsdp": -1})

    def spread(leaf):
        spec = [None if size % len(jax.devices()) else "fsdp" for size in leaf.shape[:1]]
        return jax.device_put(
            leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        )

    assert parameters_digest(jax.tree.map(spread, params)) == parameters_digest(params)
    changed = jax.tree.map(lambda leaf: leaf * (1 + 1e-6), params)
    assert parameters_digest(changed) != parameters_digest(params)
