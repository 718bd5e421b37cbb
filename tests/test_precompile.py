"""`flan-jax precompile`.

On simulated devices the real steps, their memory and collectives; with libtpu a TPU slice.
"""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import pytest

from flan_jax import precompile as precompile_verb
from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.gin_files import CONFIGURED
from support.processes import ended_well

pytestmark = pytest.mark.optimized

TINY = [
    "--gin_file=gin/flan.gin",
    "--gin_file=gin/size/decoder_tiny.gin",
    "--gin.DecoderConfig.num_layers=2",
    "--gin.DecoderConfig.emb_dim=64",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 8}",
    "--gin.TRAIN_STEPS=2",
]


@pytest.mark.parametrize(
    ("name", "devices"), [("cpu", 1), ("gpu8", 8), ("v3_128", 128), ("v5e_16", 16), ("v5p_128", 64)]
)
def test_a_preset_uses_every_device_of_its_machine(name, devices):
    gin_files.parse_command_line(
        ["--gin_file=gin/flan.gin", f"--gin_file=gin/mesh/{name}.gin"], CONFIGURED
    )
    assert abs(math.prod(gin_files.macro("MESH").values())) == devices


def precompile(*arguments: str) -> subprocess.CompletedProcess:
    """The verb in a process of its own, in which JAX has not counted its devices yet."""
    command = [sys.executable, "-m", "flan_jax.precompile", *TINY, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "XLA_FLAGS": ""}
    )


def test_eight_simulated_devices_tell_what_each_needs(tmp_path):
    result = precompile(
        "--topology=cpu:8",
        "--gin.MESH={'data': 4, 'model': 2}",
        "--gin.DecoderConfig.remat=auto",
        f"--json={tmp_path / 'found.json'}",
    )
    ended_well(result)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fits"] is None and "is not known" in result.stdout
    # XLA has none for CPUs
    assert "peak_bytes" not in found["train"] and "at once" not in result.stdout
    assert found["remat"] == "none"  # of devices whose memory is not known
    assert (found["devices"], found["mesh"]) == (8, {"data": 4, "fsdp": 1, "model": 2})
    memory = found["train"]["memory"]
    # Matrices lie in halves; norms and position tables are whole on each device.
    assert 2 * found["parameters"] <= memory["parameters"] < 2.1 * found["parameters"]
    assert memory["total"] == sum(
        size for name, size in memory.items() if name not in ("total", "available")
    )
    # The gradients are summed over data, and activations over model.
    assert found["train"]["collectives"]["all-reduce"]["bytes"] > memory["parameters"]
    assert 2.5 < found["train"]["flops"] / found["eval"]["flops"] < 3.5
    assert found["train"]["flops"] * 8 == pytest.approx(found["model_flops"], rel=0.15)
    assert re.search(r"parameters +\d.* MiB\n +optimizer", result.stdout)
    assert 0 < found["train"]["activations_guess"] <= memory["temporaries"]
    assert (
        len(re.findall(r"temporaries .*\n +of these activations .* by estimate\n", result.stdout))
        == 1
    )


def test_where_the_default_mesh_does_not_divide_one_is_chosen(tmp_path):
    result = precompile("--topology=cpu:16", f"--json={tmp_path / 'found.json'}")  # 8 rows
    ended_well(result)
    assert (
        "does not divide this model and 8 rows over 16 devices; this is --gin.MESH=auto"
        in result.stdout
    )
    mesh = json.loads((tmp_path / "found.json").read_text())["mesh"]
    assert mesh["data"] * mesh["fsdp"] in (4, 8) and math.prod(mesh.values()) == 16


def test_where_no_mesh_divides_it_does_not_fit_and_the_rows_that_would_are_said(tmp_path):
    result = precompile("--topology=cpu:64", f"--json={tmp_path / 'found.json'}")  # 8 rows, 4 heads
    assert result.returncode == 1, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["fits"] is False and "--gin.BATCH_SIZE=16 or a multiple" in found["why"]
    assert found["why"] in result.stdout


