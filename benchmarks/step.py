"""The training step: time, memory, compilation and the start of a run, beside PyTorch's T5.

  python benchmarks/step.py [--size=tiny,small,base] [--shape=8x128/64,4x1024/256] [--json=FILE]

With our network layer by layer instead of a scan: --reference=unscanned. One part and a setting:
--parts=step --size=small --shape=8x128/64 --gin.Train.loss_chunks=4. As T5 1.1 is fine-tuned:
--dropout_rate=0.1. On a GPU: --size=base,large,xl --shape=8x1024/256 --dtype=bfloat16.

T5 1.1's geometries with a vocabulary of 32,128, Adafactor, no dropout by default (ours shares
a mask over the length, as T5X's T5 does; theirs draws one for every position), the same full rows
of random ids. Ours is the step that `flan-jax train` takes (z-loss, accuracy and gradient norm
included); theirs is `T5ForConditionalGeneration` with `transformers.Adafactor`, run eagerly with as
many threads as this process has cores. The contestants take turns in one process, some steps each,
until --seconds have passed; times are medians, and a ratio is the median of the turns' ratios. A
machine whose cores are in use is refused (idle.py). The CPU time is that of all cores. The MFU is a
share of what one large matrix product in the same dtype reaches in the same run. Without PyTorch
and transformers only ours is measured.

Peak resident memory is that of a process of its own after three steps, compilation included; about
0.3 GB of it are imports (theirs imports JAX too). The start is `flan-jax train` on bundled rows,
killed after its first step, twice: the second time the token cache and the compilation cache are
warm.

Not run on a GPU.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

# PyTorch needs room on the same GPU
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import idle
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flan_jax.config import gin_files
from flan_jax.data.layout import make_layout
from flan_jax.models.architectures import make_model
from flan_jax.models.flops import model_flops
from flan_jax.optim.adafactor import adafactor
from flan_jax.parallel import devices, partitioning
from flan_jax.training.compile import lower_train_step
from flan_jax.training.config import TrainConfig
from flan_jax.training.state import ShardedState

VOCABULARY = 32128
# the same rows at every step: learnt by heart, they would make gradients too small to be normal
LEARNING_RATE = 1e-6
# Fact -> the head of its column, digits after the point, and by what it is divided.
COLUMNS = {
    "step_s": ("step s", 3, 1),
    "step_cpu_s": ("CPU s", 3, 1),
    "tokens_per_s": ("tokens/s", 0, 1),
    "mfu": ("MFU %", 1, 0.01),
    "trace_s": ("trace s", 1, 1),
    "compile_s": ("compile s", 1, 1),
    "arguments": ("arguments MB", 0, 1e6),
    "temporaries": ("temporaries MB", 0, 1e6),
    "peak_rss": ("peak RSS MB", 0, 1e6),
}
# Log lines of `flan-jax train` until the first step.
MARKS = {
    "held out:": "data opened",
    "process 0 of": "devices",
    "ready to train": "state",
    "first step after": "step",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A size of T5 1.1 and a batch: B rows of S input and T target tokens.

    `overrides` are --gin.NAME=VALUE.
    """

    size: str
    shape: str
    dtype: str
    dropout_rate: float
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.size}, {self.shape}, {self.dtype}" + (
            f", {self.dropout_rate:g}" if self.dropout_rate else ""
        )

    @property
    def lengths(self) -> tuple[int, int, int]:
        """(B, S, T)."""
        return tuple(map(int, self.shape.replace("/", "x").split("x")))

    def rows(self) -> dict[str, np.ndarray]:
        """Rows without padding, one segment each."""
        (batch_size, source, target), rng = self.lengths, np.random.default_rng(0)
        sides = [
            list(rng.integers(2, 32000, (batch_size, length)).astype(np.int32))
            for length in (source, target)
        ]
        return make_layout("t5", source, target, 0).batch(*sides, [1] * batch_size)

    def model(self, scan_layers: bool = True) -> nn.Module:
        """The network, as gin/size has it."""
        settings = {
            "dropout_rate": self.dropout_rate,
            "dtype": self.dtype,
            "scan_layers": scan_layers,
        }
        gin_files.parse_command_line(
            [
                f"--gin_file=gin/size/t5_{self.size}.gin",
                *(f"--gin.T5Config.{k}={v}" for k, v in settings.items()),
                *self.overrides,
            ],
            ["flan_jax.models.t5", "flan_jax.training.config"],
            may_be_unread=("ARCHITECTURE", "SIZE"),
        )
        return make_model("t5", VOCABULARY)


@dataclasses.dataclass
class Contestant:
    """A step that is ready to run: `step()` ends when its results are there.

    `facts` are what was measured while it was made.
    """

    step: Callable[[], None]
    facts: dict[str, float]


