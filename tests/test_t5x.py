"""Stock T5X on our tasks.

Its gin files bind what is there; where T5X is installed, it trains and scores with them.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import flan_jax.tasks  # noqa: F401
from flan_jax.config import gin_files
from flan_jax.convert import main as convert
from flan_jax.data.seqio import recipes
from flan_jax.errors import UserError
from support.processes import ended_well, output_tail

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "gin/t5x").glob("*.gin"))
RUNS = {"finetune": "train", "eval": "evaluate", "infer": "infer"}
MODEL = "t5x/examples/t5/t5_1_1/tiny.gin"


def test_every_name_of_files_and_page_is_in_the_registry():
    known = {*recipes.task_recipes(), *recipes.mixture_recipes()}
    for path in (*FILES, ROOT / "docs/t5x.md"):
        names = set(re.findall(r"'(flan_[\w.]+)'", path.read_text(encoding="utf-8")))
        assert names <= known, path.name
        assert names or path.stem in ("tasks", "parameters_only"), path.name


def test_our_own_reader_refuses_them_with_the_line():
    with pytest.raises(UserError, match="does not use gin's dynamic registration"):
        gin_files.parse_command_line(["--gin_file=gin/t5x/finetune.gin"], modules=[])


# --- Against stand-ins for T5X
# ----------------------------------------------------------------------------------------

# What our files need of T5X: its three runs with the names they read, and a model with another
# vocabulary than ours.
RUN = """
from __gin__ import dynamic_registration
import __main__ as script
from t5x import utils
MIXTURE_OR_TASK_NAME = %gin.REQUIRED
TASK_FEATURE_LENGTHS = %gin.REQUIRED
USE_CACHED_TASKS = True
BATCH_SIZE = 128
EVAL_STEPS = 20
script.FUNCTION:
  model = %MODEL
  dataset = @utils.DatasetConfig()
utils.DatasetConfig:
  name = %MIXTURE_OR_TASK_NAME
  lengths = %TASK_FEATURE_LENGTHS
  use_cached = %USE_CACHED_TASKS
"""
STAND_INS = {
    "t5x/__init__.py": "",
    "t5x/utils.py": "def DatasetConfig(name, lengths, use_cached=False):\n    return name, "
    "lengths, use_cached\n"
    "def RestoreCheckpointConfig(assignment_map=None, fallback_to_scratch=False):\n"
    "    return assignment_map, fallback_to_scratch\n",
    "t5x/models.py": "def Model(vocabulary):\n    return vocabulary\n",
    "t5x/configs/__init__.py": "",
    "t5x/configs/runs/__init__.py": "",
    "t5x/model.gin": "from __gin__ import dynamic_registration\nimport seqio\nfrom t5x import "
    "models\n"
    "VOCABULARY = @seqio.PassThroughVocabulary()\nseqio.PassThroughVocabulary.size = 3\n"
    "MODEL = @models.Model()\nmodels.Model.vocabulary = %VOCABULARY\n"
    "DROPOUT_RATE = %gin.REQUIRED\n",
    **{
        f"t5x/configs/runs/{file}.gin": RUN.replace("FUNCTION", function)
        for file, function in RUNS.items()
    },
}
STAND_INS["t5x/configs/runs/finetune.gin"] += "DROPOUT_RATE = 0.1\n"
PROGRAM = """
import json, sys
import gin
import seqio

file, function, *more = sys.argv[1:]


def run(model, dataset, mode=None, infer_eval_dataset_cfg="held out"):
    name, lengths, use_cached = dataset
    task = seqio.get_mixture_or_task(name)
    from t5x import utils

    return {
        "name": name,
        "lengths": lengths,
        "use_cached": use_cached,
        "mode": mode,
        "held out": infer_eval_dataset_cfg,
        "same": model == task.output_features["inputs"].vocabulary,
        "size": model.vocab_size,
        "restore": gin.get_configurable(utils.RestoreCheckpointConfig)()
        if "parameters" in str(more)
        else None,
    }


