"""The training and evaluation step of a run, compiled for a slice, and what a device needs."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import time
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from flan_jax.data.layout import make_layout
from flan_jax.models.flops import model_flops
from flan_jax.models.losses import resolved_chunks
from flan_jax.parallel import partitioning
from flan_jax.parallel.hardware import GIB
from flan_jax.peft.config import PeftConfig
from flan_jax.peft.tuning import Tuning
from flan_jax.planning import roofline
from flan_jax.planning.hlo_costs import read_costs
from flan_jax.planning.topology import Slice
from flan_jax.planning.traffic import bytes_exchanged
from flan_jax.training.compile import lower_eval_step, lower_train_step
from flan_jax.training.state import ShardedState, init_params, init_state

# XLA's messages about a program that is too large: what it holds at once, its arguments included,
# and what the device has.
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
    def from_record(cls, record: dict[str, Any]) -> Choice:
        """Returns the choice of a record."""
        return cls(*(record[field.name] for field in dataclasses.fields(cls)))

    def gin(self, model: str) -> list[str]:
        """Returns the lines of gin that choose it, for a model of `T5Config` or `DecoderConfig`."""
        shape = {axis: size for axis, size in self.mesh.items() if size > 1} or {"data": 1}
        return [
            f"MESH = {shape}",
            f"{model}.remat = '{self.remat}'",
            f"MICROBATCHES = {self.microbatches}",
            f"LOSS_CHUNKS = {self.loss_chunks}",
        ]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained: everything but the devices.

    Attributes:
      model: of any remat; the choice says which.
      config: the `TrainConfig`; its mesh, microbatches and loss_chunks give way to the choice.
      lengths: (S, T).
      peft: what is tuned; all parameters without a method.
    """

    model: nn.Module
    optimizer: Any
    config: Any
    architecture: str
    batch_size: int
    lengths: tuple[int, int]
    peft: PeftConfig = PeftConfig(method=None)

    @property
    def is_frozen(self) -> bool:
        """Whether the parameters of the model do not train, but arrays that are added to them."""
        return self.peft.method is not None

    @property
    def flops(self) -> float:
        """FLOPs of a training step on all devices; see `model_flops`."""
        return model_flops(
            self.model.config, self.batch_size, *self.lengths, is_frozen=self.is_frozen
        )

    @property
    def loss_chunks(self) -> int:
        """Into how many parts the logits of a row are cut; see `resolved_chunks`."""
        one_row = make_layout(self.architecture, *self.lengths, 0).shapes(1)
        length = one_row["decoder_target_tokens"][1]
        return resolved_chunks(self.config.loss_chunks, length, self.model.config.vocab_size)

    def optimizer_bytes(self, mesh: dict[str, int]) -> float:
        """Returns the bytes of the optimizer's state on each device of a mesh of these sizes."""
        return _on_a_device(self._bytes["opt_state"], mesh)

    def trained_bytes(self, mesh: dict[str, int]) -> float:
        """Returns the bytes of what trains on each device of a mesh of these sizes."""
        return _on_a_device(self._bytes["params"], mesh)

    @functools.cached_property
    def _bytes(self) -> dict[str, dict[tuple[str, ...], int]]:
        """The bytes of what trains and of the optimizer's state, by the axes that split them."""
        shapes = make_layout(self.architecture, *self.lengths, 0).shapes(1)
        base = jax.eval_shape(lambda: init_params(self.model, shapes, 0, self.config.param_dtype))
        tuning = Tuning(self.peft, base)
        state = jax.eval_shape(lambda base: init_state(tuning.fresh(base, 0), self.optimizer), base)
        return {
            name: partitioning.bytes_by_mesh_axes(state[name]) for name in ("params", "opt_state")
        }

    def compile(self, where: Slice, choice: Choice) -> dict[str, Any]:
        """Compiles the training step for a slice, and returns the record that `--json` writes.

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
        """Returns the record of a training step with the evaluation step of the same choice."""
        model, config, sharded, shapes = self._on(where, Choice.from_record(record))
        evaluation = _Program(
            where, sharded, lower_eval_step(model, sharded, config, shapes), ("opt_state",)
        ).record()
        return {**record, "eval": evaluation, "fits": record["fits"] and evaluation["fits"]}

    def _on(self, where: Slice, choice: Choice) -> tuple[nn.Module, Any, ShardedState, dict]:
        """Returns (model, its `TrainConfig`, state, shapes of a batch) of a choice."""
        sizes = partitioning.mesh_sizes(choice.mesh, len(where.devices))
        traffic = bytes_exchanged(self, dataclasses.replace(choice, mesh=sizes))
        mesh = partitioning.make_mesh(sizes, where.devices, traffic)
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
            model,
            self.optimizer,
            mesh,
            layout.shapes(1),
            config.seed,
            config.param_dtype,
            self.peft,
        )
        return model, config, sharded, layout.shapes(self.batch_size)

    def _about(self, where: Slice, choice: Choice, sharded: ShardedState) -> dict[str, Any]:
        count, trained = map(_count, (sharded.abstract_base, sharded.abstract["params"]))
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
            "trained_parameters": trained,
            "batch_size": self.batch_size,
            "lengths": list(self.lengths),
            "tokens_per_step": self.batch_size * sum(self.lengths),
            "model_flops": self.flops,
        }

    def _speed(self, where: Slice, train: dict[str, Any]) -> dict[str, Any]:
        """Returns what the estimated step time implies; Nones without an estimate."""
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
    """A lowered program, to be compiled and recorded."""

    def __init__(
        self,
        where: Slice,
        sharded: ShardedState,
        lowered: jax.stages.Lowered,
        idle: tuple[str, ...] = (),
    ):
        """Keeps the program.

        Args:
          where: the slice.
          sharded: the state on it.
          lowered: the program.
          idle: the parts of the state that are no argument of the program: the device's memory
            holds them all the same.
        """
        self.where, self.mesh, self.lowered = where, sharded.mesh, lowered
        self.kept = {
            name: _bytes_on_a_device(sharded.abstract[name], sharded.shardings[name])
            for name in ("params", "opt_state")
        }
        frozen = _bytes_on_a_device(sharded.boxed_frozen, sharded.frozen_shardings)
        self.kept["params"] += frozen
        self.idle = sum(self.kept[name] for name in idle)

    def record(self) -> dict[str, Any]:
        """Compiles the program and returns its record; `fits` is None for simulated devices."""
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
        # For a CPU the analysis has no peak that counts the temporaries.
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
            "unknown_kernels": costs.unknown_kernels,
            **({"seconds": {**dataclasses.asdict(times), "step": times.step}} if times else {}),
        }

    def _memory(self, analysis: Any) -> dict[str, float]:
        """Returns the bytes of a device, by what they hold."""
        arguments = (
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
        )
        memory = {
            "parameters": self.kept["params"],
            "optimizer": self.kept["opt_state"],
            "batch_and_padding": max(0, arguments + self.idle - sum(self.kept.values())),
            "temporaries": analysis.temp_size_in_bytes,
            "code": analysis.generated_code_size_in_bytes,
        }
        available = self.where.chip.device_memory if self.where.chip else None
        return {**memory, "total": sum(memory.values()), "available": available}

    def _too_large(self, message: str) -> dict[str, float]:
        """Returns the bytes that a device would need, from the compiler's message."""
        memory = {
            "parameters": self.kept["params"],
            "optimizer": self.kept["opt_state"],
            "available": self.where.chip.device_memory,
        }
        match = next(filter(None, (form.search(message) for form in _TOO_LARGE)), None)
        if match is None:
            return {**memory, "total": None, "message": message.splitlines()[0]}
        total = _in_bytes(*match.groups()[:2]) + self.idle
        return {
            **memory,
            "temporaries": max(0.0, total - sum(self.kept.values())),
            "total": total,
            "available": _in_bytes(*match.groups()[2:]),
        }


def _on_a_device(sizes: dict[tuple[str, ...], int], mesh: dict[str, int]) -> float:
    return sum(size / math.prod(mesh[axis] for axis in axes) for axes, size in sizes.items())


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(partitioning.unbox(tree)))


def _in_bytes(number: str, unit: str) -> float:
    return float(number) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[unit]


def _bytes_on_a_device(abstract: Any, shardings: Any) -> int:
    """Returns the bytes of one device's shards of a tree."""
    pairs = zip(
        jax.tree.leaves(partitioning.unbox(abstract)), jax.tree.leaves(shardings), strict=True
    )
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf, sharding in pairs
    )
