"""Adafactor against stock T5X's numbers; schedules, and the settings of all optimizers."""

import re

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_jax.config.gin_files import CONFIGURED, parse_command_line
from flan_jax.errors import UserError
from flan_jax.models import losses, stacking, t5
from flan_jax.optim import adafactor as optimizer
from flan_jax.optim import schedules
from flan_jax.optim.adafactor_rule import AdafactorState
from flan_jax.optim.make import OPTIMIZERS, make_optimizer, rate_warning
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
    state = AdafactorState(jnp.int32(step), **golden.read_t5x_slots(path))
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


def one_update(grads, params, **settings):
    """Returns the first update of Adafactor with these settings."""
    adafactor = optimizer.adafactor(**settings)
    return jax.jit(adafactor.update)(grads, adafactor.init(params), params)[0]


PARAMS = {"kernel": jnp.full((4, 4), 3.0), "scale": jnp.full(4, 0.5)}
GRADS = {"kernel": jnp.linspace(-1, 1, 16).reshape(4, 4), "scale": jnp.array([1.0, 2, -1, 0.5])}


def test_without_parameter_scale_the_learning_rate_is_the_size_of_an_update():
    scaled = one_update(GRADS, PARAMS, learning_rate=0.1)
    plain = one_update(GRADS, PARAMS, learning_rate=0.1, multiply_by_parameter_scale=False)
    for name, scale in (("kernel", 3.0), ("scale", 0.5)):
        np.testing.assert_allclose(scaled[name], plain[name] * scale, rtol=1e-6)
        # at the first step the second moment is the gradient's square
        np.testing.assert_allclose(plain[name], -0.1 * np.sign(GRADS[name]), rtol=1e-5)


