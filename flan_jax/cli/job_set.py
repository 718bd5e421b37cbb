"""The manifest of a JobSet of GKE: an indexed Job per TPU slice, a pod per host."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence

from flan_jax.config.flags import whole_number
from flan_jax.errors import UserError
from flan_jax.messages import did_you_mean, nearest

# Where the pods of a JobSet mount their storage.
MOUNT = "/runs"
# Our name of a generation -> the label of its nodes.
GENERATIONS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
_FLAT = ("v5e", "v6e")  # their slices have two dimensions, the others three
CHIPS_PER_HOST = 4  # of a slice with several hosts, in each of these generations
# How often a JobSet is restarted, and the seconds in which its pods save.
_MOST_RESTARTS, _GRACE_S = 100, 120
_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_JOB_SET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}{metadata}
spec:
  failurePolicy:
    maxRestarts: {most_restarts}
    rules:
    - name: errorMessage
      action: FailJobSet
      onJobFailureReasons:
      - PodFailurePolicy
  replicatedJobs:
  - name: slice
    replicas: {slices}
    template:
      spec:
        completionMode: Indexed
        completions: {hosts}
        parallelism: {hosts}
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              operator: In
              values: [2]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: {grace_seconds}
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {accelerator}
              cloud.google.com/gke-tpu-topology: {topology}
            containers:
            - name: train
              image: {image}
              command:
{command}
              resources:
                limits:
                  google.com/tpu: {chips_per_host}"""
_VOLUME = """
              volumeMounts:
              - name: runs
                mountPath: {mount}
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: {claim}"""


def job_set(
    flags: argparse.Namespace,
    command: Sequence[str],
    name: str,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """Returns the manifest of a JobSet whose pods run a command.

    Args:
      flags: of the backend.
      command: of each pod.
      name: of the JobSet.
      annotations: added to it.

    Raises:
      UserError: if the flags do not fit together.
    """
    if flags.tpu not in GENERATIONS:
        raise UserError(
            f"--tpu={flags.tpu} is not one of "
            f"{', '.join(GENERATIONS)}{did_you_mean(nearest(flags.tpu, GENERATIONS))}"
        )
    if flags.queue is not None and not re.fullmatch(_LABEL, flags.queue):
        raise UserError(
            f"--queue={flags.queue} must be the name of a LocalQueue of Kueue: lower-case letters, "
            "digits and hyphens."
        )
    chips = _chips_of_slice(flags)
    chips_per_host = whole_number(flags, "chips_per_host", min(chips, CHIPS_PER_HOST))
    if chips % chips_per_host:
        raise UserError(
            f"--topology={flags.topology} has {chips} chips, which are no whole number of hosts "
            f"with {chips_per_host} each; give another --chips_per_host."
        )
    annotations = {_EXCLUSIVE: "cloud.google.com/gke-nodepool", **(annotations or {})}
    # Kueue lets the JobSet start when there is room for all of its pods.
    labels = {} if flags.queue is None else {"kueue.x-k8s.io/queue-name": flags.queue}
    manifest = _JOB_SET.format(
        name=json.dumps(name),
        metadata="".join(
            f"\n  {kind}:" + "".join(f"\n    {key}: {json.dumps(v)}" for key, v in values.items())
            for kind, values in (("labels", labels), ("annotations", annotations))
            if values
        ),
        most_restarts=_MOST_RESTARTS,
        slices=whole_number(flags, "slices", 1),
        hosts=chips // chips_per_host,
        grace_seconds=_GRACE_S,
        accelerator=GENERATIONS[flags.tpu],
        topology=flags.topology,
        image=json.dumps(flags.image),
        # Kubernetes expands "$(NAME)", and "$$" is its escape of "$".
        command="\n".join(f"              - {json.dumps(a.replace('$', '$$'))}" for a in command),
        chips_per_host=chips_per_host,
    )
    if flags.claim is None:
        return manifest
    return manifest + _VOLUME.format(mount=MOUNT, claim=json.dumps(flags.claim))


def _chips_of_slice(flags: argparse.Namespace) -> int:
    """Returns the chips of the slice of --topology.

    Raises:
      UserError: if it is not sizes along the dimensions of the generation.
    """
    more_dimensions = 1 if flags.tpu in _FLAT else 2
    if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{more_dimensions}}}", flags.topology):
        raise UserError(
            f"--topology={flags.topology} must be the chips along each side of the slice, such as "
            "4x4 (v5e, v6e) or 4x4x4 (v4, v5p, tpu7x)."
        )
    return math.prod(map(int, flags.topology.split("x")))
