"""Metrics by name: from targets and predictions to numbers that carry their standard error.

A target is one of `EvalExamples.texts`: a dict with 'answer' (str), for datasets with options also
'options' (list of str) and 'label' (int), and maybe 'references' (list of str), 'group' (str),
'value' (float) and 'order' (list of int: the class of each option, where the row shows them in an
order of its own). A prediction is the index of an option, or a str. `METRICS[name](targets,
predictions)` gives a dict whose first key is the number that tables show; every number is in
percent, and perfect predictions give 100 (but for 'pearson_value' and 'spearman_value', which hold
rounded answers against unrounded values).

Standard errors (`uncertainty.standard_error`): standard deviation / sqrt(n) for means over rows,
and a bootstrap with a fixed seed for numbers that are not a mean over rows; rows of one group count
as one unit. They say how much the number would move with other rows of the same kind; the spread
over templates is another matter and is never mixed with them.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flan_jax import __version__
from flan_jax.errors import UserError
from flan_jax.evaluation.uncertainty import Measure, standard_error
from flan_jax.evaluation.uncertainty import f1 as f1_of_counts
from flan_jax.messages import did_you_mean, nearest

Target = dict[str, Any]
Prediction = int | str

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")

# What to quote beside a number that a library computes; sacrebleu's has its version, too.
_SIGNATURES = {
    "bleu": "sacrebleu nrefs:var|case:mixed|eff:no|tok:intl|smooth:exp|version:",
    "rouge": (
        "rouge-score 0.1.2, no stemmer, mean of F over rows, best reference, rougeLsum with "
        "a sentence a line"
    ),
}


class Number(float):
    """A metric's value that also knows the units that it comes from, and its standard error.

    Attributes:
      measure: what each unit of rows contributes; its units are named by the number of their first
        row.
      stderr: standard error in the unit of the value; None below two units and for correlations
        with a constant.
    """

    measure: Measure
    stderr: float | None

    def __new__(cls, measure: Measure) -> Number:
        number = super().__new__(cls, measure.value())
        number.measure, number.stderr = measure, standard_error([measure])
        return number


def score(
    name: str, targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """The numbers of a metric by its name; the first key is the one that tables show.

    Raises:
      UserError: no metric has that name, or there is not one prediction for each of at least one
        target.
    """
    _check_known(name)
    if not targets or len(targets) != len(predictions):
        raise UserError(
            f"metric {name!r} got {len(predictions)} predictions for {len(targets)} targets; "
            "give one for each of at least one row."
        )
    return METRICS[name](targets, predictions)


def score_all(
    names: Sequence[str], targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """The numbers of several metrics; the first key is the one that tables show.

    A key that two of the metrics have ('f1' of `squad` and of `trivia_qa`) has the metric's name
    before it in both: 'squad_f1', 'trivia_qa_f1'.

    Raises:
      UserError: as `score` does.
    """
    numbers = [
        (name, key, number)
        for name in dict.fromkeys(names)
        for key, number in score(name, targets, predictions).items()
    ]
    count = collections.Counter(key for _, key, _ in numbers)
    return {key if count[key] == 1 else f"{name}_{key}": number for name, key, number in numbers}


def check_metric(name: str, options: Sequence[str] | str | None) -> None:
    """Raises a UserError unless a metric has that name and can measure a dataset with these
    `Dataset.options`.
    """
    _check_known(name)
    if name in _OF_CLASSES and options is None:
        raise UserError(
            f"metric {name!r} counts classes, and free text has none; 'accuracy' is the share of "
            "right answers, 'squad' and 'rouge' compare words."
        )
    if name in _OF_TWO_CLASSES and isinstance(options, tuple) and len(options) != 2:
        raise UserError(
            f"metric {name!r} is one of two classes, and there are {len(options)} options; "
            "'macro_f1' is for any number."
        )


def _check_known(name: str) -> None:
    if name not in METRICS:
        hint = did_you_mean(nearest(name, METRICS))
        raise UserError(f"unknown metric {name!r}{hint} The metrics are {', '.join(METRICS)}.")


def signature(name: str) -> str:
    """What to quote beside a published number of a metric: the library and its settings, or what is
    computed here.
    """
    if name == "bleu":
        import sacrebleu

        return _SIGNATURES[name] + sacrebleu.__version__
    return (
        _SIGNATURES.get(name)
        or f"flan_jax {__version__} {name}: {METRICS[name].__doc__.partition(chr(10))[0]}"
    )


# --- Right or wrong
# ---------------------------------------------------------------------------------------------------


def accuracy(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Share of right options (of two options with equal text either is right), or of right texts
    without options.
    """
    return {"accuracy": _mean([_is_right(t, p) for t, p in zip(targets, predictions)], targets)}


