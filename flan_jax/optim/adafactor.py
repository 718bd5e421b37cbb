"""The settings of Adafactor; its rule is in `adafactor_rule.py`."""

from typing import TYPE_CHECKING, Annotated

import gin

from flan_jax.config.checks import check_settings
from flan_jax.config.settings import Setting
from flan_jax.optim.settings import (
    ClipNorm,
    LearningRate,
    ScheduleName,
    TrainSteps,
    Warmup,
    WeightDecay,
)

if TYPE_CHECKING:
    import optax


@gin.configurable
def adafactor(
    learning_rate: LearningRate = 1e-2,
    decay_rate: Annotated[
        float,
        Setting(None, "the second moments decay by 1 - (step + 1)^-decay_rate", least=0, below=10),
    ] = 0.8,
    schedule: ScheduleName = "constant",
    warmup_steps: Warmup = 0,
    train_steps: TrainSteps = 300,
    weight_decay: WeightDecay = 0.0,
    clip_norm: ClipNorm = None,
    multiply_by_parameter_scale: Annotated[
        bool,
        Setting(
            None,
            "whether updates are relative to the root mean square of each parameter; without, "
            "LEARNING_RATE is the size of an update",
        ),
    ] = True,
    weight_decay_rate: Annotated[
        float,
        Setting(
            None,
            "T5X's weight decay: each step takes this share of every parameter, whatever the "
            "learning rate",
            least=0,
            below=1,
        ),
    ] = 0.0,
) -> "optax.GradientTransformation":
    """Returns T5X's Adafactor, without momentum.

    Updates are relative to each parameter's root mean square (`multiply_by_parameter_scale`) and
    clipped at 1. Matrices are factored when both dimensions are at least 128. `init` takes plain
    parameters, or ones boxed with logical axes, and then boxes its slots likewise.

    Raises:
      UserError: for a value out of its bounds.
    """
    from flan_jax.optim.adafactor_rule import adafactor_rule
    from flan_jax.optim.composed import clipping
    from flan_jax.optim.schedules import make_schedule

    checked = check_settings("adafactor", adafactor, locals())
    steps = checked["train_steps"]
    return adafactor_rule(
        make_schedule("adafactor", learning_rate, schedule, warmup_steps, steps),
        clipping(clip_norm),
        decay_rate,
        multiply_by_parameter_scale,
        weight_decay,
        weight_decay_rate,
    )
