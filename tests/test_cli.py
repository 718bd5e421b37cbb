"""`flan-jax VERB`, the command line.

Help without start-up cost, a clear message for a mistake, the same exit status both ways.
"""

import argparse
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import gin
import pytest

from flan_jax import log, signals
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.errors import Diverged, UserError


def as_process(*argv) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *argv], capture_output=True, text=True)


@pytest.fixture
def verb(monkeypatch):
    """Makes a function the verb `tasks` for one test."""

    def install(main):
        module = types.ModuleType("verb_of_a_test")
        module.main = main
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(dispatch.VERBS, "tasks", (module.__name__, "a test"))

    return install


@pytest.mark.parametrize("name", dispatch.VERBS)
def test_help_lists_verbs_that_exist(capsys, name):
    assert dispatch.main(["--help"]) == 0
    assert f"\n  {name} " in capsys.readouterr().out
    assert importlib.util.find_spec(dispatch.VERBS[name][0]), f"no module for the verb {name}"


def test_help_is_quick_and_imports_no_engine():
    code = (
        "import sys; from flan_jax.cli import dispatch; dispatch.main(['--help']); "
        "assert not {'jax', 'tensorflow', 'seqio', 'numpy', 'gin'} & set(sys.modules); "
        "import time; print(time.process_time(), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    # 0.1 CPU seconds, and 2 where jax is imported; on the clock of a busy machine it can be any
    assert float(result.stderr) < 1


def test_version(capsys):
    assert dispatch.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flan_jax 0.")


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["trian"], "unknown verb 'trian'; did you mean train?"),
        (["EVAL"], "unknown verb 'EVAL'; did you mean eval?"),
        (["zzz"], "the verbs are train, eval"),
        ([], "no verb given; write flan-jax train|eval"),
    ],
)
def test_an_unknown_verb_is_an_error_that_suggests_others(capsys, argv, expected):
    assert dispatch.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("flan-jax: error: ") and expected in error and error.count("\n") == 1


def test_arguments_and_status_reach_the_verb(verb):
    seen = []
    verb(lambda argv: seen.append(argv) or 3)
    assert dispatch.main(["tasks", "list", "--json"]) == 3
    assert seen == [["list", "--json"]]
    verb(lambda argv: None)
    assert dispatch.main(["tasks"]) == 0


def test_a_user_error_is_a_clear_message_also_through_gin(verb, capsys):
    @gin.configurable(module="test_cli")
    def fails():
        raise UserError("the mesh needs 8 devices; give --gin.MESH={'data': 1}.")

    verb(lambda argv: fails())
    assert dispatch.main(["tasks"]) == 2
    assert (
        capsys.readouterr().err
        == "flan-jax: error: the mesh needs 8 devices; give --gin.MESH={'data': 1}.\n"
    )


