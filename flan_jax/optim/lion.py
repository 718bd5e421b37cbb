"""Lion: the sign of a moment, optax's rule."""

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
def lion(
    learning_rate: LearningRate = 1e-2,
    schedule: ScheduleName = "constant",
    warmup_steps: Warmup = 0,
    train_steps: TrainSteps = 300,
    weight_decay: WeightDecay = 0.0,
    clip_norm: ClipNorm = None,
    b1: Annotated[float, Setting(None, "share of the moment in an update", least=0, below=1)] = 0.9,
    b2: Annotated[float, Setting(None, "decay of the moment", least=0, below=1)] = 0.99,
    moment_dtype: MomentDtype = "float32",
) -> "optax.GradientTransformation":
    """Returns Lion. Its state is one number for each parameter.

    Its learning rate is about a tenth of AdamW's. Chen et al., Symbolic Discovery of Optimization
    Algorithms, 2023.

    Raises:
      UserError: for a value out of its bounds.
    """
    import optax

    from flan_jax.optim.composed import composed
    from flan_jax.optim.schedules import make_schedule

    checked = check_settings("lion", lion, locals())
    rate = make_schedule("lion", learning_rate, schedule, warmup_steps, checked["train_steps"])
    return composed(optax.scale_by_lion(b1, b2), rate, weight_decay, clip_norm, moment_dtype)
