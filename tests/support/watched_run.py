"""`flan-jax train`, or the restoring of its last checkpoint, that also prints what it handles.

Run as `watched_run.py train|restore ARGUMENTS` in a process of its own. Each line of JSON has the
rows of training batches that this process made, or the digest of every array that is saved or
restored.
"""

import hashlib
import json
import sys


def _say(**values) -> None:
    """Prints a line of JSON in one write.

    Lines of other threads come before or after it, not within.
    """
    sys.__stdout__.write("\n" + json.dumps(values) + "\n")  # a run prints on process 0 alone
    sys.__stdout__.flush()


def _say_digests(tree) -> None:
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from flan_jax.models.stacking import named

    digests = {}
    for name, leaf in sorted(named(tree).items()):
        whole = (
            leaf
            if jax.process_count() == 1
            else multihost_utils.process_allgather(leaf, tiled=True)
        )
        array = np.asarray(whole)
        digests[name] = [
            str(array.dtype),
            list(array.shape),
            hashlib.sha256(array.tobytes()).hexdigest(),
        ]
    _say(arrays=digests)


def _train(argv: list[str]) -> int:
    from flan_jax.checkpoints.manager import Checkpoints
    from flan_jax.data.batches import Batches
    from flan_jax.train import main

    at, save = Batches.at, Checkpoints.save

    def watched_at(self, step, first=0, last=None):
        _say(rows=[first, last])
        return at(self, step, first, last)

    def watched_save(self, step, tree, *more):
        _say_digests(tree)
        save(self, step, tree, *more)

    Batches.at, Checkpoints.save = watched_at, watched_save
    return main(argv)


def _restore(argv: list[str]) -> int:
    from flan_jax.checkpoints import manager
    from flan_jax.config import gin_files
    from flan_jax.runs.setup import open_run

    gin_files.parse_command_line(argv, gin_files.CONFIGURED)
    run = open_run()
    _say_digests(manager.Checkpoints(run.directory / "checkpoints").restore(run.sharded.on_disk()))
    return 0


if __name__ == "__main__":
    sys.exit({"train": _train, "restore": _restore}[sys.argv[1]](sys.argv[2:]))
