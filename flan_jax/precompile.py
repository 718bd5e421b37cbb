"""`flan-jax precompile`: compiles the steps of a run for a slice elsewhere, and says if they fit.

The training and evaluation steps come from the same gin files as in `flan-jax train`; no data is
read. Per device: what the memory holds, matrix products, collectives, and from these an estimate of
the step time and of the MFU it implies.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import gin

from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.flags import ArgumentParser
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.errors import UserError
from flan_jax.storage.paths import local_path

if TYPE_CHECKING:
    from flan_jax.planning.compiled import Choice, Job
    from flan_jax.planning.topology import Slice

# A choice whose estimate is slower than the best so far by no more than this is compiled, too.
_MARGIN = 1.05
_EVALUATION_HINT = "more LOSS_CHUNKS or a smaller BATCH_SIZE"
# After so many choices that do not fit, the rest would hardly do.
_FAILURES = 6


def main(argv: list[str] | None = None) -> int:
    """Runs the verb, with the gin arguments of `train`; returns 1 if the run does not fit."""
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_files.parse_command_line(argv, CONFIGURED, make_parser())
    if flags.tries < 1:
        raise UserError(f"--tries={flags.tries} compiles nothing; give 1 or more.")
    if flags.json and flags.json.is_dir():
        raise UserError(f"--json={flags.json} is a directory; give a file in it.")
    if flags.json and not flags.json.parent.is_dir():
        raise UserError(f"--json={flags.json}: no directory {flags.json.parent}; make it first.")
    from flan_jax.planning import mesh_search, topology

    where = topology.open_slice(flags.topology)
    job = configured(where.chip is None)
    try:
        if flags.fit:
            records = search(job, where, flags.tries)
        else:
            records = [job.compile(where, chosen(job, where))]
    except mesh_search.NothingFits as error:
        print(f"does not fit: {error}")
        if flags.json:
            flags.json.write_text(json.dumps({"fits": False, "why": str(error)}), encoding="utf-8")
        return 1
    best = _with_estimate(job, where, _best(job, where, records))
    print(describe(best), flush=True)
    if flags.fit:
        print_fit(best, job, len(records))
    if flags.json:
        tried = {"tried": [_choice_of(record) for record in records]} if flags.fit else {}
        flags.json.write_text(json.dumps({**best, **tried}, indent=1), encoding="utf-8")
    return 1 if _too_large(best) else 0


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax precompile", description=__doc__)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="SLICE",
        help="v3:8x8, v5e:4x4, v5p:4x4x8, ... (chips along each side), or cpu:8 (simulated)",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="search mesh, remat and microbatches for the fastest that fits",
    )
    parser.add_argument(
        "--tries",
        type=int,
        default=8,
        metavar="N",
        help="with --fit: stop once so many choices are compiled that fit",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=lambda text: local_path(text, "--json"),
        help="write the numbers there, too",
    )
    return parser


def _too_large(record: dict[str, Any]) -> bool:
    """Returns whether it does not fit; for simulated devices `fits` is None: not known."""
    return record["fits"] is False


def _best(job: Job, where: Slice, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the fastest that fits; else the fastest that trains; else the smallest."""
    records, first = sorted(records, key=_rank), None
    for record in records:
        if _too_large(record):
            break
        whole = job.with_eval(record, where)
        if not _too_large(whole):
            return whole
        first = first or whole
    return first or records[0]


