"""Small files and what messages show of them.

Damaged JSON, control characters, and locks between processes.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from flan_jax.errors import UserError
from flan_jax.messages import escaped, listed, nearest, shown
from flan_jax.storage.files import read_json, write_file
from flan_jax.storage.locks import locked
from flan_jax.storage.paths import local_path


@pytest.mark.parametrize(
    "contents, reason",
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "an object was expected"),
        (b"null", "an object was expected, not null"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "4300 digits"),
    ],
)
def test_damaged_json_is_a_message_that_names_the_file(tmp_path, contents, reason):
    path = tmp_path / "runs.json"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=reason) as raised:
        read_json(path, advice="delete it")
    assert str(path) in str(raised.value) and "delete it" in str(raised.value)


def test_json_of_the_right_type_is_read_with_a_byte_order_mark_too(tmp_path):
    write_file(tmp_path / "a.json", "\ufeff" + json.dumps({"a": [1]}))
    assert read_json(tmp_path / "a.json") == {"a": [1]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "name", ["gs://bucket/run", "gs:/bucket/run", "s3://b/x", "hf://datasets/a/b", "HTTPS://a/b"]
)
def test_a_url_is_not_taken_for_a_local_directory(name):
    with pytest.raises(UserError, match=re.escape(f"CACHE_DIR {name} is a URL")):
        local_path(name, "CACHE_DIR")


def test_local_paths_are_taken_as_they_are():
    for name in ("a:b/c", "runs/gs:/x", "./gs://x", "C:/x", "/a b/ü"):
        assert local_path(name, "--output") == pathlib.Path(name)
    assert local_path("~/x", "--output") == pathlib.Path.home() / "x"
    assert local_path(pathlib.Path("/x"), "--output") == pathlib.Path("/x")
    with pytest.raises(UserError, match="give the path alone: /a/b"):
        local_path("file:///a/b", "--output")
    for name in ("", "a\0b", "~no_such_user_here/x"):
        with pytest.raises(UserError, match="--output"):
            local_path(name, "--output")


def test_messages_escape_what_a_terminal_obeys_and_keep_what_people_write():
    assert escaped("a\x1b[2Jb\x00\udc80\u202e") == "a\\x1b[2Jb\\x00\\udc80\\u202e"
    assert escaped("naïve 👩\u200d🔬\nπ\t") == "naïve 👩\u200d🔬\nπ\t"
    assert len(shown("x" * 10_000)) < 220
    assert listed(range(1_000), most=2) == "0, 1 and 998 more"
    assert nearest("NLI", ["nli", "misc"]) == "nli"


def test_a_lock_names_its_holder_and_ends_with_it_also_on_kill(tmp_path):
    path = tmp_path / "lock.json"
    code = (
        f"import pathlib, time; from flan_jax.storage.locks import locked\n"
        f"with locked(pathlib.Path({str(path)!r}), 'train'):\n    print('held', flush=True); "
        f"time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=rf"in use by train \(process {holder.pid} on host"),
        locked(path, "eval"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(path, "eval") as held:
        assert held
