"""`python -m flan_jax VERB ...`: the same program as `flan-jax VERB ...`."""

import sys

from flan_jax import cli

sys.exit(cli.main())
