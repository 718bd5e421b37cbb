"""The majority baseline: what always answering the most frequent class would score."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from flan_jax.catalogue.records import Dataset
from flan_jax.evaluation.result_rows import ANY, MAJORITY, ResultRow, Setting
from flan_jax.evaluation.scored_rows import make_rows, score_predictions
from flan_jax.metrics.targets import class_of

if TYPE_CHECKING:
    from flan_jax.data.shards import EvalExamples


def majority_rows(examples: EvalExamples, dataset: Dataset, setting: Setting) -> list[ResultRow]:
    """Returns the numbers of the most frequent class of these rows; empty without options.

    The rows of results have the model 'majority' and the template 'any'. For options that come from
    the row it is their most frequent position. Of equally frequent classes the lowest counts.

    Args:
      examples: the rows in any template.
      dataset: of the rows.
      setting: of the evaluation beside which the numbers stand.
    """
    if examples.options is None:
        return []
    labels = collections.Counter(class_of(text, text["label"]) for text in examples.texts)
    most = min(labels, key=lambda label: (-labels[label], label))
    predictions = []
    for text in examples.texts:
        classes = [class_of(text, index) for index in range(len(text["options"]))]
        predictions.append(classes.index(most) if most in classes else 0)
    setting = dataclasses.replace(
        setting, model=MAJORITY, size="", step=0, shots=0, instruction_mode=ANY
    )
    examples = dataclasses.replace(examples, template=ANY)
    numbers = score_predictions(examples, dataset, predictions)
    return make_rows(examples, dataset, setting, MAJORITY, numbers)
