"""Metrics of longer texts: BLEU, ROUGE and edit distance.

The libraries are imported in the functions: registering a dataset imports this module, and rouge
brings nltk, which takes longer to import than everything else of an evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from flan_jax.metrics.measures import statistic
from flan_jax.metrics.numbers import Number, mean, summed
from flan_jax.metrics.registry import metric
from flan_jax.metrics.targets import Prediction, Target, folded, references, text_of

_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")


def _bleu_signature() -> str:
    import sacrebleu

    settings = "nrefs:var|case:mixed|eff:no|tok:intl|smooth:exp"
    return f"sacrebleu {settings}|version:{sacrebleu.__version__}"


def _rouge_signature() -> str:
    return (
        "rouge-score 0.1.2, no stemmer, mean of F over rows, best reference, rougeLsum with "
        "a sentence a line"
    )


@metric(signature=_bleu_signature)
def bleu(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Corpus BLEU of sacrebleu with the 'intl' tokenizer (`signature`). Post 2018.

    Only where no reference has four tokens are the missing orders left out (they would make every
    score 0).
    """
    import sacrebleu

    # `effective_order` changes nothing in the counts taken here; it silences a warning about
    # sentence scores.
    counter = sacrebleu.BLEU(tokenize="intl", effective_order=True)
    rows = []
    for target, prediction in zip(targets, predictions):
        hypothesis = folded(text_of(target, prediction))
        sentence = counter.sentence_score(hypothesis, [folded(r) for r in references(target)])
        rows.append([*sentence.counts, *sentence.totals, sentence.sys_len, sentence.ref_len])
    counts = np.array(rows, np.float64)
    has_four_tokens = np.full((len(counts), 1), counts[:, 9].max() >= 4)
    return {"bleu": summed("bleu", np.concatenate([counts, has_four_tokens], axis=1), targets)}


@metric(key="rouge1", signature=_rouge_signature)
def rouge(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'rouge1', 'rouge2', 'rougeLsum': means over rows of the best F over references (`signature`).

    A prediction equal to a reference counts as 100 also where it has no n-gram to count (a single
    word has no bigram). Lin 2004.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(_ROUGE_TYPES)
    rows = []
    for target, prediction in zip(targets, predictions):
        text = _sentence_a_line(text_of(target, prediction))
        golds = [_sentence_a_line(reference) for reference in references(target)]
        scores = scorer.score_multi(golds, text)
        rows.append([1.0 if text in golds else scores[kind].fmeasure for kind in _ROUGE_TYPES])
    return {kind: mean(column, targets) for kind, column in zip(_ROUGE_TYPES, np.array(rows).T)}


@metric()
def edit_similarity(
    targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """Mean over rows of 100 (1 - edit distance / length of the longer text), in characters.

    It is that of the best reference.
    """
    values = []
    for target, prediction in zip(targets, predictions):
        text = folded(text_of(target, prediction))
        values.append(max(_similarity(text, folded(gold)) for gold in references(target)))
    return {"edit_similarity": mean(values, targets)}


def _sentence_a_line(text: str) -> str:
    return _SENTENCE_END.sub("\n", folded(text))


@statistic("bleu")
def bleu_of_counts(parts: np.ndarray) -> float:
    """Returns corpus BLEU of summed columns [G, 11]: matches and totals of orders 1 to 4, lengths.

    The lengths are those of system and reference. Only where no unit has four tokens are the
    missing orders left out (they would make every score 0); the last column says whether the
    evaluation has such units, in each of them.
    """
    import sacrebleu

    total = parts[:, :10].sum(axis=0).astype(np.int64).tolist()
    bleu_score = sacrebleu.BLEU.compute_bleu(
        total[:4],
        total[4:8],
        total[8],
        total[9],
        smooth_method="exp",
        effective_order=not parts[:, 10].any(),
    )
    return bleu_score.score / 100


def _similarity(a: str, b: str) -> float:
    return 1 - _edit_distance(a, b) / max(len(a), len(b), 1)


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance in characters, one row of the table at a time.

    Within a row the insertions form a running minimum once the column number is taken off.
    """
    letters, column = np.array([ord(c) for c in b], np.int64), np.arange(len(b) + 1)
    row = column
    for number, letter in enumerate(a, start=1):
        step = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        row = np.minimum.accumulate(np.concatenate([[number], step]) - column) + column
    return int(row[-1])
