"""What tuning changed in a run: sample answers, validation, verdicts, the text of a terminal."""

import dataclasses
import json
import pathlib

import pytest
from test_report import row

from flan_jax.errors import UserError
from flan_jax.metrics.uncertainty import Difference
from flan_jax.report import before_after
from flan_jax.report.before_after import BeforeAfter, Change, before_after_of, read_before_after
from flan_jax.report.comparisons import compare
from flan_jax.report.figures import difference
from flan_jax.report.figures.report_data import ReportData
from flan_jax.report.sample_answers import (
    Pair,
    SampleAnswer,
    keep_answers,
    read_answers,
    side_by_side,
)
from flan_jax.report.terminal import WIDTH, answers_text, results_text
from flan_jax.report.write import conclude
from flan_jax.training.config import TrainConfig
from support.processes import ended_well
from support.runs import command, run_here

PROMPTS = ["Is rain wet?", "Translate to German: a | b"]


def train(tmp_path, *arguments: str, prompts=PROMPTS):
    words = command(
        "train",
        tmp_path / "cache",
        tmp_path / "run",
        "--gin.TRAIN_STEPS=2",
        "--gin.MIXTURE_OR_TASK_NAME=cola",
        "--gin.HELD_OUT=none",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 12}",
        f"--gin.SAMPLE_PROMPTS={prompts!r}",
        *arguments,
    )
    return run_here(words)


@pytest.mark.slow
def test_prompts_are_answered_before_and_after_tuning(tmp_path):
    result = ended_well(train(tmp_path))
    answers = read_answers(tmp_path / "run")
    names = [(each.model, each.step) for each in answers]
    assert names == [("tuned", 2)] * 2 + [("untuned", 0)] * 2
    assert [each.prompt for each in answers] == PROMPTS * 2
    assert "> Is rain wet?" in result.stdout and "Before tuning" in result.stdout

    # The same command answers nothing again, nor do the same prompts in a file.
    before = (tmp_path / "run/answers.jsonl").stat().st_mtime_ns
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    ended_well(train(tmp_path, prompts=str(file)))
    assert (tmp_path / "run/answers.jsonl").stat().st_mtime_ns == before


def test_a_run_without_held_out_datasets_shows_its_answers(tmp_path, capsys):
    keep_answers(tmp_path, [SampleAnswer("untuned", 0, "d", "Is snow cold?", "No")])
    assert conclude(tmp_path, True, "", is_evaluated=False) == 0
    assert "> Is snow cold?" in capsys.readouterr().out


def test_a_prompt_that_is_too_long_is_found_before_the_run_works(tmp_path):
    result = train(tmp_path, prompts=["long " * 100])
    assert result.returncode == 2 and "has 501 tokens with its end" in result.stderr
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("value", [[], [""], 3, {"a": 1}])
def test_sample_prompts_are_a_file_or_a_list(value):
    with pytest.raises(UserError, match="SAMPLE_PROMPTS must be a file with a prompt a line"):
        TrainConfig(sample_prompts=value)


def test_validation_before_is_that_of_step_0(tmp_path):
    lines = [
        {"step": 0, "validation_loss": 3.5, "validation_accuracy": 0.25},
        {"step": 1, "loss": 3.0},
        {"step": 2, "validation_loss": 2.5, "validation_accuracy": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss, accuracy = before_after_of(tmp_path).validation
    assert (loss.before, loss.after) == (3.5, 2.5)
    assert accuracy.texts()[1:] == ("25.0", "50.0")


def test_reports_on_one_run_show_what_tuning_changed(tmp_path):
    keep_answers(tmp_path, [SampleAnswer("untuned", 0, "d", "Is snow cold?", "<b>No</b>")])
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 4, "validation_loss": 2.5, "validation_accuracy": 0.5}\n'
    )
    lines = compared(Difference(20.0, 4.0, 30, 99))
    changes = read_before_after(lines, [], {"run": tmp_path})
    text, page = before_after.as_markdown(changes), before_after.as_html(changes)
    assert (
        "better on these rows, with this seed" in text
        and "| loss (nats a target token) |  | 2.500 |" in text
    )
    assert '<td dir="auto">&lt;b&gt;No&lt;/b&gt;</td>' in page and "2.500" in page
    assert "better on these rows" in before_after.verdicts_html(changes)
    several = {"a": tmp_path, "b": tmp_path / "b"}
    assert before_after.as_markdown(read_before_after(lines, [], several)) == ""


