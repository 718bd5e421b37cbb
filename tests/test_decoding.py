"""Drawing and beam search.

What T5X found, what no batch or padding changes, and the settings that are refused.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation import batching
from flan_jax.evaluation.generator import Generator
from flan_jax.models import cpu, stacking
from flan_jax.models.decoder import DecoderLM
from flan_jax.models.decoding import beam, sampling
from flan_jax.models.decoding import greedy as decoding
from flan_jax.models.decoding.decoding_start import DecodingStart
from flan_jax.models.decoding.method import Decoding
from flan_jax.models.t5 import T5
from support.golden import T5_V512, config, needs_golden, read_t5x
from support.random_models import VOCABULARY, rows

SAMPLE = Decoding("sample", temperature=1.3, top_k=50, top_p=0.95, seed=3)
BEAM = Decoding("beam", beams=3, length_penalty=2.0)


@pytest.fixture(scope="module")
def golden_t5():
    """T5X's model and prompts with what it decoded."""
    params = stacking.stack(read_t5x(T5_V512 / "legacy/checkpoint_3")[1])
    return T5(config()), params, np.load(T5_V512 / "golden.npz")


@needs_golden
def test_beam_search_gives_t5x_tokens_and_scores(golden_t5):
    model, params, numbers = golden_t5
    # No hypothesis ends here, and then T5X gives log-probabilities without its penalty, the best
    # last.
    written, scores = beam.beam_search(
        model, params, numbers["greedy_batch/encoder_input_tokens"], 16, 4, 0.0
    )
    np.testing.assert_array_equal(written, numbers["beam4/tokens"][:, ::-1])
    np.testing.assert_allclose(scores, numbers["beam4/scores"][:, ::-1], atol=1e-4)


@needs_golden
def test_one_beam_and_draws_from_one_token_are_greedy(golden_t5):
    model, params, numbers = golden_t5
    prompts, expected = numbers["greedy_batch/encoder_input_tokens"], numbers["greedy/tokens"]
    written, scores = beam.beam_search(model, params, prompts, 16, 1, 0.0)
    np.testing.assert_array_equal(written[:, 0], expected)
    np.testing.assert_allclose(scores[:, 0], numbers["greedy/scores"], atol=1e-4)
    expected = numbers["greedy_temperature_sample/tokens"]
    for one in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}):
        np.testing.assert_array_equal(
            sampling.sample(model, params, prompts, 16, 5, np.arange(4), **one), expected
        )


def log_probabilities(model, params, prompt, answers) -> np.ndarray:
    """Returns [M, n, V], what may stand at each place of answers [M, n], by the plainest means."""
    answers = np.asarray(answers, np.int32)
    prompts = np.tile(prompt, (len(answers), 1))
    if isinstance(model, DecoderLM):
        row = np.concatenate([prompts, answers], axis=1)
        places = np.tile(np.arange(row.shape[1]), (len(row), 1))
        batch = {
            "decoder_input_tokens": row,
            "decoder_segment_ids": np.ones_like(row),
            "decoder_positions": places,
            "decoder_causal_attention": (places < len(prompt)).astype(np.int32),
        }
        logits = jax.jit(model.apply)({"params": params}, batch)[:, len(prompt) - 1 : -1]
    else:
        target = np.pad(answers[:, :-1], ((0, 0), (1, 0)))
        logits = jax.jit(model.apply)(
            {"params": params},
            {
                "encoder_input_tokens": prompts,
                "encoder_segment_ids": np.ones_like(prompts),
                "decoder_input_tokens": target,
                "decoder_segment_ids": np.ones_like(target),
            },
        )
    return np.asarray(jax.nn.log_softmax(logits))


def test_the_scores_of_beams_are_those_of_their_tokens(model_and_params):
    model, params = model_and_params
    inputs, _ = rows(3)
    given = batching.prompts(model, inputs, 0)
    tokens, lengths = batching.padded(given, 4, 64), batching.lengths(given, 4)
    eos_id = int(decoding.greedy(model, params, tokens, 6, eos_id=-1, lengths=lengths)[0, 2])
    written, scores = map(
        np.asarray, beam.beam_search(model, params, tokens, 6, 3, 0.6, eos_id, lengths)
    )
    assert (np.diff(scores[:3]) <= 0).all() and not written[3].any(), (
        "best first, and nothing for padding"
    )
    seen_end = False
    each = [
        log_probabilities(model, params, prompt, answers) for prompt, answers in zip(given, written)
    ]
    for row, place in itertools.product(range(3), range(3)):
        answer = written[row, place].tolist()
        if eos_id in answer:
            seen_end, end = True, answer.index(eos_id) + 1
            assert not any(answer[end:])
            answer = answer[:end]
        expected = each[row][place, np.arange(len(answer)), answer].sum() / len(answer) ** 0.6
        assert scores[row, place] == pytest.approx(expected, abs=1e-4)
    assert seen_end
    greedy, _ = beam.beam_search(model, params, tokens, 6, 1, 0.6, eos_id, lengths)
    np.testing.assert_array_equal(
        greedy[:, 0], decoding.greedy(model, params, tokens, 6, eos_id, lengths)
    )


