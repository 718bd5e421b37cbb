"""Values that users set: what cannot work is one clear message."""

import dataclasses
import inspect
import math
import re
import typing

import jax
import pytest

from flan_jax.config.gin_files import CONFIGURED, parse_command_line
from flan_jax.config.settings import settings_of
from flan_jax.data.config import DataConfig
from flan_jax.data.seqio.settings import SeqioTasks
from flan_jax.errors import UserError
from flan_jax.models import config_checks, layers
from flan_jax.models.architectures import make_model
from flan_jax.models.decoder import DecoderConfig
from flan_jax.models.t5 import T5Config
from flan_jax.optim import schedules, settings
from flan_jax.optim.adafactor import adafactor
from flan_jax.optim.make import OPTIMIZERS
from flan_jax.parallel import partitioning
from flan_jax.peft.config import PeftConfig
from flan_jax.training.config import TrainConfig

T5 = dict(
    vocab_size=128,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
)
DECODER = dict(vocab_size=128, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_layers=1)


@pytest.mark.parametrize(
    "make, says",
    [
        (
            lambda: T5Config(**{**T5, "emb_dim": 0}),
            "T5Config.emb_dim must be a whole number of at least 1 and below",
        ),
        (
            lambda: T5Config(**{**T5, "num_heads": "abc"}),
            "T5Config.num_heads must be a whole number of at least 1",
        ),
        (
            lambda: T5Config(**T5, dropout_rate=1.5),
            "dropout_rate must be a number of at least 0 and below 1, not 1.5.",
        ),
        (lambda: T5Config(**T5, dropout_rate=1), "below 1, not 1."),
        (
            lambda: DecoderConfig(**DECODER, dropout_rate=-0.5),
            "DecoderConfig.dropout_rate must be a number of at least 0",
        ),
        (
            lambda: DecoderConfig(**{**DECODER, "num_layers": 1.5}),
            "DecoderConfig.num_layers must be a whole number",
        ),
        (
            lambda: DecoderConfig(**DECODER, rope_theta="abc"),
            "rope_theta must be a number of at least 1 and below 1e+12",
        ),
        (
            lambda: TrainConfig(seed="abc"),
            "Train.seed must be a whole number of at least 0 and below 4,294,967,296",
        ),
        (lambda: TrainConfig(seed=1.5), "and below 4,294,967,296, not 1.5."),
        (
            lambda: TrainConfig(embedding_rows="abc"),
            "Train.embedding_rows must be None or a whole number",
        ),
        (lambda: TrainConfig(keep=0), "Train.keep must be a whole number of at least 1, not 0."),
        (lambda: TrainConfig(microbatches=True), "not True."),
        (
            lambda: TrainConfig(label_smoothing=1.0),
            "Train.label_smoothing must be a number of at least 0 and below 1",
        ),
        (
            lambda: TrainConfig(z_loss="abc"),
            "Train.z_loss must be a number of at least 0 and below 1e+06",
        ),
        (
            lambda: TrainConfig(profile_steps=-2),
            "--profile must be a whole number of at least 0, not -2.",
        ),
        (
            lambda: adafactor("abc"),
            "adafactor.learning_rate must be a number of at least 1e-12, not 'abc'.",
        ),
        (
            lambda: adafactor(-3),
            "adafactor.learning_rate must be a number of at least 1e-12, not -3.",
        ),
        (
            lambda: adafactor(decay_rate=-0.8),
            "adafactor.decay_rate must be a number of at least 0 and below 10, not -0.8.",
        ),
        (
            lambda: adafactor(warmup_steps="abc"),
            "adafactor.warmup_steps must be a number of at least 0 and below 2,147,483,648, not",
        ),
        (lambda: partitioning.make_mesh({"fsdp": "x"}), "must have whole positive sizes"),
        (lambda: partitioning.make_mesh({"fsdp": 1.0}), "must have whole positive sizes"),
    ],
)
def test_a_number_that_cannot_be_is_refused(make, says):
    with pytest.raises(UserError, match=re.escape(says)):
        make()


