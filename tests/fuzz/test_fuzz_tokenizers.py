"""Damaged files of tokenizers.

What is accepted encodes and decodes, and its ids are within its size.

None of the formats has a checksum, so a changed piece or merge is another tokenizer.
"""

import io
import json

import pytest
from harness import shares
from hypothesis import strategies as st
from mutations import as_json, damaged_bytes, damaged_values

from flan_jax.data.vocabulary import load_vocabulary

TEXT = ["The cat sat on the mat. A dog ran to the river, yes or no?", "<s> naïve 1234\n\n\tπ"] * 4
BESIDE = {
    "tokenizer_config.json": {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "pad_token": None,
        "added_tokens_decoder": {"0": {"content": "<s>"}, "1": {"content": "</s>"}},
    },
    "special_tokens_map.json": {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False},
    },
    "added_tokens.json": {"<s>": 0, "</s>": 1},
    "generation_config.json": {"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 0},
}


def _write_tokenizer(path, kind):
    """A tokenizer.json: byte-level BPE as Llama 3 has it, or Unigram as T5 has it."""
    tokenizers = pytest.importorskip(
        "tokenizers", reason="NOT CHECKED: tokenizer.json needs the extra [hf]"
    )
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind == "bpe":
        model = tokenizers.Tokenizer(models.BPE())
        model.pre_tokenizer, model.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        trainer = trainers.BpeTrainer(
            vocab_size=80, special_tokens=["<s>", "</s>"], show_progress=False
        )
    else:
        model = tokenizers.Tokenizer(models.Unigram())
        model.normalizer, model.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        model.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60,
            special_tokens=["<s>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        )
    model.train_from_iterator(TEXT, trainer)
    model.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    model.save(str(path))
    return json.loads(path.read_text())


def _works(directory) -> bool:
    """Whether a vocabulary that was accepted gives ids within its size, and texts."""
    vocabulary = load_vocabulary.__wrapped__(str(directory))
    for text in TEXT[:2]:
        ids = [*vocabulary.encode_input(text), *vocabulary.encode_target(text), *vocabulary.eos_ids]
        if not all(0 <= i < vocabulary.size for i in ids) or not isinstance(
            vocabulary.decode(ids), str
        ):
            return False
    return True


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@shares(25, 700)
def test_tokenizer_json(fuzz, tmp_path, examples, kind):
    file = tmp_path / "tokenizer.json"
    original = _write_tokenizer(file, kind)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(BESIDE["tokenizer_config.json"]))

    def check(case):
        file.write_bytes(
            case.value if isinstance(case.value, bytes) else as_json(case.value).encode()
        )
        return _works(tmp_path)

    inputs = st.one_of(damaged_values(original), damaged_bytes(file.read_bytes()))
    fuzz(f"tokenizer.json ({kind})", inputs, check, examples)


@shares(30, 1000)
def test_files_beside_a_tokenizer(fuzz, tmp_path, examples):
    _write_tokenizer(tmp_path / "tokenizer.json", "bpe")
    (tmp_path / "config.json").write_text(
        json.dumps({"eos_token_id": 1, "decoder_start_token_id": 0})
    )

    def check(case):
        name, damaged = case
        for other, contents in BESIDE.items():
            (tmp_path / other).write_text(json.dumps(contents))
        (tmp_path / name).write_bytes(
            damaged.value if isinstance(damaged.value, bytes) else as_json(damaged.value).encode()
        )
        return _works(tmp_path)

    inputs = st.sampled_from(sorted(BESIDE)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.one_of(
                damaged_values(BESIDE[name]), damaged_bytes(json.dumps(BESIDE[name]).encode())
            ),
        )
    )
    fuzz("files beside a tokenizer", inputs, check, examples)


@shares(25, 1000)
def test_sentencepiece(fuzz, tmp_path, examples):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        vocab_size=45,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    file = tmp_path / "spiece.model"

    def check(case):
        file.write_bytes(case.value)
        return _works(tmp_path)

    fuzz("SentencePiece", damaged_bytes(model.getvalue()), check, examples)
