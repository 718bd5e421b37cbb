"""The Hugging Face source.

Rows of parquet and JSON files written here, through the file loaders of `datasets`.
"""

import dataclasses
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import urllib.parse

import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE, Catalogue, Hub
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.config import DataConfig
from flan_jax.data.dataset_check import check_dataset
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.hub import HubSource
from flan_jax.data.sources.kinds import open_source
from flan_jax.data.sources.slices import parse_spec
from flan_jax.errors import UserError
from flan_jax.prepare import prepare

datasets = pytest.importorskip("datasets")

HUB = [dataset for dataset in CATALOGUE if dataset.hub is not None]
TREC = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]  # the hub's order; TFDS begins with DESC


def folder(directory, dataset, raw_split):
    hub = dataset.hub
    path = directory / hub.id / hub.config / hub.splits.get(raw_split, raw_split)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(directory, name, raw_split, rows, file="0000.parquet"):
    """Writes rows of the hub into the mirror; gives the directory of the mirror."""
    table = datasets.Dataset.from_list(rows)
    if name == "trec":
        table = table.cast_column("coarse_label", datasets.ClassLabel(names=TREC))
    path = folder(directory, CATALOGUE[name], raw_split) / file
    table.to_parquet(path) if file.endswith(".parquet") else table.to_json(
        path, lines=file.endswith(".jsonl")
    )
    return directory


# How the rows of TFDS look on the hub, where that is more than other names of fields.
INVERSE = {
    "hellaswag": lambda raw: {**raw, "label": str(raw["label"]) if raw["label"] >= 0 else ""},
    "bool_q": lambda raw: {
        "question": raw["question"],
        "passage": f"{raw['title']} -- {raw['passage']}",
        "idx": 0,
        "label": int(raw["answer"]),
    },
    "drop": lambda raw: {
        "section_id": "",
        "query_id": "",
        "passage": raw["passage"],
        "question": raw["question"],
        "answers_spans": {"spans": [raw["answer"], *raw.get("validated_answers", ())], "types": []},
    },
    "openbookqa": lambda raw: {
        "id": "",
        "question_stem": raw["question"]["stem"],
        "fact1": raw["fact1"],
        "choices": {
            "text": [raw["question"][f"choice_{c}"] for c in "ABCD"],
            "label": list("ABCD"),
        },
        "answerKey": "ABCD"[raw["answerKey"]],
    },
    "winogrande": lambda raw: {
        **{key: raw[key] for key in ("sentence", "option1", "option2")},
        "answer": str(raw["label"] + 1),
    },
    "wsc273": lambda raw: {
        "text": raw["text"],
        "pronoun": raw["pronoun_text"],
        "pronoun_loc": raw["pronoun_start"],
        "quote": "",
        "quote_loc": 0,
        "options": [raw["option1"], raw["option2"]],
        "label": raw["label"],
        "source": "",
    },
    "math_dataset": lambda raw: {key: f"b'{raw[key]}\\n'" for key in ("question", "answer")},
    "ag_news_subset": lambda raw: {**raw, "label": raw["label"] + 1},
    "trec": lambda raw: {
        "text": raw["text"],
        "coarse_label": [2, 1, 0, 3, 5, 4][raw["label-coarse"]],
    },
}


def hub_row(dataset, raw):
    """The row of the hub from which the source has to make this row of TFDS."""
    if dataset.cluster == "translation":
        return {"translation": raw}
    if dataset.name in INVERSE:
        raw = INVERSE[dataset.name](raw)
    theirs = {ours: theirs for ours, theirs in dataset.hub.rename.items() if ours in raw}
    return {theirs.get(field, field): value for field, value in raw.items()}


@pytest.mark.parametrize("dataset", HUB, ids=lambda dataset: dataset.name)
def test_every_dataset_reads_the_hubs_rows_as_those_of_tfds(tmp_path, dataset):
    bundled = [raw for _, raw in BundledSource().rows(dataset, "test")]
    raw_split = parse_spec(dataset.splits["test"])[0]
    write(tmp_path, dataset.name, raw_split, [hub_row(dataset, raw) for raw in bundled])
    rows = [raw for _, raw in HubSource(tmp_path).rows(dataset, raw_split)]
    assert [read_row(dataset, raw) for raw in rows] == [read_row(dataset, raw) for raw in bundled]


