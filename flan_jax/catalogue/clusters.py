"""The 12 task clusters of the paper (Figure 3) and which of them leave the training side
together.
"""

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

# Section 2.2 of the paper and task_splits.py of its code: these clusters train neither when the key
# is held out.
RELATED_CLUSTERS = {
    "nli": ("paraphrase",),
    "paraphrase": ("nli",),
    "reading_comprehension": ("reading_comprehension_with_commonsense",),
    "commonsense": ("reading_comprehension_with_commonsense",),
    "reading_comprehension_with_commonsense": ("reading_comprehension", "commonsense"),
}


def check_cluster(name: str, forms: str = "", others: Iterable[str] = ()) -> str:
    """Returns the name of a cluster.

    Args:
      name: of the cluster.
      forms: what else may be written there, for the message.
      others: names that are suggested beside the clusters.

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
