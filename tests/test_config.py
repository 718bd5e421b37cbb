"""gin files and `--gin.NAME=value`: what is found, how values are read, and what a mistake
answers.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import gin
import pytest

from flan_jax.config import gin_files
from flan_jax.errors import UserError


@gin.configurable(denylist=["vocabulary"])
def toy_run(steps=1, mixture="all", lengths=None, cluster=None, make=None, *, vocabulary=None):
    """Gives its arguments back, so that a test sees what gin bound."""
    del vocabulary
    return {
        "steps": steps,
        "mixture": mixture,
        "lengths": lengths,
        "cluster": cluster,
        "make": make,
    }


@gin.configurable
def toy_maker(width=3):
    """Something to refer to."""
    return width


MAIN = """
STEPS = 10
HELD_OUT = 'nli'
LENGTHS = {'inputs': 64, 'targets': 16}
toy_run.steps = %STEPS
toy_run.cluster = %HELD_OUT
toy_run.lengths = %LENGTHS
"""


@pytest.fixture
def gin_dir(tmp_path, monkeypatch):
    """An empty working directory with a gin file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.gin").write_text(MAIN)
    return tmp_path


def parse(*argv, **options):
    return gin_files.parse_command_line(argv, **{"modules": [], **options})


def message(*argv, **options) -> str:
    """The error that a command line gives; always a single line."""
    with pytest.raises(UserError) as error:
        parse(*argv, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_then_arguments_and_twice_in_one_process(gin_dir):
    (gin_dir / "more.gin").write_text("STEPS = 20\ntoy_run.mixture = 'some'\n")
    parse("--gin_file=main.gin", "--gin_file", "more.gin", "--gin.HELD_OUT=sentiment")
    assert toy_run() == {
        "steps": 20,
        "mixture": "some",
        "lengths": {"inputs": 64, "targets": 16},
        "cluster": "sentiment",
        "make": None,
    }
    parse("--gin_file=main.gin")
    assert toy_run()["steps"] == 10
    assert toy_run()["mixture"] == "all"


@pytest.mark.parametrize(
    "text, value",
    [
        ("nli", "nli"),
        ("none", "none"),
        ("../shared/data/real", "../shared/data/real"),
        ("/data/flan v1", "/data/flan v1"),
        ("gs://bucket/run-1", "gs://bucket/run-1"),
        ("v3:8x8", "v3:8x8"),
        ("2021-09-03", "2021-09-03"),
        ("'quoted'", "quoted"),
        ('"7"', "7"),
        ("7", 7),
        ("-1", -1),
        ("1e-3", 1e-3),
        ("True", True),
        ("None", None),
        ("{'data': 2, 'model': -1}", {"data": 2, "model": -1}),
        ("('a', 'b')", ("a", "b")),
        ("''", ""),
    ],
)
def test_bare_words_are_strings_and_literals_are_literals(gin_dir, text, value):
    parse("--gin_file=main.gin", f"--gin.HELD_OUT={text}")
    assert gin_files.macro("HELD_OUT") == value
    parse("--gin_file=main.gin", "--gin.HELD_OUT", text)
    assert type(toy_run()["cluster"]) is type(value)


def test_references_and_macros_as_values(gin_dir):
    parse(
        "--gin_file=main.gin",
        "--gin.toy_run.make=@toy_maker()",
        "--gin.toy_maker.width=%STEPS",
        "--gin.toy_run.mixture=%HELD_OUT",
    )
    assert toy_run()["make"] == 10
    assert toy_run()["mixture"] == "nli"


def test_flags_of_the_verb_are_parsed_beside_gin(gin_dir):
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    flags = parse("--checkpoint", "runs/x", "--gin_file=main.gin", "--gin.STEPS=3", parser=parser)
    assert flags.checkpoint == "runs/x"
    assert flags.gin_file == ["main.gin"]
    assert toy_run()["steps"] == 3


def test_files_are_found_in_search_paths_beside_includes_and_among_the_shipped(
    gin_dir, monkeypatch
):
    for folder in ("a", "b", "shipped/size"):
        (gin_dir / folder).mkdir(parents=True)
    (gin_dir / "a/top.gin").write_text(
        "include 'in_b.gin'\ninclude 'beside.gin'\ninclude 'size/small.gin'\n"
    )
    (gin_dir / "a/beside.gin").write_text("toy_run.mixture = 'beside'\n")
    (gin_dir / "b/in_b.gin").write_text("toy_run.steps = 5\n")
    (gin_dir / "shipped/size/small.gin").write_text("toy_maker.width = 9\n")
    monkeypatch.setattr(gin_files, "_shipped", lambda: gin_dir / "shipped")
    parse("--gin_file=top.gin", "--gin_search_paths=a,b")
    assert toy_run()["steps"] == 5 and toy_run()["mixture"] == "beside" and toy_maker() == 9
    parse("--gin_file=gin/size/small.gin")
    assert toy_maker() == 9


def test_shipped_files_have_two_names_from_any_directory(gin_dir):
    for path in gin_files._shipped().rglob("*.gin"):
        name = str(path.relative_to(gin_files._shipped()))
        assert gin_files.find_gin_file(name) == gin_files.find_gin_file(f"gin/{name}") == path


def test_the_saved_text_repeats_the_run(gin_dir):
    (gin_dir / "top.gin").write_text(
        "include 'main.gin'\ntoy_run.mixture = 'a long name ' 'in two pieces'\n"
    )
    parse(
        "--gin_file=top.gin",
        "--gin.STEPS=3",
        "--gin.toy_run.lengths={'inputs': 8}",
        "--gin.toy_run.make=@toy_maker",
    )
    saved, result = gin_files.config_text(), toy_run()
    (gin_dir / "config.gin").write_text(saved)
    for file in ("main.gin", "top.gin"):
        (gin_dir / file).unlink()
    parse("--gin_file=config.gin")
    assert toy_run() == result
    assert gin_files.config_text() == saved
    parse("--gin_file=config.gin", "--gin.STEPS=4")
    assert toy_run()["steps"] == 4


def test_a_name_that_nothing_reads_is_an_error_that_suggests_one(gin_dir):
    assert "did you mean --gin.HELD_OUT?" in message("--gin_file=main.gin", "--gin.HELDOUT=nli")
    assert "did you mean --gin.HELD_OUT?" in message("--gin_file=main.gin", "--gin.held_out=nli")
    assert "did you mean --gin.toy_run.mixture?" in message(
        "--gin_file=main.gin", "--gin.mixture=x"
    )
    assert "no setting is called 'COLOUR'." in message("--gin_file=main.gin", "--gin.COLOUR=red")
    (gin_dir / "extra.gin").write_text("include 'main.gin'\n\nSTEP = 5\n")
    assert message("--gin_file=extra.gin") == (
        "extra.gin:3: STEP is set but nothing reads it; did you mean STEPS?"
    )
    (gin_dir / "colour.gin").write_text("include 'main.gin'\nCOLOUR = 5\n")
    assert (
        message("--gin_file=colour.gin")
        == "colour.gin:2: COLOUR is set but nothing reads it; delete it."
    )


@pytest.mark.parametrize("name", ["gin/size/decoder_137b.gin", "gin/mesh/v3_128.gin"])
def test_a_size_or_a_mesh_alone_is_told_the_file_that_reads_it(name):
    said = message(f"--gin_file={name}", modules=["flan_jax.models.decoder"])
    assert said.endswith("is set but nothing reads it; give --gin_file=gin/flan.gin before it.")


def test_a_macro_that_the_program_reads_itself_may_be_unread(gin_dir):
    parse("--gin_file=main.gin", "--gin.MODEL_DIR=runs/x", may_be_unread=["MODEL_DIR"])
    assert gin_files.macro("MODEL_DIR") == "runs/x"
    assert "MODEL_DIR = 'runs/x'" in gin_files.config_text()
    with pytest.raises(UserError, match="add --gin.SEED=VALUE"):
        gin_files.macro("SEED")


def test_what_is_missing_is_asked_for(gin_dir):
    (gin_dir / "required.gin").write_text("SEED = %gin.REQUIRED\ntoy_run.steps = %SEED\n")
    assert message("--gin_file=required.gin") == "SEED is required; add --gin.SEED=VALUE."
    parse("--gin_file=required.gin", "--gin.SEED=4")
    (gin_dir / "unset.gin").write_text("toy_run.steps = %SEED\n")
    assert (
        message("--gin_file=unset.gin")
        == "unset.gin:1: SEED is read here but set nowhere; add --gin.SEED=VALUE."
    )
    assert "--gin_file=gin/flan.gin is the default run" in message("--gin.SEED=4")


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            "toy_rum.steps = 3",
            "bad.gin:2: nothing configurable is called 'toy_rum'; did you mean toy_run?",
        ),
        (
            "toy_run.step = 3",
            "bad.gin:2: toy_run has no parameter 'step'; did you mean steps? It has steps, "
            "mixture, lengths, cluster, make.",
        ),
        ("toy_run.vocabulary = 3", "toy_run has no parameter 'vocabulary'"),
        (
            "toy_run.make = @toy_make",
            "bad.gin:2: nothing configurable is called 'toy_make'; did you mean toy_maker?",
        ),
        (
            "toy_run.steps = three",
            "bad.gin:2: three is not a value; text stands in quotes: 'three'.",
        ),
        ("toy_run.steps 3", "bad.gin:2: Couldn't parse statement, expected ':' or '='."),
        ("toy_run.lengths = {'inputs': 3", "a bracket or a quote is not closed."),
        ("include 'mian.gin'", "did you mean main.gin?"),
        ("include 'bad.gin'", "bad.gin includes itself"),
        ("import no_such_module", "bad.gin:2: cannot import no_such_module"),
        ("from __gin__ import dynamic_registration", "mark the function with @gin.configurable"),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_line(gin_dir, monkeypatch, line, expected):
    monkeypatch.setattr(gin_files, "_shipped", lambda: gin_dir)
    (gin_dir / "bad.gin").write_text(f"toy_run.steps = 2\n{line}\n")
    assert expected in message("--gin_file=bad.gin")


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("--gin.toy_rum.steps=3", "did you mean toy_run?"),
        ("--gin.toy_run.make=@toy_make", "did you mean toy_maker?"),
        (
            "--gin.LENGTHS={inputs: 3}",
            "--gin.LENGTHS, {inputs: 3}: inputs is not a value; text stands in quotes: 'inputs'",
        ),
        ("--gin.LENGTHS=[1, 2", "--gin.LENGTHS, [1, 2: a bracket or quote is not closed."),
        ("--gin.HELD_OUT='nli", "--gin.HELD_OUT, 'nli"),
        ("--gin.STEPS=true", "write --gin.STEPS=True."),
        ("--gin.STEPS=", "--gin.STEPS has no value"),
        ("--gin.STEPS", "--gin.STEPS has no value"),
        ("--gin.=3", "write it as --gin.HELD_OUT=nli"),
    ],
)
def test_mistakes_in_an_argument_are_told_with_its_name(gin_dir, argument, expected):
    assert expected in message("--gin_file=main.gin", argument)


