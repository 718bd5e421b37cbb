"""A run that 0.1.0 began: what today's commands do with its directory.

The directory is an imitation: today's checkpoint with the text files that 0.1.0 wrote.
"""

import json
import pathlib
import shutil

import pytest

from flan_jax.config import gin_files
from flan_jax.training.config import TrainConfig
from support.processes import ended_well
from support.runs import SMALL_DECODER, command, run_here

HEAD = (
    "run,step,model,size,cluster,dataset,split,template,kind,shots,instruction_mode,scoring,"
    "metric,value,stderr,n"
)
LINES = [
    "old,2,tuned,t5_tiny,nli,cb,test,terse,forward,0,template,sum,accuracy,50.0,25.0,4",
    "old,0,untuned,t5_tiny,nli,cb,test,terse,forward,0,template,sum,accuracy,25.0,25.0,4",
]
# As 0.1.0 wrote it; what it did not have is left to the defaults.
MACROS = {
    "BATCH_SIZE": 8,
    "CACHE_DIR": None,
    "DATASETS_PER_CLUSTER": None,
    "DECONTAMINATE": False,
    "DROPOUT_RATE": 0.0,
    "EVAL_ROWS": 4,
    "HELD_OUT": "none",
    "LEARNING_RATE": 0.01,
    "MESH": {"fsdp": -1},
    "MIXTURE_OR_TASK_NAME": "rte",
    "OPTIONS_STYLE": "fixed",
    "SIZE": "t5_tiny",
    "TASK_FEATURE_LENGTHS": {"inputs": 160, "targets": 48},
    "TRAIN_STEPS": 2,
    "UNTUNED_INSTRUCTIONS": None,
    "VOCABULARY": "bytes",
}
BINDINGS = """
adafactor.learning_rate = %LEARNING_RATE
Data.architecture = %ARCHITECTURE
Data.batch_size = %BATCH_SIZE
Data.cache_dir = %CACHE_DIR
Data.datasets_per_cluster = %DATASETS_PER_CLUSTER
Data.decontaminate = %DECONTAMINATE
Data.eval_max_rows = %EVAL_ROWS
Data.held_out = %HELD_OUT
Data.mixture_or_task_name = %MIXTURE_OR_TASK_NAME
Data.options_style = %OPTIONS_STYLE
Data.task_feature_lengths = %TASK_FEATURE_LENGTHS
Data.train_steps = %TRAIN_STEPS
Data.untuned_instructions = %UNTUNED_INSTRUCTIONS
Data.vocabulary = %VOCABULARY
DecoderConfig.dropout_rate = %DROPOUT_RATE
T5Config.dropout_rate = %DROPOUT_RATE
Train.mesh = %MESH
Train.model_dir = %MODEL_DIR
Train.size = %SIZE
Train.tensorboard = True
"""
# Files, and keys of `mixture.json`, that 0.1.0 did not write.
NEW_FILES = ("run.json", ".train.lock")
NEW_KEYS = ("related", "commercial_only", "overlaps", "trained_before")


def training(cache: pathlib.Path, directory: pathlib.Path, architecture: str) -> list[str]:
    """The command of the run."""
    return command(
        "train",
        cache,
        directory,
        *SMALL_DECODER,
        f"--gin.ARCHITECTURE={architecture}",
        "--gin.DecoderConfig.dtype=float32",
        "--gin.HELD_OUT=none",
        "--gin.MIXTURE_OR_TASK_NAME=rte",
        "--gin.TRAIN_STEPS=2",
    )


@pytest.fixture(scope="module", params=["t5", pytest.param("decoder", marks=pytest.mark.slow)])
def old(request, tmp_path_factory) -> pathlib.Path:
    """The directory of a run of two steps, as 0.1.0 left it."""
    parent = tmp_path_factory.mktemp(request.param)
    directory = parent / "old"
    ended_well(run_here(training(parent / "cache", directory, request.param)))
    sizes = [
        line
        for line in (directory / "config.gin").read_text().splitlines()
        if line.startswith(("T5Config.", "DecoderConfig.")) and "%" not in line
    ]
    macros = {**MACROS, "ARCHITECTURE": request.param, "MODEL_DIR": str(directory)}
    lines = [f"{name} = {value!r}" for name, value in sorted(macros.items())]
    (directory / "config.gin").write_text("\n".join([*lines, BINDINGS, *sizes, ""]))
    record = json.loads((directory / "mixture.json").read_text())
    record = {key: value for key, value in record.items() if key not in NEW_KEYS}
    record["shards"] = {name: "train-epoch=0-ebe36b26ba04d9f2" for name in record["shards"]}
    (directory / "mixture.json").write_text(json.dumps(record, indent=1))
    for name in NEW_FILES:
        (directory / name).unlink(missing_ok=True)
    (directory / ".lock").touch()
    (directory / "results.csv").write_text("\n".join([HEAD, *LINES, ""]))
    runs = {"old": {"directory": str(directory), "trained_on": ["rte"]}}
    (directory / "runs.json").write_text(json.dumps(runs))
    return directory


