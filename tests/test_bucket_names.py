"""Every flag and setting that names a file or directory, with gs:// and s3://.

None is taken for a folder `gs:` or `s3:`; each works or ends with one message. The lists of
settings and flags come from their declarations: a new one that is in no table fails a test.
"""

import argparse
import importlib
import pathlib

import pytest

from flan_jax.cli import dispatch
from flan_jax.config.declared_settings import declared_settings
from flan_jax.config.flags import add_gin_flags
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.data.seqio.settings import SeqioTasks
from flan_jax.errors import UserError
from support.adapters import lora_arrays, random_llama, save_adapter
from support.fabricated_runs import Fabricated, write_run

PREPARE = ("prepare", "--gin_file=gin/flan.gin", "--gin.HELD_OUT=nli")
TRAIN = ("train", "--gin_file=gin/smoke.gin", "--gin.MODEL_DIR=DISK/run")
EVAL = ("eval", "--gin_file=gin/smoke.gin", "--name=other")
LLAMA = ("--gin.MODEL=DISK/llama", "--gin.VOCABULARY=bytes")
TPU_VM = ("launch", "--backend=tpu_vm", "--zone=z", "--accelerator_type=v4-32")
LOCAL = "must be on a disk of this machine"
NO_CODE = "from which no code is run"
NO_BUCKET = "there is no bucket SCHEME://bucket2"
NO_CHECKPOINT = "no checkpoint found at SCHEME://bucket1/no/such"
NO_ORBAX = {"gs": NO_BUCKET, "s3": "checkpoints cannot be written to s3://"}
# Name -> (arguments, a part of the message, by scheme where they differ). In both SCHEME is gs or
# s3, URL is in a bucket that has no such object, WRITTEN is in a bucket that does not exist, and
# DISK is a directory on the disk with a model `llama` and its `adapter`.
SETTINGS = {
    "DATA_DIR": ((*PREPARE, "--gin.DATA_SOURCE=jsonl", "--gin.DATA_DIR=URL"), "not a directory"),
    "MIXTURE_OR_TASK_NAME": ((*PREPARE, "--gin.MIXTURE_OR_TASK_NAME=URL/a.jsonl"), "no file"),
    "MIXTURE_OR_TASK_MODULE": ((*PREPARE, "--gin.MIXTURE_OR_TASK_MODULE=URL/a.py"), NO_CODE),
    "VOCABULARY": ((*PREPARE, "--gin.VOCABULARY=URL/a.model"), "neither 'bytes' nor a file"),
    "CHAT_TEMPLATE": (
        (*PREPARE, "--gin.VOCABULARY=bytes", "--gin.CHAT_TEMPLATE=URL/a.jinja"),
        "CHAT_TEMPLATE",
    ),
    "MODEL": ((*PREPARE, "--gin.MODEL=URL"), NO_CHECKPOINT),
    "INITIAL_CHECKPOINT_PATH": (
        (*TRAIN, "--gin.INITIAL_CHECKPOINT_PATH=URL"),
        NO_CHECKPOINT,
    ),
    "TRACKER": (("train", "--gin_file=gin/flan.gin", "--gin.TRACKER=URL/a.py"), NO_CODE),
    "MODEL_DIR": (("train", "--gin_file=gin/smoke.gin", "--gin.MODEL_DIR=WRITTEN"), NO_ORBAX),
    "CACHE_DIR": ((*PREPARE, "--gin.CACHE_DIR=WRITTEN"), NO_BUCKET),
    "PROMPT_INIT": (
        (*TRAIN, *LLAMA, "--gin.PEFT=prompt", "--gin.PROMPT_INIT=URL"),
        "no file or run is there",
    ),
    "SAMPLE_PROMPTS": ((*TRAIN, "--gin.SAMPLE_PROMPTS=URL/a.txt"), "cannot be read"),
    "Train.baselines_dir": (
        (*TRAIN, "--gin.Train.baselines_dir=WRITTEN"),
        {"gs": NO_BUCKET, "s3": "must be a path, or in gs://"},
    ),
}
FLAGS = {
    "--gin_file": (("prepare", "--gin_file=URL/a.gin"), "is not in the bucket"),
    "--gin_search_paths": (
        ("prepare", "--gin_file=a/b.gin", "--gin_search_paths=URL"),
        "'a/b.gin' is not in",
    ),
    "eval run": (("eval", "URL"), "is not the directory of a run"),
    "eval --checkpoint": ((*EVAL, "--checkpoint=URL"), NO_CHECKPOINT),
    "eval --adapters": (
        (*EVAL, *LLAMA, "--adapters=DISK/adapter,URL"),
        NO_CHECKPOINT,
    ),
    "eval --output": (
        (*EVAL, "--checkpoint=DISK/llama", "--output=WRITTEN"),
        NO_BUCKET,
    ),
    "generate run": (("generate", "URL", "hello"), "is not the directory of a run"),
    "generate --checkpoint": (
        ("generate", "--gin_file=gin/flan.gin", "--checkpoint=URL", "hello"),
        NO_CHECKPOINT,
    ),
    "generate --file": (("generate", "--gin_file=gin/flan.gin", "--file=URL"), "cannot be read"),
    "generate --output": (
        ("generate", "--gin_file=gin/flan.gin", *LLAMA, "hello", "--output=WRITTEN"),
        NO_BUCKET,
    ),
    "convert place": (("convert", "--to=hf", "URL", "--output=out"), NO_CHECKPOINT),
    "convert --input": (("convert", "--to=hf", "--input=URL", "--output=out"), NO_CHECKPOINT),
    "convert --output": (
        ("convert", "--to=hf", "--input=DISK/llama", "--output=WRITTEN"),
        NO_BUCKET,
    ),
    "convert --base": (
        ("convert", "--to=hf", "--input=DISK/adapter_of_hub", "--base=URL", "--output=out"),
        NO_CHECKPOINT,
    ),
    "convert --tokenizer": (
        ("convert", "--to=t5x", "--input=DISK/llama", "--tokenizer=URL", "--output=out"),
        "neither a tokenizer's file",
    ),
    "tasks --module": (("tasks", "list", "--module=URL/a.py"), NO_CODE),
    "tasks render name": (("tasks", "render", "URL/a.jsonl"), "no file"),
    "tasks render --data_dir": (
        ("tasks", "render", "rte", "--source=jsonl", "--data_dir=URL"),
        "not a directory",
    ),
    "tasks render --model": (
        ("tasks", "render", "SCHEME://bucket1/rows.jsonl", "--model=URL"),
        NO_CHECKPOINT,
    ),
    "tasks render --vocabulary": (
        ("tasks", "render", "SCHEME://bucket1/rows.jsonl", "--vocabulary=URL/a.model"),
        "neither 'bytes' nor a file",
    ),
    "tasks check names": (("tasks", "check", "URL/a.jsonl"), "no file"),
    "tasks check --data_dir": (
        ("tasks", "check", "--source=jsonl", "--data_dir=URL"),
        "not a directory",
    ),
    "tasks check --model": (
        ("tasks", "check", "SCHEME://bucket1/rows.jsonl", "--model=URL"),
        NO_CHECKPOINT,
    ),
    "tasks check --vocabulary": (
        ("tasks", "check", "SCHEME://bucket1/rows.jsonl", "--vocabulary=URL/a.model"),
        "neither 'bytes' nor a file",
    ),
    "tasks overlap files": (("tasks", "overlap", "--held_out=nli", "URL/a.jsonl"), "no file"),
    "tasks overlap --data_dir": (
        ("tasks", "overlap", "--held_out=nli", "--source=jsonl", "--data_dir=URL"),
        "not a directory",
    ),
    "report results": (("report", "URL"), "results"),
    "report --compare": (("report", "--compare", "URL", "URL/b"), "results"),
    "report --output": (("report", "DISK/results.csv", "--output=WRITTEN"), NO_BUCKET),
    "precompile --json": (
        ("precompile", "--gin_file=gin/flan.gin", "--topology=cpu:1", "--json=URL"),
        LOCAL,
    ),
    "sweep directory": (
        ("sweep", "URL"),
        {"gs": "gs://bucket1/no/such holds no sweep", "s3": "cannot be written to s3://"},
    ),
    "launch --wheel": (
        (*TPU_VM, "--wheel=URL/a.whl", "--", "train", "--gin_file=gin/flan.gin"),
        LOCAL,
    ),
}


