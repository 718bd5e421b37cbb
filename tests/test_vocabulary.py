"""Hugging Face tokenizers as vocabularies, and packed rows of a decoder that they fill."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE
from flan_jax.catalogue.render import render
from flan_jax.catalogue.row_fields import read_row
from flan_jax.data.batches import Batches
from flan_jax.data.config import DataConfig
from flan_jax.data.encode import Encoder, Rendering
from flan_jax.data.layout import DecoderLayout, make_layout
from flan_jax.data.sources.bundled import BundledSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.special_tokens import read_special_tokens
from flan_jax.data.vocabulary import HuggingFaceVocabulary, load_vocabulary, padded_size
from flan_jax.errors import UserError
from flan_jax.prepare import prepare
from support import tokenizer_files

tokenizers = pytest.importorskip("tokenizers", reason="the extra [hf] is not installed")

TEXTS = [
    "The river is high. Is the bridge open? Yes, it is!",
    "Zürich hat 390.000 Einwohner… naïve café — “quoted”",
    "def f(x):\n    return {'a': [1, 2], \"b\": None}\t# done",
    "  leading and trailing  ",
    "日本語 🙂 ok",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A small byte-level BPE tokenizer, trained on bundled rows, with the files beside it."""
    path = tmp_path_factory.mktemp("tokenizer")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|start|>", "<|stop|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
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
    with pytest.raises(
        UserError, match="give the path of a SentencePiece model, or of a tokenizer.json"
    ):
        load_vocabulary(str(tmp_path / "absent"))


@pytest.mark.parametrize("contents", ['{"eos_token": "<|st', "[]", ""])
def test_a_damaged_tokenizer_config_is_said_in_one_sentence(directory, tmp_path, contents):
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(contents)
    with pytest.raises(UserError, match=r"tokenizer_config.json is not readable \(.+\); download"):
        load_vocabulary(str(tmp_path))
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        with pytest.raises(UserError, match=rf"{name} is not readable \(.+\); download"):
            read_special_tokens({name: contents.encode()})


@pytest.mark.parametrize(
    "name, contents, message",
    [
        (
            "tokenizer_config.json",
            {"eos_token": ["</s>"]},
            r"eos_token is \['</s>'\], but must be a text",
        ),
        (
            "tokenizer_config.json",
            {"eos_token": "</end>"},
            "has no token </end>, which the files beside it name",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": ["</s>"]},
            "added_tokens_decoder that is not an object",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"9" * 5000: "a"}},
            "added_tokens_decoder that is not an obj",
        ),
        (
            "generation_config.json",
            {"eos_token_id": [2, "</s>"]},
            "eos_token_id is .+ must be a whole number or a list",
        ),
        ("generation_config.json", {"eos_token_id": 2.0}, "eos_token_id is 2.0, but must be"),
        (
            "generation_config.json",
            {"eos_token_id": [2, 100_000]},
            "has ids up to .+ give 100000 to a special token",
        ),
    ],
)
def test_special_tokens_of_a_wrong_type_are_refused(tmp_path, name, contents, message):
    tokenizer_files.save(tokenizer_files.byte_bpe(), tmp_path)
    (tmp_path / name).write_text(json.dumps(contents))
    with pytest.raises(UserError, match=message):
        load_vocabulary(str(tmp_path))


def test_an_encoder_decoder_reads_what_the_tokenizer_itself_makes_of_a_text(tmp_path):
    text = "is it true that it was wet?"
    model = tokenizer_files.t5_like()
    tokenizer_files.save(model, tmp_path / "t5", eos_token="</s>", pad_token="<pad>")
    # this vocabulary has no line breaks: EOS closes a decoder's inputs
    for architecture in ("t5", "decoder", None):
        vocabulary = load_vocabulary(str(tmp_path / "t5"), architecture)
        assert vocabulary.encode_input(text) == model.encode(text).ids and vocabulary.input_end == (
            1,
        )
        assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.notes) == (0, 1, [])
    # BPE with <s> before a text and </s> behind it, as CodeT5 has it; a decoder of ours gets BOS
    # from elsewhere.
    model = tokenizer_files.byte_bpe()
    model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    tokenizer_files.save(model, tmp_path / "bpe", eos_token="</s>", bos_token="<s>")
    for architecture in ("t5", None):
        assert (
            load_vocabulary(str(tmp_path / "bpe"), architecture).encode_input(text)
            == model.encode(text).ids
        )
    decoder = load_vocabulary(str(tmp_path / "bpe"), "decoder")
    assert decoder.encode_input(text) == model.encode(f"{text}\n", add_special_tokens=False).ids
    # A language model's tokenizer puts nothing behind a text: as a T5's it is closed with EOS.
    tokenizer_files.save(
        tokenizer_files.byte_bpe(), tmp_path / "lm", eos_token="</s>", bos_token="<s>"
    )
    assert load_vocabulary(str(tmp_path / "lm"), "t5").encode_input(text) == [
        *decoder.encode(text),
        2,
    ]
    assert load_vocabulary(str(tmp_path / "lm")).encode_input(text) == decoder.encode_input(text)