def test_another_error_keeps_its_traceback(verb):
    verb(lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dispatch.main(["tasks"])


@pytest.mark.parametrize("number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_sigterm_and_ctrl_c_end_a_verb_with_143_and_a_message(verb, capsys, number, name):
    before = signal.getsignal(number)

    def interrupted(argv):
        os.kill(os.getpid(), number)
        time.sleep(10)

    verb(interrupted)
    assert dispatch.main(["tasks"]) == 143
    assert capsys.readouterr().err == (
        f"flan-jax: {name}: ended; what was finished is kept, and the same command does the rest.\n"
    )
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_destructor_swallows_is_not_lost(verb, capsys, number):
    class Closes:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    def interrupted(argv):
        Closes()
        time.sleep(10)

    verb(interrupted)
    assert dispatch.main(["tasks"]) == 143
    assert "Traceback" not in capsys.readouterr().err


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_nothing():
    code = (
        "import os, signal, time; from flan_jax import signals; received = []\n"
        "with signals.handled(received.append):\n"
        "    for number in (signal.SIGTERM, signal.SIGTERM): os.kill(os.getpid(), number)\n"
        "    print(received, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("['SIGTERM']\n", -signal.SIGINT), result.stderr


def test_a_ctrl_c_that_is_ignored_from_the_start_stays_ignored_after_a_sigterm():
    received, before = [], signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.handled(received.append):
            signal.raise_signal(signal.SIGTERM)
            assert received == ["SIGTERM"] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def write_module(directory: pathlib.Path, name: str, text: str) -> None:
    (directory / f"{name}.py").write_text(f"import os, signal, time\n{text}\nIS_WHOLE = True\n")


def test_a_signal_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    write_module(tmp_path, "slow_module", "signal.raise_signal(signal.SIGTERM)\ntime.sleep(0.1)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(signals.Preempted), signals.handled(signals.preempt):
        module = importlib.import_module("slow_module")
        time.sleep(10)
    assert module.IS_WHOLE


def test_a_signal_in_the_last_import_is_not_lost(tmp_path, monkeypatch):
    write_module(tmp_path, "last_module", "signal.raise_signal(signal.SIGTERM)")
    monkeypatch.syspath_prepend(tmp_path)
    received = []
    with signals.handled(received.append):
        importlib.import_module("last_module")
    assert received == ["SIGTERM"]
    time.sleep(0.05)  # nothing follows


def test_a_signal_that_a_destructor_swallows_in_a_long_import_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_PATIENCE_S", 0.05)
    text = (
        "class Closes:\n    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGTERM)\n        time.sleep(0.3)\n"
        "Closes()\ntime.sleep(20)"
    )
    write_module(tmp_path, "swallowing_module", text)
    monkeypatch.syspath_prepend(tmp_path)
    begin = time.monotonic()
    with pytest.raises(signals.Preempted), signals.handled(signals.preempt):
        importlib.import_module("swallowing_module")
    assert time.monotonic() - begin < 10


def test_a_sigterm_after_a_ctrl_c_that_waits_saves(tmp_path):
    write_module(tmp_path, "ctrl_c_module", "signal.raise_signal(signal.SIGINT)")
    code = (
        "import signal, sys, time; sys.path.append(sys.argv[1])\n"
        "from flan_jax import signals; received = []\n"
        "with signals.handled(received.append):\n"
        "    import ctrl_c_module; signal.raise_signal(signal.SIGTERM)\n"
        "    time.sleep(0.1); print(received)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    begins = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    result = subprocess.run(command, capture_output=True, text=True, **begins)
    assert (result.stdout, result.returncode) == ("['SIGTERM']\n", 0), result.stderr


def test_a_signal_does_not_wait_for_ever_and_a_second_ctrl_c_ends_an_import(tmp_path):
    twice = "for _ in range(2):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.1)"
    write_module(tmp_path, "interrupted_twice", twice)
    once = "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(30)"
    write_module(tmp_path, "long_module", once)
    code = (
        "import importlib, sys; from flan_jax import signals; signals._PATIENCE_S = 0.2\n"
        "with signals.handled(signals.preempt): importlib.import_module(sys.argv[1])"
    )
    ends = {}
    for name in ("interrupted_twice", "long_module"):
        result = subprocess.run(
            [sys.executable, "-c", code, name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])},
            capture_output=True,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        ends[name] = result.returncode, "Preempted: SIGTERM" in result.stderr
    assert ends == {"interrupted_twice": (-signal.SIGINT, False), "long_module": (1, True)}


def test_a_diverged_run_ends_with_status_one_and_a_message(verb, capsys):
    def diverges(argv):
        raise Diverged("step 3 has loss nan")

    verb(diverges)
    assert dispatch.main(["tasks"]) == 1
    assert capsys.readouterr().err == "flan-jax: error: step 3 has loss nan\n"


def test_wrong_flags_of_a_verb_are_a_clear_error_message():
    parser = ArgumentParser(prog="flan-jax report")
    parser.add_argument("--output")
    with pytest.raises(
        UserError, match=r"^unrecognized arguments: --outptu=x; did you mean --output\?"
    ):
        parser.parse_args(["--outptu=x"])


def test_arguments_are_read_alike_by_the_argparse_of_every_python(monkeypatch):
    def in_one_pass(parser, args, namespace=None):  # as of Python 3.13.5
        return argparse.ArgumentParser.parse_known_args(parser, args, namespace)

    levels = []
    monkeypatch.setattr(log, "configure", levels.append)
    for is_new in (False, True):
        if is_new:
            name = "parse_known_intermixed_args"
            monkeypatch.setattr(argparse.ArgumentParser, name, in_one_pass)
        parser = ArgumentParser(prog="x")
        parser.add_argument("place", nargs="?")
        parser.add_argument("--profile")
        with pytest.raises(UserError, match=r"arguments: --profiel=3; did you mean --profile\?"):
            parser.parse_intermixed_args(["here", "--profiel=3"])
        read = parser.parse_intermixed_args(["--log_level=debug", "here", "--profile=3"])
        assert (read.place, read.profile) == ("here", "3") and levels[-1] == "debug"
        for text in ("- What is this?", "-5 + 3 =", "-5", "-.5", "-"):
            assert parser.parse_intermixed_args([text, "--profile=3"]).place == text
            assert parser.parse_intermixed_args(["--profile", "3", "--", text]).place == text
        with pytest.raises(UserError, match="arguments: -p$|arguments: -p "):
            parser.parse_intermixed_args(["-p", "here"])
        levels.clear()


def test_the_package_runs_as_a_module():
    help_text = as_process("flan_jax", "--help")
    assert help_text.returncode == 0 and help_text.stdout.startswith("Instruction tuning")
    wrong = as_process("flan_jax", "trian")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "flan-jax: error: unknown verb 'trian'; did you mean train?\n",
    )


def test_a_module_run_with_python_m_ends_like_the_verb(tmp_path, monkeypatch):
    (tmp_path / "one_verb.py").write_text(
        "from flan_jax.cli import dispatch\nfrom flan_jax.errors import UserError\n\n"
        "def main(argv):\n    if argv == ['bad']:\n        raise UserError('say good.')\n    "
        "return len(argv)\n\n"
        "if __name__ == '__main__':\n    dispatch.run(main)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert as_process("one_verb", "a", "b").returncode == 2
    assert as_process("one_verb").returncode == 0
    bad = as_process("one_verb", "bad")
    assert (bad.returncode, bad.stderr) == (2, "flan-jax: error: say good.\n")


def test_log_lines_of_a_verb_that_runs_as_a_module_are_shown():
    program = """
import logging
from flan_jax import log
from flan_jax.cli import dispatch

def main(argv):
    log.configure()
    logging.getLogger(__name__).info("a fact")

dispatch.run(main)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.endswith(" a fact\n") and result.returncode == 0


def test_a_verb_ends_quietly_when_the_reader_of_its_log_lines_has_gone():
    program = """
import logging, sys
from flan_jax import log
from flan_jax.cli import dispatch

def main(argv):
    log.configure()
    for number in range(100_000):
        logging.getLogger(__name__).info("line %d", number)
    print("not reached", file=sys.stderr)

dispatch.run(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
    assert (process.returncode, stderr) == (0, "")
