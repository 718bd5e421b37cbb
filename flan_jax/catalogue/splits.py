"""Which datasets train and which are held out (sections 2.2 and 4 of the paper)."""

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

# What each value of `Split.unseen` guarantees about the evaluated datasets.
UNSEEN = {
    "cluster": "no training dataset is in their clusters or in a related one",
    "dataset": "they do not train, though others of their clusters do",
    "nothing": "not unseen: they train as well",
}


@dataclasses.dataclass(frozen=True)
class Split:
    """Configuration names by side.

    Attributes:
      train, eval: datasets that train and that are evaluated.
      dropped: datasets that do neither; `why` has the reason of each.
      unseen: what is guaranteed about `eval`: a key of `UNSEEN`.
      related: which related datasets do not train: a key of `relations.RULES`.
      overlaps: training datasets that share text with one of `eval`; empty unless `related` is
        'paper'.
    """

    train: list[str]
    dropped: list[str]
    eval: list[str]
    why: dict[str, str]
    unseen: str = "cluster"
    related: str = "text"
    overlaps: tuple[SharedText, ...] = ()

    def check(self, catalogue: Catalogue, names: Iterable[str]) -> None:
        """Checks that `eval` stays as unseen as `unseen` states if `names` train.

        Raises:
          UserError: for the first dataset of `names` that must not train.
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
    def guarantee(self) -> str:
        """Returns what is guaranteed about the evaluated datasets, in words."""
        guarantee = UNSEEN[self.unseen]
        if self.overlaps:
            return (
                f"{guarantee}, but {', '.join(dict.fromkeys(o.train for o in self.overlaps))} "
                f"shares text with them"
            )
        return (
            f"{guarantee}; no training dataset shares text with them"
            if self._keeps_text_apart()
            else guarantee
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
    """Returns the training and the evaluation side; what is related to the latter is in neither.

    Args:
      catalogue: the registered datasets.
      held_out: one of `HELD_OUT_FORMS`. A cluster, or several joined by '+'; 'superglue' holds out
        its eight datasets and nothing else, 'intra_K' one dataset of each cluster that has several
        (a different one for each K): these two are unseen datasets of seen clusters; 'all' trains
        and evaluates everything; 'none' (or None) evaluates nothing.
      train_clusters: only the first so many clusters of `ABLATION_ORDER` that are neither held out
        nor related train.
      datasets_per_cluster: only the first so many configurations of each cluster train, in the
        order of the catalogue.
      related: 'text' also keeps datasets that share text with an evaluated one from training;
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
    train, why = _training_side(catalogue, evaluated, unseen)
    if unseen != "nothing" and related == "text":
        why |= _sharing_text(train, evaluated)
        train = [d for d in train if d.name not in why]
    if commercial_only:
        why |= _not_commercial(train)
        train = [d for d in train if d.name not in why]
    why |= _ablated(train, train_clusters, datasets_per_cluster, train_datasets)
    names = [d.name for d in train if d.name not in why]
    if not names:
        raise UserError(
            f"no dataset is left to train on with HELD_OUT={held_out}; hold out fewer datasets."
        )
    overlaps = shared_texts(names, [d.name for d in evaluated]) if unseen != "nothing" else ()
    split = Split(
        train=names,
        dropped=[d.name for d in catalogue if d.name in why],
        eval=[d.name for d in evaluated],
        why=why,
        unseen=unseen,
        related=related,
        overlaps=tuple(overlaps),
    )
    split.check(catalogue, names)
    return split


def _training_side(
    catalogue: Catalogue, evaluated: list[Dataset], unseen: str
) -> tuple[list[Dataset], dict[str, str]]:
    """The datasets that may train, and why those of related clusters do not."""
    by_cluster = unseen == "cluster"
    held_clusters = {d.cluster for d in evaluated} if by_cluster else set()
    related_clusters = _related(evaluated) if by_cluster else set()
    held_datasets = {d.paper_dataset for d in evaluated} if unseen != "nothing" else set()
    why = {
        d.name: f"{CLUSTERS[d.cluster]} is related to {_names_related_to(d.cluster, held_clusters)}"
        for d in catalogue
        if d.cluster in related_clusters
    }
    train = [
        d
        for d in catalogue
        if d.cluster not in held_clusters | related_clusters
        and d.paper_dataset not in held_datasets
        and "train" in d.splits
    ]
    return train, why


