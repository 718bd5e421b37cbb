"""What a run says: one line of `metrics.jsonl` a step, one readable line now and then, TensorBoard
if asked for.
"""

from __future__ import annotations

import datetime
import json
import math
import pathlib
import time
from typing import Any, NamedTuple

import jax

from flan_jax.errors import Diverged, UserError
from flan_jax.storage.files import parse_json, readable, write_file

FILE = "metrics.jsonl"


class NonFinite(Diverged):
    """A number of a step, such as its loss, is not finite: `metrics` are the numbers by name.

    Attributes:
      step: which one.
    """

    def __init__(self, step: int, metrics: dict[str, float]):
        super().__init__(
            f"step {step} has {' and '.join(f'{name} {value}' for name, value in metrics.items())}"
        )
        self.step = step


class Work(NamedTuple):
    """What a step does: FLOPs of the model, and the peak of all devices together, FLOP/s; None
    where it is unknown.
    """

    flops: float
    peak: float | None

    def text(self, seconds: float) -> str:
        """How fast it was done: the share of the peak (MFU), or the rate where the peak is not
        known.
        """
        rate = self.flops / seconds
        return f"MFU {rate / self.peak:.1%}" if self.peak else f"{rate / 1e12:.3g} TFLOP/s"


class MetricsLog:
    """Collects device scalars without waiting for them, and writes them out every `every` steps.

    Args:
      directory: of the run; `metrics.jsonl` lies there.
      step: where the run begins; lines of later steps (from before a crash) are taken out.
      total: steps of the run, for the ETA.
      every: steps between two printed lines.
      tensorboard: whether to write event files too.
      enabled: False on processes that must not write; they still wait for and check the numbers.
      work: of a step.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        step: int,
        total: int,
        every: int,
        tensorboard: bool,
        enabled: bool,
        work: Work,
    ):
        self.path = directory / FILE
        self.total, self.every, self.enabled, self.work = total, every, enabled, work
        self._pending: list[tuple[int, dict[str, Any], dict[str, float]]] = []
        self._writer = (
            _tensorboard(directory, step + 1 if step else 0) if tensorboard and enabled else None
        )
        self._since = time.perf_counter()
        self._waited = 0.0
        self._untimed = 0
        if enabled:
            # a run that begins has no lines yet, not of step 0 either
            _keep_until(self.path, step or -1)

    def add(
        self,
        step: int,
        metrics: dict[str, jax.Array],
        tokens: int,
        waited: float,
        timed: bool = True,
    ) -> None:
        """Notes the metrics of a step, its non-padding tokens, and the seconds it waited for its
        batch.

        What a step took that is not `timed`, such as the first one with its compilation, is in no
        printed number.
        """
        self._pending.append((step, metrics, {"tokens": tokens}))
        self._waited += waited
        if not timed:
            self.restart_clock()
        if step % self.every == 0 or step == self.total:
            self.flush()

    def flush(self) -> None:
        """Waits for the noted steps and writes them.

        Raises:
          NonFinite: names the first step whose loss or gradient is not finite; what came before is
            written.
        """
        if not self._pending:
            return
        steps = [
            (step, {k: float(v) for k, v in jax.device_get(metrics).items()}, extra)
            for step, metrics, extra in self._pending
        ]
        self._pending = []
        now = time.perf_counter()
        elapsed, waited = now - self._since, self._waited
        self._since, self._waited = now, 0.0
        tokens = sum(extra["tokens"] for _, _, extra in steps[self._untimed :])
        rate = tokens / max(elapsed, 1e-9)
        for step, metrics, extra in steps:
            if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                raise NonFinite(
                    step, {"loss": metrics["loss"], "gradient norm": metrics["grad_norm"]}
                )
            self.write(step, {**metrics, **extra})
        last, metrics, _ = steps[-1]
        timed, self._untimed = len(steps) - self._untimed, 0
        if self.enabled:
            seconds = elapsed / max(timed, 1)
            eta = datetime.timedelta(seconds=round(seconds * (self.total - last)))
            pace = (
                f"  {rate:,.0f} tokens/s  {self.work.text(seconds)}  {seconds:.2f} s/step  "
                f"input {waited / max(elapsed, 1e-9):.1%}  ETA {eta}"
            )
            print(
                f"step {last}/{self.total}  loss {metrics['loss']:.4f}  accuracy "
                f"{metrics['accuracy']:.3f}{pace if timed else ''}",
                flush=True,
            )

    def restart_clock(self) -> None:
        """Leaves what took time since the last flush (compilation, a checkpoint) out of the next
        step time.
        """
        self._since, self._waited = time.perf_counter(), 0.0
        self._untimed = len(self._pending)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line."""
        if not self.enabled:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the event file."""
        if self._writer:
            self._writer.close()


def _keep_until(path: pathlib.Path, step: int) -> None:
    """Takes the lines of later steps out of a file of metrics, and what a crash left of its last
    line.
    """
    if path.exists():
        write_file(
            path, b"".join(line + b"\n" for number, line in read_steps(path) if number <= step)
        )


def read_steps(path: pathlib.Path) -> list[tuple[int, bytes]]:
    """Returns the (step, text) of each whole line of `metrics.jsonl`; none where there is no file.

    Raises:
      UserError: for a line that is not an object with a step; a last line without its end is what a
        crash left.
    """
    advice, steps = "take the line out, or move the file away; then run the same command again", []
    with readable(path, advice):
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        step = parse_json(line, place, advice=advice).get("step")
        if type(step) is not int:
            raise UserError(f"{place} has no step; {advice}.")
        steps.append((step, line))
    return steps


def _tensorboard(directory: pathlib.Path, step: int):
    """A writer, which takes back what a run that crashed wrote of this step and later ones."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "Train.tensorboard=True needs tensorboardX: pip install 'flan_jax[tensorboard]'."
        ) from error
    return SummaryWriter(str(directory / "tensorboard"), purge_step=step)
