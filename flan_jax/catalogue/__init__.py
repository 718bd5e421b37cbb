"""The catalogue: records of datasets and templates, clusters, splits, rendering.

A module that registers datasets imports from here: `from flan_jax.catalogue import Dataset, ...`.
"""

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.records import FROM_ROW, Dataset, Drop, Hub, Template
from flan_jax.catalogue.registry import CATALOGUE, Catalogue, register

__all__ = [
    "CATALOGUE",
    "CLUSTERS",
    "FROM_ROW",
    "Catalogue",
    "Dataset",
    "Drop",
    "Hub",
    "Template",
    "register",
]
