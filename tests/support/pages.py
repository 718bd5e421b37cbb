"""The pages of the documentation, their blocks of code, and the commands in them."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# The languages of blocks of commands; '' is that of gin settings and rows, too.
_SHELL = ("", "bash", "sh")
_PROMPT_OF_A_PROGRAM = re.compile(r"^(\w+=\S+ )*(flan-jax|python|make|pip) ")


def name_of(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a text; `language` is '' for commands."""
    return [
        body
        for found, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if found == language
    ]


def commands(text: str) -> list[list[str]]:
    """The words of each line of the blocks without a language."""
    return [
        shlex.split(line)
        for block in blocks(text, "")
        for line in block.replace("\\\n", " ").splitlines()
    ]


def programs(text: str) -> list[list[str]]:
    """The words of each command of our programs in the blocks, without what the shell does.

    Loops, `VARIABLE=value` and comments are left out, and a variable is 1.
    """
    lines = [
        line.strip()
        for language in _SHELL
        for block in blocks(text, language)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = [
        re.sub(r"\$\{?\w+\}?", "1", line) for line in lines if _PROMPT_OF_A_PROGRAM.match(line)
    ]
    return [_without_environment(shlex.split(line, comments=True)) for line in found]


def inline_commands(text: str) -> list[str]:
    """The commands of `flan-jax` within the text and its tables."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(command.split()) for command in re.findall(r"`(flan-jax [^`]+)`", text)]


def _without_environment(words: list[str]) -> list[str]:
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words
