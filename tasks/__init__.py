"""The catalogue: one module per task cluster, each dataset with its templates side by side.

Importing this package registers every dataset in `flan_jax.catalogue.records.CATALOGUE`, in the order
below, and offers their names to SeqIO (see `flan_jax.data.seqio.recipes`), which it does not import.
"""

import importlib

from flan_jax.catalogue.clusters import CLUSTERS
from flan_jax.catalogue.records import register
from flan_jax.data.seqio.recipes import register as _offer_to_seqio

for _cluster in CLUSTERS:
    register(*importlib.import_module(f"flan_jax.tasks.{_cluster}").DATASETS)

_offer_to_seqio()
