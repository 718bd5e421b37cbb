"""A SentencePiece tokenizer of a GGUF file (`llama`: BPE with scores) as a `tokenizer.json`.

The file has tokens and scores, and `tokenizers` wants merges: two tokens merge if together they are
a token, the one of the highest score first.
"""

from __future__ import annotations

from typing import Any

_SPACE = "\u2581"  # what SentencePiece writes for a space
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # kinds of token


def check(tokens: list[str], scores: Any) -> None:
    """Checks the scores of tokens.

    Raises:
      ValueError: if they are not a number for each token.
    """
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError("its tokenizer does not have a score for each token")
    if not all(isinstance(score, (int, float)) for score in scores):
        raise ValueError("the scores of its tokenizer are not numbers")


def merges(tokens: list[str], kinds: list[int], scores: list[float]) -> list[list[str]]:
    """Returns the pairs of tokens that merge, the first ones first.

    Args:
      tokens: the texts.
      kinds: of each.
      scores: of each; that of a token is that of the merges that make it.
    """
    ids = {
        token: i
        for i, (token, kind) in enumerate(zip(tokens, kinds))
        if kind not in (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
    }
    pairs = [
        (-scores[i], ids[token[:cut]], ids[token[cut:]])
        for token, i in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    # Of equal scores SentencePiece takes the first in the text; their order is that of the tokens.
    return [[tokens[left], tokens[right]] for _, left, right in sorted(pairs)]


def spaces(prefix: bool) -> dict[str, Any]:
    """Returns the normalizer, the pre-tokenizer and the decoder of a `tokenizer.json`.

    Args:
      prefix: whether a space is put in front of each text.
    """
    to_spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    of_spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    # As llama.cpp does, in front of a text and of what follows an added token.
    in_front = {"type": "Prepend", "prepend": _SPACE}
    with_prefix = {"type": "Sequence", "normalizers": [in_front, of_spaces]}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [to_spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if prefix else [])]
    return {
        "normalizer": with_prefix if prefix else of_spaces,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }
