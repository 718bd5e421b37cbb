"""Adapters against Hugging Face's peft itself: it loads ours, and we load its own.

Needs torch, transformers and peft, which flan_jax does not: without them these tests are skipped,
and say so.
"""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest

from flan_jax.checkpoints import tuned_export
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.tuned import open_tuned
from flan_jax.data.vocabulary import ByteVocabulary
from flan_jax.evaluation.generator import Generator
from flan_jax.models.adapters import prompt_length_of
from flan_jax.models.architectures import model_of
from flan_jax.peft.config import PeftConfig
from support.adapters import abstract_of, random_llama, random_t5, random_tuned
from support.converting import decoder_batch, t5_batch

NOT_CHECKED = "NOT CHECKED AGAINST PEFT: torch, transformers and peft are not installed here"
MODELS = {
    "t5": (random_t5, {}),
    "t5_tied": (random_t5, {"tie_word_embeddings": True, "feed_forward_proj": "relu"}),
    "llama": (random_llama, {}),
    "llama_tied": (random_llama, {"tie_word_embeddings": True}),
    "qwen2": (random_llama, {"model_type": "qwen2"}),
}
OURS = {
    "all": PeftConfig("lora", lora_rank=3, lora_alpha=5.5),
    "rslora": PeftConfig(
        "lora", lora_rank=4, lora_alpha=3.0, lora_scale="alpha/sqrt(r)", lora_targets="qv"
    ),
    "some": PeftConfig("lora", lora_rank=2, lora_alpha=4.0, lora_targets="layers/.*/query|mlp/wo"),
    "norms": PeftConfig(
        "lora", lora_rank=2, lora_alpha=4.0, also_train="layers/.*scale|.*coder_norm/scale"
    ),
    "ia3": PeftConfig("ia3"),
}
IN_ENCODER = PeftConfig("lora", lora_rank=2, lora_alpha=4.0, lora_targets="encoder/.*/query")
WITH_HEAD = PeftConfig("lora", lora_rank=2, lora_alpha=4.0, also_train="logits_dense/kernel")
ON_HEAD = PeftConfig("lora", lora_rank=2, lora_alpha=4.0, lora_targets="logits_dense|key")
TABLES = PeftConfig("ia3", also_train=".*rel_embedding")
CASES = [
    *((model, name, config) for model in MODELS for name, config in OURS.items()),
    *(("t5", "in_encoder", IN_ENCODER), ("t5", "tables", TABLES)),
    *((model, "with_head", WITH_HEAD) for model in ("t5", "llama")),
    *((model, "on_head", ON_HEAD) for model in ("t5", "llama")),
]


@pytest.fixture
def peft():
    pytest.importorskip("torch", reason=NOT_CHECKED)
    pytest.importorskip("transformers", reason=NOT_CHECKED)
    return pytest.importorskip("peft", reason=NOT_CHECKED)


def their_model(base):
    import transformers

    is_t5 = json.loads((base / "config.json").read_text())["model_type"] == "t5"
    kind = "AutoModelForSeq2SeqLM" if is_t5 else "AutoModelForCausalLM"
    return getattr(transformers, kind).from_pretrained(base).eval()


def their_logits(model, batch):
    import torch

    if "encoder_input_tokens" not in batch:
        with torch.no_grad():
            return model(torch.tensor(batch["decoder_input_tokens"]).long()).logits.numpy()
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch["encoder_input_tokens"]).long(),
            attention_mask=torch.tensor(batch["encoder_segment_ids"]).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        ).logits.numpy()


def our_logits(adapter, base, batch):
    _, params = load_parameters(adapter, abstract_of(base))
    model = model_of(dataclasses.replace(open_checkpoint(base).config, dropout_rate=0.0))
    return np.asarray(jax.jit(model.apply)({"params": params}, batch))


