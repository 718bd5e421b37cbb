"""A token cache in a bucket: packs are made and memory-mapped on the disk, and copied both ways.

A pack never changes. After it comes an object with its keys, by which others find what they need:
a pack whose upload was cut short has none and is passed over.
"""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Collection

from flan_jax.data.packs import Packs
from flan_jax.storage.files import parse_json
from flan_jax.storage.mirror import Mirror
from flan_jax.storage.remote import Remote

_KEYS = ".keys.json"

_log = logging.getLogger(__name__)


class BucketPacks:
    """The packs of one token cache in a bucket.

    Attributes:
      mirror: the directory of the packs there and here.
    """

    def __init__(self, remote: Remote, local: pathlib.Path):
        """Reads nothing yet.

        Args:
          remote: the directory of the packs in the bucket.
          local: its copy.
        """
        self.mirror = Mirror(remote, local)
        self._keys: dict[str, list[str]] = {}  # of each pack in the bucket, by its name

    def fetch(self, keys: Collection[str]) -> bool:
        """Copies the packs that have shards of these keys and are not here.

        Args:
          keys: of shards that are not in the packs here.

        Returns:
          Whether a pack was copied.

        Raises:
          UserError: if the bucket cannot be read, or the disk not written.
        """
        self._read_keys()
        wanted = set(keys)
        packs = {name for name, there in self._keys.items() if not wanted.isdisjoint(there)}
        packs = {name for name in packs if not (self.mirror.local / name).exists()}
        if packs:
            self.mirror.fetch(wanted=packs.__contains__)
            _log.info("token cache: %d packs copied from %s", len(packs), self.mirror.remote)
        return bool(packs)

    def push(self, packs: Packs) -> None:
        """Copies the packs that are not in the bucket to it.

        Raises:
          UserError: if the bucket cannot be written.
        """
        self._read_keys()
        new = {pack.path.name: pack for pack in packs.packs() if pack.path.name not in self._keys}
        for name, pack in new.items():
            self.mirror.push([name])
            (self.mirror.remote / (name + _KEYS)).write_bytes(json.dumps([*pack.index]))
            self._keys[name] = [*pack.index]
        if new:
            _log.info("token cache: %d packs copied to %s", len(new), self.mirror.remote)

    def _read_keys(self) -> None:
        """Reads the keys of packs that have come since."""
        names = [name for name in self.mirror.remote.names() if name.endswith(_KEYS)]
        new = [name for name in names if name.removesuffix(_KEYS) not in self._keys]
        for name, (contents, _) in zip(new, self.mirror.remote.read_versions(new)):
            if contents is not None:
                place = self.mirror.remote / name
                self._keys[name.removesuffix(_KEYS)] = parse_json(contents, place, list)
