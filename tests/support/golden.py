"""Where the golden numbers lie, and how tests read them.

Written by stock T5X on CPU in float32 (see its README.md).
"""

import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from flan_jax.checkpoints.formats import t5x
from flan_jax.models import losses, stacking, t5
from flan_jax.models.stacking import named

ROOT = pathlib.Path(__file__).parents[2].parent / "shared" / "golden"
T5_V512 = ROOT / "t5_1_1_tiny_v512"
T5_BF16 = ROOT / "t5_1_1_tiny"

needs_golden = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"NOT CHECKED AGAINST T5X: the golden numbers are not at {ROOT}"
)


def config(vocab_size: int = 512, scan_layers: bool = True) -> t5.T5Config:
    """Gives the configuration of both golden T5 models, in float32."""
    return t5.T5Config(
        vocab_size, 8, 4, 3, 16, 2, 2, dropout_rate=0.0, dtype="float32", scan_layers=scan_layers
    )


def batch(numbers, kind: str) -> dict[str, np.ndarray]:
    """Gives `<kind>_batch/*`; an unpacked batch gets segment ids that are 1 on tokens."""
    result = {
        name.split("/")[1]: numbers[name]
        for name in numbers.files
        if name.startswith(f"{kind}_batch/")
    }
    result.setdefault("encoder_segment_ids", (result["encoder_input_tokens"] > 0).astype(np.int32))
    result.setdefault("decoder_segment_ids", (result["decoder_target_tokens"] > 0).astype(np.int32))
    return result


def read_t5x(path) -> tuple[int, dict]:
    """Returns (step, parameters) of a T5X checkpoint.

    The parameters are nested dicts of arrays in the dtypes that are stored.
    """
    checkpoint = t5x.open_t5x(path)
    return checkpoint.step, _read(checkpoint.tensors)


def read_t5x_slots(path) -> dict:
    """Returns `v`, `v_row` and `v_col` of a T5X checkpoint, each a tree like the parameters."""
    return _read(t5x.open_t5x(path).slots)


def _read(tensors) -> dict:
    return traverse_util.unflatten_dict(
        {name: tensor.read() for name, tensor in tensors.items()}, sep="/"
    )


def assert_gradients(model, params, batch, numbers) -> None:
    """Compares the gradient of the summed loss with T5X's `grad_step3/*`, all names.

    The parameters are those in memory.
    """

    def loss(params):
        logits = model.apply({"params": params}, batch)
        return losses.token_loss(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        )[0]

    grads = named(stacking.unstack(jax.jit(jax.grad(loss))(params)))
    assert {f"grad_step3/{name}" for name in grads} == {
        name for name in numbers.files if name.startswith("grad_step3")
    }
    for name, grad in grads.items():
        np.testing.assert_allclose(
            grad, numbers[f"grad_step3/{name}"], rtol=1e-5, atol=2e-5, err_msg=name
        )