@pytest.fixture
def disk(buckets, tmp_path) -> pathlib.Path:
    """A directory with a model, an adapter and results; there are rows in the bucket."""
    random_llama(tmp_path / "llama", vocab_size=384)
    targets = {"target_modules": ["q_proj"]}
    save_adapter(tmp_path / "adapter", lora_arrays(["q_proj"]), base="../llama", **targets)
    save_adapter(tmp_path / "adapter_of_hub", lora_arrays(["q_proj"]), base="org/name", **targets)
    write_run(tmp_path, Fabricated({"nli": ["rte", "cb"]}))
    buckets.put("rows.jsonl", '{"prompt": "p", "completion": "c"}\n' * 20)
    return tmp_path


@pytest.mark.parametrize("scheme", ["gs", "s3"])
@pytest.mark.parametrize("name", [*SETTINGS, *FLAGS])
def test_a_name_in_a_bucket_is_no_folder_here(disk, monkeypatch, capsys, name, scheme):
    here = disk / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    arguments, message = {**SETTINGS, **FLAGS}[name]
    message = message if isinstance(message, str) else message[scheme]
    url = {
        "URL": f"{scheme}://bucket1/no/such",
        "WRITTEN": f"{scheme}://bucket2/no/such",
        "DISK": str(disk),
        "SCHEME": scheme,
    }

    def filled(text: str) -> str:
        for word, value in url.items():
            text = text.replace(word, value)
        return text

    assert dispatch.main([filled(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("flan-jax: error: ")]
    print(name, scheme, errors)
    assert len(errors) == 1 and filled(message) in errors[0] and "Traceback" not in "".join(lines)
    assert f"{disk}/home" not in errors[0]
    assert not any(here.iterdir()) and not pathlib.Path("/gs").exists()


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_seqio_settings_read_names_in_a_bucket(buckets, scheme):
    with pytest.raises(UserError, match=f"'{scheme}://bucket1/no/such' is not a directory"):
        SeqioTasks(source="jsonl", data_dir=f"{scheme}://bucket1/no/such").opened_source()
    with pytest.raises(UserError, match=f"'{scheme}://bucket1/a.model' is neither 'bytes' nor"):
        SeqioTasks(vocabulary=f"{scheme}://bucket1/a.model").loaded_vocabulary()


def test_every_setting_that_is_a_path_is_in_the_table():
    for module in (*CONFIGURED, "flan_jax.data.seqio.settings"):
        importlib.import_module(module)
    paths = {
        each.name for each in declared_settings() if each.setting.path or each.setting.paths_in
    }
    assert paths == SETTINGS.keys() | {"SeqioTasks.data_dir", "SeqioTasks.vocabulary"}


# Flags, and arguments in the order of a command, whose text names no file and no directory.
NO_NAMES = {
    *("--coordinator", "--num_processes", "--process_id", "--step", "--name"),
    *("--system", "--stop", "generate prompts", "--method", "--held_out", "--cluster", "--split"),
    *("--template", "--lengths", "--num_rows", "--shots", "--max_rows", "--train_clusters"),
    *("--datasets_per_cluster", "--train_datasets", "tasks show name", "--topology"),
    *("--sweep.NAME", "--evaluate.NAME"),  # settings, which are in the other table
    *("--jobs", "--point", "--nodes", "--gpus_per_node", "--cpus_per_task", "--time", "--tpu"),
    *("--partition", "--account", "--sbatch", "--image", "--claim", "--slices", "--queue"),
    *("--chips_per_host", "--backend", "--devices", "--port", "--hosts", "--zone", "--project"),
    *("--accelerator_type", "--version", "--steps"),
}


def flags_of(parser: argparse.ArgumentParser, verb: str):
    """Yields 'verb flag' of what takes text."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from flags_of(sub, f"{verb} {name}")
        elif action.nargs != 0 and not action.choices and action.type not in (int, float):
            yield f"{verb} {action.option_strings[0] if action.option_strings else action.dest}"


def test_every_flag_that_takes_text_is_in_a_table():
    common = argparse.ArgumentParser()
    add_gin_flags(common)
    flags = {name.split()[-1] for name in flags_of(common, "")} - {"--help"}
    for verb, (module, _) in dispatch.VERBS.items():
        make_parser = getattr(importlib.import_module(module), "make_parser", None)
        flags |= set(flags_of(make_parser(), verb)) if make_parser else set()
    named = {flag if flag in FLAGS else flag.split()[-1] for flag in flags}
    # each verb of `tasks` has --module of the same parser
    named = {"tasks --module" if name == "--module" else name for name in named}
    named |= {flag for flag in flags if flag in NO_NAMES}
    known = FLAGS.keys() | NO_NAMES
    others = {flag.split()[-1] for flag in NO_NAMES if not flag.startswith("--")}
    assert named - others == known & named, "say in FLAGS what it does with gs:// and s3://"
    assert known <= named, "no longer needed"
