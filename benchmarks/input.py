"""The speed of making batches: the token cache and SeqIO's graph, on the same rows.

  python benchmarks/input.py [--data_dir=ROWS] [--vocabulary=FILE] [--json=FILE]

Without --data_dir the bundled rows are repeated. Tokens are inputs and targets with EOS, without
padding. Building is timed by the clock, in one process, in turns with SeqIO's iteration over the
tasks of the same datasets; batches are those of all datasets that are there, rows of 1,024/256
tokens, by the processor's time of one thread (per core); the comparison there is SeqIO's mixture of
the same datasets, packed by its feature converter, by the clock and by the processor's time of all
its threads. The first batch is from a ready cache, from the opening of the configuration on.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flan_jax.data.batches import Batches
from flan_jax.data.config import DataConfig
from flan_jax.data.packing import WINDOWS, pack_window
from flan_jax.data.run_data import RunData, open_data
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.prepare import prepare

DATASETS = ("e2e_nlg", "cola", "bool_q", "sst2")
BATCH_SIZES = (8, 128)
ROWS = 8 * 300


def repeated_rows(directory: pathlib.Path, times: int) -> str:
    """Writes the bundled rows of DATASETS, each `times` times, as a directory of JSON lines."""
    from flan_jax.catalogue import CATALOGUE

    for name in DATASETS:
        rows = [json.dumps(raw) + "\n" for _, raw in BundledSource().rows(CATALOGUE[name], "train")]
        path = directory / name / "train.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(rows * times), encoding="utf-8")
    return str(directory)


def plain(data: RunData) -> tuple[int, int]:
    """Builds one epoch of each dataset in one process; returns (rows, tokens)."""
    rows = tokens = 0
    for name in DATASETS:
        data.train.build_shard(name, 0)
        shard = data.train.open_shard(name, 0)
        rows, tokens = rows + len(shard.inputs), tokens + int(shard.tokens.sum())
    return rows, tokens


def through_seqio() -> tuple[int, int]:
    """Iterates the SeqIO tasks of the same datasets; returns (rows, tokens)."""
    import seqio

    rows = tokens = 0
    for name in DATASETS:
        task = seqio.get_mixture_or_task(f"flan_{name}")
        for example in task.get_dataset(None, split="train", shuffle=False).as_numpy_iterator():
            rows, tokens = rows + 1, tokens + len(example["inputs"]) + len(example["targets"])
    return rows, tokens


def timed(
    function: Callable, *arguments: Any, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Any]:
    """Returns (seconds, result) of a call."""
    start = clock()
    result = function(*arguments)
    return clock() - start, result


def measure_building(root: pathlib.Path, config: DataConfig, repeats: int) -> dict[str, float]:
    """Rows and tokens per second of the cache and of SeqIO's graph, in turns."""
    rates: dict[str, list] = {"cache": [], "SeqIO": []}
    for repeat in range(repeats):
        data = open_data(dataclasses.replace(config, cache_dir=str(root / f"plain{repeat}")))
        for name, (seconds, counts) in (
            ("cache", timed(plain, data)),
            ("SeqIO", timed(through_seqio)),
        ):
            rates[name].append(np.array(counts) / seconds)
    results = {
        f"{name}, {unit}/s": statistics.median(rate[i] for rate in of)
        for name, of in rates.items()
        for i, unit in enumerate(("rows", "tokens"))
    }
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(*rates.values())]
    return results | {"cache / SeqIO, rows/s": statistics.median(ratios)}


def measure_batches(config: DataConfig, repeats: int) -> dict[str, float]:
    """Returns tokens per second and core, the time to the first batch, and the packing's fill."""
    data = prepare(config)
    batches = open_data(config).train.batches()
    results = {
        f"first batch, {config.architecture}, s": statistics.median(
            timed(lambda: open_data(config).train.batches().at(0))[0] for _ in range(repeats)
        )
    }
    for size in BATCH_SIZES:
        of_size = Batches(
            batches.plan, batches.members, data.train.open_shard, batches.layout, size
        )
        steps = range(len(batches.plan) // size)
        tokens = sum(map(of_size.tokens_at, steps))
        seconds = [
            timed(lambda: [of_size.at(step) for step in steps], clock=time.process_time)[0]  # noqa: B023
            for _ in range(repeats)
        ]
        results[f"batches of {size}, {config.architecture}, tokens/s per core"] = (
            tokens / statistics.median(seconds)
        )
    filled, room = batches.plan.filled
    results |= {
        f"{kind} tokens filled, {config.architecture}, %": 100 * share
        for kind, share in zip(("input", "target") if len(filled) == 2 else ("all",), filled / room)
    }
    sizes = np.concatenate(
        [data.layout.sizes(data.train.open_shard(m.name, 0)) for m in data.train.members()]
    )
    sizes = np.resize(sizes[: WINDOWS[1]], (WINDOWS[1], sizes.shape[1]))
    seconds = timed(pack_window, sizes, data.layout.capacity)[0]
    return results | {f"packing, {config.architecture}, examples/s": len(sizes) / seconds}


def measure_seqio_batches(config: DataConfig, steps: int) -> dict[str, float]:
    """Returns the same for SeqIO's mixture, packed by SeqIO.

    It takes so many batches that what SeqIO makes ahead does not count.
    """
    import seqio

    def opened():
        return seqio.get_dataset(
            "flan_heldout_none",
            dict(zip(("inputs", "targets"), config.lengths())),
            dataset_split="train",
            shuffle=True,
            num_epochs=None,
            seed=0,
            feature_converter=seqio.EncDecFeatureConverter(pack=True),
            batch_size=config.batch_size,
        ).as_numpy_iterator()

    def first():
        stream = opened()
        return stream, next(stream)

    seconds, (stream, _) = timed(first)
    clock, cpu = time.perf_counter(), time.process_time()
    tokens = sum(
        int((batch[name] > 0).sum())
        for batch in itertools.islice(stream, steps)
        for name in ("encoder_segment_ids", "decoder_segment_ids")
    )
    return {
        "SeqIO: first batch, t5, s": seconds,
        f"SeqIO: batches of {config.batch_size}, t5, tokens/s": tokens
        / (time.perf_counter() - clock),
        f"SeqIO: batches of {config.batch_size}, t5, tokens/s per core": tokens
        / (time.process_time() - cpu),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir")
    parser.add_argument("--vocabulary", default="bytes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seqio_steps", type=int, default=100)
    parser.add_argument("--json")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        import flan_jax.tasks  # noqa: F401  (fills the catalogue)
        from flan_jax.data.seqio import registration

        root = pathlib.Path(directory)
        data_dir = flags.data_dir or repeated_rows(root / "rows", 200)
        config = DataConfig(
            held_out="none",
            source="jsonl",
            data_dir=data_dir,
            vocabulary=flags.vocabulary,
            batch_size=BATCH_SIZES[0],
            train_steps=ROWS // BATCH_SIZES[0],
            validation_batches=0,
            cache_dir=str(root / "batches"),
        )
        registration.configure(source="jsonl", data_dir=data_dir, vocabulary=flags.vocabulary)
        results = measure_building(root, config, flags.repeats)
        for architecture in ("t5", "decoder"):
            results |= measure_batches(
                dataclasses.replace(config, architecture=architecture), flags.repeats
            )
        results |= measure_seqio_batches(config, flags.seqio_steps)
    print("\n".join(f"{name:<52}{value:>16,.2f}" for name, value in results.items()))
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
