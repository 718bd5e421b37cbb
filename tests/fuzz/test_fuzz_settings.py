"""gin files, `--gin.NAME=VALUE`, command lines and registrations.

Each ends in a configuration or in a message.
"""

import dataclasses
import importlib
import json

import pytest
from harness import shares
from hypothesis import strategies as st
from mutations import damaged_bytes, odd_values

from flan_jax.catalogue import Catalogue, Dataset, Drop, Hub, Template
from flan_jax.catalogue.fingerprint import source_of_row
from flan_jax.catalogue.render import render
from flan_jax.catalogue.row_fields import read_row
from flan_jax.cli import dispatch
from flan_jax.config import gin_files, gin_registry, gin_search, settings_help
from flan_jax.data.config import DataConfig
from flan_jax.models.architectures import ARCHITECTURES, make_model
from flan_jax.optim.make import OPTIMIZERS, make_optimizer
from flan_jax.peft.config import PeftConfig
from flan_jax.training.config import TrainConfig

DEFAULT = (gin_search.shipped_directory() / "flan.gin").read_text()
MACROS = [name for name in settings_help.by_name(gin_files.CONFIGURED) if name.isupper()]

# Texts of values, as somebody types them after `--gin.NAME=` or in a file.
TEXTS = st.one_of(
    st.sampled_from(
        [
            "None",
            "True",
            "False",
            "0",
            "-1",
            "1",
            "2",
            "1e3",
            "1e400",
            "-1e400",
            "nan",
            "9" * 30,
            "9" * 5_000,
            "0.5",
            "1e-50",
            "''",
            "'nli'",
            "nli",
            "NLI",
            "all",
            "none",
            "superglue",
            "intra_99",
            "nli+nli",
            "+",
            "bytes",
            "auto",
            "[]",
            "{}",
            "()",
            "[1",
            "{'a'",
            "'a",
            "{'fsdp': -1}",
            "{'fsdp': 2, 'model': 2}",
            "{'inputs': 8, 'targets': 8}",
            "{'inputs': 1e10, 'targets': 8}",
            "{1: 2}",
            "[[1]]",
            "[" * 5_000,
            "{'a':" * 500,
            "(" * 90 + ")" * 90,
            "@T5Config()",
            "@T5Config",
            "@a/T5Config()",
            "@",
            "%",
            "%SEED",
            "%a/SEED",
            "%gin.REQUIRED",
            "@gin.singleton()",
            "%HELD_OUT",
            "az://bucket/run",
            "file:///run",
            "~nobody/run",
            "/dev/null",
            "a\0b",
            "a\x1b[2J",
            "\ud800",
            "\u202e",
            "1\n2",
            "x" * 10_000,
            "b'a'",
            "1j",
            "lambda: 0",
            "__import__('os')",
            "1 + 1",
            "1_000",
            "0x10",
            "0o7",
            "#",
            "a #b",
            "\\",
            "'a' 'b'",
            "%",
            "..",
            "import os",
            "include 'a'",
        ]
    ),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(repr),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            *MACROS,
            "T5Config.emb_dim",
            "T5Config.dtype",
            "T5Config.mlp_activations",
            "DecoderConfig.rope_scaling",
            "DecoderConfig.positions",
            "Train.keep",
            "Train.tracker",
            "Data.pack",
            "adafactor.schedule",
            "adafactor.warmup_steps",
            "adamw.b1",
            "lion.schedule",
            "Optimizer.name",
            "Peft.lora_rank",
            "Peft.lora_targets",
            "Sweep.grid",
            "Data.seed",
            "a/Data.seed",
            "Data",
            "macro",
            "gin.macro",
            "a.b.c",
            "flan_jax.",
            "SeqioTasks.shots",
            "SIZE",
            "ARCHITECTURE",
            "a//b",
            "a/",
            ".",
            "held_out",
            "Train.mode_dir",
        ]
    ),
    st.text(max_size=8),
)


