"""AdamW: Adam with decoupled weight decay, optax's rule."""

from typing import TYPE_CHECKING, Annotated

import gin

from flan_jax.config.checks import check_settings
from flan_jax.config.settings import Setting
from flan_jax.optim.settings import (
    ClipNorm,
    LearningRate,
    MomentDtype,
    ScheduleName,
    TrainSteps,
    Warmup,
    WeightDecay,
)

if TYPE_CHECKING:
    import optax


@gin.configurable
def adamw(
    learning_rate: LearningRate = 1e-2,
    schedule: ScheduleName = "constant",
    warmup_steps: Warmup = 0,
    train_steps: TrainSteps = 300,
    weight_decay: WeightDecay = 0.0,
    clip_norm: ClipNorm = None,
    b1: Annotated[float, Setting(None, "decay of the first moment", least=0, below=1)] = 0.9,
    b2: Annotated[
        float, Setting("ADAM_B2", "decay of AdamW's second moment", least=0, below=1)
    ] = 0.999,
    eps: Annotated[
        float, Setting(None, "added to the root of the second moment", least=1e-30, below=1)
    ] = 1e-8,
    moment_dtype: MomentDtype = "float32",
) -> "optax.GradientTransformation":
    """Returns AdamW. Its state is two numbers for each parameter.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.

    Raises:
      UserError: for a value out of its bounds.
    """
    import optax

    from flan_jax.optim.composed import composed
    from flan_jax.optim.schedules import make_schedule

    checked = check_settings("adamw", adamw, locals())
    rate = make_schedule("adamw", learning_rate, schedule, warmup_steps, checked["train_steps"])
    return composed(optax.scale_by_adam(b1, b2, eps), rate, weight_decay, clip_norm, moment_dtype)
