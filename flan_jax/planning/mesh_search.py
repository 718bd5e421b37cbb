"""The search for a mesh: estimates of memory and time that cost nothing, and their order.

The estimates count what is large (parameters, the optimizer's state, gradients, kept activations,
gathered weights; products and collectives), to rank and to prune; `flan-jax precompile --fit`
compiles the first few and believes the compiler. Of 89 programs that libtpu 0.0.42 compiled (T5
small to XXL, decoders 422M to 137B, with Adafactor, on v3, v4, v5e, v5p), the 27 that took more
than 70 % of a device took 0.89 to 1.13 of the memory estimated. Half of the times were 0.9 to 1.3
of those estimated; of few rows on v5e they were two to three times as long, and more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

from flan_jax.errors import UserError
from flan_jax.models.layers import REMATS
from flan_jax.parallel.hardware import CHIPS, GIB, Chip, chip_of
from flan_jax.planning.compiled import Choice, Job
from flan_jax.planning.model_sizes import ModelSizes
from flan_jax.planning.roofline import ACHIEVABLE
from flan_jax.planning.topology import Slice
from flan_jax.planning.traffic import bytes_exchanged

_MICROBATCHES = (1, 2, 4, 8, 16, 32)
# What is not compiled before it runs needs this much more room than estimated.
_ROOM = 1.14
# Products that are computed again, as a share of a step's: full remat repeats the forward pass but
# for its last maps.
_AGAIN = {"none": 0.0, "dots": 0.02, "full": 0.28}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A choice with its estimated memory and time.

    Attributes:
      memory: bytes of a device, by what holds them.
      seconds: of a step.
      parts: of the seconds: 'products', 'gathering' (parameters over fsdp), 'gradients' (over
        data), 'tensor' (activations over model).
    """

    choice: Choice
    memory: dict[str, float]
    seconds: float
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All bytes of a device."""
        return sum(self.memory.values())


def divides(job: Job, mesh: dict[str, int], microbatches: int = 1) -> bool:
    """Returns whether the model and the batch divide over a mesh of these sizes."""
    rows = job.batch_size % (mesh["data"] * mesh["fsdp"] * microbatches) == 0
    return rows and ModelSizes.from_config(job.model.config).divides(mesh["fsdp"], mesh["model"])


def candidates(job: Job, where: Slice) -> list[Candidate]:
    """Returns what is worth compiling, the fastest by estimate first: what divides and may fit.

    Of choices that differ in `data` and `fsdp` alone, only the first: estimates hardly distinguish
    them. Loss chunks are as the job's configuration has them. Simulated devices count as those of a
    TPU v3.
    """
    ranked = _ranked(
        job,
        where.chip or CHIPS["v3"],
        len(where.devices),
        REMATS,
        _MICROBATCHES,
        job.loss_chunks,
    )
    firsts = {}
    for candidate in ranked:
        choice = candidate.choice
        firsts.setdefault((choice.mesh["model"], choice.remat, choice.microbatches), candidate)
    return list(firsts.values())


def mesh_of(job: Job, devices: list) -> tuple[dict[str, int], str]:
    """Returns the shape of the mesh that MESH sets, and why it is that one ('' if it was given).

    'auto' is the mesh that is fastest by estimate with the remat, microbatches and loss chunks that
    are set, of those that fit with room to spare; if none has room, the smallest. None is all
    devices on `fsdp`. Of the remat 'auto' each is tried.

    Raises:
      UserError: for 'auto', if no mesh divides the model and the batch, or if none may hold them.
    """
    config = job.config
    if config.mesh != "auto":
        return {"fsdp": -1} if config.mesh is None else config.mesh, ""
    chip = chip_of(devices[0].device_kind) or CHIPS["v3"]
    remat = job.model.config.remat
    remats = REMATS if remat == "auto" else [remat]
    ranked = _ranked(job, chip, len(devices), remats, [config.microbatches], job.loss_chunks)
    if not ranked:
        raise nothing_fits(job, len(devices), config.microbatches)
    roomy = (choice for choice in ranked if choice.total * _ROOM <= chip.device_memory)
    best = next(roomy, None) or min(ranked, key=lambda choice: choice.total)
    return best.choice.mesh, explain(best, job)


def remat_of(job: Job, mesh: dict[str, int], chip: Chip | None) -> tuple[str, str]:
    """Returns what is computed again on a mesh, and why it is that ('' if it was given).

    'auto' is the first of 'none', 'dots' and 'full' that fits with room to spare by estimate; if
    none has room, 'full'.

    Args:
      job: what is trained.
      mesh: with the size of every axis.
      chip: what its devices are; None if that is not known, where 'auto' is 'none'.
    """
    remat = job.model.config.remat
    if remat != "auto":
        return remat, ""
    if chip is None:
        return "none", ""
    parts = job.config.microbatches
    totals = {
        remat: estimate(job, chip, Choice(mesh, remat, parts, job.loss_chunks)).total
        for remat in ("none", "dots", "full")
    }
    most = chip.device_memory / _ROOM
    remat = next((remat for remat, total in totals.items() if total <= most), "full")
    sizes = ", ".join(f"{total / GIB:.1f} with {name}" for name, total in totals.items())
    return remat, (
        f"remat 'auto' is {remat!r}: a device needs an estimated {sizes}, of "
        f"{chip.device_memory / GIB:.2f} GiB with {_ROOM - 1:.0%} to spare"
    )


class NothingFits(UserError):
    """No mesh holds the model and the batch, by estimate."""


def nothing_fits(job: Job, devices: int, microbatches: int = 1) -> NothingFits:
    """Returns the error that says why no mesh will do."""
    model = ModelSizes.from_config(job.model.config)
    if any(divides(job, mesh, microbatches) for mesh in _meshes(job, devices)):
        moments = _whole_optimizer_bytes(job)
        # Adafactor's are far below a byte for each parameter.
        slice_or_optimizer = (
            f"a larger slice or --gin.OPTIMIZER=adafactor (the state of this optimizer takes "
            f"{moments / GIB:.1f} GiB)"
            if moments > model.parameters
            else "or a larger slice"
        )
        return NothingFits(
            f"no mesh of {devices} devices could hold this model and a batch of {job.batch_size} "
            "rows; give a smaller --gin.BATCH_SIZE, more remat or microbatches, "
            f"{slice_or_optimizer}."
        )
    widest = max(tensor for tensor in _divisors(devices) if model.divides(1, tensor))
    rows = devices // widest * microbatches
    return NothingFits(
        f"no mesh of {devices} devices divides this model and a batch of {job.batch_size} rows; "
        f"--gin.BATCH_SIZE={rows} or a multiple of it would, or a smaller slice."
    )


def _ranked(
    job: Job,
    chip: Chip,
    devices: int,
    remats: Iterable[str],
    microbatches: Sequence[int],
    loss_chunks: int,
) -> list[Candidate]:
    """Returns the candidates that fit by estimate, the fastest first."""
    estimates = [
        estimate(job, chip, Choice(mesh, remat, parts, loss_chunks))
        for mesh in _meshes(job, devices)
        for remat in remats
        for parts in microbatches
        if divides(job, mesh, parts)
    ]
    # Of equal times the fewest parts, and then the least memory: many meshes differ in nothing
    # else.
    return sorted(
        (each for each in estimates if each.total <= chip.device_memory),
        key=lambda each: (float(f"{each.seconds:.4g}"), each.choice.microbatches, each.total),
    )


def _whole_optimizer_bytes(job: Job) -> float:
    return job.optimizer_bytes({"data": 1, "fsdp": 1, "model": 1})


def explain(candidate: Candidate, job: Job) -> str:
    """Returns why a candidate has its mesh, in a sentence."""
    choice, mesh = candidate.choice, candidate.choice.mesh
    stored = 4 if job.config.param_dtype == "float32" else 2
    state = ModelSizes.from_config(job.model.config).parameters * stored / GIB
    parameters = f"{'frozen ' if job.is_frozen else ''}{job.config.param_dtype} parameters"
    gradients = "the gradients of what trains" if job.is_frozen else "their gradients"
    moments = _whole_optimizer_bytes(job) / GIB
    replicas, shards = mesh["data"] * mesh["fsdp"], mesh["fsdp"] * mesh["model"]
    why = [
        (
            f"the {parameters} ({state:.1f} GiB), {gradients} and the optimizer's state "
            f"({moments:.1f} GiB) lie over fsdp x model = {shards} devices"
        )
        if shards > 1
        else f"every device holds the {parameters} ({state:.1f} GiB) and the optimizer's state "
        f"({moments:.1f} GiB)"
    ]
    if mesh["model"] > 1:
        why.append(
            f"{job.batch_size} rows in {choice.microbatches} parts lie over data x fsdp = "
            f"{replicas} devices, and heads, feed-forward and vocabulary over model = "
            f"{mesh['model']}"
        )
    times = ", ".join(f"{name} {seconds:.3f}" for name, seconds in candidate.parts.items())
    return (
        f"mesh {mesh} with remat {choice.remat} and {choice.microbatches} microbatches: "
        f"{'; '.join(why)}; estimated {candidate.total / GIB:.1f} GiB a device and "
        f"{candidate.seconds:.3f} s a "
        f"step ({times})."
    )


def _meshes(job: Job, devices: int) -> Iterator[dict[str, int]]:
    for tensor in _divisors(devices):
        for fsdp in _divisors(devices // tensor):
            mesh = {"data": devices // tensor // fsdp, "fsdp": fsdp, "model": tensor}
            if divides(job, mesh):
                yield mesh


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def estimate(job: Job, chip: Chip, choice: Choice) -> Candidate:
    """Returns the memory and time of a choice, estimated from the sizes of the model."""
    model = ModelSizes.from_config(job.model.config)
    parts = _seconds(job, chip, choice)
    is_fused = job.model.config.is_fused("tpu" if chip.pod else "gpu")
    memory = _memory(job, model, choice, is_fused)
    return Candidate(choice, memory, sum(parts.values()), parts)


def _memory(job: Job, m: ModelSizes, choice: Choice, is_fused: bool) -> dict[str, float]:
    data, fsdp, tensor = (choice.mesh[axis] for axis in ("data", "fsdp", "model"))
    rows = job.batch_size / (data * fsdp * choice.microbatches)
    item = 2 if job.model.config.dtype == "bfloat16" else 4
    stored = 4 if job.config.param_dtype == "float32" else 2
    shard = m.parameters / (fsdp * tensor)
    heads, kv_heads, hidden = m.heads / tensor, m.kv_heads / tensor, m.mlp_dim / tensor
    activations = one_layer = 0.0
    stacks = _stacks(job)
    for layers, length, across in stacks:
        tokens = rows * length
        scores = 0.0 if is_fused else rows * heads * length * (length + across)
        attentions = 2 if across else 1
        # For each token of a layer: norms' inputs, heads, gates. The two halves are what the
        # compiler kept besides.
        dots = item * (
            tokens
            * ((1 + attentions) * m.width + m.gates * hidden + attentions * heads * m.head_dim)
            + 2 * rows * (length + across) * kv_heads * m.head_dim
        )
        everything = dots + item * (scores * 1.5 + tokens * (1 + attentions) * m.width)
        carried = tokens * item * m.width
        kept = {"full": carried * 0.5, "dots": dots, "none": everything}[choice.remat] + carried
        # While a layer is at work: scores and their gradients in float32, and the gates' products.
        work = (
            dots
            + scores * (8 + item)
            + tokens * ((1 + attentions) * (4 + item) * m.width + item * (m.gates + 1) * hidden)
        )
        activations, one_layer = activations + layers * kept, max(one_layer, work)
    layer = m.parameters / m.layers / tensor
    # Gradients are float32, and summed in two more copies over microbatches.
    copies = 3 if choice.microbatches > 1 else 1
    trained = job.trained_bytes(choice.mesh) if job.is_frozen else 0
    gradients = (trained if job.is_frozen else shard * 4) * copies
    return {
        "parameters": shard * stored + trained,
        "optimizer": job.optimizer_bytes(choice.mesh),
        # Beside a cast of the parameters.
        "gradients": gradients + (shard * item if item < stored else 0),
        "activations": activations,
        "one_layer": one_layer + 2 * layer * item,
        "logits": rows * stacks[-1][1] / choice.loss_chunks * m.rows / tensor * 4 * 2,
    }


def _stacks(job: Job) -> list[tuple[int, int, int]]:
    """Returns for each stack its layers, a row's tokens, and the tokens of another stack.

    The last are those that it attends to besides its own.
    """
    c, (source, target) = job.model.config, job.lengths
    if hasattr(c, "num_layers"):
        return [(c.num_layers, source + target, 0)]
    return [(c.num_encoder_layers, source, 0), (c.num_decoder_layers, target, source)]


def _seconds(job: Job, chip: Chip, choice: Choice) -> dict[str, float]:
    devices = math.prod(choice.mesh.values())
    bandwidth = chip.link_bandwidth * 2 / chip.devices
    exchanged = bytes_exchanged(job, choice)

    def seconds(axis: str) -> float:
        count = choice.mesh[axis]
        return exchanged[axis] * (count - 1) / count / bandwidth

    products = job.flops * (1 + _AGAIN[choice.remat]) / devices / chip.device_flops / ACHIEVABLE
    return {
        "products": products,
        "gathering": seconds("fsdp"),
        "gradients": seconds("data"),
        "tensor": seconds("model"),
    }
