"""MODEL: the checkpoint of a model sets its architecture, size, vocabulary and parameters at once.

A setting that is given beside it wins, and is checked when the parameters are read.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flan_jax.config.gin_macros import expands
from flan_jax.config.gin_parsing import Delegate
from flan_jax.config.run_directory import HUB, PACKAGE
from flan_jax.data.special_tokens import TOKENIZER_CONFIG
from flan_jax.data.vocabulary import VOCABULARY_FILES
from flan_jax.errors import UserError
from flan_jax.storage.copies import name_of
from flan_jax.storage.files import read_json, write_file
from flan_jax.storage.hashing import digest
from flan_jax.storage.mirror import DEFAULT_CACHE
from flan_jax.storage.paths import local_path

if TYPE_CHECKING:
    from flan_jax.checkpoints.reader import CheckpointReader

# As a gin file has it: the check of the settings refuses it unless another value follows.
_REQUIRED = Delegate().macro("gin.REQUIRED")

_log = logging.getLogger(__name__)


@expands("MODEL")
def settings_of(name: Any) -> dict[str, Any]:
    """Returns the settings of a model, by their names in gin; reads no parameters.

    VOCABULARY is `%gin.REQUIRED` where the checkpoint has no tokenizer.

    Args:
      name: MODEL: a checkpoint of any format, a run, `hf:org/name[@revision]` or
        `pip:NAME==VERSION`.

    Raises:
      UserError: if there is no such model, or one that is not supported.
    """
    # Without MODEL none of this is needed, nor imported.
    from flan_jax.checkpoints.hub_models import local_checkpoint
    from flan_jax.checkpoints.tuned import open_described

    if not isinstance(name, str):
        raise UserError(
            "MODEL must be the path of a checkpoint, hf:org/name or pip:NAME==VERSION, not "
            f"{name!r}; None for none."
        )
    path = local_checkpoint(name, "MODEL").absolute()
    checkpoint = open_described(path)
    vocabulary = _vocabulary_of(checkpoint)
    return {
        **_fields(checkpoint.config),
        "Train.embedding_rows": checkpoint.config.vocab_size,
        "ARCHITECTURE": checkpoint.architecture,
        "SIZE": _size_of(path if name.startswith(PACKAGE) else name),
        "VOCABULARY": _REQUIRED if vocabulary is None else vocabulary,
        "INITIAL_CHECKPOINT_PATH": name_of(path),
    }


def vocabulary_of(name: str, setting: str) -> str:
    """Returns the VOCABULARY of a model, as MODEL sets it; reads no parameters.

    Args:
      name: as MODEL.
      setting: or flag that gives it, for messages.

    Raises:
      UserError: if there is no such model, or it has no tokenizer that is supported.
    """
    from flan_jax.checkpoints.hub_models import local_checkpoint
    from flan_jax.checkpoints.tuned import open_described

    vocabulary = _vocabulary_of(open_described(local_checkpoint(name, setting).absolute()))
    if vocabulary is None:
        raise UserError(f"{setting} {name!r} has no tokenizer; give its file with --vocabulary.")
    return vocabulary


def _fields(config: Any) -> dict[str, Any]:
    """What a model computes: every field, since gin/flan.gin sets some of another size."""
    from flan_jax.models.architectures import architecture_of, model_fields

    settings = {}
    for field in model_fields(architecture_of(config)):
        value = getattr(config, field)
        value = dict(value) if isinstance(value, Mapping) else value
        # Batches need this one, too.
        is_start = field == "decoder_start_id"
        settings["DECODER_START_ID" if is_start else f"{type(config).__name__}.{field}"] = value
    return settings


def _size_of(name: str | pathlib.Path) -> str:
    """The name of the model in results: that of its repository, directory or file."""
    name = str(name)
    path = pathlib.Path(name.partition("@")[0] if name.startswith(HUB) else name)
    path = path.expanduser().absolute()
    return path.stem if path.suffix == ".gguf" else path.name


def _vocabulary_of(checkpoint: CheckpointReader) -> str | None:
    """VOCABULARY of a checkpoint; None where it has no tokenizer that is supported."""
    from flan_jax.checkpoints.formats.gguf import is_gguf
    from flan_jax.checkpoints.model_gin import file_beside, read_macros

    if is_gguf(checkpoint.path):
        return _extracted(checkpoint.path)
    gin_file = file_beside(checkpoint.path)
    directories = [checkpoint.path, gin_file and gin_file.parent, checkpoint.base]
    for directory in filter(None, directories):
        if _is_bytes(directory):
            return "bytes"
        for name in VOCABULARY_FILES:
            if (directory / name).is_file():
                return name_of(directory / name)
    return read_macros(gin_file).get("VOCABULARY") if gin_file else None


def _is_bytes(directory: pathlib.Path) -> bool:
    """Whether the tokenizer in a directory is ByT5's, which has no vocabulary file."""
    file = directory / TOKENIZER_CONFIG
    return file.is_file() and read_json(file).get("tokenizer_class") == "ByT5Tokenizer"


def _extracted(path: pathlib.Path) -> str | None:
    """Writes the tokenizer of a GGUF file to the cache; returns its tokenizer.json."""
    from flan_jax.checkpoints.formats.gguf_tokenizer import tokenizer_of

    files, note = tokenizer_of(path)
    if not files:
        _log.warning("%s: %s", path, note)
        return None
    contents = {name: text.decode() for name, text in files.items()}
    directory = local_path(DEFAULT_CACHE, "the cache") / "tokenizers" / digest(contents)
    # The vocabulary comes last: it is what says that the others are there.
    for name in sorted(files, key=lambda name: name in VOCABULARY_FILES):
        if not (directory / name).is_file():
            directory.mkdir(parents=True, exist_ok=True)
            write_file(directory / name, files[name])
    return str(directory / "tokenizer.json")
