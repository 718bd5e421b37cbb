"""Evaluation as a user runs it.

While training, after kills, on several hosts, and in other ways than a run trained.
"""

import collections
import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from support.processes import ended_well
from support.runs import SMALL, run_here
from support.two_processes import finish, start_two

EVALUATED = [
    "--gin.HELD_OUT=commonsense",
    "--gin.MIXTURE_OR_TASK_NAME=cola",
    "--gin.Data.validation_batches=0",
    "--gin.EVAL_DATASETS=copa+hellaswag+wmt14_enfr",
    "--gin.EVAL_TEMPLATES=4",
    "--gin.EVAL_ROWS=4",
]
TRAINED = [
    *SMALL,
    "--gin.TRAIN_STEPS=6",
    "--gin.EVAL_EVERY=2",
    "--gin.EVAL_EVERY_ROWS=2",
    "--gin.UNTUNED_INSTRUCTIONS=baseline",
    *EVALUATED,
]
# Four forward templates of three datasets, and both inverted ones of the translations.
PAIRS = 14


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("cache")


def command(
    verb: str, cache, model_dir, *arguments: str, gin_file: str = "gin/flan.gin"
) -> list[str]:
    return [
        sys.executable,
        "-m",
        f"flan_jax.{verb}",
        f"--gin_file={gin_file}",
        f"--gin.CACHE_DIR={cache}",
        f"--gin.MODEL_DIR={model_dir}",
        *arguments,
    ]


def ran(arguments: list[str]) -> str:
    """What a command prints that must succeed."""
    return ended_well(run_here(arguments)).stdout


