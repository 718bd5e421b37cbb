"""The pages of docs/.

The generated ones are what the code gives, links lead somewhere, examples run as they stand.
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest

import flan_jax.catalogue
from flan_jax.catalogue import CATALOGUE, CLUSTERS, Catalogue, Template
from flan_jax.catalogue.relations import RELATIONS
from flan_jax.catalogue.splits import held_out_split
from flan_jax.config import gin_files
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.data.config import DataConfig
from flan_jax.data.packs import Packs
from flan_jax.data.run_data import open_data
from flan_jax.errors import UserError
from flan_jax.tasks.__main__ import main as tasks_verb
from support.pages import PAGES, ROOT, blocks, commands, name_of

# A run's directory or configuration, or the default run, as commands of the pages name them.
RUN_OR_DEFAULT = re.compile(r"^(runs/\w+|--gin_file=(runs/\w+/config|gin/flan)\.gin)$")
SMALL = [
    "--gin.TRAIN_STEPS=2",
    "--gin.BATCH_SIZE=2",
    "--gin.CACHE_DIR=cache",
    "--gin.T5Config.emb_dim=32",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.EVAL_ROWS=1",
    "--gin.Data.validation_batches=1",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 64}",
]


def section(page: str, title: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def run(command: list[str], directory: pathlib.Path) -> str:
    """What a command of a page prints; `flan-jax` and `python` are those of these tests."""
    flan_jax = [
        sys.executable,
        "-c",
        "import sys; from flan_jax.cli import dispatch; sys.exit(dispatch.main())",
    ]
    program = {"python": [sys.executable], "flan-jax": flan_jax}[command[0]]
    result = subprocess.run(
        [*program, *command[1:]],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout


# --- The generated pages and the links
# --------------------------------------------------------------------------------


def test_the_generated_pages_are_what_the_code_gives(tmp_path):
    for script in sorted((ROOT / "docs").glob("make_*.py")):
        if script.name != "make_notebooks.py":  # test_docs_python.py has it
            subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "catalogue.md",
        "templates.md",
        "fidelity.md",
        "settings.md",
        "verbs.md",
        "results.md",
        "flan.gin",
    }
    for made in tmp_path.iterdir():
        committed = ROOT / ("gin" if made.suffix == ".gin" else "docs") / made.name
        assert committed.read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), (
            f"{committed} is behind the code: run `make docs`"
        )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^()\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}, which is not there"
        if heading:
            assert heading in anchors(file), (
                f"{page.name} links to {target}, a heading that is not there"
            )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lists_and_tables_follow_an_empty_line(page):
    """Without it, GitHub shows a list and the documentation site a paragraph."""
    text = re.sub(r"^```.*?^```$", "```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for before, line in itertools.pairwise(text.splitlines()):
        for sign in ("- ", "|", "1. "):
            same = before.startswith((sign, " ", "#")) or not before.strip()
            assert same or not line.startswith(sign), f"{before}\n{line}"


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {flan_jax.__version__}\n" in text


def anchors(page: pathlib.Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- Add a dataset
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def ferry(tmp_path) -> pathlib.Path:
    """A directory with the page's module and rows."""
    text = section("add_a_dataset.md", "The module")
    (tmp_path / "ferry.py").write_text(blocks(text, "python")[0], encoding="utf-8")
    (tmp_path / "gin").symlink_to(ROOT / "gin")
    (tmp_path / "rows/ferry").mkdir(parents=True)
    for split, rows in zip(("train", "test"), blocks(text, "json"), strict=True):
        (tmp_path / f"rows/ferry/{split}.jsonl").write_text(rows, encoding="utf-8")
    return tmp_path


def test_a_new_dataset_is_checked_and_shown_as_the_page_says(ferry):
    text = section("add_a_dataset.md", "Check it and look at it")
    for command, printed in zip(commands(text), blocks(text, "text"), strict=True):
        assert run(command, ferry) == printed, shlex.join(command)


def test_a_new_dataset_trains_and_is_held_out_as_the_page_says(ferry):
    alone, held_out = commands(section("add_a_dataset.md", "Train on it, or hold it out"))
    assert "evaluated as unseen: not guaranteed: ferry is not held out" in run(
        [*alone, *SMALL], ferry
    )
    assert (ferry / "runs/ferry/checkpoints/2").is_dir()
    assert "ferry" in (ferry / "runs/ferry/results.csv").read_text()
    other = ferry / "rows/ag_news_subset"
    other.mkdir()
    (other / "train.jsonl").write_text(
        (ROOT / "tasks/rows/ag_news_subset/train.jsonl").read_text() * 30
    )
    assert "ferry" in run([held_out[0], "prepare", *held_out[2:], *SMALL], ferry)


