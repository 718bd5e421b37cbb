"""`flan-jax convert`: checkpoints of T5X, Hugging Face and GGUF into ours, and any into T5X's and Hugging Face's."""

from __future__ import annotations

import pathlib
import sys
import time

from flan_jax import cli
from flan_jax.data.vocabulary import VOCABULARY_FILES
from flan_jax.errors import UserError
from flan_jax.files import local_path
from flan_jax.interchange import gguf_tokenizer, gin_fields, huggingface, model_card, ours, t5x
from flan_jax.interchange.load import FORMS, form_of, open_checkpoint
from flan_jax.interchange.parameters import parameter_shapes
from flan_jax.interchange.source import DTYPES, Source, check_tensors
from flan_jax.interchange.staging import staged
from flan_jax.messages import escaped, shown
from flan_jax.progress import progress

_TARGETS = ("t5x", "hf", "flan")


def main(argv: list[str] | None = None) -> int:
    """The verb: `RUN_DIR --to=FORM --output=DIR`, or `--input=PATH`. Tensors are converted one at a time."""
    flags = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    started = time.perf_counter()
    if (flags.input is None) == (flags.place is None):
        raise UserError("give what to convert once: RUN_DIR (or another checkpoint) or --input=PATH.")
    flags.input = flags.input or flags.place
    path, output = local_path(flags.input, "--input"), local_path(flags.output, "--output")
    flags.form = flags.form or form_of(path)
    source = open_checkpoint(path, flags.form, flags.step)
    check_tensors({name: tensor.shape for name, tensor in source.tensors.items()},
                  parameter_shapes(source.model, source.fields), source.path,
                  '"here" is what its gin file says; put the right config.gin or model.gin beside it:',
                  lists_all=True)
    _keep_slots(source, flags)
    source.tokenizer = _find_tokenizer(source, flags.form, flags.tokenizer)
    with staged(output) as directory:
        for name, contents in source.tokenizer.items():
            (directory / name).write_bytes(contents)
        _write(source, flags, directory, output)
    kind = {"t5": "T5", "decoder": "decoder-only"}[source.model]
    print(f"converted {len(source.tensors)} arrays of a {kind} model at step {source.step} from {source.path} to "
          f"{output} in {time.perf_counter() - started:.1f} s")
    for note in source.notes:
        print(f"note: {escaped(note)}")
    return 0


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(prog="flan-jax convert", description=__doc__)
    parser.add_argument("place", nargs="?", metavar="RUN_DIR", help="the same as --input")
    parser.add_argument("--from", dest="form", choices=FORMS, help="form of the input (default: by its files)")
    parser.add_argument("--to", choices=_TARGETS, required=True, help="form of the output")
    parser.add_argument("--input", metavar="PATH",
                        help="a run, one of its steps, a T5X checkpoint, a Hugging Face directory or a GGUF file")
    parser.add_argument("--output", required=True, metavar="DIR", help="a directory that is not there yet")
    parser.add_argument("--dtype", choices=DTYPES, help="of the parameters written (default: as they are stored)")
    cli.add_step_flag(parser)
    parser.add_argument("--with_optimizer", action="store_true", help="Adafactor's state too (t5x and flan)")
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer file, or a directory of such, to go with it "
                                                            "(default: what lies beside the input)")
    return parser


def _keep_slots(source: Source, flags) -> None:
    """Drops the optimizer's slots unless they are asked for."""
    if not flags.with_optimizer:
        source.slots = None
    elif flags.to == "hf":
        raise UserError("a Hugging Face model has no optimizer state; leave --with_optimizer out.")
    elif source.slots is None:
        raise UserError(f"{source.path} holds no optimizer state that fits; leave --with_optimizer out.")


def _find_tokenizer(source: Source, form: str, given: str | None) -> dict[str, bytes]:
    """The tokenizer's files: those given, else those in the checkpoint, beside it, or where the run's VOCABULARY is."""
    if given:
        files = huggingface.tokenizer_files(local_path(given, "--tokenizer"))
        if not files:
            raise UserError(f"--tokenizer={shown(given)} is neither a tokenizer's file nor a directory that has one "
                            f"({', '.join(VOCABULARY_FILES)}).")
        return files
    if form == "gguf":
        files, note = gguf_tokenizer.tokenizer_of(source.path)
        source.notes.append(note)
        return files
    run = source.path if form == "hf" else _run_directory(source)
    files = huggingface.tokenizer_files(run) if run else {}
    if not files and run and (run / "config.gin").is_file():
        vocabulary = str(gin_fields.read_macros(run / "config.gin").get("VOCABULARY"))
        files = huggingface.tokenizer_files(local_path(vocabulary, "VOCABULARY"))
    return files


def _run_directory(source: Source) -> pathlib.Path | None:
    """The directory at or above a checkpoint that holds the run's gin file, or None."""
    file = gin_fields.file_beside(source.path)
    return file.parent if file else None


def _write(source: Source, flags, directory: pathlib.Path, output: pathlib.Path) -> None:
    dtype = DTYPES[flags.dtype] if flags.dtype else None
    name = output.absolute().name
    with progress(len(source.tensors), "converting", "array") as update:
        if flags.to == "hf":
            huggingface.write_huggingface(directory, source, dtype, lambda _: update())
            card = model_card.model_card(source, name, _run_directory(source))
            (directory / "README.md").write_text(card, encoding="utf-8")
            return
        write = t5x.write_t5x if flags.to == "t5x" else ours.write_ours
        write(directory, source, dtype, lambda _: update())
    text = gin_fields.gin_text(source.model, source.fields, name)
    vocabulary = next((file for file in VOCABULARY_FILES if file in source.tokenizer), None)
    if vocabulary:
        text += f"VOCABULARY = {str(output.absolute() / vocabulary)!r}\n"
    (directory / "model.gin").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
