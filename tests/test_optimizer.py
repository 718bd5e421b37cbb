"""Adafactor against stock T5X's numbers, on plain and on stacked trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax.errors import UserError
from flan_jax.models import losses, stacking, t5
from flan_jax.optim import adafactor as optimizer
from support import golden


def golden_tree(numbers, prefix: str) -> dict:
    """Returns `<prefix>/*` in float32, its array `stack` as a subtree of layers."""
    tree = {
        name.split("/")[1]: numbers[name] for name in numbers.files if name.startswith(f"{prefix}/")
    }
    tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
    return {"layers": {"stack": tree.pop("stack")}, **tree}


@golden.needs_golden
def test_three_updates_equal_t5x():
    numbers = np.load(golden.ROOT / "adafactor.npz")
    adafactor = optimizer.adafactor(learning_rate=1e-2)
    params = golden_tree(numbers, "param0")
    state = adafactor.init(params)
    for i in range(3):
        updates, state = jax.jit(adafactor.update)(golden_tree(numbers, f"grad{i}"), state, params)
        params = optax.apply_updates(params, updates)
    for name, param in golden.named(params).items():
        name = name.removeprefix("layers/")
        np.testing.assert_allclose(param, numbers[f"param3/{name}"], atol=1e-6, err_msg=name)
    for slot in ("v", "v_row", "v_col"):
        for name, value in golden.named(getattr(state, slot)).items():
            expected = numbers[f"state3/{name.removeprefix('layers/')}/{slot}"]
            np.testing.assert_allclose(
                *np.broadcast_arrays(value, expected), rtol=1e-6, atol=1e-6, err_msg=name
            )


@golden.needs_golden
@pytest.mark.parametrize("scan_layers", [True, False])
def test_three_training_steps_equal_t5x(scan_layers):
    numbers = np.load(golden.T5_V512 / "golden.npz")
    batch = golden.batch(numbers, "train")
    path = golden.T5_V512 / "legacy/checkpoint_3"
    step, params = golden.read_t5x(path)
    state = optimizer.AdafactorState(jnp.int32(step), **golden.read_t5x_slots(path))
    if scan_layers:
        params, state = stacking.stack(params), stacking.stack(state)
    model, adafactor = (
        t5.T5(golden.config(scan_layers=scan_layers)),
        optimizer.adafactor(learning_rate=1e-2),
    )

    @jax.jit
    def train_step(params, state):
        def loss(params):
            logits = model.apply({"params": params}, batch)
            return losses.token_loss(
                logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
            )[0]

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = adafactor.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    for expected in numbers["trajectory/loss_steps_3_4_5"]:
        value, params, state = train_step(params, state)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    for name, param in golden.named(stacking.unstack(params)).items():
        np.testing.assert_allclose(param, numbers[f"params_step6/{name}"], atol=1e-6, err_msg=name)
    for name, v in golden.named(stacking.unstack(state.v)).items():
        expected = numbers[f"param_states_step6/{name}/v"]
        np.testing.assert_allclose(v, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_stacked_layers_are_factored_clipped_and_scaled_one_by_one():
    rng = np.random.default_rng(0)
    scales = np.array([1e-3, 1.0, 50.0])[:, None, None]
    params = {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(3, 128, 256)) * scales, jnp.float32)}
    }
    grads = {
        "layers": {
            "kernel": jnp.asarray(rng.normal(size=(3, 128, 256)) * scales[::-1], jnp.float32)
        }
    }
    adafactor = optimizer.adafactor()
    stacked, stacked_state = adafactor.update(grads, adafactor.init(params), params)
    plain_params, plain_grads = stacking.unstack(params), stacking.unstack(grads)
    plain, plain_state = adafactor.update(plain_grads, adafactor.init(plain_params), plain_params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stacking.unstack(stacked), plain
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        stacking.unstack(stacked_state),
        plain_state,
    )


def test_schedules():
    constant = optimizer.learning_rate_schedule(1e-3, "constant", warmup_steps=4)
    np.testing.assert_allclose(
        [constant(s) for s in (0, 1, 3, 100)], [2.5e-4, 5e-4, 1e-3, 1e-3], rtol=1e-6
    )
    assert optimizer.learning_rate_schedule(1e-3, "constant", warmup_steps=0)(0) == pytest.approx(
        1e-3
    )
    rsqrt = optimizer.learning_rate_schedule(1.0, "rsqrt", warmup_steps=10_000)
    np.testing.assert_allclose(
        [rsqrt(jnp.int32(s)) for s in (0, 10_000, 40_000)], [0.01, 0.01, 0.005], rtol=1e-6
    )
    with pytest.raises(UserError, match="constant, rsqrt"):
        optimizer.adafactor(schedule="cosine")
