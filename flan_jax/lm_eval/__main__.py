"""`python -m flan_jax.lm_eval run --model flan_jax ...`: lm-evaluation-harness's own command line,
our models in it.

The harness has no entry point by which a package could offer it a model, so it must be started from
here.
"""

from __future__ import annotations

import sys

from flan_jax.cli import dispatch


def main(argv: list[str] | None = None) -> int:
    """Registers the model `flan_jax` and hands the arguments to the harness.

    Raises:
      UserError: if the harness is not installed, or the model cannot be opened.
    """
    import flan_jax.lm_eval.model  # noqa: F401  (registers the model; first, for its word on a missing harness)

    from lm_eval.__main__ import cli_evaluate  # isort: skip

    # the harness reads no other arguments
    sys.argv = ["lm-eval", *(sys.argv[1:] if argv is None else argv)]
    cli_evaluate()
    return 0


if __name__ == "__main__":
    dispatch.run(main)