def table(directory: pathlib.Path) -> list[dict[str, str]]:
    with open(directory / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def lines(directory: pathlib.Path) -> list[str]:
    """The lines of `results.csv` in alphabetical order."""
    return sorted((directory / "results.csv").read_text().splitlines())


def signalled(
    arguments: list[str], directory: pathlib.Path, about: str, number: int
) -> subprocess.Popen:
    """Starts a command and sends it a signal once `evaluated.json` names `about`."""
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    path, deadline = directory / "evaluated.json", time.time() + 300
    while (
        time.time() < deadline
        and process.poll() is None
        and not (path.exists() and about in path.read_text())
    ):
        time.sleep(0.002)
    process.send_signal(number)
    process.wait(300)
    return process


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> pathlib.Path:
    model_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    ran(command("train", cache, model_dir, *TRAINED))
    return model_dir


# --- While training
# --------------------------------------------------------------------------------------------------


def test_while_training_some_rows_are_evaluated_and_at_the_end_all(trained):
    counts = collections.Counter(
        (r["model"], r["step"], r["instruction_mode"], r["n"])
        for r in table(trained)
        if r["scoring"] in ("sum", "greedy")
    )
    assert counts == {
        ("tuned", "2", "template", "2"): PAIRS,
        ("tuned", "4", "template", "2"): PAIRS,
        ("tuned", "6", "template", "4"): PAIRS,
        ("untuned", "0", "baseline", "4"): 4,
    }
    assert {r["n"] for r in table(trained) if r["model"] == "majority"} == {"4"}
    folders = {
        folder.name: len(list(folder.glob("*.jsonl")))
        for folder in (trained / "predictions").iterdir()
    }
    assert folders == {"tuned": PAIRS, "untuned.baseline": 4}


def test_the_report_shows_the_end_and_the_way_there(trained):
    text = (trained / "report.md").read_text()
    end, way = text.split("## Step by step")
    assert "| copa | accuracy | 4 | 4 |" in end and "(baseline)" in end
    steps = [
        line.split(" | ")[3:6]
        for line in way.splitlines()
        if line.startswith("| tuned | Commonsense |")
    ]
    assert steps == [["2", "2", "4"], ["4", "2", "4"], ["6", "2", "8"]]


def test_translation_into_english_is_measured_against_the_english_text_and_stands_apart(trained):
    inverted = [
        r
        for r in table(trained)
        if r["kind"] == "inverted" and r["model"] == "tuned" and r["step"] == "6"
    ]
    assert {(r["dataset"], r["metric"], r["scoring"]) for r in inverted} == {
        ("wmt14_enfr", "bleu", "greedy")
    }
    file = trained / "predictions/tuned/wmt14_enfr.test.into_english.jsonl"
    for row in map(json.loads, file.read_text().splitlines()):
        assert (
            row["answer"].isascii()
            and row["answer"] not in row["prompt"]
            and row["prompt"].startswith("Put this")
        )
        assert row["cut"], "an untrained model does not end"
    assert "## Translation, inverted templates" in (trained / "report.md").read_text()


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_evaluates_ends_with_the_same_numbers(
    cache, tmp_path, trained
):
    model_dir = tmp_path / "run"
    arguments = command("train", cache, model_dir, *TRAINED)
    killed = signalled(arguments, model_dir, "tuned/step 2/", signal.SIGKILL)
    assert (
        killed.returncode == -signal.SIGKILL
        and len(json.loads((model_dir / "evaluated.json").read_text())) > 0
    )
    terminated = signalled(arguments, model_dir, "tuned/step 4/", signal.SIGTERM)
    output = terminated.stdout.read()
    assert (
        terminated.returncode == 143
        and "[tuned] step 2: " in output
        and "are evaluated already" in output
    ), output
    assert "SIGTERM: saved step 4;" in output and not (model_dir / "report.md").exists()
    output = ran(arguments)
    assert "resuming from step 4" in output and "[tuned] step 4: " in output
    assert lines(model_dir) == lines(trained)
    assert (model_dir / "report.md").read_text() == (trained / "report.md").read_text()


# --- flan-jax eval
# --------------------------------------------------------------------------------------------------

TWELVE = ["--gin.EVAL_DATASETS=copa+hellaswag+piqa", "--gin.EVAL_TEMPLATES=4", "--gin.EVAL_ROWS=8"]


@pytest.fixture(scope="module")
def evaluated(cache, trained, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("evaluated")
    ran(
        command(
            "eval", cache, trained, *TWELVE, f"--output={output}", gin_file=trained / "config.gin"
        )
    )
    return output


@pytest.mark.slow
def test_kill_nine_in_an_evaluation_of_twelve_pairs_loses_and_doubles_nothing(
    cache, trained, evaluated, tmp_path
):
    arguments = command(
        "eval", cache, trained, *TWELVE, f"--output={tmp_path}", gin_file=trained / "config.gin"
    )
    killed = signalled(arguments, tmp_path, "copa/test/options_first", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    done = len(json.loads((tmp_path / "evaluated.json").read_text()))
    assert 3 <= done < 12
    # The pair at hand may have written its predictions without being done.
    times = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "predictions/tuned").glob("*.jsonl")
    }
    finished = sorted(times, key=times.get)[:done]
    terminated = signalled(arguments, tmp_path, "hellaswag/test/", signal.SIGTERM)
    output = terminated.stdout.read()
    assert terminated.returncode == 143 and "SIGTERM: the evaluation is not finished" in output, (
        output
    )
    finished = {path: path.stat().st_mtime_ns for path in finished}
    done = len(json.loads((tmp_path / "evaluated.json").read_text()))
    output = ran(arguments)
    assert (
        f"[tuned] step 6: {done} of 12 are evaluated already" in output
        and f"{12 - done}/{12 - done}  " in output
    )
    assert (
        {path: path.stat().st_mtime_ns for path in finished}
        == finished
        == {path: times[path] for path in finished}
    )
    assert (
        lines(tmp_path) == lines(evaluated)
        and len(set(lines(tmp_path))) == len(lines(tmp_path)) == 1 + 60 + 3
    )
    assert "everything is evaluated already" in ran(arguments)
    assert lines(tmp_path) == lines(evaluated)


def test_a_lost_line_and_another_dtype_are_evaluated_again(cache, trained, evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "again")
    arguments = command(
        "eval",
        cache,
        trained,
        *TWELVE,
        f"--output={tmp_path / 'again'}",
        gin_file=trained / "config.gin",
    )
    kept = [
        line
        for line in (tmp_path / "again/results.csv").read_text().splitlines(keepends=True)
        if not (",copa,test,options_first," in line and ",per_char," in line)
    ]
    gone = kept[-1].replace(kept[-1].split(",")[7], "renamed")
    (tmp_path / "again/results.csv").write_text("".join([*kept, gone]))
    lost = sorted((tmp_path / "again/predictions/tuned").glob("piqa.*.units.json"))[1]
    contents = lost.read_text()
    lost.unlink()
    output = ran(arguments)
    assert lost.read_text() == contents
    assert (
        "[tuned] step 6: 10 of 12 are evaluated already" in output
        and "/renamed (the template no longer exists)" in output
    )
    assert lines(tmp_path / "again") == lines(evaluated)
    result = run_here([*arguments, "--gin.EVAL_ROWS=2"])
    assert result.returncode == 2 and "results.csv has numbers of 8 rows of" in result.stderr
    assert lines(tmp_path / "again") == lines(evaluated)
    assert "are evaluated already" not in ran([*arguments, "--gin.T5Config.dtype=bfloat16"])


def test_a_second_run_in_one_output_has_predictions_of_its_own_unless_it_has_the_name_of_the_first(
    cache, trained, evaluated, tmp_path
):
    both = shutil.copytree(evaluated, tmp_path / "both")
    for name in ("other", "elsewhere/run"):
        shutil.copytree(trained, tmp_path / name)

    def arguments(name: str) -> list[str]:
        return command(
            "eval",
            cache,
            trained,
            *TWELVE,
            "--gin.EVAL_DATASETS=copa",
            "--gin.EVAL_TEMPLATES=1",
            f"--output={both}",
            f"--checkpoint={tmp_path / name}",
            gin_file=trained / "config.gin",
        )

    before = {path: path.stat().st_mtime_ns for path in both.glob("predictions/tuned/*.jsonl")}
    ran(arguments("other"))
    assert before == {
        path: path.stat().st_mtime_ns for path in both.glob("predictions/tuned/*.jsonl")
    }
    assert len(list((both / "predictions/other.tuned").glob("*.jsonl"))) == 1
    kept = lines(both)
    assert set(lines(evaluated)) < set(kept)
    for given, says in (
        (arguments("elsewhere/run"), "the numbers of 'tuned' of another run 'run', that in"),
        ([*arguments("other"), "--name=../tuned"], "cannot be a folder of predictions"),
    ):
        result = run_here(given)
        assert result.returncode == 2 and says in result.stderr and lines(both) == kept, (
            result.stderr
        )


def start_two_processes(arguments: list[str]) -> list[subprocess.Popen]:
    """Two processes of two devices each."""
    return start_two([*arguments, "--gin.MESH={'fsdp': 4}"], devices=2)


@pytest.mark.slow
def test_sigterm_ends_the_evaluation_of_two_processes(cache, trained, evaluated, tmp_path):
    arguments = command(
        "eval", cache, trained, *TWELVE, f"--output={tmp_path}", gin_file=trained / "config.gin"
    )
    processes = start_two_processes(arguments)
    path = tmp_path / "evaluated.json"
    while not (path.exists() and "copa/test/" in path.read_text()) and processes[0].poll() is None:
        time.sleep(0.002)
    processes[1].send_signal(signal.SIGTERM)
    outputs = finish(processes, status=143)
    assert "SIGTERM: the evaluation is not finished" in outputs[0], outputs
    finish(start_two_processes(arguments))
    assert lines(tmp_path) == lines(evaluated)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(cache, trained, evaluated, tmp_path):
    """Each process has two devices and scores its own quarter-batches of every batch.

    The first one writes.
    """
    processes = start_two_processes(
        command(
            "eval", cache, trained, *TWELVE, f"--output={tmp_path}", gin_file=trained / "config.gin"
        )
    )
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "process 1 of 2, 4 cpu devices" in outputs[1]
    assert lines(tmp_path) == lines(evaluated)
    for path in (evaluated / "predictions/tuned").glob("*.jsonl"):
        one, two = (
            list(map(json.loads, file.read_text().splitlines()))
            for file in (path, tmp_path / "predictions/tuned" / path.name)
        )
        for ours, theirs in zip(one, two, strict=True):
            # Sums of some hundred nats of float32 log-probabilities: a relative 1e-7 is their last
            # bit.
            assert (
                theirs.pop("scores") == pytest.approx(ours.pop("scores"), rel=1e-7, abs=1e-5)
                and theirs == ours
            )


def test_the_best_template_is_chosen_on_validation_rows_once_they_are_evaluated(
    cache, trained, evaluated
):
    before = (evaluated / "report.md").read_text()
    assert "†" in before
    ran(
        command(
            "eval",
            cache,
            trained,
            *TWELVE,
            f"--output={evaluated}",
            "--gin.EVAL_SPLIT=validation",
            gin_file=trained / "config.gin",
        )
    )
    rows = [r for r in table(evaluated) if r["dataset"] == "copa" and r["scoring"] == "sum"]
    validation = {r["template"]: float(r["value"]) for r in rows if r["split"] == "validation"}
    test = {r["template"]: float(r["value"]) for r in rows if r["split"] == "test"}
    assert len(validation) == len(test) == 4
    after = (evaluated / "report.md").read_text()
    best = max(sorted(test), key=validation.get)  # of equal ones the first by name
    assert "†" not in after and f"| {test[best]:.1f} {best} |" in after


def test_a_model_tuned_without_instructions_is_evaluated_with_them(cache, tmp_path):
    model_dir = tmp_path / "none"
    ran(
        command(
            "train",
            cache,
            model_dir,
            *SMALL,
            *EVALUATED,
            "--gin.TRAIN_STEPS=2",
            "--gin.INSTRUCTIONS=none",
        )
    )
    alone = lines(model_dir)
    for changes in (
        ["INSTRUCTIONS=template"],
        [
            "INSTRUCTIONS=baseline",
            "OPTIONS_STYLE=none",
            "SHOTS=1",
            "TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 48}",
        ],
    ):
        ran(
            command(
                "eval",
                cache,
                model_dir,
                *(f"--gin.{change}" for change in changes),
                gin_file=model_dir / "config.gin",
            )
        )
    assert set(alone) < set(lines(model_dir))
    counts = collections.Counter(
        (r["instruction_mode"], r["shots"])
        for r in table(model_dir)
        if r["model"] == "tuned" and r["scoring"] in ("sum", "greedy")
    )
    assert counts == {
        ("none", "0"): 3,
        ("template", "0"): PAIRS,
        ("baseline, options none", "1"): 4,
    }
    assert {path.name for path in (model_dir / "predictions").iterdir()} == {
        "tuned",
        "tuned.none",
        "untuned.none",
        "tuned.baseline.options_none.1_shots",
    }
    file = (
        model_dir / "predictions/tuned.baseline.options_none.1_shots/wmt14_enfr.test.say_it.jsonl"
    )
    prompts = [json.loads(line)["prompt"] for line in file.read_text().splitlines()]
    assert all(
        re.fullmatch(r"(English: .+\nFrench: .+\n\n)?English: .+\nFrench:", prompt)
        for prompt in prompts
    )
    assert max(prompt.count("French:") for prompt in prompts) == 2
    labels = {
        line.split(" | ")[1]
        for line in (model_dir / "report.md").read_text().splitlines()
        if line.startswith("| copa |")
    }
    assert labels == {
        "0 shots, instructions: none",
        "0 shots, instructions: template",
        "1 shots, instructions: baseline, options none",
    }


@pytest.mark.parametrize("verb", ["eval", "train"])
def test_rows_of_which_none_is_usable_are_a_clear_error_message(cache, trained, tmp_path, verb):
    row = {"premise": "It is grey.", "choice1": "it rains", "choice2": "it rains"}
    for split in ("train", "validation"):
        path = tmp_path / "copa" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text((json.dumps({**row, "question": "effect", "label": 0}) + "\n") * 4)
    settings = ["DATA_SOURCE=jsonl", f"DATA_DIR={tmp_path}", "EVAL_DATASETS=copa"]
    arguments = [f"--gin.{setting}" for setting in settings]
    if verb == "eval":
        arguments += [f"--output={tmp_path / 'out'}", f"--checkpoint={trained}"]
    else:
        mine = tmp_path / "mine.jsonl"
        mine.write_text('{"prompt": "Is it wet?", "completion": "yes"}\n' * 4)
        arguments += [f"--gin.MIXTURE_OR_TASK_NAME={mine}", "--gin.TRAIN_STEPS=1"]
    gin_file = trained / "config.gin" if verb == "eval" else "gin/flan.gin"
    run = trained if verb == "eval" else tmp_path / "run"
    result = run_here(command(verb, cache, run, *SMALL, *arguments, gin_file=gin_file))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "no row of copa is usable, so there is nothing to evaluate" in result.stderr
    assert not (tmp_path / "run/checkpoints/1").exists()


@pytest.mark.parametrize(
    "setting, says",
    [
        ("EVAL_EVERY=0", "EVAL_EVERY must be None or a whole number of at least 1"),
        ("UNTUNED_INSTRUCTIONS=gpt3", "one of template, none, dataset_name"),
    ],
)
def test_settings_that_contradict_each_other_are_a_clear_error_message(
    cache, tmp_path, setting, says
):
    result = run_here(command("train", cache, tmp_path / "bad", *SMALL, f"--gin.{setting}"))
    assert result.returncode == 2 and says in result.stderr and "Traceback" not in result.stderr
