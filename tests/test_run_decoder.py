"""A decoder-only model through the whole program: run, restart, devices, evaluation, generation."""

import csv
import json
import signal
import sys

import pytest

from support.converting import convert
from support.processes import ended_well
from support.runs import SMALL_DECODER, losses, run, run_here, start_and_signal

ROTARY = [
    *SMALL_DECODER,
    "--gin.DecoderConfig.positions=rotary",
    "--gin.DecoderConfig.num_kv_heads=1",
    "--gin.DecoderConfig.logits_via_embedding=False",
    "--gin.DecoderConfig.scale_queries=True",
    "--gin.DecoderConfig.mlp_activations=('silu', 'linear')",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def command(verb, cache, model_dir, *arguments):
    return [
        sys.executable,
        "-m",
        f"flan_jax.{verb}",
        "--gin_file=gin/flan.gin",
        "--gin.ARCHITECTURE=decoder",
        "--gin.SIZE=decoder_test",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 160, 'targets': 48}",
        "--gin.BATCH_SIZE=8",
        "--gin.Data.validation_batches=1",
        f"--gin.CACHE_DIR={cache}",
        f"--gin.MODEL_DIR={model_dir}",
        *arguments,
    ]


def train(cache, model_dir, *arguments, devices=1):
    words = command("train", cache, model_dir, *arguments)
    ended_well(run_here(words) if devices == 1 else run(words, devices))


# In `make test`, test_decoder.py and test_partitioning.py cover relative positions.
@pytest.fixture(
    scope="module",
    params=[pytest.param(SMALL_DECODER, marks=pytest.mark.slow), ROTARY],
    ids=["relative", "rotary"],
)
def finished(request, cache, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("runs") / "finished"
    train(
        cache,
        model_dir,
        *request.param,
        "--gin.TRAIN_STEPS=6",
        "--gin.EVAL_ROWS=2",
        "--gin.HELD_OUT=reading_comprehension_with_commonsense",
    )
    return model_dir


def test_a_whole_run_and_the_same_losses_and_results_on_eight_devices(finished, cache, tmp_path):
    assert len(losses(finished)) == 6
    gin_file = f"--gin_file={finished / 'config.gin'}"
    mesh = (
        "--gin.MESH={'fsdp': 8}"
        if "num_kv_heads" in (finished / "config.gin").read_text()
        else "--gin.MESH={'data': 2, 'fsdp': 2, 'model': 2}"
    )
    result = run(
        [
            sys.executable,
            "-m",
            "flan_jax.train",
            gin_file,
            mesh,
            f"--gin.MODEL_DIR={tmp_path / 'eight'}",
        ],
        8,
    )
    ended_well(result)
    one, eight = losses(finished), losses(tmp_path / "eight")
    assert eight == pytest.approx(one, rel=1e-5)
    texts = [
        (directory / "results.csv").read_text() for directory in (finished, tmp_path / "eight")
    ]
    tables = [list(csv.DictReader(text.splitlines())) for text in texts]
    assert len(tables[0]) == len(tables[1]) > 100
    with open(next((finished / "predictions/tuned").glob("record.test.*.jsonl"))) as file:
        assert {"scores", "options", "prediction"} <= set(json.loads(file.readline()))


def test_generate_answers_from_the_checkpoint(finished):
    result = run(
        [
            sys.executable,
            "-m",
            "flan_jax.generate",
            f"--gin_file={finished / 'config.gin'}",
            "Is water wet?",
            "And is fire, which is hot, also wet?",
        ]
    )
    assert result.returncode == 0 and len(result.stdout.split("\n")) >= 3, result.stderr


def test_the_run_is_converted_in_its_own_sizes(finished, tmp_path):
    convert("flan", "flan", finished, tmp_path / "out")
    text = (tmp_path / "out/model.gin").read_text()
    for size in (
        "emb_dim = 32",
        "num_heads = 2",
        "head_dim = 16",
        "mlp_dim = 64",
        "num_layers = 2",
    ):
        assert f"DecoderConfig.{size}\n" in text, text


def test_losses_after_a_kill_are_those_of_an_uninterrupted_run(cache, tmp_path):
    arguments = [
        *ROTARY,
        "--gin.TRAIN_STEPS=40",
        "--gin.CHECKPOINT_EVERY=10",
        "--gin.DROPOUT_RATE=0.1",
        "--gin.HELD_OUT=none",
    ]
    train(cache, tmp_path / "whole", *arguments)
    killed = start_and_signal(
        command("train", cache, tmp_path / "killed", *arguments),
        tmp_path / "killed",
        23,
        signal.SIGKILL,
    )
    assert killed.returncode == -signal.SIGKILL
    train(cache, tmp_path / "killed", *arguments)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
