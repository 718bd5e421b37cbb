"""Every family of decoders against Hugging Face's network, with random weights.

A directory that `transformers` writes gives its logits and answers here; one that is written here
loads there without a missing or unexpected name.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.models.architectures import model_of
from flan_jax.models.decoding import greedy
from flan_jax.parallel import partitioning
from support.converting import convert, our_logits, same_tensors

NOT_CHECKED = "NOT CHECKED AGAINST HUGGING FACE: pip install torch transformers"
torch = pytest.importorskip("torch", reason=NOT_CHECKED)
transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)

LENGTH = 40  # of rows, longer than every window below
BASE = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5e4, "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Its context is the length of the model.
DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "max_position_embeddings": 16,
}


def longrope(half, **more):
    """Factors for heads of 2 * half dimensions."""
    short, long = 1.0 + np.arange(half) / half, 1.5 + np.arange(half) ** 2
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "original_max_position_embeddings": 16,
        **more,
    }


FULL, SLIDING = "full_attention", "sliding_attention"


def gemma3_rope(full):
    return {FULL: full, SLIDING: {"rope_type": "default", "rope_theta": 100.0}}


# (class of the configuration, what differs from BASE)
CASES = {
    "llama, yarn": ("Llama", {"rope_parameters": YARN}),
    "llama, yarn with its own factor": (
        "Llama",
        {"rope_parameters": {**YARN, "attention_factor": 0.7, "beta_fast": 8.0, "truncate": False}},
    ),
    "llama, linear": ("Llama", {"rope_parameters": LINEAR, "tie_word_embeddings": True}),
    "llama, dynamic": ("Llama", DYNAMIC),
    "llama, longrope": ("Llama", {"rope_parameters": longrope(4)}),
    "llama, longrope with its own factor": (
        "Llama",
        {"rope_parameters": longrope(4, attention_factor=0.8), "tie_word_embeddings": True},
    ),
    "qwen2, windows from layer 2": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ),
    "mistral, window 8": ("Mistral", {"sliding_window": 8, "head_dim": 6}),
    "mistral without a window": ("Mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    # With a window of 1, the cache of transformers 5.24 keeps every key.
    "mistral, window 2, one head": ("Mistral", {"sliding_window": 2, "num_key_value_heads": 1}),
    "mistral, odd sizes": (
        "Mistral",
        {
            "sliding_window": 5,
            "hidden_size": 27,
            "intermediate_size": 37,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 6,
            "num_hidden_layers": 3,
            "rms_norm_eps": 1e-2,
        },
    ),
    "ministral": ("Ministral", {"layer_types": [SLIDING, FULL, FULL, SLIDING], "head_dim": 8}),
    "ministral, all sliding": ("Ministral", {"sliding_window": 6, "head_dim": 8}),
    "qwen3": ("Qwen3", {"head_dim": 16, "rope_parameters": {"rope_theta": 1e6}}),
    "qwen3, tied": ("Qwen3", {"head_dim": 6, "tie_word_embeddings": True}),
    "qwen3, yarn": ("Qwen3", {"head_dim": 8, "rope_parameters": YARN}),
    "qwen3, longrope": ("Qwen3", {"head_dim": 6, "rope_parameters": longrope(3)}),
    "qwen3, windows": (
        "Qwen3",
        {
            "head_dim": 8,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": [SLIDING, FULL] * 2,
        },
    ),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 6}),
    "gemma2, small caps": (
        "Gemma2",
        {
            "head_dim": 10,
            "sliding_window": 9,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 17,
            "num_hidden_layers": 3,
        },
    ),
    "gemma2, no caps": (
        "Gemma2",
        {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma2, untied": ("Gemma2", {"head_dim": 8, "tie_word_embeddings": False}),
    "gemma3": ("Gemma3Text", {"head_dim": 8, "sliding_window": 6, "num_hidden_layers": 7}),
    "gemma3, scaled": (
        "Gemma3Text",
        {
            "head_dim": 8,
            "sliding_window": 5,
            "rope_parameters": gemma3_rope(LINEAR),
            "layer_types": [SLIDING, FULL, SLIDING, FULL],
            "query_pre_attn_scalar": 11,
        },
    ),
    "gemma3, longrope": (
        "Gemma3Text",
        {
            "head_dim": 8,
            "sliding_window": 5,
            "rope_parameters": gemma3_rope(longrope(4)),
            "layer_types": [SLIDING, FULL, SLIDING, FULL],
        },
    ),
    "gemma3, capped and untied": (
        "Gemma3Text",
        {
            "head_dim": 6,
            "final_logit_softcapping": 4.0,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
            "sliding_window": 3,
            "tie_word_embeddings": False,
        },
    ),
    "gemma3, all global": ("Gemma3Text", {"head_dim": 8, "layer_types": [FULL] * 4}),
    "olmo2": ("Olmo2", {}),
    "olmo2, tied": ("Olmo2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}),
    "olmo2, all heads": ("Olmo2", {"num_key_value_heads": 4, "rope_parameters": LLAMA3}),
    "olmo2, odd sizes": (
        "Olmo2",
        {
            "hidden_size": 30,
            "intermediate_size": 37,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
        },
    ),
    "smollm3": ("SmolLM3", {}),
    "smollm3, untied": ("SmolLM3", {"tie_word_embeddings": False, "num_hidden_layers": 5}),
    "smollm3, every second": ("SmolLM3", {"no_rope_layer_interval": 2, "rope_parameters": YARN}),
    "smollm3, dynamic": ("SmolLM3", DYNAMIC),
    "smollm3, a list": ("SmolLM3", {"no_rope_layers": [0, 1, 1, 0]}),
}
ONE_OF_EACH_FAMILY = (
    "llama, yarn",
    "qwen2, windows from layer 2",
    "mistral, window 8",
    "ministral",
    "qwen3, windows",
    "gemma2",
    "gemma3",
    "olmo2",
    "smollm3",
)
# Exported as another family, which computes the same.
SIMPLER = {"mistral without a window": "llama", "ministral, all sliding": "mistral"}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """(name, their model with random weights, the directory it is saved in)."""
    kind, settings = CASES[request.param]
    config = getattr(transformers, f"{kind}Config")(**{**BASE, **settings})
    torch.manual_seed(0)
    attention = {"attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_config(config, **attention).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "theirs")
    return request.param, model, tmp_path / "theirs"


def tokens_of(model, length=LENGTH):
    rng = np.random.default_rng(0)
    return rng.integers(3, model.config.vocab_size, (3, length)).astype(np.int32)


def batch_of(tokens):
    return {
        "decoder_input_tokens": tokens,
        "decoder_segment_ids": np.ones_like(tokens),
        "decoder_positions": np.tile(np.arange(tokens.shape[1], dtype=np.int32), (3, 1)),
        "decoder_causal_attention": np.zeros_like(tokens),
    }


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()


def loaded(path, **changes):
    """(our model of a directory, its parameters)."""
    config = dataclasses.replace(open_checkpoint(path).config, dropout_rate=0.0, **changes)
    model = model_of(config)
    batch = batch_of(np.ones((3, 4), np.int32))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    return model, load_parameters(path, partitioning.unbox(boxed))[1]


def test_the_logits_are_theirs_there_and_back(case, tmp_path):
    name, theirs, path = case
    tokens = tokens_of(theirs)
    expected = their_logits(theirs, tokens)
    assert expected.std() > 0.1
    np.testing.assert_allclose(our_logits(path, batch_of(tokens)), expected, atol=1e-4)
    convert("hf", "flan", path, tmp_path / "ours")
    np.testing.assert_allclose(our_logits(tmp_path / "ours", batch_of(tokens)), expected, atol=1e-4)
    convert("flan", "hf", tmp_path / "ours", tmp_path / "back")
    again, said = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_allclose(their_logits(again.eval(), tokens), expected, atol=1e-5)
    same_tensors(path, tmp_path / "back")
    kind = json.loads((tmp_path / "back/config.json").read_text())["model_type"]
    assert kind == SIMPLER.get(name, theirs.config.model_type)


@pytest.mark.parametrize(
    "case", [name for name in CASES if "dynamic" in name or "longrope" in name], indirect=True
)
def test_scalings_follow_the_length_of_an_example(case):
    """Below the context of 16 and beyond it, where these scalings change all positions."""
    _, theirs, path = case
    for length in (7, 15, 16, 17, 33):
        tokens = tokens_of(theirs, length)
        expected = their_logits(theirs, tokens)
        np.testing.assert_allclose(our_logits(path, batch_of(tokens)), expected, atol=1e-4)


def test_loss_gradients_are_theirs(case):
    _, theirs, path = case
    tokens = tokens_of(theirs, 24)
    ids = torch.tensor(tokens, dtype=torch.long)
    theirs(ids, labels=ids).loss.backward()
    model, params = loaded(path)

    def loss(params):
        logits = model.apply({"params": params}, batch_of(tokens))[:, :-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
        return -picked.mean()

    gradients = jax.jit(jax.grad(loss))(params)["decoder"]
    expected = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    table = expected["model.embed_tokens.weight"]
    ours = np.asarray(gradients["token_embedder"]["embedding"])
    np.testing.assert_allclose(ours, table, atol=1e-3 * np.abs(table).max())
    attention = gradients["layers"]["self_attention"]
    for part, name in (("key", "k_proj"), ("query", "q_proj"), ("out", "o_proj")):
        for i in range(theirs.config.num_hidden_layers):
            kernel = expected[f"model.layers.{i}.self_attn.{name}.weight"]
            ours = np.asarray(attention[part]["kernel"])[i].T
            np.testing.assert_allclose(ours, kernel, atol=1e-3 * np.abs(kernel).max() + 1e-7)


def answers(path, prompts, count, **changes):
    """Our greedy answers of `count` tokens, 0 behind their ends, int [B, count]."""
    lengths = np.array([len(prompt) for prompt in prompts])
    tokens = np.array([np.pad(prompt, (0, max(lengths) - len(prompt))) for prompt in prompts])
    model, params = loaded(path, **changes)
    return np.asarray(
        greedy.greedy(model, params, tokens.astype(np.int32), count, eos_id=2, lengths=lengths)
    )


def their_answer(theirs, prompt, count):
    ids = torch.tensor(prompt, dtype=torch.long)[None]
    answer = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )[0, len(prompt) :]
    return np.pad(answer.numpy(), (0, count - len(answer)))


def random_prompts(theirs, lengths):
    rng = np.random.default_rng(1)
    return [rng.integers(3, theirs.config.vocab_size, length) for length in lengths]


def test_answers_are_theirs_beyond_the_window_and_without_scan(case):
    _, theirs, path = case
    prompts = random_prompts(theirs, [11, 4, 30])
    scanned, unscanned = (answers(path, prompts, 20, scan_layers=scan) for scan in (True, False))
    np.testing.assert_array_equal(scanned, unscanned)
    for row, prompt in zip(scanned, prompts):
        np.testing.assert_array_equal(row, their_answer(theirs, prompt, 20))


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_OF_EACH_FAMILY, indirect=True)
def test_forty_tokens_after_twenty_prompts_are_theirs(case):
    _, theirs, path = case
    lengths = np.random.default_rng(2).integers(12, 60, 20)  # longer than every window
    prompts = random_prompts(theirs, lengths)
    for row, prompt in zip(answers(path, prompts, 40), prompts):
        np.testing.assert_array_equal(row, their_answer(theirs, prompt, 40))


def test_packed_rows_equal_one_example_a_row(case):
    _, _, path = case
    model, params = loaded(path)
    tokens = np.random.default_rng(2).integers(3, 101, (1, 36)).astype(np.int32)
    lengths = (9, 20, 7)
    segments = np.repeat(np.arange(1, 4), lengths)[None].astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32)
    packed = {
        "decoder_input_tokens": tokens,
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
        "decoder_causal_attention": np.zeros_like(tokens),
    }
    apply = jax.jit(model.apply)
    logits = np.asarray(apply({"params": params}, packed))[0]
    for i, n in enumerate(lengths):
        inside = segments[0] == i + 1
        row = np.pad(tokens[0, inside], (0, 36 - n))[None]
        alone = {
            "decoder_input_tokens": row,
            "decoder_segment_ids": (np.arange(36) < n).astype(np.int32)[None],
            "decoder_positions": np.arange(36, dtype=np.int32)[None],
            "decoder_causal_attention": np.zeros_like(row),
        }
        expected = np.asarray(apply({"params": params}, alone))[0, :n]
        np.testing.assert_allclose(logits[inside], expected, atol=1e-5)
