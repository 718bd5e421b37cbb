"""Files of one's own: every kind and compression, damaged ones, their splits and forms."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from flan_jax.catalogue.records import Drop
from flan_jax.data.own_data import open_own, own_paths
from flan_jax.data.record_forms import FORMS, recognize
from flan_jax.data.sources import file_rows, hub_files
from flan_jax.data.sources.file_rows import count_rows, read_rows
from flan_jax.data.sources.own_files import paths_of
from flan_jax.errors import UserError
from support.own_rows import RECORDS

ROWS = [{"prompt": f'Row {i}, "ä"\nand more', "completion": f"c{i}"} for i in range(10)]


def table(rows, delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


WRITE = {
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".json": lambda rows: json.dumps(rows, indent=2).encode(),
    ".csv": lambda rows: table(rows, ","),
    ".tsv": lambda rows: table(rows, "\t"),
    ".parquet": parquet,
}


def write(path, rows) -> None:
    data = WRITE[file_rows.kind_of(path)](rows)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)


@pytest.mark.parametrize("compression", ["", *file_rows.COMPRESSIONS])
@pytest.mark.parametrize("kind", file_rows.KINDS)
def test_a_file_of_each_kind_has_the_rows_that_were_written(tmp_path, kind, compression):
    path = tmp_path / f"rows{kind}{compression}"
    write(path, ROWS)
    assert list(read_rows(path)) == ROWS and count_rows(path) == len(ROWS)


def test_damaged_rows_are_dropped_by_reason_and_the_others_are_read(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a":\n[1]\n"' + b'\xff"\n{"a": 2}')
    bad = Drop(file_rows.NOT_JSON)
    assert list(read_rows(lines)) == [{"a": 1}, bad, bad, Drop(file_rows.NOT_UTF8), {"a": 2}]
    assert count_rows(lines) == 5
    cells = tmp_path / "rows.csv"
    cells.write_text("a,b\n1,2\n3\n\n4,5\n")
    short = Drop(file_rows.OTHER_CELLS)
    assert list(read_rows(cells)) == [{"a": "1", "b": "2"}, short, {"a": "4", "b": "5"}]
    array = tmp_path / "rows.json"
    array.write_text('[1, {"a": 2}]')
    assert list(read_rows(array)) == [Drop("not a JSON object"), {"a": 2}]
    array.write_text('{"a": 1}\n{"a": 2}\n')  # lines, as other programs call such files, too
    assert list(read_rows(array)) == [{"a": 1}, {"a": 2}]


def test_an_array_is_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(file_rows, "_CHUNK", 7)
    write(tmp_path / "rows.json", ROWS)
    assert list(read_rows(tmp_path / "rows.json")) == ROWS
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(read_rows(tmp_path / "rows.json")) == ROWS  # the first line is longer than a chunk


@pytest.mark.parametrize(
    "name, contents, says",
    [
        ("a.json", b'[{"a": 1}, {"a":', r"a.json: row 1 \(counted from 0\) of the array"),
        ("a.json", b'{\n"data": []}', "neither an array of objects"),
        ("a.json", b'[{"a": 1}]\n[{"a": 2}]\n', "more after the end of its array of 1 rows"),
        ("a.json", b'[{"a": 1}]\n{"a": 2}\n', "more after the end of its array"),
        ("a.parquet", b"PAR1", "a.parquet is not readable"),
        ("a.jsonl.gz", b"no", "a.jsonl.gz cannot be read .Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9],
            "a.jsonl.gz is not readable",
        ),
        ("a.jsonl.zst", b"no", "a.jsonl.zst cannot be read"),
        ("a.csv", b"a,a\n1,2\n", "a.csv: the header names a field twice"),
        ("a.csv", b'a,b\n1,"2\n3,4\n5,6\n', "a.csv:4: .* is a quotation mark not closed"),
        ("a.tsv", b'a\tb\n"x" y\t1\n', "a.tsv:2: the cells cannot be told apart"),
    ],
)
def test_a_file_that_cannot_be_read_on_is_one_message(tmp_path, name, contents, says):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError, match=says):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", RECORDS)
def test_a_form_is_recognized_and_the_loss_is_on_its_last_field(name):
    record, inputs, targets = RECORDS[name]
    form, unread = recognize([record], "rows.jsonl")
    read = ([] if inputs is None else [(inputs, False)]) + [(targets, True)]
    assert form.name == name and form.segments(record) == read
    assert unread == [n for n in record if n in ("id", "text", "category") and name != "text"]


def test_each_form_but_dialogues_is_tested():
    assert set(RECORDS) == {name for name, form in FORMS.items() if not form.is_dialogue}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"output": ""}, "empty output"),
        ({"output": float("nan")}, "empty output"),
        ({"output": None}, "empty output"),
        ({"output": ["a"]}, "output is not text but a list"),
        ({"instruction": "\udcff"}, "instruction is not UTF-8, or has half of a character"),
    ],
)
def test_a_record_that_cannot_be_used_is_dropped_with_the_reason(change, reason):
    record = {"instruction": "do", "output": "o"}
    assert FORMS["instruction/output"].segments(record | change) == Drop(reason)
    assert FORMS["instruction/output"].segments(record | {"input": None})[0].text == "do"
    assert FORMS["instruction/output"].segments({"output": "o"}) == Drop("no field instruction")


def test_an_unknown_form_is_answered_with_the_fields_and_the_forms(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "reply": "r"}\n')
    with pytest.raises(UserError, match="its fields are query, reply.*prompt . completion"):
        open_own([path])
    path.write_text("")
    with pytest.raises(UserError, match="has no rows; is it the right file"):
        open_own([path])
    path.write_text("a\nb\n")
    with pytest.raises(UserError, match="2 rows, none of which can be read"):
        open_own([path])


def test_columns_without_a_value_and_other_separators(tmp_path):
    rows = [{**row, "messages": None} for row in ROWS]
    form, unread = recognize(rows, "rows")
    assert (form, unread) == (FORMS["prompt/completion"], ["messages"])
    (tmp_path / "a.csv").write_text("prompt;completion\na;b\n")
    with pytest.raises(UserError, match="the separator of its kind between cells, not ';'"):
        open_own([tmp_path / "a.csv"])


def test_splits_are_those_of_file_names(tmp_path):
    for name in ("train-0.jsonl", "train-1.csv", "extra.jsonl", "my_dev.jsonl", "test.jsonl"):
        write(tmp_path / name, ROWS)
    (tmp_path / "README.md").write_text("not rows")
    (own,) = open_own([tmp_path]).values()
    assert own.source.counts == {"train": 30, "validation": 10, "test": 10}
    train, validation = (
        [row["completion"] for _, row in own.source.rows(own.dataset, own.dataset.splits[split])]
        for split in ("train", "validation")
    )
    assert (len(train), len(validation)) == (30, 10)
    described = own.described()
    assert "rows: train 30, validation 10, test 10; test rows are not read" in described
    assert "files not read: README.md" in described
    for folder in ("extra", "train/deeper"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "more.jsonl", ROWS)
    (own,) = open_own([tmp_path]).values()
    assert own.source.unread == ["README.md", "extra/", "train/deeper/"]
    only_test = tmp_path / "only_test"
    only_test.mkdir()
    write(only_test / "test.jsonl", ROWS)
    with pytest.raises(UserError, match="has nothing to train on: it has test.jsonl"):
        open_own([only_test])
    (tmp_path / "repository/data").mkdir(parents=True)
    with pytest.raises(UserError, match="it has no file of a known kind, but directories: data;"):
        open_own([tmp_path / "repository"])


@pytest.mark.parametrize("rows, validation", [(9, 0), (10, 1), (500, 50), (5000, 200)])
def test_without_a_file_of_them_validation_rows_are_taken_by_hash(tmp_path, rows, validation):
    write(tmp_path / "my.jsonl", [{"prompt": i, "completion": i} for i in range(rows)])
    (own,) = open_own([tmp_path / "my.jsonl"]).values()
    taken = [
        [row["prompt"] for _, row in own.source.rows(own.dataset, spec)]
        for spec in own.dataset.splits.values()
    ]
    assert list(map(len, taken)) == [rows - validation, validation][: len(taken)]
    assert sorted(sum(taken, [])) == list(range(rows))
    if validation == 200:  # from the whole file
        assert min(taken[1]) < 200 and max(taken[1]) > 4800
    says = f"validation: train[-{validation}:], chosen by hash"
    assert (says if validation else "too few for validation") in own.described()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An imitation of the hub with the dataset org/tides, and the directory it is read from."""
    served = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub_files, "DEFAULT_DIRECTORY", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_files, "offline", lambda: None)
    asked = []

    def snapshot_download(repository, repo_type, revision, allow_patterns, local_dir):
        asked.append((repository, repo_type, revision, allow_patterns))
        if repository != "org/tides":
            raise ValueError("401: not found\nmore")
        for split in ("train", "test"):
            (local_dir / "default" / split).mkdir(parents=True)
            write(local_dir / "default" / split / "0000.parquet", ROWS)

    monkeypatch.setattr(served, "snapshot_download", snapshot_download)
    return asked


