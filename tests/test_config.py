"""gin files and `--gin.NAME=value`: which files are read, how values are parsed, and the errors."""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys

import gin
import pytest

from flan_jax.config import gin_files, gin_search, settings_help
from flan_jax.data.config import DataConfig
from flan_jax.errors import UserError
from flan_jax.training.config import TrainConfig


@gin.configurable(denylist=["vocabulary"])
def toy_run(steps=1, mixture="all", lengths=None, cluster=None, make=None, *, vocabulary=None):
    """Returns its arguments, so that a test sees what gin bound."""
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
    """Returns the error for a command line; always a single line."""
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
    monkeypatch.setattr(gin_search, "shipped_directory", lambda: gin_dir / "shipped")
    parse("--gin_file=top.gin", "--gin_search_paths=a,b")
    assert toy_run()["steps"] == 5 and toy_run()["mixture"] == "beside" and toy_maker() == 9
    parse("--gin_file=gin/size/small.gin")
    assert toy_maker() == 9


def test_shipped_files_have_two_names_from_any_directory(gin_dir):
    for path in gin_search.shipped_directory().rglob("*.gin"):
        name = str(path.relative_to(gin_search.shipped_directory()))
        assert gin_search.find_gin_file(name) == gin_search.find_gin_file(f"gin/{name}") == path


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
def test_the_error_for_a_size_or_a_mesh_alone_names_the_file_to_add(name):
    said = message(f"--gin_file={name}", modules=["flan_jax.models.decoder"])
    assert said.endswith("is set but nothing reads it; give --gin_file=gin/flan.gin before it.")


def test_a_macro_that_the_program_reads_itself_may_be_unread(gin_dir):
    parse("--gin_file=main.gin", "--gin.MODEL_DIR=runs/x", may_be_unread=["MODEL_DIR"])
    assert gin_files.macro("MODEL_DIR") == "runs/x"
    assert "MODEL_DIR = 'runs/x'" in gin_files.config_text()
    with pytest.raises(UserError, match="add --gin.SEED=VALUE"):
        gin_files.macro("SEED")


def test_a_macro_that_is_required_or_read_must_be_set(gin_dir):
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
def test_errors_in_a_file_name_its_line(gin_dir, monkeypatch, line, expected):
    monkeypatch.setattr(gin_search, "shipped_directory", lambda: gin_dir)
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
def test_errors_in_an_argument_name_it(gin_dir, argument, expected):
    assert expected in message("--gin_file=main.gin", argument)


def test_a_file_that_is_not_there_says_where_it_was_looked_for(gin_dir):
    for name in ("here", "there"):
        (gin_dir / name).mkdir(exist_ok=True)
    text = message("--gin_file=flam.gin", "--gin_search_paths=here,there")
    for place in (gin_dir, gin_dir / "here", gin_dir / "there", gin_search.shipped_directory()):
        assert str(place) in text


def test_search_paths_are_directories(gin_dir):
    assert "'nowhere' is not a directory" in message(
        "--gin_file=main.gin", "--gin_search_paths=nowhere"
    )


def test_help_lists_every_setting_of_the_default_run_with_its_default_and_meaning():
    for module in gin_files.CONFIGURED:
        importlib.import_module(module)
    listed = {
        name: (settings_help.default_text(fields[0]), settings_help.meaning(fields))
        for name, fields in settings_help.by_name(gin_files.CONFIGURED).items()
        if name.isupper()
    }
    page = (gin_search.shipped_directory() / "flan.gin").read_text()
    names = [
        line.partition(" = ")[0]
        for line in page.splitlines()
        if line[:1].isupper() and "." not in line.partition(" = ")[0]
    ]
    assert sorted(listed) == sorted([*names, "ARCHITECTURE", "SIZE"])  # these two by gin/size
    assert listed["TRAIN_STEPS"] == ("300", "updates in all")
    assert listed["MESH"][0] == "{'fsdp': -1}"
    assert listed["DECONTAMINATE"][1].endswith(
        "are left out and counted; `flan-jax tasks overlap` shows them"
    )
    assert all(
        len(meaning.split()) > 2 or name == "TRAIN_STEPS" for name, (_, meaning) in listed.items()
    )


def test_the_fields_of_a_macro_have_one_default():
    for name, fields in settings_help.by_name(gin_files.CONFIGURED).items():
        assert len({repr(declared.default) for declared in fields}) == 1, name


