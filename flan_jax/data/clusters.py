"""The 12 task clusters of the paper (Figure 3) and which of them leave the training side together."""

from __future__ import annotations

import difflib

from flan_jax.errors import UserError

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

# Section 2.2 of the paper and task_splits.py of its code: these clusters train neither when the key is held out.
RELATED = {
    "nli": ("paraphrase",),
    "paraphrase": ("nli",),
    "reading_comprehension": ("reading_comprehension_with_commonsense",),
    "commonsense": ("reading_comprehension_with_commonsense",),
    "reading_comprehension_with_commonsense": ("reading_comprehension", "commonsense"),
}


def check_cluster(name: str, forms: str = "") -> str:
    """The name itself, or a UserError that suggests the nearest cluster; `forms` says what else it may be."""
    if name in CLUSTERS:
        return name
    near = difflib.get_close_matches(name, CLUSTERS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise UserError(f"unknown cluster {name!r}{hint} The clusters are {', '.join(CLUSTERS)}."
                    + (f" {forms}" if forms else ""))