def test_an_input_that_is_too_long_keeps_what_stands_around_it(tmp_path):
    model = tokenizer_files.byte_bpe()
    model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    tokenizer_files.save(model, tmp_path, eos_token="</s>", bos_token="<s>")
    vocabulary = load_vocabulary(str(tmp_path), "t5")
    dataset = CATALOGUE["rte"]
    row = {
        "premise": "It was wet. " * 30,
        "hypothesis": "Rain fell on the day.",
        "options": ["yes", "no"],
        "label": 0,
    }
    for most in (60, 6):
        encoder = Encoder(vocabulary, Rendering(input_length=most, target_length=8))
        example = encoder.encode(dataset, dataset.templates[0], row, "rte/train/0")
        assert len(example.inputs) <= most and (example.inputs[0], example.inputs[-1]) == (1, 2)
    assert encoder.counts["instructions truncated"] == 1


def test_settings_that_were_saved_with_a_tokenizer_do_not_change_texts(tmp_path):
    model = tokenizer_files.byte_bpe()
    tokenizer_files.save(model, tmp_path / "plain", eos_token="</s>")
    model.enable_truncation(max_length=4)
    model.enable_padding(length=16)
    model.model.dropout = 0.9
    tokenizer_files.save(model, tmp_path / "saved", eos_token="</s>")
    plain, saved = (load_vocabulary(str(tmp_path / name)) for name in ("plain", "saved"))
    assert (
        saved.encode(TEXTS[0]) == plain.encode(TEXTS[0])
        and saved.decode(saved.encode(TEXTS[0])) == TEXTS[0]
    )
    assert saved.encode("") == [] and saved.input_end == plain.input_end


def test_a_spelled_special_token_stays_text(tmp_path):
    chat = tokenizer_files.save(
        tokenizer_files.byte_bpe(tokenizer_files.CHAT_SPECIALS),
        tmp_path / "chat",
        eos_token="<|im_end|>",
    )
    text = "Write <|im_end|> after each turn, <|im_start|> before."
    vocabulary = load_vocabulary(str(chat))
    assert vocabulary.decode(vocabulary.encode(text)) == text and not {0, 1, 2} & set(
        vocabulary.encode(text)
    )
    # A Unigram model has its special tokens among its pieces, where the best cut would find them.
    unigram = load_vocabulary(
        str(tokenizer_files.save(tokenizer_files.t5_like(), tmp_path / "t5", eos_token="</s>"))
    )
    assert not {0, 1} & set(unigram.encode("is <pad> it </s> wet?"))
    # Merges may lead to one: those that are derived from a vocabulary's pieces do.
    merged = tokenizer_files.byte_bpe()
    contents = json.loads(merged.to_str())
    vocab = contents["model"]["vocab"]
    vocab |= {"</": len(vocab), "s>": len(vocab) + 1}
    contents["model"]["merges"] = [
        ["<", "/"],
        ["s", ">"],
        ["</", "s>"],
        *contents["model"]["merges"],
    ]
    tokenizer_files.save(
        tokenizers.Tokenizer.from_str(json.dumps(contents)), tmp_path / "merged", eos_token="</s>"
    )
    vocabulary = load_vocabulary(str(tmp_path / "merged"))
    assert (
        2 not in vocabulary.encode("a </s> b")
        and vocabulary.decode(vocabulary.encode("a </s> b")) == "a </s> b"
    )
    assert vocabulary.token(2) == "</s>" and vocabulary.eos_id == 2


