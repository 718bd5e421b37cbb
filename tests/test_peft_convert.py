"""`flan-jax convert` of what was trained beside a frozen base, and the verbs that read adapters."""

import csv
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from flan_jax.checkpoints import base_record, tuned_export
from flan_jax.checkpoints.formats import adapter_config, safetensors_files
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.checkpoints.tuned import open_tuned, open_whole
from flan_jax.cli import dispatch
from flan_jax.errors import UserError
from flan_jax.models.architectures import model_fields, model_of
from flan_jax.peft.config import PeftConfig
from support.adapters import (
    abstract_of,
    lora_arrays,
    random_llama,
    random_t5,
    random_tuned,
    save_adapter,
    save_prompt,
)
from support.converting import convert, decoder_batch, our_logits, t5_batch
from support.runs import command, run_here

SETTINGS = [
    "--gin.HELD_OUT=commonsense",
    "--gin.MIXTURE_OR_TASK_NAME=cola",
    "--gin.Data.validation_batches=0",
    "--gin.EVAL_DATASETS=copa",
    "--gin.EVAL_TEMPLATES=2",
    "--gin.EVAL_ROWS=4",
    "--gin.TRAIN_STEPS=2",
    "--gin.LEARNING_RATE=0.1",
]
TUNED = {
    "lora": [
        "--gin.PEFT=lora",
        "--gin.LORA_RANK=2",
        "--gin.LORA_SCALE=alpha/sqrt(r)",
        "--gin.LORA_TARGETS=encoder/.*/query|mlp/wo",
        "--gin.ALSO_TRAIN=encoder_norm/scale|logits_dense/kernel",
    ],
    "ia3": ["--gin.PEFT=ia3"],
}


