"""Greedy and beam search against Hugging Face's `generate`.

Token for token; draws in distribution.
"""

import dataclasses

import jax
import numpy as np
import pytest

from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.models import t5
from flan_jax.models.decoding import beam, greedy, sampling
from flan_jax.parallel import partitioning
from support.converting import t5_batch

NOT_CHECKED = "NOT CHECKED AGAINST HUGGING FACE: torch and transformers are not installed here"
torch = pytest.importorskip("torch", reason=NOT_CHECKED)
transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)
scipy_stats = pytest.importorskip("scipy.stats")

from test_convert_hf import save_t5  # noqa: E402
from test_decoder_hf import hugging_face_model, ours  # noqa: E402

torch.set_num_threads(1)  # tiny models: threads only cost
LENGTHS, ROWS, NEW = (3, 9, 14, 20, 31), 20, 20


def t5_of(directory, vocab_size: int):
    """Gives Hugging Face's model with random weights, ours and its parameters."""
    theirs = save_t5(
        transformers, directory, tied=False, vocab_size=vocab_size, num_decoder_layers=2
    )
    theirs.generation_config.decoder_start_token_id = 0
    checkpoint = open_checkpoint(directory)
    model = t5.T5(dataclasses.replace(checkpoint.config, dropout_rate=0.0))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), t5_batch(vocab_size))["params"])
    return theirs, model, load_parameters(directory, partitioning.unbox(boxed))[1]


@pytest.fixture(scope="module", params=["t5", "tied, grouped heads"])
def models(request, tmp_path_factory):
    if request.param == "t5":
        return t5_of(tmp_path_factory.mktemp("t5"), 120)
    theirs = hugging_face_model(request.param)
    return theirs, *ours(theirs)


@pytest.fixture(scope="module")
def prompts(models):
    """100 prompts: 20 of each length."""
    rng = np.random.default_rng(3)
    return [
        rng.integers(3, models[0].config.vocab_size, (ROWS, length)).astype(np.int32)
        for length in LENGTHS
    ]


def their_answers(theirs, prompts, eos_id: int, **settings):
    """Returns what `generate` writes after each prompt, and the scores of beam search.

    The tokens are [20, returned, up to NEW].
    """
    ids = torch.tensor(prompts, dtype=torch.long)
    result = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        eos_token_id=eos_id,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    start = 1 if theirs.config.is_encoder_decoder else ids.shape[1]
    return result.sequences[:, start:].numpy().reshape(
        len(prompts), -1, result.sequences.shape[1] - start
    ), result


def until_eos(tokens, eos_id: int) -> list[int]:
    tokens = tokens.tolist()
    return tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens


@pytest.fixture(scope="module")
def eos_id(models, prompts):
    """A token at which about half of the greedy answers end; a random model has none of its own."""
    free, _ = their_answers(models[0], prompts[2], -1, do_sample=False)
    shares = [
        (free[:, 0] == token).any(axis=1).mean() for token in range(models[0].config.vocab_size)
    ]
    return int(np.argmin(np.abs(np.array(shares) - 0.5)))


def padded(prompts):
    """Returns the prompts [20, 32] and their lengths.

    There is room on the right, so that padding is covered.
    """
    return np.pad(prompts, ((0, 0), (0, 32 - prompts.shape[1]))), np.full(
        len(prompts), prompts.shape[1]
    )


def test_greedy_answers_are_theirs(models, prompts, eos_id):
    theirs, model, params = models
    ended = 0
    for given in prompts:
        tokens, lengths = padded(given)
        written = np.asarray(
            greedy.greedy(model, params, tokens, NEW, eos_id=eos_id, lengths=lengths)
        )
        expected, _ = their_answers(theirs, given, eos_id, do_sample=False)
        for row, of in zip(written, expected[:, 0]):
            assert until_eos(row, eos_id) == until_eos(of, eos_id)
            ended += eos_id in row
    assert 10 < ended < 90, "answers that all end, or none, test less"


@pytest.mark.parametrize("beams, length_penalty", [(4, 1.0), (3, 0.0), (2, 2.5)])
def test_beam_search_gives_their_answers_and_scores(models, prompts, eos_id, beams, length_penalty):
    theirs, model, params = models
    ended = 0
    for given in prompts:
        tokens, lengths = padded(given)
        written, scores = map(
            np.asarray,
            beam.beam_search(
                model, params, tokens, NEW, beams, length_penalty, eos_id=eos_id, lengths=lengths
            ),
        )
        expected, result = their_answers(
            theirs,
            given,
            eos_id,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=length_penalty,
        )
        np.testing.assert_allclose(scores.ravel(), result.sequences_scores.numpy(), rtol=1e-5)
        for row, of in zip(written.reshape(-1, NEW), expected.reshape(-1, expected.shape[-1])):
            assert until_eos(row, eos_id) == until_eos(of, eos_id)
            ended += eos_id in row
    assert ended > 10


def chance(first, second) -> float:
    """The probability that counts [M] as unlike as these come of one distribution.

    A chi-square test of homogeneity.
    """
    counts = np.stack([first, second])
    rare = counts.sum(axis=0) < 10
    counts = np.concatenate([counts[:, ~rare], counts[:, rare].sum(axis=1, keepdims=True)], axis=1)
    return scipy_stats.chi2_contingency(counts[:, counts.sum(axis=0) > 0]).pvalue


@pytest.mark.parametrize("name", ["t5", "untied"])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.6, "top_k": 0, "top_p": 1.0},
        {"temperature": 1.0, "top_k": 5, "top_p": 1.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.8},
        {"temperature": 1.5, "top_k": 8, "top_p": 0.7},
    ],
    ids=str,
)
def test_draws_have_their_distribution(name, settings, tmp_path, monkeypatch):
    vocab_size, draws = 13, 3000
    if name == "t5":
        theirs, model, params = t5_of(tmp_path / "t5", vocab_size)
    else:
        monkeypatch.setitem(
            hugging_face_model.__globals__["CASES"], name, {"vocab_size": vocab_size}
        )
        theirs = hugging_face_model(name)
        model, params = ours(theirs)
    given = np.random.default_rng(0).integers(3, vocab_size, (1, 9)).astype(np.int32)
    torch.manual_seed(0)
    ids = torch.tensor(given, dtype=torch.long).repeat(draws, 1)
    result = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=2,
        min_new_tokens=2,
        eos_token_id=-1,
        pad_token_id=0,
        **settings,
    )[:, -2:].numpy()

    def counts(pairs):
        return np.bincount(pairs[:, 0] * vocab_size + pairs[:, 1], minlength=vocab_size**2)

    def drawn(**changes):
        return counts(
            np.asarray(
                sampling.sample(
                    model,
                    params,
                    np.repeat(given, draws, 0),
                    2,
                    7,
                    np.arange(draws),
                    eos_id=-1,
                    lengths=np.full(draws, 9),
                    **{**settings, **changes},
                )
            )
        )

    assert chance(drawn(), counts(result)) > 1e-3
    assert chance(drawn(temperature=0.5 * settings["temperature"]), counts(result)) < 1e-6, (
        "it would tell no others"
    )