def test_fit_prints_the_lines_to_use(capsys, tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        dispatch.main(
            ["precompile", *TINY, "--topology=cpu:1", "--fit", "--tries=1", "--json=~/found.json"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    for line in ("MESH = {'data': 1}", "DecoderConfig.remat = 'none'", "MICROBATCHES = 1"):
        assert line in printed
    assert json.loads(path.read_text())["tried"][0]["fits"] is None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--topology=v3"], "v3:8x8"),
        (["--topology=v5e:32x32"], "1,024 chips, and a pod of TPU v5e has only 256"),
        (["--topology=cpu:1", "--gin.MESH={'model': 3}"], "does not fit the 1 devices"),
        (["--topology=cpu:1", "--gin.MESH=car"], "sizes such as"),
        (["--topology=cpu:1", "--fit", "--tries=0"], "1 or more"),
        (["--topology=cpu:1", "--json=nowhere/found.json"], "make it first"),
        (["--topology=cpu:1", "--gin.BATCH_SIZE=3", "--gin.MICROBATCHES=2"], "BATCH_SIZE=4"),
        (
            [
                "--topology=cpu:1",
                "--gin.DecoderConfig.num_heads=3",
                "--fit",
                "--gin.DecoderConfig.num_kv_heads=2",
            ],
            "heads",
        ),
    ],
)
def test_mistakes_get_one_sentence(capsys, arguments, hint):
    assert dispatch.main(["precompile", *TINY, *arguments]) == 2
    assert hint in capsys.readouterr().err


def test_what_no_mesh_could_hold_is_a_record_that_does_not_fit(tmp_path, capsys):
    path = tmp_path / "found.json"
    assert (
        dispatch.main(
            [
                "precompile",
                *TINY,
                "--topology=cpu:1",
                "--fit",
                "--gin.DecoderConfig.emb_dim=65536",
                "--gin.DecoderConfig.mlp_dim=262144",
                f"--json={path}",
            ]
        )
        == 1
    )
    found = json.loads(path.read_text())
    assert found["fits"] is False and "could hold" in found["why"]
    assert f"does not fit: {found['why']}" in capsys.readouterr().out


def test_where_only_the_evaluation_is_too_large_the_next_choice_is_taken_or_it_is_said():
    class Job:
        def __init__(self, fitting):
            self.fitting = fitting

        def with_eval(self, record, where):
            return {**record, "eval": {}, "fits": record["step_seconds"] in self.fitting}

    records = [
        {"fits": fits, "step_seconds": seconds, "train": {"memory": {"total": 1.0}}}
        for fits, seconds in ((True, 3.0), (False, 1.0), (True, 2.0))
    ]
    found = [
        precompile_verb._best(Job(fitting), None, records) for fitting in ([2.0, 3.0], [3.0], [])
    ]
    assert [(one["step_seconds"], one["fits"], "eval" in one) for one in found] == [
        (2.0, True, True),
        (3.0, True, True),
        (2.0, False, True),
    ]
    assert precompile_verb._best(Job([]), None, records[1:2]) == records[1]


needs_libtpu = pytest.mark.skipif(
    getattr(importlib.util.find_spec("libtpu"), "origin", None) is None,
    reason="libtpu, JAX's TPU compiler, is not installed: pip install 'flan_jax[tpu]'",
)


@needs_libtpu
def test_a_mesh_may_split_the_sides_of_a_slice():
    program = """
from flan_jax.planning import topology
from flan_jax.parallel import partitioning

print(
    dict(
        partitioning.make_mesh(
            {"fsdp": 8, "model": 8}, topology.open_slice("v5p:4x4x4").devices
        ).shape
    )
)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "'fsdp': 8, 'model': 8" in result.stdout, result.stderr


@pytest.mark.slow
@needs_libtpu
def test_a_tpu_slice_without_the_tpu(tmp_path):
    path = tmp_path / "found.json"
    result = precompile("--topology=v5e:2x2", f"--json={path}")
    ended_well(result)
    found = json.loads(path.read_text())
    assert (found["devices"], found["dtype"], found["fits"]) == (4, "bfloat16", True)
    assert 0 < found["train"]["peak_bytes"] <= found["train"]["memory"]["total"]
    assert found["train"]["collectives"]
    assert 0 < found["mfu"] < 1
    result = precompile(
        "--topology=v5e:2x2",
        "--gin.BATCH_SIZE=65536",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 1024, 'targets': 256}",
        f"--json={path}",
    )
    assert result.returncode == 1, result.stderr
    found = json.loads(path.read_text())
    assert not found["fits"]
    assert found["train"]["memory"]["total"] > found["train"]["memory"]["available"]
