"""Every small file of a run, damaged.

The work that reads it ends in a message, or goes on with what is right.
"""

import csv
import io
import json

import pytest
from harness import shares
from hypothesis import strategies as st
from mutations import as_json, damaged_bytes, damaged_values

from flan_jax import generate
from flan_jax.checkpoints import manager, steps
from flan_jax.errors import UserError
from flan_jax.evaluation.known_runs import remember_run
from flan_jax.evaluation.result_rows import COLUMNS, read_results
from flan_jax.evaluation.results_store import ResultsStore
from flan_jax.report.comparisons import compare
from flan_jax.report.inputs import read_rows, row_sources, tuned_on
from flan_jax.report.page.run_entries import run_entries
from flan_jax.report.page.write_page import PageInputs, page_html
from flan_jax.report.run_facts import read_facts
from flan_jax.report.table import table
from flan_jax.training import run_record
from flan_jax.training.config_record import changed_settings, read_config
from flan_jax.training.metrics_log import FILE, MetricsLog, Work, read_steps

LINES = [
    [
        "nli",
        "100",
        model,
        "t5_tiny",
        "nli",
        "rte",
        "test",
        template,
        "forward",
        "0",
        mode,
        scoring,
        "accuracy",
        value,
        "2.5",
        "40",
    ]
    for model, mode, scoring, template, value in (
        ("tuned", "template", "sum", "terse", "50.0"),
        ("tuned", "template", "sum", "email", "62.5"),
        ("untuned", "template", "sum", "terse", "47.5"),
        ("majority", "any", "majority", "any", "55.0"),
    )
]
RUNS = {"nli": {"directory": "/runs/nli", "trained_on": ["copa", "piqa"], "source": "bundled"}}
EVALUATED = {"nli/tuned/step 100/template/0 shots/rte/test/terse": "0123456789abcdef 5"}
SIGNATURES = {"accuracy": "flan_jax accuracy: the share of right answers"}
MIXTURE = {
    "held_out": "nli",
    "seed": 0,
    "pack": True,
    "task_feature_lengths": [64, 16],
    "eval": ["rte"],
    "dropped": [],
    "left_out": {},
    "card": [{"dataset": "copa", "cluster": "commonsense", "rows": 12}],
    "shards": {"copa": "a"},
    "vocabulary": "bytes",
    "trained_before": [],
}
UNITS = {
    "run": "nli",
    "model": "tuned",
    "step": 100,
    "shots": 0,
    "instruction_mode": "template",
    "dataset": "rte",
    "split": "test",
    "template": "terse",
    "scoring": "sum",
    "metric": "accuracy",
    "statistic": "ratio",
    "units": ["rte/test/0", "rte/test/1"],
    "parts": [[1.0, 1.0], [0.0, 1.0]],
}
PROMPTS = ["one", "two", "three"]
IDENTITY = {"method": "greedy", "max_length": 8, "parameters": "abc"}


def results_csv() -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *LINES])
    return text.getvalue().encode()


@pytest.fixture
def run(tmp_path):
    """A directory with the small files of an evaluated run."""
    (tmp_path / "results.csv").write_bytes(results_csv())
    for name, value in (
        ("runs.json", RUNS),
        ("evaluated.json", EVALUATED),
        ("signatures.json", SIGNATURES),
        ("mixture.json", MIXTURE),
    ):
        (tmp_path / name).write_text(json.dumps(value))
    (tmp_path / "predictions/tuned").mkdir(parents=True)
    (tmp_path / "predictions/tuned/rte.test.terse.units.json").write_text(json.dumps(UNITS))
    return tmp_path


def reported(directory) -> str:
    """The table that `flan-jax report` and the end of an evaluation print."""
    paths = [directory / "results.csv"]
    inputs = read_rows(paths)
    return table(compare(inputs.rows, inputs.measures), tuned_on(paths), row_sources(paths))


