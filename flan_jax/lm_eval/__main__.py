"""`python -m flan_jax.lm_eval run --model flan_jax ...`: the harness's command line with our model.

The harness has no entry point through which a package could register a model, so it must be
started from here.
"""

from __future__ import annotations

import sys

from flan_jax.cli import dispatch


def main(argv: list[str] | None = None) -> int:
    """Registers the model `flan_jax` and runs the harness with the arguments; returns the status.

    Raises:
      UserError: if the harness is not installed, or the model cannot be opened.
    """
    # Registers the model; first, for its message about a missing harness.
    import flan_jax.lm_eval.model  # noqa: F401

    from lm_eval.__main__ import cli_evaluate  # isort: skip

    # The harness reads its arguments from here only.
    sys.argv = ["lm-eval", *(sys.argv[1:] if argv is None else argv)]
    cli_evaluate()
    return 0


if __name__ == "__main__":
    dispatch.run(main)
