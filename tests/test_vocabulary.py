"""Hugging Face tokenizers as vocabularies, and packed rows of a decoder that they fill."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.data.assemble import DataConfig
from flan_jax.data.batches import Batches
from flan_jax.data.catalogue import CATALOGUE
from flan_jax.data.layouts import DecoderLayout, make_layout
from flan_jax.data.render import read_row, render
from flan_jax.data.sources import BundledSource, JsonlSource
from flan_jax.data.vocabulary import HuggingFaceVocabulary, load_vocabulary
from flan_jax.errors import UserError
from flan_jax.interchange.huggingface import special_tokens
from flan_jax.prepare import prepare

tokenizers = pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")

TEXTS = ["The river is high. Is the bridge open? Yes, it is!", "Zürich hat 390.000 Einwohner… naïve café — “quoted”",
         "def f(x):\n    return {'a': [1, 2], \"b\": None}\t# done", "  leading and trailing  ", "日本語 🙂 ok"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A small byte-level BPE tokenizer, trained on bundled rows, with the files that stand beside one."""
    path = tmp_path_factory.mktemp("tokenizer")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, special_tokens=["<|start|>", "<|stop|>"],
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
                                             show_progress=False)
    rows = [raw["premise"] for _, raw in BundledSource().rows(CATALOGUE["rte"], "train")]
    model.train_from_iterator(rows, trainer)
    model.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<|start|>", "eos_token": {"content": "<|stop|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_text_comes_back_and_special_tokens_are_those_of_the_files(directory):
    vocabulary = load_vocabulary(str(directory))
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.size) == (0, 1, 600)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert vocabulary.decode([*ids, vocabulary.eos_id, 77, 78]) == text
    assert vocabulary.decode(vocabulary.input_end) == "\n"
    assert load_vocabulary(str(directory / "tokenizer.json")).fingerprint == vocabulary.fingerprint


def test_what_cannot_be_a_vocabulary_is_said_in_one_sentence(directory, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable tokenizer.json"):
        load_vocabulary(str(tmp_path / "tokenizer.json"))
    (tmp_path / "alone.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="no EOS token is known"):
        load_vocabulary(str(tmp_path / "alone.json"))
    with pytest.raises(UserError, match="give the path of a SentencePiece model, or of a tokenizer.json"):
        load_vocabulary(str(tmp_path / "absent"))


@pytest.mark.parametrize("contents", ['{"eos_token": "<|st', "[]", ""])
def test_a_damaged_tokenizer_config_is_said_in_one_sentence(directory, tmp_path, contents):
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(contents)
    with pytest.raises(UserError, match="tokenizer_config.json is not readable JSON; download it again."):
        load_vocabulary(str(tmp_path))
    for name in ("tokenizer_config.json", "generation_config.json"):
        with pytest.raises(UserError, match=f"{name} is not readable JSON; download it again."):
            special_tokens({name: contents.encode()})


def test_a_decoder_row_holds_whole_examples_with_the_loss_on_their_targets(directory, tmp_path):
    data = prepare(DataConfig(architecture="decoder", vocabulary=str(directory), held_out="nli", batch_size=4,
                              train_steps=6, task_feature_lengths={"inputs": 512, "targets": 128},
                              cache_dir=str(tmp_path), validation_batches=1, eval_max_rows=2), workers=1)
    batches, vocabulary = data.batches(), data.vocabulary
    assert isinstance(batches, Batches) and isinstance(data.layout, DecoderLayout)
    seen = 0
    for step in range(len(batches)):
        batch = batches.at(step)
        assert {array.shape for array in batch.values()} == {(4, 640)}
        for row in range(4):
            segments = batch["decoder_segment_ids"][row]
            for segment, (member, epoch, index) in enumerate(data.plan().row(step * 4 + row), 1):
                there = segments == segment
                name = data.members()[member].name
                shard = batches._shard(member, epoch)
                inputs, targets = (getattr(shard, side)[index].tolist() for side in ("inputs", "targets"))
                tokens = batch["decoder_target_tokens"][row][there].tolist()
                assert tokens == [*inputs, *targets], name
                assert batch["decoder_input_tokens"][row][there].tolist() == [vocabulary.bos_id, *tokens[:-1]]
                assert batch["decoder_positions"][row][there].tolist() == list(range(len(tokens)))
                weights = batch["decoder_loss_weights"][row][there]
                assert weights.tolist() == [0] * len(inputs) + [1] * len(targets)
                prefix = batch["decoder_causal_attention"][row][there]
                assert prefix.sum() == len(inputs) + 1 and prefix[: len(inputs) + 1].all()
                assert inputs[-1:] == list(vocabulary.input_end) and targets[-1] == vocabulary.eos_id
                assert vocabulary.eos_id not in inputs
                seen += 1
            assert not batch["decoder_target_tokens"][row][segments == 0].any()
    assert seen > 24
    # Two hosts make the two halves of what one makes.
    halves = [batches.at(2, 0, 2), batches.at(2, 2, 4)]
    assert all(np.array_equal(np.concatenate([half[k] for half in halves]), batches.at(2)[k]) for k in halves[0])


def test_one_length_is_packed_well():
    from flan_jax.data.packing import pack_window

    sizes = np.random.default_rng(0).lognormal(4.5, 0.8, 4000).astype(int).clip(8, 1280)[:, None]
    rows = pack_window(sizes, (1280,))
    assert sorted(i for row in rows for i in row) == list(range(4000))
    assert all(sizes[row].sum() <= 1280 for row in rows)
    assert sizes.sum() / (1280 * len(rows)) > 0.985


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="ARCHITECTURE 'gpt' must be one of t5, decoder"):
        make_layout("gpt", 8, 8, 0)


def test_smollm2_tokenizer_gives_the_text_of_real_rows_back(real_rows):
    path = real_rows.parent / "vocab/smollm2_49152/tokenizer.json"
    vocabulary, source, count = HuggingFaceVocabulary(str(path)), JsonlSource(real_rows), 0
    assert vocabulary.size == 49152 and vocabulary.decode([vocabulary.eos_id]) == ""
    for name in ("rte", "bool_q", "wmt16_translate_ruen", "e2e_nlg", "cnn_dailymail"):
        dataset = CATALOGUE[name]
        spec = source.spec(dataset, "test")
        for index, raw in list(source.rows(dataset, spec))[:120]:
            row = read_row(dataset, raw)
            if isinstance(row, dict):
                text = render(dataset, dataset.templates[index % 10], row, row_id=str(index)).inputs
                assert vocabulary.decode(vocabulary.encode(text)) == text
                count += 1
    assert count >= 500


def test_seqio_encodes_as_the_vocabulary_does(directory):
    program = f"""
from flan_jax.data.vocabulary import load_vocabulary
import tensorflow as tf
mine = load_vocabulary({str(directory)!r}); theirs = mine.seqio()
for text in {TEXTS!r}:
    assert theirs.encode(text) == mine.encode(text) == theirs.encode_tf(tf.constant(text)).numpy().tolist(), text
    assert theirs.decode_tf(theirs.encode_tf(tf.constant(text))).numpy().decode() == text
batch = theirs.encode_tf(tf.constant({TEXTS[:2]!r}))
assert batch.to_list() == [mine.encode(t) for t in {TEXTS[:2]!r}]
assert (theirs.eos_id, theirs.bos_id, theirs.vocab_size) == (1, 0, 600) and theirs == mine.seqio()
print("FINE")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.stdout.endswith("FINE\n"), result.stderr
