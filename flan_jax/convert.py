"""`flan-jax convert`: checkpoints of T5X, Hugging Face and GGUF into ours, and any into T5X's and
Hugging Face's.
"""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np

from flan_jax.checkpoints import exported_text, model_gin, origin
from flan_jax.checkpoints.formats import gguf_tokenizer, huggingface, ours, t5x
from flan_jax.checkpoints.parameters import parameter_shapes
from flan_jax.checkpoints.read import FORMS, form_of, open_checkpoint
from flan_jax.checkpoints.reader import DTYPES, Source, check_tensors
from flan_jax.checkpoints.staging import staged
from flan_jax.cli import dispatch
from flan_jax.config.flags import ArgumentParser, add_step_flag
from flan_jax.data.special_tokens import GENERATION_CONFIG, TOKENIZER_CONFIG
from flan_jax.data.vocabulary import VOCABULARY_FILES, Vocabulary, load_vocabulary
from flan_jax.errors import UserError
from flan_jax.messages import escaped, shown
from flan_jax.progress import progress
from flan_jax.report import model_card
from flan_jax.storage.files import parse_json, readable
from flan_jax.storage.paths import local_path

BYTES = "bytes"
_TARGETS = ("t5x", "hf", "flan")


def main(argv: list[str] | None = None) -> int:
    """The verb: `RUN_DIR --to=FORM --output=DIR`, or `--input=PATH`. Tensors are converted one at a
    time.
    """
    flags = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    started = time.perf_counter()
    if (flags.input is None) == (flags.place is None):
        raise UserError(
            "give what to convert once: RUN_DIR (or another checkpoint) or --input=PATH."
        )
    flags.input = flags.input or flags.place
    path, output = local_path(flags.input, "--input"), local_path(flags.output, "--output")
    flags.form = flags.form or form_of(path)
    source = open_checkpoint(path, flags.form, flags.step)
    check_tensors(
        {name: tensor.shape for name, tensor in source.tensors.items()},
        parameter_shapes(source.model, source.fields),
        source.path,
        '"here" is what its gin file says; put the right config.gin or model.gin beside it:',
        lists_all=True,
    )
    _keep_slots(source, flags)
    source.tokenizer, vocabulary = _find_tokenizer(source, flags.form, flags.tokenizer)
    with staged(output) as directory:
        for name, contents in source.tokenizer.items():
            (directory / name).write_bytes(contents)
        _write(source, flags, directory, output, vocabulary)
    kind = {"t5": "T5", "decoder": "decoder-only"}[source.model]
    print(
        f"converted {len(source.tensors)} arrays of a {kind} model at step {source.step} from "
        f"{source.path} to {output} in {time.perf_counter() - started:.1f} s"
    )
    for note in source.notes:
        print(f"note: {escaped(note)}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="flan-jax convert", description=__doc__)
    parser.add_argument("place", nargs="?", metavar="RUN_DIR", help="the same as --input")
    parser.add_argument(
        "--from", dest="form", choices=FORMS, help="form of the input (default: by its files)"
    )
    parser.add_argument("--to", choices=_TARGETS, required=True, help="form of the output")
    parser.add_argument(
        "--input",
        metavar="PATH",
        help="a run, one of its steps, a T5X checkpoint, a Hugging Face directory or a GGUF file",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a directory that is not there yet"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the parameters written (default: as they are stored)"
    )
    add_step_flag(parser)
    parser.add_argument(
        "--with_optimizer", action="store_true", help="Adafactor's state too (t5x and flan)"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer file, or a directory of such, to go with it, or "
        "'bytes' (default: what lies beside the input)",
    )
    return parser


def _keep_slots(source: Source, flags) -> None:
    """Drops the optimizer's slots unless they are asked for."""
    if not flags.with_optimizer:
        source.slots = None
    elif flags.to == "hf":
        raise UserError("a Hugging Face model has no optimizer state; leave --with_optimizer out.")
    elif source.slots is None:
        raise UserError(
            f"{source.path} holds no optimizer state that fits; leave --with_optimizer out."
        )


def _find_tokenizer(
    source: Source, form: str, given: str | None
) -> tuple[dict[str, bytes], str | None]:
    """(the tokenizer's files, its vocabulary: 'bytes', the name of one of them, or None where none
    is known).

    They are those given, else those in the checkpoint, beside it, or where the run's VOCABULARY is.
    """
    files, known = _tokenizer_files(source, form, given)
    config = parse_json(files.get(TOKENIZER_CONFIG, b"{}"), TOKENIZER_CONFIG)
    if config.get("tokenizer_class") == "ByT5Tokenizer":
        known = BYTES
    return files, known or next((file for file in VOCABULARY_FILES if file in files), None)


def _tokenizer_files(
    source: Source, form: str, given: str | None
) -> tuple[dict[str, bytes], str | None]:
    """(the tokenizer's files, 'bytes' where it is that)."""
    if given == BYTES:
        return {}, BYTES
    if given:
        files = huggingface.tokenizer_files(local_path(given, "--tokenizer"))
        if not files:
            raise UserError(
                f"--tokenizer={shown(given)} is neither a tokenizer's file nor a directory that "
                f"has one ({', '.join(VOCABULARY_FILES)}), nor 'bytes'."
            )
        return files, None
    if form == "gguf":
        files, note = gguf_tokenizer.tokenizer_of(source.path)
        source.notes.append(note)
        return files, None
    file = None if form == "hf" else model_gin.file_beside(source.path)
    run = source.path if form == "hf" else file and file.parent
    files = huggingface.tokenizer_files(run) if run else {}
    named = model_gin.read_macros(file).get("VOCABULARY") if file else None
    if named is None or any(name in files for name in VOCABULARY_FILES):
        return files, None
    if named == BYTES:
        return files, BYTES
    there = huggingface.tokenizer_files(local_path(str(named), "VOCABULARY"))
    if not there:
        source.notes.append(
            f"its VOCABULARY {shown(named)!r} is not there, so no tokenizer goes along; "
            "--tokenizer=PATH gives one"
        )
    return there or files, None


def _run_directory(source: Source) -> pathlib.Path | None:
    """The directory at or above a checkpoint that holds the run's gin file, or None."""
    file = model_gin.file_beside(source.path)
    return file.parent if file else None


def _write(
    source: Source, flags, directory: pathlib.Path, output: pathlib.Path, vocabulary: str | None
) -> None:
    dtype = DTYPES[flags.dtype] if flags.dtype else None
    name = output.absolute().name
    with progress(len(source.tensors), "converting", "array") as update:
        if flags.to == "hf":
            _write_huggingface(source, directory, output, vocabulary, dtype, lambda _: update())
            return
        write = t5x.write_t5x if flags.to == "t5x" else ours.write_ours
        write(directory, source, dtype, lambda _: update())
    text = model_gin.gin_text(source.model, source.fields, name)
    if vocabulary:
        text += (
            "VOCABULARY = "
            f"{BYTES if vocabulary == BYTES else str(output.absolute() / vocabulary)!r}\n"
        )
    (directory / "model.gin").write_text(text, encoding="utf-8")
    known = origin.origin_of(source.path)
    if known:
        (directory / origin.FILE).write_text(origin.origin_json(known), encoding="utf-8")


def _write_huggingface(
    source: Source,
    directory: pathlib.Path,
    output: pathlib.Path,
    name: str | None,
    dtype: np.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Writes a model of Hugging Face's form into a directory that holds the tokenizer's files;
    `name` of its own.
    """
    run = _run_directory(source)
    record = model_card.read_record(run)
    vocabulary = _load_vocabulary(source, directory, output, name)
    ids = exported_text.token_ids(source, vocabulary, bool(record))
    if vocabulary is not None:
        files, notes = exported_text.tokenizer_files(source, vocabulary, ids, bool(record))
        source.notes += notes
        for file, contents in files.items():
            (directory / file).unlink(missing_ok=True) if contents is None else (
                directory / file
            ).write_bytes(contents)
    (directory / GENERATION_CONFIG).write_bytes(
        exported_text.generation_config(ids, model_card.answer_length(run))
    )
    huggingface.write_huggingface(directory, source, dtype, ids, progress)
    with readable(
        f"the record of the run {run}", "correct its mixture.json and config.gin, or remove them"
    ):
        card = model_card.model_card(
            source, output.absolute().name, run, exported_text.has_template(directory)
        )
    (directory / "README.md").write_text(card, encoding="utf-8")


def _load_vocabulary(
    source: Source, directory: pathlib.Path, output: pathlib.Path, name: str | None
) -> Vocabulary | None:
    """The vocabulary in a directory that is to be `output`; None, with a note, where flan-jax does
    not read it.
    """
    if name is None:
        source.notes.append(
            "no tokenizer is known, so the export has none; --tokenizer=PATH gives one"
        )
        return None
    try:
        vocabulary = load_vocabulary(name if name == BYTES else str(directory / name), source.model)
    except UserError as error:
        why = str(error).replace(str(directory), str(output))
        source.notes.append(
            f"its tokenizer is not one that flan-jax reads, so it goes along as it is ({why})"
        )
        return None
    source.notes += [note.replace(str(directory), str(output)) for note in vocabulary.notes]
    return vocabulary


if __name__ == "__main__":
    dispatch.run(main)
