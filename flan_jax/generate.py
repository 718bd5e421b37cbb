"""`flan-jax generate`: prompt in, answer out, greedily; a file of prompts too."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys

import numpy as np

from flan_jax import cli
from flan_jax import config as gin_config
from flan_jax.data.assemble import Data, DataConfig
from flan_jax.errors import UserError
from flan_jax.prepare import CONFIGURED
from flan_jax.train import open_run


def main(argv: list[str] | None = None) -> int:
    """The verb. Prompts are the arguments, the lines of `--file`, or those of standard input."""
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.ArgumentParser(prog="flan-jax generate", description=__doc__)
    parser.add_argument("prompts", nargs="*", help="prompts; none: lines of --file, or of standard input")
    parser.add_argument("--file", metavar="FILE", help="one prompt a line")
    parser.add_argument("--output", metavar="FILE", help="JSON lines {prompt, answer} instead of plain answers")
    parser.add_argument("--checkpoint", metavar="PATH", help="a run, one of its steps, or a checkpoint of "
                                                             "another program (default: the last in MODEL_DIR)")
    parser.add_argument("--step", type=int, help="the checkpoint of this step")
    flags = gin_config.parse_command_line(argv, CONFIGURED, parser)
    prompts = flags.prompts or read_prompts(flags.file)

    from flan_jax.evaluation.generation import Generator

    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answers
        data = Data(DataConfig())
        run = open_run(data)
        _, params = run.read_params(flags.checkpoint or str(run.directory), flags.step)
    source_length, target_length = data.config.lengths()
    ids = [data.vocabulary.encode(prompt) for prompt in prompts]
    for prompt, tokens in zip(prompts, ids):
        most = source_length - len(data.vocabulary.input_end)
        if len(tokens) > most:
            raise UserError(f"the prompt {prompt[:40]!r}... has {len(tokens)} tokens, but TASK_FEATURE_LENGTHS allows "
                            f"{most}; shorten it.")
    generator = Generator(run.model, data.vocabulary, run.mesh, target_length, bos_id=data.vocabulary.bos_id)
    answers = generator.texts(params, [np.asarray([*tokens, *data.vocabulary.input_end], np.int32) for tokens in ids])
    write_answers(prompts, answers, flags.output)
    return 0


def read_prompts(name: str | None) -> list[str]:
    """The lines of a file, or of standard input.

    Raises:
      UserError: if the file is missing or there is no prompt in it.
    """
    try:
        text = pathlib.Path(name).read_text(encoding="utf-8") if name else sys.stdin.read()
    except OSError as error:
        raise UserError(f"--file {name!r} cannot be read ({error.strerror}).") from error
    prompts = [line for line in text.split("\n") if line.strip()]
    if not prompts:
        raise UserError("no prompt given; write one as an argument, or give --file with one a line.")
    return prompts


def write_answers(prompts: list[str], answers: list[str], output: str | None) -> None:
    """Prints the answers, or writes JSON lines."""
    if output is None:
        print("\n".join(answers))
        return
    lines = [json.dumps({"prompt": p, "answer": a}, ensure_ascii=False) + "\n" for p, a in zip(prompts, answers)]
    pathlib.Path(output).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