def test_a_character_that_pads_stays_a_character(tmp_path):
    plain = load_vocabulary(
        str(tokenizer_files.save(tokenizer_files.byte_bpe(), tmp_path / "plain", eos_token="</s>"))
    )
    named, listed = tokenizer_files.byte_bpe(), tokenizer_files.byte_bpe()
    listed.add_special_tokens(["!"])
    for name, model in (("named", named), ("listed", listed)):
        tokenizer_files.save(model, tmp_path / name, eos_token="</s>", pad_token="!")
        vocabulary = load_vocabulary(str(tmp_path / name))
        assert vocabulary.encode("No! Yes!") == plain.encode("No! Yes!")
        assert vocabulary.decode(vocabulary.encode("No! Yes!")) == "No! Yes!"
        assert vocabulary.token(vocabulary.pad_id) == "!"


def test_special_tokens_that_only_the_files_beside_name_are_left_out_of_answers(tmp_path):
    model = json.loads(tokenizer_files.byte_bpe().to_str())
    model["added_tokens"] = []
    tokenizer_files.save(
        tokenizers.Tokenizer.from_str(json.dumps(model)),
        tmp_path,
        eos_token="</s>",
        bos_token="<s>",
    )
    vocabulary = load_vocabulary(str(tmp_path))
    assert (
        vocabulary.decode([vocabulary.bos_id, *vocabulary.encode("wet"), vocabulary.eos_id])
        == "wet"
    )


def test_no_text_gives_the_end_of_a_sentencepiece_model(tmp_path):
    for name, symbols in (("symbol", "<sep>"), ("end", "</s>")):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(tokenizer_files.TEXT),
            model_prefix=str(tmp_path / name),
            vocab_size=60,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            hard_vocab_limit=False,
            minloglevel=2,
            user_defined_symbols=symbols,
        )
    vocabulary = load_vocabulary(str(tmp_path / "symbol.model"))
    assert not {0, 1} & set(vocabulary.encode("it </s> is <pad> wet <extra_id_0>"))
    assert vocabulary.decode(vocabulary.encode("it <sep> wet")) == "it <sep> wet"
    with pytest.raises(UserError, match="EOS id -1"):  # a text that spells it would end there
        load_vocabulary(str(tmp_path / "end.model"))


def test_every_eos_of_the_model_ends_an_answer(tmp_path):
    tokenizer_files.save(tokenizer_files.byte_bpe(), tmp_path, eos_token="</s>", bos_token="<s>")
    assert load_vocabulary(str(tmp_path)).eos_ids == (2,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert HuggingFaceVocabulary(str(tmp_path / "tokenizer.json")).eos_ids == (2, 7, 9)
    # it does not name any
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 20}))
    assert HuggingFaceVocabulary(str(tmp_path / "tokenizer.json")).eos_ids == (2, 7, 9)
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [265, 2], "pad_token_id": -1})
    )
    vocabulary = HuggingFaceVocabulary(str(tmp_path / "tokenizer.json"))
    assert (vocabulary.eos_id, vocabulary.eos_ids, vocabulary.pad_id) == (2, (2, 265), None)
    assert vocabulary.decode([*vocabulary.encode("wet"), 265, 70]) == "wet"


@pytest.mark.parametrize(
    "config, table, eos, bos",
    [
        (
            {"model_max_length": 9},
            {"eos_token": "<|endoftext|>", "bos_token": {"content": "<|im_start|>"}},
            0,
            1,
        ),
        # As transformers has it: a list of added tokens makes tokenizer_config.json the newer one.
        (
            {"eos_token": "<|im_end|>", "added_tokens_decoder": {}},
            {"eos_token": "<|endoftext|>"},
            2,
            0,
        ),
        ({"eos_token": "<|im_end|>"}, {"eos_token": "<|endoftext|>"}, 0, 0),
    ],
)
def test_special_tokens_map_is_read(tmp_path, config, table, eos, bos):
    tokenizer_files.save(
        tokenizer_files.byte_bpe(tokenizer_files.CHAT_SPECIALS), tmp_path, **config
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(table))
    vocabulary = load_vocabulary(str(tmp_path))
    assert (vocabulary.eos_id, vocabulary.bos_id) == (eos, bos)


def test_a_guess_is_said(tmp_path):
    tokenizer_files.save(tokenizer_files.byte_bpe(tokenizer_files.CHAT_SPECIALS), tmp_path)
    vocabulary = load_vocabulary(str(tmp_path))
    assert (vocabulary.eos_id, vocabulary.bos_id) == (2, 0)
    eos, bos = vocabulary.notes
    assert "'<|im_end|>' is taken for it" in eos and "'<|endoftext|>' is taken for it" in bos


