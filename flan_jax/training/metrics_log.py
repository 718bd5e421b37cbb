"""Metrics of a run: a line of `metrics.jsonl` a step, a log line every few steps, a tracker."""

from __future__ import annotations

import datetime
import json
import logging
import math
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax

from flan_jax.errors import Diverged, UserError
from flan_jax.log import PROGRESS
from flan_jax.storage.files import parse_json, readable, write_file
from flan_jax.training.trackers.tracking import Tracking

_log = logging.getLogger(__name__)

FILE = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 5  # on a terminal


class NonFinite(Diverged):
    """A number of a step, such as its loss, is not finite.

    Attributes:
      step: the step.
    """

    def __init__(self, step: int, metrics: dict[str, float]):
        """`metrics` are the numbers by name."""
        super().__init__(
            f"step {step} has {' and '.join(f'{name} {value}' for name, value in metrics.items())}"
        )
        self.step = step


class Work(NamedTuple):
    """What a step computes.

    Attributes:
      flops: FLOPs of the model in a step, but for what each target has.
      peak: of all devices together, FLOP/s; None if it is unknown.
      flops_of_target: FLOPs more for each position with a loss.
    """

    flops: float
    peak: float | None
    flops_of_target: float = 0.0

    def text(self, seconds: float, targets: float) -> str:
        """Returns the speed of a step: model FLOPs utilization (MFU), or FLOP/s without a peak.

        Args:
          seconds: of the step.
          targets: its positions with a loss.
        """
        rate = (self.flops + self.flops_of_target * targets) / seconds
        return f"MFU {rate / self.peak:.1%}" if self.peak else f"{rate / 1e12:.3g} TFLOP/s"


class _Pending(NamedTuple):
    """A step whose metrics may still be computed on the devices."""

    step: int
    metrics: dict[str, jax.Array]
    tokens: int


class MetricsLog:
    """Collects device scalars without waiting for them, and writes them every `every` steps."""

    def __init__(
        self,
        directory: pathlib.Path,
        step: int,
        total: int,
        every: int,
        enabled: bool,
        work: Work,
        tracking: Tracking | None = None,
    ):
        """Removes the lines of steps after `step` (from before a crash) from `metrics.jsonl`.

        Args:
          directory: of the run; `metrics.jsonl` is in it.
          step: where this start of the run begins.
          total: steps of the run, for the ETA.
          every: steps between two log lines.
          enabled: False on processes that must not write; they still wait for and check the
            metrics.
          work: of a step.
          tracking: gets what is written; None for no tracker.
        """
        self.path = directory / FILE
        self.total, self.every, self.enabled, self.work = total, every, enabled, work
        self._pending: list[_Pending] = []
        self._tracking = tracking
        self._since = time.perf_counter()
        self._waited = 0.0
        self._untimed = 0
        if enabled:
            # a run that begins has no lines yet, not of step 0 either
            _keep_until(self.path, step or -1)
        if tracking is not None:
            for number, line in read_steps(self.path):
                tracking.add(number, _numbers(json.loads(line)))

    def add(
        self,
        step: int,
        metrics: dict[str, jax.Array],
        tokens: int,
        waited: float,
        timed: bool = True,
    ) -> None:
        """Adds a step.

        Args:
          step: its number.
          metrics: device scalars.
          tokens: non-padding tokens of its batch.
          waited: seconds that the step waited for its batch.
          timed: False leaves the step out of logged speeds, such as the first one, which includes
            the compilation.

        Raises:
          NonFinite: see `flush`.
        """
        self._pending.append(_Pending(step, metrics, tokens))
        self._waited += waited
        if not timed:
            self.restart_clock()
        is_due = time.perf_counter() - self._since > _SECONDS_BETWEEN_LINES and _on_terminal()
        if step % self.every == 0 or step == self.total or is_due:
            self.flush()

    def flush(self) -> None:
        """Waits for the added steps and writes them.

        Raises:
          NonFinite: for the first step whose loss or gradient norm is not finite; the steps before
            it are written.
        """
        if not self._pending:
            return
        steps, self._pending = self._pending, []
        metrics: dict[str, float] = {}
        values = [_on_host(step.metrics) for step in steps]
        now = time.perf_counter()
        elapsed, waited = now - self._since, self._waited
        self._since, self._waited = now, 0.0
        first_timed, self._untimed = self._untimed, 0
        for (step, _, tokens), metrics in zip(steps, values):
            if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                raise NonFinite(
                    step, {"loss": metrics["loss"], "gradient norm": metrics["grad_norm"]}
                )
            self.write(step, {**metrics, "tokens": tokens})
        if self._tracking is not None:
            self._tracking.send()
        if self.enabled:
            last = steps[-1].step
            timed = slice(first_timed, None)
            targets = [step.get("targets", 0.0) for step in values[timed]]
            speed = self._speed(steps[timed], targets, elapsed, waited) if targets else ""
            _log.info(
                f"step {last}/{self.total}  loss {metrics['loss']:.4f}  accuracy "
                f"{metrics['accuracy']:.3f}{speed}",
                extra=PROGRESS if last < self.total else None,
            )

    def _speed(
        self, steps: list[_Pending], targets: list[float], elapsed: float, waited: float
    ) -> str:
        """Returns the end of a log line: the speed of steps that took `elapsed` seconds.

        Args:
          steps: with a time.
          targets: positions with a loss in each.
          elapsed: seconds.
          waited: seconds of them for batches.
        """
        seconds, left = elapsed / len(steps), self.total - steps[-1].step
        rate = sum(step.tokens for step in steps) / max(elapsed, 1e-9)
        eta = datetime.timedelta(seconds=round(seconds * left))
        work = self.work.text(seconds, sum(targets) / len(targets))
        return (
            f"  {rate:,.0f} tokens/s  {work}  {seconds:.2f} s/step  "
            f"input {waited / max(elapsed, 1e-9):.1%}  ETA {eta}"
        )

    def restart_clock(self) -> None:
        """Leaves the time since the last flush (compilation, a checkpoint) out of logged speeds."""
        self._since, self._waited = time.perf_counter(), 0.0
        self._untimed = len(self._pending)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one line."""
        if not self.enabled:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._tracking is not None:
            self._tracking.add(step, values)

    def close(self) -> None:
        """Ends the tracker, with an error if one is being handled."""
        if self._tracking is not None:
            self._tracking.finish(failed=sys.exc_info()[0] is not None)


def _on_terminal() -> bool:
    """Whether log lines of progress replace one another, so that there may be more of them."""
    return sys.stdout.isatty()


def _on_host(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _keep_until(path: pathlib.Path, step: int) -> None:
    """Removes the lines of later steps from a file of metrics, and a last line cut by a crash."""
    if path.exists():
        lines = [line + b"\n" for number, line in read_steps(path) if number <= step]
        write_file(path, b"".join(lines))


def read_steps(path: pathlib.Path) -> list[tuple[int, bytes]]:
    """Returns the (step, text) of each complete line of `metrics.jsonl`; empty without a file.

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


def total_tokens(path: pathlib.Path) -> int:
    """Returns the non-padding tokens of all steps of `metrics.jsonl`; 0 without a file.

    Raises:
      UserError: see `read_steps`.
    """
    return sum(int(json.loads(line).get("tokens", 0)) for _, line in read_steps(path))


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of `metrics.jsonl`, without its step."""
    return {name: value for name, value in line.items() if name != "step"}
