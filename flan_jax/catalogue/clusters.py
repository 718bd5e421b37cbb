"""The 12 task clusters of the paper (Figure 3), and which of them are related."""

from __future__ import annotations

from collections.abc import Iterable

from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

# Name on the command line -> name in the paper.
CLUSTERS = {
    "nli": "Natural language inference",
    "commonsense": "Commonsense",
    "sentiment": "Sentiment",
    "paraphrase": "Paraphrase",
    "closed_book_qa": "Closed-book QA",
    "struct_to_text": "Struct to text",
    "reading_comprehension": "Reading comprehension",
    "reading_comprehension_with_commonsense": "Reading comp. with commonsense",
    "coreference": "Coreference",
    "misc": "Miscellaneous",
    "translation": "Translation",
    "summarization": "Summarization",
}

# Section 2.2 of the paper and task_splits.py of its code: while the key is held out, these clusters
# do not train either.
RELATED_CLUSTERS = {
    "nli": ("paraphrase",),
    "paraphrase": ("nli",),
    "reading_comprehension": ("reading_comprehension_with_commonsense",),
    "commonsense": ("reading_comprehension_with_commonsense",),
    "reading_comprehension_with_commonsense": ("reading_comprehension", "commonsense"),
}


def check_cluster(name: str, forms: str = "", others: Iterable[str] = ()) -> str:
    """Returns the name of a cluster, if it is one.

    Args:
      name: a value that may be the name of a cluster.
      forms: which other values are allowed, for the message.
      others: other allowed names, which the message may suggest.

    Raises:
      UserError: for another name; it suggests the nearest.
    """
    if isinstance(name, str) and name in CLUSTERS:
        return name
    hint = did_you_mean(nearest(name, [*CLUSTERS, *others], cutoff=0.4))
    raise UserError(
        f"unknown cluster {quoted(name)}{hint} The clusters are {', '.join(CLUSTERS)}."
        + (f" {forms}" if forms else "")
    )
