"""The catalogue itself: all registered datasets by name, each checked when it is added."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from flan_jax.catalogue.clusters import CLUSTERS, check_cluster
from flan_jax.catalogue.record_checks import check_record, check_template
from flan_jax.catalogue.records import Dataset, Template
from flan_jax.config.checks import quoted
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

_FIELD = re.compile(r"\{(\w*)\}")
_IGNORED = dict.fromkeys(map(ord, string.punctuation + string.whitespace + "’‘“”–—…¿¡"))


def repetition_key(template: Template) -> str:
    """Returns the texts of a template without what makes no difference; equal ones are repetitions.

    Case, white space, punctuation and the names of fields make none.
    """
    text = f"{_FIELD.sub(chr(0), template.inputs)}\x01{_FIELD.sub(chr(0), template.targets)}"
    return text.lower().translate(_IGNORED)


class Catalogue:
    """Registered datasets, by name; `CATALOGUE` is the one that verbs read."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._seen: dict[str, tuple[Dataset, Template]] = {}

    def register(self, dataset: Dataset) -> Dataset:
        """Checks a dataset, adds it and returns it.

        Raises:
          UserError: for a wrong record or template, a name that is taken, a repeated template.
        """
        if not isinstance(dataset, Dataset):
            raise UserError(f"what is registered must be a Dataset(...), not {quoted(dataset)}.")
        check_record(dataset)
        if dataset.name in self._datasets:
            raise UserError(
                f"dataset {dataset.name!r} is registered twice; give one of them another name."
            )
        self._seen.update(self._new_templates(dataset))
        self._datasets[dataset.name] = dataset
        return dataset

    def _new_templates(self, dataset: Dataset) -> dict[str, tuple[Dataset, Template]]:
        """The templates of a dataset by `repetition_key`, checked."""
        new: dict[str, tuple[Dataset, Template]] = {}
        for template in dataset.templates:
            check_template(dataset, template)
            key = repetition_key(template)
            other, twin = new.get(key) or self._seen.get(key) or (None, None)
            # Configurations of one dataset of the paper share templates.
            shared = other is not dataset and other and other.paper_dataset == dataset.paper_dataset
            if other is not None and not shared:
                raise UserError(
                    f"template {dataset.name}/{template.id} repeats {other.name}/{twin.id} up to "
                    "case, punctuation and field names; write it differently or delete it."
                )
            new[key] = (dataset, template)
        return new

    def __getitem__(self, name: str) -> Dataset:
        if name in self._datasets:
            return self._datasets[name]
        in_cluster = [dataset.name for dataset in self if dataset.cluster == name]
        if in_cluster:
            raise UserError(
                f"{name!r} is a cluster, not a dataset; its datasets are {', '.join(in_cluster)}."
            )
        near = nearest(name, [*CLUSTERS, *self._datasets], cutoff=0.4)
        hint = did_you_mean(near, "; `flan-jax tasks list` lists the datasets.")
        raise UserError(f"unknown dataset {name!r}{hint}")

    def __iter__(self) -> Iterator[Dataset]:
        return iter(self._datasets.values())

    def __contains__(self, name: str) -> bool:
        return name in self._datasets

    def __len__(self) -> int:
        return len(self._datasets)

    def cluster(self, name: str) -> list[Dataset]:
        """Returns the datasets of a cluster, in order of registration.

        Raises:
          UserError: for an unknown cluster.
        """
        check_cluster(name)
        return [d for d in self if d.cluster == name]


CATALOGUE = Catalogue()


def register(*datasets: Dataset) -> None:
    """Adds datasets to `CATALOGUE`, with the checks of `Catalogue.register`."""
    for dataset in datasets:
        CATALOGUE.register(dataset)
