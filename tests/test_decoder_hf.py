"""Llama-like and Qwen2-like models against Hugging Face's.

The same weights give the same logits and answers.
"""

import jax
import numpy as np
import pytest

from flan_jax.models import decoder, stacking
from flan_jax.models.decoding import greedy

NOT_CHECKED = "NOT CHECKED AGAINST HUGGING FACE: pip install torch transformers"
torch = pytest.importorskip("torch", reason=NOT_CHECKED)
transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Every case is a Llama but for what it names.
BASE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
CASES = {
    "untied": {},
    "tied, grouped heads": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    "odd sizes": {
        "vocab_size": 101,
        "hidden_size": 27,
        "intermediate_size": 37,
        "num_hidden_layers": 3,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 6,
        "rms_norm_eps": 1e-2,
    },
    "one head of keys, llama3 scaling": {
        "num_key_value_heads": 1,
        "rope_theta": 500.0,
        "scaling": LLAMA3,
    },
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 1e6},
}


def hugging_face_model(name: str):
    """Returns a model with random weights, of which norms and biases are not ones and zeros."""
    settings = {**BASE, **CASES[name]}
    theta, scaling = settings.pop("rope_theta", 10000.0), settings.pop("scaling", None)
    rope = {"rope_theta": theta, "rope_type": "default"} | (
        {"rope_type": "llama3", **scaling} if scaling else {}
    )
    kind = transformers.Qwen2Config if name == "qwen2" else transformers.LlamaConfig
    config = kind(**settings, rope_parameters=rope, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    model = (
        transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        .float()
        .eval()
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def ours(theirs, scan_layers: bool = True):
    """Returns the same model, and its weights as parameters in memory."""
    c = theirs.config
    config = decoder.DecoderConfig(
        c.vocab_size,
        c.hidden_size,
        c.num_attention_heads,
        c.head_dim,
        c.intermediate_size,
        c.num_hidden_layers,
        c.num_key_value_heads,
        "rotary",
        rope_theta=c.rope_parameters["rope_theta"],
        rope_scaling=LLAMA3 if c.rope_parameters["rope_type"] == "llama3" else None,
        mlp_activations=("silu", "linear"),
        logits_via_embedding=c.tie_word_embeddings,
        scale_tied_logits=False,
        scale_queries=True,
        qkv_bias=c.model_type == "qwen2",
        norm_epsilon=c.rms_norm_eps,
        dtype="float32",
        scan_layers=scan_layers,
    )
    weights = {
        name.removeprefix("model."): weight.numpy() for name, weight in theirs.state_dict().items()
    }

    def dense(name):
        tree = {"kernel": weights[f"{name}.weight"].T}
        return tree | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})

    params = {
        "token_embedder": {"embedding": weights["embed_tokens.weight"]},
        "decoder_norm": {"scale": weights["norm.weight"]},
    }
    if not c.tie_word_embeddings:
        params["logits_dense"] = dense("lm_head")
    for i in range(c.num_hidden_layers):
        layer = f"layers.{i}"
        params[f"layers_{i}"] = {
            "pre_self_attention_layer_norm": {"scale": weights[f"{layer}.input_layernorm.weight"]},
            "self_attention": {
                place: dense(f"{layer}.self_attn.{name}_proj")
                for place, name in zip(("query", "key", "value", "out"), "qkvo")
            },
            "pre_mlp_layer_norm": {"scale": weights[f"{layer}.post_attention_layernorm.weight"]},
            "mlp": {
                place: dense(f"{layer}.mlp.{name}_proj")
                for place, name in zip(("wi_0", "wi_1", "wo"), ("gate", "up", "down"))
            },
        }
    params = {"decoder": params}
    return decoder.DecoderLM(config), stacking.stack(params) if scan_layers else params


def segment(tokens) -> dict[str, np.ndarray]:
    return {
        "decoder_input_tokens": tokens,
        "decoder_segment_ids": np.ones_like(tokens),
        "decoder_positions": np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape),
    }


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_hugging_face(name):
    theirs = hugging_face_model(name)
    tokens = (
        np.random.default_rng(0).integers(0, theirs.config.vocab_size, (3, 40)).astype(np.int32)
    )
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    model, params = ours(theirs, scan_layers=name != "odd sizes")
    logits = np.asarray(jax.jit(model.apply)({"params": params}, segment(tokens)))
    # They must mean something: not all alike, and not what the same weights give without their
    # order.
    assert expected.std() > 0.3 and np.abs(expected[:, 1:] - expected[:, :-1]).max() > 1
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_equal_generate(name):
    theirs = hugging_face_model(name)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, theirs.config.vocab_size, length) for length in (11, 4, 30)]
    model, params = ours(theirs)
    tokens = np.array([np.pad(prompt, (0, 30 - len(prompt))) for prompt in prompts], np.int32)
    written = np.asarray(
        greedy.greedy(model, params, tokens, 12, eos_id=2, lengths=np.array([11, 4, 30]))
    )
    for row, prompt in zip(written, prompts):
        ids = torch.tensor(prompt, dtype=torch.long)[None]
        answer = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )[0]
        answer = answer[len(prompt) :]
        assert row.tolist() == np.pad(answer.numpy(), (0, 12 - len(answer))).tolist()
    assert len(set(written.ravel().tolist())) > 3
