"""`flan-jax generate`: prompts in, answers out: greedy decoding, sampling or beam search.

Prompts are arguments, the lines of a file (of *.jsonl prompts or messages in JSON), or those of
standard input. With --output the answers are written as JSON lines, and the same command resumes
after a kill. Without prompts, on a terminal, it is a conversation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from flan_jax import log
from flan_jax.cli import dispatch
from flan_jax.config import gin_files, run_directory
from flan_jax.config.checks import check_number
from flan_jax.config.flags import ArgumentParser, add_step_flag
from flan_jax.errors import UserError
from flan_jax.messages import escaped
from flan_jax.models.decoding.method import METHODS, Decoding
from flan_jax.parallel import processes
from flan_jax.runs.answers import AT_ONCE, Answer, Prompt, make_answer
from flan_jax.runs.conversation import converse
from flan_jax.runs.directories import alone
from flan_jax.runs.prompts import read_prompts
from flan_jax.runs.setup import RunSetup, open_model, read_parameters
from flan_jax.storage.files import parse_json, read_json, write_file
from flan_jax.storage.places import Place, place
from flan_jax.storage.remote import Remote
from flan_jax.storage.uploaded_file import UploadedFile

_log = logging.getLogger(__name__)


@processes.end_together
def main(argv: list[str] | None = None) -> int:
    """Runs the verb: a conversation on a terminal, or answers to prompts."""
    argv = sys.argv[1:] if argv is None else argv
    flags = gin_files.parse_command_line(argv, gin_files.CONFIGURED, make_parser())
    log.use_standard_error()  # standard output is for the answers
    method = chosen_decoding(flags)
    output = None if flags.output is None else place(flags.output, "--output")
    if flags.checkpoint is not None:
        place(flags.checkpoint, "--checkpoint")
    if flags.max_tokens is not None:
        flags.max_tokens = check_number(
            "--max_tokens", flags.max_tokens, whole=True, least=1, below=2**20
        )
    if isinstance(output, Remote):
        output.parent.check_writable()
    is_conversation = not flags.prompts and flags.file is output is None and sys.stdin.isatty()
    prompts = [] if is_conversation else _prompts(flags)

    import jax

    from flan_jax.evaluation.batching import row_multiple

    with contextlib.redirect_stdout(sys.stderr):  # libraries print, too
        run = open_model(flags)
        _, params = read_parameters(run, flags.checkpoint or run.config.model_dir, flags.step)
    processes.mute_others()
    limits = flags.max_tokens, flags.stop, flags.system
    if is_conversation:
        if jax.process_count() > 1:
            raise UserError("a conversation needs one process; give prompts, or --file.")
        converse(run, params, method, *limits, say=_say)
        return 0
    answer = make_answer(run, params, prompts, method, *limits)
    chunk, writes = AT_ONCE * row_multiple(run.mesh), jax.process_index() == 0
    if output is None:
        for first in range(0, len(prompts), chunk):
            answers = [text for text, _ in answer(prompts[first : first + chunk], first)]
            if writes:
                shown = _as_printed if len(prompts) == 1 else _on_one_line
                print("\n".join(map(shown, answers)), flush=True)
        return 0
    with (
        _on_disk(output, writes) as (file, keep),
        alone(file.parent, f".{file.name}.lock", "flan-jax generate"),
    ):
        identity = _identity(run, params, method, *limits)
        write_answers(file, prompts, answer, identity, chunk, writes, keep)
    return 0


@contextlib.contextmanager
def _on_disk(output: Place, writes: bool) -> Iterator[tuple[pathlib.Path, Callable[[], None]]]:
    """Yields the path of the answers, and what is called when there are more of them.

    Those in a bucket are copied to the disk first, and uploaded half a minute after half a minute
    and at the end, after the settings that they were written with.
    """
    if isinstance(output, pathlib.Path):
        yield output, lambda: None
        return
    with tempfile.TemporaryDirectory() as directory:
        settings = UploadedFile(output.parent / _settings_of(output.name), pathlib.Path(directory))
        answers = UploadedFile(output, pathlib.Path(directory))

        def keep() -> None:
            settings.upload()
            answers.upload_sometimes()

        try:
            yield answers.local, keep
        finally:
            if writes and answers.local.exists():
                settings.upload()
                answers.upload()


def _prompts(flags: argparse.Namespace) -> list[Prompt]:
    """Returns the prompts of the arguments, of --file or of standard input.

    Raises:
      UserError: if there are none, or both, or one is not UTF-8 text.
    """
    if flags.prompts and flags.file is not None:
        raise UserError("prompts are given as arguments and with --file; leave one of them out.")
    try:
        "".join(flags.prompts).encode()
    except UnicodeEncodeError:
        raise UserError("a prompt is not UTF-8 text; convert it.") from None
    return flags.prompts or read_prompts(flags.file)


def _identity(
    run: RunSetup,
    params: Any,
    method: Decoding,
    max_tokens: int | None,
    stops: list[str],
    system: str | None,
) -> dict[str, Any]:
    """Returns the settings and digests that answers depend on."""
    from flan_jax.evaluation.digests import model_digest, parameters_digest

    return {
        **method.settings(),
        "max_length": max_tokens or run.data.config.lengths()[1],
        "stop": stops or None,
        "system": system,
        "parameters": parameters_digest(params),
        "vocabulary": run.data.vocabulary.fingerprint,
        "model": model_digest(run.model.config),
    }


def make_parser() -> ArgumentParser:
    """Returns the parser of the verb's own flags."""
    parser = ArgumentParser(prog="flan-jax generate", description=__doc__)
    run_directory.add_flag(parser)
    parser.add_argument(
        "prompts",
        nargs="*",
        help="prompts; none: lines of --file, or of standard input; on a terminal a conversation",
    )
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="one prompt a line; of FILE.jsonl each line is {prompt} or {messages}",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="a system message before each prompt or conversation"
    )
    parser.add_argument(
        "--max_tokens",
        type=int,
        metavar="N",
        help="most tokens of an answer, its end included (default: those of targets in "
        "TASK_FEATURE_LENGTHS)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="ends an answer before it; may be given several times",
    )
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
    _add_decoding_flags(parser)
    processes.add_flags(parser)
    return parser


