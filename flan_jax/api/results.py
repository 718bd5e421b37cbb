"""`evaluate` measures a model on datasets, as `flan-jax eval` does; `Results` has the numbers."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flan_jax.api.arguments import checked_step, checked_texts
from flan_jax.api.loaded import Model, absolute_name
from flan_jax.api.settings import Configuration
from flan_jax.api.tuning_runs import Run
from flan_jax.config import run_directory
from flan_jax.errors import UserError
from flan_jax.evaluation.result_rows import MAJORITY, UNTUNED, ResultRow, Setting
from flan_jax.storage.copies import name_of, origin
from flan_jax.storage.paths import short_path

if TYPE_CHECKING:
    import pandas

    from flan_jax.data.run_data import RunData


def evaluate(
    run: Run | Model | str | os.PathLike,
    datasets: Sequence[str] | None = None,
    *,
    step: int | str | None = None,
    output: str | os.PathLike | None = None,
    name: str | None = None,
    **settings: Any,
) -> Results:
    """Evaluates a model on datasets in all their templates, and returns the numbers.

    They are those of `flan-jax eval`, in `results.csv` with `predictions/` beside it. What is there
    already is not evaluated again. `flan-jax report DIR` draws the figures.

    Args:
      run: what `train` returned, the directory of a run, or a model of `load`.
      datasets: names of `flan-jax tasks list`; None: those that the run holds out.
      step: of a run: the number of a checkpoint, or 'best'; None: the last.
      output: the directory of the results; None: that of the run.
      name: column `model` of the results; None: 'tuned'.
      **settings: others of docs/settings.md by their names in lower case, such as `eval_rows` (at
        most so many rows of each dataset), `eval_templates`, `shots` or `eval_split`.

    Raises:
      UserError: if a dataset does not exist or is not available, the checkpoint cannot be read, or
        its numbers would take the place of those of another one.
    """
    from flan_jax.runs.evaluating import Request, evaluate_checkpoints
    from flan_jax.runs.setup import open_run

    configuration, checkpoint, of_run = _source(run)
    if not of_run and output is None:
        raise UserError(
            "a model that is not a run has no directory for its results; give output=DIR."
        )
    given = {}
    if datasets is not None:
        given["eval_datasets"] = "+".join(checked_texts("datasets", datasets, "a dataset"))
    configuration = configuration.with_settings("evaluate", settings, given)
    request = Request(
        checkpoint,
        step=checked_step(step),
        output=None if output is None else os.fspath(output),
        name=name,
    )
    if isinstance(run, Model):
        run.release()
    with configuration.applied() as arguments:
        setup = open_run()
        if not setup.data.eval.names:
            raise UserError("the run holds nothing out; name datasets: datasets=['rte', 'copa'].")
        evaluated = evaluate_checkpoints(setup, request, arguments)
        data, (setting,) = evaluated.run.data, evaluated.settings
        selection = Selection(setting, data.config.eval_split, _templates(data))
    return Results(evaluated.output, data.eval.names, evaluated.finished, selection)


def _source(
    run: Run | Model | str | os.PathLike,
) -> tuple[Configuration, str | None, bool]:
    """The settings of what is evaluated, its checkpoint (None: the last), whether it is a run's.

    Raises:
      UserError: if it is neither a run nor a model with a checkpoint.
    """
    if isinstance(run, Model):
        if run.checkpoint is None:
            raise UserError(f"{run.name} has random parameters, and no checkpoint to evaluate.")
        return run.configuration, run.checkpoint, run_directory.config_of(run.name) is not None
    place = absolute_name(run)
    config = run_directory.config_of(place)
    if config is None:
        raise UserError(
            f"{os.fspath(run)!r} is not the directory of a run; give a run, or a model of "
            "flan_jax.load."
        )
    is_whole = name_of(config.parent) == place
    return Configuration((str(origin(config) or config),)), None if is_whole else place, True


def _templates(data: RunData) -> set[tuple[str, str, str]]:
    """Instruction mode, dataset and template of what the settings evaluate, tuned and untuned."""
    from flan_jax.runs.evaluating import instruction_mode

    return {
        (instruction_mode(data, protocol), dataset.name, template.id)
        for protocol in (data.eval.eval_protocol, data.eval.untuned_protocol)
        for dataset, template in data.eval.jobs(protocol)
    }


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which rows of results are of one evaluation, beside those of other calls.

    Attributes:
      setting: what the numbers of the model have in common.
      split: that is evaluated.
      templates: (instruction mode, dataset, template) of what is evaluated.
    """

    setting: Setting
    split: str
    templates: set[tuple[str, str, str]]

    def of(self, rows: Sequence[ResultRow]) -> list[ResultRow]:
        """Returns the rows of the model, and of its baselines those of the same examples."""
        of_run = [row for row in rows if (row.run, row.split) == (self.setting.run, self.split)]
        counts = {(row.dataset, row.n) for row in of_run if self._is_own(row)}
        return [
            row
            for row in of_run
            if (row.dataset, row.n) in counts and (self._is_own(row) or self._is_baseline(row))
        ]

    def _is_own(self, row: ResultRow) -> bool:
        columns = {name: getattr(row, name) for name in vars(self.setting)}
        return columns == vars(self.setting) and self._has_template(row)

    def _is_baseline(self, row: ResultRow) -> bool:
        if row.model != UNTUNED:
            return row.model == MAJORITY
        is_other = self.setting.model != UNTUNED
        return is_other and row.shots == self.setting.shots and self._has_template(row)

    def _has_template(self, row: ResultRow) -> bool:
        return (row.instruction_mode, row.dataset, row.template) in self.templates