def _with_estimate(job: Job, where: Slice, record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record with estimated activations of the training step.

    The compiler does not report them separately.
    """
    from flan_jax.parallel.hardware import CHIPS
    from flan_jax.planning import mesh_search
    from flan_jax.planning.compiled import Choice

    train = record["train"]
    estimate = mesh_search.estimate(job, where.chip or CHIPS["v3"], Choice.from_record(record))
    activations = estimate.memory["activations"]
    most = train["memory"].get("temporaries", activations)
    return {**record, "train": {**train, "activations_guess": min(activations, most)}}


def _rank(record: dict[str, Any]) -> tuple[bool, float]:
    """Returns a key that sorts what fits by time, and then what does not by memory."""
    if _too_large(record):
        return True, record["train"]["memory"]["total"] or float("inf")
    return False, record["step_seconds"] or 0.0


def configured(simulated: bool) -> Job:
    """Returns the `Job` that gin configures.

    The dtype 'auto' is bfloat16 unless devices are `simulated`, as it is on accelerators.
    """
    from flan_jax.data.config import DataConfig
    from flan_jax.data.vocabulary import load_vocabulary, padded_size
    from flan_jax.models.architectures import ARCHITECTURES, make_model
    from flan_jax.optim.make import make_optimizer
    from flan_jax.peft.config import PeftConfig
    from flan_jax.planning.compiled import Job
    from flan_jax.training.config import TrainConfig

    data, train = DataConfig(), TrainConfig()
    for architecture in () if simulated else ARCHITECTURES.values():
        name = architecture.config.__name__
        if _parameter(f"{name}.dtype") in (None, "auto"):
            gin.bind_parameter(f"{name}.dtype", "bfloat16")
    rows = train.embedding_rows or padded_size(load_vocabulary(data.vocabulary, data.architecture))
    model = make_model(data.architecture, rows)
    return Job(
        model,
        make_optimizer(),
        train,
        data.architecture,
        data.batch_size,
        data.lengths(),
        PeftConfig(),
    )


def chosen(job: Job, where: Slice) -> Choice:
    """Returns the `Choice` that gin configures, and prints why if the mesh is chosen here.

    That is for MESH='auto', and where the default does not divide.
    """
    from flan_jax.parallel.partitioning import mesh_sizes
    from flan_jax.planning import mesh_search
    from flan_jax.planning.compiled import Choice

    config, count = job.config, len(where.devices)
    default = config.mesh in (None, {"fsdp": -1}) and job.batch_size % config.microbatches == 0
    undivided = default and not mesh_search.divides(
        job, {"data": 1, "fsdp": count, "model": 1}, config.microbatches
    )
    if undivided:
        job = dataclasses.replace(job, config=dataclasses.replace(config, mesh="auto"))
    mesh, why = mesh_search.mesh_of(job, where.devices)
    if undivided:
        why = (
            f"the default MESH, {{'fsdp': -1}}, does not divide this model and {job.batch_size} "
            f"rows over {count} devices; this is --gin.MESH=auto, which `flan-jax train` needs "
            f"there too: {why}"
        )
    sizes = mesh_sizes(mesh, count)
    remat, why_remat = mesh_search.remat_of(job, sizes, where.chip)
    for line in filter(None, (why, why_remat)):
        print(line + "\n", flush=True)
    return Choice(mesh, remat, config.microbatches, job.loss_chunks)


def _parameter(name: str) -> Any:
    try:
        return gin.query_parameter(name)
    except ValueError:
        return None


def search(job: Job, where: Slice, tries: int = 8) -> list[dict[str, Any]]:
    """Returns the records of the candidates of `mesh_search`, compiled one after the other.

    It ends when `tries` fit or `_FAILURES` do not.

    Raises:
      UserError: if no choice is worth a try.
    """
    from flan_jax.planning import mesh_search

    candidates = mesh_search.candidates(job, where)
    if not candidates:
        raise mesh_search.nothing_fits(job, len(where.devices))
    print(f"{mesh_search.explain(candidates[0], job)}\n", flush=True)
    records, best = [], float("inf")
    # Estimates err in the same direction; the least error so far corrects those to come.
    slower, larger = _LeastFactor(), _LeastFactor()
    for candidate in candidates:
        fit = sum(not _too_large(record) for record in records)
        is_slower = candidate.seconds * slower.factor > _MARGIN * best
        if is_slower or fit == tries or len(records) - fit == _FAILURES:
            break
        if where.chip and candidate.total * larger.factor > where.chip.device_memory:
            continue
        record = job.compile(where, candidate.choice)
        records.append(record)
        print(_summary(record, candidate.seconds), flush=True)
        larger.add(record["train"]["memory"]["total"], candidate.total)
        slower.add(record["step_seconds"], candidate.seconds)
        if not _too_large(record):
            best = min(best, record["step_seconds"] or candidate.seconds)
    return records


class _LeastFactor:
    """The least ratio of a measured number to its estimate; 1 before the first."""

    def __init__(self):
        self.factor, self._any = 1.0, False

    def add(self, measured: float | None, estimated: float) -> None:
        if measured is None:
            return
        ratio = measured / estimated
        self.factor = min(self.factor, ratio) if self._any else ratio
        self._any = True


def print_fit(best: dict[str, Any], job: Job, tries: int) -> None:
    """Prints the lines of gin that configure the best choice, or that none fits."""
    if _too_large(best):
        hint = "a larger slice, a smaller BATCH_SIZE or PARAM_DTYPE='bfloat16'"
        hint = _EVALUATION_HINT if "eval" in best else hint
        print(f"none of {tries} choices fits; {hint} might.")
        return
    from flan_jax.planning.compiled import Choice

    what = "the fastest that fits" if best["fits"] else "the first by estimate"
    lines = Choice.from_record(best).gin(type(job.model.config).__name__)
    print(f"{what}, of {tries} compiled:\n  " + "\n  ".join(lines))


def _choice_of(record: dict[str, Any]) -> dict[str, Any]:
    keys = ("mesh", "remat", "microbatches", "loss_chunks", "fits", "step_seconds")
    return {**{key: record[key] for key in keys}, "total_bytes": record["train"]["memory"]["total"]}


def _summary(record: dict[str, Any], estimate: float) -> str:
    """Returns a line about a record, with the time that was estimated before."""
    total = record["train"]["memory"]["total"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in record["mesh"].items())
    step = f"{record['step_seconds']:.3f} s a step" if record["step_seconds"] else "-"
    verdict = {True: "fits, ", False: "too large, ", None: ""}[record["fits"]]
    return (
        f"  {mesh}, remat {record['remat']}, {record['microbatches']} microbatches: "
        f"{verdict}{_size(total)} a device, {step} (estimated {estimate:.3f} s)"
    )


def describe(record: dict[str, Any]) -> str:
    """Returns a record as the lines that are printed."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in record["mesh"].items())
    lengths = " + ".join(map(str, record["lengths"]))
    trained = record["trained_parameters"]
    is_part = trained != record["parameters"]
    tuned = f", frozen, and {trained:,} that train" if is_part else ""
    lines = [
        f"{record['size'] or 'model'}: {record['parameters']:,} parameters{tuned} "
        f"({record['param_dtype']}), {record['dtype']} compute; {record['batch_size']} rows of "
        f"{lengths} tokens",
        f"{record['topology']}: {record['devices']} devices ({record['chip']}), mesh {mesh}, remat "
        f"{record['remat']}, microbatches {record['microbatches']}, loss chunks "
        f"{record['loss_chunks']}",
    ]
    for name in ("train", "eval"):
        if name in record:
            lines += [
                "",
                f"{name} step (compiled in {record[name]['compile_seconds']:.0f} s), per device:",
                *_program_lines(record[name]),
            ]
    verdict = {
        True: "fits",
        None: "simulated devices: whether an accelerator holds it is not known",
        False: "does not fit"
        if "eval" not in record
        else f"the training step fits, the evaluation step does not; {_EVALUATION_HINT} might",
    }
    lines += ["", verdict[record["fits"]]]
    if record["fits"] and record["step_seconds"]:
        lines[-1] += (
            f"; estimated {record['step_seconds']:.3f} s a step, MFU {record['mfu']:.1%}, "
            f"{record['tokens_per_second']:,.0f} tokens/s; 30,000 steps in "
            f"{record['step_seconds'] * 30000 / 3600:.1f} hours"
        )
    return "\n".join(lines)


def _program_lines(program: dict[str, Any]) -> list[str]:
    memory = program["memory"]
    available = f" of {_size(memory['available'])}" if memory["available"] else ""
    lines = []
    for name, size in memory.items():
        if name not in ("total", "available", "message"):
            lines.append(f"  {name.replace('_', ' '):<20}{_size(size):>12}")
        if name == "temporaries" and "activations_guess" in program:
            size = _size(program["activations_guess"])
            lines.append(f"    {'of these activations':<20}{size:>10} by estimate")
    lines.append(f"  {'total':<20}{_size(memory['total']):>12}{available}")
    if "flops" not in program:
        return lines
    if "peak_bytes" in program:
        lines.append(f"  {'peak at one time':<20}{_size(program['peak_bytes']):>12}")
    lines.append(f"  {'matrix products':<20}{program['flops'] / 1e12:>8.3f} TFLOP")
    lines.append(f"  {'memory traffic':<20}{_size(program['memory_bytes']):>12}")
    lines += [
        f"  {kind:<20}{_size(sums['bytes']):>12} in {sums['count']:,}"
        for kind, sums in program["collectives"].items()
    ]
    if program["unknown_loops"]:
        lines.append(f"  {program['unknown_loops']} loops of unknown length are counted once")
    if program["unknown_kernels"]:
        lines.append(f"  {program['unknown_kernels']} calls of kernels are not counted")
    if program["unknown_groups"]:
        lines.append(
            f"  {program['unknown_groups']} collectives of unknown groups are counted as of all "
            "devices"
        )
    if "seconds" in program:
        seconds = program["seconds"]
        lines.append(
            f"  time: {seconds['step']:.3f} s (products {seconds['compute']:.3f} at peak, memory "
            f"{seconds['memory']:.3f}, collectives {seconds['exposed']:.3f} waited for and "
            f"{seconds['hidden']:.3f} beside)"
        )
    return lines


def _size(size: float | None) -> str:
    """Returns a number of bytes as text, in GiB or MiB."""
    if size is None:
        return "unknown"
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.2f} MiB"


if __name__ == "__main__":
    dispatch.run(main)