def test_the_page_quotes_what_registration_says(ferry, monkeypatch):
    registered = []
    monkeypatch.setattr(flan_jax.catalogue, "register", registered.append)
    runpy.run_path(str(ferry / "ferry.py"))
    refused = re.findall(
        r"^\| `(.+?)` \| (.+?) \|$", section("add_a_dataset.md", "What is refused"), re.MULTILINE
    )
    assert len(refused) > 10
    for code, message in refused:
        change = eval(code, {"Template": Template})
        changes = change if isinstance(change, dict) else {"templates": (change,)}
        with pytest.raises(UserError) as error:
            Catalogue().register(dataclasses.replace(registered[0], **changes))
        assert str(error.value) == message, code


def test_a_seqio_task_is_prepared_as_the_page_says(ferry):
    text = section("add_a_dataset.md", "A SeqIO task instead")
    (ferry / "hours.py").write_text(blocks(text, "python")[0], encoding="utf-8")
    (command,) = commands(text)
    run([command[0], "prepare", *command[2:], *SMALL], ferry)
    packs = Packs(ferry / "cache/tokens").packs()
    assert any(key.startswith("seqio.hours/train-epoch=0-") for pack in packs for key in pack.index)


# --- Splits and ablations
# ---------------------------------------------------------------------------------------------


def test_the_table_of_splits_is_what_the_code_gives():
    rows = re.findall(
        r"^\| `(\w[\w+]*)` \| (\d+) \| (\d+) \| (.+?) \| (\d+) \| (\d+) \|$",
        section("ablations.md", "One cluster held out"),
        re.MULTILINE,
    )
    assert {name for name, *_ in rows} >= set(CLUSTERS)
    for name, train, dropped, sharing, papers_train, evaluated in rows:
        split = held_out_split(CATALOGUE, name)
        papers = held_out_split(CATALOGUE, name, related="paper")
        assert [len(split.train), len(split.dropped), len(papers.train), len(split.eval)] == [
            *map(int, (train, dropped, papers_train, evaluated))
        ], name
        assert set(re.findall(r"\w+", sharing)) == set(split.dropped) - set(papers.dropped), name
    for relation in RELATIONS:
        assert (
            f"| {', '.join(relation.first)} | {', '.join(relation.second)} | {relation.why} | "
            f"{relation.measured or 'not measured'} |"
            in section("ablations.md", "Datasets that share their text")
        )


def test_every_command_of_the_ablations_is_one_that_runs_read(tmp_path):
    """The blocks run in a shell where `flan-jax` only notes its arguments.

    Each run is then configured, none trains.
    """
    noted = tmp_path / "noted"
    stub = f"flan-jax() {{ printf '%s\\t' \"$@\" >> {noted}; echo >> {noted}; }}\n"
    text = (ROOT / "docs/ablations.md").read_text(encoding="utf-8")
    subprocess.run(["bash", "-c", stub + "".join(blocks(text, ""))], check=True)
    lines = [line.rstrip("\t").split("\t") for line in noted.read_text().splitlines()]
    runs = [line for line in lines if line[0] in ("train", "eval")]
    assert len(runs) > 30
    sides = {}
    for verb, *arguments in runs:
        arguments = [
            RUN_OR_DEFAULT.sub(f"--gin_file={ROOT}/gin/flan.gin", a)
            for a in arguments
            if not a.startswith("--output=")
        ]
        gin_files.parse_command_line(arguments, CONFIGURED)
        data = open_data(DataConfig())
        if verb == "train":
            sides[pathlib.Path(gin_files.macro("MODEL_DIR")).name] = len(data.split.train)
    assert [sides[f"clusters_{n}"] for n in range(1, 8)] == [11, 19, 25, 29, 33, 36, 38]
    assert [sides[f"datasets_{n}_templates_10"] for n in range(1, 5)] == [7, 14, 20, 25]
    for line in lines:
        if line[:2] == ["tasks", "split"]:
            assert tasks_verb(line[1:]) == 0


# --- Evaluation
# --------------------------------------------------------------------------------------------------


def test_every_command_of_the_evaluation_page_is_one_that_the_verbs_read():
    runs = [
        command
        for command in commands((ROOT / "docs/evaluation.md").read_text(encoding="utf-8"))
        if command[1] in ("train", "eval")
    ]
    assert len(runs) > 8
    for _, verb, *arguments in runs:
        parser = argparse.ArgumentParser()
        for flag in ("--checkpoint", "--step", "--output", "--name") if verb == "eval" else ():
            parser.add_argument(flag)
        arguments = [RUN_OR_DEFAULT.sub(f"--gin_file={ROOT}/gin/flan.gin", a) for a in arguments]
        gin_files.parse_command_line(arguments, CONFIGURED, parser)
        assert open_data(DataConfig()).eval.jobs()
