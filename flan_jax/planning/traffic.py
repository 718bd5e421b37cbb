"""What the devices of a mesh exchange in a training step, estimated from the sizes of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flan_jax.planning.model_sizes import ModelSizes

if TYPE_CHECKING:
    from flan_jax.planning.compiled import Choice, Job


def bytes_exchanged(job: Job, choice: Choice) -> dict[str, float]:
    """Returns for each mesh axis the bytes that a device sends or receives along it in a step.

    Of an axis of n devices it is (n - 1) / n of that: parameters are gathered over `fsdp` in every
    pass, gradients are summed over `data`, and activations over `model`; a sum counts twice.

    Args:
      job: what is trained.
      choice: with the size of every axis of its mesh.
    """
    data, fsdp, tensor = (choice.mesh[axis] for axis in ("data", "fsdp", "model"))
    model = ModelSizes.from_config(job.model.config)
    item = 2 if job.model.config.dtype == "bfloat16" else 4
    passes = 3 if choice.remat == "full" else 2
    shard_of_tensor = model.parameters / tensor
    reduced = job.trained_bytes(choice.mesh) if job.is_frozen else shard_of_tensor / fsdp * 4
    # In each pass over a layer the parts of attention and of the feed-forward are summed.
    reductions = model.layers * 2 * passes
    tokens = job.batch_size * sum(job.lengths) / (data * fsdp)
    return {
        "data": choice.microbatches * reduced * 2,
        "fsdp": choice.microbatches * shard_of_tensor * item * (passes + 1),
        "model": reductions * tokens * model.width * item * 2,
    }
