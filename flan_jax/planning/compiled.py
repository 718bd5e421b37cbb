"""The real training and evaluation step of a configuration, compiled for a slice, and what a device
needs for them.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from flan_jax.data.layout import make_layout
from flan_jax.models.flops import model_flops
from flan_jax.parallel import partitioning
from flan_jax.parallel.hardware import GIB
from flan_jax.planning import roofline
from flan_jax.planning.hlo_costs import read_costs
from flan_jax.planning.topology import Slice
from flan_jax.training.compile import lower_eval_step, lower_train_step
from flan_jax.training.state import ShardedState

# How XLA says that a program is too large: what it holds at once, its arguments included, and what
# there is.
_TOO_LARGE = (
    re.compile(
        r"memory required for HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM "
        r"\(([\d.]+)([KMGT])\)"
    ),
    re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What may be chosen for a model and a batch on a slice."""

    mesh: dict[str, int]
    remat: str = "none"
    microbatches: int = 1
    loss_chunks: int = 1

    @classmethod
    def of(cls, record: dict[str, Any]) -> Choice:
        """The choice of a record."""
        return cls(*(record[field.name] for field in dataclasses.fields(cls)))

    def gin(self, model: str) -> list[str]:
        """The lines that choose it, for a model of `T5Config` or `DecoderConfig`."""
        shape = {axis: size for axis, size in self.mesh.items() if size > 1} or {"data": 1}
        return [
            f"MESH = {shape}",
            f"{model}.remat = '{self.remat}'",
            f"MICROBATCHES = {self.microbatches}",
            f"LOSS_CHUNKS = {self.loss_chunks}",
        ]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained: everything but where.

    Attributes:
      model: of any remat; the choice says which.
      config: the `TrainConfig`; its mesh, microbatches and loss_chunks give way to the choice.
      lengths: (S, T).
    """

    model: nn.Module
    optimizer: Any
    config: Any
    architecture: str
    batch_size: int
    lengths: tuple[int, int]

    @property
    def flops(self) -> float:
        """Of a training step on all devices; see `model_flops`."""
        return model_flops(self.model.config, self.batch_size, *self.lengths)

    def compile(self, where: Slice, choice: Choice) -> dict[str, Any]:
        """Compiles the training step for a slice, and gives what a device needs: the record that
        `--json` writes.

        Raises:
          UserError: if the choice does not divide the model or the batch.
        """
        model, config, sharded, shapes = self._on(where, choice)
        lowered = lower_train_step(model, self.optimizer, sharded, config, shapes)
        train = _Program(where, sharded, lowered).record()
        return {
            **self._about(where, choice, sharded),
            "train": train,
            "fits": train["fits"],
            **self._speed(where, train),
        }

    def with_eval(self, record: dict[str, Any], where: Slice) -> dict[str, Any]:
        """The record of a training step with the evaluation step added, compiled for the same
        choice.
        """
        model, config, sharded, shapes = self._on(where, Choice.of(record))
        evaluation = _Program(
            where, sharded, lower_eval_step(model, sharded, config, shapes), ("opt_state",)
        ).record()
        return {**record, "eval": evaluation, "fits": record["fits"] and evaluation["fits"]}

    def _on(self, where: Slice, choice: Choice):
        """(model, its `TrainConfig`, state, shapes of a batch) of a choice."""
        mesh = partitioning.make_mesh(choice.mesh, where.devices)
        partitioning.check_batch_size(self.batch_size, mesh, choice.microbatches)
        config = dataclasses.replace(
            self.config,
            mesh=choice.mesh,
            microbatches=choice.microbatches,
            loss_chunks=choice.loss_chunks,
        )
        model = type(self.model)(dataclasses.replace(self.model.config, remat=choice.remat))
        layout = make_layout(self.architecture, *self.lengths, 0)
        sharded = ShardedState(
            model, self.optimizer, mesh, layout.shapes(1), config.seed, config.param_dtype
        )
        return model, config, sharded, layout.shapes(self.batch_size)

    def _about(self, where: Slice, choice: Choice, sharded: ShardedState) -> dict[str, Any]:
        count = sum(
            math.prod(leaf.shape)
            for leaf in jax.tree.leaves(partitioning.unbox(sharded.abstract["params"]))
        )
        return {
            "size": self.config.size,
            "topology": where.name,
            "chip": where.chip.name if where.chip else "CPU",
            "devices": len(where.devices),
            "mesh": dict(sharded.mesh.shape),
            "remat": choice.remat,
            "microbatches": choice.microbatches,
            "loss_chunks": choice.loss_chunks,
            "param_dtype": self.config.param_dtype,
            "dtype": self.model.config.dtype,
            "embedding_rows": self.model.config.vocab_size,
            "parameters": count,
            "batch_size": self.batch_size,
            "lengths": list(self.lengths),
            "tokens_per_step": self.batch_size * sum(self.lengths),
            "model_flops": self.flops,
        }

    def _speed(self, where: Slice, train: dict[str, Any]) -> dict[str, Any]:
        """What the estimated step time implies; nothing where there is none."""
        seconds = train.get("seconds")
        if not seconds:
            return {"step_seconds": None, "mfu": None, "tokens_per_second": None}
        peak = where.chip.device_flops * len(where.devices)
        return {
            "step_seconds": seconds["step"],
            "mfu": self.flops / seconds["step"] / peak,
            "tokens_per_second": self.batch_size * sum(self.lengths) / seconds["step"],
        }


class _Program:
    """One lowered program on its way to a record."""

    def __init__(
        self,
        where: Slice,
        sharded: ShardedState,
        lowered: jax.stages.Lowered,
        idle: tuple[str, ...] = (),
    ):
        """`idle` is what of the state the program does not take: it lies in the memory all the
        same.
        """
        self.where, self.mesh, self.lowered = where, sharded.mesh, lowered
        self.kept = {
            name: _bytes_on_a_device(sharded.abstract[name], sharded.shardings[name])
            for name in ("params", "opt_state")
        }
        self.idle = sum(self.kept[name] for name in idle)

    def record(self) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            compiled = self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {
                "fits": False,
                "memory": self._too_large(str(error)),
                "compile_seconds": time.perf_counter() - started,
            }
        seconds = time.perf_counter() - started
        costs = read_costs(compiled.as_text(), len(self.where.devices))
        analysis = compiled.memory_analysis()
        memory = self._memory(analysis)
        chip = self.where.chip
        times = (
            roofline.step_time(costs, self.where, list(self.mesh.devices.flat)) if chip else None
        )
        # Of a CPU the analysis has no peak that counts the temporaries.
        peak = {"peak_bytes": analysis.peak_memory_in_bytes + self.idle} if chip else {}
        return {
            "fits": memory["total"] <= chip.device_memory if chip else None,
            "memory": memory,
            **peak,
            "compile_seconds": seconds,
            "flops": costs.flops,
            "memory_bytes": costs.memory_bytes,
            "collectives": costs.by_kind(),
            "unknown_loops": costs.unknown_loops,
            "unknown_groups": costs.unknown_groups,
            **({"seconds": {**dataclasses.asdict(times), "step": times.step}} if times else {}),
        }

    def _memory(self, found) -> dict[str, float]:
        """Bytes of a device."""
        given = (
            found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        )
        memory = {
            "parameters": self.kept["params"],
            "optimizer": self.kept["opt_state"],
            "batch_and_padding": max(0, given + self.idle - sum(self.kept.values())),
            "temporaries": found.temp_size_in_bytes,
            "code": found.generated_code_size_in_bytes,
        }
        available = self.where.chip.device_memory if self.where.chip else None
        return {**memory, "total": sum(memory.values()), "available": available}

    def _too_large(self, message: str) -> dict[str, float]:
        """Bytes that a device would need, from the compiler's message."""
        memory = {
            "parameters": self.kept["params"],
            "optimizer": self.kept["opt_state"],
            "available": self.where.chip.device_memory,
        }
        found = next(filter(None, (form.search(message) for form in _TOO_LARGE)), None)
        if found is None:
            return {**memory, "total": None, "message": message.splitlines()[0]}
        total = _in_bytes(*found.groups()[:2]) + self.idle
        return {
            **memory,
            "temporaries": max(0.0, total - sum(self.kept.values())),
            "total": total,
            "available": _in_bytes(*found.groups()[2:]),
        }


def _in_bytes(number: str, unit: str) -> float:
    return float(number) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[unit]


def _bytes_on_a_device(abstract, shardings) -> int:
    """Bytes of one device's shards of a tree."""
    pairs = zip(
        jax.tree.leaves(partitioning.unbox(abstract)), jax.tree.leaves(shardings), strict=True
    )
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf, sharding in pairs
    )
