"""How fast data becomes batches: the plain way (the token cache) and SeqIO's graph, on the same rows, in one run.

  python benchmarks/input.py [--data_dir=ROWS] [--vocabulary=FILE] [--json=FILE]

Without --data_dir the bundled rows are repeated. Medians of --repeats runs; tokens are inputs and targets with EOS.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np

from flan_jax.data.assemble import Data, DataConfig
from flan_jax.data.cache import open_train_shard
from flan_jax.data.packing import WINDOWS, pack_window
from flan_jax.data.sources import BundledSource
from flan_jax.prepare import prepare

DATASETS = ("e2e_nlg", "cola", "bool_q", "sst2")


def repeated_rows(directory: pathlib.Path, times: int) -> str:
    """Writes the bundled rows of DATASETS, each `times` times, as a directory of JSON lines."""
    from flan_jax.data.catalogue import CATALOGUE

    for name in DATASETS:
        rows = [json.dumps(raw) + "\n" for _, raw in BundledSource().rows(CATALOGUE[name], "train")]
        path = directory / name / "train.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(rows * times), encoding="utf-8")
    return str(directory)


def plain(data: Data) -> tuple[int, int]:
    """Builds one epoch of each dataset in one process; gives (rows, tokens)."""
    rows = tokens = 0
    for name in DATASETS:
        data.build_shard(name, 0)
        shard = open_train_shard(data.shard_path(name, 0))
        rows, tokens = rows + len(shard.inputs), tokens + len(shard.inputs.flat) + len(shard.targets.flat)
    return rows, tokens


def through_seqio() -> tuple[int, int]:
    """Iterates the SeqIO tasks of the same datasets; gives (rows, tokens)."""
    import seqio

    rows = tokens = 0
    for name in DATASETS:
        task = seqio.get_mixture_or_task(f"flan_{name}")
        for example in task.get_dataset(None, split="train", shuffle=False).as_numpy_iterator():
            rows, tokens = rows + 1, tokens + len(example["inputs"]) + len(example["targets"])
    return rows, tokens


def timed(function, *arguments) -> tuple[float, object]:
    """(seconds, result) of a call."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir")
    parser.add_argument("--vocabulary", default="bytes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    flags = parser.parse_args()
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        import flan_jax.tasks  # noqa: F401  (fills the catalogue)

        root = pathlib.Path(directory)
        data_dir = flags.data_dir or repeated_rows(root / "rows", 200)
        config = dict(held_out="none", source="jsonl", data_dir=data_dir, vocabulary=flags.vocabulary, batch_size=8,
                      validation_batches=0)
        from flan_jax.data import seqio_tasks

        seqio_tasks.configure(source="jsonl", data_dir=data_dir, vocabulary=flags.vocabulary)
        plain_rates, seqio_rates = [], []
        for repeat in range(flags.repeats):
            seconds, (_, tokens) = timed(plain, Data(DataConfig(cache_dir=str(root / f"plain{repeat}"), **config)))
            plain_rates.append(tokens / seconds)
            seconds, (_, tokens) = timed(through_seqio)
            seqio_rates.append(tokens / seconds)
        results["cache, tokens/s"] = statistics.median(plain_rates)
        results["SeqIO graph, tokens/s"] = statistics.median(seqio_rates)
        results["cache / SeqIO"] = statistics.median(np.array(plain_rates) / np.array(seqio_rates))
        measure_batches(DataConfig(cache_dir=str(root / "batches"), train_steps=300, **config), results)
    print("\n".join(f"{name:<36}{value:>14,.2f}" for name, value in results.items()))
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1))


def measure_batches(config: DataConfig, results: dict[str, float]) -> None:
    """Adds the packing's fill and speed, and the batches' tokens per second, to `results`."""
    data = prepare(config)
    seconds, batches = timed(lambda: Data(config).batches())
    results["first batch from a ready cache, s"] = seconds + timed(batches.at, 0)[0]
    filled, room = batches.plan.filled
    results["input tokens filled, %"], results["target tokens filled, %"] = 100 * filled / room
    seconds, _ = timed(lambda: [batches.at(step) for step in range(100)])
    results["batches, tokens/s"] = filled.sum() / len(batches) * 100 / seconds
    sizes = np.concatenate([data._lengths("train", m.name, 0) for m in data.members()])[:WINDOWS[1]]
    sizes = np.resize(sizes, (WINDOWS[1], 2))
    results["packing, examples/s"] = len(sizes) / timed(pack_window, sizes, data.config.lengths())[0]


if __name__ == "__main__":
    main()
