"""Runs on a set of rows of every kind: the same after kill -9, on other devices, in two processes.

The set has dialogues in a chat template, pairs, and a dataset of the catalogue, with shares and
caps; each row has exemplars and a style of options of its own.
"""

import json
import pathlib
import signal
import sys

import pytest

from flan_jax.config import gin_files
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.prepare import make_parser
from support import chat_templates, own_rows
from support.processes import ended_well
from support.runs import (
    SMALL,
    SMALL_DECODER,
    assert_same_end,
    losses,
    run,
    start_and_signal,
    wait_for_step,
)
from support.two_processes import finish, start_two

pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")
pytest.importorskip("jinja2", reason="DIALOGUES ARE NOT CHECKED: jinja2 ([hf]) is missing")
pytestmark = pytest.mark.slow

STEPS = 10
SETTINGS = [
    *SMALL,
    "--gin_file=gin/flan.gin",
    "--gin.ARCHITECTURE=decoder",
    "--gin.SIZE=decoder_test",
    *SMALL_DECODER,
    "--gin.DecoderConfig.dtype=float32",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 400, 'targets': 100}",
    "--gin.HELD_OUT=none",
    "--gin.SHOTS=mixed",
    "--gin.OPTIONS_STYLE=mixed",
    f"--gin.TRAIN_STEPS={STEPS}",
    "--gin.CHECKPOINT_EVERY=3",
    "--gin.LOG_EVERY=1",
]


def dialogue(number: int) -> dict:
    """Returns a record of one to three turns."""
    messages = []
    for turn in range(1 + number % 3):
        messages.append({"role": "user", "content": f"Question {number}.{turn}?"})
        messages.append({"role": "assistant", "content": f"Answer {number}.{turn}."})
    return {"messages": messages}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """The files that train, and `whole`: an undisturbed run on them, on one device."""
    directory = tmp_path_factory.mktemp("runs")
    chat_templates.save("smollm 2", directory / "tokenizer")
    own_rows.write(directory / "chat.jsonl", [dialogue(i) for i in range(30)])
    pairs = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(40)]
    own_rows.write(directory / "my.jsonl", pairs)
    ended_well(run(training(directory, "whole")))
    return directory


def training(runs: pathlib.Path, name: str, *more: str) -> list[str]:
    """The command of a run on all of the files."""
    return [
        *(sys.executable, "-m", "flan_jax.train", *SETTINGS),
        f"--gin.VOCABULARY={runs}/tokenizer/tokenizer.json",
        f"--gin.MIXTURE_OR_TASK_NAME=rte:8+{runs}/chat.jsonl:20:50%+{runs}/my.jsonl:10",
        f"--gin.CACHE_DIR={runs}/cache",
        f"--gin.MODEL_DIR={runs / name}",
        *more,
    ]


def assert_same_losses(runs: pathlib.Path, name: str) -> None:
    expected, found = losses(runs / "whole"), losses(runs / name)
    assert len(expected) == STEPS and found == pytest.approx(expected, rel=1e-5)


def test_the_set_has_the_shares_that_were_named_and_rows_of_every_style(runs):
    card = json.loads((runs / "whole/mixture.json").read_text())["card"]
    shares = {row["dataset"]: row["share"] for row in card}
    expected = {"chat.jsonl": 0.5, "rte": 0.5 * 8 / 18, "my.jsonl": 0.5 * 10 / 18}
    assert shares == pytest.approx(expected)
    arguments = [f"--gin_file={runs}/whole/config.gin"]
    gin_files.parse_command_line(arguments, gin_files.CONFIGURED, make_parser())
    data = open_data(DataConfig())
    pairs, rte = texts(data, "my.jsonl"), texts(data, "rte")
    assert len({text.count("Say ") for text in pairs}) > 2  # of none, 1, 2 or 5 exemplars
    assert 0 < sum("Options:" in text for text in rte) < len(rte)


def texts(data, name: str) -> list[str]:
    """What the model reads in each row of a dataset."""
    shard = data.train.open_shard(name, 0)
    decode = data.vocabulary.plain._rendered_model.decode
    return [
        decode(shard.inputs[i].tolist(), skip_special_tokens=False)
        for i in range(len(shard.inputs))
    ]


def test_kill_nine_twice_changes_nothing(runs):
    for step in (4, 7):
        killed = start_and_signal(training(runs, "killed"), runs / "killed", step, signal.SIGKILL)
        assert killed.returncode == -signal.SIGKILL, killed.stdout.read()
    ended_well(run(training(runs, "killed")))
    assert_same_end(runs / "killed", runs / "whole")


def test_eight_devices_have_the_losses_of_one(runs):
    mesh = "--gin.MESH={'data': 2, 'fsdp': 2, 'model': 2}"
    ended_well(run(training(runs, "eight", mesh), devices=8))
    assert_same_losses(runs, "eight")


def test_two_processes_have_the_losses_of_one_and_kill_nine_changes_nothing(runs):
    finish(start_two(training(runs, "two")))
    assert_same_losses(runs, "two")
    processes = start_two(training(runs, "two_killed"))
    wait_for_step(runs / "two_killed", 5)
    for process in processes:
        process.kill()
    assert -signal.SIGKILL in [process.wait(60) for process in processes]
    outputs = finish(start_two(training(runs, "two_killed")))
    assert "resuming from step" in outputs[0]
    assert_same_end(runs / "two_killed", runs / "two")
