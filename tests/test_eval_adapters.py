"""Several runs or adapters that tune the same base, evaluated in one call of `flan-jax eval`."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest

from flan_jax.checkpoints import load
from support.converting import convert
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
    """A base of two steps, two runs that tune it with LoRA, and two with prompts of 60 and 80."""
    directory = tmp_path_factory.mktemp("runs")
    ran(command("train", directory / "cache", directory / "base", *SETTINGS))
    lora = ["--gin.PEFT=lora", "--gin.LORA_RANK=2"]
    prompt = ["--gin.PEFT=prompt", "--gin.LEARNING_RATE=0.3"]
    tuned = {
        "a": [*lora, "--gin.LORA_TARGETS=qv"],
        "b": lora,
        "p": [*prompt, "--gin.PROMPT_LENGTH=60"],
        "q": [*prompt, "--gin.PROMPT_LENGTH=80"],
    }
    for name, settings in tuned.items():
        base = f"--gin.INITIAL_CHECKPOINT_PATH={directory / 'base'}"
        ran(command("train", directory / "cache", directory / name, *SETTINGS, *settings, base))
    convert("flan", "hf", directory / "base", directory / "hf")
    return directory


def evaluate(
    runs: pathlib.Path, output: pathlib.Path, *arguments: str, run: str = "base"
) -> list[str]:
    return command("eval", runs / "cache", runs / run, *SETTINGS, f"--output={output}", *arguments)


def of_runs(runs: pathlib.Path, *names: str) -> dict[tuple[str, str], float]:
    """The numbers of runs as each was evaluated at its end."""
    return {key: value for name in names for key, value in numbers(runs / name).items()}


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
    assert found == of_runs(runs, "a", "b")


def test_adapters_of_peft_are_evaluated_as_the_runs_that_they_are_made_of(
    runs, tmp_path, monkeypatch
):
    for name in ("a", "p"):
        convert("flan", "peft", runs / name, tmp_path / name, f"--base={runs / 'hf'}")
    read, bases = load.load_base, []
    monkeypatch.setattr(load, "load_base", lambda *rest: bases.append(1) or read(*rest))
    ran(evaluate(runs, tmp_path / "out", f"--adapters={tmp_path / 'a'},{tmp_path / 'p'}"))
    assert len(bases) == 1
    assert numbers(tmp_path / "out") == of_runs(runs, "a", "p")


@pytest.mark.parametrize("settings_of", ["base", "p"])
def test_inputs_leave_room_for_the_prompt_of_each_run(runs, tmp_path, settings_of):
    """Of 160 tokens 100 and 80, by whichever run's settings: many of copa's inputs are longer."""
    adapters = f"--adapters={runs / 'a'},{runs / 'p'},{runs / 'q'}"
    prompt = ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=60"] if settings_of == "p" else []
    ran(evaluate(runs, tmp_path, adapters, *prompt, run=settings_of))
    assert numbers(tmp_path) == of_runs(runs, "a", "p", "q")
    for name in ("p", "q"):
        found, expected = scores(tmp_path / f"predictions/{name}.tuned"), scores_of_run(runs, name)
        np.testing.assert_allclose(found, expected, atol=1e-4)  # 1 and more if they are longer


def scores_of_run(runs: pathlib.Path, name: str) -> list[list[float]]:
    return scores(runs / name / "predictions/tuned")


def scores(directory: pathlib.Path) -> list[list[float]]:
    """The scores of both options of each row in each template."""
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in path.open()]
    return [json.loads(line)["scores"] for line in lines]


def test_a_prompt_without_room_is_refused(runs, tmp_path):
    short = "--gin.TASK_FEATURE_LENGTHS={'inputs': 60, 'targets': 48}"
    done = run_here(evaluate(runs, tmp_path, short, f"--adapters={runs / 'p'}"))
    assert done.returncode == 2
    assert "a prompt of PROMPT_LENGTH=60 leaves no room in TASK_FEATURE_LENGTHS" in done.stderr


def test_two_adapters_of_one_name_are_refused(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "a")
    done = run_here(evaluate(runs, tmp_path / "out", f"--adapters={runs / 'a'},{tmp_path / 'a'}"))
    assert done.returncode == 2
    assert "both under the name 'a' and step 2; rename one of the directories" in done.stderr


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