def test_records_are_well_formed():
    assert len(HUB) > 55
    for dataset in HUB:
        assert set(dataset.hub.splits) <= {
            parse_spec(spec)[0] for spec in dataset.splits.values()
        }, dataset.name
        assert dataset.hub.id.count("/") == 1 and "/" not in dataset.hub.config, dataset.name
    anli = CATALOGUE["anli_r1"]
    for wrong, says in (
        (Hub("anli"), "'owner/name'"),
        ("facebook/anli", "'owner/name'"),
        (Hub("facebook/anli", splits={"dev": "dev_r1"}), "renames the split 'dev'"),
    ):
        with pytest.raises(UserError, match=says):
            Catalogue().register(dataclasses.replace(anli, hub=wrong))


def anli_rows(number):
    return [
        {
            "uid": str(i),
            "premise": f"Zürich has {i} bridges.",
            "hypothesis": f"There are {i} of them.",
            "label": i % 3,
            "reason": "",
        }
        for i in range(number)
    ]


def test_slices_go_over_files_in_the_order_of_their_names(tmp_path):
    cb, rows = CATALOGUE["cb"], anli_rows(130)
    write(tmp_path, "cb", "train", rows[:40])
    write(tmp_path, "cb", "train", rows[40:], "0001.parquet")
    source = HubSource(tmp_path)
    for spec in (
        "train",
        "train[:-51]",
        "train[-51:]",
        "train[30:60]",
        "train[:500]",
        "train[-1:]",
        "train[7:7]",
    ):
        begin, end = parse_spec(spec)[1].start, parse_spec(spec)[1].stop
        found = list(source.rows(cb, spec))
        assert [i for i, _ in found] == list(range(130))[begin:end], spec
        assert [row["premise"] for _, row in found] == [
            row["premise"] for row in rows[begin:end]
        ], spec
    ours = [list(source.rows(cb, cb.splits[split])) for split in ("train", "validation")]
    assert sorted(i for side in ours for i, _ in side) == list(range(130)) and [
        len(side) for side in ours
    ] == [80, 50]
    assert all(row["premise"] == rows[i]["premise"] for side in ours for i, row in side)
    assert max(i for i, _ in ours[0]) > 100 > 30 > min(i for i, _ in ours[1]), (
        "by hash, not by position"
    )
    assert source.available(cb, "train") is None
    assert (
        source.available(cb, "test")
        == f"no parquet or JSON file in {tmp_path / 'aps/super_glue/cb/validation'}"
    )
    assert source.available(CATALOGUE["wsc273"], "train") == "has no train split"
    assert "no copy on the Hugging Face hub" in source.available(CATALOGUE["newsroom"])


def test_a_split_of_which_the_hub_converted_a_part(tmp_path):
    dataset = CATALOGUE["wmt14_enfr"]
    rows = [{"translation": {"en": "Yes.", "fr": f"Oui, {i} fois."}} for i in range(3)]
    partial = dataclasses.replace(
        dataset, hub=dataclasses.replace(dataset.hub, splits={"train": "partial-train"})
    )
    datasets.Dataset.from_list(rows).to_parquet(folder(tmp_path, partial, "train") / "0000.parquet")
    found = list(HubSource(tmp_path).rows(dataset, "train[:2]"))
    assert [read_row(dataset, row)["answer"] for _, row in found] == [
        "Oui, 0 fois.",
        "Oui, 1 fois.",
    ]


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json"])
def test_json_files(tmp_path, file):
    anli = CATALOGUE["anli_r1"]
    write(tmp_path, "anli_r1", "train", anli_rows(5), file)
    source = HubSource(tmp_path)
    assert source.available(anli, "train") is None
    rows = [read_row(anli, row) for _, row in source.rows(anli, "train[-2:]")]
    assert [(row["context"], row["label"]) for row in rows] == [
        ("Zürich has 3 bridges.", 0),
        ("Zürich has 4 bridges.", 1),
    ]


