"""Converting a checkpoint: reading it, and writing it in another format with its tokenizer."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flan_jax.checkpoints import model_gin, provenance, tuned_export
from flan_jax.checkpoints.check import check_tensors
from flan_jax.checkpoints.formats import (
    gguf_tokenizer,
    huggingface,
    ours,
    t5x,
    tokenizer_export,
)
from flan_jax.checkpoints.formats.safetensors_files import SHARD_BYTES
from flan_jax.checkpoints.formats.tokenizer_files import read_tokenizer_files
from flan_jax.checkpoints.open import detect_format
from flan_jax.checkpoints.reader import DTYPES, CheckpointReader
from flan_jax.checkpoints.tuned import Tuned, config_of, open_tuned, open_whole
from flan_jax.data.special_tokens import GENERATION_CONFIG, TOKENIZER_CONFIG
from flan_jax.data.vocabulary import (
    VOCABULARY_FILES,
    Vocabulary,
    load_vocabulary,
    vocabulary_path,
)
from flan_jax.errors import UserError
from flan_jax.messages import escaped, renamed, shown
from flan_jax.models.shapes import parameter_shapes
from flan_jax.progress import progress
from flan_jax.report import model_card
from flan_jax.storage.files import parse_json, readable
from flan_jax.storage.output_directory import output_directory
from flan_jax.storage.places import Place

BYTES = "bytes"
# A file is in memory while it is uploaded.
_BUCKET_SHARD_BYTES = 10**9


class Output(NamedTuple):
    """What is written.

    Attributes:
      path: the directory that the user gave.
      directory: the hidden one that becomes `path` when everything is written.
      dtype: of the parameters; None keeps theirs.
      vocabulary: 'bytes', the name of a tokenizer's file, or None where none is known.
      progress: called with the name of each parameter that is written.
    """

    path: Place
    directory: pathlib.Path
    dtype: np.dtype | None
    vocabulary: str | None
    progress: Callable[[str], None]

    @property
    def name(self) -> str:
        """The name of the output's directory."""
        path = self.path
        return path.absolute().name if isinstance(path, pathlib.Path) else path.name or path.bucket


def convert(flags: argparse.Namespace, started: float) -> None:
    """Converts a checkpoint, one tensor at a time; prints what was written.

    Args:
      flags: of `flan-jax convert`, with `input` and `output` as paths and `format` as its files
        show it.
      started: `time.perf_counter()` at the start.

    Raises:
      UserError: for a checkpoint that cannot be used.
    """
    dtype = DTYPES[flags.dtype] if flags.dtype else None
    tuned = _open_unmerged(flags) if flags.to == "peft" or flags.unmerged else None
    if tuned is None:
        base = flags.base if flags.format == "peft" else None
        checkpoint = open_whole(flags.input, flags.step, flags.format, base, dtype)
        _check_complete(checkpoint)
    else:
        checkpoint = tuned.checkpoint
    _select_optimizer(checkpoint, flags)
    checkpoint.tokenizer, vocabulary = _find_tokenizer(checkpoint, flags.format, flags.tokenizer)
    write = _writer(flags, tuned)
    with (
        output_directory(flags.output, "--output", _is_telling) as directory,
        progress(len(checkpoint.tensors), "converting", "array") as update,
    ):
        for name, contents in checkpoint.tokenizer.items():
            (directory / name).write_bytes(contents)
        output = Output(flags.output, directory, dtype, vocabulary, lambda _: update())
        write(checkpoint, output)
    what = "a" if tuned is None else "what was trained of a"
    _print_result(checkpoint, what, flags.output, time.perf_counter() - started)


def _open_unmerged(flags: argparse.Namespace) -> Tuned:
    """What was trained of a model, with its configuration."""
    tuned = open_tuned(flags.input, flags.step, flags.base if flags.format == "peft" else None)
    if tuned is None:
        raise UserError(
            f"{flags.input} has all parameters of its model, and no adapter; give --to=hf, t5x or "
            "flan without --unmerged."
        )
    tuned.checkpoint.config = tuned.base.config = config_of(tuned)
    tuned.checkpoint.slots = None
    return tuned


def _writer(
    flags: argparse.Namespace, tuned: Tuned | None
) -> Callable[[CheckpointReader, Output], None]:
    if tuned is None:
        return {"hf": _write_huggingface, "t5x": _write_t5x, "flan": _write_ours}[flags.to]
    if flags.to == "peft":
        return functools.partial(_write_peft, tuned, flags.base)
    return functools.partial(_write_unmerged, tuned)


def _check_complete(checkpoint: CheckpointReader) -> None:
    """Raises a UserError unless the checkpoint has all tensors of its model, and no others."""
    check_tensors(
        checkpoint.shapes,
        parameter_shapes(checkpoint.config),
        checkpoint.path,
        "the config is that of its gin file; put the right config.gin or model.gin beside it:",
        list_all=True,
    )


