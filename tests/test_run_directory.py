"""A run's directory is all that a verb needs.

From anywhere, after it was moved, and for a copy of it.
"""

import argparse
import functools
import json
import pathlib
import shutil
import sys

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax import generate
from flan_jax.config import gin_files, run_directory
from flan_jax.config.flags import ArgumentParser
from flan_jax.data.config import DataConfig
from flan_jax.errors import UserError
from flan_jax.evaluation.known_runs import remember_run, run_name
from flan_jax.training import run_record
from flan_jax.training.config import TrainConfig
from support.processes import ended_well
from support.runs import SMALL, run


def parse(*argv: str) -> argparse.Namespace:
    parser = ArgumentParser("flan-jax eval")
    run_directory.add_flag(parser)
    parser.add_argument("--checkpoint")
    return gin_files.parse_command_line(argv, gin_files.CONFIGURED, parser)


@pytest.fixture
def started(tmp_path, monkeypatch) -> pathlib.Path:
    """The directory of a run that was started from its parent with relative paths.

    The next command is elsewhere.
    """
    monkeypatch.chdir(tmp_path)
    parse(
        "--gin_file=gin/flan.gin",
        "--gin.MODEL_DIR=runs/one",
        "--gin.DATA_SOURCE=jsonl",
        "--gin.DATA_DIR=rows",
        "--gin.VOCABULARY=words.model",
        "--gin.MIXTURE_OR_TASK_MODULE=tasks.py",
        "--gin.INITIAL_CHECKPOINT_PATH=../base",
        "--gin.CACHE_DIR=cache",
    )
    (tmp_path / "runs/one/checkpoints/100").mkdir(parents=True)
    (tmp_path / "runs/one/config.gin").write_text(gin_files.config_text())
    monkeypatch.chdir("/")
    return tmp_path / "runs/one"


def test_relative_paths_count_from_where_they_were_typed(started, tmp_path):
    flags = parse(str(started))
    data = DataConfig()
    assert (data.data_dir, data.vocabulary, data.mixture_or_task_module, data.cache_dir) == tuple(
        str(tmp_path / name) for name in ("rows", "words.model", "tasks.py", "cache")
    )
    assert TrainConfig().model_dir == str(started)
    assert TrainConfig().initial_checkpoint_path == str(tmp_path.parent / "base")
    assert flags.gin_arguments == [f"--gin_file={started / 'config.gin'}"]
    parse("--gin_file=gin/flan.gin", "--gin.MIXTURE_OR_TASK_MODULE=some.module")
    text = gin_files.config_text()
    assert "VOCABULARY = 'bytes'" in text and "'some.module'" in text and "DATA_DIR = None" in text


def test_a_run_directory_is_where_its_config_gin_is(started, tmp_path):
    moved, copied = tmp_path / "moved", tmp_path / "copied"
    started.rename(moved)
    shutil.copytree(moved, copied)
    for argv in (
        [str(moved)],
        [f"--gin_file={moved}/config.gin"],
        [f"--checkpoint={moved}/checkpoints/100"],
    ):
        parse(*argv)
        assert TrainConfig().model_dir == str(moved)
    parse(str(copied))
    assert TrainConfig().model_dir == str(copied)
    parse(f"--gin_file={moved}/config.gin", "--gin.MODEL_DIR=elsewhere")
    assert TrainConfig().model_dir == "elsewhere"
    assert parse(f"{copied}/checkpoints/100").checkpoint == f"{copied}/checkpoints/100"


def test_a_run_directory_with_circular_macros_is_where_its_config_gin_is(started):
    config = started / "config.gin"
    text = config.read_text()
    config.write_text(text + "\nMODEL_DIR = %PLACE\nPLACE = %MODEL_DIR\n")
    parse(str(started))
    assert TrainConfig().model_dir == str(started)


def test_a_run_that_is_called_by_a_number_is_not_a_step(started):
    run = started.rename(started.parent / "2024")
    assert run_directory.run_of(run) == run_directory.run_of(run / "checkpoints/100") == run
    assert parse(str(run)).checkpoint is None


def test_of_the_arguments_of_generate_the_first_is_the_run_unless_flags_name_one(started):
    def given(*argv):
        flags = gin_files.parse_command_line(argv, gin_files.CONFIGURED, generate.make_parser())
        return flags.run, flags.prompts

    assert given(str(started), "--method=sample", "Is it?", "So?") == (
        str(started),
        ["Is it?", "So?"],
    )
    assert given(f"--gin_file={started}/config.gin", "Is it?", "So?") == (None, ["Is it?", "So?"])
    assert given(f"--checkpoint={started}", "Is it?") == (None, ["Is it?"])
    with pytest.raises(
        UserError,
        match="'Is it\\?' is not the directory of a run .*flan-jax generate RUN_DIR PROMPT",
    ):
        given("Is it?")
    (started / "config.gin").rename(started / "other.gin")
    with pytest.raises(UserError, match=r"has no config.gin\), nor a model; prompts come after it"):
        given(f"{started}/checkpoints", "Is it?")