def read_first(directory) -> bool:
    """What `train` and `eval` read before they begin.

    What passes must not fail at the end, after the work.
    """
    store = ResultsStore(directory)
    store.check()
    try:
        store.add(read_results(directory / "results.csv")[:1], [], "first", "digest")
        remember_run(directory, directory, ["copa"])
        text = reported(directory)
    except UserError as error:
        return "no row that a table shows" in str(error)
    return text.isprintable() or all(ord(c) >= 32 or c == "\n" for c in text)


def test_whole_files_pass(run):
    assert read_first(run) and "rte" in reported(run)
    run_record.check_same(run, {"held_out": "nli"})


@shares(quick=60, full=1500)
def test_results(fuzz, examples, run):
    def check(damaged):
        (run / "results.csv").write_bytes(damaged.value)
        return read_first(run)

    fuzz("run files: results.csv", damaged_bytes(results_csv()), check, examples)


@pytest.mark.parametrize(
    "name, value",
    [
        ("runs.json", RUNS),
        ("evaluated.json", EVALUATED),
        ("signatures.json", SIGNATURES),
        ("predictions/tuned/rte.test.terse.units.json", UNITS),
    ],
)
@shares(quick=40, full=800)
def test_records_of_results(fuzz, examples, run, name, value):
    def check(damaged):
        contents = (
            damaged.value if isinstance(damaged.value, bytes) else as_json(damaged.value).encode()
        )
        (run / name).write_bytes(contents)
        return read_first(run)

    fuzz(
        f"run files: {name.rpartition('/')[2]}",
        damaged_values(value) | damaged_bytes(json.dumps(value).encode()),
        check,
        examples,
    )


PREDICTIONS = {
    "row": "rte/test/0",
    "prompt": "Is it so?",
    "options": ["no", "yes"],
    "scores": [-2.0, -1.0],
    "prediction": "yes",
    "answer": "yes",
    "score": 100.0,
    "references": ["yes", "Yes"],
    "group": "a",
}
RECORD = {
    "status": "finished",
    "step": 100,
    "steps": 100,
    "seconds": 3.5,
    "started": "2026-01-02T03:04:05+00:00",
    "size": "t5_tiny",
    "parameters": 7,
    "trained_parameters": 5,
    "train": ["copa"],
    "settings": {"SEED": 0, "HELD_OUT": "nli"},
}


@pytest.mark.parametrize(
    "name, value",
    [("predictions/tuned/rte.test.terse.jsonl", PREDICTIONS), ("run.json", RECORD)],
)
@shares(quick=40, full=800)
def test_what_the_page_shows(fuzz, examples, run, name, value):
    """The page is whole whatever its texts are: its rows can be read back from it."""
    (run / "runs.json").unlink()  # the run is here

    def check(damaged):
        contents = (
            damaged.value if isinstance(damaged.value, bytes) else as_json(damaged.value).encode()
        )
        (run / name).write_bytes(contents)
        inputs = read_rows([run / "results.csv"])
        lines = compare(inputs.rows, inputs.measures, inputs.seeds)
        read_facts(inputs.homes)
        runs = run_entries(inputs.homes, {})
        page = page_html(PageInputs(lines, (), (), runs, inputs.predictions, ()), run)
        rows = page.split('id="rows-data">')[1].split("</script>")[0]
        return page.count("<script") == 2 and bool(json.loads(rows)) and bool(page.encode())

    fuzz(
        f"run files: {name.rpartition('/')[2]}",
        damaged_values(value) | damaged_bytes(json.dumps(value).encode()),
        check,
        examples,
    )


class NoTrainData:
    """What `trained_on` reads of a run's data where the run has no record."""

    def candidates(self):
        return []


class NoData:
    train = NoTrainData()


@shares(quick=40, full=800)
def test_mixture(fuzz, examples, run):
    def check(damaged):
        contents = (
            damaged.value if isinstance(damaged.value, bytes) else as_json(damaged.value).encode()
        )
        (run / "mixture.json").write_bytes(contents)
        run_record.check_same(
            run, {key: MIXTURE[key] for key in ("held_out", "seed", "card", "shards")}
        )
        names = run_record.trained_on(run, NoData())
        return all(isinstance(name, str) for name in names)

    fuzz(
        "run files: mixture.json",
        damaged_values(MIXTURE) | damaged_bytes(json.dumps(MIXTURE).encode()),
        check,
        examples,
    )