def test_the_default_run_is_what_the_declarations_say():
    parse("--gin_file=gin/flan.gin", modules=gin_files.CONFIGURED)
    for name, fields in settings_help.by_name(gin_files.CONFIGURED).items():
        if name.isupper() and name != "SIZE":  # the page includes a size
            assert gin_files.macro(name) == fields[0].default, name


def test_setting_a_macro_sets_the_fields_that_declare_it(gin_dir):
    (gin_dir / "own.gin").write_text("Data.shots = 1\nSEED = 3\nData.batch_size = 2\n")
    parse("--gin_file=own.gin", modules=gin_files.CONFIGURED)
    assert (DataConfig().seed, TrainConfig().seed) == (3, 3)
    assert (DataConfig().shots, DataConfig().batch_size) == (1, 2)
    assert "Data.seed = %SEED\n" in gin_files.config_text()


def test_a_field_that_is_set_keeps_its_value_whatever_sets_the_macro_again(gin_dir):
    more = ["--gin.Data.seed=7", "--gin.SEED=8", "--gin.Train.log_every=%SHOTS", "--gin.SHOTS=2"]
    parse("--gin_file=gin/flan.gin", *more, modules=gin_files.CONFIGURED)
    assert (DataConfig().seed, TrainConfig().seed, TrainConfig().log_every) == (7, 8, 2)
    (gin_dir / "config.gin").write_text(gin_files.config_text())
    parse("--gin_file=config.gin", "--gin.SEED=9", modules=gin_files.CONFIGURED)
    assert (DataConfig().seed, TrainConfig().seed) == (7, 9)


# The lines that gin/flan.gin had up to 0.2, and the config.gin of runs still have.
_OLD = """
include 'size/t5_tiny.gin'
HELD_OUT = 'sentiment'
MODEL_DIR = 'runs/old'
MESH = {'fsdp': 1}
DROPOUT_RATE = 0.2
LEARNING_RATE = 1e-3
Data.architecture = %ARCHITECTURE
Data.held_out = %HELD_OUT
Train.model_dir = %MODEL_DIR
Train.mesh = %MESH
Train.size = %SIZE
T5Config.dropout_rate = %DROPOUT_RATE
adafactor.learning_rate = %LEARNING_RATE
"""


def test_gin_files_with_the_lines_that_bind_macros_to_fields_still_load(gin_dir):
    (gin_dir / "old.gin").write_text(_OLD)
    (gin_dir / "own.gin").write_text("include 'flan.gin'\nHELD_OUT = 'coreference'\n")
    parse("--gin_file=old.gin", "--gin.MODEL_DIR=new", modules=gin_files.CONFIGURED)
    assert (DataConfig().held_out, TrainConfig().model_dir) == ("sentiment", "new")
    assert (TrainConfig().mesh, TrainConfig().size) == ({"fsdp": 1}, "t5_tiny")
    assert gin.query_parameter("DecoderConfig.dropout_rate").scopes == ["DROPOUT_RATE"]
    parse("--gin_file=own.gin", modules=gin_files.CONFIGURED)
    assert DataConfig().held_out == "coreference"


def test_a_later_file_that_includes_the_default_run_sets_its_fields_again(gin_dir):
    (gin_dir / "first.gin").write_text("include 'flan.gin'\nData.held_out = 'sentiment'\n")
    (gin_dir / "second.gin").write_text("include 'flan.gin'\nSEED = 1\n")
    parse("--gin_file=first.gin", modules=gin_files.CONFIGURED)
    assert DataConfig().held_out == "sentiment"
    parse("--gin_file=first.gin", "--gin_file=second.gin", modules=gin_files.CONFIGURED)
    assert (DataConfig().held_out, DataConfig().seed, TrainConfig().seed) == ("nli", 1, 1)


def test_a_macro_leaves_a_field_that_was_set_before(gin_dir):
    (gin_dir / "own.gin").write_text("Train.seed = 3\nSEED = 7\n")
    parse("--gin_file=own.gin", modules=gin_files.CONFIGURED)
    assert (TrainConfig().seed, DataConfig().seed) == (3, 7)


def test_help_of_a_verb_shows_the_settings(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help", modules=gin_files.CONFIGURED)
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "\n  HELD_OUT = 'nli'\n        clusters that do not train and are" in out
    assert (
        "Train.keep = 3" in out
        and "adafactor.decay_rate = 0.8" in out
        and "Data.held_out =" not in out
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
