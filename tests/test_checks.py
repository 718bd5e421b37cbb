"""Values that users set: what cannot work is one sentence."""

import re

import pytest

from flan_jax.config import parse_command_line
from flan_jax.data.assemble import DataConfig
from flan_jax.errors import UserError
from flan_jax.models.decoder import DecoderConfig
from flan_jax.models.t5 import T5Config
from flan_jax.training import partitioning
from flan_jax.training.loop import TrainConfig
from flan_jax.training.optimizer import adafactor

T5 = dict(vocab_size=128, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_encoder_layers=1, num_decoder_layers=1)
MODULES = ("flan_jax.data.assemble", "flan_jax.training.loop", "flan_jax.training.optimizer", "flan_jax.models.t5",
           "flan_jax.models.decoder")
DECODER = dict(vocab_size=128, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_layers=1)


@pytest.mark.parametrize("make, says", [
    (lambda: T5Config(**{**T5, "emb_dim": 0}), "T5Config.emb_dim must be a whole number of at least 1, not 0."),
    (lambda: T5Config(**{**T5, "num_heads": "abc"}), "T5Config.num_heads must be a whole number of at least 1"),
    (lambda: T5Config(**T5, dropout_rate=1.5), "DROPOUT_RATE) must be a number of at least 0 and below 1, not 1.5."),
    (lambda: T5Config(**T5, dropout_rate=1), "below 1, not 1."),
    (lambda: DecoderConfig(**DECODER, dropout_rate=-0.5), "DROPOUT_RATE) must be a number of at least 0"),
    (lambda: DecoderConfig(**{**DECODER, "num_layers": 1.5}), "DecoderConfig.num_layers must be a whole number"),
    (lambda: DecoderConfig(**DECODER, rope_theta="abc"), "DecoderConfig.rope_theta must be a number, not 'abc'."),
    (lambda: TrainConfig(seed="abc"), "Train.seed must be a whole number, not 'abc'."),
    (lambda: TrainConfig(seed=1.5), "Train.seed must be a whole number, not 1.5."),
    (lambda: TrainConfig(embedding_rows="abc"), "Train.embedding_rows must be None or a whole number"),
    (lambda: TrainConfig(keep=0), "Train.keep must be a whole number of at least 1, not 0."),
    (lambda: TrainConfig(microbatches=True), "not True."),
    (lambda: TrainConfig(label_smoothing=1.0), "Train.label_smoothing must be a number of at least 0 and below 1"),
    (lambda: TrainConfig(z_loss="abc"), "Train.z_loss must be a number, not 'abc'."),
    (lambda: TrainConfig(profile_steps=-2), "--profile must be a whole number of at least 0, not -2."),
    (lambda: adafactor("abc"), "LEARNING_RATE) must be a number of at least 0, not 'abc'."),
    (lambda: adafactor(-3), "LEARNING_RATE) must be a number of at least 0, not -3."),
    (lambda: adafactor(decay_rate=-0.8), "adafactor.decay_rate must be a number of at least 0, not -0.8."),
    (lambda: adafactor(warmup_steps="abc"), "adafactor.warmup_steps must be a whole number of at least 0"),
    (lambda: partitioning.make_mesh({"fsdp": "x"}), "must have whole positive sizes"),
    (lambda: partitioning.make_mesh({"fsdp": 1.0}), "must have whole positive sizes"),
])
def test_a_number_that_cannot_be_is_refused(make, says):
    with pytest.raises(UserError, match=re.escape(says)):
        make()


@pytest.mark.parametrize("setting, says", [
    ("MODEL_DIR=7", "MODEL_DIR must be text, not 7."),
    ("CACHE_DIR=2024", "CACHE_DIR must be None or text, not 2024."),
    ("VOCABULARY=None", "VOCABULARY must be text, not None."),
    ("EVAL_DATASETS=7", "EVAL_DATASETS must be None or text, not 7."),
    ("SHOTS=True", "SHOTS must be a whole number of at least 0, not True."),
    ("EVAL_ROWS=0", "EVAL_ROWS must be None or a whole number of at least 1, not 0."),
    ("STRICT_DATA=1", "STRICT_DATA must be True or False, not 1."),
    ("SEED=1.5", "SEED must be a whole number, not 1.5."),
    ("INSTRUCTIONS=foo", "INSTRUCTIONS must be one of template, none, dataset_name, baseline, not 'foo'."),
    ("Data.pack=1", "Data.pack must be True or False, not 1."),
    ("Train.tensorboard=yes", "Train.tensorboard must be True or False, not 'yes'."),
])
def test_a_setting_of_the_wrong_kind_is_named_as_it_was_typed(setting, says):
    parse_command_line(["--gin_file=gin/flan.gin", f"--gin.{setting}"], MODULES)
    with pytest.raises(UserError, match=f"^{re.escape(says)}"):
        DataConfig(), TrainConfig()


def test_what_may_be_none_may_be_none():
    assert TrainConfig(embedding_rows=None).embedding_rows is None
    assert DecoderConfig(**DECODER, num_kv_heads=None).kv_heads == 2