class Results:
    """Numbers of an evaluation; `evaluate` returns it.

    Attributes:
      directory: where `results.csv` is.
      datasets: what was evaluated.
      finished: whether everything is evaluated; False after an interruption: the same call does the
        rest.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        datasets: Sequence[str],
        finished: bool,
        selection: Selection,
    ):
        self.directory, self.datasets, self.finished = directory, list(datasets), finished
        self._selection = selection

    def __repr__(self) -> str:
        return f"<Results of {', '.join(self.datasets)} in {short_path(self.directory)}>"

    def _repr_markdown_(self) -> str:
        return self.report()

    def rows(self) -> list[dict[str, Any]]:
        """Returns the lines of `results.csv` that the call evaluated, one number each.

        Beside them are those of the same rows of the majority class and of the untuned model, if
        the run has evaluated it.

        The columns: run, step, model ('tuned', 'untuned' or 'majority'), size, cluster, dataset,
        split, template, kind, shots, instruction_mode, scoring, metric, value and stderr (percent;
        None below two rows) and n, the rows evaluated.
        """
        return [dataclasses.asdict(row) for row in self._rows()]

    def table(self) -> pandas.DataFrame:
        """Returns the same as a table of pandas.

        Raises:
          UserError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "table() needs pandas: pip install pandas; rows() has the same numbers."
            ) from error
        from flan_jax.evaluation.result_rows import COLUMNS

        return pandas.DataFrame(self.rows(), columns=list(COLUMNS))

    def report(self) -> str:
        """Returns the tables of `flan-jax report` as Markdown: means over templates, with errors.

        Raises:
          UserError: if no row was evaluated.
        """
        from flan_jax.evaluation.known_runs import known_runs
        from flan_jax.evaluation.results_store import RESULTS
        from flan_jax.report.comparisons import compare
        from flan_jax.report.inputs import read_rows
        from flan_jax.report.table import table

        rows = self._rows()
        if not rows:
            raise UserError(f"no row of {', '.join(self.datasets)} was evaluated.")
        inputs = read_rows([self.directory / RESULTS])
        run = known_runs(self.directory).get(rows[0].run, {})
        sources = filter(None, [run.get("source")])
        return table(compare(rows, inputs.measures), run.get("trained_on", ()), set(sources))

    def _rows(self) -> list[ResultRow]:
        from flan_jax.evaluation.results_store import ResultsStore

        return self._selection.of(ResultsStore(self.directory).rows())