def test_classes_are_matched_by_name(tmp_path):
    trec = CATALOGUE["trec"]
    path = write(
        tmp_path,
        "trec",
        "train",
        [{"text": f"What is {name}?", "coarse_label": i} for i, name in enumerate(TREC)],
    )
    rows = [read_row(trec, row) for _, row in HubSource(path).rows(trec, "train")]
    options = {row["text"]: trec.options[row["label"]] for row in rows}
    assert options["What is DESC?"] == "description" and options["What is ABBR?"] == "abbreviation"
    assert options["What is LOC?"] == "location" and options["What is NUM?"] == "number or date"
    named = folder(tmp_path, trec, "test") / "rows.jsonl"
    named.write_text('{"text": "Who is Ann?", "coarse_label": "HUM"}\n')
    ((_, row),) = HubSource(tmp_path).rows(trec, "test")
    assert trec.options[read_row(trec, row)["label"]] == "person or group"
    named.write_text('{"text": "Who is Ann?", "coarse_label": 3}\n')
    with pytest.raises(UserError, match="must have the names of the classes"):
        list(HubSource(tmp_path).rows(trec, "test"))


def test_fingerprint_follows_the_record(tmp_path):
    write(tmp_path, "cb", "train", anli_rows(3))
    source, cb = HubSource(tmp_path), CATALOGUE["cb"]
    hubs = [
        {},
        {"rename": {"premise": "hypothesis"}},
        {"classes": {"label": ("a", "b")}},
        {"row": dict},
    ]
    assert (
        len(
            {
                source.fingerprint(
                    dataclasses.replace(cb, hub=dataclasses.replace(cb.hub, **changes)), "train"
                )
                for changes in hubs
            }
        )
        == 4
    )


def test_fingerprint_follows_the_files(tmp_path):
    cb = CATALOGUE["cb"]
    write(tmp_path, "cb", "train", anli_rows(60))
    before = HubSource(tmp_path).fingerprint(cb, "train[:-50]")
    assert HubSource(tmp_path).fingerprint(cb, "train[-50:]") == before
    write(tmp_path, "cb", "train", [*anli_rows(59), {**anli_rows(1)[0], "label": 2}])
    changed = HubSource(tmp_path).fingerprint(cb, "train[:-50]")
    write(tmp_path, "cb", "train", anli_rows(1), "0001.parquet")
    assert len({before, changed, HubSource(tmp_path).fingerprint(cb, "train[:-50]")}) == 3


def test_prepares_a_run_from_a_mirror(tmp_path):
    write(tmp_path / "mirror", "anli_r1", "train", anli_rows(30))
    data = prepare(
        DataConfig(
            source="hf",
            data_dir=str(tmp_path / "mirror"),
            mixture_or_task_name="anli_r1",
            held_out="none",
            vocabulary="bytes",
            cache_dir=str(tmp_path / "cache"),
            batch_size=1,
            train_steps=2,
            task_feature_lengths={"inputs": 1024, "targets": 64},
        )
    )
    assert [(m.name, m.rows) for m in data.train.members()] == [("anli_r1", 30)]
    assert data.undownloaded() == [] and "Zürich" in data.vocabulary.decode(
        data.train.batches().at(0)["encoder_input_tokens"][0]
    )


def test_check_tells_what_is_wrong_with_a_mirror(tmp_path):
    write(tmp_path, "anli_r1", "train", anli_rows(3))
    write(tmp_path, "cb", "train", [{"premise": "It rains.", "label": 0}] * 60)
    write(tmp_path, "winogrande", "train_xl", [{"sentence": "A _ B", "option1": "x"}] * 300)
    (folder(tmp_path, CATALOGUE["copa"], "train") / "0000.parquet").write_bytes(b"PAR1 cut short")
    write(tmp_path, "sentiment140", "train", [{"text": "hi", "polarity": 4}] * 300)
    source = HubSource(tmp_path)
    reports = {
        name: check_dataset(source, CATALOGUE[name], 5)
        for name in ("anli_r1", "cb", "copa", "sentiment140", "winogrande", "newsroom", "quac")
    }
    assert {name: report.status for name, report in reports.items()} == {
        "anli_r1": "ok",
        "cb": "failed",
        "copa": "failed",
        "sentiment140": "failed",
        "winogrande": "failed",
        "newsroom": "manual",
        "quac": "unavailable",
    }
    assert (
        reports["anli_r1"].rows == {"train": 3}
        and "test_r1" in reports["anli_r1"].unavailable["test"]
    )
    assert "'hypothesis'" in reports["cb"].problems[0]
    assert "is not readable (" in reports["copa"].problems[0]
    assert "have no field 'sentiment', but text, polarity" in reports["sentiment140"].problems[0]
    assert "summari.es" in reports["newsroom"].manual


