"""Several runs that tune the same base, evaluated in one call of `flan-jax eval`."""

import csv
import pathlib
import shutil

import numpy as np
import pytest

from flan_jax.checkpoints import load
from support.runs import command, run_here

SETTINGS = [
    "--gin.HELD_OUT=commonsense",
    "--gin.MIXTURE_OR_TASK_NAME=cola",
    "--gin.Data.validation_batches=0",
    "--gin.EVAL_DATASETS=copa",
    "--gin.EVAL_TEMPLATES=2",
    "--gin.EVAL_ROWS=4",
    "--gin.TRAIN_STEPS=2",
]


def ran(arguments: list[str]) -> str:
    done = run_here(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def numbers(directory: pathlib.Path) -> dict[tuple[str, str], float]:
    with open(directory / "results.csv", newline="") as file:
        return {
            (row["run"], row["template"]): float(row["value"])
            for row in csv.DictReader(file)
            if row["model"] == "tuned"
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> pathlib.Path:
    """A base of two steps, and two runs that tune it with LoRA."""
    directory = tmp_path_factory.mktemp("runs")
    ran(command("train", directory / "cache", directory / "base", *SETTINGS))
    for name, targets in (("a", "qv"), ("b", "all")):
        lora = [
            "--gin.PEFT=lora",
            f"--gin.LORA_TARGETS={targets}",
            "--gin.LORA_RANK=2",
            f"--gin.INITIAL_CHECKPOINT_PATH={directory / 'base'}",
        ]
        ran(command("train", directory / "cache", directory / name, *SETTINGS, *lora))
    return directory


def evaluate(runs: pathlib.Path, output: pathlib.Path, *arguments: str) -> list[str]:
    return command(
        "eval", runs / "cache", runs / "base", *SETTINGS, f"--output={output}", *arguments
    )


def test_runs_that_tune_one_base_are_evaluated_in_one_call_that_reads_it_once(
    runs, tmp_path, monkeypatch
):
    read, bases = load.load_base, []
    monkeypatch.setattr(load, "load_base", lambda *rest: bases.append(1) or read(*rest))
    adapters = f"--adapters={runs / 'a'},{runs / 'b'}"
    ran(evaluate(runs, tmp_path / "both", adapters))
    assert len(bases) == 1
    found = numbers(tmp_path / "both")
    assert {run for run, _ in found} == {"a", "b"}
    for name in ("a", "b"):
        alone = numbers(runs / name)  # as the run itself was evaluated at its end
        assert {key: value for key, value in found.items() if key[0] == name} == alone


def test_a_base_that_differs_in_one_bit_is_refused(runs, tmp_path):
    """One bit of one parameter of the base."""
    import orbax.checkpoint as ocp

    copy = tmp_path / "base"
    shutil.copytree(runs / "base", copy)
    place = copy / "checkpoints/2/params"
    handler = ocp.StandardCheckpointer()
    params = handler.restore(place)
    table = params["token_embedder"]["embedding"]
    bits = np.array(table).view(np.uint32).copy()
    bits[3, 5] ^= 1
    params["token_embedder"]["embedding"] = bits.view(np.float32)
    shutil.rmtree(place)
    handler.save(place, params)
    handler.wait_until_finished()
    run = tmp_path / "a"
    shutil.copytree(runs / "a", run)
    record = run / "base.json"
    record.write_text(record.read_text().replace(str(runs / "base"), str(copy)))
    done = run_here(evaluate(runs, tmp_path / "out", f"--adapters={run}"))
    assert done.returncode == 2
    assert f"{copy} is not the base that {run} was tuned on" in done.stderr
    assert "give the base it began with" in done.stderr


def test_adapters_and_checkpoint_exclude_each_other(runs, tmp_path):
    done = run_here(evaluate(runs, tmp_path, "--adapters=a", "--checkpoint=b"))
    assert done.returncode == 2
    assert "--adapters takes directories with commas between them" in done.stderr
