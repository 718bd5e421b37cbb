"""The settings that every optimizer has, as types of its parameters."""

from typing import Annotated

from flan_jax.config.settings import Setting

# What `schedules.SCHEDULES` has: settings are declared without JAX.
SCHEDULES = ("constant", "rsqrt", "linear", "cosine", "wsd")

LearningRate = Annotated[
    float,
    # A rate of 0, or one that float32 rounds to 0, trains nothing.
    Setting(
        "LEARNING_RATE",
        "the highest of the schedule; AdamW and Lion need a lower one than Adafactor, which "
        "multiplies it by the size of each parameter",
        least=1e-12,
    ),
]
ScheduleName = Annotated[
    str,
    Setting(
        "SCHEDULE",
        "the learning rate after WARMUP; the last three end at 0 after TRAIN_STEPS, 'wsd' is "
        "constant but for its last fifth; 'rsqrt' is LEARNING_RATE / sqrt(max(step, WARMUP)), as "
        "T5 was pretrained",
        choices=SCHEDULES,
    ),
]
Warmup = Annotated[
    float,
    Setting(
        "WARMUP",
        "steps in which the learning rate rises from 0; below 1: their share of TRAIN_STEPS",
        least=0,
        below=2**31,
    ),
]
TrainSteps = Annotated[int, Setting("TRAIN_STEPS", "", least=1)]
WeightDecay = Annotated[
    float,
    Setting(
        "WEIGHT_DECAY",
        "each step takes LEARNING_RATE x WEIGHT_DECAY of matrices and embeddings, but not of "
        "norms, biases and position tables",
        least=0,
        below=1e6,
    ),
]
ClipNorm = Annotated[
    float | None,
    Setting(
        "CLIP_NORM",
        "gradients with a larger norm, that of all together, are scaled down to it; None: never",
        least=1e-12,
    ),
]
MomentDtype = Annotated[
    str,
    Setting(
        "MOMENT_DTYPE",
        "of the first moment of AdamW and Lion; second moments are float32, and Adafactor has no "
        "first one",
        choices=("float32", "bfloat16"),
    ),
]
