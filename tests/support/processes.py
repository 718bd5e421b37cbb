"""Whether a program that a test started ended as it should, and what it said last if not."""

import subprocess

_LAST = 4000  # characters: the whole output of a run hides its last words


def ended_well(result: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """Gives `result` of a program that must have ended with status 0."""
    assert result.returncode == 0, output_tail(result)
    return result


def output_tail(result: subprocess.CompletedProcess) -> str:
    """Its status, and the end of what it printed."""
    return (
        f"status {result.returncode}; ... "
        f"{((result.stdout or '') + (result.stderr or ''))[-_LAST:]}"
    )
