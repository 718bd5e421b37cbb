"""A model with adapters beside its kernels answers and scores as the merged model does."""

import jax
import numpy as np
import pytest

from flan_jax.errors import UserError
from flan_jax.evaluation.generator import Generator
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.models.adapters import PROMPT
from flan_jax.models.decoding.method import Decoding
from flan_jax.peft.config import PeftConfig
from flan_jax.peft.merge import merged
from flan_jax.peft.tuning import Tuning
from support.random_models import VOCABULARY, make_model, rows

CONFIGS = {
    "lora": PeftConfig("lora", lora_rank=3, lora_alpha=6.0),
    "rslora_and_norms": PeftConfig(
        "lora", lora_rank=4, lora_scale="alpha/sqrt(r)", lora_alpha=2.0, also_train=".*scale"
    ),
    "ia3": PeftConfig("ia3"),
}
METHODS = {
    "greedy": Decoding(),
    "beam": Decoding("beam", beams=3, length_penalty=1.0),
    "sample": Decoding("sample", seed=2),
}


def joined_and_merged(architecture, method):
    """Returns (model, its parameters with random adapters, the same merged)."""
    model, base = make_model(architecture)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), _batch())["params"])
    tuning = Tuning(CONFIGS[method], boxed)
    whole = jax.tree.map(
        lambda box, leaf: box.replace_boxed(leaf),
        boxed,
        base,
        is_leaf=lambda x: hasattr(x, "names"),
    )
    trained = jax.tree.map(
        lambda box: box.unbox(),
        tuning.fresh(whole, 0),
        is_leaf=lambda x: hasattr(x, "names"),
    )
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(x.dtype), trained)
    params = tuning.join(moved, tuning.frozen(base))
    return model, params, jax.jit(merged)(params)


def _batch():
    names = ("input_tokens", "segment_ids", "positions", "causal_attention")
    ones = np.ones((1, 8), np.int32)
    return {f"{side}_{name}": ones for side in ("encoder", "decoder") for name in names}


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
@pytest.mark.parametrize("method", CONFIGS)
def test_answers_and_scores_are_those_of_the_merged_model(architecture, method):
    model, beside, alone = joined_and_merged(architecture, method)
    base = make_model(architecture)[1]
    assert jax.tree.structure(alone) == jax.tree.structure(base)
    inputs, options = rows(6)
    scores = [RankScorer(model).scores(params, inputs, options) for params in (beside, alone, base)]
    for row, expected in zip(scores[0], scores[1]):
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    moved = np.abs(np.concatenate(scores[0]) - np.concatenate(scores[2])).max()
    assert moved > 0.1  # the adapters change the model
    for decoding in METHODS.values():
        generator = Generator(model, VOCABULARY, max_length=12, method=decoding)
        answers, expected = generator.answers(beside, inputs), generator.answers(alone, inputs)
        assert list(answers) == list(expected)


@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_numpy_and_jax_merge_alike(architecture):
    _, params, expected = joined_and_merged(architecture, "lora")
    found = merged(jax.tree.map(np.asarray, params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


def test_a_prompt_is_not_merged():
    _, params = make_model("t5")
    embedder = {**params["token_embedder"], PROMPT: np.zeros((3, 16), np.float32)}
    with pytest.raises(UserError, match="a prompt cannot be merged into the matrices"):
        merged({**params, "token_embedder": embedder})
