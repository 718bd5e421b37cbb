"""Evaluation into tidy rows.

Scorings and ties, predictions on disk, the majority class, results.csv and back.
"""

import concurrent.futures
import dataclasses
import json

import numpy as np
import pytest

from flan_jax.catalogue import Dataset
from flan_jax.data.shards import EvalExamples
from flan_jax.data.vocabulary import EOS, ByteVocabulary
from flan_jax.errors import UserError
from flan_jax.evaluation.digests import model_digest, parameters_digest
from flan_jax.evaluation.evaluator import Part, evaluate
from flan_jax.evaluation.held_out import unconditional_input
from flan_jax.evaluation.majority import majority_rows
from flan_jax.evaluation.option_scores import best_options
from flan_jax.evaluation.result_rows import (
    COLUMNS,
    ResultRow,
    Setting,
    read_results,
    write_results,
)
from flan_jax.evaluation.results_store import ResultsStore, merged, name_of
from flan_jax.evaluation.scored_rows import row_scores, score_predictions
from flan_jax.evaluation.template_evaluation import evaluate_templates
from flan_jax.models.decoder import DecoderConfig

SETTING = Setting(run="nli", step=100, model="flan", size="t5_tiny")


def dataset(name, metrics, options=("no", "yes")):
    return Dataset(
        name=name,
        paper_dataset=name,
        cluster="nli",
        tfds=None,
        splits={"test": "test"},
        fields=("text",),
        row=lambda raw: raw,
        options=options,
        templates=(),
        metrics=metrics,
        license="",
    )


DATASETS = {
    "rte": dataset("rte", ("accuracy", "f1")),
    "xsum": dataset("xsum", ("exact_match",), None),
}


def ranked(labels, options=("no", "yes"), template="ask", kind="forward"):
    """Examples of which `right` finds the label: it is the input's first token."""
    texts = [
        {"inputs": f"row {i}", "options": list(options), "label": label, "answer": options[label]}
        for i, label in enumerate(labels)
    ]
    ids = [np.arange(len(option) + 1, dtype=np.int32) for option in options]
    return EvalExamples(
        "rte",
        "test",
        template,
        kind,
        [f"rte/{i}" for i in range(len(labels))],
        [np.array([label, 1], np.int32) for label in labels],
        [list(ids) for _ in labels],
        texts,
    )


def right(inputs, options):
    return [
        np.where(np.arange(len(choices)) == row[:1].sum(), -1.0, -2.0).astype(np.float32)
        for row, choices in zip(inputs, options)
    ]


def alone(options):
    return right([np.array([], np.int32)], [options])[0]


def test_unconditional_options_stand_after_answer():
    """Brown et al. 2020, section 2.4: P(option | "Answer:"), not P(option | nothing)."""
    ids = unconditional_input(ByteVocabulary())
    assert ids.dtype == np.int32 and ids.tolist() == [*(3 + byte for byte in b"Answer:"), EOS]


def test_evaluate_gives_a_row_per_scoring_and_metric_and_writes_predictions(tmp_path):
    written = EvalExamples(
        "xsum",
        "test",
        "short",
        "forward",
        ["a", "b"],
        [np.array([1])] * 2,
        None,
        [{"inputs": "p", "answer": "x y", "references": ["x y"]}, {"inputs": "q", "answer": "z"}],
    )
    (first, _), (second, cut) = evaluate_templates(
        [ranked([1, 0, 1]), written],
        DATASETS,
        SETTING,
        right,
        lambda inputs: [("x  y", False), ("?", True)],
        alone,
        tmp_path / "predictions",
    )
    assert cut == 1
    assert [(r.scoring, r.metric) for r in first] == [
        (s, m)
        for s in ("sum", "per_token", "per_char", "per_byte", "unconditional")
        for m in ("accuracy", "f1")
    ]
    assert first[0] == ResultRow(
        "nli",
        100,
        "flan",
        "t5_tiny",
        "nli",
        "rte",
        "test",
        "ask",
        "forward",
        0,
        "template",
        "sum",
        "accuracy",
        100.0,
        0.0,
        3,
    )
    assert [(r.scoring, r.metric, r.value, r.n) for r in second] == [
        ("greedy", "exact_match", 50.0, 2)
    ]
    lines = (tmp_path / "predictions/rte.test.ask.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "row": "rte/0",
        "prompt": "row 0",
        "options": ["no", "yes"],
        "scores": [-2.0, -1.0],
        "prediction": "yes",
        "answer": "yes",
        "score": 100.0,
    }
    lines = (tmp_path / "predictions/xsum.test.short.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {
        "row": "b",
        "prompt": "q",
        "cut": True,
        "prediction": "?",
        "answer": "z",
        "score": 0.0,
    }