@pytest.mark.parametrize(
    "setting, says",
    [
        ("MODEL_DIR=7", "MODEL_DIR must be text, not 7."),
        ("CACHE_DIR=2024", "CACHE_DIR must be None or text, not 2024."),
        ("VOCABULARY=None", "VOCABULARY must be text, not None."),
        ("EVAL_DATASETS=7", "EVAL_DATASETS must be None or text, not 7."),
        ("SHOTS=True", "SHOTS must be a whole number of at least 0 and below 1,025, not True."),
        ("EVAL_ROWS=0", "EVAL_ROWS must be None or a whole number of at least 1, not 0."),
        ("STRICT_DATA=1", "STRICT_DATA must be True or False, not 1."),
        ("SEED=1.5", "SEED must be a whole number of at least 0 and below 4,294,967,296, not 1.5."),
        (
            "INSTRUCTIONS=foo",
            "INSTRUCTIONS must be one of template, none, dataset_name, baseline, not 'foo'.",
        ),
        ("Data.pack=1", "Data.pack must be True or False, not 1."),
        ("TRACKER=3", "TRACKER must be None or text, not 3."),
        (
            "OPTIONS_STYLE=Fixed",
            (
                "OPTIONS_STYLE must be one of fixed, shuffled, lettered, none, mixed, not 'Fixed'; "
                "did you mean"
            ),
        ),
        ("LEARNING_RATE=0", "LEARNING_RATE must be a number of at least 1e-12, not 0."),
        (
            "LEARNING_RATE=1e400",
            "LEARNING_RATE must be a number of at least 1e-12 and below 3.4e+38, not inf.",
        ),
        (
            "BATCH_SIZE=9223372036854775808",
            "BATCH_SIZE must be a whole number of at least 1 and below 1,048,576, not 9223",
        ),
        (
            "TRAIN_STEPS=1e9",
            (
                "TRAIN_STEPS=1,000,000,000 and BATCH_SIZE=8 make 8,000,000,000 rows, and a run "
                "counts fewer"
            ),
        ),
        (
            "TASK_FEATURE_LENGTHS={}",
            "TASK_FEATURE_LENGTHS must look like {'inputs': 1024, 'targets': 256}, not {}.",
        ),
        (
            "TASK_FEATURE_LENGTHS=0",
            "TASK_FEATURE_LENGTHS must look like {'inputs': 1024, 'targets': 256}, not 0.",
        ),
        (
            "TASK_FEATURE_LENGTHS={'inputs': 1e10, 'targets': 8}",
            "'inputs' of TASK_FEATURE_LENGTHS must be a whole",
        ),
        (
            "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': True}",
            "'targets' of TASK_FEATURE_LENGTHS must be a whole number",
        ),
        ("MESH=''", "MESH must be None, 'auto' or sizes such as {'data': 2, 'fsdp': 4}, not ''."),
        ("MODEL_DIR=''", "MODEL_DIR must be text, not empty."),
        ("DATA_DIR=''", "DATA_DIR must be None or text, not empty; None is the default."),
        (
            "DATA_DIR=/rows",
            (
                "DATA_DIR is not read with DATA_SOURCE=bundled, the rows that come with the "
                "package; set"
            ),
        ),
        ("CACHE_DIR=az://bucket", "CACHE_DIR az://bucket is a URL, and az:// is not supported"),
        ("DATA_DIR=gs://me:secret@bucket", "DATA_DIR is a URL of gs:// with a password"),
        ("VOCABULARY=hf://t5/spiece.model", "VOCABULARY hf://t5/spiece.model is a URL"),
        (
            "INITIAL_CHECKPOINT_PATH=s3://bucket/small?X-Amz-Signature=1",
            "INITIAL_CHECKPOINT_PATH is a URL of s3:// with a password or parameters; give",
        ),
        (
            "EVAL_SPLIT=tset",
            "EVAL_SPLIT must be one of train, validation, test, not 'tset'; did you mean test?",
        ),
        (
            "EVAL_TEMPLATES=0",
            "EVAL_TEMPLATES without ids must be a whole number of at least 1, not 0.",
        ),
        ("MODEL_DIR='a\\x1b[2Jb'", "MODEL_DIR must be text without control characters"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_as_it_was_typed(setting, says):
    parse_command_line(["--gin_file=gin/flan.gin", f"--gin.{setting}"], CONFIGURED)
    with pytest.raises(UserError, match=f"^{re.escape(says)}"):
        DataConfig(), TrainConfig(), adafactor()


def test_a_whole_number_may_be_written_as_a_float():
    parse_command_line(
        [
            "--gin_file=gin/flan.gin",
            "--gin.TRAIN_STEPS=1e3",
            "--gin.KEEP=2.0",
            "--gin.Train.keep=%KEEP",
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 64.0, 'targets': 16}",
        ],
        CONFIGURED,
    )
    values = [DataConfig().train_steps, TrainConfig().keep, *DataConfig().lengths()]
    assert values == [1000, 2, 64, 16] and {type(value) for value in values} == {int}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--gin.SEED=@T5Config()"], "Data.seed must be a plain value, not @T5Config()."),
        (
            ["--gin.T5Config.emb_dim=@adafactor"],
            "T5Config.emb_dim must be a plain value, not @adafactor.",
        ),
        (
            ["--gin.MESH={'fsdp': @T5Config()}"],
            "Train.mesh must be a plain value, not @T5Config().",
        ),
        (
            ["--gin.SEED=%SHOTS", "--gin.SHOTS=%SEED"],
            "SEED is set to itself, by way of %SHOTS; give it a value.",
        ),
        (["--gin.SEED=%SEED"], "SEED is set to itself, by way of SEED; give it a value."),
        (
            ["--gin.mine/Data.seed=1"],
            "mine/Data.seed is set in a scope, and nothing reads it there; set Data.seed.",
        ),
    ],
)
def test_a_setting_is_a_plain_value(arguments, says):
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        parse_command_line(["--gin_file=gin/flan.gin", *arguments], CONFIGURED)