def ours(case: Case, scan_layers: bool = True) -> Contestant:
    """Our step, compiled afresh."""
    model, optimizer = case.model(scan_layers), adafactor(LEARNING_RATE)
    config, rows = TrainConfig(), case.rows()
    shapes = {name: array.shape for name, array in rows.items()}
    mesh = partitioning.make_mesh({"fsdp": -1})
    one_row = {name: (1, length) for name, (_, length) in shapes.items()}
    sharded = ShardedState(model, optimizer, mesh, one_row, config.seed, config.param_dtype)
    start = time.perf_counter()
    lowered = lower_train_step(model, optimizer, sharded, config, shapes)
    traced = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    facts = {
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
    }
    batch, held = jax.device_put(rows, partitioning.batch_sharding(mesh)), [sharded.fresh()]
    facts["parameters"] = sum(x.size for x in jax.tree.leaves(held[0]["params"]))

    def take() -> None:
        held[0], metrics = compiled(held[0], {}, batch)
        jax.block_until_ready((held[0], metrics))

    return Contestant(take, facts)


def unscanned(case: Case) -> Contestant:
    """Our step with every layer written out."""
    return ours(case, scan_layers=False)


def hugging_face(case: Case) -> Contestant:
    """Their step."""
    import torch
    import transformers

    from flan_jax.checkpoints.formats import huggingface_t5

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_flush_denormal(True)  # as XLA has it; without, a step may take ten times as long
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    fields = huggingface_t5.write_config(case.model().config, "")
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**{**fields, "dropout_rate": case.dropout_rate, "use_cache": False})
    )
    # transformers 5 ties them always
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model = model.to(device).train()
    optimizer = transformers.Adafactor(
        model.parameters(),
        lr=LEARNING_RATE,
        scale_parameter=True,
        relative_step=False,
        warmup_init=False,
        clip_threshold=1.0,
    )
    rows = {name: torch.from_numpy(array).long().to(device) for name, array in case.rows().items()}

    def take() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            loss = model(
                input_ids=rows["encoder_input_tokens"], labels=rows["decoder_target_tokens"]
            ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return Contestant(take, {"parameters": sum(p.numel() for p in model.parameters())})


CONTESTANTS = {"ours": ours, "unscanned": unscanned, "hugging_face": hugging_face}


def contestant_names(reference: str) -> list[str]:
    """Who takes part: ours, and the reference if it is installed here."""
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if reference == "hugging_face" and missing:
        print(
            f"*** ONLY OURS IS MEASURED: {' and '.join(missing)} not installed here ***", flush=True
        )
        return ["ours"]
    return ["ours", reference]


def matrix_peak(dtype: str) -> float:
    """FLOPs a second of a large matrix product: the best of some."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    product, x = jax.jit(jnp.dot), jnp.ones((size, size), dtype)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def take_turns(
    contestants: dict[str, Contestant], seconds: float, turn: int
) -> dict[str, np.ndarray]:
    """Returns the seconds of every step by the clock and on all cores, [turns, steps, 2].

    The first step of each contestant does not count.
    """
    times: dict[str, list[np.ndarray]] = {name: [] for name in contestants}
    for one in contestants.values():
        one.step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["ours"]) < 3:
        for name, one in contestants.items():
            stamps = [(time.perf_counter(), time.process_time())]
            for _ in range(turn):
                one.step()
                stamps.append((time.perf_counter(), time.process_time()))
            times[name].append(np.diff(stamps, axis=0))
    return {name: np.stack(turns) for name, turns in times.items()}


def measure_steps(
    case: Case, names: list[str], flags: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Returns what the steps took, with the facts, by contestant; `ratio` is ours to the other."""
    contestants = {name: CONTESTANTS[name](case) for name in names}
    peak, times = matrix_peak(case.dtype), take_turns(contestants, flags.seconds, flags.turn)
    (batch_size, source, target), flops = (
        case.lengths,
        model_flops(case.model().config, *case.lengths),
    )
    results = {}
    for name, one in contestants.items():
        step, cpu = np.median(times[name], axis=(0, 1)).tolist()
        results[name] = {
            "step_s": step,
            "step_cpu_s": cpu,
            "tokens_per_s": batch_size * (source + target) / step,
            "mfu": flops / step / peak,
            "matrix_peak_flops": peak,
            **one.facts,
        }
    if len(names) > 1:
        ratios = np.median(times["ours"], axis=1) / np.median(times[names[1]], axis=1)
        results["ratio"] = dict(zip(("step_s", "step_cpu_s"), np.median(ratios, axis=0).tolist()))
    return results


def measure_memory(case: Case, name: str) -> int:
    """Peak resident bytes of a process that takes three steps as one contestant."""
    command = [
        sys.executable,
        __file__,
        f"--alone={name}",
        f"--size={case.size}",
        f"--shape={case.shape}",
        f"--dtype={case.dtype}",
        f"--dropout_rate={case.dropout_rate}",
        *case.overrides,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def measure_start(case: Case, root: pathlib.Path) -> dict[str, float]:
    """Returns the seconds from the start of `flan-jax train` with warm caches to its log lines.

    They end with that of the first step.
    """
    batch_size, source, target = case.lengths
    settings = {
        "HELD_OUT": "none",
        "BATCH_SIZE": batch_size,
        "CACHE_DIR": root / "cache",
        "DROPOUT_RATE": case.dropout_rate,
        "TASK_FEATURE_LENGTHS": {"inputs": source, "targets": target},
        "Train.embedding_rows": VOCABULARY,
        "T5Config.dtype": case.dtype,
    }
    command = [
        sys.executable,
        "-m",
        "flan_jax.train",
        "--gin_file=gin/flan.gin",
        f"--gin_file=gin/size/t5_{case.size}.gin",
        *(f"--gin.{k}={v}" for k, v in settings.items()),
        *case.overrides,
    ]
    for state in ("cold", "warm"):
        marks, start = {}, time.perf_counter()
        with subprocess.Popen(
            [*command, f"--gin.MODEL_DIR={root / state}"], stdout=subprocess.PIPE, text=True
        ) as run:
            for line in run.stdout:
                for begin, mark in MARKS.items():
                    if begin in line:  # after the time
                        marks.setdefault(mark, time.perf_counter() - start)
                if "step" in marks:
                    run.kill()
                    break
            else:
                raise SystemExit(f"no first step of {' '.join(command)}")
    return marks


def format_case(case: Case, results: dict[str, dict[str, float]]) -> str:
    """The table of a case."""
    shown = {
        key: column
        for key, column in COLUMNS.items()
        if any(key in found for found in results.values())
    }
    lines = [f"{str(case):<28}" + "".join(f"{head:>16}" for head, _, _ in shown.values())]
    for name, found in results.items():
        if name == "start":
            lines.append(
                "  start, all caches warm, s: "
                + ", ".join(f"{k} {v:.1f}" for k, v in found.items())
            )
            continue
        plain = name == "ratio"
        cells = [
            f"{found[key] / (1 if plain else by):>16,.{2 if plain else digits}f}"
            if key in found
            else " " * 16
            for key, (_, digits, by) in shown.items()
        ]
        lines.append(f"  {name:<26}" + "".join(cells))
    return "\n".join(lines) + "\n"


def parse_flags() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and those that are left for gin."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="tiny,small,base", help="of gin/size/t5_*.gin")
    parser.add_argument("--shape", default="8x128/64,4x1024/256", help="rows x inputs/targets")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--dropout_rate", type=float, default=0.0)
    parser.add_argument(
        "--reference", default="hugging_face", choices=["hugging_face", "unscanned"]
    )
    parser.add_argument("--parts", default="step,memory,start", help="which of these to measure")
    parser.add_argument(
        "--seconds", type=float, default=30, help="how long the contestants take turns in each case"
    )
    parser.add_argument("--turn", type=int, default=3, help="steps of a turn")
    parser.add_argument(
        "--alone", choices=list(CONTESTANTS), help="take three steps and print the peak memory"
    )
    parser.add_argument("--json")
    idle.add_flag(parser)
    flags, overrides = parser.parse_known_args()
    unknown = [flag for flag in overrides if not flag.startswith("--gin.")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    devices.keep_freed_memory()  # as `flan-jax train` does; theirs has it, too
    return flags, overrides


def measure(case: Case, names: list[str], flags: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the results of the chosen parts of a case."""
    parts = flags.parts.split(",")
    results = measure_steps(case, names, flags) if "step" in parts else {name: {} for name in names}
    if "memory" in parts:
        for name in names:
            # what the turns held is freed by now
            results[name]["peak_rss"] = measure_memory(case, name)
    if "start" in parts:
        with tempfile.TemporaryDirectory() as directory:
            results["start"] = measure_start(case, pathlib.Path(directory))
    return results


def main() -> None:
    """Measures and prints."""
    flags, overrides = parse_flags()
    cases = [
        Case(size, shape, flags.dtype, flags.dropout_rate, tuple(overrides))
        for size in flags.size.split(",")
        for shape in flags.shape.split(",")
    ]
    if flags.alone:
        one = CONTESTANTS[flags.alone](cases[0])
        for _ in range(3):
            one.step()
        # Not getrusage: its peak counts what the parent had when it started this process.
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
        print(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]))
        return
    results, names = {}, contestant_names(flags.reference)
    if "hugging_face" in names:
        idle.check_idle(flags)
    print(
        f"{len(os.sched_getaffinity(0))} cores, {jax.device_count()} "
        f"{jax.devices()[0].device_kind} devices\n"
    )
    for case in cases:
        results[str(case)] = measure(case, names, flags)
        print(format_case(case, results[str(case)]), flush=True)
        if flags.json:
            pathlib.Path(flags.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