def configured(argv) -> bool:
    """Whether a command line makes configurations, all plain values within bounds."""
    gin_files.parse_command_line(argv, gin_files.CONFIGURED)
    data, train = DataConfig(), TrainConfig()
    make_optimizer()
    PeftConfig()
    hash(make_model(data.architecture, 512).config)
    assert 0 < data.batch_size < 2**20 and min(data.lengths()) > 1 and max(data.lengths()) < 2**20
    assert train.microbatches > 0 and isinstance(train.model_dir, str)
    return gin_files.config_text().encode() != b""


@shares(quick=40, full=1500)
def test_arguments(fuzz, examples):
    fuzz(
        "settings: --gin.NAME=VALUE",
        st.lists(st.tuples(NAMES, TEXTS), min_size=1, max_size=3),
        lambda pairs: configured(
            ["--gin_file=gin/flan.gin", *(f"--gin.{name}={text}" for name, text in pairs)]
        ),
        examples,
    )


@shares(quick=40, full=1500)
def test_damaged_gin_files(fuzz, examples, tmp_path):
    file = tmp_path / "run.gin"

    def check(damaged):
        file.write_bytes(damaged.value)
        return configured([f"--gin_file={file}"])

    whole = DEFAULT.replace(
        "include 'size/t5_tiny.gin'",
        (gin_search.shipped_directory() / "size/t5_tiny.gin").read_text(),
    )
    fuzz("settings: bytes of a gin file", damaged_bytes(whole.encode()), check, examples)


@shares(quick=40, full=1500)
def test_lines_of_gin_files(fuzz, examples, tmp_path):
    file = tmp_path / "run.gin"

    def check(lines):
        file.write_text(
            "\n".join(["include 'gin/flan.gin'", *(f"{name} = {text}" for name, text in lines)]),
            encoding="utf-8",
            errors="surrogatepass",
        )
        return configured([f"--gin_file={file}"])

    fuzz(
        "settings: lines of a gin file",
        st.lists(st.tuples(NAMES, TEXTS), max_size=3),
        check,
        examples,
    )


def test_a_configuration_is_the_same_whatever_was_refused_before():
    gin_files.parse_command_line(["--gin_file=gin/flan.gin"], gin_files.CONFIGURED)
    text = gin_files.config_text()
    with pytest.raises(Exception, match="nothing configurable"):
        gin_files.parse_command_line(
            ["--gin_file=gin/flan.gin", "--gin.No.seed=3"], gin_files.CONFIGURED
        )
    gin_files.parse_command_line(["--gin_file=gin/flan.gin"], gin_files.CONFIGURED)
    assert gin_files.config_text() == text


WORDS = st.one_of(
    st.sampled_from(
        [
            "rte",
            "RTE",
            "nli",
            "copa",
            "",
            "--json",
            "--help",
            "-",
            "--",
            "-x",
            "--cluster=nli",
            "--cluster",
            "--num_rows",
            "--num_rows=1",
            "--num_rows=99999999999999999999",
            "--shots=1",
            "--seed=-1",
            "--seed=x",
            "--split=train",
            "--split=train[:2]",
            "--split=train[",
            "--template=terse",
            "--options_style=lettered",
            "--instructions=baseline",
            "--instructions=Baseline",
            "--held_out=nli",
            "--held_out=NLI+",
            "--held_out=",
            "--train_clusters=0",
            "--train_clusters=3",
            "--datasets_per_cluster=1",
            "--source=bundled",
            "--source=jsonl",
            "--data_dir=/dev/null",
            "--data_dir=az://b",
            "--data_dir=",
            "--module=/dev/null",
            "--module=",
            "--module=.py",
            "--module=no.such",
            "--output=az://b",
            "--from=hf",
            "--to=t5x",
            "--input=/nowhere",
            "--gin_file=gin/flan.gin",
            "--gin_file=",
            "--gin_file=/dev/null",
            "--gin_search_paths=/nowhere",
        ]
    ),
    st.text(max_size=6),
)


