"""Frozen models with LoRA, IA3 or a prompt: step 0, layers, compiled steps, whole runs."""

import dataclasses
import functools
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from flan_jax.checkpoints import load
from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.checkpoints.open import open_tensors
from flan_jax.data.layout import make_layout
from flan_jax.errors import UserError
from flan_jax.models import decoder, stacking, t5
from flan_jax.parallel import partitioning
from flan_jax.peft import merge
from flan_jax.peft.config import PeftConfig
from flan_jax.peft.tuning import flat
from flan_jax.planning import hlo_costs
from flan_jax.training.state import ShardedState
from flan_jax.training.step import make_train_step
from support.compiling import UNOPTIMIZED_CODE
from support.converting import convert
from support.runs import losses, run_here
from support.two_processes import ONE_TASK, TRAIN, arguments

T5 = t5.T5Config(96, 32, 4, 8, 64, 2, 2, dropout_rate=0.0, dtype="float32")
RELATIVE = decoder.DecoderConfig(96, 32, 4, 8, 64, 2, dtype="float32")
LLAMA = dataclasses.replace(
    RELATIVE,
    positions="rotary",
    num_kv_heads=2,
    mlp_activations=("silu", "linear"),
    logits_via_embedding=False,
    qkv_bias=True,
)
MODELS = {"t5": T5, "relative": RELATIVE, "llama": LLAMA}
LORA = PeftConfig("lora", lora_rank=4)
PROMPT = PeftConfig("prompt", prompt_length=6, prompt_init="uniform")


@functools.cache
def parts(config, peft=LORA, optimizer=None):
    """Returns (model, layout, sharded state, its parameters before tuning)."""
    is_t5 = isinstance(config, t5.T5Config)
    model = (t5.T5 if is_t5 else decoder.DecoderLM)(config)
    prompt = range(config.vocab_size, config.vocab_size + peft.prompt_tokens)
    layout = make_layout("t5" if is_t5 else "decoder", 32, 8, 0, prompt)
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    optimizer = optimizer or optax.adam(1e-2)
    sharded = ShardedState(model, optimizer, mesh, layout.shapes(1), 0, peft=peft)
    base = jax.jit(lambda: partitioning.unbox(sharded._init_base()))()
    return model, layout, sharded, base


def batch_of(layout, rows: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, (2 * rows, 2))
    inputs, targets = (
        [rng.integers(1, 96, n).astype(np.int32) for n in column] for column in lengths.T
    )
    return layout.batch(inputs, [target[:4] for target in targets], [2] * rows)


@functools.cache
def jitted_step(config, peft=LORA, microbatches: int = 1):
    model, _, sharded, _ = parts(config, peft)
    step = make_train_step(
        model, optax.adam(1e-2), 0, 0.0, 1e-4, 0.0, microbatches, join=sharded.tuning.join
    )
    return jax.jit(step)


def steps(config, peft, count: int = 3, microbatches: int = 1, base=None):
    """Returns the state after some steps on one batch, and the losses."""
    _, layout, sharded, random = parts(config, peft)
    base = random if base is None else base
    state, found, batch = sharded.fresh(base), [], batch_of(layout)
    for _ in range(count):
        step = jitted_step(config, peft, microbatches)
        state, metrics = step(state, sharded.tuning.frozen(base), batch)
        found.append(float(metrics["loss"]))
    return state, found


# --- Step 0


@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("name", MODELS)
def test_step_0_is_the_base_itself_to_the_bit(name, method):
    model, layout, sharded, base = parts(MODELS[name], PeftConfig(method))
    joined = sharded.params_of(sharded.fresh(base), base)
    assert len(flat(joined)) > len(flat(base))
    apply = jax.jit(lambda params, batch: model.apply({"params": params}, batch))
    batch = batch_of(layout)
    np.testing.assert_array_equal(apply(joined, batch), apply(base, batch))