def test_a_dataset_of_the_hub_is_downloaded_once_and_read_as_files(hub, tmp_path):
    for _ in range(2):
        (own,) = open_own(own_paths("hf:org/tides")).values()
        assert own.dataset.name == "org/tides/default/" and own.source.counts["train"] == 10
        assert own.source.files["train"] == [tmp_path / "hub/org/tides/default/train/0000.parquet"]
    assert hub == [("org/tides", "dataset", "refs/convert/parquet", ["default/*"])]


def test_a_dataset_of_the_hub_that_cannot_be_downloaded_is_fetched_by_hand(hub, monkeypatch):
    command = "hf download org/x --repo-type=dataset --revision=refs/convert/parquet --local-dir="
    with pytest.raises(UserError, match=rf"is not downloaded \(401: not found\); `{command}"):
        own_paths("hf:org/x")
    with pytest.raises(UserError, match="org/tides/main has no configuration 'main'"):
        own_paths("hf:org/tides/main")
    monkeypatch.setattr(hub_files, "offline", lambda: "is not on disk, and HF_HUB_OFFLINE is set")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; `hf download org/y"):
        own_paths("hf:org/y")
    with pytest.raises(UserError, match="hf:alpaca is not the name of a dataset on the hub"):
        own_paths("hf:alpaca")


def test_two_files_of_one_name_have_longer_names(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "my.jsonl", ROWS)
    assert list(open_own([tmp_path / "a/my.jsonl", tmp_path / "a"])) == ["my.jsonl", "a/"]
    both = [tmp_path / "a/my.jsonl", tmp_path / "b/my.jsonl"]
    assert list(open_own(both)) == ["a/my.jsonl", "b/my.jsonl"]
    with pytest.raises(UserError, match="twice"):
        open_own([both[0], both[0]])


def test_a_missing_file_is_answered_with_the_place_and_the_nearest(tmp_path, monkeypatch):
    write(tmp_path / "alpaca.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"looked for {tmp_path}/alpcaa.jsonl.*mean alpaca.jsonl"):
        paths_of("alpcaa.jsonl")
    with pytest.raises(UserError, match=f"there is no directory {tmp_path}/data"):
        paths_of("data/alpaca.jsonl")
    with pytest.raises(UserError, match="nothing matches '\\*.csv'"):
        paths_of("*.csv")
    assert paths_of("*.jsonl") == [tmp_path / "alpaca.jsonl"]
    write(tmp_path / "._alpaca.jsonl", ROWS)  # as macOS writes beside a file
    odd = tmp_path / "p [v2]"
    odd.mkdir()
    write(odd / "b.jsonl", ROWS)
    assert paths_of("*.jsonl") == [tmp_path / "alpaca.jsonl"]
    assert paths_of(f"{odd}/*.jsonl") == [odd / "b.jsonl"]