def generated(texts):
    """Examples of free text; each text needs an answer."""
    texts = [{"inputs": f"row {i}", **text} for i, text in enumerate(texts)]
    ids = [np.array([i]) for i in range(len(texts))]
    return EvalExamples("xsum", "test", "t", "forward", list(map(str, ids)), ids, None, texts)


@pytest.mark.parametrize("group", [None, "g"])
def test_the_score_of_each_row_is_what_it_contributes_to_the_headline_number(tmp_path, group):
    texts = [
        {"answer": "a b", "references": ["a c", "a b"], "group": "g"},
        {"answer": "b", "group": group or "h"},
        {"answer": "c", "group": group or "i"},
    ]
    answers = ["a c", "b d", "?"]
    squad = {"xsum": dataset("xsum", ("squad",), None)}
    (result,) = evaluate_templates(
        [generated(texts)],
        squad,
        SETTING,
        right,
        lambda inputs: [(answer, False) for answer in answers],
        alone,
        tmp_path,
    )
    lines = [json.loads(line) for line in (tmp_path / "xsum.test.t.jsonl").read_text().splitlines()]
    # F1 over words: all of them; one of two and the only one; none.
    assert [line["score"] for line in lines] == [100.0, 66.6667, 0.0]
    assert result.rows[0].value == pytest.approx(np.mean([line["score"] for line in lines]))
    assert [line["group"] for line in lines] == [text["group"] for text in texts]
    assert lines[0]["references"] == ["a c", "a b"]
    assert all("references" not in line for line in lines[1:])


@pytest.mark.parametrize("metric", ["f1", "macro_f1", "matthews", "pearson", "multirc"])
def test_a_row_of_a_metric_that_is_no_mean_over_rows_is_right_or_wrong(metric):
    examples, predictions = ranked([1, 0, 1, 0]), [1, 0, 0, 1]
    measured = dataset("rte", (metric,))
    headline = next(iter(score_predictions(examples, measured, predictions).values()))
    assert row_scores(examples, measured, predictions, headline) == [100.0, 100.0, 0.0, 0.0]


def test_inverted_templates_are_measured_by_their_own_metrics_or_refused_and_so_are_empty_splits():
    back = EvalExamples(
        "wmt",
        "test",
        "back",
        "inverted",
        ["a", "b"],
        [np.array([1])] * 2,
        None,
        [{"inputs": "p", "answer": "x"}, {"inputs": "q", "answer": "y"}],
    )
    both_ways = {
        "wmt": dataclasses.replace(
            dataset("wmt", ("rouge",), None), inverted_metrics=("exact_match",)
        )
    }
    answers = [("x", False), ("?", False)]
    rows, _ = next(
        evaluate_templates([back], both_ways, SETTING, right, lambda inputs: answers, alone)
    )
    assert [(r.kind, r.metric, r.value) for r in rows] == [("inverted", "exact_match", 50.0)]
    with pytest.raises(UserError, match="rte/ask.*inverted"):
        list(
            evaluate_templates(
                [ranked([1], kind="inverted")], DATASETS, SETTING, right, None, alone
            )
        )
    with pytest.raises(UserError, match="no rows"):
        list(evaluate_templates([ranked([])], DATASETS, SETTING, right, None, alone))


def test_scorings_normalise_and_the_first_wins_a_tie():
    texts = [["ab", "éééé", "abcdef"]]
    tokens = [[np.zeros(n, np.int32) for n in (2, 3, 4)]]
    alone = [np.array([-2, -8, -8.5], np.float32)]
    # Per token -3, -3, -3.25; per character -3, -2.25, -2.17; per byte -3, -1.125, -2.17; given the
    # input -4, -1, -4.5.
    chosen = best_options([np.array([-6, -9, -13], np.float32)], alone, tokens, texts)
    assert chosen == {
        "sum": [0],
        "per_token": [0],
        "per_char": [2],
        "per_byte": [1],
        "unconditional": [1],
    }
    assert best_options([np.array([-7, -5, -5], np.float32)], alone, tokens, texts)["sum"] == [1]


def test_an_option_is_scored_unconditionally_once_whatever_rows_and_templates_show_it():
    scored = []

    def rank(options):
        scored.append(len(options))
        return alone(options)

    list(
        evaluate_templates(
            [ranked([1, 0, 1]), ranked([0, 1], template="other")],
            DATASETS,
            SETTING,
            right,
            None,
            rank,
        )
    )
    assert scored == [2]


