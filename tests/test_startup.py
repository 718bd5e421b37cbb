"""Commands that have nothing to do: which packages they may import, and when they have to work."""

import os
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn

from flan_jax.cli import dispatch
from flan_jax.data.layout import make_layout
from flan_jax.models.decoder import DecoderConfig, DecoderLM
from flan_jax.models.t5 import T5
from flan_jax.models.t5_config import T5Config
from flan_jax.optim.adafactor import adafactor
from flan_jax.parallel import partitioning
from flan_jax.training.state import ShardedState
from support.processes import ended_well
from support.runs import command, run, run_here

# Each takes longer to import than everything that such a command does.
ENGINES = {
    *("jax", "flax", "optax", "orbax", "tensorstore", "matplotlib", "scipy", "pandas"),
    *("seqio", "tensorflow", "tensorflow_datasets", "torch", "transformers", "datasets"),
    *("tokenizers", "sentencepiece", "sacrebleu", "nltk"),
}
EVALUATED = [
    "--gin.TRAIN_STEPS=2",
    "--gin.MIXTURE_OR_TASK_NAME=cola",
    "--gin.EVAL_DATASETS=copa",
    "--gin.EVAL_TEMPLATES=2",
    "--gin.EVAL_ROWS=4",
]
NOTHING_TO_DO = "nothing has changed since"


