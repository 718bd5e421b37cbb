"""Small tokenizers of the kinds that pretrained models have, written as `tokenizer.json`."""

import json
import pathlib

TEXT = [
    (
        "Rain fell on the day, is it true that it was wet? Options: - yes - no - it is impossible "
        "to say"
    )
] * 20
CHAT_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def save(model, directory: pathlib.Path, **config) -> pathlib.Path:
    """Writes `tokenizer.json`, and `tokenizer_config.json` if something is to stand in it.

    Returns the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.save(str(directory / "tokenizer.json"))
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def byte_bpe(specials=("<unk>", "<s>", "</s>")):
    """Byte-level BPE, as GPT-2's and SmolLM's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer, model.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    model.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(specials),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return model


def t5_like():
    """Unigram as T5's: pad 0, </s> 1, <unk> 2, white space folded, </s> behind each text."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    model = Tokenizer(models.Unigram())
    model.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    model.decoder = decoders.Metaspace()
    model.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=90,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    model.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return model


def llama2_like():
    """BPE that puts a blank before every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    model = Tokenizer(models.BPE(unk_token="<unk>"))
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model.train_from_iterator(
        [*TEXT, "\n"],
        trainers.BpeTrainer(
            vocab_size=80, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        ),
    )
    return model
