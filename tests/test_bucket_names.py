"""Every flag and setting that names a file or directory, with gs:// and s3://.

None is taken for a folder `gs:`; each works or ends with one message.
"""

import argparse
import importlib
import pathlib

import pytest

from flan_jax.cli import dispatch
from flan_jax.config.declared_settings import declared_settings
from flan_jax.config.gin_files import CONFIGURED
from support.adapters import random_llama

PREPARE = ("prepare", "--gin_file=gin/flan.gin", "--gin.HELD_OUT=nli")
LOCAL = "must be on a disk of this machine"
NO_CODE = "from which no code is run"
# Setting -> (arguments with URL for what is not in the bucket, a part of the message).
SETTINGS = {
    "DATA_DIR": ((*PREPARE, "--gin.DATA_SOURCE=jsonl", "--gin.DATA_DIR=URL"), "not a directory"),
    "MIXTURE_OR_TASK_NAME": ((*PREPARE, "--gin.MIXTURE_OR_TASK_NAME=URL/a.jsonl"), "no file"),
    "MIXTURE_OR_TASK_MODULE": ((*PREPARE, "--gin.MIXTURE_OR_TASK_MODULE=URL/a.py"), NO_CODE),
    "VOCABULARY": ((*PREPARE, "--gin.VOCABULARY=URL/a.model"), "neither 'bytes' nor a file"),
    "CHAT_TEMPLATE": (
        (*PREPARE, "--gin.VOCABULARY=bytes", "--gin.CHAT_TEMPLATE=URL/a.jinja"),
        "CHAT_TEMPLATE",
    ),
    "MODEL": ((*PREPARE, "--gin.MODEL=URL"), "no checkpoint found at gs"),
    "INITIAL_CHECKPOINT_PATH": (
        ("generate", "--gin_file=gin/flan.gin", "--checkpoint=URL", "hello"),
        "no checkpoint found at gs",
    ),
    "TRACKER": (("train", "--gin_file=gin/flan.gin", "--gin.TRACKER=URL/a.py"), NO_CODE),
}
FLAGS = {
    "--gin_file": (("prepare", "--gin_file=URL/a.gin"), "is not in the bucket"),
    "--gin_search_paths": (
        ("prepare", "--gin_file=a/b.gin", "--gin_search_paths=URL"),
        "'a/b.gin' is not in",
    ),
    "RUN_DIR": (("eval", "URL"), "is not the directory of a run"),
    "--input": (("convert", "--to=hf", "--input=URL", "--output=out"), "no checkpoint found at gs"),
    "--tokenizer": (
        ("convert", "--to=t5x", "--input=LLAMA", "--tokenizer=URL", "--output=out"),
        "neither a tokenizer's file",
    ),
    "--file": (("generate", "--gin_file=gin/flan.gin", "--file=URL"), "cannot be read"),
    "--module": (("tasks", "list", "--module=URL/a.py"), NO_CODE),
    "name": (("tasks", "render", "URL/a.jsonl"), "no file"),
    "--data_dir": (("tasks", "check", "--source=jsonl", "--data_dir=URL"), "not a directory"),
    "--vocabulary": (
        ("tasks", "check", "gs://bucket1/rows.jsonl", "--vocabulary=URL/a.model"),
        "neither 'bytes' nor a file",
    ),
    "file": (("tasks", "overlap", "--held_out=nli", "URL/a.jsonl"), "no file"),
    "RESULTS": (("report", "URL"), "results"),
    "A": (("report", "--compare", "URL", "URL/b"), "results"),
    "--json": (("precompile", "--gin_file=gin/flan.gin", "--topology=cpu:1", "--json=URL"), LOCAL),
    "DIR of sweep": (("sweep", "URL"), "gs://bucket1/no/such holds no sweep"),
    "--wheel": (
        (
            *("launch", "--backend=tpu_vm", "--zone=z", "--accelerator_type=v4-32"),
            *("--wheel=URL/a.whl", "--", "train", "--gin_file=gin/flan.gin"),
        ),
        LOCAL,
    ),
}
# Where what there is in a bucket is written: test_bucket_outputs, test_bucket_runs,
# test_bucket_sweep.
ELSEWHERE = {
    *("MODEL_DIR", "CACHE_DIR", "PROMPT_INIT", "SAMPLE_PROMPTS", "Train.baselines_dir"),
    *("SeqioTasks.data_dir", "SeqioTasks.vocabulary"),  # as DATA_DIR and VOCABULARY
    *("--output", "--base", "--adapters", "--checkpoint"),
}


@pytest.mark.parametrize("name", [*SETTINGS, *FLAGS])
def test_a_name_in_a_bucket_is_no_folder_here(buckets, tmp_path, monkeypatch, capsys, name):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    random_llama(tmp_path / "llama")
    buckets.put("rows.jsonl", '{"prompt": "p", "completion": "c"}\n' * 20)
    arguments, message = {**SETTINGS, **FLAGS}[name]
    url = "gs://bucket1/no/such"
    argv = [
        argument.replace("URL", url).replace("LLAMA", str(tmp_path / "llama"))
        for argument in arguments
    ]
    assert dispatch.main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("flan-jax: error: ")]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in "".join(lines)
    assert f"{tmp_path}/home" not in errors[0]
    assert not any(here.iterdir()) and not pathlib.Path("/gs").exists()


def test_every_setting_that_is_a_path_is_in_the_table():
    for module in (*CONFIGURED, "flan_jax.data.seqio.settings"):
        importlib.import_module(module)
    paths = {
        each.name for each in declared_settings() if each.setting.path or each.setting.paths_in
    }
    assert paths == paths & (SETTINGS.keys() | ELSEWHERE)


def flags_of(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from flags_of(sub)
        elif action.metavar in ("FILE", "DIR", "PATH", "RUN_DIR", "RESULTS", "DIR,DIR"):
            yield action.option_strings[0] if action.option_strings else action.metavar


def test_every_flag_that_is_a_path_is_in_the_table():
    flags = set()
    for module, _ in dispatch.VERBS.values():
        make_parser = getattr(importlib.import_module(module), "make_parser", None)
        flags |= set(flags_of(make_parser())) if make_parser else set()
    assert flags - {"DIR"} <= FLAGS.keys() | ELSEWHERE
