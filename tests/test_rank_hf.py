"""Rank scores against Hugging Face's T5 with the same weights, on real rows.

Needs torch and transformers, which flan_jax does not: without them this is skipped, and says so.
"""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE
from flan_jax.checkpoints.load import load_parameters
from flan_jax.checkpoints.open import open_checkpoint
from flan_jax.data.config import DataConfig
from flan_jax.data.run_data import open_data
from flan_jax.evaluation.rank_scorer import RankScorer
from flan_jax.models import t5
from flan_jax.parallel import partitioning
from support.converting import t5_batch

NOT_CHECKED = "NOT CHECKED AGAINST HUGGING FACE: torch and transformers are not installed here"
torch = pytest.importorskip("torch", reason=NOT_CHECKED)
transformers = pytest.importorskip("transformers", reason=NOT_CHECKED)

from test_convert_hf import save_t5  # noqa: E402

torch.set_num_threads(1)  # a tiny model: threads only cost
DATASETS, ROWS, VOCABULARY_ROWS = ("anli_r1", "hellaswag", "copa", "bool_q"), 50, 32128


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gives Hugging Face's model with random weights of T5 1.1's kind, ours and its parameters."""
    directory = tmp_path_factory.mktemp("t5")
    save_t5(
        transformers,
        directory,
        tied=False,
        feed_forward_proj="gated-gelu",
        vocab_size=VOCABULARY_ROWS,
        d_model=64,
        d_kv=16,
        num_heads=4,
        d_ff=96,
        num_decoder_layers=2,
    )
    arrays = load_file(directory / "model.safetensors")
    # As small as T5 begins: these weights are made to show what is wrong, and rounding shows in
    # them as well.
    small = {name: array if "norm" in name else array / 4 for name, array in arrays.items()}
    save_file(small, directory / "model.safetensors")
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(directory).eval()
    theirs.config.decoder_start_token_id = 0
    checkpoint = open_checkpoint(directory)
    model = t5.T5(dataclasses.replace(checkpoint.config, dropout_rate=0.0))
    boxed = jax.eval_shape(
        lambda: model.init(jax.random.key(0), t5_batch(VOCABULARY_ROWS))["params"]
    )
    return theirs, model, load_parameters(directory, partitioning.unbox(boxed))[1]


def their_scores(theirs, source, options) -> list[float]:
    """The summed log-probability of each option.

    The input repeated for each, no row padded but the shorter options.
    """
    width = max(map(len, options))
    labels = np.stack(
        [np.pad(option, (0, width - len(option)), constant_values=-100) for option in options]
    )
    labels = torch.tensor(labels, dtype=torch.long)
    ids = torch.tensor(source, dtype=torch.long).repeat(len(options), 1)
    with torch.no_grad():
        logits = theirs(input_ids=ids, decoder_input_ids=theirs._shift_right(labels)).logits
    log_probabilities = logits.gather(-1, labels.clamp(min=0)[..., None])[
        ..., 0
    ] - logits.logsumexp(-1)
    return (log_probabilities.double() * (labels >= 0)).sum(-1).tolist()


@pytest.mark.parametrize("name", DATASETS)
def test_scores_of_real_rows_are_theirs(models, name, real_rows, t5_vocabulary, tmp_path):
    theirs, model, params = models
    data = open_data(
        DataConfig(
            source="jsonl",
            data_dir=str(real_rows),
            vocabulary=t5_vocabulary,
            held_out="none",
            eval_datasets=name,
            eval_templates=1,
            eval_max_rows=ROWS,
            cache_dir=str(tmp_path),
        )
    )
    dataset = CATALOGUE[name]
    data.eval.build(dataset, dataset.forward()[0])
    examples = data.eval.examples(dataset, dataset.forward()[0])
    assert len(examples.inputs) == ROWS
    ours = RankScorer(model).scores(params, examples.inputs, examples.options)
    for source, options, scores in zip(examples.inputs, examples.options, ours):
        expected = their_scores(theirs, source, options)
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
        assert np.argmax(scores) == np.argmax(expected)
    assert np.ptp(np.concatenate(ours)) > 1, "scores that are all alike test nothing"