def test_any_of_several_ends_is_the_end(model_and_params):
    model, params = model_and_params
    given = batching.prompts(model, rows(4)[0], 0)
    tokens, lengths = batching.padded(given, 4, 64), batching.lengths(given, 4)
    free = np.asarray(decoding.greedy(model, params, tokens, 8, eos_id=-1, lengths=lengths))
    ends = (1, int(free[0, 3]), int(free[1, 5]))
    whole = [
        next((i + 1 for i, token in enumerate(row) if token in ends), 8) for row in free.tolist()
    ]
    assert min(whole) < 8
    expected = np.where(np.arange(8) < np.array(whole)[:, None], free, 0)
    written = decoding.greedy(model, params, tokens, 8, ends, lengths)
    np.testing.assert_array_equal(written, expected)
    drawn = sampling.sample(
        model, params, tokens, 8, 0, np.arange(4), top_k=1, eos_id=ends, lengths=lengths
    )
    np.testing.assert_array_equal(drawn, expected)
    found, _ = beam.beam_search(model, params, tokens, 8, 1, 0.0, ends, lengths)
    np.testing.assert_array_equal(found[:, 0], expected)
    vocabulary = ByteVocabulary()
    vocabulary.eos_ids = ends
    answers = Generator(model, vocabulary, max_length=8).answers(params, rows(4)[0])
    assert [is_cut for _, is_cut in answers] == [not set(row) & set(ends) for row in free.tolist()]


@pytest.mark.parametrize("ends", [3, (3,), (3, 4)])
def test_as_many_hypotheses_go_on_as_there_are_beams_however_many_ends_are_likely(ends):
    nothing, scores = jnp.zeros((1, 2, 4), jnp.int32), jnp.array([[0.0, -0.1]])
    state = beam._State(
        jnp.int32(0),
        jnp.zeros(2, jnp.int32),
        nothing,
        scores,
        nothing,
        jnp.full((1, 2), -1e9),
        jnp.zeros((1, 2), bool),
        jnp.ones(1, bool),
        {"own": {}},
    )
    logits = jnp.log(jnp.array([[0.2, 0.1, 0.0, 0.4, 0.3]] * 2))
    start = DecodingStart(lambda *_: None, None, {}, answer_name="own", answer_slot=0)
    state = beam._extend(state, logits, 1.0, ends, start)
    np.testing.assert_allclose(np.exp(state.done_scores[0]), 0.4 * np.exp([0, -0.1]), rtol=1e-5)
    goes_on = 0.3 if ends != (3, 4) else 0.2
    np.testing.assert_allclose(np.exp(state.live_scores[0]), goes_on * np.exp([0, -0.1]), rtol=1e-5)


def test_beams_wide_enough_find_the_best_answer_of_all(model_and_params):
    model, params = model_and_params
    prompt = batching.prompts(model, rows(1)[0], 0)[0]
    written, scores = beam.beam_search(
        model, params, prompt[None], 2, 384, 0.0, -1, np.array([len(prompt)])
    )
    each = log_probabilities(model, params, prompt, [[first, 0] for first in range(384)])
    of_all = each[0, 0][:, None] + each[:, 1]  # every answer of two tokens
    assert float(scores[0, 0]) == pytest.approx(of_all.max(), abs=1e-4)
    assert tuple(written[0, 0].tolist()) == np.unravel_index(of_all.argmax(), of_all.shape)


def answers(model, params):
    """What greedy decoding writes, and what beam search does and scores.

    Not jitted as they are, which would remember: each call traces them anew.
    """
    given = batching.prompts(model, rows(3)[0], 0)
    tokens, lengths = batching.padded(given, 4, 64), batching.lengths(given, 4)

    @jax.jit
    def both(params):
        greedy = decoding.greedy.__wrapped__(model, params, tokens, 6, -1, lengths)
        return greedy, *beam.beam_search.__wrapped__(model, params, tokens, 6, 3, 0.6, -1, lengths)

    return both(params)


def assert_same(found, expected) -> None:
    for one, other in zip(found[:2], expected[:2]):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-4)


def counted(monkeypatch, module, name: str) -> list:
    """A list that grows with every call of the module's function."""
    calls, function = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: calls.append(given) or function(*given))
    return calls