def test_random_arrays_follow_the_seed_and_have_the_spread_of_a_dense_map():
    model, layout, sharded, base = parts(T5)
    first = flat(sharded.fresh(base)["params"])
    again, other = (
        flat(ShardedState(model, optax.sgd(1), sharded.mesh, layout.shapes(1), seed, peft=LORA)
             .fresh(base)["params"])
        for seed in (0, 1)
    )  # fmt: skip
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        if name.endswith("lora_b"):
            assert not array.any()
            continue
        limit = array.shape[-2] ** -0.5
        assert 0.9 * limit < np.abs(array).max() <= limit and (array != other[name]).any()


# --- Stacked layers and microbatches


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_stacked_and_unstacked_layers_begin_alike_and_have_the_same_losses(name):
    unscanned = dataclasses.replace(MODELS[name], scan_layers=False)
    stacked, base = parts(MODELS[name])[2:]
    unstacked, plain = parts(unscanned)[2], stacking.unstack(base)
    begun = flat(stacking.unstack(stacked.fresh(base)["params"]))
    others = flat(unstacked.fresh(plain)["params"])
    assert begun.keys() == others.keys()
    for path, array in begun.items():
        np.testing.assert_array_equal(array, others[path])
    (_, found), (_, expected) = steps(MODELS[name], LORA), steps(unscanned, LORA, base=plain)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("peft", [LORA, PROMPT, PeftConfig("ia3")], ids=lambda peft: peft.method)
def test_microbatches_are_one_batch(peft):
    (one, before), (four, after) = (steps(RELATIVE, peft, 3, count) for count in (1, 4))
    np.testing.assert_allclose(before, after, rtol=1e-6)
    assert after[2] < after[0]
    for path, array in stacking.named(one["params"]).items():
        np.testing.assert_allclose(
            array, stacking.named(four["params"])[path], atol=1e-5, err_msg=path
        )


# --- ALSO_TRAIN


def test_whole_arrays_train_beside_adapters_and_others_stay():
    peft = dataclasses.replace(LORA, also_train="logits_dense/kernel|scale")
    _, _, sharded, base = parts(LLAMA, peft)
    state, _ = steps(LLAMA, peft)
    trained, whole = flat(state["params"]), flat(base)
    both = {name for name in trained if name in whole}
    assert both == {name for name in whole if name.endswith(("scale", "logits_dense/kernel"))}
    assert all((np.asarray(trained[name]) != np.asarray(whole[name])).any() for name in both)
    assert not both & set(flat(sharded.tuning.frozen(base)))
    assert flat(sharded.params_of(state, base)).keys() == trained.keys() | whole.keys()


def test_a_bias_trains_beside_the_adapter_of_its_matrix_and_the_table_beside_a_prompt():
    peft = dataclasses.replace(LORA, also_train="bias")
    assert parts(LLAMA, peft)[2].tuning.also_trained
    peft = dataclasses.replace(PROMPT, also_train="token_embedder/embedding")
    state, found = steps(T5, peft)
    assert found[-1] < found[0] and set(state["params"]["token_embedder"]) == {
        "prompt",
        "embedding",
    }


