"""The datasets of the paper: one module per task cluster, each dataset with its templates.

Importing this package registers every dataset in `flan_jax.catalogue.CATALOGUE`, in the order
below, and offers their names to SeqIO (see `flan_jax.data.seqio.recipes`) without importing it.
"""

import importlib
import types

from flan_jax.catalogue import CLUSTERS, register
from flan_jax.import_hook import when_imported

for _cluster in CLUSTERS:
    register(*importlib.import_module(f"flan_jax.tasks.{_cluster}").DATASETS)


def _offer_to_seqio(providers: types.ModuleType) -> None:
    # By name, as a verb is found: the datasets do not depend on the data pipeline.
    importlib.import_module("flan_jax.data.seqio.registration").offer(providers)


when_imported("seqio.dataset_providers", _offer_to_seqio)