def imported(*arguments: str) -> tuple[str, set[str]]:
    """Returns the output of a command in a process of its own, and which engines it imported."""
    program = (
        "import atexit, sys; from flan_jax.cli import dispatch; "
        "atexit.register(lambda: print('imported', *sys.modules)); "
        "sys.exit(dispatch.main(sys.argv[1:]))"
    )
    result = ended_well(run([sys.executable, "-c", program, *arguments]))
    output, _, modules = result.stdout.rpartition("imported ")
    assert "numpy" in modules.split() or arguments == ("--help",)
    return output, ENGINES & set(modules.split())


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory) -> pathlib.Path:
    """A run that is trained and evaluated, and then evaluated by `flan-jax eval`."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    ended_well(run_here(command("train", cache, model_dir, *EVALUATED)))
    ended_well(run_here(eval_of(model_dir)))
    return model_dir


def eval_of(model_dir: pathlib.Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flan_jax.eval", str(model_dir), *arguments]


@pytest.mark.parametrize("verb", dispatch.VERBS)
def test_help_imports_no_engine(verb):
    output, engines = imported(verb, "--help") if verb != "tasks" else imported(verb, "list")
    assert not engines and len(output) > 100


def test_what_is_done_imports_no_engine(cache, finished):
    # the variables of the test's process are part of what is compared
    train = command("train", cache, finished, *EVALUATED)[3:]
    for verb, arguments, says in (
        ("train", train, NOTHING_TO_DO),
        ("eval", [str(finished)], NOTHING_TO_DO),
        ("report", [str(finished)], "are up to date"),
    ):
        imported(verb, *arguments)  # notes that this process has everything done
        output, engines = imported(verb, *arguments)
        assert says in output and not engines, (verb, engines, output)


def test_what_is_done_shows_the_same_results(cache, finished):
    train = command("train", cache, finished, *EVALUATED)
    for arguments in (train, eval_of(finished)):
        ended_well(run_here(arguments))  # notes that this process has everything done
        again = ended_well(run_here(arguments)).stdout
        assert NOTHING_TO_DO in again
        (finished / ".done.json").rename(finished / "record")
        in_full = ended_well(run_here(arguments)).stdout
        (finished / "record").rename(finished / ".done.json")
        assert NOTHING_TO_DO not in in_full
        table, _, figures = again.partition("dataset ")[2].partition("figures: ")
        assert table in in_full and figures.partition("\n")[0] in in_full


def lose_results(run_directory: pathlib.Path) -> None:
    (run_directory / "results.csv").unlink()


def lose_scores(run_directory: pathlib.Path) -> None:
    next((run_directory / "predictions/tuned").glob("*.units.json")).unlink()


def touch_the_checkpoint(run_directory: pathlib.Path) -> None:
    file = next((run_directory / "checkpoints/2/params").glob("**/_METADATA"))
    file.write_bytes(file.read_bytes())


def test_what_is_no_longer_done_is_done_again(cache, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    train = command("train", cache, tmp_path / "run", *EVALUATED)
    evaluate = eval_of(tmp_path / "run")
    for change, arguments in (
        (lose_results, train),
        (lose_scores, evaluate),
        (touch_the_checkpoint, evaluate),
    ):
        ended_well(run_here(arguments))
        assert NOTHING_TO_DO in ended_well(run_here(arguments)).stdout
        change(tmp_path / "run")
        assert NOTHING_TO_DO not in ended_well(run_here(arguments)).stdout
        assert (tmp_path / "run/results.csv").read_bytes() == (
            finished / "results.csv"
        ).read_bytes()


def test_other_settings_rows_or_devices_are_not_done(cache, finished, tmp_path, monkeypatch):
    output = f"--output={tmp_path}"
    arguments = eval_of(finished, output)
    assert NOTHING_TO_DO not in ended_well(run_here(arguments)).stdout
    assert NOTHING_TO_DO in ended_well(run_here(arguments)).stdout
    more = ended_well(run_here([*arguments, "--gin.EVAL_TEMPLATES=3"])).stdout
    assert "2 of 3 are evaluated already" in more
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert NOTHING_TO_DO not in ended_well(run_here(arguments)).stdout
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / ".done.json").write_text("{")  # damaged: no more than a look at everything
    assert "2 of 2 are evaluated already" in ended_well(run_here(arguments)).stdout
    assert NOTHING_TO_DO in ended_well(run_here(arguments)).stdout


def test_a_run_that_is_not_finished_is_never_taken_for_done(cache, finished):
    arguments = command("train", cache, finished, *EVALUATED, "--gin.TRAIN_STEPS=3")
    assert NOTHING_TO_DO not in ended_well(run_here(arguments)).stdout
    assert os.path.isdir(finished / "checkpoints/3")


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("architecture", ["t5", "decoder"])
def test_parameters_without_a_forward_pass_are_linens_to_the_bit(architecture, scan_layers):
    sizes = {"vocab_size": 64, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
    if architecture == "t5":
        layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
        model = T5(T5Config(**sizes, **layers, scan_layers=scan_layers))
    else:
        model = DecoderLM(DecoderConfig(**sizes, num_layers=2, scan_layers=scan_layers))
    shapes = make_layout(architecture, 8, 4, 0).shapes(1)
    batch = {name: np.ones(shape, np.int32) for name, shape in shapes.items()}
    expected = nn.unbox(jax.jit(model.init)(jax.random.key(3), batch)["params"])
    mesh = partitioning.make_mesh(partitioning.mesh_sizes({"fsdp": 1}, 1))
    state = ShardedState(model, adafactor(), mesh, shapes, seed=3)
    jax.tree.map(np.testing.assert_array_equal, state.fresh()["params"], expected)


@pytest.mark.slow
def test_a_second_process_compiles_nothing_to_answer_and_to_rank(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    program = (
        "import atexit, sys, collections, jax; from flan_jax.cli import dispatch; "
        "events = collections.Counter(); "
        "jax.monitoring.register_event_listener(lambda name, **_: events.update([name])); "
        "status = dispatch.main(sys.argv[1:]); cache = '/jax/compilation_cache/cache_'; "
        "print('compiled', events[cache + 'misses'], events[cache + 'hits']); sys.exit(status)"
    )
    for arguments in (
        ["generate", str(finished), "Is it wet?", "--max_tokens=4"],
        ["eval", str(finished), "--output=OUTPUT"],
    ):
        counts = []
        for name in ("first", "second"):
            words = [word.replace("OUTPUT", str(tmp_path / name)) for word in arguments]
            result = ended_well(run([sys.executable, "-c", program, *words]))
            counts.append(list(map(int, result.stdout.rpartition("compiled ")[2].split())))
        (compiled, _), (compiled_again, reused) = counts
        assert compiled > 0 and compiled_again == 0 and reused >= compiled, counts