@pytest.mark.parametrize(
    "config, changes, said",
    [
        (T5, {"lora_targets": "query|valu"}, "'valu' matches nothing .* it has .*query"),
        (T5, {"lora_targets": "("}, "not a regular expression"),
        (RELATIVE, {"lora_targets": "token_embedder"}, "which is a table and not a matrix"),
        (T5, {"lora_targets": ".*"}, "which is a table and not a matrix"),
        (T5, {"also_train": "scales"}, "ALSO_TRAIN: 'scales' matches nothing"),
        (T5, {"also_train": "query/kernel"}, "LORA_TARGETS and ALSO_TRAIN both name"),
        (T5, {"method": "ia3", "also_train": "mlp/wo/kernel"}, "PEFT='ia3' and ALSO_TRAIN both"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_refused_by_name(config, changes, said):
    with pytest.raises(UserError, match=said):
        parts(config, dataclasses.replace(LORA, **changes))


def test_a_prompt_is_not_merged():
    _, _, sharded, base = parts(T5, PROMPT)
    with pytest.raises(UserError, match="a prompt cannot be merged"):
        merge.merged(sharded.params_of(sharded.fresh(base), base))


# --- The compiled step

WIDE = {
    "t5": t5.T5Config(256, 128, 4, 32, 512, 2, 2, dropout_rate=0.0, dtype="float32"),
    "decoder": decoder.DecoderConfig(256, 128, 4, 32, 512, 2, dtype="float32"),
}


@functools.cache
def compiled(architecture: str, scan: bool, method: str | None):
    config = dataclasses.replace(WIDE[architecture], scan_layers=scan)
    model = (t5.T5 if architecture == "t5" else decoder.DecoderLM)(config)
    peft = PeftConfig(method, lora_rank=4, prompt_length=8, prompt_init="uniform")
    # 384, 160 and 544 tokens, none of which is the side of a matrix
    layout = make_layout(architecture, 48, 20, 0, range(256, 256 + peft.prompt_tokens))
    mesh = partitioning.make_mesh({"data": 1}, jax.devices()[:1])
    sharded = ShardedState(model, optax.sgd(0.1), mesh, layout.shapes(1), 0, peft=peft)
    step = make_train_step(model, optax.sgd(0.1), 0, 0.0, 1e-4, 0.0, join=sharded.tuning.join)
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in layout.shapes(8).items()
    }
    state = partitioning.unbox(sharded.abstract)
    lowered = jax.jit(step).lower(state, sharded.abstract_frozen, batch)
    kernels = {
        leaf.shape for name, leaf in flat(sharded.abstract_base).items() if name.endswith("kernel")
    }
    return lowered.compile(UNOPTIMIZED_CODE), kernels


def products(program) -> set[tuple[int, ...]]:
    """The last two sides of the results of products in a program."""
    found = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", program.as_text())
    return {tuple(map(int, dims.split(",")))[-2:] for dims in found}


def outputs(program) -> set[tuple[int, ...]]:
    """The last two sides of what a program returns."""
    return {leaf.shape[-2:] for leaf in jax.tree.leaves(program.out_info)}


@pytest.mark.optimized
@pytest.mark.parametrize(
    "scan", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["scanned", "unscanned"]
)
@pytest.mark.parametrize("architecture", WIDE)
def test_no_gradient_of_a_frozen_matrix_is_computed(architecture, scan):
    full, kernels = compiled(architecture, scan, None)
    shapes = {shape[-2:] for shape in kernels}
    assert shapes <= outputs(full) and shapes <= products(full)
    whole = hlo_costs.read_costs(full.as_text(), 1)
    for method in ("lora", "prompt", "ia3"):
        tuned, _ = compiled(architecture, scan, method)
        assert not (outputs(tuned) | products(tuned)) & shapes, method
        costs = hlo_costs.read_costs(tuned.as_text(), 1)
        assert costs.unknown_loops == 0 and costs.flops <= 0.75 * whole.flops, method


# --- Whole runs

SETTINGS = [*ONE_TASK, "--gin.CHECKPOINT_EVERY=5", "--gin.OPTIMIZER=adamw"]
METHODS = {
    "lora": ["--gin.PEFT=lora", "--gin.LORA_RANK=4", "--gin.LEARNING_RATE=0.01"],
    "prompt": ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=8", "--gin.LEARNING_RATE=0.3"],
}


def train(runs: pathlib.Path, name: str, *more: str):
    """Trains in this process, on the base but for the run of that name."""
    base = [] if name == "base" else [f"--gin.INITIAL_CHECKPOINT_PATH={runs / 'base'}"]
    return run_here([*TRAIN, *arguments(runs / "cache", runs / name, *SETTINGS, *base, *more)])


def trained(runs: pathlib.Path, name: str, *more: str) -> str:
    done = train(runs, name, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def saved(runs: pathlib.Path, name: str, step: int) -> dict[str, np.ndarray]:
    place = runs / name / "checkpoints" / str(step)
    return stacking.named(
        {part: ocp.StandardCheckpointer().restore(place / part) for part in ("params", "state")}
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A base of three steps, and each method stopped after five steps."""
    directory = tmp_path_factory.mktemp("runs")
    trained(directory, "base", "--gin.TRAIN_STEPS=3")
    for method, settings in METHODS.items():
        trained(directory, method, *settings, "--gin.TRAIN_STEPS=5")
    return directory


@pytest.mark.parametrize("method", METHODS)
def test_five_steps_and_five_more_are_ten_to_the_bit(runs, method):
    trained(runs, f"{method}_whole", *METHODS[method], "--gin.TRAIN_STEPS=10")
    resumed = trained(runs, method, *METHODS[method], "--gin.TRAIN_STEPS=10")
    assert "resuming from step 5" in resumed
    assert losses(runs / method) == losses(runs / f"{method}_whole")
    ours, whole = saved(runs, method, 10), saved(runs, f"{method}_whole", 10)
    assert ours.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert losses(runs / method)[10] < losses(runs / method)[1]


def test_the_record_of_the_base_has_the_method(runs):
    record = json.loads((runs / "prompt/base.json").read_text())
    assert (record["method"], record["prompt_length"], record["prompt_init"]) == (
        "prompt",
        8,
        "vocabulary",
    )
    assert (record["targets"], record["rank"], record["step"]) == (["token_embedder"], 0, 3)
    assert set(open_tensors(runs / "prompt", step=5).tensors) == {"token_embedder/prompt"}


@pytest.mark.parametrize(
    "method, change, said",
    [
        ("lora", "LORA_RANK=8", "whose rank is 4 .* the settings give 8"),
        ("lora", "LORA_ALPHA=16", "whose alpha is 32"),
        ("lora", "LORA_TARGETS=qv", "whose targets is"),
        ("lora", "ALSO_TRAIN=scale", "whose also_trained is"),
        ("lora", "PEFT=None", "a run with PEFT='lora', and the settings give PEFT=None"),
        ("prompt", "PROMPT_LENGTH=9", "whose prompt_length is 8 .* the settings give 9"),
        ("prompt", "PROMPT_INIT=uniform", "whose prompt_init is vocabulary"),
    ],
)
def test_another_method_is_refused_on_resume_before_anything_is_read(
    runs, monkeypatch, method, change, said
):
    def unread(*_):
        raise AssertionError("read")

    monkeypatch.setattr(load, "load_parameters", unread)
    monkeypatch.setattr(Checkpoints, "restore", unread)
    done = train(runs, method, *METHODS[method], "--gin.TRAIN_STEPS=10", f"--gin.{change}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(said, " ".join(done.stderr.split())), done.stderr


@pytest.mark.parametrize(
    "settings, said",
    [
        (["--gin.PEFT=lora", "--gin.INITIAL_CHECKPOINT_PATH=None"], "and none is given; add"),
        (["--gin.PEFT=prompt"], "PROMPT_LENGTH=100 leaves no room"),
        (
            ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=4", "--gin.PROMPT_INIT=nowhere"],
            "'nowhere' is neither 'vocabulary'",
        ),
        (
            ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=4", "--gin.PROMPT_INIT={runs}/prompt"],
            "has 8 vectors, and PROMPT_LENGTH is 4; add --gin.PROMPT_LENGTH=8",
        ),
        (
            ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=4", "--gin.PROMPT_INIT={runs}/lora"],
            "has no prompt; give a run with PEFT='prompt'",
        ),
        (
            ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=4", "--gin.PROMPT_INIT={runs}/wide.npy"],
            r"has the shape (4, 7), and the vectors of this model have 32 numbers",
        ),
        (
            ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=4", "--gin.PROMPT_INIT={runs}/nan.npy"],
            "numbers that are not finite",
        ),
        (
            ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=4", "--gin.PROMPT_INIT={runs}/no.npy"],
            "is no readable .npy file",
        ),
        (
            ["--gin.PEFT=lora", "--gin.INITIAL_CHECKPOINT_PATH={runs}/prompt"],
            "a prompt cannot be merged",
        ),
    ],
)
def test_a_run_that_cannot_begin_says_what_to_do(runs, settings, said):
    np.save(runs / "wide.npy", np.ones((4, 7), np.float32))
    np.save(runs / "nan.npy", np.full((4, 32), np.nan, np.float32))
    (runs / "no.npy").write_bytes(b"nothing")
    given = [text.replace("{runs}", str(runs)) for text in settings]
    done = train(runs, "refused", *given)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split()), done.stderr
    assert not (runs / "refused/checkpoints").exists() or not any(
        (runs / "refused/checkpoints").iterdir()
    )


def test_a_prompt_begins_as_that_of_a_file_of_a_run_or_of_peft(runs):
    table = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    np.save(runs / "prompt.npy", table)
    before = saved(runs, "prompt", 5)["params/token_embedder/prompt"]
    convert("flan", "peft", runs / "prompt/checkpoints/5", runs / "of_peft")
    starts = {"prompt.npy": table, "prompt/checkpoints/5": before, "of_peft": before}
    for place, expected in starts.items():
        init = runs / place
        name = f"from_{init.name}"
        more = (f"--gin.PROMPT_INIT={init}", "--gin.LEARNING_RATE=1e-9", "--gin.TRAIN_STEPS=1")
        trained(runs, name, *METHODS["prompt"], *more)
        found = saved(runs, name, 1)["params/token_embedder/prompt"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_prompt_for_peft_is_the_run_that_it_is_made_of(runs, tmp_path):
    convert("flan", "peft", runs / "prompt", tmp_path / "a", "--base=owner/base")
    settings = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert (settings["peft_type"], settings["task_type"]) == ("PROMPT_TUNING", "SEQ_2_SEQ_LM")
    assert (settings["num_virtual_tokens"], settings["token_dim"]) == (8, 32)
    assert settings["base_model_name_or_path"] == "owner/base"
    assert "from peft import AutoPeftModelForSeq2SeqLM\n" in (tmp_path / "a/README.md").read_text()
    base = f"--gin.INITIAL_CHECKPOINT_PATH={runs / 'base'}"
    answers = []
    for more in ([], [f"--checkpoint={tmp_path / 'a'}", base]):
        verb = [TRAIN[0], "-m", "flan_jax.generate", str(runs / "prompt"), "Is it?", *more]
        done = run_here(verb)
        assert done.returncode == 0, done.stdout + done.stderr
        answers.append(done.stdout)
    assert answers[0] == answers[1]


def test_a_prompt_is_evaluated_and_generates_from_its_directory(runs, tmp_path):
    tasks = ["--gin.EVAL_DATASETS=copa", "--gin.EVAL_ROWS=4", "--gin.EVAL_TEMPLATES=1"]

    def verb(name: str, *more: str):
        return run_here([TRAIN[0], "-m", f"flan_jax.{name}", str(runs / "prompt"), *more])

    for done in (verb("eval", *tasks, f"--output={tmp_path}"), verb("generate", "Is it?")):
        assert done.returncode == 0, done.stdout + done.stderr
    rows = (tmp_path / "results.csv").read_text()
    assert ",tuned," in rows and "copa" in rows
    too_long = verb("generate", "a" * 56)
    assert too_long.returncode == 2 and "allows 56" in too_long.stderr


def test_resuming_on_a_base_that_differs_in_one_bit_is_refused(runs):
    place = runs / "base/checkpoints/3/params"
    shutil.copytree(place, runs / "kept")
    handler = ocp.StandardCheckpointer()
    params = handler.restore(place)
    table = np.array(params["token_embedder"]["embedding"])
    table.view(np.uint32)[3, 5] ^= 1
    params["token_embedder"]["embedding"] = table
    shutil.rmtree(place)
    handler.save(place, params)
    handler.wait_until_finished()
    try:
        done = train(runs, "lora", *METHODS["lora"], "--gin.TRAIN_STEPS=12")
    finally:
        shutil.rmtree(place)
        (runs / "kept").rename(place)
    assert done.returncode == 2
    assert f"is not the base that {runs / 'lora'} was tuned on" in " ".join(done.stderr.split())
