"""`mixture` opens the data of a run; a `Mixture` gives its batches and its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flan_jax.api.loaded import Model
from flan_jax.api.settings import Configuration
from flan_jax.config.checks import check_number

if TYPE_CHECKING:
    import numpy as np

    from flan_jax.data.run_data import RunData


def mixture(
    name: str | None = None,
    *,
    held_out: str | None = None,
    source: str | None = None,
    model: Model | None = None,
    **settings: Any,
) -> Mixture:
    """Returns the data of a run: what trains, and what is held out from it.

    Settings are checked now; rows are read when batches are needed, into the token cache that all
    runs share.

    Args:
      name: what trains (MIXTURE_OR_TASK_NAME): datasets of the catalogue, SeqIO tasks, files of
        one's own, and 'flan' for all that is not held out, joined by '+', each with a cap ':N' or a
        share ':N%' if need be, such as 'flan+my.jsonl:3000'; None: 'flan'. See docs/your_data.md.
      held_out: what does not train and is evaluated zero-shot (HELD_OUT): a cluster such as 'nli',
        several joined by '+', or 'none'; None: the default, 'nli'.
      source: where rows come from (DATA_SOURCE): 'bundled' (the default), 'tfds', 'hf' or 'jsonl'.
      model: whose tokenizer and architecture the batches are for; None: a T5 on bytes.
      **settings: others of docs/settings.md by their names in lower case, such as `data_dir`,
        `shots`, `batch_size` or `task_feature_lengths`.

    Raises:
      UserError: for settings that contradict each other, the catalogue or the files they name.
    """
    from flan_jax.data.config import DataConfig
    from flan_jax.data.run_data import open_data
    from flan_jax.training.config import TrainConfig

    named = {"mixture_or_task_name": name, "held_out": held_out, "data_source": source}
    given = {key: value for key, value in named.items() if value is not None}
    own = Configuration((), ()).with_settings("mixture", settings, given).bindings
    before = Configuration() if model is None else model.start
    configuration = before.and_bindings(own)
    with configuration.applied():
        data = open_data(DataConfig(), TrainConfig().embedding_rows)
    return Mixture(data, configuration, own, model)


class Mixture:
    """The data of a run; `mixture` makes it.

    Attributes:
      data: the same object as a run's (`flan_jax.data.run_data.RunData`).
    """

    def __init__(
        self,
        data: RunData,
        configuration: Configuration,
        bindings: tuple[tuple[str, str], ...],
        model: Model | None,
    ):
        self.data = data
        # All settings, those of `mixture` itself, and the model that they are for.
        self.configuration, self.bindings, self.model = configuration, bindings, model

    def __repr__(self) -> str:
        train, evaluated = self.train_names, self.held_out_names
        return f"<Mixture: {len(train)} datasets train, {len(evaluated)} are evaluated>"

    @property
    def train_names(self) -> list[str]:
        """What trains if the source has it: datasets of the catalogue, SeqIO tasks, files."""
        return list(self.data.train.trained.names)

    @property
    def held_out_names(self) -> list[str]:
        """The datasets that are evaluated."""
        return list(self.data.eval.names)

    def card(self) -> list[dict[str, Any]]:
        """Returns the mixture card, a row for each dataset that trains.

        A row has `dataset`, `cluster`, `templates`, `cap`, `rows`, `rate` (min(rows, 3,000)) and
        `share` of the examples. Rows that are not in the token cache are prepared first.

        Raises:
          UserError: if rows cannot be read, or nothing is available.
        """
        # It does not depend on the steps, whose rows take longer.
        data = self._prepared(self.configuration.with_settings("card", {"train_steps": 1}))
        return [dataclasses.asdict(row) for row in data.train.card(data.train.members())]

    def batches(
        self, batch_size: int | None = None, steps: int | None = None, start: int = 0
    ) -> Iterator[dict[str, np.ndarray]]:
        """Returns the batches of a run, one for each step.

        Batch i is a pure function of the settings and of i, and the one that `train` takes in step
        i. Rows that are not in the token cache are prepared first, in another process.

        Args:
          batch_size: B, packed rows of a batch; None: BATCH_SIZE of the mixture, 8.
          steps: the batches end before this one; None: TRAIN_STEPS of the mixture, 300.
          start: the first one, from 0 on.

        Returns:
          An iterator of features by name, int32 [B, L] each: those of SeqIO's feature converters,
          such as `decoder_target_tokens` and `decoder_loss_weights`.

        Raises:
          UserError: if rows cannot be read, nothing is available, or `start` is negative.
        """
        start = check_number("start", start, whole=True, least=0)
        given = {"batch_size": batch_size, "train_steps": steps}
        given = {name: value for name, value in given.items() if value is not None}
        data = self._prepared(self.configuration.with_settings("batches", given))
        batches = data.train.batches()
        return (batches.at(step) for step in range(start, data.config.train_steps))

    def _prepared(self, configuration: Configuration) -> RunData:
        """The data under these settings, with all rows in the token cache."""
        from flan_jax.data.config import DataConfig
        from flan_jax.data.run_data import open_data
        from flan_jax.parallel import devices
        from flan_jax.runs.preparation import prepared
        from flan_jax.training.config import TrainConfig

        with configuration.applied() as arguments:
            config = DataConfig()
            devices.set_up(config.cache_directory() / "compiled")
            return prepared(open_data(config, TrainConfig().embedding_rows), arguments)
