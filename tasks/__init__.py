"""The catalogue: one module per task cluster, each dataset with its templates side by side.

Importing this package registers every dataset in `flan_jax.data.catalogue.CATALOGUE`, in the order
below, and offers their names to SeqIO (see `flan_jax.data.seqio_tasks`), which it does not import.
"""

import importlib

from flan_jax.data.catalogue import register
from flan_jax.data.clusters import CLUSTERS
from flan_jax.data.seqio_tasks import register as _offer_to_seqio

for _cluster in CLUSTERS:
    register(*importlib.import_module(f"flan_jax.tasks.{_cluster}").DATASETS)

_offer_to_seqio()