def test_a_moved_run_keeps_its_name_in_results_and_a_copy_has_its_own(tmp_path):
    one = tmp_path / "one"
    remember_run(one, one, ["rte"])
    copied = shutil.copytree(one, tmp_path / "copied")
    assert run_name(copied) == "copied"
    remember_run(copied, copied, ["rte"])
    moved = one.rename(tmp_path / "moved")
    assert run_name(moved) == "one" and run_name(copied) == "copied"
    remember_run(moved, moved, ["rte"])
    one.mkdir()
    assert run_name(moved) == "one"


def record(directory: pathlib.Path, dataset: str, **more) -> None:
    directory.mkdir()
    (directory / "mixture.json").write_text(json.dumps({"card": [{"dataset": dataset}], **more}))


def test_trained_on_includes_the_datasets_of_the_initial_checkpoint(tmp_path):
    record(tmp_path / "first", "rte")
    record(
        tmp_path / "second", "cola", initial_checkpoint_path=str(tmp_path / "first/checkpoints/7")
    )
    record(
        tmp_path / "third", "copa", trained_before=["cola", "rte"], initial_checkpoint_path="/gone"
    )
    assert run_record.trained_on(tmp_path / "second", None) == ["cola", "rte"]
    assert run_record.trained_on(tmp_path / "third", None) == ["copa", "cola", "rte"]
    assert run_record.trained_before(str(tmp_path / "second")) == ["cola", "rte"]
    assert run_record.trained_before(None) == run_record.trained_before(str(tmp_path)) == []


def test_trained_before_is_recorded_again_after_mixture_json_was_deleted(tmp_path):
    record(tmp_path / "first", "rte")
    record(tmp_path / "second", "cola", trained_before=["copa"])
    began = functools.partial(
        run_record.began_with, tmp_path / "second", str(tmp_path / "first/checkpoints/7")
    )
    assert began() == ["copa"]
    (tmp_path / "second/mixture.json").write_text('{"trained_before": 7}')
    with pytest.raises(UserError, match="mixture.json is not readable"):
        began()
    (tmp_path / "second/mixture.json").unlink()
    assert began() == ["rte"]


def test_the_checkpoint_that_a_run_began_with_may_move(tmp_path):
    (tmp_path / "base").mkdir()
    for before in ("base", "./base", "/gone/base"):  # older versions noted it as it was typed
        (tmp_path / "mixture.json").write_text(json.dumps({"initial_checkpoint_path": before}))
        run_record.check_same(tmp_path, {"initial_checkpoint_path": str(tmp_path / "base")})
    (tmp_path / "mixture.json").write_text(json.dumps({"initial_checkpoint_path": str(tmp_path)}))
    with pytest.raises(UserError, match="INITIAL_CHECKPOINT_PATH is .* there and .*base' here"):
        run_record.check_same(tmp_path, {"initial_checkpoint_path": str(tmp_path / "base")})


@pytest.mark.slow
def test_eval_generate_convert_and_report_take_a_moved_and_a_copied_run(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    gin_file = pathlib.Path(__file__).parents[1] / "gin/flan.gin"
    python = ["env", f"PYTHONPATH={gin_file.parents[1]}", sys.executable, "-m", "flan_jax"]

    def ran(*argv: str, at=pathlib.Path("/")) -> str:
        return ended_well(run([*python, *argv], cwd=at)).stdout

    ran(
        "train",
        f"--gin_file={gin_file}",
        *SMALL,
        "--gin.MODEL_DIR=one",
        "--gin.CACHE_DIR=cache",
        "--gin.TRAIN_STEPS=2",
        "--gin.MIXTURE_OR_TASK_NAME=cola",
        "--gin.EVAL_DATASETS=copa",
        "--gin.EVAL_TEMPLATES=1",
        "--gin.EVAL_ROWS=2",
        at=work,
    )
    assert "1 of 1 are evaluated already" in ran("eval", str(work / "one"))
    answer = ran("generate", str(work / "one"), "Is water wet?")
    (work / "one").rename(work / "two")
    shutil.copytree(work / "two", work / "three")
    shutil.rmtree(work / "two/checkpoints/2/state")  # what the copy reads is its own
    for name in ("two", "three"):
        assert ran("generate", name, "Is water wet?", at=work) == answer
        assert "2 of 2" not in ran("eval", name, "--gin.EVAL_TEMPLATES=2", at=work)
        assert f"from {name}/checkpoints/2" in ran(
            "convert", name, "--to=hf", f"--output={name}_hf", at=work
        )
        assert "| copa |" in ran("report", str(work / name))