@shares(quick=40, full=800)
def test_metrics(fuzz, examples, run):
    whole = "".join(
        json.dumps({"step": step, "loss": 4.0 / step, "tokens": 100}) + "\n" for step in range(1, 7)
    ).encode()

    def check(damaged):
        (run / FILE).write_bytes(damaged.value)
        before = read_steps(run / FILE)  # what `train` reads first
        MetricsLog(run, 4, total=6, every=2, enabled=True, work=Work(1e9, None))
        kept = [line for step, line in before if step <= 4]
        return (run / FILE).read_bytes() == b"".join(line + b"\n" for line in kept)

    fuzz("run files: metrics.jsonl", damaged_bytes(whole), check, examples)


@shares(quick=40, full=800)
def test_config(fuzz, examples, run):
    text = "SEED = 0\nMESH = {'fsdp': -1}\nData.seed = %SEED\n"

    def check(damaged):
        (run / "config.gin").write_bytes(damaged.value)
        before = read_config(run)
        return isinstance(changed_settings(before, text), list)

    fuzz("run files: config.gin of the last start", damaged_bytes(text.encode()), check, examples)


def answers_to(prompts, first):
    return [(f"{first}: {prompt.upper()}", False) for first, prompt in enumerate(prompts, first)]


@shares(quick=40, full=800)
def test_answers(fuzz, examples, tmp_path):
    """A damaged file of answers is refused, or ends up with an answer to each prompt."""
    output, record = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.settings.json"
    generate.write_answers(output, PROMPTS, answers_to, IDENTITY, 2)
    whole, settings = output.read_bytes(), record.read_bytes()

    def check(damaged, is_record):
        output.write_bytes(whole if is_record else damaged.value)
        record.write_bytes(damaged.value if is_record else settings)
        generate.write_answers(output, PROMPTS, answers_to, IDENTITY, 2)
        lines = [json.loads(line) for line in output.read_bytes().splitlines()]
        return [line["prompt"] for line in lines] == PROMPTS and all(
            isinstance(line["answer"], str) for line in lines
        )

    fuzz(
        "run files: answers of generate",
        damaged_bytes(whole),
        lambda damaged: check(damaged, False),
        examples,
    )
    fuzz(
        "run files: settings beside answers",
        damaged_bytes(settings),
        lambda damaged: check(damaged, True),
        examples,
    )


@shares(quick=40, full=800)
def test_metrics_of_checkpoints(fuzz, examples, tmp_path):
    value = {"validation_loss": 2.5, "validation_accuracy": 0.5}
    file = tmp_path / "4/metrics/metrics"
    file.parent.mkdir(parents=True)

    def check(damaged):
        contents = (
            damaged.value if isinstance(damaged.value, bytes) else as_json(damaged.value).encode()
        )
        file.write_bytes(contents)
        loss = steps._validation_loss(tmp_path / "4")
        manager._remove_truncated_metrics(tmp_path)
        return (
            loss == loss
            and isinstance(loss, (int, float))
            and (
                not file.exists()
                or isinstance(json.loads(file.read_text())["validation_loss"], (int, float))
            )
        )

    fuzz(
        "run files: metrics of checkpoints",
        damaged_values(value) | damaged_bytes(json.dumps(value).encode()),
        check,
        examples,
    )


@shares(quick=40, full=800)
def test_prompts(fuzz, examples, tmp_path):
    file = tmp_path / "prompts.txt"

    def check(damaged):
        file.write_bytes(damaged.value)
        prompts = generate.read_prompts(str(file))
        return all(prompt.strip() and "\n" not in prompt for prompt in prompts)

    fuzz(
        "run files: prompts of generate",
        damaged_bytes("one\n\ntwo größer\r\nthree\n".encode()),
        check,
        examples,
    )
    fuzz(
        "run files: prompts of generate",
        st.binary(max_size=40).map(lambda value: type("D", (), {"value": value})),
        check,
        examples,
    )
