"""The fixture `fuzz`, and the table of counts after the run."""

from collections import Counter

import pytest
from harness import BAD, MESSAGE, RIGHT, Fuzz


@pytest.fixture
def fuzz(record_property):
    return Fuzz(record_property)


def pytest_terminal_summary(terminalreporter):
    """Prints how many inputs of each kind ended how.

    Workers of pytest-xdist hand theirs over with the reports.
    """
    kinds: dict[str, Counter] = {}
    for report in (
        *terminalreporter.stats.get("passed", ()),
        *terminalreporter.stats.get("failed", ()),
    ):
        for name, value in getattr(report, "user_properties", ()):
            if name == "fuzz" and value[0] != "harness":
                kinds.setdefault(value[0], Counter()).update(value[1])
    if not kinds:
        return
    columns = [RIGHT, MESSAGE, *BAD]
    rows = [*sorted(kinds.items()), ("all", sum(kinds.values(), Counter()))]
    terminalreporter.section("fuzzed inputs")
    terminalreporter.line(
        f"{'kind':<34}{'inputs':>8}" + "".join(f"{column:>11}" for column in columns)
    )
    for kind, counts in rows:
        terminalreporter.line(
            f"{kind:<34}{counts.total():>8}" + "".join(f"{counts[c]:>11}" for c in columns)
        )