def test_majority_class_follows_the_class_not_its_place():
    rows = majority_rows(ranked([1, 0, 1, 1, 0]), DATASETS["rte"], SETTING)
    assert [(r.metric, r.value) for r in rows] == [("accuracy", 60.0), ("f1", pytest.approx(75.0))]
    assert {(r.model, r.scoring, r.template, r.step, r.n) for r in rows} == {
        ("majority", "majority", "any", 0, 5)
    }
    shuffled = ranked([0, 0, 1])
    for text, order in zip(shuffled.texts, ([1, 0], [1, 0], [1, 0])):
        text["order"] = order
    shuffled.texts[1] |= {"options": ["no", "yes"], "order": [0, 1]}
    # Classes 1, 0, 0.
    assert majority_rows(shuffled, DATASETS["rte"], SETTING)[0].value == pytest.approx(200 / 3)


def test_results_file_reads_back_and_updates(tmp_path):
    path = tmp_path / "run" / "results.csv"
    rows = [
        row
        for result in evaluate_templates([ranked([1, 0])], DATASETS, SETTING, right, None, alone)
        for row in result.rows
    ]
    rows.append(dataclasses.replace(rows[0], template='one, "quoted"', stderr=None, value=1 / 3))
    write_results(path, rows)
    assert path.read_text().splitlines()[0] == (
        "run,step,model,size,cluster,dataset,split,template,kind,shots,instruction_mode,scoring,metric,value,stderr,n"
    )
    assert read_results(path) == rows
    newer = [dataclasses.replace(rows[0], value=12.5), dataclasses.replace(rows[0], step=200)]
    # All that an older evaluation of the same gave goes, what the dataset is no longer measured by
    # too.
    write_results(path, merged(read_results(path), newer))
    assert read_results(path) == [newer[0], rows[-1], newer[1]]
    assert [p.name for p in path.parent.iterdir()] == ["results.csv"]


def test_two_that_add_to_a_results_file_at_the_same_time_lose_nothing(tmp_path):
    def add(run):
        store = ResultsStore(tmp_path)
        (row,) = majority_rows(ranked([1, 0]), dataset("rte", ("accuracy",)), SETTING)
        for step in range(25):
            new = dataclasses.replace(row, run=run, step=step)
            store.add([new], [], name_of(new, "rte", "test", "any"), "digest")

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        list(threads.map(add, ["a", "b"]))
    assert len(read_results(tmp_path / "results.csv")) == 50
    assert len(json.loads((tmp_path / "evaluated.json").read_text())) == 50


def test_a_store_reads_a_file_again_only_after_another_one_replaced_it(tmp_path, monkeypatch):
    (row,) = majority_rows(ranked([1, 0]), dataset("rte", ("accuracy",)), SETTING)
    ours, theirs = ResultsStore(tmp_path), ResultsStore(tmp_path)
    ours.add([row], [], "first", "a")
    theirs.add([dataclasses.replace(row, step=1)], [], "second", "b")
    reads = []
    monkeypatch.setattr(
        "flan_jax.evaluation.results_store.read_results",
        lambda path: reads.append(path) or read_results(path),
    )
    assert len(ours.rows()) == len(ours.rows()) == 2 and len(reads) == 1
    ours.add([dataclasses.replace(row, step=2)], [], "third", "c")
    assert len(ours.rows()) == 3 and len(reads) == 1


class TwoParts:
    """An evaluation of two parts, each of one number."""

    def __init__(self, row):
        self.row = row

    def run(self, params, step):
        for number, value in enumerate(params, 1):
            row = dataclasses.replace(self.row, template=f"t{number}", value=value, step=step)
            name = name_of(row, row.dataset, row.split, row.template)
            yield Part(name, "digest", [row], [], number, len(params))


def test_any_evaluator_adds_its_parts_until_it_is_stopped(tmp_path):
    (row,) = majority_rows(ranked([1, 0]), dataset("rte", ("accuracy",)), SETTING)
    store = ResultsStore(tmp_path)
    assert not evaluate(TwoParts(row), [40.0, 60.0], 7, store, stop=lambda: True)
    assert [(r.template, r.value, r.step) for r in store.rows()] == [("t1", 40.0, 7)]
    assert evaluate(TwoParts(row), [40.0, 60.0], 7, store)
    assert [r.value for r in read_results(tmp_path / "results.csv")] == [40.0, 60.0]
    name = name_of(store.rows()[1], "rte", "test", "t2")
    assert store.complete({name: "digest"}) == {name} and not store.complete({name: "other"})