def _select_optimizer(checkpoint: CheckpointReader, flags: argparse.Namespace) -> None:
    """Keeps the optimizer's slots only with --with_optimizer."""
    if not flags.with_optimizer:
        checkpoint.slots = None
    elif flags.to == "hf":
        raise UserError("a Hugging Face model has no optimizer state; leave --with_optimizer out.")
    elif checkpoint.slots is None:
        raise UserError(
            f"{checkpoint.path} has no optimizer state that fits; leave --with_optimizer out."
        )
    elif flags.to == "t5x" and {name.split("/")[0] for name in checkpoint.slots} != set(t5x.SLOTS):
        raise UserError(
            f"{checkpoint.path} has the state of another optimizer than Adafactor, and T5X's tree "
            "of that depends on how its optimizer is composed; leave --with_optimizer out (T5X "
            "then starts it from zero), or give --to=flan."
        )


def _is_telling(name: str) -> bool:
    """Whether a directory with the file of a name is taken for a whole checkpoint."""
    last = name.rpartition("/")[2]
    return last in ("config.json", "adapter_config.json", "checkpoint", "_METADATA")


# --- The tokenizer


def _find_tokenizer(
    checkpoint: CheckpointReader, format: str, given: str | None
) -> tuple[dict[str, bytes], str | None]:
    """(the tokenizer's files, its vocabulary: 'bytes', the name of one of them, or None).

    They are those given, else those in the checkpoint, beside it, or at the run's VOCABULARY.
    """
    if given:
        files, is_bytes = _given_tokenizer(given)
    elif format == "gguf":
        files, note = gguf_tokenizer.tokenizer_of(checkpoint.path)
        checkpoint.notes.append(note)
        is_bytes = False
    elif format == "hf":
        files, is_bytes = read_tokenizer_files(checkpoint.path), False
    elif format == "peft":
        files, is_bytes = read_tokenizer_files(checkpoint.path), False
        if checkpoint.base and not _vocabulary_file(files):
            of_base = dataclasses.replace(checkpoint, path=checkpoint.base, base=None)
            return _find_tokenizer(of_base, detect_format(of_base.path), None)
    else:
        files, is_bytes = _tokenizer_of_run(checkpoint)
    config = parse_json(files.get(TOKENIZER_CONFIG, b"{}"), TOKENIZER_CONFIG)
    if is_bytes or config.get("tokenizer_class") == "ByT5Tokenizer":
        return files, BYTES
    return files, _vocabulary_file(files)


def _vocabulary_file(files: dict[str, bytes]) -> str | None:
    return next((name for name in VOCABULARY_FILES if name in files), None)


def _given_tokenizer(given: str) -> tuple[dict[str, bytes], bool]:
    """(files of --tokenizer, whether it is 'bytes')."""
    if given == BYTES:
        return {}, True
    files = read_tokenizer_files(vocabulary_path(given, "--tokenizer"))
    if not files:
        raise UserError(
            f"--tokenizer={shown(given)} is neither a tokenizer's file nor a directory that has "
            f"one ({', '.join(VOCABULARY_FILES)}), nor 'bytes'."
        )
    return files, False


def _tokenizer_of_run(checkpoint: CheckpointReader) -> tuple[dict[str, bytes], bool]:
    """(files beside a run's gin file or at its VOCABULARY, whether that is 'bytes')."""
    gin_file = model_gin.file_beside(checkpoint.path)
    if gin_file is None:
        return {}, False
    files = read_tokenizer_files(gin_file.parent)
    setting = model_gin.read_macros(gin_file).get("VOCABULARY")
    if setting is None or _vocabulary_file(files):
        return files, False
    if setting == BYTES:
        return files, True
    files_there = read_tokenizer_files(vocabulary_path(str(setting)))
    if not files_there:
        checkpoint.notes.append(
            f"its VOCABULARY {shown(setting)!r} does not exist, so the output has no tokenizer; "
            "--tokenizer=PATH gives one"
        )
    return files_there or files, False


# --- Writing


def _write_t5x(checkpoint: CheckpointReader, output: Output) -> None:
    t5x.write_t5x(output.directory, checkpoint, output.dtype, output.progress)
    _write_gin(checkpoint, output)


def _write_ours(checkpoint: CheckpointReader, output: Output) -> None:
    ours.write_ours(output.directory, checkpoint, output.dtype, output.progress)
    _write_gin(checkpoint, output)


def _write_gin(checkpoint: CheckpointReader, output: Output) -> None:
    """Writes what a run needs of the model: its size, its vocabulary, where it comes from."""
    text = model_gin.gin_text(checkpoint.config, output.name)
    if output.vocabulary == BYTES:
        text += f"VOCABULARY = {BYTES!r}\n"
    elif output.vocabulary:
        directory = output.path
        if isinstance(directory, pathlib.Path):
            directory = directory.absolute()
        text += f"VOCABULARY = {str(directory / output.vocabulary)!r}\n"
    (output.directory / "model.gin").write_text(text, encoding="utf-8")
    known = provenance.read_provenance(checkpoint.path)
    if not known and checkpoint.base:
        known = provenance.read_provenance(checkpoint.base)
    if known:
        text = provenance.provenance_json(known)
        (output.directory / provenance.FILE).write_text(text, encoding="utf-8")