@pytest.mark.parametrize(("value", "tracker"), [(True, "tensorboard"), (False, None)])
def test_what_has_another_name_now_is_read(value, tracker):
    arguments = ["--gin_file=gin/flan.gin", f"--gin.Train.tensorboard={value}"]
    gin_files.parse_command_line(arguments, gin_files.CONFIGURED)
    assert TrainConfig().tracker == tracker


def flan_jax(verb: str, *arguments: object):
    """Runs a verb in this process."""
    return run_here([*command("x", "", "")[:2], f"flan_jax.{verb}", *map(str, arguments)])


def is_t5(old: pathlib.Path) -> bool:
    return old.parent.name.startswith("t5")


def test_it_generates_and_is_reported(old):
    result = ended_well(flan_jax("generate", old, "Is it so?", "--max_tokens=3"))
    assert "parameters of step 2" in result.stderr
    result = ended_well(flan_jax("report", old))
    assert "cb" in result.stdout and (old / "report.html").is_file()


def test_it_is_evaluated(old):
    output = old.parent / "evaluated"
    arguments = ["--gin.EVAL_DATASETS=cb", "--gin.EVAL_TEMPLATES=1"]
    arguments += [f"--gin.CACHE_DIR={old.parent / 'cache'}"]
    result = ended_well(flan_jax("eval", old, f"--output={output}", *arguments))
    rows = (output / "results.csv").read_text().splitlines()[1:]
    assert any(row.startswith("old,2,tuned,t5_tiny,nli,cb,") for row in rows)
    assert "report:" in result.stdout


@pytest.mark.parametrize("form", ["flan", "hf", "t5x"])
def test_it_is_converted(old, form):
    output = old.parent / form
    result = flan_jax("convert", old, f"--to={form}", f"--output={output}")
    if form == "hf" and not is_t5(old):  # relative positions
        assert result.returncode == 2 and "convert it to t5x or flan" in result.stderr
    else:
        ended_well(result)
        assert "at step 2" in result.stdout and output.is_dir()


def test_a_message_says_which_rows_have_changed_and_what_to_do(old):
    architecture = "t5" if is_t5(old) else "decoder"
    arguments = training(old.parent / "cache", old, architecture)
    result = run_here([*arguments, "--gin.TRAIN_STEPS=3"])
    assert result.returncode == 2
    (message,) = [line for line in result.stderr.splitlines() if "error:" in line]
    assert "trains on something else: other rows or texts of rte (see" in message
    assert f"--gin.INITIAL_CHECKPOINT_PATH={old} and another MODEL_DIR" in message
    result = run_here([*arguments, "--gin.TRAIN_STEPS=3", "--gin.SEED=4", "--gin.SHOTS=1"])
    assert "SEED is 0 there and 4 here; SHOTS is 0 there and 1 here" in result.stderr

    # What it says: another run begins with its parameters.
    new = training(old.parent / "cache", old.parent / "new", architecture)
    result = ended_well(run_here([*new, f"--gin.INITIAL_CHECKPOINT_PATH={old}"]))
    assert f"parameters of step 2 from {old}" in result.stdout


def test_it_is_resumed_where_its_rows_are_those_of_today(old):
    same = old.parent / "same"
    shutil.copytree(old, same)
    (same / "mixture.json").unlink()
    architecture = "t5" if is_t5(old) else "decoder"
    arguments = training(old.parent / "cache", same, architecture)
    result = ended_well(run_here([*arguments, "--gin.TRAIN_STEPS=3"]))
    assert "resuming from step 2" in result.stdout