def test_layers_unstacked_or_scanned_give_the_same_answers(model_and_params, monkeypatch):
    calls = counted(monkeypatch, cpu, "unstack_layers")
    unstacked = answers(*model_and_params)
    assert len(calls) == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_same(unstacked, answers(*model_and_params))
    assert len(calls) == 2


@pytest.mark.parametrize("tied", [False, True])
def test_transposed_kernels_give_the_same_answers(model_and_params, monkeypatch, tied):
    model, params = model_and_params
    if tied:
        model = type(model)(dataclasses.replace(model.config, logits_via_embedding=True))
    products = counted(monkeypatch, cpu, "transposed_product")
    usual = answers(model, params)
    assert not products  # these kernels are too small for it
    monkeypatch.setattr(cpu, "_LEAST_TRANSPOSED", 8)
    transposed = answers(model, params)
    # In a layer of T5 all but what makes the keys and values of the input, which a step does not
    # read.
    in_a_layer = 9 if "encoder" in params else 7
    assert len(products) == 2 * (in_a_layer * 2 + 1)
    assert_same(transposed, usual)
    monkeypatch.setattr(cpu, "FEW_ROWS", 3)
    products.clear()
    answers(model, params)
    assert not products


@pytest.mark.parametrize("method", [SAMPLE, BEAM], ids=lambda method: method.method)
def test_answers_depend_on_neither_batch_nor_padding_nor_cut(model_and_params, method):
    model, params = model_and_params
    inputs, _ = rows(9)
    generator = Generator(model, VOCABULARY, max_length=7, method=method)
    together = np.array(generator.tokens(params, inputs))
    narrow = Generator(model, VOCABULARY, max_length=7, batch_tokens=1, method=method)
    np.testing.assert_array_equal(narrow.tokens(params, inputs), together)
    np.testing.assert_array_equal(generator.tokens(params, inputs[5:], first=5), together[5:])
    assert len({tuple(answer) for answer in together.tolist()}) > 2


@pytest.mark.devices
@pytest.mark.parametrize("method", [SAMPLE, BEAM], ids=lambda method: method.method)
def test_a_mesh_changes_no_answer(model_and_params, method):
    from flan_jax.parallel import partitioning

    model, params = model_and_params
    inputs, _ = rows(9)
    meshes = (
        None,
        partitioning.make_mesh({"data": -1}),
        partitioning.make_mesh({"fsdp": 4, "model": 2}),
    )
    one, *others = (
        np.array(
            Generator(model, VOCABULARY, mesh=m, max_length=7, method=method).tokens(params, inputs)
        )
        for m in meshes
    )
    for other in others:
        np.testing.assert_array_equal(other, one)


def test_equal_prompts_get_their_own_draws_and_a_seed_repeats_them(model_and_params):
    model, params = model_and_params
    inputs = rows(1)[0] * 8

    def answers(seed):
        method = Decoding("sample", temperature=9.0, seed=seed)  # so hot that few end at once
        tokens = Generator(model, VOCABULARY, max_length=6, method=method).tokens(params, inputs)
        return [tuple(answer.tolist()) for answer in tokens]

    assert len(set(answers(1))) == 8
    assert answers(1) == answers(1) and not set(answers(1)) & set(answers(2**32 - 1))


@pytest.mark.parametrize(
    "settings, allowed",
    [
        ({}, {0: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}),
        ({"top_k": 3}, {0: 4 / 9, 1: 3 / 9, 2: 2 / 9}),
        ({"top_p": 0.65}, {0: 4 / 7, 1: 3 / 7}),
        ({"top_k": 3, "top_p": 0.7}, {0: 4 / 7, 1: 3 / 7}),  # of the three, the first two have 0.78
        ({"top_k": 9, "top_p": 0.75}, {0: 4 / 9, 1: 3 / 9, 2: 2 / 9}),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(settings, allowed):
    count = 20000
    logits = jnp.log(jnp.tile(jnp.array([0.4, 0.3, 0.2, 0.1]), (count, 1)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(count))
    drawn = (
        np.bincount(
            sampling.draw(keys, logits, **{"top_k": 0, "top_p": 1.0, **settings}), minlength=4
        )
        / count
    )
    np.testing.assert_allclose(drawn, [allowed.get(token, 0.0) for token in range(4)], atol=0.015)
    assert set(np.flatnonzero(drawn)) == set(allowed)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "nucleus"}, "must be one of greedy, sample, beam"),
        ({"temperature": 0.0}, "choose the method greedy"),
        ({"temperature": float("nan")}, "must be at least 1e-6"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"beams": 0}, "beams is 0"),
        ({"length_penalty": float("inf")}, "finite"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Decoding(**settings)