def assert_near(found, expected):
    """Asserts that logits differ by at most 1e-4 of the largest."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def batch_for(base):
    is_t5 = json.loads((base / "config.json").read_text())["model_type"] == "t5"
    return t5_batch(64) if is_t5 else decoder_batch(64)


@pytest.mark.parametrize(
    "model, name, config", CASES, ids=[f"{model}-{name}" for model, name, _ in CASES]
)
def test_peft_loads_what_we_write(peft, tmp_path, model, name, config):
    from safetensors.torch import load_file

    make, changes = MODELS[model]
    make(tmp_path / "base", **changes)
    (tmp_path / "adapter").mkdir()
    tuned = random_tuned(tmp_path / "base", config)
    tuned_export.write_peft(tmp_path / "adapter", tuned, None, None, lambda _: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected)")
        loaded = peft.PeftModel.from_pretrained(
            their_model(tmp_path / "base"), tmp_path / "adapter"
        ).eval()
    state = load_file(tmp_path / "adapter/adapter_model.safetensors")
    result = peft.set_peft_model_state_dict(loaded, state)
    assert result.unexpected_keys == []
    trained = ("lora_", "ia3_", "modules_to_save")
    assert [key for key in result.missing_keys if any(part in key for part in trained)] == []
    # all that was trained, as peft sees it, is in the file
    again = peft.get_peft_model_state_dict(loaded, save_embedding_layers=False)
    assert again.keys() == state.keys()
    batch = batch_for(tmp_path / "base")
    expected, base = (
        their_logits(loaded, batch),
        their_logits(their_model(tmp_path / "base"), batch),
    )
    assert np.abs(expected - base).max() > 1e-2
    found = our_logits(tmp_path / "adapter", tmp_path / "base", batch)
    assert_near(found, expected)


THEIRS = {
    "list": {"r": 2, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "one_layer": {"r": 2, "target_modules": r"model\.layers\.1\..*(q|v)_proj"},
    "excluded": {
        "r": 2,
        "target_modules": ["q_proj", "o_proj"],
        "exclude_modules": ["model.layers.0.self_attn.q_proj"],
    },
    "all_and_norm": {"r": 3, "target_modules": "all-linear", "modules_to_save": ["model.norm"]},
    "head": {"r": 2, "target_modules": ["lm_head", "k_proj"]},
}


@pytest.mark.parametrize("model", ["llama", "qwen2"])
@pytest.mark.parametrize("name", THEIRS)
def test_we_load_what_peft_saves(peft, tmp_path, model, name):
    import torch

    torch.manual_seed(0)
    random_llama(tmp_path / "base", **MODELS[model][1])
    config = peft.LoraConfig(task_type="CAUSAL_LM", **THEIRS[name])
    tuned = peft.get_peft_model(their_model(tmp_path / "base"), config).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "adapter")
    batch = batch_for(tmp_path / "base")
    expected = their_logits(tuned, batch)
    found = our_logits(tmp_path / "adapter", tmp_path / "base", batch)
    assert_near(found, expected)


def test_we_load_ia3_that_peft_saves(peft, tmp_path):
    import torch

    torch.manual_seed(0)
    random_t5(tmp_path / "base")
    config = peft.IA3Config(task_type="SEQ_2_SEQ_LM")  # its defaults for a T5
    tuned = peft.get_peft_model(their_model(tmp_path / "base"), config).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    tuned.save_pretrained(tmp_path / "adapter")
    batch = batch_for(tmp_path / "base")
    found = our_logits(tmp_path / "adapter", tmp_path / "base", batch)
    assert_near(found, their_logits(tuned, batch))


# --- Prompts

PROMPT = PeftConfig("prompt", prompt_length=6, prompt_init="uniform")
NEW = 12  # tokens that are generated


def assert_same_prompt(theirs, adapter, base):
    """Asserts that a model of peft and ours with a prompt have the same logits and answers."""
    import torch

    _, params = load_parameters(adapter, abstract_of(base))
    model = model_of(dataclasses.replace(open_checkpoint(base).config, dropout_rate=0.0))
    batch, length = batch_for(base), prompt_length_of(params)
    side = "encoder" if "encoder_input_tokens" in batch else "decoder"
    ids = batch[f"{side}_input_tokens"]
    prompt = np.tile(np.arange(64, 64 + length, dtype=np.int32), (len(ids), 1))
    ours = {**batch, f"{side}_input_tokens": np.concatenate([prompt, ids], 1)}
    ones, segments = np.ones_like(prompt), batch[f"{side}_segment_ids"]
    ours[f"{side}_segment_ids"] = np.concatenate([ones, segments], 1)
    if side == "decoder":
        width = np.arange(length + ids.shape[1], dtype=np.int32)
        ours["decoder_positions"] = np.tile(width, (len(ids), 1))
        ours["decoder_causal_attention"] = np.zeros_like(ours["decoder_input_tokens"])
    expected, found = their_logits(theirs, batch), jax.jit(model.apply)({"params": params}, ours)
    without = their_logits(theirs.get_base_model(), batch)
    assert np.abs(expected[:, -without.shape[1] :] - without).max() > 1e-2
    assert_near(np.asarray(found), expected)

    generator = Generator(model, ByteVocabulary(), max_length=NEW, bos_id=None)
    rows = [row[mask > 0] for row, mask in zip(ids, segments)]
    for row, answer in zip(rows, generator.tokens(params, rows)):
        tokens = torch.tensor(row[None]).long()
        written = theirs.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW,
            do_sample=False,
            # of a decoder, peft's answers with a cache differ from those of its forward passes
            use_cache=side == "encoder",
            eos_token_id=1,
            pad_token_id=0,
            **({"decoder_start_token_id": 0} if side == "encoder" else {}),
        )
        begin = 1 if side == "encoder" else len(row)
        tokens = written[0, begin:].tolist()
        assert answer.tolist() == [*tokens, *[0] * (NEW - len(tokens))]


@pytest.mark.parametrize("model", MODELS)
def test_peft_loads_our_prompt(peft, tmp_path, model):
    make, changes = MODELS[model]
    make(tmp_path / "base", **changes)
    (tmp_path / "adapter").mkdir()
    tuned = random_tuned(tmp_path / "base", PROMPT)
    tuned_export.write_peft(tmp_path / "adapter", tuned, None, None, lambda _: None)
    theirs = peft.PeftModel.from_pretrained(their_model(tmp_path / "base"), tmp_path / "adapter")
    (vectors,) = tuned.checkpoint.tensors.values()
    (loaded,) = peft.get_peft_model_state_dict(theirs).values()
    np.testing.assert_array_equal(loaded.detach().numpy(), vectors.read())
    assert_same_prompt(theirs.eval(), tmp_path / "adapter", tmp_path / "base")


@pytest.mark.parametrize("start", ["RANDOM", "SAMPLE_VOCAB"])
@pytest.mark.parametrize("model", MODELS)
def test_we_load_a_prompt_that_peft_saves(peft, tmp_path, model, start):
    """As peft makes it by default: the table of a T5 has twice as many rows as are read."""
    import torch

    torch.manual_seed(0)
    make, changes = MODELS[model]
    make(tmp_path / "base", **changes)
    is_t5 = make is random_t5
    config = peft.PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM" if is_t5 else "CAUSAL_LM",
        num_virtual_tokens=5,
        prompt_tuning_init=start,
    )
    theirs = peft.get_peft_model(their_model(tmp_path / "base"), config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    notes = open_tuned(tmp_path / "adapter").checkpoint.notes
    expected = ["its table has 10 rows of which peft reads the first 5: the others are left out"]
    assert notes == (expected if is_t5 else [])
    assert_same_prompt(theirs, tmp_path / "adapter", tmp_path / "base")
