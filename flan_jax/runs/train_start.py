"""The start of training: what a run begins with in its directory, and what it records there."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flan_jax.config import gin_files
from flan_jax.config.run_directory import CHECKPOINTS
from flan_jax.config.run_status import RunStatus
from flan_jax.optim.make import rate_warning
from flan_jax.runs.data_log import log_sides, log_trained_on
from flan_jax.runs.directories import may_save
from flan_jax.runs.setup import RunSetup, check_parameters, read_parameters
from flan_jax.storage.files import write_file
from flan_jax.storage.working_copy import original

if TYPE_CHECKING:
    from flan_jax.checkpoints.manager import Checkpoints
    from flan_jax.peft.prompt import Start
    from flan_jax.training.state import State
    from flan_jax.training.step import TrainStep

_log = logging.getLogger(__name__)


def open_directory(run: RunSetup) -> TrainStart:
    """Returns what is in the directory of a run, which may begin or resume there.

    Raises:
      UserError: if it may not: files are damaged, settings or the optimizer differ, steps are fewer
        than were taken, or the initial checkpoint does not match.
    """
    from flan_jax.checkpoints import base_record
    from flan_jax.checkpoints.manager import Checkpoints
    from flan_jax.checkpoints.prompt_start import prompt_start
    from flan_jax.evaluation.results_store import ResultsStore
    from flan_jax.training import config_record, metrics_log, resume, run_record

    ResultsStore(run.directory).check()
    metrics_log.read_steps(run.directory / metrics_log.FILE)
    config_before = config_record.read_config(run.directory)
    checkpoints = Checkpoints(
        original(run.directory / CHECKPOINTS), run.config.keep, lambda: may_save(run.directory)
    )
    is_new = checkpoints.latest_step() is None
    initial = run.config.initial_checkpoint_path
    settings = run_record.settings_of(run.data.config, initial)
    if not is_new:
        run_record.check_same(run.directory, settings)
        base_record.check_settings(run.directory, run.sharded.tuning, run.config.param_dtype)
        _check_model(run)
    resume.check_steps(checkpoints, run.data.config.train_steps)
    resume.check_optimizer(checkpoints, run.sharded)
    resume.check_base(run.sharded, initial)
    # The run that is the initial checkpoint may have more steps by now.
    initial_step = None if is_new else run_record.initial_step(run.directory)
    if initial and (is_new or not run.sharded.tuning.is_full):
        chosen = base_record.chosen_step(initial, initial_step)
        initial_step = check_parameters(run, initial, chosen)
    prompt = None
    if is_new:
        prompt = prompt_start(run.sharded.tuning, run.data.vocabulary, run.config.seed)
    return TrainStart(checkpoints, is_new, initial, initial_step, prompt, settings, config_before)


@dataclasses.dataclass(frozen=True)
class TrainStart:
    """What a run begins with.

    Attributes:
      checkpoints: of the run.
      is_new: whether it has none yet.
      initial: INITIAL_CHECKPOINT_PATH.
      initial_step: of that checkpoint; None: random parameters, or unknown.
      prompt: where a new run begins with a prompt; see `ShardedState.fresh`.
      settings: those that are the same at every start; see `run_record.settings_of`.
      config_before: the text of `config.gin` of the last start; may be empty.
    """

    checkpoints: Checkpoints
    is_new: bool
    initial: str | None
    initial_step: int | None
    prompt: Start | None
    settings: dict[str, Any]
    config_before: str

    def record_data(self, run: RunSetup) -> None:
        """Logs the datasets of a run, whose data is prepared, and writes `mixture.json`.

        Raises:
          UserError: if the run is resumed and its rows are others.
        """
        from flan_jax.training import run_record

        log_sides(run.data)
        trained_before = (
            run_record.trained_before(self.initial)
            if self.is_new
            else run_record.began_with(run.directory, self.initial)
        )
        log_trained_on(run.data, trained_before)
        record = run_record.record_of(run.data)
        record = {**self.settings, **record, "trained_before": trained_before}
        record[run_record.INITIAL_STEP] = self.initial_step
        run_record.keep(run.directory, record, self.is_new)

    def load_state(self, run: RunSetup) -> tuple[State, Any]:
        """Returns the state to begin with, and the base; see `resume.restore_or_initialize`."""
        from flan_jax.checkpoints import base_record
        from flan_jax.training import resume

        state, base = resume.restore_or_initialize(
            self.checkpoints, run.sharded, self._reader(run), self.prompt
        )
        if base is not None:
            record = base_record.record_of(
                run.sharded.tuning, self.initial, self.initial_step, base
            )
            base_record.keep(run.directory, record, self.is_new)
        return state, base

    def initial_parameters(self, run: RunSetup) -> Any:
        """Returns the parameters of step 0 of full tuning."""
        from flan_jax.training import resume

        return resume.initial_state(run.sharded, self._reader(run))["params"]

    def describe(self, run: RunSetup, step: int, status: RunStatus) -> None:
        """Writes `config.gin`, `model-info.txt` and `run.json`; logs the model and what changed.

        Args:
          run: its data is prepared.
          step: at which it begins.
          status: `run.json`.
        """
        import jax

        from flan_jax.training import config_record
        from flan_jax.training.model_info import model_info

        config_text = gin_files.config_text()
        text, count, trained = model_info(run.sharded)
        status.update(size=run.config.size, parameters=count, trained_parameters=trained)
        if jax.process_index() == 0:
            for line in config_record.changed_settings(self.config_before, config_text):
                _log.info(f"changed since the last start: {line}")
            write_file(run.directory / config_record.FILE, config_text)
            write_file(run.directory / "model-info.txt", text)
        name = run.config.size or run.data.config.architecture
        _log.info(f"model: {name} with {count:,} parameters, {run.model.config.dtype} compute")
        tuning = run.sharded.tuning
        if not tuning.is_full:
            _log.info(f"{trained:,} parameters train ({trained / count:.2%}): {tuning.summary()}")
        settings = gin_files.settings()
        warning = rate_warning(settings, self.initial is not None and tuning.is_full)
        if warning:
            _log.warning(warning)
        status.update(
            step=step,
            steps=run.data.config.train_steps,
            held_out=run.data.config.held_out,
            train=run.data.train.candidates(),
            evaluated=run.data.eval.names,
            settings=settings,
        )

    def _reader(self, run: RunSetup) -> Callable[[], Any] | None:
        """Returns a function that reads the initial parameters; None if they are random."""
        if not self.initial:
            return None
        from flan_jax.checkpoints.base_record import chosen_step

        step = chosen_step(self.initial, self.initial_step)
        return lambda: read_parameters(run, self.initial, step, merge=True)[1]


def _check_model(run: RunSetup) -> None:
    """Checks that a run that is resumed has the model that it began with.

    Raises:
      UserError: if a field differs that its checkpoints cannot be used without.
    """
    from flan_jax.checkpoints.check import check_same_model
    from flan_jax.checkpoints.model_gin import fields_beside

    fields = fields_beside(run.directory / CHECKPOINTS)
    known = fields.get(run.data.config.architecture, {})
    check_same_model(known, run.model.config, run.directory)


def start_compilation(run: RunSetup, latest_step: int | None) -> Callable[[], TrainStep]:
    """Returns a function that returns the compiled training step; compiles in the background.

    Where the latest checkpoint is the last step, it compiles only when called.
    """
    from flan_jax.training.compile import compile_in_background, lower_train_step

    shapes = run.data.layout.shapes(run.data.config.batch_size)
    lower = functools.partial(
        lower_train_step, run.model, run.optimizer, run.sharded, run.config, shapes
    )
    if latest_step == run.data.config.train_steps:
        return lambda: lower().compile()
    return compile_in_background(lower)
