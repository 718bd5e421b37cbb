"""Directories of adapters as peft writes them: what is read, what is refused, and by which name."""

import shutil

import numpy as np
import pytest

from flan_jax.checkpoints.formats import (
    adapter_config,
    huggingface_prompt,
    safetensors_files,
)
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.tuned import open_tuned, open_whole
from flan_jax.errors import UserError
from support.adapters import (
    abstract_of,
    lora_arrays,
    random_llama,
    random_t5,
    save_adapter,
    save_prompt,
)


@pytest.fixture
def llama(tmp_path):
    random_llama(tmp_path / "base")
    return tmp_path


def open_with(directory, arrays, **fields):
    save_adapter(directory / "adapter", arrays, **fields)
    return open_tuned(directory / "adapter")


@pytest.mark.parametrize(
    "field, value, shown",
    [
        ("use_dora", True, "use_dora True"),
        ("bias", "all", "bias 'all'"),
        ("rank_pattern", {"q_proj": 8}, "rank_pattern"),
        ("alpha_pattern", {"q_proj": 8}, "alpha_pattern"),
        ("layers_to_transform", [0], "layers_to_transform"),
        ("layer_replication", [[0, 2]], "layer_replication"),
        ("lora_bias", True, "lora_bias True"),
        ("fan_in_fan_out", True, "fan_in_fan_out True"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights 'pissa_niter_4'"),
        ("init_lora_weights", "loftq", "init_lora_weights 'loftq'"),
        ("trainable_token_indices", [3], "trainable_token_indices"),
        ("a_setting_of_tomorrow", 2, "a_setting_of_tomorrow 2"),
    ],
)
def test_a_setting_that_is_not_supported_is_named(llama, field, value, shown):
    with pytest.raises(UserError) as caught:
        open_with(llama, lora_arrays(["q_proj"]), target_modules=["q_proj"], **{field: value})
    assert shown in str(caught.value) and "merge_and_unload" in str(caught.value)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "LOHA", None, 3])
def test_another_type_is_named(llama, kind):
    with pytest.raises(UserError, match=f"peft_type {kind!r}, which is not supported"):
        open_with(llama, {}, peft_type=kind)


def test_all_keys_without_a_place_are_listed(llama):
    arrays = lora_arrays(["q_proj"])
    prefix = "base_model.model.model.layers"
    arrays |= {
        f"{prefix}.7.self_attn.q_proj.lora_A.weight": np.zeros((2, 16), np.float32),
        f"{prefix}.0.self_attn.w_pack.lora_A.weight": np.zeros((2, 16), np.float32),
        f"{prefix}.0.self_attn.q_proj.lora_magnitude_vector": np.zeros(16, np.float32),
        "base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((2, 64), np.float32),
        "model.layers.0.self_attn.q_proj.weight": np.zeros((16, 16), np.float32),
        "base_model.model.score.weight": np.zeros((2, 16), np.float32),
    }
    with pytest.raises(UserError) as caught:
        open_with(llama, arrays, target_modules=["q_proj"])
    lines = str(caught.value).splitlines()
    assert "does not match its base model; give the base" in lines[0]
    known = lora_arrays(["q_proj"])
    assert sorted(lines[1:]) == sorted(f"  unexpected: {key}" for key in arrays if key not in known)


