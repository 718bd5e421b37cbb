"""Targets and predictions, and what metrics read from them.

A target is one of `EvalExamples.texts`: a dict with 'answer' (str), for datasets with options also
'options' (list of str) and 'label' (int), and optionally 'references' (list of str), 'group' (str),
'value' (float) and 'order' (list of int: the class of each option, where the row shows them in an
order of its own). A prediction is the index of an option, or a str.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Target = dict[str, Any]
Prediction = int | str

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)")
# A run of digits beyond it is no answer on a scale, and would overflow in a correlation.
_LARGEST_NUMBER = 1e9


def folded(text: str) -> str:
    """Returns a text with each run of white space as one blank.

    The vocabulary does the same, so a decoded text cannot contain any other white space.
    """
    return " ".join(text.split())


def text_of(target: Target, prediction: Prediction) -> str:
    """Returns the predicted text: that of the option, or the text itself."""
    return prediction if isinstance(prediction, str) else target["options"][prediction]


def references(target: Target) -> list[str]:
    """Returns the texts that count as right, each once, the answer last."""
    return list(dict.fromkeys([*(target.get("references") or ()), target["answer"]]))


def option_index(target: Target, prediction: Prediction) -> int:
    """Returns the predicted option; for a text, the first one equal to it up to white space, or -1.

    Args:
      target: of a dataset with options.
      prediction: an index or a text.
    """
    if not isinstance(prediction, str):
        return int(prediction)
    options = [folded(option) for option in target["options"]]
    return options.index(folded(prediction)) if folded(prediction) in options else -1


def class_of(target: Target, index: int) -> int:
    """Returns the dataset's class of a shown option; -1 stays -1."""
    order = target.get("order")
    return order[index] if order and index >= 0 else index


def labels_and_guesses(
    targets: Sequence[Target], predictions: Sequence[Prediction]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns true and predicted classes, int64 [rows] each; -1 for a text that is no option."""
    labels = [class_of(t, t["label"]) for t in targets]
    guesses = [class_of(t, option_index(t, p)) for t, p in zip(targets, predictions)]
    return np.array(labels, np.int64), np.array(guesses, np.int64)


def number_of(target: Target, prediction: Prediction) -> float:
    """Returns the first number in the predicted text, else the class of the option, else -1.

    The class serves options shown as letters; -1 is outside the scales in use and so never near
    right. It also stands for numbers above 1e9.
    """
    match = _NUMBER.search(text_of(target, prediction))
    if match:
        number = float(match.group())
        return number if abs(number) <= _LARGEST_NUMBER else -1.0
    if target.get("options"):
        return float(class_of(target, option_index(target, prediction)))
    return -1.0


def groups(targets: Sequence[Target]) -> list[np.ndarray]:
    """Returns row numbers by 'group', in order of appearance; a row without one is a group."""
    rows = collections.defaultdict(list)
    for number, target in enumerate(targets):
        group = target.get("group")
        rows[number if group is None else group].append(number)
    return [np.array(numbers) for numbers in rows.values()]