def test_mistakes_are_answered_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"give one that holds <hub id>/<config>/<split>/\*\.parquet"
    ):
        open_source("hf", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has no files of 'train' in"):
        list(HubSource(tmp_path).rows(CATALOGUE["cb"], "train"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError) as error:
        open_source("hf", str(tmp_path))
    assert (
        str(error.value).endswith("run pip install 'flan_jax[hf]'.")
        and str(error.value).count(".") == 1
    )


def _process(home, *argv, **environment):
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.lower().endswith("_proxy") and not k.startswith("HF_")
    }
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        timeout=300,
        env=clean | {"HOME": str(home)} | environment,
    )


def run(home, *argv, **environment):
    """Runs `flan-jax tasks` in a home of its own; gives (status, stdout + stderr)."""
    result = _process(home, "-m", "flan_jax.tasks", *argv, **environment)
    return result.returncode, result.stdout + result.stderr


def python(home, code, **environment):
    """Runs a program in a home of its own; gives what it prints."""
    result = _process(home, "-c", code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "environment, reason",
    [
        ({"HF_HUB_OFFLINE": "1"}, "is not on disk, and HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "is not on disk, and there is no network"),
    ],
)
def test_without_a_network(tmp_path, environment, reason):
    status, out = run(tmp_path, "check", "--source=hf", "--json", **environment)
    reports = {report["name"]: report for report in json.loads(out)}
    assert status == 1 and {report["status"] for report in reports.values()} == {
        "unavailable",
        "manual",
    }
    assert reports["rte"]["unavailable"]["train"].startswith(reason)
    status, out = run(tmp_path, "render", "rte", "--source=hf", **environment)
    assert status == 2 and reason in out and out.count("\n") == 1


class FakeHub(http.server.BaseHTTPRequestHandler):
    """Answers what the hub's client asks, from a mirror on disk.

    One repository asks for a login.
    """

    protocol_version = "HTTP/1.1"
    root: pathlib.Path

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = (
            urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            .strip("/")
            .replace("refs/convert/parquet", "main")
            .split("/")
        )
        if parts[0] == "api" and parts[1] == "datasets":
            repository, what, inside = "/".join(parts[2:4]), parts[4], "/".join(parts[6:])
        elif parts[0] == "datasets":
            repository, what, inside = "/".join(parts[1:3]), parts[3], "/".join(parts[5:])
        else:
            return self.answer(404)
        place = self.root / repository / inside
        if repository == "nyu-mll/glue":
            return self.answer(403, error="GatedRepo")
        if not (self.root / repository).is_dir():
            return self.answer(401, error="RepoNotFound")
        if what == "revision":
            return self.answer(
                200, json.dumps({"id": repository, "sha": "1" * 40, "siblings": []}).encode()
            )
        if what == "paths-info":
            return self.answer(
                200,
                json.dumps(
                    [
                        self.entry(repository, self.root / repository / path)
                        for path in urllib.parse.parse_qs(self.body.decode()).get("paths", [])
                    ]
                ).encode(),
            )
        if not place.exists():
            return self.answer(404, error="EntryNotFound")
        if what == "tree":
            files = sorted(file for file in place.rglob("*") if file.is_file())
            return self.answer(
                200, json.dumps([self.entry(repository, file) for file in files]).encode()
            )
        return self.answer(200, place.read_bytes())

    def entry(self, repository, file):
        return {
            "type": "file",
            "path": str(file.relative_to(self.root / repository)),
            "size": file.stat().st_size,
            "oid": "2" * 40,
        }

    def answer(self, status, body=b"", error=None):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        size = len(body)
        if wanted and status == 200:
            begin, end = int(wanted[1]), int(wanted[2] or size - 1)
            status, body = 206, body[begin : end + 1]
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{size}")
        for name, value in (
            ("Content-Length", len(body)),
            ("ETag", '"3"'),
            ("X-Repo-Commit", "1" * 40),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def fake_hub(tmp_path):
    """Serves `<tmp_path>/hub`; gives the address."""
    handler = type("Handler", (FakeHub,), {"root": tmp_path / "hub"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


DOWNLOAD = """
import flan_jax.tasks, json
from flan_jax.catalogue import CATALOGUE
from flan_jax.data.sources.kinds import open_source

source, dataset = open_source("hf"), CATALOGUE["wmt14_enfr"]
before = [source.downloadable(dataset), len(source.fingerprint(dataset, "test"))]
reason = source.download(dataset)
files = sorted(
    str(path.relative_to(source.directory)) for path in source.directory.rglob("*.parquet")
)
rows = [row["translation"]["fr"] for _, row in source.rows(dataset, "train[29998:30000]")]
ours = [index for index, _ in source.rows(dataset, dataset.splits["train"])]
of_both_files = len(ours) == 30_000 and 14_000 < sum(index < 30_000 for index in ours) < 16_000
print(
    json.dumps(
        [
            before,
            reason,
            source.downloadable(dataset),
            files,
            rows,
            of_both_files,
            source.available(dataset),
        ]
    )
)
"""


def test_reads_and_downloads_from_the_hub(tmp_path, fake_hub):
    pairs = [{"translation": {"en": "Yes.", "fr": f"Oui, {i} fois."}} for i in range(30_000)]
    for file in ("0000.parquet", "0001.parquet"):
        write(tmp_path / "hub", "wmt14_enfr", "train", pairs, file)
    write(tmp_path / "hub", "wmt14_enfr", "validation", pairs[:300])
    write(tmp_path / "hub", "wmt14_enfr", "test", pairs[:3])
    write(tmp_path / "hub", "snli", "train", anli_rows(4))
    status, out = run(
        tmp_path,
        "check",
        "wmt14_enfr",
        "snli",
        "rte",
        "wnli",
        "drop",
        "--source=hf",
        "--json",
        HF_ENDPOINT=fake_hub,
    )
    wmt, snli, rte, wnli, drop = json.loads(out)
    assert status == 0 and (wmt["status"], wmt["rows"]) == (
        "ok",
        {"train": 100, "validation": 100, "test": 3},
    )
    assert snli["rows"] == {"train": 4} and snli["unavailable"]["test"] == (
        "has no split plain_text/test among the parquet files of stanfordnlp/snli"
    )
    assert (
        rte["unavailable"]["train"]
        == "aps/super_glue is not on the hub, or needs a login (hf auth login)"
    )
    assert wnli["unavailable"]["train"].startswith("nyu-mll/glue needs a login: accept its terms")
    assert drop["status"] == "unavailable"
    found = json.loads(python(tmp_path, DOWNLOAD, HF_ENDPOINT=fake_hub))
    folder_of = "wmt/wmt14/fr-en"
    assert found == [
        [True, 32],
        None,
        False,
        [
            f"{folder_of}/test/0000.parquet",
            f"{folder_of}/train/0000.parquet",
            f"{folder_of}/train/0001.parquet",
            f"{folder_of}/validation/0000.parquet",
        ],
        ["Oui, 29998 fois.", "Oui, 29999 fois."],
        True,
        None,
    ]
    # what lies on disk is used
    status, out = run(tmp_path, "check", "wmt14_enfr", "--source=hf", HF_HUB_OFFLINE="1")
    assert status == 0 and "1 ok" in out


def test_a_seqio_name_of_ours_reads_from_the_hub_without_a_mirror(tmp_path):
    program = (
        "from flan_jax.data.config import DataConfig\n"
        "from flan_jax.data.run_data import open_data\n"
        "open_data(DataConfig(source='hf', held_out='none', "
        "mixture_or_task_name='flan_rte.is_it_entailed'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert (
        "'flan_rte.is_it_entailed' has no rows: rte is not on disk, and HF_HUB_OFFLINE is set"
        in result.stderr
    )


def test_reading_the_hub_needs_no_tensorflow(tmp_path):
    write(tmp_path, "cb", "train", anli_rows(60))
    code = (
        "import sys; import flan_jax.tasks; from flan_jax.data.sources.kinds import open_source; "
        "from flan_jax.catalogue import CATALOGUE; source = open_source('hf', sys.argv[1]); "
        "assert source.available(CATALOGUE['cb']) is None and 'datasets' not in sys.modules; "
        "assert len(list(source.rows(CATALOGUE['cb'], 'train[:-50]'))) == 10; "
        "assert not {'tensorflow', 'seqio', 'torch', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300)