def test_a_file_that_is_not_there_says_where_it_was_looked_for(gin_dir):
    for name in ("here", "there"):
        (gin_dir / name).mkdir(exist_ok=True)
    text = message("--gin_file=flam.gin", "--gin_search_paths=here,there")
    for place in (gin_dir, gin_dir / "here", gin_dir / "there", gin_files._shipped()):
        assert str(place) in text


def test_search_paths_are_directories(gin_dir):
    assert "'nowhere' is not a directory" in message(
        "--gin_file=main.gin", "--gin_search_paths=nowhere"
    )


def test_help_lists_every_setting_of_the_default_run_with_its_default_and_meaning():
    text = (gin_files._shipped() / "flan.gin").read_text()
    listed = {
        name: (default, meaning) for name, default, meaning in gin_files.default_settings(text)
    }
    assert list(listed) == [
        line.partition(" = ")[0]
        for line in text.splitlines()
        if line[:1].isupper() and "." not in line.partition(" = ")[0]
    ]
    assert listed["TRAIN_STEPS"] == ("300", "updates in all")
    assert listed["MESH"][0] == "{'fsdp': -1}"
    assert listed["DECONTAMINATE"][1].endswith(
        "are left out and counted; `flan-jax tasks overlap` shows them"
    )
    assert all(
        len(meaning.split()) > 2 or name == "TRAIN_STEPS" for name, (_, meaning) in listed.items()
    )


def test_help_of_a_verb_shows_the_settings(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help", modules=gin_files.CONFIGURED)
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "\n  HELD_OUT = 'nli'\n        what does not train and is evaluated" in out
    assert (
        "Train.keep=3" in out and "adafactor.warmup_steps=0" in out and "Data.held_out=" not in out
    )


def test_tensorflow_and_jax_are_not_imported():
    code = "import sys, flan_jax.config; print({'tensorflow', 'jax', 'seqio'} & set(sys.modules))"
    root = pathlib.Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env=os.environ,
    )
    assert run.stdout.strip() == "set()"
