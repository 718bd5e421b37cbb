"""Every command of every page is one that the programs read: flags, settings, values, files."""

import importlib
import re

import pytest

from flan_jax.cli import dispatch
from flan_jax.config import gin_files
from flan_jax.config.flags import add_gin_flags
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.config.gin_parsing import split_bindings
from flan_jax.config.settings_help import by_name
from support.pages import PAGES, ROOT, blocks, inline_commands, name_of, programs

SETTINGS = ("train", "eval", "generate", "prepare", "precompile", "sweep")  # verbs that read them
FILES = re.compile(
    r"(?<![\w/.])(?:gin|docs|benchmarks|examples)/[a-z0-9_./]+\.(?:gin|md|py|ipynb)\b"
)


@pytest.fixture(scope="module")
def parsers():
    made = {verb: importlib.import_module(m).make_parser() for verb, (m, _) in VERBS.items()}
    for verb in SETTINGS:
        add_gin_flags(made[verb])
    return made


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """The names that --gin.NAME=VALUE may set, with those of single fields."""
    for module in CONFIGURED:
        importlib.import_module(module)
    named = by_name(CONFIGURED)
    return {*named, *(field.parameter for fields in named.values() for field in fields)}


VERBS = dispatch.VERBS


def check_flan_jax(words: list[str], parsers, settings) -> None:
    """Checks the arguments of `flan-jax`, without reading data or models."""
    verb, *arguments = words
    assert verb in VERBS or verb in ("--help", "--version", "VERB"), verb
    if "--help" in words or verb not in VERBS:
        return
    if verb == "launch":
        cut = arguments.index("--")
        wrapped = arguments[cut + 1 :]
        check_flan_jax(wrapped if wrapped[0] in VERBS else ["train", *wrapped], parsers, settings)
        arguments = arguments[:cut]
    if verb == "sweep":
        axes = [a for a in arguments if a.startswith(("--sweep.", "--evaluate."))]
        arguments = [argument for argument in arguments if argument not in axes]
        for axis in axes:
            name = axis.partition(".")[2].partition("=")[0]
            assert name in settings or name == "gin_file", axis
    if verb not in SETTINGS:
        parsers[verb].parse_args(arguments)
        return
    bindings, rest = split_bindings(arguments)
    flags = parsers[verb].parse_intermixed_args(rest)
    # Files of runs are not here; what MODEL stands for is read from a checkpoint.
    files = [name for name in flags.gin_file if name.startswith(("gin/", str(ROOT)))]
    bindings = [binding for binding in bindings if binding[0] != "MODEL"]
    gin_files.configure(files or ["gin/flan.gin"], bindings)


def extras() -> set[str]:
    text = (ROOT / "setup.py").read_text(encoding="utf-8").split("extras_require={")[1]
    return set(re.findall(r'^        "([\w-]+)": ', text, re.MULTILINE))


def check_program(words: list[str], page: str, parsers, settings) -> None:
    program, *arguments = words
    if program == "flan-jax":
        check_flan_jax(arguments, parsers, settings)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(targets), words
    elif program == "pip":
        named = re.findall(r"(?:\.|flan_jax)\[([\w,-]+)\]", " ".join(arguments))
        assert {name for names in named for name in names.split(",")} <= extras(), words
    elif arguments[0] == "-m" and arguments[1].startswith("flan_jax."):
        assert importlib.util.find_spec(arguments[1]), words
    elif arguments[0].endswith(".py"):
        file = arguments[0]
        assert (ROOT / file).is_file() or f"`{file}`" in page, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_are_ones_that_the_programs_read(
    page, parsers, settings, monkeypatch
):
    monkeypatch.chdir(ROOT)
    text = page.read_text(encoding="utf-8")
    for words in programs(text):
        check_program(words, text, parsers, settings)
    for command in inline_commands(text):
        verb = command.split()[1].removesuffix("|...")
        assert verb in VERBS or not verb.islower() or "|" in verb, command
        for name in re.findall(r"--gin\.([\w.]+)", command):
            assert name in settings or name == "NAME", command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_files_that_a_page_names_are_there(page):
    for name in FILES.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


def test_the_commands_are_found():
    """The pages have many commands: a parser of pages that finds none holds nothing."""
    found = {name_of(page): len(programs(page.read_text(encoding="utf-8"))) for page in PAGES}
    assert sum(found.values()) > 120
    assert all(found[f"docs/tutorials/{name}.md"] for name in ("first_run", "own_data", "sweep"))


def test_the_tutorial_writes_the_rows_that_it_trains_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/tutorials/own_data.md").read_text(encoding="utf-8")
    exec(compile(blocks(text, "python")[0], "make_rows.py", "exec"), {})
    from flan_jax.tasks.__main__ import main

    assert main(["check", "pirate.jsonl"]) == 0
    described, header, *splits, note = capsys.readouterr().out.splitlines(keepends=True)
    assert described + header in text and note in text
    # The page has lengths in tokens of a model that is not here; the rest is the same.
    counts = [f"\n{split[: header.index('inputs:')].rstrip()} " for split in splits]
    assert len(counts) == 2 and all(line in text for line in counts)
