"""Packed rows, as a layout fills them, train as their examples would one by one.

Both architectures.
"""

import jax
import numpy as np
import pytest
from flax import linen as nn

from flan_jax.data.layout import make_layout
from flan_jax.models import decoder, losses, t5

MODELS = {
    "t5": t5.T5(t5.T5Config(96, 16, 2, 8, 32, 2, 2, dropout_rate=0.0, dtype="float32")),
    "decoder": decoder.DecoderLM(decoder.DecoderConfig(96, 16, 2, 8, 32, 2, dtype="float32")),
    "rotary": decoder.DecoderLM(
        decoder.DecoderConfig(
            96,
            16,
            2,
            8,
            32,
            2,
            num_kv_heads=1,
            positions="rotary",
            scale_queries=True,
            logits_via_embedding=False,
            mlp_activations=("silu", "linear"),
            prefix="bidirectional",
            dtype="float32",
        )
    ),
}
LENGTHS = [(5, 2), (9, 1), (1, 7), (3, 3), (6, 4), (2, 2), (4, 5)]
ROWS = [(0, 1, 2), (3, 4), (), (5, 6)]  # ragged, one of them empty


def layout_of(name: str):
    return make_layout("t5" if name == "t5" else "decoder", 18, 12, 0)


def examples() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [tuple(rng.integers(1, 96, n).astype(np.int32) for n in lengths) for lengths in LENGTHS]


def filled(name: str, rows) -> dict[str, np.ndarray]:
    of = [examples()[i] for members in rows for i in members]
    return layout_of(name).batch(
        [inputs for inputs, _ in of],
        [targets for _, targets in of],
        [len(members) for members in rows],
    )


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_packed_rows_are_the_sum_over_their_examples(name):
    model = MODELS[name]
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), filled(name, ROWS)))["params"]

    @jax.jit
    def loss_and_gradient(params, batch):
        def loss(params):
            logits = model.apply({"params": params}, batch)
            return losses.token_loss(
                logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
            )[0]

        return jax.value_and_grad(loss)(params)

    packed, gradient = loss_and_gradient(params, filled(name, ROWS))
    alone = [loss_and_gradient(params, filled(name, [(i,)])) for i in range(len(LENGTHS))]
    assert float(packed) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=1e-6)
    summed = jax.tree.map(lambda *of: sum(of), *(of for _, of in alone))
    errors = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), gradient, summed
    )
    assert max(jax.tree.leaves(errors)) < 1e-5

    # The comparison sees a leak: one example that takes its neighbour's segment changes both
    # numbers.
    leaking = filled(name, ROWS)
    for key in ("decoder_segment_ids", "encoder_segment_ids"):
        if key in leaking:
            leaking[key][0][leaking[key][0] == 2] = 1
    assert abs(float(loss_and_gradient(params, leaking)[0]) - float(packed)) > 1e-3


@pytest.mark.parametrize("name", ["t5", "decoder"])
def test_the_loss_is_on_the_targets_and_on_nothing_else(name):
    batch = filled(name, ROWS)
    weights = batch["decoder_loss_weights"]
    assert weights.sum() == sum(targets for _, targets in LENGTHS)
    targets = np.concatenate([examples()[i][1] for row in ROWS for i in row])
    assert batch["decoder_target_tokens"][weights > 0].tolist() == targets.tolist()
    assert not batch["decoder_target_tokens"][batch["decoder_segment_ids"] == 0].any()
