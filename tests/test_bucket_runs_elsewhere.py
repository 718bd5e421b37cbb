"""A run in a bucket, looked at from a machine that has neither the run nor its data."""

import csv
import io
import os
import subprocess
import sys

import pytest

from support.processes import ended_well, simulating
from support.runs import command, run

SHORT = [
    "--gin.TRAIN_STEPS=2",
    "--gin.EVAL_DATASETS=cb",
    "--gin.EVAL_TEMPLATES=1",
    "--gin.EVAL_ROWS=4",
    "--gin.UNTUNED_INSTRUCTIONS=None",
]


@pytest.mark.slow
def test_report_generate_eval_and_convert_need_only_the_name_of_the_run(buckets, tmp_path):
    directory = tmp_path / "run"
    ended_well(run(command("train", tmp_path / "cache", directory, *SHORT)))
    buckets.upload(directory, "runs/nli")
    directory.rename(tmp_path / "moved")
    here = tmp_path / "here"
    here.mkdir()

    def verb(name: str, *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", f"flan_jax.{name}", "gs://bucket1/runs/nli", *arguments],
            cwd=here,
            env={**simulating(1), "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return ended_well(result).stdout

    verb("report")
    assert buckets.get("runs/nli/report.md")
    assert verb("generate", "Is it wet?").strip()
    verb("convert", "--to=hf", "--output=gs://bucket1/exported")
    assert buckets.get("exported/config.json")
    cache = f"--gin.CACHE_DIR={tmp_path / 'other'}"
    verb("eval", "--output=gs://bucket1/again", cache)

    def values(name: str) -> list[str]:
        rows = csv.DictReader(io.StringIO(buckets.get(f"{name}/results.csv").decode(), newline=""))
        return [row["value"] for row in rows if row["model"] == "tuned"]

    assert values("again") == values("runs/nli") != []
    assert not any(here.iterdir())
