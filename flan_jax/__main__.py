"""`python -m flan_jax VERB ...`: the same program as `flan-jax VERB ...`."""

from flan_jax.cli import dispatch

dispatch.program()
