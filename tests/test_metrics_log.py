"""What a run writes about its steps, also after a crash in the middle of a line."""

import json

import jax.numpy as jnp
import pytest

import flan_jax.log
from flan_jax.errors import UserError
from flan_jax.training.metrics_log import MetricsLog, NonFinite, Work


@pytest.fixture(autouse=True)
def log_lines_on_standard_output():
    flan_jax.log.configure()


def metrics(loss: float) -> dict:
    return {"loss": jnp.float32(loss), "accuracy": jnp.float32(0.5), "grad_norm": jnp.float32(1.0)}


def log(directory, step=0) -> MetricsLog:
    return MetricsLog(directory, step, total=6, every=2, enabled=True, work=Work(1e9, None))


def test_every_step_is_written_and_every_other_line_printed(tmp_path, capsys):
    writer = log(tmp_path)
    for step in range(1, 5):
        writer.add(step, metrics(4.0 / step), tokens=100, waited=0.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"], line["tokens"]) for line in lines] == [
        (1, 4.0, 100),
        (2, 2.0, 100),
        (3, pytest.approx(4 / 3), 100),
        (4, 1.0, 100),
    ]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_untimed_step_is_in_no_logged_speed(tmp_path, capsys):
    writer = MetricsLog(tmp_path, 0, total=6, every=1, enabled=True, work=Work(1e9, None))
    writer.add(1, metrics(1.0), tokens=100, waited=0.0, timed=False)
    writer.add(2, metrics(1.0), tokens=100, waited=0.0)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(" step 1/6  loss 1.0000  accuracy 0.500")
    assert "s/step" in second and "ETA" in second


def test_the_work_of_an_untimed_step_is_in_no_logged_speed(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(
        Work, "text", lambda work, seconds, targets: counted.append(targets) or "some work"
    )
    writer = log(tmp_path)
    writer.add(1, {**metrics(1.0), "targets": jnp.float32(900)}, 100, waited=0.0, timed=False)
    writer.add(2, {**metrics(1.0), "targets": jnp.float32(30)}, 100, waited=0.0)
    assert counted == [30.0]


def test_a_restart_removes_the_lines_after_the_checkpoint(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "lo'
    )
    log(tmp_path, step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 3}\n'


@pytest.mark.parametrize(
    "line", [b"5", b"{}", b"{", b'{"step": "1"}', b'{"step": true}', b"\xff", b"[" * 9_999]
)
def test_a_damaged_line_is_an_error_that_names_it(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match="metrics.jsonl, line 2 .*take the line out"):
        log(tmp_path, step=3)


def test_a_loss_that_is_not_finite_raises_after_earlier_steps_are_written(tmp_path):
    writer = log(tmp_path)
    writer.add(1, metrics(1.0), tokens=1, waited=0.0)
    with pytest.raises(NonFinite, match="step 2 has loss nan") as error:
        writer.add(2, metrics(float("nan")), tokens=1, waited=0.0)
    assert error.value.step == 2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