def test_the_table_has_a_row_for_every_id(tmp_path):
    contents = json.loads(tokenizer_files.byte_bpe().to_str())
    contents["model"]["vocab"]["Ġwet"] = 1000
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    vocabulary = load_vocabulary(str(tmp_path))
    assert vocabulary.size == 1001 and padded_size(vocabulary) == 1024


def test_a_blank_before_every_text_does_not_come_behind_a_line_break(tmp_path):
    model = tokenizer_files.llama2_like()
    tokenizer_files.save(model, tmp_path, eos_token="</s>", bos_token="<s>")
    vocabulary = load_vocabulary(str(tmp_path), "decoder")
    ids = [*vocabulary.encode_input("is it wet?"), *vocabulary.encode_target("yes")]
    assert ids == model.encode("is it wet?\nyes").ids
    assert vocabulary.decode(vocabulary.input_end) == "\n"
    assert vocabulary.decode(vocabulary.encode_target("yes")) == "yes"


def test_a_decoder_row_holds_whole_examples_with_the_loss_on_their_targets(directory, tmp_path):
    data = prepare(
        DataConfig(
            architecture="decoder",
            vocabulary=str(directory),
            held_out="nli",
            batch_size=4,
            train_steps=6,
            task_feature_lengths={"inputs": 512, "targets": 128},
            cache_dir=str(tmp_path),
            validation_batches=1,
            eval_max_rows=2,
        ),
        workers=1,
    )
    batches, vocabulary = data.train.batches(), data.vocabulary
    assert isinstance(batches, Batches) and isinstance(data.layout, DecoderLayout)
    seen = 0
    for step in range(len(batches)):
        batch = batches.at(step)
        assert {array.shape for array in batch.values()} == {(4, 640)}
        for row in range(4):
            segments = batch["decoder_segment_ids"][row]
            for segment, (member, epoch, index) in enumerate(
                data.train.plan().row(step * 4 + row), 1
            ):
                there = segments == segment
                name = data.train.members()[member].name
                shard = batches._shard(member, epoch)
                inputs, targets = (
                    getattr(shard, side)[index].tolist() for side in ("inputs", "targets")
                )
                tokens = batch["decoder_target_tokens"][row][there].tolist()
                assert tokens == [*inputs, *targets], name
                assert batch["decoder_input_tokens"][row][there].tolist() == [
                    vocabulary.bos_id,
                    *tokens[:-1],
                ]
                assert batch["decoder_positions"][row][there].tolist() == list(range(len(tokens)))
                weights = batch["decoder_loss_weights"][row][there]
                assert weights.tolist() == [0] * len(inputs) + [1] * len(targets)
                prefix = batch["decoder_causal_attention"][row][there]
                assert prefix.sum() == len(inputs) + 1 and prefix[: len(inputs) + 1].all()
                assert (
                    inputs[-1:] == list(vocabulary.input_end) and targets[-1] == vocabulary.eos_id
                )
                assert vocabulary.eos_id not in inputs
                seen += 1
            assert not batch["decoder_target_tokens"][row][segments == 0].any()
    assert seen > 24
    # Two hosts make the two halves of what one makes.
    halves = [batches.at(2, 0, 2), batches.at(2, 2, 4)]
    assert all(
        np.array_equal(np.concatenate([half[k] for half in halves]), batches.at(2)[k])
        for k in halves[0]
    )


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
from flan_jax.data.seqio.vocabulary import as_seqio
mine = load_vocabulary({str(directory)!r}); theirs = as_seqio(mine)
for text in {TEXTS!r}:
    in_graph = theirs.encode_tf(tf.constant(text)).numpy().tolist()
    assert theirs.encode(text) == mine.encode(text) == in_graph, text
    assert theirs.decode_tf(theirs.encode_tf(tf.constant(text))).numpy().decode() == text
batch = theirs.encode_tf(tf.constant({TEXTS[:2]!r}))
assert batch.to_list() == [mine.encode(t) for t in {TEXTS[:2]!r}]
assert (theirs.eos_id, theirs.bos_id, theirs.vocab_size) == (1, 0, 600) and theirs == as_seqio(mine)
print("FINE")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert result.stdout.endswith("FINE\n"), result.stderr
