"""The table of docs/scale.md: for every size the smallest slice, and the best estimated step.

    python benchmarks/scale_table.py --directory=runs/precompile --json=scale.json

Each cell is one `flan-jax precompile --fit`, a process of its own that needs libtpu (pip install
'flan_jax[tpu]') and one to ten minutes of two cores; its JSON stays in the directory, and a cell
that is there is not compiled again. No accelerator is used: times are estimates.
`--only=decoder_137b` takes one size, `--read` only what is there, and `--tries=4` continues until
four candidates of a cell fit, and not only one.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

SIZES = (
    "decoder_422m",
    "decoder_2b",
    "decoder_8b",
    "decoder_68b",
    "decoder_137b",
    "t5_small",
    "t5_base",
    "t5_large",
    "t5_xl",
    "t5_xxl",
)
# By the names that Cloud TPU gives them (v4 and v5p count two cores a chip).
LARGE = {"v3-128": "v3:8x8", "v4-256": "v4:4x4x8", "v5e-256": "v5e:16x16", "v5p-256": "v5p:4x4x8"}
# Slices of chips with 16 GB, from the smallest up.
SMALL = ("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16")
ROWS, PAPER_ROWS = 256, 8  # of 1,024 + 256 tokens; 8 rows are the 8,192 input tokens of FLAN's step
VOCABULARY = 32128


def cell(directory: pathlib.Path, size: str, topology: str, rows: int, tries: int) -> dict | None:
    """The record of a size on a slice; None if it is not there and only to be read, or failed."""
    path = directory / f"{size}.{topology.replace(':', '_')}.{rows}.json"
    if not path.is_file() and tries:
        command = [
            sys.executable,
            "-m",
            "flan_jax.precompile",
            "--gin_file=gin/flan.gin",
            f"--gin_file=gin/size/{size}.gin",
            f"--gin.BATCH_SIZE={rows}",
            "--fit",
            f"--tries={tries}",
            f"--gin.Train.embedding_rows={VOCABULARY}",
            f"--topology={topology}",
            f"--json={path}",
        ]
        print(" ".join(command[1:]), flush=True)
        subprocess.run(command, check=False)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def smallest(directory: pathlib.Path, size: str, tries: int) -> dict | None:
    """The record of the first of SMALL on which the paper's batch fits."""
    for topology in SMALL:
        record = cell(directory, size, topology, PAPER_ROWS, tries)
        if record and record["fits"]:
            return record
    return None


def mesh_of(record: dict) -> str:
    """How a record's choice is written in the table, e.g. `8 x 16, full, 1`."""
    mesh = " x ".join(str(size) for size in record["mesh"].values())
    return f"{mesh}, {record['remat']}, {record['microbatches']}"


def table(rows: list[dict]) -> str:
    """The Markdown table."""
    head = ["size", "parameters", "smallest slice", *LARGE]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        found = row["smallest"]
        line = [
            row["size"],
            f"{row['parameters']:,}" if row["parameters"] else "",
            (
                f"{found['topology']} ({mesh_of(found)}), "
                f"{found['train']['memory']['total'] / 2**30:.1f} GiB"
            )
            if found
            else "",
        ]
        for name in LARGE:
            best = row[name]
            line.append(
                ""
                if best is None
                else "does not fit"
                if not best["fits"]
                else f"{best['step_seconds']:.2f} s, MFU {best['mfu']:.0%} ({mesh_of(best)})"
            )
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Compiles what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=pathlib.Path, default="runs/precompile")
    parser.add_argument("--only", choices=SIZES, action="append")
    parser.add_argument("--read", action="store_true", help="compile nothing")
    parser.add_argument("--tries", type=int, default=1, help="candidates of a cell that fit")
    parser.add_argument("--json", type=pathlib.Path)
    flags = parser.parse_args()
    flags.directory.mkdir(parents=True, exist_ok=True)
    rows, tries = [], 0 if flags.read else flags.tries
    for size in flags.only or SIZES:
        row = {
            "size": size,
            "smallest": smallest(flags.directory, size, tries),
            **{
                name: cell(flags.directory, size, topology, ROWS, tries)
                for name, topology in LARGE.items()
            },
        }
        known = next(
            (of for of in row.values() if isinstance(of, dict) and "parameters" in of), None
        )
        rows.append({**row, "parameters": known["parameters"] if known else None})
    print(table(rows))
    if flags.json:
        flags.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
