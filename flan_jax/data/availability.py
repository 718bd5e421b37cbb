"""Which of a run's datasets have rows in its source, and why the others are left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flan_jax.catalogue.registry import CATALOGUE
from flan_jax.data.config import DataConfig
from flan_jax.data.sources.base import Source, counts_once, unavailable
from flan_jax.errors import UserError


class Availability:
    """Looks names up in a source; the training side and the held-out side of a run share one.

    Attributes:
      left_out: name -> why it neither trains nor is evaluated although the settings name it.

    Args:
      config: the data of the run.
      source: where rows are read.
      train_names: what trains if it is available.
      others: those of `train_names` that are not of the catalogue; they count as available.
    """

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        train_names: Collection[str],
        others: Collection[str],
    ):
        self.left_out: dict[str, str] = {}
        self._config, self._source = config, source
        self._train_names, self._others = train_names, others

    def available(self, names: Iterable[str], split: str) -> list[str]:
        """Returns those of `names` that have rows of the split; `left_out` gets the others.

        Raises:
          UserError: if STRICT_DATA is True and one of them has none.
        """
        reasons = {name: self._reason(name, split) for name in names}
        self.left_out |= {name: reason for name, reason in reasons.items() if reason is not None}
        return [name for name, reason in reasons.items() if reason is None]

    def _reason(self, name: str, split: str) -> str | None:
        """Why a name has no rows of the split; None if it has some."""
        if name in self._others:
            return None
        dataset = CATALOGUE[name]
        if split == "train":
            reason = counts_once(CATALOGUE, dataset, self._train_names, self._source)
            if reason:
                return reason
        shots = self._config.shots if split == "train" else self._config.eval_shots
        reason = unavailable(self._source, dataset, split, bool(shots))
        if reason is not None and self._config.strict:
            raise UserError(
                f"{name} {reason}, and STRICT_DATA is True; provide it, or set STRICT_DATA=False."
            )
        return reason
