"""`flan-jax generate`: prompt in, answer out, greedily, drawn or by beam search; a file of prompts
too.

With --output the answers go to JSON lines, and the same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from flan_jax import signals
from flan_jax.cli import dispatch
from flan_jax.cli.setup import alone, open_model, read_parameters
from flan_jax.config import gin_files as gin_config
from flan_jax.config import run_directory
from flan_jax.config.flags import ArgumentParser, add_step_flag
from flan_jax.errors import UserError
from flan_jax.messages import escaped
from flan_jax.models.decoding.method import METHODS, Decoding
from flan_jax.parallel import processes
from flan_jax.storage.files import parse_json, read_json, write_file
from flan_jax.storage.paths import local_path

# Prompts, a device, that are answered before their answers are written: enough to fill batches of
# like lengths.
_CHUNK = 256

# (prompts in a row, the place of the first) -> their answers: a text, and whether it was cut at the
# length
Answer = Callable[[list[str], int], list[tuple[str, bool]]]


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """The verb. Prompts are the arguments, the lines of `--file`, or those of standard input."""
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_config.parse_command_line(argv, gin_config.CONFIGURED, make_parser())
    method = chosen_decoding(flags)
    if flags.prompts and flags.file is not None:
        raise UserError("prompts are given as arguments and with --file; leave one of them out.")
    try:
        "".join(flags.prompts).encode()
    except UnicodeEncodeError:
        raise UserError("a prompt is not UTF-8 text; convert it.") from None
    output = None if flags.output is None else local_path(flags.output, "--output")
    if flags.checkpoint is not None:
        local_path(flags.checkpoint, "--checkpoint")
    prompts = flags.prompts or read_prompts(flags.file)

    import jax

    from flan_jax.evaluation.batching import row_multiple
    from flan_jax.evaluation.evaluator import model_digest, parameters_digest
    from flan_jax.evaluation.generator import Generator

    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answers
        run = open_model(flags)
        _, params = read_parameters(run, flags.checkpoint or str(run.directory), flags.step)
    vocabulary, (source_length, target_length) = run.data.vocabulary, run.data.config.lengths()
    inputs = dict(zip(prompts, encoded(prompts, vocabulary, source_length)))
    generator = Generator(
        run.model, vocabulary, run.mesh, target_length, bos_id=vocabulary.bos_id, method=method
    )

    def answer(some: list[str], first: int) -> list[tuple[str, bool]]:
        if run.preemption.requested():  # of several processes; a process alone is interrupted
            raise signals.Preempted(run.preemption.cause)
        generator.shapes.clear()  # so that a chunk is answered by the same programs after a restart
        answers = generator.answers(params, [inputs[prompt] for prompt in some], first)
        cut = sum(is_cut for _, is_cut in answers)
        if writes and cut:
            print(generator.about_cut(cut, len(answers)), file=sys.stderr, flush=True)
        return answers

    chunk, writes = _CHUNK * row_multiple(run.mesh), jax.process_index() == 0
    if output is None:
        for first in range(0, len(prompts), chunk):
            answers = [text for text, _ in answer(prompts[first : first + chunk], first)]
            if writes:
                print(
                    "\n".join(map(_as_printed if len(prompts) == 1 else _on_one_line, answers)),
                    flush=True,
                )
        return 0
    identity = {
        **method.settings(),
        "max_length": target_length,
        "parameters": parameters_digest(params),
        "vocabulary": vocabulary.fingerprint,
        "model": model_digest(run.model.config),
    }
    with alone(output.parent, f".{output.name}.lock", "flan-jax generate"):
        write_answers(output, prompts, answer, identity, chunk, writes)
    return 0


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax generate", description=__doc__)
    run_directory.add_flag(parser)
    parser.add_argument(
        "prompts", nargs="*", help="prompts; none: lines of --file, or of standard input"
    )
    parser.add_argument("--file", metavar="FILE", help="one prompt a line")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="JSON lines {prompt, answer} instead of plain answers, "
        "written as they come; the same command resumes",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="a run, one of its steps, or a checkpoint of "
        "another program (default: the last in MODEL_DIR)",
    )
    add_step_flag(parser)
    parser.add_argument(
        "--method", default="greedy", help=f"{', '.join(METHODS)} (default: greedy)"
    )
    parser.add_argument(
        "--temperature", type=float, help="sample: logits are divided by it (default: 1)"
    )
    parser.add_argument(
        "--top_k", type=int, help="sample: draw from the k likeliest tokens (default: 0, all)"
    )
    parser.add_argument(
        "--top_p",
        type=float,
        help="sample: draw from the likeliest tokens that reach this "
        "probability together (default: 1, all)",
    )
    parser.add_argument("--seed", type=int, help="sample: another seed, other answers (default: 0)")
    parser.add_argument("--beams", type=int, help="beam: hypotheses kept (default: 4)")
    parser.add_argument(
        "--length_penalty",
        type=float,
        help="beam: scores are log-probability / tokens to the power "
        "of it; more favours longer answers (default: 1)",
    )
    processes.add_flags(parser)
    return parser


def _as_printed(text: str) -> str:
    """An answer as it is, but for a terminal, which would obey its control characters."""
    return escaped(text) if sys.stdout.isatty() else text


def _on_one_line(text: str) -> str:
    """An answer among others: backslashes, line breaks and control characters as escapes."""
    return escaped(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r"))


def chosen_decoding(flags: argparse.Namespace) -> Decoding:
    """How the flags want answers to be written.

    Raises:
      UserError: for a value that cannot work, or a flag that the method does not read.
    """
    given = {}
    for method, names in METHODS.items():
        for name in names:
            value = getattr(flags, name)
            if value is not None and flags.method in METHODS and method != flags.method:
                raise UserError(
                    f"--{name} has no effect with --method={flags.method}; add --method={method}, "
                    "or leave it out."
                )
            if value is not None:
                given[name] = value
    return Decoding(flags.method, **given)


def read_prompts(name: str | None) -> list[str]:
    """The lines of a file, or of standard input.

    Raises:
      UserError: if the file is missing or there is no prompt in it.
    """
    try:
        contents = (
            sys.stdin.buffer.read() if name is None else local_path(name, "--file").read_bytes()
        )
        text = contents.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        place = "standard input" if name is None else f"--file {name!r}"
        raise UserError(
            f"{place} is not UTF-8 text ({error.reason} at byte {error.start}); convert it."
        ) from error
    except OSError as error:
        raise UserError(f"--file {name!r} cannot be read ({error.strerror}).") from error
    lines = text.removesuffix("\n").split("\n")
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise UserError(
            "no prompt given; write one as an argument, or give --file with one a line."
        )
    if len(prompts) < len(lines):
        print(
            f"{len(lines) - len(prompts)} of {len(lines)} lines are empty and get no answer",
            file=sys.stderr,
            flush=True,
        )
    return prompts


def encoded(prompts: list[str], vocabulary, source_length: int) -> list[np.ndarray]:
    """What the model reads for each prompt, int32.

    Raises:
      UserError: if a prompt has more tokens than the model is to read.
    """
    result = []
    for prompt in prompts:
        tokens = vocabulary.encode_input(prompt)
        if len(tokens) > source_length:
            raise UserError(
                f"the prompt {prompt[:40]!r}... has {len(tokens)} tokens with its end, but "
                f"TASK_FEATURE_LENGTHS allows {source_length}; shorten it."
            )
        result.append(np.asarray(tokens, np.int32))
    return result


def write_answers(
    output: pathlib.Path,
    prompts: list[str],
    answer: Answer,
    identity: dict[str, Any],
    chunk: int,
    writes: bool = True,
) -> None:
    """Writes a line {prompt, answer} for each prompt in their order, after those that are there
    already.

    An answer that was cut at the length has 'cut': true, too.

    What the answers depend on is kept beside them, in `<output>.settings.json`, so that those of
    other parameters or settings are never taken for them.

    Args:
      output: the file; only whole lines of it count, and what follows the last one is cut off.
      prompts: all of them; answer: gives answers to `chunk` of them at a time.
      identity: the settings and the parameters that answer.
      writes: whether this host is the one that writes.

    Raises:
      UserError: if the file has answers to other prompts, or by something else, or cannot be
        written.
    """
    record = output.with_name(f"{output.name}.settings.json")
    with _failing_as_user_error(output):
        whole = output.read_bytes() if output.exists() else b""
    kept = read_json(record, advice=f"delete it together with {output}") if record.exists() else {}
    if whole and not record.exists():
        raise UserError(
            f"{output} is there and was not written by flan-jax generate; remove it, or give "
            "another --output."
        )
    whole = whole[: whole.rfind(b"\n") + 1]
    done = _answered(output, whole, prompts)
    changed = [name for name in identity if kept.get(name) != identity[name]]
    if done and changed:
        raise UserError(
            f"{output} has answers that were written with another {' and '.join(changed)}; remove "
            "it, or give another --output."
        )
    # a chunk is answered as a whole, so that its batches are those of an undisturbed command
    if done < len(prompts):
        done -= done % chunk
        whole = b"".join(line + b"\n" for line in whole.split(b"\n")[:done])
    if done:
        print(
            f"{done} of {len(prompts)} answers are in {output} already", file=sys.stderr, flush=True
        )
    if writes:
        with _failing_as_user_error(output):
            output.touch()
            os.truncate(output, len(whole))
        write_file(record, json.dumps(identity, indent=1) + "\n")
    for first in range(done, len(prompts), chunk):
        some = prompts[first : first + chunk]
        lines = [
            json.dumps(
                {"prompt": prompt, "answer": text, **({"cut": True} if cut else {})},
                ensure_ascii=False,
            )
            + "\n"
            for prompt, (text, cut) in zip(some, answer(some, first))
        ]
        if writes:
            with _failing_as_user_error(output), output.open("a", encoding="utf-8") as file:
                file.write("".join(lines))


@contextlib.contextmanager
def _failing_as_user_error(output: pathlib.Path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written ({error.strerror}); give another file."
        ) from error


def _answered(output: pathlib.Path, whole: bytes, prompts: list[str]) -> int:
    """How many of the prompts have their line.

    Raises:
      UserError: at the first line that is not about the prompt in its place.
    """
    lines = whole.split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        answered = parse_json(
            line, f"line {number} of {output}", advice="remove the file, or give another --output"
        )
        is_whole = isinstance(answered.get("answer"), str)
        if number > len(prompts) or not is_whole or answered.get("prompt") != prompts[number - 1]:
            raise UserError(
                f"line {number} of {output} answers another prompt than the one in that place; "
                "remove the file, or give another --output."
            )
    return len(lines)


if __name__ == "__main__":
    dispatch.run(main)
