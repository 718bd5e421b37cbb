"""The settings of parameter-efficient tuning."""

from __future__ import annotations

import dataclasses
import math

import gin

from flan_jax.config.checks import check_fields
from flan_jax.config.settings import setting

METHODS = ("lora", "prompt", "ia3")
SCALES = ("alpha/r", "alpha/sqrt(r)")
# What PROMPT_INIT may be, or begin with; any other text is a path.
VOCABULARY, UNIFORM, LABELS, TEXT = "vocabulary", "uniform", "labels:", "text:"


def is_prompt_file(prompt_init: str) -> bool:
    """Returns whether PROMPT_INIT is a path."""
    return prompt_init not in (VOCABULARY, UNIFORM) and not prompt_init.startswith((LABELS, TEXT))


@gin.configurable("Peft")
@dataclasses.dataclass(frozen=True)
class PeftConfig:
    """Parameter-efficient tuning: which arrays are added to a frozen model and trained."""

    method: str | None = setting(
        "PEFT",
        None,
        "what is trained beside a frozen model; None: all parameters train",
        choices=METHODS,
    )
    lora_rank: int = setting("LORA_RANK", 16, "of the two matrices of LoRA", least=1, below=2**14)
    lora_alpha: float = setting(
        "LORA_ALPHA", 32.0, "numerator of the scale of LoRA's product", least=1e-6, below=1e9
    )
    lora_scale: str = setting("LORA_SCALE", "alpha/r", "scale of LoRA's product", choices=SCALES)
    lora_targets: str = setting(
        "LORA_TARGETS",
        "all",
        "matrices with LoRA: 'all' (but logits and embeddings), 'attention', 'qv', or a regular "
        "expression of the last parts of their paths, such as 'query|mlp/wi_0'",
    )
    also_train: str | None = setting(
        "ALSO_TRAIN",
        None,
        "whole arrays that train, too: a regular expression of the last parts of their paths, "
        "such as 'logits_dense/kernel|scale'",
    )
    prompt_length: int = setting(
        "PROMPT_LENGTH",
        100,
        "vectors of a prompt; inputs have as much less room in TASK_FEATURE_LENGTHS",
        least=1,
        below=2**14,
    )
    prompt_init: str = setting(
        "PROMPT_INIT",
        VOCABULARY,
        "what a prompt begins with: 'vocabulary' (vectors of frequent tokens), 'uniform', "
        "'labels: yes, no', 'text: ...', or a path: a prompt in a .npy file, of peft, or a run",
        path=is_prompt_file,
    )

    def __post_init__(self):
        check_fields(self, "Peft")

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of a prompt each example begins with."""
        return self.prompt_length if self.method == "prompt" else 0

    @property
    def scale(self) -> float:
        """The factor of LoRA's product."""
        rank = self.lora_rank
        return self.lora_alpha / (rank if self.lora_scale == "alpha/r" else math.sqrt(rank))
