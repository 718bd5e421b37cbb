"""Runs a reader on damaged inputs and counts how it ends.

An input ends well in the right result or in a clear message (a `UserError`, or exit status 2 of a
verb). It ends badly in a traceback, in more than 10 seconds, in more than 1 GB, or in another
result in silence. That last one means: what was damaged is accepted and the result differs,
although the format has a checksum or a rule that the damage breaks. Where it has none (numbers
inside the tensors of a safetensors file, a setting of config.json that was replaced by another
valid one), a check returns True for any result.

    def test_something(fuzz):
        fuzz("something", damaged_bytes(DATA), check, 100)      # check(damaged) -> whether the
        result is right

FUZZ_EXAMPLES=N gives N inputs to each kind whatever its test says. `pytest tests/fuzz` prints the
counts.
"""

import contextlib
import faulthandler
import io
import os
import resource
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from flan_jax.errors import UserError

SECONDS = 10
MOST_BYTES = 2**30
LONGEST_MESSAGE = 8_000
RIGHT, MESSAGE = "right", "message"
TRACEBACK, HANG, SILENT, TOO_LARGE = "traceback", "hang", "silent", "too large"
BAD = (TRACEBACK, HANG, SILENT, TOO_LARGE)


class _TooLong(BaseException):
    """Not an Exception: what is under test may not catch it."""


def end_of(check: Callable[[], bool]) -> tuple[str, str]:
    """Returns how a check ends, one of the constants above, and the reason."""
    try:
        with (
            _time_limit(),
            _memory_limit(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as said,
        ):
            try:
                right = check()
            except SystemExit as error:
                return _end_of_status(error.code, said.getvalue())
        return (RIGHT, "") if right else (SILENT, "another result")
    except UserError as error:
        if any(isinstance(cause, MemoryError) for cause in _causes(error)):
            return TOO_LARGE, str(error)
        return _end_of_message(str(error))
    except MemoryError as error:
        return TOO_LARGE, repr(error)
    except _TooLong:
        return HANG, f"longer than {SECONDS} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        return (
            TRACEBACK,
            f"{type(error).__name__}: {str(error)[:200]} ({place.tb_frame.f_code.co_filename}:"
            f"{place.tb_lineno})",
        )


def _end_of_status(status: Any, said: str) -> tuple[str, str]:
    if status == 2:
        return _end_of_message(said)
    return (
        (RIGHT, "") if status in (0, None) else (TRACEBACK, f"exit status {status}: {said[:200]}")
    )


def _end_of_message(text: str) -> tuple[str, str]:
    """A message is short, and has no character that a terminal obeys."""
    if (
        not text.strip()
        or len(text) > LONGEST_MESSAGE
        or any(ord(c) < 32 and c not in "\n\t" for c in text)
    ):
        return TRACEBACK, f"a message of {len(text)} characters: {text[:200]!r}"
    return MESSAGE, text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Ends Python code after SECONDS of work, or six times as long on the clock.

    Other processes use the cores, too.

    A call into C that never returns ends the process with a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_):
        raise _TooLong

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, 6 * SECONDS),
    }
    before = {number: signal.signal(number, late) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    faulthandler.dump_traceback_later(12 * SECONDS, exit=True)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """Lets the address space grow by MOST_BYTES, on Linux.

    What allocates more gets a MemoryError.
    """
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _described(case: Any) -> str:
    """What was done to an input: its `what`, or those of its parts."""
    if type(case) is tuple:
        return ", ".join(map(_described, case))
    try:
        return str(getattr(case, "what", case))
    except (RecursionError, ValueError):  # also whole numbers of thousands of digits
        return f"a nested {type(case).__name__}"


class _Unprinted:
    """An input as Hypothesis sees it, which writes down each one.

    Deeply nested values cannot be.
    """

    def __init__(self, case: Any):
        self.case = case

    def __repr__(self) -> str:
        return "an input"


class Fuzz:
    """The fixture `fuzz`.

    Called with a kind's name, a strategy of inputs and a check of one input.
    """

    def __init__(self, record_property: Callable[[str, Any], None]):
        self._record = record_property

    def __call__(self, kind: str, inputs, check: Callable[[Any], bool], examples: int) -> Counter:
        """Runs `check` on `examples` inputs, the same ones each time.

        Args:
          kind: what the counts are printed under.
          inputs: a strategy of Hypothesis.
          check: returns whether the result for an input is right; raises what the reader raises.
          examples: how many inputs, unless FUZZ_EXAMPLES says another number.

        Raises:
          pytest.fail.Exception: if any input ends badly; it shows the first ten.
        """
        counts, bad = Counter(), []

        @hypothesis.settings(
            max_examples=int(os.environ.get("FUZZ_EXAMPLES", examples)),
            derandomize=True,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(inputs.map(_Unprinted))
        def each(unprinted):
            case = unprinted.case
            end, reason = end_of(lambda: check(case))
            counts[end] += 1
            if end in BAD:
                bad.append(f"{end}: {_described(case):.300}: {reason}")

        each()
        self._record("fuzz", [kind, dict(counts)])
        if bad:
            pytest.fail(
                f"{kind}: {len(bad)} of {counts.total()} inputs end badly: {dict(counts)}\n"
                + "\n".join(bad[:10]),
                pytrace=False,
            )
        return counts


def shares(quick: int, full: int):
    """Decorates a test with a parameter `examples`.

    Few in the quick suite, all of them in a test marked slow.
    """
    return pytest.mark.parametrize(
        "examples",
        [pytest.param(quick, id="quick"), pytest.param(full, id="all", marks=pytest.mark.slow)],
    )
