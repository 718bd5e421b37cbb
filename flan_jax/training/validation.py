"""Validation: loss and accuracy on the validation batches of the training clusters."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax

from flan_jax.data.batches import Batches
from flan_jax.parallel import partitioning
from flan_jax.training.prefetch import put_batch
from flan_jax.training.state import State

_log = logging.getLogger(__name__)

# (step, state) -> 'validation_loss' (nats per target token) and 'validation_accuracy' (of the next
# token).
Validate = Callable[[int, State], dict[str, float]]


def make_validate(
    batches: Batches,
    mesh: jax.sharding.Mesh,
    lower: Callable[[], jax.stages.Lowered],
    params_of: Callable[[State], Any],
) -> Validate:
    """Returns the function that validates a state; it compiles the evaluation step when first used.

    Args:
      batches: of the validation split.
      mesh: on which the parameters are.
      lower: lowers the step of `make_eval_step` for these batches.
      params_of: returns the parameters of the model in a state.
    """
    sharding = partitioning.batch_sharding(mesh)
    eval_step = functools.cache(lambda: lower().compile())

    def validate(step: int, state: State) -> dict[str, float]:
        params = params_of(state)
        sums = {"loss": 0.0, "accuracy": 0.0, "targets": 0.0}
        for index in range(len(batches)):
            batch, _ = put_batch(batches, sharding, index)
            metrics = jax.device_get(eval_step()(params, batch))
            weight = float(metrics["targets"])
            sums["targets"] += weight
            for name in ("loss", "accuracy"):
                sums[name] += float(metrics[name]) * weight
        loss, accuracy = sums["loss"] / sums["targets"], sums["accuracy"] / sums["targets"]
        _log.info(f"step {step}  validation loss {loss:.4f}  accuracy {accuracy:.3f}")
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    return validate
