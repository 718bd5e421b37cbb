"""Datasets that share text, and the two rules for their training while one of them is held out.

The paper relates clusters (`clusters.RELATED_CLUSTERS`). Some datasets of unrelated clusters are
nevertheless made of the same sentences or documents: a model reads the held-out texts, and
sometimes their answers, in training. A relation is listed here if the authors of one dataset state
that they took its text from the other, or both from the same documents, or if `flan-jax tasks
overlap` finds more than 1 % of the rows of one in the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

# Value of RELATED -> what it means.
RULES = {
    "text": "neither a related cluster nor a dataset that shares text with a held-out one trains",
    "paper": (
        "no related cluster trains; datasets that share text with a held-out one do, as in "
        "the paper"
    ),
}


@dataclasses.dataclass(frozen=True)
class Relation:
    """Two sides that share text: each dataset of one side is related to each of the other.

    Attributes:
      first, second: names of datasets.
      why: the text that they share.
      measured: how much, on which rows. "All rows" are those of all splits in a sample of real
        rows; None where no rows of one side were available.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    why: str
    measured: str | None


RELATIONS = (
    Relation(
        ("wnli",),
        ("wsc", "wsc273"),
        "the same Winograd schemas",
        "80 % of wsc's and 98 % of wsc273's test rows are in wnli's training rows; 32 % of all "
        "wnli rows are in wsc",
    ),
    Relation(
        ("qnli",),
        ("squad_v1", "squad_v2"),
        "QNLI's pairs are questions and sentences of SQuAD 1.1",
        (
            "48 % of all squad_v1 and 50 % of all squad_v2 rows are in qnli, 6.8 % and 4.2 % of "
            "qnli's in them"
        ),
    ),
    Relation(
        ("multirc",),
        ("mnli_matched", "mnli_mismatched"),
        (
            "reports and letters of the Open American National Corpus, such as that on 11 "
            "September 2001"
        ),
        "1.2 % of all multirc rows are in mnli_mismatched, 0.3 % in mnli_matched",
    ),
    Relation(
        ("anli_r3",),
        ("rte",),
        "premises of RTE are contexts of ANLI's third round",
        "11 % of all anli_r3 rows are in rte, 7.1 % of rte's in anli_r3",
    ),
    Relation(
        ("stsb",),
        ("glue_mrpc",),
        "STS-B has sentence pairs of MRPC",
        "6.0 % of all stsb rows are in glue_mrpc, 6.1 % of glue_mrpc's in stsb",
    ),
    Relation(("stsb",), ("snli",), "STS-B has sentence pairs of SNLI (track 5 of 2017)", None),
    Relation(
        ("dart",),
        ("web_nlg_en", "e2e_nlg"),
        "DART contains WebNLG and E2E",
        "49 % of all web_nlg_en and 2.3 % of all e2e_nlg rows are in dart",
    ),
    Relation(
        ("cnn_dailymail",),
        ("record", "coqa"),
        "passages of ReCoRD and some of CoQA are CNN and Daily Mail articles",
        None,
    ),
    Relation(("hellaswag",), ("wiki_lingua_english_en",), "WikiHow articles", None),
    Relation(
        ("sst2",),
        ("opinion_abstracts_rotten_tomatoes",),
        "reviews by critics on Rotten Tomatoes",
        None,
    ),
)


@dataclasses.dataclass(frozen=True)
class SharedText:
    """A training dataset that shares text with evaluated ones.

    Attributes:
      train: its name.
      evaluated: names of the evaluated datasets of one relation.
      relation: what they share.
    """

    train: str
    evaluated: tuple[str, ...]
    relation: Relation

    def __str__(self) -> str:
        measured = (
            f"measured: {self.relation.measured}" if self.relation.measured else "not measured"
        )
        return f"shares text with {', '.join(self.evaluated)}: {self.relation.why} ({measured})"


def shared_texts(train: Iterable[str], evaluated: Iterable[str]) -> list[SharedText]:
    """Returns what the datasets of `train` share with the evaluated ones, in the order of `train`.

    Args:
      train: names of training datasets.
      evaluated: names of evaluated datasets.
    """
    evaluated = list(evaluated)
    shared = []
    for name in train:
        for relation in RELATIONS:
            for mine, theirs in (
                (relation.first, relation.second),
                (relation.second, relation.first),
            ):
                related = tuple(other for other in evaluated if other in theirs)
                if name in mine and related:
                    shared.append(SharedText(name, related, relation))
    return shared


def describe(rule: str, overlaps: Sequence[SharedText]) -> list[str]:
    """Returns lines about the rule and the training datasets that share text with evaluated ones.

    Args:
      rule: a key of `RULES`.
      overlaps: as `shared_texts` returns them.
    """
    return [
        f"related datasets (RELATED={rule!r}): {RULES[rule]}",
        *(f"  {overlap.train} trains and {overlap}" for overlap in overlaps),
    ]