def test_missing_keys_wrong_shapes_and_other_targets_are_listed(llama):
    arrays = lora_arrays(["q_proj", "v_proj"])
    arrays.pop("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    arrays[key] = np.zeros((3, 16), np.float32)
    with pytest.raises(UserError) as caught:
        open_with(llama, arrays, target_modules=["q_proj"])
    text = str(caught.value)
    assert f"{key}: (3, 16), but (2, 16) fits the model" in text
    assert "missing: base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight" in text
    assert "v_proj.lora_A.weight: target_modules does not match its module" in text


@pytest.mark.parametrize(
    "targets, ends",
    [
        (
            "all-linear",
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
        (r".*\.(q|v)_proj", ["q_proj", "v_proj"]),
        (["self_attn.q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (None, ["q_proj", "up_proj"]),
    ],
)
def test_targets_as_peft_reads_them(llama, targets, ends):
    tuned = open_with(llama, lora_arrays(ends), target_modules=targets)
    assert len(tuned.checkpoint.tensors) == 4 * len(ends)
    assert tuned.record.rank == 2 and tuned.record.scale == 4.0


def test_excluded_modules_have_none(llama):
    arrays = lora_arrays(["q_proj"], layers=[1])
    fields = {"target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}
    tuned = open_with(llama, arrays, **fields)
    assert sorted(tuned.checkpoint.tensors) == [
        "decoder/layers_1/self_attention/query/lora_a",
        "decoder/layers_1/self_attention/query/lora_b",
    ]


@pytest.mark.parametrize("scan_layers", [True, False])
def test_layers_without_an_adapter_stay_as_they_are(llama, scan_layers):
    arrays = lora_arrays(["q_proj"], layers=[1])
    head = np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)
    arrays["base_model.model.model.layers.1.input_layernorm.weight"] = np.full(16, 3, np.float32)
    arrays["base_model.model.lm_head.weight"] = head
    fields = {
        "target_modules": r"model\.layers\.1\.self_attn\.q_proj",
        "modules_to_save": ["lm_head", "model.layers.1.input_layernorm"],
    }
    save_adapter(llama / "adapter", arrays, **fields)
    abstract = abstract_of(llama / "base", scan_layers)
    _, params = load_parameters(llama / "adapter", abstract)
    decoder = params["decoder"]
    np.testing.assert_array_equal(decoder["logits_dense"]["kernel"], head.T)
    if scan_layers:
        query = decoder["layers"]["self_attention"]["query"]
        assert not query["lora_a"][0].any() and query["lora_a"][1].any()
        scale = decoder["layers"]["pre_self_attention_layer_norm"]["scale"]
        assert (scale[1] == 3).all() and (scale[0] != 3).all()
    else:
        assert "lora_a" not in decoder["layers_0"]["self_attention"]["query"]
        assert (decoder["layers_1"]["pre_self_attention_layer_norm"]["scale"] == 3).all()
    # the merged model says the same of each layer
    base, merged = open_checkpoint(llama / "base"), open_whole(llama / "adapter")
    changed = {
        n for n in base.tensors if (base.tensors[n].read() != merged.tensors[n].read()).any()
    }
    assert changed == {
        "decoder/layers_1/self_attention/query/kernel",
        "decoder/layers_1/pre_self_attention_layer_norm/scale",
        "decoder/logits_dense/kernel",
    }


def test_the_base_is_the_one_given_else_the_one_named_else_another(llama):
    arrays = lora_arrays(["q_proj"])
    save_adapter(llama / "a", arrays, target_modules=["q_proj"], base="owner/name")
    with pytest.raises(UserError, match="'owner/name', is neither a directory nor a GGUF file"):
        open_tuned(llama / "a")
    with pytest.raises(UserError, match="; download it, and give its path: with --base"):
        open_tuned(llama / "a", base=llama / "a")
    assert open_tuned(llama / "a", base=llama / "base").base.path == (llama / "base").resolve()
    save_adapter(llama / "b", arrays, target_modules=["q_proj"], base=str(llama / "base"))
    assert open_tuned(llama / "b").record.path == str((llama / "base").resolve())
    shutil.copytree(llama / "base", llama / "other")
    assert open_tuned(llama / "b", base=llama / "other").base.path == llama / "other"
    assert open_tuned(llama / "b", otherwise=llama / "other").base.path == llama / "base"
    assert open_tuned(llama / "a", otherwise=llama / "other").base.path == llama / "other"
    with pytest.raises(UserError, match="has no steps; leave --step=3 out"):
        open_tuned(llama / "b", step=3)


def test_files_that_are_missing_or_damaged(llama):
    save_adapter(llama / "a", {}, target_modules=["q_proj"])
    (llama / "a" / "adapter_model.safetensors").rename(llama / "a" / "adapter_model.bin")
    with pytest.raises(UserError, match="has no adapter_model.safetensors; save the adapter"):
        open_tuned(llama / "a")
    (llama / "a" / adapter_config.FILE).write_text("[]")
    with pytest.raises(UserError, match="adapter_config.json"):
        open_tuned(llama / "a")
    for name, value in [("r", 0), ("lora_alpha", "8"), ("target_modules", 3), ("bias", ["a"])]:
        save_adapter(llama / name, {}, **{"target_modules": ["q_proj"], name: value})
        with pytest.raises(UserError, match=f"adapter_config.json.* has {name}"):
            open_tuned(llama / name)
    save_adapter(llama / "c", {}, target_modules="(q_proj")
    with pytest.raises(UserError, match="is not a regular expression"):
        open_tuned(llama / "c")


def test_dropout_is_noted_and_copies_of_the_base_are_left_out(llama):
    table = safetensors_files.open_directory(llama / "base")["lm_head.weight"].read()
    arrays = lora_arrays(["q_proj"])
    arrays["base_model.model.lm_head.base_layer.weight"] = table
    tuned = open_with(llama, arrays, target_modules=["q_proj"], lora_dropout=0.05)
    assert tuned.checkpoint.notes == ["its lora_dropout 0.05 is not applied"]
    assert tuned.record.also_trained == []


def test_a_table_that_is_shared_here_is_refused(tmp_path):
    random_t5(tmp_path / "base")
    arrays = {"base_model.model.shared.weight": np.ones((64, 16), np.float32)}
    with pytest.raises(UserError, match="shared.weight, which is one of several tables there"):
        open_with(tmp_path, arrays, target_modules=[], modules_to_save=["shared"])


VECTORS = np.ones((4, 16), np.float32)


@pytest.mark.parametrize(
    "vectors, fields, said",
    [
        (np.ones((4, 8), np.float32), {}, "vectors have 8 numbers, those of the model 16"),
        (VECTORS, {"num_virtual_tokens": 3}, r"shape \(4, 16\), and its .* says 3 rows"),
        (VECTORS, {"num_transformer_submodules": 2}, "says 8 rows"),
        (VECTORS, {"num_virtual_tokens": None}, "lacks 'num_virtual_tokens'"),
        (VECTORS, {"num_virtual_tokens": "4"}, "num_virtual_tokens '4', but it must be a whole"),
        (
            VECTORS,
            {"modules_to_save": ["lm_head"]},
            r"modules_to_save \['lm_head'\], which is not supported; train one without",
        ),
        (VECTORS, {"num_ranks": 2}, "num_ranks 2, which is not supported; train one without"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(llama, vectors, fields, said):
    save_prompt(llama / "adapter", vectors, **fields)
    with pytest.raises(UserError, match=said):
        open_tuned(llama / "adapter")


def test_a_prompt_with_other_tensors_is_refused(llama):
    save_prompt(llama / "adapter", VECTORS)
    save_adapter(llama / "lora", {"base_model.model.lm_head.weight": VECTORS})
    weights = "adapter_model.safetensors"
    (llama / "lora" / weights).rename(llama / "adapter" / weights)
    with pytest.raises(UserError, match="must have prompt_embeddings and nothing else, and it has"):
        open_tuned(llama / "adapter")


def test_a_prompt_is_not_merged_and_an_adapter_is_no_prompt(llama):
    save_prompt(llama / "prompt", VECTORS)
    with pytest.raises(UserError, match="a prompt cannot be merged into the matrices"):
        open_whole(llama / "prompt")
    save_adapter(llama / "lora", lora_arrays(["q_proj"]), target_modules=["q_proj"])
    with pytest.raises(UserError, match="has an adapter of the kind lora, and no prompt"):
        huggingface_prompt.read_vectors(llama / "lora")


MODULES = [
    *(f"encoder.block.{i}.layer.0.SelfAttention.{m}" for i in range(2) for m in "qkvo"),
    *(f"decoder.block.{i}.layer.0.SelfAttention.{m}" for i in range(2) for m in "qkvo"),
    *("shared", "lm_head"),
]


@pytest.mark.parametrize(
    "chosen, written",
    [
        (lambda m: m.endswith((".q", ".v")), ["q", "v"]),
        (
            lambda m: m.startswith("encoder") and m.endswith(".q"),
            r"encoder\.block\.\d+\.layer\.0\.SelfAttention\.q",
        ),
        (
            lambda m: "block.1" in m and m.endswith(".k"),
            r"decoder\.block\.(1)\.layer\.0\.SelfAttention\.k|"
            r"encoder\.block\.(1)\.layer\.0\.SelfAttention\.k",
        ),
        (lambda m: m == "lm_head", ["lm_head"]),
    ],
)
def test_written_targets_match_these_modules_alone(chosen, written):
    targets = [module for module in MODULES if chosen(module)]
    names = adapter_config.shortest_names(targets, MODULES)
    assert names == written
    assert [m for m in MODULES if adapter_config.matches(names, m)] == targets
