"""Datasets of the Hugging Face hub as files: `hf:org/name`, or `hf:org/name/config`.

They are the parquet files that the hub makes of every dataset (`refs/convert/parquet`), in
`<hub directory>/<org>/<name>/<config>/<split>/`: downloaded once, or put there by hand.
"""

from __future__ import annotations

import os
import pathlib
import re

from flan_jax.data.sources.hub import DEFAULT_DIRECTORY, REVISION, offline
from flan_jax.errors import UserError
from flan_jax.messages import first_line, shown
from flan_jax.storage.paths import local_path

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?")
_CONFIG = "default"


def hub_directory() -> pathlib.Path:
    """Returns where the datasets of the hub are kept."""
    return local_path(DEFAULT_DIRECTORY, "the directory of the hub's datasets")


def directory_of(name: str) -> pathlib.Path:
    """Returns the directory of the files of a dataset; downloads them if they are not on disk.

    Args:
      name: 'org/name', or 'org/name/config' where the dataset has several configurations.

    Raises:
      UserError: for another form of name, or if there are no files and none can be downloaded; it
        has the command that downloads them by hand.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(
            f"hf:{shown(name)} is not the name of a dataset on the hub, such as hf:org/name or "
            "hf:org/name/config."
        )
    repository, config = match[1], match[2] or _CONFIG
    directory = hub_directory() / repository / config
    if not directory.is_dir():
        _download(repository, config, directory)
    return directory


def _download(repository: str, config: str, directory: pathlib.Path) -> None:
    # A configuration is renamed to its place when it is complete, so that a part is never read.
    unfinished = hub_directory() / "unfinished" / repository
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(
            _by_hand(
                repository, config, "needs the package huggingface_hub, which is not installed"
            )
        ) from None
    try:
        reason = offline()
        if reason is None:
            huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=REVISION,
                allow_patterns=[f"{config}/*"],
                local_dir=unfinished,
            )
            reason = f"has no configuration {config!r} among the parquet files that the hub made"
    # The HTTP client can raise anything; the user needs the reason.
    except Exception as error:
        reason = f"is not downloaded ({shown(first_line(error))})"
    if not (unfinished / config).is_dir():
        raise UserError(_by_hand(repository, config, reason))
    directory.parent.mkdir(parents=True, exist_ok=True)
    os.replace(unfinished / config, directory)


def _by_hand(repository: str, config: str, reason: str) -> str:
    return (
        f"hf:{repository}/{config} {reason}; `hf download {repository} --repo-type=dataset "
        f"--revision={REVISION} --local-dir={hub_directory() / repository}` downloads it where the "
        "hub can be reached, and the directory is read from then on."
    )
