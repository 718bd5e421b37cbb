"""The cost of registering every SeqIO name of the catalogue, and of building every task.

Each runs in a process of its own.

  python benchmarks/seqio_registry.py [--repeats=3] [--json=FILE]

Medians of --repeats processes, on the bundled rows; memory is the highest resident set. The
original implementation builds 10,984 tasks and 1,876 mixtures when it is imported, in about 5 s
after TensorFlow is loaded (two CPU cores).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

# Each continues where the one before it ended.
STAGES = {
    "import seqio": "import seqio",
    "+ import flan_jax.tasks, list all names": """
import flan_jax.tasks
names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]""",
    "+ look every name up": """
for name in names:
    seqio.get_mixture_or_task(name)""",
}
PROGRAM = """
import contextlib, json, io, resource, sys, time
start, seconds, names = time.perf_counter(), [], []
with contextlib.redirect_stdout(io.StringIO()):
    for stage in json.loads(sys.argv[1]):
        exec(stage)
        seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mib": peak, "names": len(names)}))
"""


def measure(stages: list[str]) -> dict:
    """Runs the stages in a new process.

    Returns:
      The seconds from the start to the end of each stage, peak memory in MiB, the number of names.
    """
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(stages)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    flags = parser.parse_args()
    results = []
    for count, title in enumerate(STAGES, 1):
        runs = [measure(list(STAGES.values())[:count]) for _ in range(flags.repeats)]
        # The stage itself, apart from those before it: they vary more from process to process than
        # it takes.
        own = [run["seconds"][-1] - (run["seconds"][-2] if count > 1 else 0) for run in runs]
        results.append(
            {
                "stage": title,
                "seconds": statistics.median(own),
                "names": runs[0]["names"],
                "peak_mib": statistics.median(run["peak_mib"] for run in runs),
            }
        )
    print(f"{'stage':<42}{'seconds':>9}{'peak MiB':>10}{'names':>8}")
    for row in results:
        print(f"{row['stage']:<42}{row['seconds']:>9.3f}{row['peak_mib']:>10.0f}{row['names']:>8,}")
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
