"""Writes verbs.md, the flags of every verb, from the argument parsers: `make docs`.

A directory as argument takes the file instead.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import re
import sys
from collections.abc import Iterator

from flan_jax.cli.dispatch import VERBS

# The verbs that read gin files and --gin.NAME=VALUE.
_CONFIGURED = ("train", "eval", "generate", "prepare", "precompile", "sweep")
_PAGES = {
    "train": "training.md",
    "eval": "evaluation.md",
    "generate": "chat.md#talk-to-a-model",
    "prepare": "how_it_works.md#the-token-cache",
    "precompile": "scale.md",
    "tasks": "your_data.md",
    "convert": "checkpoints.md",
    "report": "figures.md",
    "sweep": "sweeps.md",
    "launch": "launch/README.md",
}
_NOT_LISTED = ("--help", "--log_level")  # every verb has them
_DEFAULT = re.compile(r" \(default:? ([^()]+)\)$")
_INTRODUCTION = """\
# Verbs
<!-- Written by `make docs` from the argument parsers; edit those, not this page. -->

`flan-jax VERB ...` is the same program as `python -m flan_jax.VERB ...`, and `flan-jax VERB --help`
prints the flags on this page. Every verb takes `--log_level=debug`, `info`, `warning` or `error`:
the least severe log lines that are shown. Verbs that read [settings](settings.md) take
`--gin_file=FILE` (any number, later ones win) and `--gin.NAME=VALUE`. `python -m flan_jax.lm_eval`
is described in [lm-evaluation-harness](lm_eval.md).

| exit status | meaning |
| --- | --- |
| 0 | finished |
| 1 | `tasks check` found a fault, the program of `precompile` does not fit, or any other error |
| 2 | a mistake in an argument, a setting or a file: one message, and nothing is changed |
| 130 | ended by a second Ctrl-C |
| 143 | ended by SIGTERM or Ctrl-C: progress is saved, the same command does the rest |

| verb | what it does |
| --- | --- |"""


def page() -> str:
    """Returns docs/verbs.md."""
    lines = [_INTRODUCTION]
    lines += [f"| [`{verb}`](#{verb}) | {summary} |" for verb, (_, summary) in VERBS.items()]
    for verb, (module, summary) in VERBS.items():
        lines += ["", f"## {verb}", "", f"{_capitalized(summary)}. Described in"]
        lines[-1] += f" [{_label(_PAGES[verb])}]({_PAGES[verb]})."
        if verb in _CONFIGURED:
            lines[-1] += " Reads [settings](settings.md)."
        lines += _parser_lines(verb, importlib.import_module(module).make_parser())
    return "\n".join(lines) + "\n"


def _parser_lines(verb: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the table of a verb, then those of its sub-verbs."""
    if parser.usage:
        yield from ("", "```text", parser.usage, "```")
    actions = [action for action in parser._actions if not _is_hidden(action)]
    groups = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    rows = [_row(action) for action in actions if action not in groups]
    if rows:
        yield from ("", "| argument | value | default | meaning |", "| --- | --- | --- | --- |")
        yield from rows
    for group in groups:
        for name, subparser in group.choices.items():
            yield from ("", f"### {verb} {name}", "", f"{_capitalized(subparser.description)}.")
            yield from _parser_lines(f"{verb} {name}", subparser)


def _label(page: str) -> str:
    """Returns how a link to a page is called: that of its folder for a README."""
    name = page.partition("#")[0].removesuffix("/README.md").removesuffix(".md")
    return name.replace("_", " ")


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _is_hidden(action: argparse.Action) -> bool:
    return action.help == argparse.SUPPRESS or bool({*action.option_strings} & {*_NOT_LISTED})


def _row(action: argparse.Action) -> str:
    meaning = " ".join((action.help or "").split())
    said = _DEFAULT.search(meaning)
    if action.option_strings and action.required:
        default = "required"
    elif said:
        default, meaning = said[1], meaning.removesuffix(said[0])
    else:
        default = "" if action.default in (None, False, [], argparse.SUPPRESS) else action.default
    name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
    cells = (f"`{name}`", _value(action), str(default), meaning)
    return f"| {' | '.join(map(_escaped, cells))} |"


def _value(action: argparse.Action) -> str:
    """Returns what follows a flag: its choices, the name of its value, or the kind of it."""
    if not action.option_strings or action.nargs == 0:
        return ""
    if action.choices:
        return ", ".join(map(str, action.choices))
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return action.metavar or {int: "integer", float: "number"}.get(action.type, "text")


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    (directory / "verbs.md").write_text(page(), encoding="utf-8")
    print(f"wrote {directory / 'verbs.md'}")
