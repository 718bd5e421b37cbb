"""The SentencePiece tokenizer of a GGUF file against the sentencepiece package itself."""

import io
import json
import random

import pytest

from flan_jax.checkpoints.formats.gguf_tokenizer import _tokenizer_of
from support.pages import ROOT

sentencepiece = pytest.importorskip("sentencepiece")
tokenizers = pytest.importorskip("tokenizers", reason="NOT CHECKED: it needs the extra [hf]")
SYMBOLS = {True: ["<turn>"], False: ["\n", "\n\n", "\u2581\u2581", "<turn>"]}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's


def trained(prefix: bool) -> "sentencepiece.SentencePieceProcessor":
    """A BPE of 700 pieces, as those of Llama 2 (`prefix`) and Gemma."""
    text = (ROOT / "docs/how_it_works.md").read_text(encoding="utf-8")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=SYMBOLS[prefix],
        character_coverage=0.98,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def metadata_of(model, prefix: bool) -> dict:
    """What llama.cpp's converter writes of a model: user-defined pieces with plain spaces."""
    ids = range(model.vocab_size())

    def kind(i: int) -> int:
        if model.id_to_piece(i) in SYMBOLS[prefix]:
            return USER_DEFINED
        kinds = {UNKNOWN: model.is_unknown, CONTROL: model.is_control, BYTE: model.is_byte}
        return next((kind for kind, has in kinds.items() if has(i)), NORMAL)

    def text(i: int) -> str:
        piece = model.id_to_piece(i)
        return piece.replace("\u2581", " ") if kind(i) == USER_DEFINED else piece

    fields = {
        "model": "llama",
        "tokens": [text(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "token_type": [kind(i) for i in ids],
        "bos_token_id": model.bos_id(),
        "eos_token_id": model.eos_id(),
        "unknown_token_id": model.unk_id(),
        "add_space_prefix": prefix,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()}


def texts() -> list[str]:
    """Lines of a page, and random mixtures of them with other letters, spaces and symbols."""
    lines = (ROOT / "docs/faq.md").read_text(encoding="utf-8").splitlines()
    letters, draw = "abc XYZ  \n\n.,;0129éß漢字🙂<turn>", random.Random(0)
    mixed = ["".join(draw.choices(letters, k=draw.randrange(1, 40))) for _ in range(300)]
    return [line for line in lines if line] + mixed + ["a  b   c", "x<turn>\n\n y", "é漢🙂"]


@pytest.mark.parametrize("prefix", [True, False], ids=["llama2", "gemma"])
def test_texts_have_the_ids_of_sentencepiece(prefix):
    model = trained(prefix)
    files, _ = _tokenizer_of(metadata_of(model, prefix))
    found = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    # Behind an added token llama.cpp puts a space where there is a prefix, and sentencepiece none.
    for text in (text for text in texts() if not (prefix and "<turn>" in text)):
        encoded = found.encode(text)
        assert encoded.ids == [model.bos_id(), *model.encode(text)], (text, encoded.tokens)
        assert found.decode(encoded.ids) == model.decode(model.encode(text)), text


def test_bos_and_eos_are_put_where_the_file_says():
    metadata = metadata_of(trained(False), False)
    metadata |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    files, _ = _tokenizer_of(metadata)
    found = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    ids = found.encode("rain").ids
    assert ids[-1] == 2 and 1 not in ids


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("qwen2", "It's 1234 o\u0308", ["It", "'s", " ", "1", "2", "3", "4", " \u00f6"]),
        ("llama-bpe", "It's 1234\n\nNow", ["It", "'s", " ", "123", "4", "\n\n", "Now"]),
    ],
)
def test_a_text_is_split_as_the_family_does(name, text, words):
    letters = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a", "\u00c3", "\u00b6"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": letters,
        "tokenizer.ggml.merges": [],
    }
    files, _ = _tokenizer_of(metadata)
    found = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    if found.normalizer:
        text = found.normalizer.normalize_str(text)
    pieces = [text[start:end] for _, (start, end) in found.pre_tokenizer.pre_tokenize_str(text)]
    assert pieces == words


def test_scores_that_are_not_numbers_are_refused():
    metadata = metadata_of(trained(False), False)
    for scores in ([1.0], ["a"] * 700):
        with pytest.raises(ValueError, match="score"):
            _tokenizer_of(metadata | {"tokenizer.ggml.scores": scores})
    assert json.loads(_tokenizer_of(metadata)[0]["generation_config.json"])["bos_token_id"] == 1
