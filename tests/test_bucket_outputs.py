"""What verbs write into gs:// and s3://: whole, or not to be taken for it."""

import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from bucket_server import TOKEN

from flan_jax.checkpoints import located
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.cli import dispatch
from flan_jax.errors import UserError
from flan_jax.storage.output_directory import MARKER
from flan_jax.storage.places import place
from flan_jax.storage.uploaded_file import UploadedFile
from support.adapters import random_llama
from support.fabricated_runs import Fabricated, write_run
from support.tokenizer_files import byte_bpe, save


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    random_llama(path, vocab_size=320)
    return save(byte_bpe(), path, eos_token="</s>")


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    """A checkpoint is opened as by another process."""
    monkeypatch.setattr(located, "_FRESH_S", 0.0)


def convert(source: object, to: str, output: str) -> int:
    return dispatch.main(["convert", f"--to={to}", f"--input={source}", f"--output={output}"])


def same(one: object, other: object) -> bool:
    first, second = open_checkpoint(one), open_checkpoint(other)
    assert first.tensors.keys() == second.tensors.keys()
    return all(
        np.array_equal(tensor.read(), second.tensors[name].read())
        for name, tensor in first.tensors.items()
    )


@pytest.mark.parametrize("to", ["flan", "t5x", "hf"])
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_convert_writes_what_it_writes_on_the_disk(
    buckets, llama, tmp_path, monkeypatch, scheme, to
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    output = f"{scheme}://bucket1/models/out"
    assert convert(llama, to, output) == 0
    assert convert(llama, to, str(tmp_path / "out")) == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in files)
    assert buckets.names() == sorted(f"models/out/{name}" for name in names)
    assert same(output, tmp_path / "out")
    if to != "hf":
        gin = buckets.get("models/out/model.gin").decode()
        assert f"VOCABULARY = '{output}/tokenizer.json'" in gin
    assert not any((tmp_path / "here").iterdir())


def test_convert_does_not_write_over_what_is_there(buckets, llama, capsys):
    buckets.put("models/mine/notes.txt", "mine")
    assert convert(llama, "hf", "gs://bucket1/models/mine") == 2
    assert "--output=gs://bucket1/models/mine already exists" in capsys.readouterr().err
    assert buckets.names() == ["models/mine/notes.txt"]


def test_a_bucket_that_does_not_exist_is_said_before_anything_is_converted(buckets, llama, capsys):
    assert convert(llama, "hf", "gs://bucket2/out") == 2
    assert "there is no bucket gs://bucket2" in capsys.readouterr().err
    assert not any("bucket1" in logged.what for logged in buckets.log)


TELLING = {"flan": r"/_METADATA", "t5x": r"/checkpoint", "hf": r"/config\.json"}


def check_is_no_checkpoint(buckets, to: str) -> None:
    names = buckets.names()
    assert f"models/out/{MARKER}" in names and len(names) > 2
    assert not any(re.search(rf"{TELLING[to]}$", name) for name in names)
    with pytest.raises(UserError):
        open_checkpoint("gs://bucket1/models/out")


@pytest.mark.parametrize("to", TELLING)
def test_what_a_convert_that_fails_leaves_is_no_checkpoint_and_is_written_again(
    buckets, llama, capsys, to
):
    output = "gs://bucket1/models/out"
    buckets.fail(f"upload.*name=.*{TELLING[to].replace('/', '%2F')}(&|$)", 403)
    assert convert(llama, to, output) == 2
    assert "gs://bucket1 cannot be written: no permission (403)" in capsys.readouterr().err
    check_is_no_checkpoint(buckets, to)
    buckets.recover()
    buckets.put("models/out/stale", "of the first one")
    assert convert(llama, to, output) == 0
    assert same(output, llama)
    assert not {f"models/out/{MARKER}", "models/out/stale"} & set(buckets.names())


