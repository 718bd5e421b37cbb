"""Numbers that users set: what cannot work is one sentence."""

import re

import pytest

from flan_jax.errors import UserError
from flan_jax.models.decoder import DecoderConfig
from flan_jax.models.t5 import T5Config
from flan_jax.training import partitioning
from flan_jax.training.loop import TrainConfig
from flan_jax.training.optimizer import adafactor

T5 = dict(vocab_size=128, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16, num_encoder_layers=1, num_decoder_layers=1)
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
    (lambda: TrainConfig(embedding_rows="abc"), "Train.embedding_rows must be a whole number"),
    (lambda: TrainConfig(keep=0), "KEEP must be a whole number of at least 1, not 0."),
    (lambda: TrainConfig(microbatches=True), "not True."),
    (lambda: TrainConfig(label_smoothing=1.0), "Train.label_smoothing must be a number of at least 0 and below 1"),
    (lambda: TrainConfig(z_loss="abc"), "Train.z_loss must be a number, not 'abc'."),
    (lambda: TrainConfig(profile_steps=-2), "--profile must be a whole number of at least 0, not -2."),
    (lambda: adafactor("abc"), "LEARNING_RATE) must be a number, not 'abc'."),
    (lambda: adafactor(warmup_steps="abc"), "adafactor.warmup_steps must be a whole number of at least 0"),
    (lambda: partitioning.make_mesh({"fsdp": "x"}), "must have whole positive sizes"),
    (lambda: partitioning.make_mesh({"fsdp": 1.0}), "must have whole positive sizes"),
])
def test_a_number_that_cannot_be_is_refused(make, says):
    with pytest.raises(UserError, match=re.escape(says)):
        make()


def test_what_may_be_none_may_be_none():
    assert TrainConfig(embedding_rows=None).embedding_rows is None
    assert DecoderConfig(**DECODER, num_kv_heads=None).kv_heads == 2