def _not_commercial(train: Iterable[Dataset]) -> dict[str, str]:
    """Why each training dataset without a license for commercial use does not train."""
    return {
        d.name: f"commercial use: {in_words(d.commercial)} (license {d.license})"
        for d in train
        if not d.commercial
    }


def check_disjoint(
    catalogue: Catalogue, train: Iterable[str], evaluated: Iterable[str], unseen: str = "cluster"
) -> None:
    """Checks that no dataset of the paper, and no cluster, is both trained on and held out.

    Args:
      catalogue: the registered datasets.
      train: names of training datasets.
      evaluated: names of evaluated datasets.
      unseen: a key of `UNSEEN`.

    Raises:
      UserError: for the first training dataset that is held out, too.
    """
    evaluated = [catalogue[name] for name in evaluated] if unseen != "nothing" else []
    for name in train:
        for other in evaluated:
            mine = catalogue[name]
            same_cluster = unseen == "cluster" and mine.cluster == other.cluster
            if mine.paper_dataset == other.paper_dataset or same_cluster:
                raise UserError(
                    f"{name} trains while {other.name} of the same cluster ({other.cluster}) is "
                    "held out, or related to what is held out; set HELD_OUT to another cluster, or "
                    f"do not train on {name}."
                )


def _evaluated(catalogue: Catalogue, held_out: str) -> tuple[list[Dataset], str]:
    """The datasets that are evaluated, and a key of `UNSEEN`."""
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
                f"HELD_OUT: {name!r} is a dataset, not a cluster; hold out its cluster, "
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


def _ablated(
    train: list[Dataset],
    train_clusters: int | None,
    datasets_per_cluster: int | None,
    train_datasets: int | None,
) -> dict[str, str]:
    """Why each training dataset that the ablations take away does not train."""
    apart = train_clusters is not None or train_datasets is not None
    groups: dict[str, list[Dataset]] = {}
    for d in train:
        group = "conversational_qa" if apart and d.name in CONVERSATIONAL_QA else d.cluster
        groups.setdefault(group, []).append(d)
    why: dict[str, str] = {}
    if train_clusters is not None:
        why |= _beyond_clusters(groups, train_clusters)
    if datasets_per_cluster is not None:
        check_number(
            "DATASETS_PER_CLUSTER", datasets_per_cluster, whole=True, least=1, optional=True
        )
        beyond = [d for datasets in groups.values() for d in datasets[datasets_per_cluster:]]
        reason = f"beyond the first {datasets_per_cluster} datasets of its cluster"
        why |= {d.name: reason for d in beyond if d.name not in why}
    if train_datasets is not None:
        why |= _beyond_datasets(groups, train_datasets, why)
    return why


def _beyond_clusters(groups: dict[str, list[Dataset]], train_clusters: int) -> dict[str, str]:
    order = [name for name in ABLATION_ORDER if name in groups]
    check_number(
        "TRAIN_CLUSTERS", train_clusters, whole=True, least=1, below=len(order) + 1, optional=True
    )
    first = order[:train_clusters]
    reason = f"not of the first {train_clusters} training clusters ({', '.join(first)})"
    return {
        d.name: reason for group, datasets in groups.items() if group not in first for d in datasets
    }


def _beyond_datasets(
    groups: dict[str, list[Dataset]], train_datasets: int, why: dict[str, str]
) -> dict[str, str]:
    check_number("TRAIN_DATASETS", train_datasets, whole=True, least=1, optional=True)
    left = [
        [d.name for d in groups[group] if d.name not in why]
        for group in _IN_TURN
        if group in groups
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*left))
    in_turn = [name for name in turns if name is not None]
    reason = f"beyond {train_datasets} datasets, taken from each cluster in turn"
    return {name: reason for name in in_turn[train_datasets:]}
