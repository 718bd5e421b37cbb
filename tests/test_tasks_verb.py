"""`flan-jax tasks`, in the forms that scripts rely on.

On the bundled rows and on rows of the test's own.
"""

import json
import re
import resource
import subprocess
import sys

import pytest

from flan_jax.catalogue import CATALOGUE, CLUSTERS
from flan_jax.cli import dispatch


@pytest.fixture
def tasks(capsys):
    """Runs `flan-jax tasks ...`; gives (status, stdout, stderr)."""

    def call(*argv):
        status = dispatch.main(["tasks", *argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def rte_rows(tmp_path):
    """A directory with three rows of RTE, the second without a label."""
    (tmp_path / "rte").mkdir()
    rows = [
        {
            "premise": f"The {name} sank in March.",
            "hypothesis": f"The {name} sank.",
            "label": label,
            "idx": 0,
        }
        for name, label in (("Astrid", 0), ("Berta", -1), ("Clara", 1))
    ]
    (tmp_path / "rte/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_list_for_scripts(tasks):
    status, out, _ = tasks("list", "--json")
    records = {record["name"]: record for record in json.loads(out)}
    assert status == 0
    assert list(records) == [dataset.name for dataset in CATALOGUE]
    assert set(records["rte"]) == {
        "name",
        "dataset",
        "cluster",
        "split_names",
        "options",
        "metrics",
        "license",
        "commercial",
        "license_evidence",
        "sources",
        "templates",
    }
    assert records["anli_r2"]["dataset"] == records["anli_r1"]["dataset"]
    assert records["rte"]["options"] == ["yes", "no"]
    assert records["rte"]["sources"]["tfds"].startswith("super_glue/rte:")
    for record in records.values():
        assert record["cluster"] in CLUSTERS
        assert len(record["templates"]) >= 10
        for template in record["templates"]:
            assert set(template) == {"id", "kind", "shows_options", "inputs", "targets"}
            assert template["shows_options"] == ("{options}" in template["inputs"])


def test_list_for_eyes(tasks):
    _, out, _ = tasks("list")
    assert f"{len(CATALOGUE)} configurations" in out.splitlines()[-1]
    _, out, _ = tasks("list", "--cluster=sentiment")
    names = [line.split()[0] for line in out.splitlines()[1:-1]]
    assert names == [dataset.name for dataset in CATALOGUE.cluster("sentiment")]


def test_show(tasks):
    _, out, _ = tasks("show", "rte")
    for template in CATALOGUE["rte"].templates:
        assert template.id in out
        assert template.inputs.splitlines()[0] in out
    _, out, _ = tasks("show", "rte", "--json")
    record = json.loads(out)
    assert record["splits"]["test"] == "validation"
    assert record["fields"] == ["premise", "hypothesis"]
    assert len(record["templates"]) >= 10


def test_render_for_scripts(tasks, rte_rows):
    status, out, err = tasks(
        "render",
        "rte",
        "--source=jsonl",
        f"--data_dir={rte_rows}",
        "--split=train",
        "--num_rows=3",
        "--template=all",
        "--json",
    )
    records = lines(out)
    assert status == 0
    assert len(records) == 2 * len(CATALOGUE["rte"].templates)
    assert set(records[0]) == {"row", "template", "kind", "inputs", "targets", "options", "answer"}
    # lines of the file: the one without a label is left out ...
    assert {record["row"] for record in records} == {0, 2}
    assert err.startswith("rows left out: 1 ")  # ... and counted
    forward = [record for record in records if record["kind"] == "forward"]
    assert {(record["row"], record["targets"]) for record in forward} == {(0, "yes"), (2, "no")}
    assert all("The Astrid sank." in record["inputs"] for record in forward if record["row"] == 0)


def render(tasks, rows, *argv):
    _, out, _ = tasks(
        "render",
        "rte",
        "--source=jsonl",
        f"--data_dir={rows}",
        "--template=is_it_entailed",
        "--json",
        *argv,
    )
    return lines(out)[0]


def test_render_in_every_style_and_mode(tasks, rte_rows):
    fixed = render(tasks, rte_rows)
    lettered = render(tasks, rte_rows, "--options_style=lettered")
    assert (lettered["options"], lettered["answer"], lettered["targets"]) == (
        ["(A)", "(B)"],
        "(A)",
        "(A)",
    )
    assert "(A) yes" in lettered["inputs"]
    hidden = render(tasks, rte_rows, "--options_style=none")
    assert "- yes" not in hidden["inputs"] and hidden["options"] == ["yes", "no"]
    orders = {
        tuple(render(tasks, rte_rows, "--options_style=shuffled", f"--seed={s}")["options"])
        for s in range(8)
    }
    assert orders == {("yes", "no"), ("no", "yes")}
    plain = render(tasks, rte_rows, "--instructions=none")["inputs"]
    assert plain == "The Astrid sank in March.\nThe Astrid sank."
    named = render(tasks, rte_rows, "--instructions=dataset_name")["inputs"]
    assert named.endswith(plain) and "RTE" in named
    assert fixed["inputs"] not in (hidden["inputs"], plain)


@pytest.mark.parametrize(
    "mode, kinds",
    [("none", ["forward"]), ("dataset_name", ["forward"]), ("baseline", ["forward", "inverted"])],
)
def test_what_reads_the_same_in_a_mode_is_rendered_once(tasks, mode, kinds):
    templates = CATALOGUE["samsum"].templates
    assert sum(template.kind == "inverted" for template in templates) == 2 and len(templates) == 10
    status, out, err = tasks(
        "render", "samsum", "--template=all", f"--instructions={mode}", "--json"
    )
    records = lines(out)
    assert status == 0 and [record["kind"] for record in records] == kinds
    assert len({record["inputs"] for record in records}) == len(records)
    assert (
        records[0]["template"] == templates[0].id and records[0]["targets"] == records[0]["answer"]
    )
    assert err.startswith(
        f"--instructions={mode} shows nothing of a template's text; rendered as {templates[0].id}"
    )
    inverted = next(template.id for template in templates if template.kind == "inverted")
    status, _, err = tasks("render", "samsum", f"--template={inverted}", f"--instructions={mode}")
    assert (status, "give one of those" in err) == ((0, False) if mode == "baseline" else (2, True))


def test_exemplars_are_other_rows_of_the_training_side(tasks):
    seen = set()
    _, out, _ = tasks(
        "render", "rte", "--num_rows=12", "--template=is_it_entailed", "--shots=11", "--json"
    )
    _, plain, _ = tasks("render", "rte", "--num_rows=12", "--template=is_it_entailed", "--json")
    alone = [record["inputs"] for record in lines(plain)]
    for record, own in zip(lines(out), alone, strict=True):
        *shots, last = record["inputs"].split("\n\n")
        assert last == own + "\nAnswer:"
        assert len(shots) == 11
        assert not any(shot.startswith(own) for shot in shots)
        assert {
            any(shot.startswith(other) for shot in shots) for other in alone if other != own
        } == {True}
        seen.add(tuple(shots))
    assert len(seen) == 12


def test_every_bundled_row_renders_in_every_template(tasks):
    status, out, _ = tasks("check", "--json")
    reports = json.loads(out)
    assert [report["name"] for report in reports] == [dataset.name for dataset in CATALOGUE]
    assert {
        report["name"]: (report["problems"], report["unavailable"])
        for report in reports
        if report["status"] != "ok"
    } == {}
    assert status == 0


def test_check_fails_where_every_row_was_dropped_and_shows_one(tasks, write_rows):
    rows = [
        {"premise": "It rained.", "hypothesis": "It was wet.", "label": "entailment", "idx": i}
        for i in range(60)
    ]
    status, out, _ = tasks(
        "check", "cb", "--source=jsonl", f"--data_dir={write_rows('cb', 'train', rows)}"
    )
    assert status == 1 and "train: no row of 10 is usable" in out and "'label': 'entailment'" in out


def test_check_reports_problems_and_goes_on(tasks, rte_rows):
    (rte_rows / "cb").mkdir()
    (rte_rows / "cb/train.jsonl").write_text('{"premise": "It rains.", "label": 0}\n')
    (rte_rows / "cb/validation.jsonl").write_text('{"premise": "It rains.", "hypo\n')
    argv = ("check", "cb", "rte", "wnli", "--source=jsonl", f"--data_dir={rte_rows}")
    (rte_rows / "rte/validation.jsonl").write_text((rte_rows / "rte/train.jsonl").read_text())
    status, out, _ = tasks(*argv, "--json")
    cb, rte, wnli = json.loads(out)
    assert status == 1
    assert cb[
        "status"
    ] == "failed" and "validation.jsonl:1: not a complete JSON object" in " ".join(cb["problems"])
    assert rte["status"] == "ok" and rte["rows"]["test"] == 3 and sum(rte["dropped"].values()) >= 1
    assert wnli["status"] == "unavailable" and "no file" in wnli["unavailable"]["test"]
    status, out, _ = tasks(*argv)
    assert status == 1
    assert "1 ok, 1 failed, 1 without rows in jsonl" in out.splitlines()[-1]


def test_check_renders_every_style_mode_and_an_exemplar(tasks, tmp_path):
    (tmp_path / "own.py").write_text("""
from flan_jax.catalogue import Dataset, Template, register

register(
    Dataset(
        name="own",
        cluster="sentiment",
        splits={"train": "train"},
        fields=("text",),
        row=dict,
        options=("bad", "good"),
        templates=(
            Template("last", "{text}\\nHow is it?\\n{options}"),
            Template("first", "{options}\\n{text}\\nHow is it?"),
        ),
    )
)
""")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/train.jsonl").write_text(
        '{"text": "x", "label": 1}\n{"text": "y", "label": 0}\n'
    )
    status, out, _ = tasks(
        "check",
        "own",
        f"--module={tmp_path / 'own.py'}",
        "--source=jsonl",
        f"--data_dir={tmp_path}",
        "--json",
    )
    (report,) = json.loads(out)
    CATALOGUE._datasets.pop("own")
    assert status == 1 and report["problems"] == [
        "train/0 first has the same input as last (options none, instructions template, 0 shots)"
    ]


def test_split(tasks):
    status, out, _ = tasks("split", "--held_out=nli", "--json")
    split = json.loads(out)
    assert status == 0
    assert set(split) == {"train", "dropped", "eval", "related", "overlaps"}
    assert split["eval"] == [dataset.name for dataset in CATALOGUE.cluster("nli")]
    assert set(split["dropped"]) >= {dataset.name for dataset in CATALOGUE.cluster("paraphrase")}
    assert not {*split["eval"], *split["dropped"]} & {*split["train"]}
    _, out, _ = tasks("split", "--held_out=nli")
    assert f"eval ({len(split['eval'])} configurations of 7 datasets)" in out
    _, out, _ = tasks("split", "--held_out=none", "--json")
    assert json.loads(out)["eval"] == []


def test_only_datasets_of_commercial_licenses_are_listed_and_train(tasks):
    _, out, _ = tasks("list", "--commercial", "--json")
    names = {record["name"] for record in json.loads(out)}
    assert {"squad_v1", "snli", "wnli", "math_dataset"} <= names
    assert not names & {
        "anli_r1",
        "glue_qqp",
        "trivia_qa",
        "imdb_reviews",
        "sentiment140",
        "xsum",
        "coqa",
    }
    assert all(
        record["commercial"] == "yes" and record["license_evidence"] for record in json.loads(out)
    )
    split = json.loads(tasks("split", "--held_out=nli", "--commercial_only", "--json")[1])
    assert split["train"] and set(split["train"]) <= names
    assert "commercial use: no" in tasks("split", "--held_out=nli", "--commercial_only")[1]
    assert re.search(
        r"license +CC-BY-NC-4.0 \(commercial use: no; .*anli", tasks("show", "anli_r1")[1]
    )


def test_split_says_which_rule_holds_and_what_overlaps(tasks):
    _, out, _ = tasks("split", "--held_out=coreference")
    assert "RELATED='text'" in out
    assert re.search(r"^  wnli +nli +shares text with wsc, wsc273: .*80 %", out, re.MULTILINE)
    _, out, _ = tasks("split", "--held_out=coreference", "--related=paper")
    assert "RELATED='paper'" in out and re.search(
        r"^  wnli trains and shares text with wsc, wsc273: .*80 %", out, re.MULTILINE
    )
    split = json.loads(tasks("split", "--held_out=coreference", "--related=paper", "--json")[1])
    assert "wnli" in split["train"] and split["related"] == "paper" and split["dropped"] == []
    [overlap] = split["overlaps"]
    assert (overlap["train"], overlap["eval"]) == ("wnli", ["wsc", "wsc273"]) and "80 %" in overlap[
        "measured"
    ]
    split = json.loads(tasks("split", "--held_out=coreference", "--json")[1])
    assert split["dropped"] == ["wnli"] and "wnli" not in split["train"] and split["overlaps"] == []


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["show", "rtf"], "did you mean rte?"),
        (["show", "RTE"], "did you mean rte?"),
        (["list", "--cluster=nil"], "did you mean nli?"),
        (["list", "--cluster=NLI"], "did you mean nli?"),
        (["split", "--held_out=SuperGLUE"], "did you mean superglue?"),
        (["render", "rte", "--template=IS_IT_ENTAILED"], "did you mean is_it_entailed?"),
        (["render", "rte", "--source=HF"], "did you mean hf?"),
        (["SHOW", "rte"], "did you mean show?"),
        (
            ["list", "--source=jsonl"],
            "unrecognized arguments: --source=jsonl (`flan-jax tasks list --help`",
        ),
        (["split", "--held_out=sentimant"], "did you mean sentiment?"),
        (["render", "rte", "--template=is_entailed"], "did you mean is_it_entailed?"),
        (["render", "rte", "--templat=is_it_entailed"], "did you mean --template?"),
        (["render", "rte", "--num_rows=-1"], "'-1' is not a whole number from 0 up"),
        (["render", "rte", "--shots=99"], "set SHOTS to at most 11."),
        (
            ["render", "rte", "--options_style=letter"],
            "did you mean lettered? The choices are fixed, shuffled",
        ),
        (["render", "rte", "--source=jsonl"], "needs DATA_DIR"),
        (
            ["render", "rte", "--source=tfds", "--data_dir=/nowhere"],
            "--source=bundled needs no download",
        ),
        (["render", "wsc273", "--shots=1"], "set SHOTS=0, or provide its training rows"),
        ([], "list|show|render|check|split"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(tasks, argv, expected):
    status, out, err = tasks(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("flan-jax: error: ") and expected in err and err.count("\n") == 1


@pytest.mark.parametrize("form", ["file", "name"])
@pytest.mark.parametrize(
    "line, says",
    [
        ("{}['label']", "KeyError: 'label'"),
        ("None.label", "AttributeError: "),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("def f(:", "SyntaxError: "),
    ],
)
def test_a_module_that_does_not_run_is_refused_in_one_sentence_each_time(
    tasks, tmp_path, monkeypatch, form, line, says
):
    name = f"module_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = str(tmp_path / f"{name}.py") if form == "file" else name
    for _ in range(2):
        status, _, err = tasks("list", f"--module={module}")
        assert (
            status == 2
            and f"{module!r} does not run" in err
            and says in err
            and err.count("\n") == 1
        )
        assert f"{name}.py, line 2)" in err


def test_a_module_that_is_not_there_is_refused(tasks):
    status, _, err = tasks("list", "--module=nowhere_at_all.tasks")
    assert status == 2 and "give a module on the path, or the path of a .py file" in err


def test_list_is_quick_and_imports_no_engine():
    code = (
        "import sys; from flan_jax.cli import dispatch; dispatch.main(['tasks', 'list']); "
        "assert not {'jax', 'tensorflow', 'seqio', 'flax'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU seconds, which other programs do not lengthen: 0.5 of them; importing jax or seqio takes
    # far longer.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


def test_a_file_of_ones_own_is_compared_with_held_out_rows(tasks, tmp_path):
    _, out, _ = tasks("render", "rte", "--split=test", "--instructions=none", "--json")
    premise = lines(out)[0]["inputs"].split("\n")[0]
    path = tmp_path / "my.jsonl"
    rows = [{"text": f"A page about {i}."} for i in range(20)] + [{"text": f"So: {premise}"}] * 5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = tasks("overlap", str(path), "--held_out=nli", "--json")
    report = json.loads(out)
    assert status == 0 and report["train"] == {"my.jsonl": 23}  # two are for validation
    (pair,) = (pair for pair in report["pairs"] if pair["held_out"] == "rte")
    assert (pair["train"], pair["held_out_rows"]) == ("my.jsonl", 1) and not report["left_out"]


def test_a_file_of_ones_own_is_checked_and_rendered(tasks, tmp_path):
    path = tmp_path / "my.jsonl"
    rows = [{"question": f"What is {i}?", "answer": "n" * i, "id": i} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "nope\n")
    status, out, _ = tasks("check", str(path))
    assert status == 0
    assert "my.jsonl: question/answer (+ context); rows: train 31" in out
    assert "fields not read: id" in out
    assert "left out: 1, empty answer (the first: train/0, counted from 0)" in out
    status, out, _ = tasks("check", str(path), "--json")
    (record,) = json.loads(out)
    splits = record["splits"]
    used = sorted(range(1, 30))
    assert status == 0 and sum(split["used"] for split in splits.values()) == len(used)
    longest = max(split["targets"]["longest"] for split in splits.values())
    assert longest == 30  # 29 bytes and the end
    status, out, _ = tasks("check", str(path), "--json", "--lengths=64,11")
    counted = [split["counted"] for split in json.loads(out)[0]["splits"].values()]
    assert sum(counts["targets truncated"] for counts in counted) == 19  # the end is the 11th
    status, out, _ = tasks("render", str(path), "--num_rows=2", "--lengths=64,2")
    assert "train/1 record (forward); tokens: inputs 11, targets 2\n" in out
    assert "train/2 record (forward); tokens: inputs 11, targets 3; targets truncated\n" in out
    status, out, err = tasks("render", str(path), "--num_rows=2", "--json")
    assert status == 0 and "1 empty answer" in err
    assert [(row["row"], row["inputs"], row["targets"]) for row in lines(out)] == [
        (1, "What is 1?", "n"),
        (2, "What is 2?", "nn"),
    ]
    path.write_text('{"question": "a"}\n{"answer": "b"}\n')
    (tmp_path / "other.jsonl").write_text(path.read_text())
    assert tasks("check", str(path))[0] == 1  # no row can train
    for argv, says in (
        (("check", "rte", str(path)), "give either datasets or files"),
        (("check", "rte", "--lengths=64,16"), "--lengths has no effect on datasets of the catalog"),
        (("render", "rte", "--vocabulary=bytes"), "--vocabulary has no effect on datasets"),
        (("render", str(path), "--lengths=64"), "'64' must be two numbers from 2 up"),
        (("check", str(tmp_path / "mu.jsonl")), "did you mean my.jsonl"),
        (("render", str(path), "--split=test"), "has no split 'test'; it has train"),
        (("render", f"{tmp_path}/*.jsonl"), "matches 2 files; give one of them"),
    ):
        status, _, err = tasks(*argv)
        assert status == 2 and says in err