run.__name__ = run.__qualname__ = function
globals()[function] = run
configured = gin.configurable(run)
globals()[function] = configured
gin.parse_config_files_and_bindings(
    ["t5x/model.gin", file, *[m for m in more if m.endswith(".gin")]],
    [m for m in more if not m.endswith(".gin")],
)
print("FOUND " + json.dumps(configured()))
"""


@pytest.fixture
def stand_ins(tmp_path):
    """A directory with stand-ins for T5X and our gin files, as in a checkout."""
    for name, text in STAND_INS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "gin_files").mkdir()
    (tmp_path / "gin_files/gin").symlink_to(ROOT / "gin")
    (tmp_path / "program.py").write_text(
        f"import gin\ngin.add_config_file_search_path({str(tmp_path / 'gin_files')!r})\n" + PROGRAM
    )
    return tmp_path


def parsed(directory: pathlib.Path, file: str, *more: str) -> dict:
    """What a T5X run would get from a shipped file, with further files and bindings."""
    result = subprocess.run(
        [sys.executable, "program.py", f"gin/t5x/{file}.gin", RUNS[file], *more],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": ""},
    )
    line = next((line for line in result.stdout.splitlines() if line.startswith("FOUND ")), None)
    assert line, output_tail(result)
    return json.loads(line.removeprefix("FOUND "))


def test_training_reads_our_mixture_with_the_tasks_vocabulary(stand_ins):
    found = parsed(stand_ins, "finetune", "gin/t5x/parameters_only.gin")
    assert found == {
        "name": "flan_heldout_nli",
        "lengths": {"inputs": 1024, "targets": 256},
        "use_cached": False,
        "mode": None,
        "held out": None,
        "same": True,
        "size": 259,
        "restore": [[["state/param_states/.*", None]], True],
    }


def test_evaluation_and_inference_read_ranked_tasks(stand_ins, t5_vocabulary):
    found = parsed(
        stand_ins,
        "eval",
        f"VOCABULARY_FILE = '{t5_vocabulary}'",
        "MIXTURE_OR_TASK_NAME = 'flan_cb.discourse'",
    )
    assert found["same"] and found["size"] == 32100 and found["name"] == "flan_cb.discourse"
    found = parsed(stand_ins, "infer")
    assert found["same"] and found["mode"] == "score" and found["name"].endswith(".rank")


# --- With T5X itself
# --------------------------------------------------------------------------------------------------


def t5x(script: str, *arguments: str) -> str:
    """Runs `python -m t5x.<script>` on the tiny model and short rows in this checkout.

    Gives what it logs.
    """
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 32}"
    file = "finetune" if script == "train" else script
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            f"t5x.{script}",
            f"--gin_file={MODEL}",
            f"--gin_file=gin/t5x/{file}.gin",
            lengths,
            *arguments,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    ended_well(result)
    return result.stderr


@pytest.mark.slow
def test_t5x_trains_saves_and_evaluates(tmp_path):
    if importlib.util.find_spec("t5x") is None:
        pytest.skip(
            "t5x is not installed: stock T5X was not run on our tasks; docs/t5x.md says how to "
            "install it"
        )
    logged = t5x(
        "train",
        f"--gin.MODEL_DIR='{tmp_path}'",
        "--gin.MIXTURE_OR_TASK_NAME='flan_rte'",
        "--gin.TRAIN_STEPS=3",
        "--gin.EVAL_PERIOD=3",
        "--gin.utils.SaveCheckpointConfig.period=3",
    )
    assert re.search(r"\[3\] collection=train .*loss_per_nonpadding_target_token=\d", logged)
    assert re.search(r"\[3\] collection=training_eval/flan_rte .*loss=\d", logged)
    checkpoint = f"--gin.CHECKPOINT_PATH='{tmp_path}/checkpoint_3'"
    for name, measure in (
        ("flan_rte.is_it_entailed.rank", "accuracy"),
        ("flan_e2e_nlg.listing", "rougeLsum"),
    ):
        t5x(
            "eval",
            checkpoint,
            f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/eval'",
            f"--gin.MIXTURE_OR_TASK_NAME='{name}'",
        )
        metrics = json.loads((tmp_path / f"eval/inference_eval/{name}-metrics.jsonl").read_text())
        assert metrics["step"] == 3 and 0 <= metrics[measure] <= 100
    t5x("infer", checkpoint, f"--gin.INFER_OUTPUT_DIR='{tmp_path}/infer'")
    lines = (
        (tmp_path / "infer/flan_rte.is_it_entailed.rank-score.jsonl-00000-of-00001")
        .read_text()
        .splitlines()
    )
    assert [json.loads(line)["inputs"]["targets_pretokenized"] for line in lines[:2]] == [
        "yes",
        "no",
    ]
    assert all(json.loads(line)["score"] < 0 for line in lines)

    # What T5X saved is converted, and T5X goes on from what we write, with and without optimizer
    # state.
    for name, flags, more in (
        ("whole", ["--with_optimizer"], []),
        ("parameters", [], ["--gin_file=gin/t5x/parameters_only.gin"]),
    ):
        output = tmp_path / name
        convert(
            [
                "--from=t5x",
                f"--input={tmp_path}/checkpoint_3",
                "--to=t5x",
                f"--output={output}",
                *flags,
            ]
        )
        t5x(
            "train",
            *more,
            f"--gin.MODEL_DIR='{output}_run'",
            f"--gin.INITIAL_CHECKPOINT_PATH='{output}/checkpoint_3'",
            "--gin.MIXTURE_OR_TASK_NAME='flan_rte'",
            "--gin.TRAIN_STEPS=4",
            "--gin.utils.SaveCheckpointConfig.period=1",
            "--gin.train.train_eval_dataset_cfg=None",
        )
        assert (tmp_path / f"{name}_run/checkpoint_4").is_dir()