def test_the_two_weight_decays_of_adafactor():
    plain = one_update(GRADS, PARAMS, learning_rate=0.1)
    # T5X: of every parameter, whatever the learning rate
    t5x = one_update(GRADS, PARAMS, learning_rate=0.1, weight_decay_rate=0.01)
    for name, update in plain.items():
        np.testing.assert_allclose(t5x[name], update - 0.01 * PARAMS[name], rtol=1e-6)
    # WEIGHT_DECAY: times the learning rate, of matrices alone
    decoupled = one_update(GRADS, PARAMS, learning_rate=0.1, weight_decay=0.01)
    expected = plain["kernel"] - 0.1 * 0.01 * PARAMS["kernel"]
    np.testing.assert_allclose(decoupled["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(decoupled["scale"], plain["scale"])


def test_gradients_are_clipped_before_adafactor():
    norm = float(optax.tree_utils.tree_norm(GRADS))
    clipped = jax.tree.map(lambda x: x / norm * 0.25, GRADS)
    state = optimizer.adafactor(clip_norm=0.25).init(PARAMS)
    _, ours = optimizer.adafactor(clip_norm=0.25).update(GRADS, state, PARAMS)
    _, expected = optimizer.adafactor().update(clipped, state, PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, expected)
    _, unclipped = optimizer.adafactor(clip_norm=norm * 2).update(GRADS, state, PARAMS)
    _, expected = optimizer.adafactor().update(GRADS, state, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, unclipped, expected)


def test_the_default_is_adafactor_with_the_updates_that_it_had():
    made = make_optimizer()
    updates, state = made.update(GRADS, made.init(PARAMS), PARAMS)
    plain, plain_state = optimizer.adafactor(1e-2).update(GRADS, made.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, (updates, state), (plain, plain_state))
    assert jax.tree.structure(state) == jax.tree.structure(made.init(PARAMS))


# --- Schedules, the same for every optimizer


def schedule(name: str, rate: float = 1.0, warmup: float = 0, steps: int = 100):
    return schedules.make_schedule("adamw", rate, name, warmup, steps)


def test_constant_and_rsqrt():
    constant = schedule("constant", 1e-3, warmup=4)
    np.testing.assert_allclose(
        [constant(s) for s in (0, 1, 3, 100)], [2.5e-4, 5e-4, 1e-3, 1e-3], rtol=1e-6
    )
    assert schedule("constant", 1e-3)(0) == pytest.approx(1e-3)
    rsqrt = schedule("rsqrt", 1.0, warmup=10_000)
    np.testing.assert_allclose(
        [rsqrt(jnp.int32(s)) for s in (0, 10_000, 40_000)], [0.01, 0.01, 0.005], rtol=1e-6
    )


@pytest.mark.parametrize(
    "name, points",
    [
        # after 20 of 100 steps of warm-up: half way, three quarters, the end
        ("linear", {60: 0.5, 80: 0.25, 100: 0.0}),
        ("cosine", {40: (1 + 0.5**0.5) / 2, 60: 0.5, 100: 0.0}),
        ("wsd", {20: 1.0, 80: 1.0, 85: 0.75, 90: 0.5, 95: 0.25, 100: 0.0}),
    ],
)
def test_schedules_that_end_at_0(name, points):
    for warmup in (20, 0.2):
        rate = schedule(name, 0.01, warmup)
        rising = [rate(jnp.int32(step)) for step in (0, 9, 19)]
        np.testing.assert_allclose(rising, [0.0005, 0.005, 0.01], rtol=1e-6)
        for step, share in points.items():
            assert float(rate(jnp.int32(step))) == pytest.approx(0.01 * share, abs=1e-9), step
        assert float(rate(jnp.int32(99))) > 0  # the last step still trains
        assert float(rate(jnp.int32(150))) == 0
    assert float(schedule(name)(0)) == 1.0


def test_wsd_may_be_given_more_steps_before_it_decays():
    short, long = schedule("wsd", warmup=10), schedule("wsd", warmup=10, steps=200)
    early = jnp.arange(81)
    np.testing.assert_array_equal(jax.vmap(short)(early), jax.vmap(long)(early))
    assert short(jnp.int32(81)) < long(jnp.int32(81))


def test_a_warm_up_is_a_number_of_steps_or_a_share_of_them():
    def warmup_of(rate):
        return next(step for step in range(1000) if rate(step) >= 0.999999) + 1

    shares = {0.03: 9, 0.5: 150, 0.999: 300, 1: 1, 7.0: 7}
    assert [warmup_of(schedule("constant", warmup=share, steps=300)) for share in shares] == list(
        shares.values()
    )
    with pytest.raises(UserError, match=r"adamw.warmup_steps must be a whole .* share .* not 1.5"):
        schedule("cosine", warmup=1.5)


@pytest.mark.parametrize(
    "name, most, says",
    [
        ("linear", 99, "'linear' needs 1 after it"),
        ("cosine", 99, "'cosine' needs 1 after it"),
        ("wsd", 80, "'wsd' needs 20 after it"),
    ],
)
def test_a_warm_up_that_leaves_no_room_is_refused(name, most, says):
    schedule(name, warmup=most)
    with pytest.raises(UserError, match=f"is {most + 1} of adamw.train_steps = 100 steps.*{says}"):
        schedule(name, warmup=most + 1)
    schedule("constant", warmup=1000)


def test_the_macros_reach_every_optimizer_and_names_of_earlier_runs_still_work(tmp_path):
    arguments = ["--gin_file=gin/flan.gin", "--gin.SCHEDULE=wsd", "--gin.WARMUP=0.1"]
    parse_command_line([*arguments, "--gin.TRAIN_STEPS=1e3", "--gin.OPTIMIZER=lion"], CONFIGURED)
    for name in OPTIMIZERS:
        assert [gin.query_parameter(f"{name}.{field}").scopes for field in MACROS] == [
            [macro] for macro in MACROS.values()
        ]
    assert make_optimizer().init(PARAMS)._fields == ("count", "mu")
    # as flan_jax 0.1 wrote it
    (tmp_path / "config.gin").write_text(
        "LEARNING_RATE = 0.5\nadafactor.learning_rate = %LEARNING_RATE\n"
        "adafactor.schedule = 'rsqrt'\nadafactor.warmup_steps = 4\n"
    )
    parse_command_line(["--gin_file=gin/flan.gin", f"--gin_file={tmp_path}/config.gin"], CONFIGURED)
    made = make_optimizer()
    expected = optimizer.adafactor(0.5, schedule="rsqrt", warmup_steps=4)
    jax.tree.map(
        np.testing.assert_array_equal,
        made.update(GRADS, made.init(PARAMS), PARAMS),
        expected.update(GRADS, made.init(PARAMS), PARAMS),
    )


MACROS = {
    "learning_rate": "LEARNING_RATE",
    "schedule": "SCHEDULE",
    "warmup_steps": "WARMUP",
    "train_steps": "TRAIN_STEPS",
    "weight_decay": "WEIGHT_DECAY",
    "clip_norm": "CLIP_NORM",
}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["OPTIMIZER=adam"], "OPTIMIZER must be one of adafactor, adamw, lion, not 'adam'; did "),
        (["SCHEDULE=cosin"], "SCHEDULE must be one of constant, rsqrt, linear, cosine, wsd, not"),
        (["WARMUP=-1"], "WARMUP must be a number of at least 0"),
        (["WARMUP=2.5"], "WARMUP must be a whole number of steps, or a share of all steps below"),
        (["SCHEDULE=linear", "WARMUP=300"], "WARMUP is 300 of TRAIN_STEPS = 300 steps, and the"),
        (["CLIP_NORM=0"], "CLIP_NORM must be None or a number of at least 1e-12, not 0."),
        (["WEIGHT_DECAY=-0.1"], "WEIGHT_DECAY must be a number of at least 0"),
        (["OPTIMIZER=adamw", "ADAM_B2=1"], "ADAM_B2 must be a number of at least 0 and below 1"),
        (["OPTIMIZER=lion", "MOMENT_DTYPE=int8"], "MOMENT_DTYPE must be one of float32, bfloat16"),
    ],
)
def test_mistakes_are_named_as_they_were_typed(arguments, says):
    parse_command_line(
        ["--gin_file=gin/flan.gin", *(f"--gin.{argument}" for argument in arguments)], CONFIGURED
    )
    with pytest.raises(UserError, match=f"^{re.escape(says)}"):
        make_optimizer()


@pytest.mark.parametrize(
    "rate, optimizer, tunes_all, warning",
    [
        (1e-2, "adafactor", True, "LEARNING_RATE 0.01 is high for all parameters of a checkpoint"),
        (1e-2, "adafactor", False, None),  # random parameters, or a prompt
        (1e-3, "adafactor", True, None),
        (1e-2, "adamw", False, "LEARNING_RATE 0.01 is high for adamw"),
        (2e-4, "adamw", True, None),
    ],
)
def test_a_rate_that_is_too_high_for_what_it_trains_is_a_warning(
    rate, optimizer, tunes_all, warning
):
    given = rate_warning({"LEARNING_RATE": rate, "OPTIMIZER": optimizer}, tunes_all)
    assert given is None if warning is None else given.startswith(warning)
    of_its_own = {"LEARNING_RATE": 1.0, "OPTIMIZER": optimizer, f"{optimizer}.learning_rate": rate}
    assert rate_warning(of_its_own, tunes_all) == given
