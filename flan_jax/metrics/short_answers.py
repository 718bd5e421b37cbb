"""Metrics of short answers: exact match and F1 over words, the best over the references."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from flan_jax.metrics.classes import f1_of_counts
from flan_jax.metrics.numbers import Number, mean, mean_over_groups
from flan_jax.metrics.registry import metric
from flan_jax.metrics.targets import Prediction, Target, groups, references, text_of

_ARTICLES = re.compile(r"\b(a|an|the)\b")


@metric()
def squad(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'f1' over words and 'em', the best over the references; Rajpurkar et al. 2016, section 6."""
    em, overlap = _answer_scores(targets, predictions, _squad_words)
    return {"f1": mean(overlap, targets), "em": mean(em, targets)}


@metric()
def trivia_qa(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'em' and 'f1' over words, the best over the references. Joshi et al. 2017.

    Punctuation separates words.
    """
    em, overlap = _answer_scores(targets, predictions, _trivia_words)
    return {"em": mean(em, targets), "f1": mean(overlap, targets)}


@metric()
def record(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'em' and 'f1' as in SQuAD, the mean over passages and queries.

    The rows of one passage and query have one 'group'. Zhang et al. 2018, "ReCoRD", section 5.
    """
    em, overlap = _answer_scores(targets, predictions, _squad_words)
    members = groups(targets)
    return {
        "em": mean_over_groups([em[rows].mean() for rows in members], targets),
        "f1": mean_over_groups([overlap[rows].mean() for rows in members], targets),
    }


def _squad_words(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", text).split()


def _trivia_words(text: str) -> list[str]:
    text = "".join(" " if c in string.punctuation + "‘’´" else c for c in text.lower())
    return _ARTICLES.sub(" ", text).split()


def _answer_scores(
    targets: Sequence[Target], predictions: Sequence[Prediction], words: Callable[[str], list[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Per row, exact match and word F1, the best over references: float64 [rows] each."""
    em, overlap = [], []
    for target, prediction in zip(targets, predictions):
        guess = words(text_of(target, prediction))
        golds = [words(reference) for reference in references(target)]
        em.append(max(float(guess == gold) for gold in golds))
        overlap.append(max(_word_f1(guess, gold) for gold in golds))
    return np.array(em), np.array(overlap)


def _word_f1(guess: list[str], gold: list[str]) -> float:
    shared = (collections.Counter(guess) & collections.Counter(gold)).total()
    return f1_of_counts(np.array([[shared, len(guess) - shared, len(gold) - shared]]))