def _add_decoding_flags(parser: ArgumentParser) -> None:
    """Adds --method and the flags of one method only."""
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
        "of it; more favors longer answers (default: 1)",
    )


def _say(text: str) -> None:
    print(_as_printed(text), end="", flush=True)


def _as_printed(text: str) -> str:
    """Returns an answer unchanged; on a terminal with its control characters escaped."""
    return escaped(text) if sys.stdout.isatty() else text


def _on_one_line(text: str) -> str:
    """Returns an answer with backslashes, line breaks and control characters escaped."""
    return escaped(text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r"))


def chosen_decoding(flags: argparse.Namespace) -> Decoding:
    """Returns the decoding method of the flags.

    Raises:
      UserError: for a value that is not valid, or a flag that has no effect with the method.
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


def write_answers(
    output: pathlib.Path,
    prompts: list[Prompt],
    answer: Answer,
    identity: dict[str, Any],
    chunk: int,
    writes: bool = True,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Writes a line {prompt, answer} for each prompt in order, after the lines that exist already.

    Of messages it is {messages, answer}. A truncated answer has 'cut': true, too. The settings and
    parameters that the answers depend on are written beside them, in `<output>.settings.json`, so
    that answers of other parameters or settings are never mixed with them.

    Args:
      output: the file; what follows its last complete line is removed.
      prompts: all of them.
      answer: answers some of the prompts.
      identity: the settings and digests that the answers depend on.
      chunk: prompts that are answered at a time.
      writes: whether this process writes.
      keep: called by that process when the file has more lines.

    Raises:
      UserError: if the file has answers to other prompts, or of other settings, or cannot be
        written.
    """
    lines = _complete_lines(output, prompts, identity)
    done = len(lines)
    # a chunk is answered as a whole, so that its batches are those of an undisturbed command
    if done < len(prompts):
        done -= done % chunk
    if done:
        _log.info(f"{done} of {len(prompts)} answers are in {output} already")
    if writes:
        with _failing_as_user_error(output):
            output.touch()
            os.truncate(output, sum(len(line) + 1 for line in lines[:done]))
        settings = output.with_name(_settings_of(output.name))
        write_file(settings, json.dumps(identity, indent=1) + "\n")
    for first in range(done, len(prompts), chunk):
        some = prompts[first : first + chunk]
        new_lines = [
            _answer_line(prompt, text, is_truncated)
            for prompt, (text, is_truncated) in zip(some, answer(some, first))
        ]
        if writes:
            with _failing_as_user_error(output), output.open("a", encoding="utf-8") as file:
                file.write("".join(new_lines))
            keep()


def _answer_line(prompt: Prompt, text: str, is_truncated: bool) -> str:
    record = {_kind_of(prompt): prompt, "answer": text, **({"cut": True} if is_truncated else {})}
    return json.dumps(record, ensure_ascii=False) + "\n"


def _kind_of(prompt: Prompt) -> str:
    return "prompt" if isinstance(prompt, str) else "messages"


def _settings_of(name: str) -> str:
    return f"{name}.settings.json"


def _complete_lines(
    output: pathlib.Path, prompts: list[Prompt], identity: dict[str, Any]
) -> list[bytes]:
    """Returns the complete lines of the file, checked against prompts and settings.

    Raises:
      UserError: if they belong to other prompts or settings.
    """
    settings = output.with_name(_settings_of(output.name))
    with _failing_as_user_error(output):
        contents = output.read_bytes() if output.exists() else b""
    kept = {}
    if settings.exists():
        kept = read_json(settings, advice=f"delete it together with {output}")
    elif contents:
        raise UserError(
            f"{output} is there and was not written by flan-jax generate; remove it, or give "
            "another --output."
        )
    lines = contents.split(b"\n")[:-1]
    _check_prompts(output, lines, prompts)
    changed = [name for name in identity if kept.get(name) != identity[name]]
    if lines and changed:
        raise UserError(
            f"{output} has answers that were written with another {' and '.join(changed)}; remove "
            "it, or give another --output."
        )
    return lines


@contextlib.contextmanager
def _failing_as_user_error(output: pathlib.Path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written ({error.strerror}); give another file."
        ) from error


def _check_prompts(output: pathlib.Path, lines: list[bytes], prompts: list[Prompt]) -> None:
    """Checks that each line answers the prompt of its place.

    Raises:
      UserError: at the first line that does not.
    """
    for number, line in enumerate(lines, 1):
        answered = parse_json(
            line, f"line {number} of {output}", advice="remove the file, or give another --output"
        )
        is_whole = isinstance(answered.get("answer"), str)
        prompt = prompts[number - 1] if number <= len(prompts) else None
        if prompt is None or not is_whole or answered.get(_kind_of(prompt)) != prompt:
            raise UserError(
                f"line {number} of {output} answers another prompt than the one in that place; "
                "remove the file, or give another --output."
            )


if __name__ == "__main__":
    dispatch.run(main)
