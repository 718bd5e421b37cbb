"""Who trains, who is held out, and how often each dataset is drawn (sections 2.2, 2.4 and 4 of the
paper).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable

from flan_jax.catalogue.clusters import CLUSTERS, RELATED_CLUSTERS, check_cluster
from flan_jax.catalogue.records import Dataset, in_words
from flan_jax.catalogue.registry import Catalogue
from flan_jax.catalogue.relations import RULES, SharedText, shared_texts
from flan_jax.config.checks import check_choice, check_number
from flan_jax.errors import UserError
from flan_jax.storage.hashing import permutation

SUPERGLUE = ("bool_q", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")

# The paper's Figure 6 adds clusters in this order while NLI, commonsense and closed-book QA are
# held out; the seventh is a part of the paper's miscellaneous cluster.
ABLATION_ORDER = (
    "summarization",
    "translation",
    "reading_comprehension",
    "sentiment",
    "struct_to_text",
    "coreference",
    "conversational_qa",
)
CONVERSATIONAL_QA = ("quac", "coqa")
# TRAIN_DATASETS takes a dataset of each of these clusters in turn, in the order in which the
# paper's code lists them.
_IN_TURN = (
    "summarization",
    "struct_to_text",
    "reading_comprehension",
    "closed_book_qa",
    "paraphrase",
    "sentiment",
    "commonsense",
    "translation",
    "coreference",
    "nli",
    "conversational_qa",
    "misc",
    "reading_comprehension_with_commonsense",
)
INTRA_CLUSTER_SPLITS = 10

HELD_OUT_FORMS = (
    "HELD_OUT is a cluster ('nli'), several ('nli+commonsense'), 'superglue', 'intra_0' to "
    f"'intra_{INTRA_CLUSTER_SPLITS - 1}', 'all' or 'none'"
)

# What each value of `Split.unseen` promises of the evaluated datasets.
UNSEEN = {
    "cluster": "no training dataset is in their clusters or in a related one",
    "dataset": "they do not train, though others of their clusters do",
    "nothing": "no promise, they train as well",
}


@dataclasses.dataclass(frozen=True)
class Split:
    """Configuration names by side.

    Attributes:
      train, eval: what trains and what is evaluated.
      dropped: what does neither; `why` gives the reason of each.
      unseen: what may be said of `eval`: a key of `UNSEEN`.
      related: which related datasets do not train: a key of `relations.RULES`.
      overlaps: what trains although it shares text with a dataset of `eval`; empty unless `related`
        is 'paper'.
    """

    train: list[str]
    dropped: list[str]
    eval: list[str]
    why: dict[str, str]
    unseen: str = "cluster"
    related: str = "text"
    overlaps: tuple[SharedText, ...] = ()

    def check(self, catalogue: Catalogue, names: Iterable[str]) -> None:
        """Raises a UserError if one of `names`, were it to train, made `eval` less unseen than it
        is called.
        """
        names = list(names)
        related = _related(catalogue[e] for e in self.eval) if self.unseen == "cluster" else set()
        check_disjoint(
            catalogue,
            names,
            [*self.eval, *(d.name for d in catalogue if d.cluster in related)],
            self.unseen,
        )
        if self._keeps_text_apart():
            for shared in shared_texts(names, self.eval):
                raise UserError(
                    f"{shared.train} trains while {shared.evaluated[0]} is held out, and the two "
                    f"share text ({shared.relation.why}): train on another dataset, or set "
                    "RELATED=paper, which allows it."
                )

    @property
    def promise(self) -> str:
        """What may be said of the evaluated datasets, in words."""
        promise = UNSEEN[self.unseen]
        if self.overlaps:
            return (
                f"{promise}, but {', '.join(dict.fromkeys(o.train for o in self.overlaps))} "
                f"shares text with them"
            )
        return (
            f"{promise}; no training dataset shares text with them"
            if self._keeps_text_apart()
            else promise
        )

    def _keeps_text_apart(self) -> bool:
        return self.related == "text" and self.unseen != "nothing"


def held_out_split(
    catalogue: Catalogue,
    held_out: str | None,
    train_clusters: int | None = None,
    datasets_per_cluster: int | None = None,
    related: str = "text",
    train_datasets: int | None = None,
    commercial_only: bool = False,
) -> Split:
    """Train and evaluation sides; what is related to what is held out does neither.

    Args:
      catalogue: the datasets there are.
      held_out: one of `HELD_OUT_FORMS`. A cluster, or several joined by '+'; 'superglue' holds out
        its eight datasets and nothing else, 'intra_K' one dataset of each cluster that has several
        (another for each K): these two are unseen datasets of seen clusters; 'all' trains and
        evaluates everything; 'none' (or None) evaluates nothing.
      train_clusters: only the first so many clusters of `ABLATION_ORDER` that are neither held out
        nor related train.
      datasets_per_cluster: only the first so many configurations of each cluster train, in the
        order of the catalogue.
      related: 'text' keeps datasets that share text with an evaluated one from training, too;
        'paper' does not.
      train_datasets: at most so many configurations train: the first of each cluster, then the
        second, and so on.
      commercial_only: only datasets with a license that allows commercial use train.

    Raises:
      UserError: for an unknown cluster, form or rule, or numbers that are out of range.
    """
    check_choice("RELATED", related, RULES)
    if held_out is None:
        held_out = "none"
    if not isinstance(held_out, str) or not held_out:
        raise UserError(f"{HELD_OUT_FORMS}, not {held_out!r}.")
    evaluated, unseen = _evaluated(catalogue, held_out)
    held_clusters = {d.cluster for d in evaluated} if unseen == "cluster" else set()
    related_clusters = _related(evaluated) if unseen == "cluster" else set()
    kept_back = {d.paper_dataset for d in evaluated} if unseen != "nothing" else set()
    why = {
        d.name: f"{CLUSTERS[d.cluster]} is related to {_names_related_to(d.cluster, held_clusters)}"
        for d in catalogue
        if d.cluster in related_clusters
    }
    train = [
        d
        for d in catalogue
        if d.cluster not in held_clusters | related_clusters
        and d.paper_dataset not in kept_back
        and "train" in d.splits
    ]
    if unseen != "nothing" and related == "text":
        why |= _sharing_text(train, evaluated)
        train = [d for d in train if d.name not in why]
    if commercial_only:
        why |= {
            d.name: f"commercial use: {in_words(d.commercial)} (license {d.license})"
            for d in train
            if not d.commercial
        }
        train = [d for d in train if d.name not in why]
    why |= _cut(train, train_clusters, datasets_per_cluster, train_datasets)
    names = [d.name for d in train if d.name not in why]
    if not names:
        raise UserError(f"nothing is left to train on with HELD_OUT={held_out}; hold out less.")
    overlaps = shared_texts(names, [d.name for d in evaluated]) if unseen != "nothing" else ()
    split = Split(
        names,
        [d.name for d in catalogue if d.name in why],
        [d.name for d in evaluated],
        why,
        unseen,
        related,
        tuple(overlaps),
    )
    split.check(catalogue, names)
    return split


def check_disjoint(
    catalogue: Catalogue, train: Iterable[str], evaluated: Iterable[str], unseen: str = "cluster"
) -> None:
    """Raises a UserError if a dataset of the paper, or a cluster, is both trained on and called
    held out.
    """
    evaluated = [catalogue[name] for name in evaluated] if unseen != "nothing" else []
    for name in train:
        for other in evaluated:
            mine = catalogue[name]
            same_cluster = unseen == "cluster" and mine.cluster == other.cluster
            if mine.paper_dataset == other.paper_dataset or same_cluster:
                raise UserError(
                    f"{name} trains while {other.name} of the same cluster ({other.cluster}) is "
                    "held out, or dropped with what is: set HELD_OUT to another cluster, or do not "
                    f"train on {name}."
                )


def _evaluated(catalogue: Catalogue, held_out: str) -> tuple[list[Dataset], str]:
    """The datasets that are evaluated, and what is unseen about them."""
    if held_out == "none":
        return [], "cluster"
    if held_out == "all":
        return list(catalogue), "nothing"
    if held_out == "superglue":
        return [d for d in catalogue if d.name in SUPERGLUE], "dataset"
    if match := re.fullmatch(r"intra_(\d+)", held_out):
        return _intra_cluster(catalogue, int(match.group(1))), "dataset"
    clusters = held_out.split("+")
    for name in clusters:
        if name in catalogue and name not in CLUSTERS:
            raise UserError(
                f"HELD_OUT: {name!r} is a dataset and no cluster; hold out its cluster, "
                f"{catalogue[name].cluster}, and set EVAL_DATASETS={name} to evaluate it alone."
            )
        check_cluster(name, f"{HELD_OUT_FORMS}.", ("superglue", "intra_0", "all", "none"))
    return [d for d in catalogue if d.cluster in clusters], "cluster"


def _intra_cluster(catalogue: Catalogue, number: int) -> list[Dataset]:
    if number >= INTRA_CLUSTER_SPLITS:
        raise UserError(
            f"HELD_OUT=intra_{number}: the splits within clusters are intra_0 to "
            f"intra_{INTRA_CLUSTER_SPLITS - 1}."
        )
    chosen = set()
    for cluster in CLUSTERS:
        datasets = sorted({d.paper_dataset for d in catalogue.cluster(cluster)})
        if len(datasets) > 1:
            order = permutation(len(datasets), "intra", cluster)
            chosen.add((cluster, datasets[order[number % len(datasets)]]))
    return [d for d in catalogue if (d.cluster, d.paper_dataset) in chosen]


def _related(evaluated: Iterable[Dataset]) -> set[str]:
    clusters = {d.cluster for d in evaluated}
    return {other for name in clusters for other in RELATED_CLUSTERS.get(name, ())} - clusters


def _sharing_text(train: Iterable[Dataset], evaluated: Iterable[Dataset]) -> dict[str, str]:
    """Why each training dataset that shares text with an evaluated one does not train."""
    why: dict[str, list[str]] = {}
    for shared in shared_texts((d.name for d in train), (d.name for d in evaluated)):
        why.setdefault(shared.train, []).append(str(shared))
    return {name: "; ".join(reasons) for name, reasons in why.items()}


def _names_related_to(cluster: str, held_out: set[str]) -> str:
    return ", ".join(
        title
        for name, title in CLUSTERS.items()
        if name in held_out and cluster in RELATED_CLUSTERS.get(name, ())
    )


def _cut(
    train: list[Dataset],
    train_clusters: int | None,
    datasets_per_cluster: int | None,
    train_datasets: int | None,
) -> dict[str, str]:
    """Why each training dataset that the ablations take away does not train."""
    groups: dict[str, list[Dataset]] = {}
    for d in train:
        apart = train_clusters is not None or train_datasets is not None
        groups.setdefault(
            "conversational_qa" if apart and d.name in CONVERSATIONAL_QA else d.cluster, []
        ).append(d)
    why = {}
    if train_clusters is not None:
        order = [name for name in ABLATION_ORDER if name in groups]
        check_number(
            "TRAIN_CLUSTERS",
            train_clusters,
            whole=True,
            least=1,
            below=len(order) + 1,
            optional=True,
        )
        chosen = order[:train_clusters]
        why = {
            d.name: f"not of the first {train_clusters} training clusters ({', '.join(chosen)})"
            for name, datasets in groups.items()
            if name not in chosen
            for d in datasets
        }
    if datasets_per_cluster is not None:
        check_number(
            "DATASETS_PER_CLUSTER", datasets_per_cluster, whole=True, least=1, optional=True
        )
        for datasets in groups.values():
            why |= {
                d.name: f"beyond the first {datasets_per_cluster} datasets of its cluster"
                for d in datasets[datasets_per_cluster:]
                if d.name not in why
            }
    if train_datasets is not None:
        check_number("TRAIN_DATASETS", train_datasets, whole=True, least=1, optional=True)
        left = [
            [d.name for d in groups[name] if d.name not in why]
            for name in _IN_TURN
            if name in groups
        ]
        in_turn = [
            name for turn in itertools.zip_longest(*left) for name in turn if name is not None
        ]
        why |= {
            name: f"beyond {train_datasets} datasets, taken from each cluster in turn"
            for name in in_turn[train_datasets:]
        }
    return why