def _write_unmerged(tuned: Tuned, checkpoint: CheckpointReader, output: Output) -> None:
    tuned_export.write_run(output.directory, tuned, output.dtype, output.progress)
    _write_gin(checkpoint, output)


def _write_huggingface(checkpoint: CheckpointReader, output: Output) -> None:
    """Writes the weights, the tokenizer as `transformers` reads it, and a model card."""
    run = _run_of(checkpoint)
    ids = _write_tokenizer(checkpoint, output, bool(model_card.read_record(run)))
    generation = tokenizer_export.generation_config(ids, model_card.answer_length(run))
    (output.directory / GENERATION_CONFIG).write_bytes(generation)
    is_on_disk = isinstance(output.path, pathlib.Path)
    huggingface.write_huggingface(
        *(output.directory, checkpoint, output.dtype, ids, output.progress),
        SHARD_BYTES if is_on_disk else _BUCKET_SHARD_BYTES,
    )
    _write_card(checkpoint, output, "transformers")


def _write_peft(
    tuned: Tuned, base_name: str | None, checkpoint: CheckpointReader, output: Output
) -> None:
    """Writes the adapter, the tokenizer that it was trained with, and a model card."""
    _write_tokenizer(checkpoint, output, bool(model_card.read_record(_run_of(checkpoint))))
    tuned_export.write_peft(output.directory, tuned, base_name, output.dtype, output.progress)
    whole = dataclasses.replace(checkpoint, tensors=tuned.base.tensors)
    _write_card(whole, output, "peft", is_prompt=tuned.record.method == "prompt")


def _run_of(checkpoint: CheckpointReader) -> pathlib.Path | None:
    """The directory with the gin file of a checkpoint."""
    gin_file = model_gin.file_beside(checkpoint.path)
    return gin_file.parent if gin_file else None


def _write_card(
    checkpoint: CheckpointReader, output: Output, library: str, is_prompt: bool = False
) -> None:
    run, has_template = _run_of(checkpoint), tokenizer_export.has_chat_template(output.directory)
    with readable(
        f"the record of the run {run}", "correct its mixture.json and config.gin, or remove them"
    ):
        card = model_card.model_card(checkpoint, output.name, run, has_template, library, is_prompt)
    (output.directory / "README.md").write_text(card, encoding="utf-8")


def _load_vocabulary(
    checkpoint: CheckpointReader, output: Output, is_tuned: bool
) -> Vocabulary | None:
    """The vocabulary among the files that are written; None and a note if it is not supported.

    It has the chat template that the run was trained with, if it is from a run.
    """
    if output.vocabulary is None:
        checkpoint.notes.append(
            "no tokenizer is known, so the export has none; --tokenizer=PATH gives one"
        )
        return None
    is_bytes = output.vocabulary == BYTES
    name = BYTES if is_bytes else str(output.directory / output.vocabulary)
    try:
        vocabulary = load_vocabulary(
            name, checkpoint.architecture, _chat_template_of(checkpoint) if is_tuned else None
        )
    except UserError as error:
        reason = str(error).replace(str(output.directory), str(output.path))
        checkpoint.notes.append(
            f"its tokenizer is not one that flan-jax reads, so it is copied as it is ({reason})"
        )
        return None
    for note in vocabulary.notes:
        checkpoint.notes.append(note.replace(str(output.directory), str(output.path)))
    return vocabulary


def _chat_template_of(checkpoint: CheckpointReader) -> str | None:
    """CHAT_TEMPLATE of a run."""
    gin_file = model_gin.file_beside(checkpoint.path)
    return model_gin.read_macros(gin_file).get("CHAT_TEMPLATE") if gin_file else None


def _write_tokenizer(
    checkpoint: CheckpointReader, output: Output, is_tuned: bool
) -> dict[str, object]:
    """Writes the tokenizer as `transformers` reads it, if it is known; returns its special ids."""
    vocabulary = _load_vocabulary(checkpoint, output, is_tuned)
    ids = tokenizer_export.token_ids(checkpoint, vocabulary, is_tuned)
    if vocabulary is None:
        return ids
    files, notes = tokenizer_export.export_tokenizer(checkpoint, vocabulary, ids, is_tuned)
    checkpoint.notes += notes
    for name, contents in files.items():
        file = output.directory / name
        if contents is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(contents)
    return ids


def _print_result(checkpoint: CheckpointReader, what: str, output: Place, seconds: float) -> None:
    kind = {"t5": "T5", "decoder": "decoder-only"}[checkpoint.architecture]
    text = (
        f"converted {len(checkpoint.tensors)} arrays of {what} {kind} model at step "
        f"{checkpoint.step} from {checkpoint.path} to {output} in {seconds:.1f} s"
    )
    print(renamed(text))
    for note in checkpoint.notes:
        print(renamed(f"note: {escaped(note)}"))
