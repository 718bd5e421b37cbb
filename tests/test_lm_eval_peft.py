"""lm-evaluation-harness on runs that tune a frozen base, and on adapters of Hugging Face's peft.

Needs lm_eval, which is an extra: without it the tests are skipped, and say so.
"""

import csv
import json
import sys

import numpy as np
import pytest

from support.converting import convert
from support.processes import ended_well
from support.runs import command, run, run_here

NOT_CHECKED = "NOT CHECKED AGAINST LM-EVALUATION-HARNESS: lm_eval is not installed here"
pytest.importorskip("lm_eval", reason=NOT_CHECKED)

from test_lm_eval import instances, predicted, write_tasks  # noqa: E402

SETTINGS = [
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 300, 'targets': 64}",
    "--gin.HELD_OUT=commonsense",
    "--gin.MIXTURE_OR_TASK_NAME=rte",
    "--gin.EVAL_DATASETS=copa",
    "--gin.EVAL_TEMPLATES=2",
    "--gin.EVAL_ROWS=6",
    "--gin.TRAIN_STEPS=3",
    "--gin.LEARNING_RATE=0.3",
]
METHODS = {
    "lora": ["--gin.PEFT=lora", "--gin.LORA_RANK=2"],
    "prompt": ["--gin.PEFT=prompt", "--gin.PROMPT_LENGTH=7"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, a run of each method that tunes it, and these as adapters in peft's form."""
    directory = tmp_path_factory.mktemp("runs")

    def train(name, *more):
        done = run_here(command("train", directory / "cache", directory / name, *SETTINGS, *more))
        assert done.returncode == 0, done.stdout + done.stderr

    train("base")
    convert("flan", "hf", directory / "base", directory / "hf")
    for method, settings in METHODS.items():
        train(method, *settings, f"--gin.INITIAL_CHECKPOINT_PATH={directory / 'base'}")
        adapter = directory / f"{method}_adapter"
        convert("flan", "peft", directory / method, adapter, f"--base={directory / 'hf'}")
    return directory


def opened(**arguments):
    from flan_jax.lm_eval.model import FlanLM

    return FlanLM(protocol="flan", **arguments)


def scores(lm, predictions):
    """The log-probability of each option, by template and row."""
    return {
        template: [
            [
                score
                for score, _ in lm.loglikelihood(
                    instances("loglikelihood", *((line["prompt"], o) for o in line["options"]))
                )
            ]
            for line in lines
        ]
        for template, lines in predictions.items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_the_evaluation_of_the_run(runs, method):
    predictions = predicted(runs / method)
    base = scores(opened(run=str(runs / "base")), predictions)
    lm = opened(run=str(runs / method))
    assert lm.max_length == (293 if method == "prompt" else 300)
    found, adapter = scores(lm, predictions), f"{runs / method}_adapter"
    for template, lines in predictions.items():
        expected = np.array([line["scores"] for line in lines])
        np.testing.assert_allclose(found[template], expected, atol=1e-4)
        assert np.abs(np.array(base[template]) - expected).max() > 1e-2
    # the adapter with the gin files of its base, and by its name alone
    lengths = {"gin.TASK_FEATURE_LENGTHS": {"inputs": 300, "targets": 64}}
    for arguments in ({"run": str(runs / "base"), "checkpoint": adapter}, {"model": adapter}):
        more = lengths if "model" in arguments else {}
        other = opened(**arguments, **more)
        assert other.max_length == lm.max_length
        for template, numbers in scores(other, predictions).items():
            np.testing.assert_allclose(numbers, found[template], atol=1e-5)
        ask = instances("generate_until", ("Is it?", {"until": [], "max_gen_toks": 6}))
        assert other.generate_until(ask) == lm.generate_until(ask)


def test_the_command_of_the_harness_evaluates_an_adapter(runs, tmp_path, monkeypatch):
    predictions = predicted(runs / "prompt")
    write_tasks(tmp_path / "tasks", predictions)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = f"run={runs / 'base'},checkpoint={runs / 'prompt_adapter'},protocol=flan"
    tasks = ",".join(f"copa_{template}" for template in predictions)
    paths = ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out")]
    arguments = ["run", "--model", "flan_jax", "--model_args", model, "--tasks", tasks, *paths]
    ended_well(run([sys.executable, "-m", "flan_jax.lm_eval", *arguments]))
    found = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())["results"]
    with open(runs / "prompt/results.csv", newline="") as file:
        ours = {
            row["template"]: float(row["value"])
            for row in csv.DictReader(file)
            if (row["model"], row["metric"], row["scoring"]) == ("tuned", "accuracy", "sum")
        }
    assert len(ours) == 2
    for template, value in ours.items():
        assert 100 * found[f"copa_{template}"]["acc,none"] == pytest.approx(value)
