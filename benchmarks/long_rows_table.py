"""The table of long rows in docs/scale.md: what decoders of 4B to 12B need at up to 8,192 tokens.

    python benchmarks/long_rows_table.py --directory=runs/long_rows --json=long_rows.json

Each cell is one `flan-jax precompile`, a process of its own that needs libtpu (pip install
'flan_jax[tpu]') and one to two minutes of a core; its JSON stays in the directory, and a cell that
is there is not compiled again, so that the program may be stopped at any time. The cells that are
needed most come first. `--read` compiles nothing; `--only=llama3_8b` takes one model, and
`--most=4` stops after so many programs. Beside each cell is the estimate, without compiling, of the
same program with ATTENTION='xla'. No accelerator is used: times are estimates.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import gin

from flan_jax import precompile
from flan_jax.config import gin_files
from flan_jax.parallel.hardware import CHIPS, GIB
from flan_jax.planning import mesh_search
from flan_jax.planning.compiled import Choice

# The rows of the embedding in their published files.
MODELS = {
    "llama3_8b": 128_256,
    "gemma3_4b": 262_208,
    "gemma3_12b": 262_208,
    "qwen3_8b": 151_936,
}
# By the names that Cloud TPU gives them (v5p counts two cores a chip): the slice, and its chips.
SLICES = {"v5e-16": ("v5e:4x4", 16), "v5e-64": ("v5e:8x8", 64), "v5p-16": ("v5p:2x2x2", 8)}
# Tokens of a row -> rows of 8,192 tokens or a little less, and the tokens of targets among them.
LENGTHS = {8192: (1, 1024), 4096: (2, 1024), 1280: (6, 256)}
TUNINGS = {
    "LoRA": ("--gin_file=gin/peft/lora.gin", "--gin.PARAM_DTYPE=bfloat16"),
    "full": ("--gin.OPTIMIZER=adamw",),
}
# Which slices come first, for each length.
ORDER = (
    ("LoRA", "v5e-16"),
    ("LoRA", "v5p-16"),
    ("full", "v5e-64"),
    ("full", "v5p-16"),
    ("full", "v5e-16"),
    ("LoRA", "v5e-64"),
)


class Cell(NamedTuple):
    """A program: a model, how it is tuned, the tokens of a row, and a slice."""

    model: str
    tuning: str
    length: int
    slice_name: str

    @property
    def rows(self) -> int:
        """One row of 8,192 tokens a chip, and no fewer than 16."""
        return max(SLICES[self.slice_name][1], 16) * LENGTHS[self.length][0]

    @property
    def file(self) -> str:
        """The name of its JSON."""
        return f"{self.model}.{self.tuning}.{self.length}.{self.slice_name}.json"

    def arguments(self) -> list[str]:
        """Of `flan-jax precompile`, without --json."""
        targets = LENGTHS[self.length][1]
        lengths = {"inputs": self.length - targets, "targets": targets}
        return [
            "--gin_file=gin/flan.gin",
            f"--gin_file=gin/size/{self.model}.gin",
            *TUNINGS[self.tuning],
            f"--gin.BATCH_SIZE={self.rows}",
            f"--gin.TASK_FEATURE_LENGTHS={lengths}",
            f"--gin.Train.embedding_rows={MODELS[self.model]}",
            f"--topology={SLICES[self.slice_name][0]}",
        ]


def compile_cell(cell: Cell, path: pathlib.Path) -> None:
    """Writes the record of a cell to `path`; what fails is left out."""
    command = [sys.executable, "-m", "flan_jax.precompile", *cell.arguments(), f"--json={path}"]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=False)


def estimated(cell: Cell, attention: str) -> dict[str, Any]:
    """Memory and seconds of a cell by estimate, fully sharded, with its 'auto' remat."""
    gin.clear_config()
    arguments = [*cell.arguments(), f"--gin.ATTENTION={attention}"]
    gin_files.parse_command_line(arguments, gin_files.CONFIGURED, precompile.make_parser())
    job = precompile.configured(simulated=False)
    topology, chips = SLICES[cell.slice_name]
    chip, mesh = CHIPS[topology.split(":")[0]], {"data": 1, "fsdp": chips, "model": 1}
    remat, _ = mesh_search.remat_of(job, mesh, chip)
    choice = Choice(mesh, remat, job.config.microbatches, job.loss_chunks)
    candidate = mesh_search.estimate(job, chip, choice)
    return {
        "remat": remat,
        "gib": candidate.total / GIB,
        "fits": candidate.total <= chip.device_memory,
        "seconds": candidate.seconds,
    }


def cell_text(record: dict[str, Any] | None, fused: dict, xla: dict) -> str:
    """A cell of the table; what is estimated and not compiled has a ~."""
    beside = f"; xla: {xla['remat']}, ~{xla['gib']:.1f} GiB{_too_large(xla['fits'])}"
    if record is None:
        memory = f"~{fused['gib']:.1f} GiB{_too_large(fused['fits'])}"
        return f"{fused['remat']}, {memory}, ~{fused['seconds']:.2f} s{beside}"
    total = record["train"]["memory"]["total"]
    memory = "unknown" if total is None else f"{total / GIB:.1f} GiB"
    speed = f", {record['step_seconds']:.2f} s, MFU {record['mfu']:.0%}" if record["fits"] else ""
    return f"**{record['remat']}, {memory}{_too_large(record['fits'])}{speed}**{beside}"


def _too_large(fits: bool) -> str:
    return "" if fits else " (too large)"


def table(texts: dict[Cell, str]) -> str:
    """The Markdown table of the text of each cell: a line for each model, tuning and length."""
    head = ["model", "tuning", "tokens", *SLICES]
    lines = [head, ["---"] * len(head)]
    for length in LENGTHS:
        for tuning in TUNINGS:
            for model in dict.fromkeys(cell.model for cell in texts):
                cells = [texts[Cell(model, tuning, length, name)] for name in SLICES]
                lines.append([model, tuning, f"{length:,}", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    """Compiles what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=pathlib.Path, default="runs/long_rows")
    parser.add_argument("--only", choices=MODELS, action="append")
    parser.add_argument("--read", action="store_true", help="compile nothing")
    parser.add_argument("--most", type=int, help="compile so many programs at most")
    parser.add_argument("--json", type=pathlib.Path)
    flags = parser.parse_args()
    flags.directory.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(model, tuning, length, slice_name)
        for length in LENGTHS
        for tuning, slice_name in ORDER
        for model in flags.only or MODELS
    ]
    missing = [cell for cell in cells if not (flags.directory / cell.file).is_file()]
    for cell in [] if flags.read else missing[: flags.most]:
        compile_cell(cell, flags.directory / cell.file)
    records = {
        cell: json.loads(path.read_text(encoding="utf-8"))
        for cell in cells
        if (path := flags.directory / cell.file).is_file()
    }
    estimates = {cell: [estimated(cell, name) for name in ("auto", "xla")] for cell in cells}
    texts = {cell: cell_text(records.get(cell), *estimates[cell]) for cell in cells}
    print(table(texts))
    if flags.json:
        rows = [
            {**cell._asdict(), "record": records.get(cell), "estimates": estimates[cell]}
            for cell in cells
        ]
        flags.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