LINE = "nli,100,tuned,t5_tiny,nli,rte,test,ask,forward,0,template,sum,accuracy,50.0,2.5,3\n"


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda text: text.replace("50.0", "1e308"), "line 2 is not readable (value is '1e308')"),
        (lambda text: text.replace("50.0", "nan"), "line 2 is not readable (value is 'nan')"),
        (lambda text: text.replace("2.5", "inf"), "line 2 is not readable (stderr is 'inf')"),
        (lambda text: text.replace(",3\n", ",-3\n"), "line 2 is not readable (n is '-3')"),
        (lambda text: text.replace("rte", '"rte'), "is not readable after line"),
        (
            lambda text: text.replace("rte", "r" * 200_000),
            "is not readable after line 1 (field larger than field limit",
        ),
        (
            lambda text: text.replace("tuned", "tu\x1bned"),
            "line 2 is not readable (control characters in model)",
        ),
        (
            lambda text: text + LINE.replace("50.0", "51.0"),
            "line 3 is not readable (a second number for rte/ask)",
        ),
        (lambda text: text + LINE[:40], "line 3 is not readable ("),
        (lambda text: text * 2, "line 3 is not readable (step is 'step')"),
        (lambda text: text.encode("utf-16"), "is not readable after line 0 ("),
    ],
)
def test_a_damaged_results_file_names_its_line(tmp_path, damage, says):
    whole = ",".join(COLUMNS) + "\n" + LINE
    contents, path = damage(whole), tmp_path / "results.csv"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    with pytest.raises(UserError) as error:
        ResultsStore(tmp_path).check()
    assert (
        says in str(error.value)
        and str(error.value).startswith(str(path))
        and len(str(error.value)) < 500
    )


def test_a_line_that_is_there_twice_counts_once(tmp_path):
    (tmp_path / "results.csv").write_text(",".join(COLUMNS) + "\n" + LINE + "\n" + LINE)
    (row,) = read_results(tmp_path / "results.csv")
    assert (row.value, row.stderr, row.n) == (50.0, 2.5, 3)


@pytest.mark.parametrize("name", ["runs.json", "evaluated.json", "signatures.json"])
@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"a": {}}',
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a": {"directory": 1, "trained_on": []}}',
        b'{"a": ["x"]}',
    ],
)
def test_a_damaged_record_of_results_is_found_first_and_named(tmp_path, name, contents):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError) as error:
        ResultsStore(tmp_path).check()
    assert str(tmp_path / name) in str(error.value) and "delete it" in str(error.value)


def test_unreadable_results_are_explained(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "a.csv").write_text("run,value\nx,1\n")
    with pytest.raises(UserError, match="first line must be run,step"):
        read_results(tmp_path / "a.csv")
    row = next(evaluate_templates([ranked([1])], DATASETS, SETTING, right, None, alone))[0][0]
    write_results(tmp_path / "b.csv", [dataclasses.replace(row, value="high")])
    with pytest.raises(UserError, match="b.csv, line 2 is not readable \\(value is .high.\\)"):
        read_results(tmp_path / "b.csv")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_results(tmp_path / "file" / "results.csv", [])


def test_scores_that_are_not_numbers_are_refused():
    def broken(inputs, options):
        return [np.full(len(choices), np.nan) for choices in options]

    with pytest.raises(
        UserError, match=r"rte/ask \(test\): the model gives scores that are not numbers"
    ):
        list(evaluate_templates([ranked([1])], DATASETS, SETTING, broken, None, alone))


def test_a_model_is_identified_by_what_decides_its_answers():
    config = DecoderConfig(
        128,
        8,
        2,
        4,
        16,
        1,
        positions="rotary",
        dtype="float32",
        rope_scaling={
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
    )
    same = dataclasses.replace(config, remat="full", scan_layers=False, dropout_rate=0.1)
    assert model_digest(same) == model_digest(config)
    for change in ({"dtype": "bfloat16"}, {"rope_scaling": None}, {"norm_epsilon": 1e-5}):
        assert model_digest(dataclasses.replace(config, **change)) != model_digest(config)


@pytest.mark.parametrize("dtype", [np.float32, "bfloat16"])
def test_parameters_in_another_order_are_other_parameters(dtype):
    from jax import numpy as jnp

    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8)), dtype)
    names = {
        parameters_digest({"kernel": of})
        for of in (
            kernel,
            kernel.swapaxes(1, 2),
            kernel[::-1],
            kernel[:, ::-1],
            kernel.swapaxes(0, 1).reshape(3, 8, 8),
            -kernel,
        )
    }
    assert len(names) == 6 and parameters_digest({"kernel": kernel + 0}) in names
