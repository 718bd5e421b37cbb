"""Logins of buckets: a long token is in no output, file or object, whatever a verb meets."""

import importlib.util
import pathlib

import pytest
from bucket_server import TOKEN

from flan_jax.cli import dispatch
from flan_jax.storage import working_copy
from support.adapters import random_llama
from support.bucket_runs import forget_clients, start, train
from support.fabricated_runs import Fabricated, write_run

GENERATE = "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 4}"
VOCABULARY = "--gin.VOCABULARY=bytes"
# Verb -> its command, MODEL and RUN in a bucket, and OUT below the disk.
COMMANDS = {
    "train": ("train", "--gin_file=gin/smoke.gin", "--gin.MODEL=MODEL", VOCABULARY),
    "train in a bucket": ("train", "--gin_file=gin/smoke.gin", "--gin.MODEL_DIR=RUN"),
    "eval": ("eval", "RUN", "--output=OUT/eval"),
    "generate": ("generate", "MODEL", "hello", VOCABULARY, GENERATE, "--gin_file=gin/flan.gin"),
    "report": ("report", "RUN", "--output=OUT/report"),
    "convert": ("convert", "--to=hf", "--input=MODEL", "--output=OUT/hf"),
}


@pytest.fixture
def models(buckets, tmp_path, monkeypatch):
    """The server, with a model and a run in it."""
    random_llama(tmp_path / "llama", vocab_size=384)
    write_run(tmp_path / "fabricated", Fabricated({"nli": ["rte", "cb"]}))
    buckets.upload(tmp_path / "llama", "model")
    buckets.upload(tmp_path / "fabricated", "run")
    monkeypatch.setattr(working_copy, "_COPIES", {})
    return buckets


def nothing_has_the_token(buckets, directory: pathlib.Path, text: str) -> None:
    assert TOKEN not in text
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files and not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert not [name for name in buckets.names() if TOKEN.encode() in buckets.get(name)]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_that_is_refused_does_not_print_the_token(models, tmp_path, capfd, verb, scheme):
    def status_of(bucket: str, end: str = "") -> int:
        names = {"MODEL": f"{scheme}://{bucket}/model{end}", "RUN": f"{scheme}://{bucket}/run{end}"}
        words = {**names, "OUT": str(tmp_path)}
        command = [words.get(word, word) for word in COMMANDS[verb]]
        for name, value in words.items():
            command = [word.replace(f"={name}", f"={value}") for word in command]
        return dispatch.main(command)

    for status in (400, 401, 403, 404):
        models.fail("bucket1", status)
        assert status_of("bucket1") == 2
        models.recover()
    assert status_of(f"user:{TOKEN}@bucket1") == 2
    assert status_of("bucket1", f"?signature={TOKEN}") == 2
    said = capfd.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("flan-jax: error: ")]
    assert len(errors) == 6 and "Traceback" not in said.err
    nothing_has_the_token(models, tmp_path, said.out + said.err)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed: no run in a bucket"
)
def test_a_run_and_what_reads_it_do_not_print_the_token(models, tmp_path):
    forget_clients()
    short = ["--gin.TRAIN_STEPS=2", "--gin.EVAL_TEMPLATES=1", "--gin.UNTUNED_INSTRUCTIONS=None"]
    short += ["--log_level=debug"]
    run = "gs://bucket1/tuned"
    verbs = [
        train("gs://bucket1/cache", run, *short),
        ["eval", run, "--output=gs://bucket1/again"],
        ["generate", run, "hello", GENERATE],
        ["report", run],
        ["convert", run, "--to=hf", "--output=s3://bucket1/exported"],
    ]
    python = verbs[0][:3]
    text = ""
    for command in verbs:
        command = (
            command
            if command is verbs[0]
            else [*python[:-1], f"flan_jax.{command[0]}", *command[1:]]
        )
        process = start(command, tmp_path / "home_of_run")
        output = process.communicate(timeout=900)[0]
        assert process.returncode == 0, output[-3000:]
        text += output
    assert {"tuned/results.csv", "again/results.csv"} <= set(models.names())
    nothing_has_the_token(models, tmp_path, text)