def ran(arguments: list[str]) -> str:
    done = run_here(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A base of two steps, it in Hugging Face's form, and a run of each method that tunes it."""
    directory = tmp_path_factory.mktemp("runs")
    ran(command("train", directory / "cache", directory / "base", *SETTINGS))
    for name, settings in TUNED.items():
        more = [*settings, f"--gin.INITIAL_CHECKPOINT_PATH={directory / 'base'}"]
        ran(command("train", directory / "cache", directory / name, *SETTINGS, *more))
    convert("flan", "hf", directory / "base", directory / "hf")
    return directory


def logits_beside(path: pathlib.Path, base: pathlib.Path, batch: dict) -> np.ndarray:
    """Logits with the adapters beside the kernels of the base."""
    _, params = load_parameters(path, abstract_of(base), base=str(base))
    model = model_of(dataclasses.replace(open_checkpoint(base).config, dropout_rate=0.0))
    return np.asarray(jax.jit(model.apply)({"params": params}, batch))


@pytest.mark.parametrize("method", TUNED)
def test_a_run_becomes_a_whole_model_of_each_format(runs, tmp_path, method):
    batch = t5_batch(300)
    expected = logits_beside(runs / method, runs / "base", batch)
    assert np.abs(expected - our_logits(runs / "base", batch)).max() > 1e-3
    whole = open_whole(runs / method)
    for form in ("hf", "t5x", "flan"):
        convert("flan", form, runs / method, tmp_path / form)
        written = open_checkpoint(tmp_path / form)
        for name in model_fields("t5"):
            assert getattr(written.config, name) == getattr(whole.config, name)
        for name, tensor in whole.tensors.items():
            np.testing.assert_array_equal(written.tensors[name].read(), tensor.read())
        np.testing.assert_allclose(our_logits(tmp_path / form, batch), expected, atol=2e-5)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "PEFT" in card and "Results" in card


def test_a_merged_matrix_is_rounded_once(runs, tmp_path):
    convert("flan", "flan", runs / "lora", tmp_path / "exact")
    convert("flan", "flan", runs / "lora", tmp_path / "rounded", "--dtype=bfloat16")
    exact, rounded = open_checkpoint(tmp_path / "exact"), open_checkpoint(tmp_path / "rounded")
    for name, tensor in rounded.tensors.items():
        assert tensor.dtype.name == "bfloat16"
        expected = exact.tensors[name].read().astype(tensor.dtype)
        np.testing.assert_array_equal(tensor.read(), expected)


@pytest.mark.parametrize("method", TUNED)
def test_a_run_becomes_an_adapter_of_peft_and_a_run_again(runs, tmp_path, method):
    convert("flan", "peft", runs / method, tmp_path / "a", f"--base={runs / 'hf'}")
    contents = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert list(contents) == sorted(contents)
    assert contents["base_model_name_or_path"] == str(runs / "hf")
    assert contents["task_type"] == "SEQ_2_SEQ_LM" and contents["peft_type"] == method.upper()
    if method == "lora":
        assert contents["use_rslora"] and contents["r"] == 2 and contents["lora_alpha"] == 32
        assert contents["target_modules"].split("|") == [
            r"decoder\.block\.\d+\.layer\.2\.DenseReluDense\.wo",
            r"encoder\.block\.\d+\.layer\.0\.SelfAttention\.q",
            r"encoder\.block\.\d+\.layer\.1\.DenseReluDense\.wo",
        ]
        assert contents["modules_to_save"] == ["encoder.final_layer_norm", "lm_head"]
    else:
        assert contents["target_modules"] == ["k", "v", "wo"]
        assert contents["feedforward_modules"] == ["wo"]
    assert "library_name: peft" in (tmp_path / "a/README.md").read_text()
    assert (tmp_path / "a/tokenizer_config.json").is_file()
    batch = t5_batch(300)
    expected = logits_beside(runs / method, runs / "base", batch)
    found = logits_beside(tmp_path / "a", runs / "hf", batch)
    np.testing.assert_array_equal(found, expected)

    convert("peft", "flan", tmp_path / "a", tmp_path / "again", "--unmerged")
    first, again = open_tuned(runs / method), open_tuned(tmp_path / "again")
    assert again.record.digest == first.record.digest
    for name in ("method", "rank", "alpha", "scale", "targets", "also_trained", "dtype"):
        assert getattr(again.record, name) == getattr(first.record, name), name
    for name, tensor in first.checkpoint.tensors.items():
        np.testing.assert_array_equal(again.checkpoint.tensors[name].read(), tensor.read())
    assert (tmp_path / "again/model.gin").is_file()


def test_a_step_of_a_run_is_written_as_it_is(runs, tmp_path):
    convert("flan", "flan", runs / "ia3/checkpoints/2", tmp_path / "one", "--unmerged")
    assert open_tuned(tmp_path / "one").record == base_record.find(runs / "ia3")
    assert [path.name for path in (tmp_path / "one/checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize("to", ["flan", "peft"])
def test_tensors_of_peft_come_back_to_the_byte(tmp_path, to):
    random_llama(tmp_path / "base")
    arrays = lora_arrays(["q_proj", "k_proj", "down_proj"])
    arrays["base_model.model.lm_head.weight"] = np.ones((64, 16), np.float32)
    fields = {"target_modules": ["q_proj", "k_proj", "down_proj"], "modules_to_save": ["lm_head"]}
    save_adapter(tmp_path / "a", arrays, use_rslora=True, **fields)
    source, form = tmp_path / "a", "peft"
    if to == "flan":
        convert("peft", "flan", source, tmp_path / "ours", "--unmerged")
        source, form = tmp_path / "ours", "flan"
    convert(form, "peft", source, tmp_path / "back")
    stored = safetensors_files.open_weights(tmp_path / "a/adapter_model.safetensors")
    written = safetensors_files.open_weights(tmp_path / "back/adapter_model.safetensors")
    assert written.keys() == stored.keys()
    for key, tensor in stored.items():
        assert written[key].dtype == tensor.dtype
        assert written[key].read().tobytes() == tensor.read().tobytes(), key
    config = adapter_config.read_config(tmp_path / "back")
    assert (config.rank, config.alpha, config.scale) == (2, 8, 8 / 2**0.5)
    assert config.targets == ["down_proj", "k_proj", "q_proj"] and config.saved == ["lm_head"]
    assert config.base == str(tmp_path / "base")


def test_another_base_than_that_of_the_conversion_is_refused(tmp_path):
    random_llama(tmp_path / "base")
    save_adapter(tmp_path / "a", lora_arrays(["q_proj"]), target_modules=["q_proj"])
    convert("peft", "flan", tmp_path / "a", tmp_path / "ours", "--unmerged")
    abstract = abstract_of(tmp_path / "base")
    _, expected = load_parameters(tmp_path / "a", abstract)
    _, found = load_parameters(tmp_path / "ours", abstract)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    weights = tmp_path / "base/model.safetensors"
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    with pytest.raises(UserError, match="is not the base that .*ours was tuned on"):
        load_parameters(tmp_path / "ours", abstract)


def test_what_does_not_go_together_is_refused(runs, tmp_path, capsys):
    def refused(*arguments):
        assert dispatch.main(["convert", *map(str, arguments), f"--output={tmp_path / 'x'}"]) == 2
        assert not (tmp_path / "x").exists()
        return capsys.readouterr().err

    assert "and no adapter; give --to=hf" in refused(runs / "base", "--to=peft")
    assert "and no adapter" in refused(runs / "base", "--to=flan", "--unmerged")
    assert "--unmerged goes with --to=flan" in refused(runs / "lora", "--to=hf", "--unmerged")
    assert "leave it out" in refused(runs / "lora", "--to=hf", "--base=somewhere")
    assert "no optimizer state" in refused(runs / "lora", "--to=flan", "--with_optimizer")
    shutil.copytree(runs / "lora", tmp_path / "lora")
    record = json.loads((tmp_path / "lora/base.json").read_text())
    gone = json.dumps({**record, "path": str(tmp_path / "gone")})
    (tmp_path / "lora/base.json").write_text(gone)
    assert "which is not there; put it back" in refused(tmp_path / "lora", "--to=hf")


LORA = PeftConfig("lora", lora_rank=2, lora_targets="query|logits_dense|mlp/wo")
PROMPT = PeftConfig("prompt", prompt_length=3, prompt_init="uniform")
TABLE = "token_embedder/embedding"


@pytest.mark.parametrize(
    "make, changes, config, said",
    [
        (
            random_llama,
            {"model_type": "qwen2"},
            dataclasses.replace(LORA, also_train="query/bias"),
            "in model.layers.0.self_attn.q_proj, .*; convert the run with --to=hf, which merges",
        ),
        (
            random_t5,
            {},
            dataclasses.replace(LORA, also_train=TABLE),
            "has trained token_embedder/embedding, which is several tables in Hugging Face's model",
        ),
        (
            random_llama,
            {"tie_word_embeddings": True},
            PeftConfig("ia3", also_train=TABLE),
            "has trained decoder/token_embedder/embedding, which is several tables",
        ),
        (
            random_llama,
            {},
            dataclasses.replace(PROMPT, also_train="logits_dense/kernel"),
            "has a prompt and has trained decoder/logits_dense/kernel as a whole, which is not",
        ),
    ],
    ids=["bias", "table", "tied_table", "prompt_and_head"],
)
def test_what_peft_cannot_have_is_not_written(tmp_path, make, changes, config, said):
    make(tmp_path / "base", **changes)
    tuned = random_tuned(tmp_path / "base", config)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=said):
        tuned_export.write_peft(tmp_path / "a", tuned, None, None, lambda _: None)
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize("config", [LORA, PROMPT], ids=["lora", "prompt"])
@pytest.mark.parametrize(
    "fields, lacking",
    [({"positions": "relative"}, "rotary positions"), ({"prefix": "bidirectional"}, "a causal")],
)
def test_a_decoder_that_hugging_face_does_not_have_is_not_written(
    tmp_path, config, fields, lacking
):
    random_llama(tmp_path / "base")
    tuned = random_tuned(tmp_path / "base", config)
    tuned.base.config = dataclasses.replace(tuned.base.config, **fields)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=f"no counterpart in Hugging Face's .*{lacking}"):
        tuned_export.write_peft(tmp_path / "a", tuned, None, None, lambda _: None)


@pytest.mark.parametrize("form", ["hf", "t5x", "flan"])
def test_a_prompt_is_no_part_of_a_whole_model(tmp_path, capsys, form):
    random_llama(tmp_path / "base")
    save_prompt(tmp_path / "prompt", np.ones((4, 16), np.float32))
    arguments = [str(tmp_path / "prompt"), f"--to={form}", f"--output={tmp_path / 'x'}"]
    assert dispatch.main(["convert", *arguments]) == 2
    assert "a prompt cannot be merged into the matrices" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def results(directory: pathlib.Path) -> dict[str, str]:
    with open(directory / "results.csv", newline="") as file:
        return {row["template"]: row["value"] for row in csv.DictReader(file)}


def test_eval_and_generate_read_an_adapter(runs, tmp_path):
    convert("flan", "peft", runs / "lora", tmp_path / "a", f"--base={runs / 'hf'}")
    convert("peft", "flan", tmp_path / "a", tmp_path / "ours", "--unmerged")
    places = {"run": runs / "lora", "adapter": tmp_path / "a", "ours": tmp_path / "ours"}
    found, answers = {}, {}
    for name, place in places.items():
        output = f"--output={tmp_path / name}"
        arguments = [f"--checkpoint={place}", output]
        ran(command("eval", runs / "cache", runs / "base", *SETTINGS, *arguments))
        found[name] = results(tmp_path / name)
        arguments = ["--checkpoint", str(place), "Is it true?"]
        answers[name] = run_here(
            command("generate", runs / "cache", runs / "base", *SETTINGS, *arguments)
        ).stdout
    assert found["run"] and found["adapter"] == found["ours"] == found["run"]
    assert answers["run"] and answers["adapter"] == answers["ours"] == answers["run"]


def test_the_base_of_an_adapter_may_be_the_initial_checkpoint(runs, tmp_path):
    convert("flan", "peft", runs / "ia3", tmp_path / "a", "--base=owner/model")
    arguments = [f"--checkpoint={tmp_path / 'a'}", f"--output={tmp_path / 'out'}"]
    evaluate = command("eval", runs / "cache", runs / "base", *SETTINGS, *arguments)
    done = run_here(evaluate)
    assert done.returncode == 2
    assert "'owner/model', is neither a directory nor a GGUF file here; download it" in done.stderr
    ran([*evaluate, f"--gin.INITIAL_CHECKPOINT_PATH={runs / 'base'}"])
    assert results(tmp_path / "out")


def test_a_decoder_merges_with_its_batch(tmp_path):
    random_llama(tmp_path / "base", num_hidden_layers=2)
    ends = ["q_proj", "v_proj", "o_proj", "up_proj"]
    save_adapter(tmp_path / "a", lora_arrays(ends), target_modules=ends)
    batch = decoder_batch(64)
    expected = logits_beside(tmp_path / "a", tmp_path / "base", batch)
    convert("peft", "hf", tmp_path / "a", tmp_path / "hf")
    np.testing.assert_allclose(our_logits(tmp_path / "hf", batch), expected, rtol=1e-4, atol=1e-4)
