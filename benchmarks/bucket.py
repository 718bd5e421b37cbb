"""A run in a bucket beside the same run on the disk: start, steps, checkpoints and requests.

  python benchmarks/bucket.py [--latency=0.05] [--rounds=2] [--json=FILE]

Each round trains and evaluates a tiny T5 twice, on the disk and with MODEL_DIR and CACHE_DIR on the
server of the tests (`tests/bucket_server.py`), which waits `--latency` seconds before each answer
and allows one change of an object a second, as GCS does. The first run of each kind makes the token
cache and is not counted. The columns are the disk and the bucket.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from bucket_server import BucketServer  # noqa: E402

from support.bucket_runs import train  # noqa: E402

STEPS, CHECKPOINTS, EVALUATIONS = 12, 3, 20
SETTINGS = [
    f"--gin.TRAIN_STEPS={STEPS}",
    f"--gin.CHECKPOINT_EVERY={STEPS // CHECKPOINTS}",
    "--gin.EVAL_EVERY=None",
    "--gin.EVAL_TEMPLATES=10",  # tuned and untuned
]
# The training loop waits while `save` has not returned.
PROGRAM = r"""
import sys, time
from flan_jax.checkpoints.manager import Checkpoints
from flan_jax.cli.dispatch import main

def timed(*arguments, save=Checkpoints.save, **named):
    start = time.perf_counter()
    save(*arguments, **named)
    print(f"BLOCKED {time.perf_counter() - start:.4f}", flush=True)

Checkpoints.save = timed
sys.exit(main(["train", *sys.argv[1:]]))
"""


def run_once(cache: str, model_dir: str, environment: dict[str, str]) -> dict[str, float]:
    """Returns the times of a run in seconds, and the share of the steps that wait for input."""
    arguments = train(cache, model_dir, *SETTINGS)[3:]
    begin, first = time.perf_counter(), 0.0
    blocked, steps, inputs = [], [], []
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=environment["HOME"],
        env=environment,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "first step after" in line:
                first = time.perf_counter() - begin
            if match := re.search(r"BLOCKED ([\d.]+)", line):
                blocked.append(float(match[1]))
            if match := re.search(r"([\d.]+) (m?)s/step +input ([\d.]+)%", line):
                steps.append(float(match[1]) / (1000 if match[2] else 1))
                inputs.append(float(match[3]))
    if process.returncode:
        raise SystemExit("".join(lines[-20:]))
    return {
        "start_s": first,
        "step_s": statistics.median(steps[1:]),
        "input_percent": statistics.median(inputs[1:]),
        # the last one is waited for
        "checkpoint_blocks_s": statistics.median(blocked[:-1]),
        "last_checkpoint_s": blocked[-1],
        "total_s": time.perf_counter() - begin,
    }


def requests_of(server: BucketServer) -> dict[str, float]:
    """Returns requests by what they are for, of the run that the log has."""
    texts = [urllib.parse.unquote(f"{line.what} {line.query}") for line in server.log]
    of_checkpoints = sum("/checkpoints" in text for text in texts)
    begin = max(
        (i for i, text in enumerate(texts) if "/checkpoints" in text and text[0] == "P"), default=0
    )
    after = sum("/checkpoints" not in text for text in texts[begin:])
    return {
        "requests": len(texts),
        "requests_per_checkpoint": of_checkpoints / CHECKPOINTS,
        "requests_per_evaluation": after / EVALUATIONS,
        "answers_429": server.objects.counts["429"],
    }


def measure(latency: float, rounds: int) -> dict[str, dict[str, float]]:
    """Returns the medians over the rounds for 'disk' and 'bucket'."""
    runs: dict[str, list[dict[str, float]]] = {"disk": [], "bucket": []}
    with BucketServer() as server, tempfile.TemporaryDirectory() as home:
        server.objects.one_change_a_second = True
        environment = {**os.environ, **server.environment, "HOME": home, "PYTHONPATH": str(ROOT)}
        roots = {"disk": home, "bucket": "gs://bucket1"}
        for number in range(rounds + 1):
            server.latency = latency if number else 0.0
            for kind, root in roots.items():
                server.log.clear()
                server.objects.counts.clear()
                times = run_once(f"{root}/cache", f"{root}/run{number}", environment)
                if number:
                    requests = requests_of(server) if kind == "bucket" else {}
                    runs[kind].append({**times, **requests})
    return {
        kind: {name: statistics.median(run[name] for run in of_kind) for name in of_kind[0]}
        for kind, of_kind in runs.items()
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    flags = parser.parse_args()
    results = measure(flags.latency, flags.rounds)
    for name, value in results["bucket"].items():
        on_disk = results["disk"].get(name)
        print(f"{name:24} {'' if on_disk is None else f'{on_disk:.3f}':>9} {value:9.3f}")
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