@shares(quick=40, full=1500)
def test_command_lines(fuzz, examples):
    verbs = st.sampled_from(
        [
            "tasks list",
            "tasks show",
            "tasks render",
            "tasks split",
            "tasks",
            "report",
            "convert",
            "launch",
            "Tasks",
            "precompile",
        ]
    )
    fuzz(
        "command lines",
        st.tuples(verbs, st.lists(WORDS, max_size=4)),
        lambda case: dispatch.main([*case[0].split(), *case[1]]) in (0, 2),
        examples,
    )


ROW = {"text": "a", "title": "b", "label": 0}
GOOD = {
    "name": "toy",
    "cluster": "nli",
    "splits": {"train": "train"},
    "fields": ("text", "title"),
    "evidence": ("text",),
    "row": dict,
    "options": ("no", "yes"),
    "templates": (Template("ask", "{text}\nIs this so?\n{options}"),),
}
FIELDS = [field.name for field in dataclasses.fields(Dataset)]
ODD = st.one_of(
    odd_values(),
    st.binary(max_size=4),
    st.lists(st.text(max_size=3), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    st.sampled_from(
        [
            dict,
            float,
            print,
            len,
            lambda raw: raw,
            lambda raw: None,
            lambda raw: Drop("why"),
            object(),
            Hub("a/b"),
            Hub(5),
            Hub("a/b", classes={"a": 1}),
            Hub("a/b", splits=["a"]),
            Template("a", "{text}\n{options}"),
            (Template("a", "{text}\n{options}"),) * 2,
            ("{text}",),
            range(3),
            {"a"},
            10**5000,
            float,
        ]
    ),
)
TEMPLATES = st.builds(
    Template,
    *(
        st.one_of(st.sampled_from(good), odd_values())
        for good in (
            ["ask", "ask_it"],
            ["{text}\nSo?\n{options}", "{text} {title}\n{options}", "{answer}"],
            ["{answer}", "{text}"],
            ["forward", "inverted"],
        )
    ),
)


def registered(changes) -> bool:
    """Whether a registration is refused, or its dataset works.

    A dataset that works renders a row and has a key and a summary.
    """
    dataset = Catalogue().register(Dataset(**{**GOOD, **changes}))
    source_of_row(dataset)
    json.dumps(
        [
            dataset.name,
            dataset.paper_dataset,
            dataset.license,
            dataset.options,
            list(dataset.splits.items()),
        ],
        ensure_ascii=False,
    ).encode()
    row = read_row(dataset, dict(ROW), "toy/train/0")
    if not isinstance(row, Drop):
        for template in dataset.templates:
            text = render(dataset, template, row, row_id="toy/train/0")
            (text.inputs + text.targets).encode()
    return True


@shares(quick=80, full=1500)
def test_registrations(fuzz, examples):
    fuzz(
        "registrations: fields",
        st.dictionaries(st.sampled_from(FIELDS), ODD, min_size=1, max_size=2),
        registered,
        examples,
    )
    fuzz(
        "registrations: templates",
        st.lists(TEMPLATES, min_size=1, max_size=2).map(lambda made: {"templates": tuple(made)}),
        registered,
        examples,
    )


@shares(quick=60, full=1000)
def test_rows(fuzz, examples):
    """Whether what a row function returns is a usable row, a dropped one, or a message.

    The message names the row's place.
    """
    rows = st.dictionaries(
        st.sampled_from(
            ["text", "title", "label", "options", "answer", "references", "group", "value"]
        ),
        ODD,
    )
    fuzz(
        "registrations: rows",
        rows,
        lambda row: registered({"row": lambda raw, row=row: {**ROW, **row}}),
        examples,
    )


def test_every_module_of_settings_is_fuzzed():
    for name in (*gin_files.CONFIGURED, "flan_jax.data.seqio.settings"):
        importlib.import_module(name)
    models = [record.config.__name__ for record in ARCHITECTURES.values()]
    fuzzed = {"Data", "Train", "Optimizer", "Peft", "Sweep", *OPTIMIZERS, *models, "SeqioTasks"}
    assert {
        item.name
        for item in gin_registry.configurables().values()
        if item.module.startswith("flan_jax.")
    } == fuzzed
