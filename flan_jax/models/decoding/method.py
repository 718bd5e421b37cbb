"""The method of decoding and its settings; without JAX, so that flags are checked at once."""

import dataclasses
import math
from typing import Any

from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

# Which settings each method reads.
METHODS = {
    "greedy": (),
    "sample": ("temperature", "top_k", "top_p", "seed"),
    "beam": ("beams", "length_penalty"),
}


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are written. Settings of another method than the one chosen are not read.

    Attributes:
      method: 'greedy' (the likeliest token), 'sample' or 'beam'.
      temperature: logits are divided by it before a draw.
      top_k: only the k likeliest tokens are drawn; 0: all. Fan et al., Hierarchical Neural Story
        Generation, 2018.
      top_p: of those, after renormalization, only the likeliest whose probabilities reach p
        together; 1: all. Holtzman et al., The Curious Case of Neural Text Degeneration, 2020.
      seed: with a row's place in the list and the position in the answer, all that a draw depends
        on; below 2**32.
      beams: how many hypotheses are kept; with 1 the answer is the greedy one.
      length_penalty: a hypothesis of n tokens, EOS included, scores its log-probability /
        n**length_penalty, which is Hugging Face's definition: 0 compares sums and 1 means, and more
        favors longer answers. (T5X divides by ((5 + n) / 6)**alpha.)

    Raises:
      UserError: for a value that cannot work.
    """

    method: str = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(
                f"the decoding method must be one of {', '.join(METHODS)}, not {self.method!r}"
                f"{did_you_mean(nearest(self.method, METHODS))}"
            )
        if not (self.temperature >= 1e-6 and math.isfinite(self.temperature)):
            raise UserError(
                f"temperature is {self.temperature}, but must be at least 1e-6; for the likeliest "
                "token every time choose the method greedy."
            )
        if self.top_k < 0:
            raise UserError(
                f"top_k is {self.top_k}, but must be 0 (all tokens) or the number of tokens to "
                f"draw from."
            )
        if not 0 < self.top_p <= 1:
            raise UserError(
                f"top_p is {self.top_p}, but must be above 0 and at most 1 (all tokens)."
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}, but must be from 0 to 4294967295.")
        if self.beams < 1:
            raise UserError(f"beams is {self.beams}, but must be 1 (greedy) or more.")
        if not math.isfinite(self.length_penalty):
            raise UserError(
                f"length_penalty is {self.length_penalty}, but must be a finite number, such as 1."
            )

    def settings(self) -> dict[str, Any]:
        """Returns the method and the settings that it reads."""
        return {
            "method": self.method,
            **{name: getattr(self, name) for name in METHODS[self.method]},
        }