def exact_match(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Share of predictions equal to one of the references up to white space."""
    right = [
        _folded(_text(t, p)) in map(_folded, _references(t)) for t, p in zip(targets, predictions)
    ]
    return {"exact_match": _mean(right, targets)}


def multirc(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'f1a', the F1 of the answers marked true, and 'em', the share of questions with every answer
    judged right.

    Rows of one 'group' are the answers of one question; it is questions that the standard errors
    resample. Khashabi et al. 2018, "Looking Beyond the Surface", section 4.
    """
    labels, guesses = _binary_labels(targets, predictions)
    counts = _positive_counts(labels, guesses)
    whole = [bool((labels[rows] == guesses[rows]).all()) for rows in _groups(targets)]
    return {"f1a": _summed("f1", counts, targets), "em": _mean_over_groups(whole, targets)}


# --- Classes and scales
# -----------------------------------------------------------------------------------------------


def f1(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """F1 of the class with label 1, of two; a text that is neither option is wrong."""
    counts = _positive_counts(*_binary_labels(targets, predictions))
    return {"f1": _summed("f1", counts, targets)}


def macro_f1(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Mean over classes of their F1; a class that is neither a target nor predicted has no part in
    it.
    """
    labels, guesses = _labels(targets, predictions)
    classes = range(max(len(target["options"]) for target in targets))
    counts = np.concatenate(
        [_positive_counts(labels, guesses, positive) for positive in classes], axis=1
    )
    return {"macro_f1": _summed("macro_f1", counts, targets)}


def matthews(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Matthews' correlation of two classes, times 100; 0 for predictions or targets of one class,
    unless all right.
    """
    labels, guesses = _binary_labels(targets, predictions)
    return {"matthews": _paired("correlation", labels == 1, guesses == 1)}


def pearson(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Pearson's correlation times 100, of the answers as numbers; 'pearson_value' against the
    unrounded 'value'.
    """
    return _correlations("pearson", "correlation", targets, predictions)


def spearman(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Spearman's rank correlation times 100, with mean ranks for ties; 'spearman_value' against
    'value'.
    """
    return _correlations("spearman", "rank_correlation", targets, predictions)


# --- Short answers
# ----------------------------------------------------------------------------------------------------


def squad(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'f1' over words and 'em', the best over the references. Rajpurkar et al. 2016, section
    6.1.
    """
    em, overlap = _answer_scores(targets, predictions, _squad_words)
    return {"f1": _mean(overlap, targets), "em": _mean(em, targets)}


def trivia_qa(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'em' and 'f1' over words, the best over the references; punctuation separates words. Joshi et
    al. 2017.
    """
    em, overlap = _answer_scores(targets, predictions, _trivia_words)
    return {"em": _mean(em, targets), "f1": _mean(overlap, targets)}


def record(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'em' and 'f1' as in SQuAD, the mean over groups, a group being the rows of one passage and
    query.

    Zhang et al. 2018, "ReCoRD", section 5.
    """
    em, overlap = _answer_scores(targets, predictions, _squad_words)
    groups = _groups(targets)
    per_group = [[values[rows].mean() for rows in groups] for values in (em, overlap)]
    return {
        "em": _mean_over_groups(per_group[0], targets),
        "f1": _mean_over_groups(per_group[1], targets),
    }


# --- Texts
# ------------------------------------------------------------------------------------------------------------


def bleu(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """Corpus BLEU of sacrebleu with the 'intl' tokeniser (`signature`). Post 2018.

    Only where no reference has four tokens are the missing orders left out (they would make every
    score 0).
    """
    # Here and not above: whoever registers a dataset imports this module.
    import sacrebleu

    # `effective_order` changes nothing in the counts taken here; it silences a warning about
    # sentence scores.
    counter = sacrebleu.BLEU(tokenize="intl", effective_order=True)
    rows = []
    for target, prediction in zip(targets, predictions):
        of = counter.sentence_score(
            _folded(_text(target, prediction)), [_folded(r) for r in _references(target)]
        )
        rows.append([*of.counts, *of.totals, of.sys_len, of.ref_len])
    counts = np.array(rows, np.float64)
    has_four_tokens = np.full((len(counts), 1), counts[:, 9].max() >= 4)
    return {"bleu": _summed("bleu", np.concatenate([counts, has_four_tokens], axis=1), targets)}


def rouge(targets: Sequence[Target], predictions: Sequence[Prediction]) -> dict[str, Number]:
    """'rouge1', 'rouge2' and 'rougeLsum': means over rows of the best F over references
    (`signature`).

    A prediction equal to a reference counts as 100 also where it has no n-gram to count (a single
    word has no bigram). Lin 2004.
    """
    # Here and not above: it brings nltk, which takes longer to import than everything else of an
    # evaluation.
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(_ROUGE_TYPES)
    values = []
    for target, prediction in zip(targets, predictions):
        text, references = (
            _sentence_a_line(_text(target, prediction)),
            [*map(_sentence_a_line, _references(target))],
        )
        of = scorer.score_multi(references, text)
        values.append([1.0 if text in references else of[kind].fmeasure for kind in _ROUGE_TYPES])
    return {kind: _mean(column, targets) for kind, column in zip(_ROUGE_TYPES, np.array(values).T)}


def edit_similarity(
    targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    """Mean over rows of 100 (1 - edit distance / length of the longer text), in characters; the
    best reference.
    """
    values = []
    for target, prediction in zip(targets, predictions):
        text = _folded(_text(target, prediction))
        values.append(
            max(_similarity(text, _folded(reference)) for reference in _references(target))
        )
    return {"edit_similarity": _mean(values, targets)}


METRICS: dict[str, Callable[[Sequence[Target], Sequence[Prediction]], dict[str, Number]]] = {
    function.__name__: function
    for function in (
        accuracy,
        f1,
        macro_f1,
        matthews,
        pearson,
        spearman,
        exact_match,
        squad,
        trivia_qa,
        multirc,
        record,
        bleu,
        rouge,
        edit_similarity,
    )
}
_OF_TWO_CLASSES = ("f1", "matthews", "multirc")
_OF_CLASSES = (*_OF_TWO_CLASSES, "macro_f1")


# --- Reading targets and predictions
# ----------------------------------------------------------------------------------


def _folded(text: str) -> str:
    # The vocabulary folds runs of white space into one blank, so a decoded text cannot hold any
    # other.
    return " ".join(text.split())


def _sentence_a_line(text: str) -> str:
    return _SENTENCE_END.sub("\n", _folded(text))


def _text(target: Target, prediction: Prediction) -> str:
    return prediction if isinstance(prediction, str) else target["options"][prediction]


def _references(target: Target) -> list[str]:
    return list(dict.fromkeys([*(target.get("references") or ()), target["answer"]]))


def _option_index(target: Target, prediction: Prediction) -> int:
    """The predicted option; of a text, the first option equal to it up to white space, else -1."""
    if not isinstance(prediction, str):
        return int(prediction)
    options = [_folded(option) for option in target["options"]]
    return options.index(_folded(prediction)) if _folded(prediction) in options else -1


def class_of(target: Target, index: int) -> int:
    """The dataset's class of a shown option; -1 stays -1."""
    order = target.get("order")
    return order[index] if order and index >= 0 else index


def _labels(
    targets: Sequence[Target], predictions: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes, int64 [rows] each; -1 for a text that is no option."""
    guesses = [class_of(t, _option_index(t, p)) for t, p in zip(targets, predictions)]
    return np.array([class_of(t, t["label"]) for t in targets], np.int64), np.array(
        guesses, np.int64
    )


def _binary_labels(
    targets: Sequence[Target], predictions: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of two; a text that is no option is the wrong one, or it would be
    a right "no".
    """
    labels, guesses = _labels(targets, predictions)
    return labels, np.where(guesses < 0, 1 - labels, guesses)


def _is_right(target: Target, prediction: Prediction) -> bool:
    if not target.get("options"):
        return _folded(_text(target, prediction)) in map(_folded, _references(target))
    options, index = target["options"], _option_index(target, prediction)
    return index >= 0 and _folded(options[index]) == _folded(options[target["label"]])


def _groups(targets: Sequence[Target]) -> list[np.ndarray]:
    """Row numbers by 'group', in order of appearance; a row without one is a group of its own."""
    rows = collections.defaultdict(list)
    for number, target in enumerate(targets):
        group = target.get("group")
        rows[number if group is None else group].append(number)
    return [np.array(numbers) for numbers in rows.values()]


def _number(target: Target, prediction: Prediction) -> float:
    """The first number in the predicted text; where there is none, the class of the option, -1 for
    no option.

    The class serves options shown as letters; -1 is outside the scales in use and so never near
    right.
    """
    found = _NUMBER.search(_text(target, prediction))
    if found:
        return float(found.group())
    return (
        float(class_of(target, _option_index(target, prediction)))
        if target.get("options")
        else -1.0
    )


# --- Formulas
# ---------------------------------------------------------------------------------------------------------


def _positive_counts(labels: np.ndarray, guesses: np.ndarray, positive: int = 1) -> np.ndarray:
    """Per row whether it is a true positive, a false positive, a false negative: int64 [rows,
    3].
    """
    is_label, is_guess = labels == positive, guesses == positive
    return np.stack(
        [is_label & is_guess, ~is_label & is_guess, is_label & ~is_guess], axis=1
    ).astype(np.int64)


def _correlations(
    name: str, statistic: str, targets: Sequence[Target], predictions: Sequence[Prediction]
) -> dict[str, Number]:
    guesses = [_number(t, p) for t, p in zip(targets, predictions)]
    numbers = {name: _paired(statistic, [_number(t, t["answer"]) for t in targets], guesses)}
    if all(t.get("value") is not None for t in targets):
        numbers[f"{name}_value"] = _paired(statistic, [float(t["value"]) for t in targets], guesses)
    return numbers


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
        guess = words(_text(target, prediction))
        golds = [words(reference) for reference in _references(target)]
        em.append(max(float(guess == gold) for gold in golds))
        overlap.append(max(_word_f1(guess, gold) for gold in golds))
    return np.array(em), np.array(overlap)


def _word_f1(guess: list[str], gold: list[str]) -> float:
    shared = (collections.Counter(guess) & collections.Counter(gold)).total()
    return f1_of_counts(np.array([[shared, len(guess) - shared, len(gold) - shared]]))


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


# --- Numbers from rows
# ------------------------------------------------------------------------------------------------


def _mean(values: Sequence[float] | np.ndarray, targets: Sequence[Target]) -> Number:
    """The mean over rows."""
    rows = np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1)
    return _summed("ratio", rows, targets)


def _mean_over_groups(values: Sequence[float], targets: Sequence[Target]) -> Number:
    """The mean over groups of rows, of which each counts once whatever its size."""
    units = tuple(int(rows[0]) for rows in _groups(targets))
    return Number(
        Measure(
            "ratio", units, np.stack([np.asarray(values, np.float64), np.ones(len(units))], axis=1)
        )
    )


def _summed(statistic: str, rows: np.ndarray, targets: Sequence[Target]) -> Number:
    """A statistic of sums over rows [n, k]; the rows of a group are one unit."""
    if all(target.get("group") is None for target in targets):
        return Number(Measure(statistic, tuple(range(len(rows))), rows.astype(np.float64)))
    groups = _groups(targets)
    parts = np.stack([rows[numbers].sum(axis=0) for numbers in groups]).astype(np.float64)
    return Number(Measure(statistic, tuple(int(numbers[0]) for numbers in groups), parts))


def _paired(statistic: str, golds: Sequence[float], guesses: Sequence[float]) -> Number:
    """A correlation of two numbers a row; each row is a unit, since sums over groups do not give
    ranks.
    """
    parts = np.stack([np.asarray(golds, np.float64), np.asarray(guesses, np.float64)], axis=1)
    return Number(Measure(statistic, tuple(range(len(parts))), parts))
