"""Training a run in its directory: it begins there, or continues from its latest checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flan_jax import signals
from flan_jax.config import gin_files, run_status
from flan_jax.config.run_directory import sweep_of
from flan_jax.config.run_status import RunStatus
from flan_jax.parallel import processes
from flan_jax.report.write import conclude
from flan_jax.runs.directories import alone, make_directory, uploading
from flan_jax.runs.evaluating import Evaluate, make_evaluate
from flan_jax.runs.preparation import prepared
from flan_jax.runs.sample_prompts import answer_samples, sample_prompts
from flan_jax.runs.setup import RunSetup
from flan_jax.runs.stages import Stages
from flan_jax.runs.train_start import open_directory, start_compilation
from flan_jax.storage.paths import short_path
from flan_jax.storage.working_copy import shown_place
from flan_jax.training.config import TrainConfig
from flan_jax.training.trackers import registry as trackers

if TYPE_CHECKING:
    from flan_jax.checkpoints.manager import Checkpoints
    from flan_jax.data.eval_data import Protocol
    from flan_jax.data.run_data import RunData
    from flan_jax.runs.answers import Prompt
    from flan_jax.training.metrics_log import MetricsLog
    from flan_jax.training.state import State
    from flan_jax.training.step import TrainStep
    from flan_jax.training.trackers.tracking import Tracking
    from flan_jax.training.validation import Validate

_log = logging.getLogger(__name__)


def train_run(
    run: RunSetup, gin_arguments: list[str], started: float, evaluates: bool = True
) -> int:
    """Trains a run in its directory, where no other program may work meanwhile, and evaluates it.

    The settings of gin are those of the run. Whoever calls it again with them resumes the run.

    Args:
      run: see `setup.open_run`.
      gin_arguments: the settings, for the preparation of the data.
      started: `time.perf_counter()` at the start.
      evaluates: whether the held-out datasets are evaluated at the end, and the report is written.

    Returns:
      The exit status: 0 when everything is done, 143 when the run was preempted and is saved.

    Raises:
      UserError: if the run cannot begin or continue in its directory, or TRACKER cannot be used.
      Diverged: if a loss, a gradient or a parameter is not finite.
    """
    is_first = processes.index_and_count()[0] == 0
    if is_first:
        trackers.check(run.config.tracker)
    make_directory(run.config.model_dir)
    with (
        alone(run.directory, run_status.LOCK, "flan-jax train"),
        uploading(run.directory),
        run_status.recorded(run.directory, is_first) as status,
    ):
        status.exit_status = _train(run, gin_arguments, started, status, evaluates)
        return status.exit_status


def _train(
    run: RunSetup, gin_arguments: list[str], started: float, status: RunStatus, evaluates: bool
) -> int:
    """Trains and evaluates in the directory of the run, alone; returns the exit status."""
    stages, prompts = Stages(started), sample_prompts(run)

    # 1. Checkpoints: whether the run can begin or resume in its directory.
    start = open_directory(run)

    # 2. Data: what trains, what is held out; tokens from the cache, or made now.
    stages.begin("data")
    run = dataclasses.replace(run, data=prepared(run.data, gin_arguments))
    if evaluates:
        run.data.eval.check_rows()
    start.record_data(run)

    # 3. State: latest checkpoint, initial parameters or random ones; meanwhile the step compiles.
    stages.begin("model")
    compiled_step = start_compilation(run, start.checkpoints.latest_step())
    state, base = start.load_state(run)
    start.describe(run, int(state["step"]), status)
    _log.info(f"ready to train after {time.perf_counter() - started:.1f} s")

    # 4. The evaluator, of the trained model at the end, and of steps on the way.
    evaluate = make_evaluate(run, run.data)
    has_held_out = bool(run.data.eval.names)

    with run.preemption.handled():
        # 5. The loop.
        stages.begin("training")
        state, finished = _take_steps(run, state, base, compiled_step, start.checkpoints, evaluate)
        step = _close(run, state, start.checkpoints, status)
        if not finished:
            _log.info(f"{run.preemption.cause}: saved step {step}; the same command resumes.")
            return signals.SAVED

        # 6. The held-out cluster and the sample prompts, tuned and untuned, and the report.
        if not has_held_out:
            _log.info("no cluster is held out, so there is nothing to evaluate zero-shot")
        if not evaluates:
            return 0
        if not has_held_out and not prompts:
            stages.log_times()
            _print_next(run.directory)
            return 0
        stages.begin("evaluation after tuning")
        tuned = run.sharded.params_of(state, base)
        finished = _measure(run, prompts, evaluate, "tuned", tuned, step)
        del state, tuned  # frees the device memory for the other parameters
        if finished:
            stages.begin("evaluation before tuning")
            untuned = base or start.initial_parameters(run)
            finished = _measure(run, prompts, evaluate, "untuned", untuned, 0)
    status.update()  # the page shows the seconds
    stages.begin("report")
    exit_status = conclude(run.directory, finished, run.preemption.cause, has_held_out)
    stages.log_times()
    if finished:
        _print_next(run.directory)
    return exit_status


def _close(run: RunSetup, state: State, checkpoints: Checkpoints, status: RunStatus) -> int:
    """Waits for the checkpoints, records the step and the tokens; returns the step."""
    from flan_jax.training import metrics_log

    checkpoints.close()
    step = int(state["step"])
    status.update(step=step, tokens=metrics_log.total_tokens(run.directory / metrics_log.FILE))
    return step


def _print_next(directory: pathlib.Path) -> None:
    """Prints a command line to try with the run; the first process does."""
    if processes.index_and_count()[0] == 0:
        print(f"next: {_next_command(directory)}")


def conclude_again(data: RunData, directory: pathlib.Path) -> int:
    """Prints the results of a run that was finished before; returns the exit status.

    Args:
      data: of the run.
      directory: of the run.
    """
    _log.info("%s is finished, and nothing has changed since", short_path(directory))
    has_results = data.eval.names or TrainConfig().sample_prompts is not None
    status = conclude(directory, True, "", bool(data.eval.names)) if has_results else 0
    _print_next(directory)
    return status


def _next_command(directory: pathlib.Path) -> str:
    """Returns a command line to try with the run, as it can be typed here."""
    program = "flan-jax"
    if shutil.which(program) is None:
        script = pathlib.Path(sys.prefix) / "bin" / program
        program = short_path(script) if script.is_file() else "python -m flan_jax"
    return f'{program} generate {shlex.quote(shown_place(directory))} "Is a tomato a fruit?"'


def _measure(
    run: RunSetup, prompts: list[Prompt], evaluate: Evaluate, name: str, params: Any, step: int
) -> bool:
    """Evaluates a model on the held-out rows and answers the sample prompts with it.

    Args:
      run: the model, and the data.
      prompts: see `sample_prompts`.
      evaluate: see `make_evaluate`.
      name: 'tuned' or 'untuned'.
      params: its parameters, on the mesh.
      step: of its checkpoint.

    Returns:
      Whether all of it is done; False on preemption.
    """
    held_out = run.data.eval
    protocol = held_out.eval_protocol if name == "tuned" else held_out.untuned_protocol
    if held_out.names and not evaluate(name, params, step, protocol=protocol):
        return False
    if run.preemption.requested():
        return False
    answer_samples(run, prompts, name, params, step)
    return True


def _take_steps(
    run: RunSetup,
    state: State,
    base: Any,
    compiled_step: Callable[[], TrainStep],
    checkpoints: Checkpoints,
    evaluate: Evaluate,
) -> tuple[State, bool]:
    """Runs the training loop; returns the state, and whether all steps are taken.

    Raises:
      Diverged: if a loss, a gradient or a parameter is not finite.
    """
    from flan_jax.parallel import partitioning
    from flan_jax.training import loop
    from flan_jax.training.prefetch import device_batches
    from flan_jax.training.profile import Profile

    config, data, begin = run.config, run.data, int(state["step"])
    batches, steps = data.train.batches(), data.config.train_steps
    stream = device_batches(batches, partitioning.batch_sharding(run.mesh), begin, steps)
    log = _open_log(run, begin)
    params_of = functools.partial(run.sharded.params_of, base=base)
    validate = _open_validation(run, params_of)

    hooks = []
    if data.config.eval_every and data.eval.names:
        evaluate_step = _evaluate_steps(evaluate, data.eval.training_protocol, params_of)
        hooks.append(loop.every(data.config.eval_every, steps, log, evaluate_step))
    with (
        contextlib.closing(log),
        loop.divergence_explained(batches, checkpoints),
        partitioning.use_mesh(run.mesh),
        contextlib.closing(stream),
    ):
        if begin == 0 and config.initial_checkpoint_path and validate is not None:
            log.write(0, validate(0, state))
            log.restart_clock()
        return loop.train(
            state,
            run.sharded.tuning.frozen(base),
            steps,
            compiled_step,
            stream,
            checkpoints,
            config.checkpoint_every,
            log,
            Profile(run.directory / "profile", begin, steps, config.profile_steps),
            validate,
            hooks,
            run.preemption.requested,
        )


def _evaluate_steps(
    evaluate: Evaluate, protocol: Protocol, params_of: Callable[[State], Any]
) -> Callable[[int, State], bool]:
    """Returns a hook of the loop that evaluates the state of a step."""

    def evaluate_step(step: int, state: State) -> bool:
        return evaluate("tuned", params_of(state), step, protocol=protocol, while_training=True)

    return evaluate_step


def _open_log(run: RunSetup, begin: int) -> MetricsLog:
    """Returns the log of the metrics; only process 0 writes it."""
    import jax

    from flan_jax.models.flops import logits_flops, model_flops
    from flan_jax.models.hidden_loss import skips_pay
    from flan_jax.parallel.hardware import peak_flops
    from flan_jax.training.metrics_log import MetricsLog, Work

    config, is_frozen = run.data.config, not run.sharded.tuning.is_full
    lengths, of_target = config.lengths(), 0.0
    flops = model_flops(run.model.config, config.batch_size, *lengths, is_frozen)
    if config.architecture == "decoder" and skips_pay(run.model.config.vocab_size):
        of_target = logits_flops(run.model.config, is_frozen)
        flops -= config.batch_size * sum(lengths) * of_target
    return MetricsLog(
        run.directory,
        begin,
        config.train_steps,
        run.config.log_every,
        jax.process_index() == 0,
        Work(flops, peak_flops(run.mesh.devices.flat), of_target),
        _open_tracking(run, begin) if jax.process_index() == 0 else None,
    )


def _open_tracking(run: RunSetup, begin: int) -> Tracking | None:
    """Returns the tracker of the run; None without TRACKER, and where no step is left."""
    from flan_jax.training.trackers.tracking import Tracking

    if run.config.tracker is None or begin == run.data.config.train_steps:
        return None
    group = sweep_of(run.directory)
    return Tracking(run.config.tracker, run.directory, group, gin_files.settings(), begin)


def _open_validation(run: RunSetup, params_of: Callable[[State], Any]) -> Validate | None:
    """Returns the function that validates a state; None without validation rows."""
    from flan_jax.training.compile import lower_eval_step
    from flan_jax.training.validation import make_validate

    batches = run.data.train.batches("validation")
    if batches is None:
        return None
    shapes = run.data.layout.shapes(run.data.config.batch_size)
    lower = functools.partial(lower_eval_step, run.model, run.sharded, run.config, shapes)
    return make_validate(batches, run.mesh, lower, params_of)
