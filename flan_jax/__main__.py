"""`python -m flan_jax VERB ...`: the same program as `flan-jax VERB ...`."""

import sys

from flan_jax.cli import dispatch

sys.exit(dispatch.main())
