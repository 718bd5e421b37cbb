"""Evaluating checkpoints on the held-out datasets, or on any, into the results of a directory."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flan_jax.config import run_directory
from flan_jax.config.checks import check_text
from flan_jax.data.run_data import open_data
from flan_jax.errors import UserError
from flan_jax.runs.data_log import log_left_out, log_trained_on
from flan_jax.runs.directories import alone, fetch, make_directory, uploading
from flan_jax.runs.preparation import prepared
from flan_jax.runs.setup import RunSetup, check_parameters, read_parameters
from flan_jax.storage.places import place
from flan_jax.storage.working_copy import address

if TYPE_CHECKING:
    from flan_jax.data import eval_data
    from flan_jax.data.run_data import RunData
    from flan_jax.evaluation.result_rows import Setting


@dataclasses.dataclass(frozen=True)
class Request:
    """Which checkpoints are evaluated, and where their numbers go: the flags of `flan-jax eval`.

    Attributes:
      checkpoint: a run, one of its steps, or a checkpoint of another program; None: MODEL_DIR.
      adapters: instead of it, runs with PEFT or adapters of Hugging Face that tune the same base,
        with commas between them.
      step: of a run; 'best' has the lowest validation loss, None is the last.
      output: directory of the results; None: MODEL_DIR.
      name: column `model` of the results; None: 'tuned'.
    """

    checkpoint: str | None = None
    adapters: str | None = None
    step: int | str | None = None
    output: str | None = None
    name: str | None = None


class Evaluated(NamedTuple):
    """What `evaluate_checkpoints` did.

    Attributes:
      output: the directory of the results.
      finished: whether everything is evaluated; False on preemption.
      run: as it was given, with its data prepared for the prompt of one of the models.
      settings: what the numbers of each checkpoint have in common.
    """

    output: pathlib.Path
    finished: bool
    run: RunSetup
    settings: list[Setting]


def evaluate_checkpoints(run: RunSetup, request: Request, gin_arguments: list[str]) -> Evaluated:
    """Evaluates checkpoints in every template of the datasets; continues what was begun.

    What is in the output's `results.csv` already is not evaluated again.

    Args:
      run: the model on its mesh, and the data.
      request: what is evaluated.
      gin_arguments: the settings, for the preparation of the data.

    Raises:
      UserError: if there is nothing to evaluate, a checkpoint cannot be read, or its numbers could
        be confused with those of another one.
    """
    from flan_jax.evaluation.results_store import ResultsStore

    # 1. The checkpoints: mistakes are found before data are prepared.
    sources = _sources(request, run)
    if not run.data.eval.names:
        raise UserError(
            "HELD_OUT=none leaves nothing to evaluate; name datasets: "
            "--gin.EVAL_DATASETS=copa+arc_easy."
        )

    # 2. The results, and the runs that the parameters belong to.
    if request.output is None:
        output = make_directory(run.config.model_dir)
    else:
        output = make_directory(request.output, "--output")
    fetch(output, run.directory)
    results, name = ResultsStore(output), request.name or "tuned"
    results.check()
    for source in sources:
        results.check_run(_directory_of(source, run, name), name)

    # 3. Data: inputs leave room for the prompt of each model.
    lengths = {source: _prompt_length(source, run, name) for source in sources}
    runs = {length: _with_data(run, length, gin_arguments) for length in set(lengths.values())}
    run = next(iter(runs.values()))
    log_left_out(run.data)
    run.data.eval.check_rows()

    # 4. Evaluation.
    finished, bases = True, {}
    with run.preemption.handled():
        for source, step in sources.items():
            with uploading(output):
                finished = finished and _evaluate(
                    runs[lengths[source]], source, step, request.step, output, name, bases
                )
    settings = [
        _setting(run, run.data, _directory_of(source, run, name), name, step)
        for source, step in sources.items()
    ]
    return Evaluated(output, finished, run, settings)


def _sources(request: Request, run: RunSetup) -> dict[str, int]:
    """Returns the checkpoints to evaluate, each with its step.

    Raises:
      UserError: if one cannot be read, or its numbers could be confused with those of another.
    """
    if request.adapters is None:
        sources = [run.config.model_dir if request.checkpoint is None else request.checkpoint]
    else:
        sources = _adapters(request)
    for source in sources:
        _check_name(request, source, _is_of(source, run), run.directory)
    steps = {source: check_parameters(run, source, request.step) for source in sources}
    _check_distinct(steps)
    return steps


def _check_distinct(steps: dict[str, int]) -> None:
    """Checks that no two checkpoints have the same name and step in the results.

    Raises:
      UserError: if two have.
    """
    by_name: dict[tuple[str, int], str] = {}
    for source, step in steps.items():
        name = _run_of(source).name
        other = by_name.setdefault((name, step), source)
        if other != source:
            raise UserError(
                f"--adapters={other},{source}: results would have both under the name {name!r} "
                f"and step {step}; rename one of the directories, or evaluate them one by one with "
                "another --name."
            )


def _prompt_length(source: str, run: RunSetup, name: str) -> int:
    """Returns the tokens of a prompt for which the inputs of a checkpoint leave room.

    They are those of its own prompt. A whole model, such as the untuned one, reads the inputs that
    the settings give, so that it can be compared.
    """
    from flan_jax.checkpoints.tuned import prompt_length
    from flan_jax.evaluation.result_rows import UNTUNED

    length = None if name == UNTUNED else prompt_length(source)
    return run.data.config.prompt_length if length is None else length


def _with_data(run: RunSetup, length: int, gin_arguments: list[str]) -> RunSetup:
    """Returns the run with its held-out rows in the cache, for a prompt of so many tokens."""
    data = run.data
    if length != data.config.prompt_length:
        config = dataclasses.replace(data.config, prompt_length=length)
        config.example_lengths()  # raises where the prompt leaves no room
        data = open_data(config, run.model.config.vocab_size)
        prompt = ["--gin.PEFT=prompt", f"--gin.PROMPT_LENGTH={length}"]
        gin_arguments = [*gin_arguments, *(prompt if length else ["--gin.PEFT=None"])]
    return dataclasses.replace(run, data=prepared(data, gin_arguments, only="eval"))


def _adapters(request: Request) -> list[str]:
    """Returns the runs of --adapters.

    Raises:
      UserError: if there are none, or it is given beside --checkpoint.
    """
    sources = [name for name in request.adapters.split(",") if name]
    if not sources or request.checkpoint is not None:
        raise UserError(
            "--adapters takes directories with commas between them, and the place of --checkpoint; "
            "give one of the two."
        )
    return sources


def _is_of(source: str, run: RunSetup) -> bool:
    """Returns whether a checkpoint belongs to the run."""
    checkpoint = place(source, "--checkpoint")
    name = address(checkpoint) if isinstance(checkpoint, pathlib.Path) else str(checkpoint)
    return f"{name}/".startswith(f"{address(run.directory)}/")


def _directory_of(source: str, run: RunSetup, name: str) -> pathlib.Path:
    """Returns the directory of the run that a checkpoint belongs to."""
    from flan_jax.evaluation.result_rows import UNTUNED

    # The untuned model is the one that this run began with.
    if _is_of(source, run) or name == UNTUNED:
        return run.directory
    return _run_of(source)


def _run_of(source: str) -> pathlib.Path:
    """Returns the directory of the run of a checkpoint, or of its copy where it is in a bucket."""
    from flan_jax.checkpoints.located import located

    return run_directory.run_of(located(source).resolve())


def _evaluate(
    run: RunSetup,
    source: str,
    step: int,
    chosen: int | str | None,
    output: pathlib.Path,
    name: str,
    bases: dict[str, Any],
) -> bool:
    """Evaluates a checkpoint into the results; returns whether everything is evaluated.

    Args:
      run: the model, and the data.
      source: the checkpoint.
      step: its step.
      chosen: the step that was requested.
      output: directory of the results.
      name: of the model in them.
      bases: see `read_parameters`.
    """
    from flan_jax.evaluation.known_runs import run_name
    from flan_jax.evaluation.result_rows import UNTUNED
    from flan_jax.training import run_record

    directory = _directory_of(source, run, name)
    # Other models may be evaluated into the same output meanwhile.
    lock = f".eval.{run_name(directory)}.{name}.{step}.lock"
    with alone(output, lock, "flan-jax eval"):
        if name == UNTUNED:
            trained_on = run_record.trained_before(run.config.initial_checkpoint_path)
        else:
            trained_on = run_record.trained_on(directory, run.data)
        log_trained_on(run.data, trained_on)
        step, params = read_parameters(run, source, chosen, bases=bases)
        return make_evaluate(run, run.data, output, directory)(name, params, step)


def _check_name(request: Request, source: str, is_of_run: bool, directory: pathlib.Path) -> None:
    """Checks that the numbers cannot be confused with those of another model.

    Raises:
      UserError: if --name is not valid, or missing where it is needed.
    """
    from flan_jax.evaluation.result_rows import MAJORITY

    name = request.name
    if name == "":
        raise UserError("--name= is empty; give another --name.")
    if name == MAJORITY:
        raise UserError(
            f"--name={name} is the most frequent class in results; give another --name."
        )
    if name is not None:
        check_text("--name", name)
        if "/" in name or name.startswith("."):
            raise UserError(
                f"--name={name} cannot be a folder of predictions; give a --name without / and "
                "without a dot in front."
            )
    elif request.output is None and not is_of_run:
        raise UserError(
            f"--checkpoint={source} is not in MODEL_DIR {str(directory)!r}, where results have the "
            "name 'tuned'; give it another --name, or write its results elsewhere with --output."
        )


class Evaluate(Protocol):
    """Evaluates parameters on the held-out rows; see `make_evaluate`."""

    def __call__(
        self,
        name: str,
        params: Any,
        step: int,
        protocol: eval_data.Protocol | None = None,
        while_training: bool = False,
    ) -> bool:
        """Adds the numbers of a model to `results.csv`.

        Args:
          name: of the model in the results, such as 'tuned'.
          params: its parameters, on the mesh.
          step: of its checkpoint.
          protocol: how the rows are rendered, and how many; the one of the settings if None.
          while_training: whether only the numbers are written, without predictions.

        Returns:
          Whether everything is evaluated; False on preemption.
        """
        ...


def make_evaluate(
    run: RunSetup,
    data: RunData,
    output: pathlib.Path | None = None,
    run_directory: pathlib.Path | None = None,
) -> Evaluate:
    """Returns the function that evaluates on the held-out rows; it opens the results when called.

    Args:
      run: the model.
      data: the data of the run; its held-out rows are in the cache.
      output: directory of the results; None for that of the run.
      run_directory: of the run that the parameters belong to; None for that of `run`.
    """
    import jax

    from flan_jax.evaluation import evaluator, shared_baselines
    from flan_jax.evaluation.held_out import Copy, HeldOut
    from flan_jax.evaluation.known_runs import remember_run
    from flan_jax.evaluation.result_rows import UNTUNED
    from flan_jax.evaluation.results_store import ResultsStore
    from flan_jax.training import run_record

    output, run_directory = output or run.directory, run_directory or run.directory

    open_results = functools.cache(lambda: ResultsStore(output))

    def evaluate(
        name: str,
        params: Any,
        step: int,
        protocol: eval_data.Protocol | None = None,
        while_training: bool = False,
    ) -> bool:
        if jax.process_index() == 0:
            trained_on = run_record.trained_on(run_directory, data)
            remember_run(output, run_directory, trained_on, data.config.source)
        results, protocol = open_results(), protocol or data.eval.eval_protocol
        # In the loop the step itself has just checked.
        if not while_training and run.preemption.requested():
            return False
        setting = _setting(run, data, run_directory, name, step, protocol)

        def make(results: ResultsStore, setting: Setting, copy: Copy | None = None) -> HeldOut:
            return HeldOut(
                *(data, run.model, run.mesh, results, setting, protocol, while_training, copy)
            )

        stop, baselines = run.preemption.requested, run.config.baselines_dir
        if name == UNTUNED and baselines and not while_training:
            shared, split = place(baselines, "Train.baselines_dir"), data.config.eval_split
            return shared_baselines.evaluate(
                make, params, step, results, setting, shared, split, stop
            )
        return evaluator.evaluate(make(results, setting), params, step, results, stop)

    return evaluate


def _setting(
    run: RunSetup,
    data: RunData,
    run_directory: pathlib.Path,
    name: str,
    step: int,
    protocol: eval_data.Protocol | None = None,
) -> Setting:
    """Returns what the results of one model have in common; `protocol` as in `Evaluate`."""
    from flan_jax.evaluation.known_runs import run_name
    from flan_jax.evaluation.result_rows import Setting

    return Setting(
        run=run_name(run_directory),
        step=step,
        model=name,
        size=run.config.size,
        shots=data.config.eval_shots,
        instruction_mode=instruction_mode(data, protocol or data.eval.eval_protocol),
    )


def instruction_mode(data: RunData, protocol: eval_data.Protocol) -> str:
    """Returns a protocol as results name it: 'template', 'none, options lettered, chat template'.

    Args:
      data: of the run.
      protocol: how its held-out rows are written.
    """
    from flan_jax.evaluation.result_rows import CHAT

    style = data.config.eval_options_style
    parts = [protocol.instructions, *([] if style == "fixed" else [f"options {style}"])]
    return ", ".join([*parts, *([CHAT] if data.is_chat else [])])