@pytest.mark.slow
@pytest.mark.parametrize("to", TELLING)
def test_what_a_killed_convert_leaves_is_no_checkpoint(buckets, llama, to):
    output = "gs://bucket1/models/out"
    command = [sys.executable, "-m", "flan_jax.convert", f"--to={to}", f"--input={llama}"]
    buckets.latency = 0.2
    process = subprocess.Popen([*command, f"--output={output}"], stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while len(buckets.names()) < 3 and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    buckets.latency = 0.0
    check_is_no_checkpoint(buckets, to)
    assert convert(llama, to, output) == 0
    assert same(output, llama)


def test_generate_answers_a_file_with_a_model_into_a_file_of_a_bucket(buckets, llama, capsys):
    buckets.upload(llama, "models/llama")
    buckets.put("prompts.txt", "Is it wet?\nWhy?\n")
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 4}"
    command = ["generate", "gs://bucket1/models/llama", "--file=gs://bucket1/prompts.txt", lengths]
    command.append("--output=gs://bucket1/answers/a.jsonl")
    assert dispatch.main(command) == 0
    answers = buckets.get("answers/a.jsonl")
    records = [json.loads(line) for line in answers.splitlines()]
    assert [record["prompt"] for record in records] == ["Is it wet?", "Why?"]
    assert buckets.names("answers") == ["answers/a.jsonl", "answers/a.jsonl.settings.json"]
    buckets.put("answers/a.jsonl", answers.splitlines(keepends=True)[0] + b'{"prom')
    assert dispatch.main(command) == 0
    assert buckets.get("answers/a.jsonl") == answers
    buckets.counts.clear()
    assert dispatch.main(command) == 0
    assert "2 of 2 answers are in gs://bucket1/answers/a.jsonl already" in capsys.readouterr().err
    assert buckets.counts["gs POST upload"] == 1  # whether it can be written


def test_an_output_file_that_another_program_changes_is_not_written_over(buckets, tmp_path):
    buckets.put("a.jsonl", "one\n")
    file = UploadedFile(place("gs://bucket1/a.jsonl", "--output"), tmp_path)
    assert file.local.read_text() == "one\n"
    file.local.write_text("one\ntwo\n")
    file.upload()
    file.local.write_text("one\ntwo\nthree\n")
    buckets.put("a.jsonl", "of another program")
    with pytest.raises(UserError, match="gs://bucket1/a.jsonl was changed by another program"):
        file.upload()
    assert buckets.get("a.jsonl") == b"of another program"


def test_a_report_is_written_beside_the_results_in_a_bucket_or_elsewhere(buckets, tmp_path, capsys):
    write_run(tmp_path / "run", Fabricated({"nli": ["rte", "cb"]}))
    buckets.upload(tmp_path / "run", "runs/nli")
    buckets.put("runs/nli/checkpoints/8/params/large", b"weights")
    assert dispatch.main(["report", "gs://bucket1/runs/nli"]) == 0
    written = set(buckets.names("runs/nli"))
    assert {"runs/nli/report.md", "runs/nli/report.html", "runs/nli/report.png"} <= written
    assert "wrote gs://bucket1/runs/nli/report.md" in capsys.readouterr().out
    assert not any("params/large" in logged.what for logged in buckets.log)
    buckets.counts.clear()
    assert dispatch.main(["report", "gs://bucket1/runs/nli"]) == 0
    assert "up to date" in capsys.readouterr().out
    both = ["gs://bucket1/runs/nli/results.csv", str(tmp_path / "run")]
    assert dispatch.main(["report", *both, "--output=s3://bucket1/paper"]) == 0
    assert "paper/report.md" in buckets.names("paper")
    write_run(tmp_path / "other", Fabricated({"nli": ["rte", "cb"]}, accuracy=0.9))
    models = ["gs://bucket1/runs/nli", str(tmp_path / "other")]
    comparison = ["report", "--compare", *models, "--output=gs://bucket1/compared"]
    assert dispatch.main(comparison) == 0
    assert buckets.names("compared") == ["compared/compare.csv", "compared/compare.md"]


def test_no_token_is_in_an_output_or_a_file(buckets, llama, tmp_path, capfd):
    buckets.upload(llama, "models/llama")
    output = tmp_path / "out"
    for scheme in ("gs", "s3"):
        model = f"{scheme}://bucket1/models/llama"
        assert convert(model, "hf", f"{scheme}://bucket1/{scheme}") == 0
        assert convert(model, "hf", str(output / scheme)) == 0
        for status in (401, 403, 404, 400):
            buckets.fail("bucket1", status)
            assert convert(model, "hf", str(tmp_path / "not")) == 2
            buckets.recover()
        secret = f"{scheme}://{TOKEN}@bucket1/models"
        for name in (secret, f"{scheme}://bucket1/models?signature={TOKEN}"):
            assert convert(name, "hf", str(tmp_path / "not")) == 2
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err
    assert "from gs://bucket1/models/llama to gs://bucket1/gs in" in said.out
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10 and not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert not any(TOKEN.encode() in buckets.get(name) for name in buckets.names())