def test_a_model_without_a_size_names_the_settings_that_it_lacks(tmp_path):
    (tmp_path / "none.gin").write_text("T5Config.emb_dim = 8\n")
    parse_command_line([f"--gin_file={tmp_path}/none.gin"], CONFIGURED)
    with pytest.raises(
        UserError,
        match="^T5Config.num_heads, T5Config.head_dim, .* not set; give a size: --gin_file=",
    ):
        make_model("t5", 128)


_NO_NUMBER = [
    math.nan,
    math.inf,
    -math.inf,
    -1e400,
    2**63,
    -(2**63),
    10**5000,
    1e39,
    True,
    False,
    "1",
    [1],
    (),
    {},
    b"1",
    object(),
    1j,
    "@T5Config()",
]
_NO_TEXT = [7, True, 1.5, ["a"], {}, b"a", object(), "a\0b", "a\x1b[2J", "a\nb", "\ud800", ""]
_OTHER = [
    None,
    0,
    -1,
    "",
    "auto",
    {"fsdp": 0},
    {1: 1},
    {"inputs": None, "targets": 2},
    [None],
    {"factor": 1},
    "x" * 10**6,
]
_CONFIGS = {
    TrainConfig: {},
    DataConfig: {},
    PeftConfig: {},
    T5Config: T5,
    DecoderConfig: DECODER,
    SeqioTasks: {},
}


@pytest.mark.parametrize("kind", _CONFIGS, ids=lambda kind: kind.__name__)
def test_every_setting_refuses_every_hostile_value(kind):
    """Whatever the setting and the value.

    A legal configuration, or a message; a number or a text is never another.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        is_number = {int, float} & {hints[field.name], *typing.get_args(hints[field.name])}
        is_text = str in (hints[field.name], *typing.get_args(hints[field.name]))
        for value in [*_NO_NUMBER, *_NO_TEXT, *_OTHER]:
            try:
                config = kind(**{**_CONFIGS[kind], field.name: value})
            except UserError as error:
                assert field.name.removesuffix("_steps").upper() in str(error).upper(), (
                    field.name,
                    str(error),
                )
                assert len(str(error)) < 1000
                continue
            if is_number and not is_text:
                assert all(value is not wrong for wrong in _NO_NUMBER), (field.name, value)
            if is_text and not is_number and value != field.default:
                assert all(value is not wrong for wrong in _NO_TEXT), (field.name, value)
            hash(dataclasses.astuple(config)) if kind in (T5Config, DecoderConfig) else repr(config)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_number_of_an_optimizer_refuses_every_hostile_value(optimizer):
    parameters = inspect.signature(optimizer).parameters
    numbers = [
        name for name in settings_of(optimizer) if type(parameters[name].default) in (int, float)
    ]
    for name in [*numbers, "clip_norm"]:
        for value in _NO_NUMBER:
            is_large = name in ("learning_rate", "clip_norm") and value == 2**63
            # large, but a number: the run says that it diverges
            if is_large or (name == "clip_norm" and value is None):
                continue
            with pytest.raises(UserError, match=f"{optimizer.__name__}.{name} must be"):
                optimizer(**{name: value})
    with pytest.raises(UserError, match="did you mean rsqrt"):
        optimizer(schedule="RSQRT")


@pytest.mark.parametrize(
    "mesh",
    [
        {},
        {"fsdp": 2**63},
        {"fsdp": True},
        {"data": "x", "fsdp": "y"},
        {1: 1},
        {"FSDP": 1},
        {"fsdp": math.nan},
        {"data": -1, "fsdp": -1},
        {"fsdp": 0},
        [],
        "x",
        {"fsdp": [1]},
    ],
)
def test_a_mesh_is_whole_sizes_of_known_axes(mesh):
    if mesh == {} and len(jax.devices()) == 1:
        assert partitioning.make_mesh(mesh).size == 1
        return
    with pytest.raises(UserError, match="(?i)mesh"):
        partitioning.make_mesh(mesh)


def test_what_may_be_none_may_be_none():
    assert TrainConfig(embedding_rows=None).embedding_rows is None
    assert DecoderConfig(**DECODER, num_kv_heads=None).kv_heads == 2


def test_choices_that_are_declared_without_jax_are_those_that_there_are():
    assert set(config_checks.ACTIVATIONS) == set(layers.ACTIVATIONS)
    assert tuple(layers.REMATS) == config_checks.REMATS
    assert tuple(schedules.SCHEDULES) == settings.SCHEDULES