def compared(difference: Difference):
    rows = [row("t0", 60.0), row("t0", 40.0, model="untuned", step=0)]
    (line,) = compare(rows)
    return [before_after.Comparison(**{**vars(line), "difference": difference})]


@pytest.mark.parametrize(
    "value, says",
    [(20.0, "better on"), (-20.0, "worse on"), (2.0, "these rows show no difference")],
)
def test_the_verdict_is_that_of_the_interval(value, says):
    (sentence,) = before_after.verdicts(compared(Difference(value, 4.0, 30, 99)), [])
    assert sentence.startswith(
        "Natural language inference, held out: 40.0 before tuning, 60.0 after"
    )
    assert says in sentence


def test_a_difference_from_an_untuned_model_in_another_setting_says_so():
    rows = [row("t0", 60.0, shots=5), row("t0", 40.0, model="untuned", step=0)]
    (line,) = compare(rows)
    lines = [dataclasses.replace(line, difference=Difference(20.0, 4.0, 30, 99))]
    (sentence,) = before_after.verdicts(lines, [])
    assert "held out: 40.0 (0 shots) before tuning, 60.0 after" in sentence
    text = results_text(lines, BeforeAfter())
    assert "  40.0*  " in text and text.endswith("\n* before tuning with 0 shots: rte\n")
    data = ReportData(lines)
    caption = difference.caption(difference.points(data), data)
    assert "Untuned in part with 0 shots." in caption


def test_the_verdicts_of_several_models_name_them():
    (line,) = compared(Difference(20.0, 4.0, 30, 99))
    best, rte, cb = (
        dataclasses.replace(line, label=label, dataset=dataset)
        for label, dataset in (("best", ""), ("tuned", "rte"), ("best", "cb"))
    )
    assert [each.split(":")[0] for each in before_after.verdicts([rte, cb, best], ["cb"])] == [
        "Natural language inference, held out (tuned)",
        "Natural language inference (best)",
    ]


def test_tables_and_answers_fit_a_terminal():
    pairs = [Pair("Why? " * 40, "Because. " * 30, None), Pair("x" * 300, "\x1b[31m", "y" * 200)]
    validation = [Change("loss (nats a target token)", None, 2.5, 3)]
    lines = compared(Difference(-12.3, 4.0, 30, 99))
    text = results_text(lines, BeforeAfter(["A verdict. " * 20], validation, pairs))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "Natural language inference (accuracy)" in text
    assert "-12.3 (-20.2 to -4.4)" in text and "\x1b" not in text


def test_conversations_that_end_in_the_same_message_have_their_own_answers():
    prompts = [
        [{"role": "system", "content": f"Answer in {language}."}, {"role": "user", "content": "Hi"}]
        for language in ("French", "German")
    ]
    answers = [
        SampleAnswer("tuned", 4, "d", prompt, text)
        for prompt, text in zip(prompts, ("Salut", "Hallo"))
    ]
    assert side_by_side(answers) == [Pair("Hi", None, "Salut"), Pair("Hi", None, "Hallo")]


def test_truncated_answers_and_messages_are_shown_as_such(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Why | so?"}]
    answers = [
        SampleAnswer("untuned", 0, "d", messages, "I do", True),
        SampleAnswer("tuned", 2, "d", messages, "early"),
        SampleAnswer("tuned", 4, "d", messages, "Yes"),
    ]
    keep_answers(pathlib.Path(tmp_path), answers)
    changes = before_after_of(tmp_path)
    assert changes.answers == [Pair("Why | so?", "I do ...", "Yes")]
    assert "| Why \\| so? | I do ... | Yes |" in before_after.as_markdown(changes)
    assert "Why | so?" in answers_text(changes.answers)
