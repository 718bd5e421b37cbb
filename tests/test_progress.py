"""Progress of long work: a bar on a terminal, lines in a log."""

from flan_jax import log, progress


def test_a_log_gets_a_line_now_and_then_and_no_bar(monkeypatch, capsys):
    log.configure()
    times = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.progress(7, "train rows", "shard") as update:
        for _ in range(7):
            update()
    out = capsys.readouterr().out
    assert out.endswith(" train rows: 4 of 7 shards\n") and out.count("\n") == 1 and "\r" not in out


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with progress.progress(2, "train rows", "shard") as update:
        update()
        update()
    assert "train rows: 100%" in capsys.readouterr().out
