"""What a person sees on a terminal: one line of progress, stages with times, a short mixture."""

import io
import logging

from flan_jax import log
from flan_jax.catalogue.mixture_card import CardRow
from flan_jax.runs import data_log
from flan_jax.runs.stages import Stages, clock_text

LOGGER = logging.getLogger("flan_jax.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(monkeypatch, stream: io.StringIO) -> str:
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "40")
    log.configure()
    LOGGER.info("step 1 " + "x" * 60, extra=log.PROGRESS)
    LOGGER.info("step 2", extra=log.PROGRESS)
    LOGGER.info("done")
    return stream.getvalue()


def test_progress_is_one_line_on_a_terminal_and_lines_elsewhere(monkeypatch):
    lines = written(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) == 3 and "\r" not in "".join(lines)
    first, second, last = written(monkeypatch, Terminal()).removesuffix("\n").split("\r\x1b[K")[1:]
    assert len(first) == 39 and second.endswith("step 2") and last.endswith("done")


def test_stages_have_headings_and_times(capsys, monkeypatch):
    times = iter([100.0, 161.4, 170.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    log.configure()
    stages = Stages(next(times))
    stages.begin("training")
    stages.log_times()
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith(" --- training ---")
    assert last.endswith(" times: start 1:01, training 0:09; total 1:10")
    assert clock_text(3723) == "1:02:03"


def test_a_mixture_of_many_datasets_is_shown_by_cluster(capsys):
    log.configure()
    card = [
        CardRow(f"set{i}", "nli" if i % 3 else "misc", 10, 30, 12, 12, 1 / 30) for i in range(30)
    ]
    data_log._log_card(card)
    shown = capsys.readouterr().out
    assert "set7" not in shown and "nli            20   240  66.67%" in shown
    log.configure("debug")
    data_log._log_card(card)
    assert "set7" in capsys.readouterr().out
    log.configure()
    data_log._log_card(card[:20])
    assert "set7" in capsys.readouterr().out
