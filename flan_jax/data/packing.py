"""The packing plan: which examples share which row of a batch, for every step of a run.

The stream of examples is drawn window by window (examples-proportional, each dataset running
through its epochs in a hashed order), and each window is packed on its own. Nothing depends on how
many steps, hosts or devices there are, so row r of the plan is a pure function of (mixture, seed,
lengths, r).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np

from flan_jax.storage.files import write_file
from flan_jax.storage.hashing import permutation, random_bits

# Examples drawn and packed together: the mixture's rows, but no fewer than the first and no more
# than the second.
WINDOWS = (1_024, 8_192)
# Part of the key of saved plans: raise it when draws or packing change.
FORMAT = 2
# The packing rule of a window is chosen by packing so many of its examples, or up to twice as many.
_SAMPLE = 512
# Tables of lengths, one an epoch, that are kept in memory while windows are packed.
_TABLES = 256

# (dataset, epoch) -> int [rows, D]: what each example takes of a row; None if not built yet.
Lengths = Callable[[str, int], np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Member:
    """A dataset in the mixture: its name, its number of rows, and its unnormalised rate."""

    name: str
    rows: int
    rate: float


class MissingEpochs(Exception):
    """The plan needs training shards that are not in the cache.

    Attributes:
      wanted: their (dataset, epoch) pairs.
    """

    def __init__(self, wanted: set[tuple[str, int]]):
        super().__init__(f"{len(wanted)} training shards are not built yet")
        self.wanted = wanted


@dataclasses.dataclass
class Plan:
    """Packed rows. Row r holds the examples begins[r]:begins[r+1] of the three columns.

    Attributes:
      begins: int64 [rows + 1].
      member, epoch, index: int32 [examples]: position in the mixture, epoch, and row within the
        epoch's shard.
      filled: tokens in the planned rows and the room they had: int64 [2, D], D 2 for (inputs,
        targets) apart, or 1.
    """

    begins: np.ndarray
    member: np.ndarray
    epoch: np.ndarray
    index: np.ndarray
    filled: np.ndarray

    def __len__(self) -> int:
        return len(self.begins) - 1

    def row(self, number: int) -> list[tuple[int, int, int]]:
        """Returns (member, epoch, index) of each example in a packed row."""
        part = slice(self.begins[number], self.begins[number + 1])
        return list(
            zip(self.member[part].tolist(), self.epoch[part].tolist(), self.index[part].tolist())
        )

    def epochs(self) -> list[tuple[int, int]]:
        """Returns (member, epoch) of every shard that the plan takes examples from."""
        width = int(self.epoch.max(initial=0)) + 1
        used = np.flatnonzero(np.bincount(self.member.astype(np.int64) * width + self.epoch))
        return [divmod(number, width) for number in used.tolist()]

    def filled_text(self) -> str:
        """Returns how full the rows are, in words."""
        shares = (self.filled[0] / self.filled[1]).tolist()
        if len(shares) == 1:
            return f"{shares[0]:.1%} of tokens"
        return f"{shares[0]:.1%} of input tokens and {shares[1]:.1%} of target tokens"

    def save(self, path: pathlib.Path) -> None:
        """Writes the plan to an .npz file, whole or not at all."""
        file = io.BytesIO()
        np.savez(file, **vars(self))
        write_file(path, file.getvalue())

    @classmethod
    def load(cls, path: pathlib.Path) -> Plan | None:
        """Returns the plan in a file of `save`; None if there is no such file, or it is damaged."""
        try:
            with np.load(path) as file:
                plan = cls(**file)
            with contextlib.suppress(OSError):  # a cache that is only read
                os.utime(path)
            return plan
        # the last: "encrypted"
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, RuntimeError):
            return None


def make_plan(
    members: list[Member],
    lengths: Lengths,
    capacity: tuple[int, ...],
    seed: int,
    rows: int,
    pack: bool = True,
) -> Plan:
    """Returns the plan of `rows` packed rows.

    Args:
      members: the mixture, in a fixed order.
      lengths: see `Lengths`.
      capacity: tokens that a row holds, D numbers; see `Planner`.
      seed: decides draws and orders.
      rows: how many.
      pack: False puts one example in each row.

    Raises:
      MissingEpochs: if shards that it needs are not built.
    """
    return Planner(members, lengths, capacity, seed, pack).plan(rows)


class Planner:
    """Draws and packs examples, window by window; keeps what is packed when a shard is missing.

    Args:
      members: the mixture, in a fixed order.
      lengths: see `Lengths`.
      capacity: tokens that a row holds, D numbers: (inputs, targets) or (both together,).
      seed: decides draws and orders.
      pack: False puts one example in each row.
      has_epoch: (dataset, epoch) -> whether `lengths` has them, where this is known without
        reading them; None to call `lengths`.
    """

    def __init__(
        self,
        members: list[Member],
        lengths: Lengths,
        capacity: tuple[int, ...],
        seed: int,
        pack: bool = True,
        has_epoch: Callable[[str, int], bool] | None = None,
    ):
        self.members, self.capacity, self.seed, self.pack = members, capacity, seed, pack
        self._lengths = _remembered(lengths)
        self._has_epoch = has_epoch or (lambda name, epoch: lengths(name, epoch) is not None)
        self._size = int(np.clip(sum(m.rows for m in members), *WINDOWS))
        self._drawn = np.zeros(len(members), np.int64)
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._windows: list[tuple[np.ndarray, ...]] = []
        self._rows = 0

    def plan(self, rows: int) -> Plan:
        """Returns the plan of the first `rows` packed rows.

        Raises:
          MissingEpochs: with all the shards that the missing part is known to need; call again when
            they are built.
        """
        missing = self._missing_ahead(rows)
        if missing:
            raise MissingEpochs(missing)
        while self._rows < rows:
            self._add_window()
        widths, member, epoch, index, sizes = (
            np.concatenate(column) for column in zip(*self._windows)
        )
        begins = np.concatenate([[0], np.cumsum(widths[:rows])])
        kept = slice(0, begins[-1])
        filled = np.stack([sizes[kept].sum(0), np.array(self.capacity, np.int64) * rows])
        return Plan(
            begins,
            member[kept].astype(np.int32),
            epoch[kept].astype(np.int32),
            index[kept].astype(np.int32),
            filled,
        )

    def _add_window(self) -> None:
        window = len(self._windows)
        member, epoch, index = draw_window(
            self.members, self._drawn, self.seed, window, self._size, self._orders
        )
        sizes = _sizes(self.members, self._lengths, member, epoch, index, len(self.capacity))
        bins = pack_window(sizes, self.capacity) if self.pack else [[i] for i in range(self._size)]
        order = permutation(len(bins), "rows", self.seed, window)
        picked = np.concatenate([bins[i] for i in order]).astype(np.int64)
        self._windows.append(
            (
                np.array([len(bins[i]) for i in order]),
                member[picked],
                epoch[picked],
                index[picked],
                sizes[picked],
            )
        )
        self._drawn += np.bincount(member, minlength=len(self.members))
        self._rows += len(bins)
        now = [drawn // m.rows for m, drawn in zip(self.members, self._drawn)]
        self._orders = {(m, e): order for (m, e), order in self._orders.items() if e >= now[m]}

    def _missing_ahead(self, rows: int) -> set[tuple[str, int]]:
        """The shards that `rows` packed rows certainly need and that are not built.

        They are built at once, rather than one window after the other. First epochs say how long
        an example is on average, hence how many are drawn; unpacked, as many as rows.
        """
        members = self.members
        first = [self._lengths(m.name, 0) for m in members]
        if any(table is None for table in first):
            return {(m.name, 0) for m, table in zip(members, first) if table is None}
        rates = np.array([m.rate for m in members], np.float64)
        need = rates / rates.sum() @ np.array([table.mean(0) for table in first])
        # 0.9: rows are never quite full, and no epoch is to be built in vain
        examples = 0.9 * rows / max(need / np.array(self.capacity)) if self.pack else rows
        drawn = np.zeros(len(members), np.int64)
        for window in range(int(examples // self._size)):
            member = _draw_members(rates, self.seed, window, self._size)
            drawn += np.bincount(member, minlength=len(members))
        return {
            (m.name, epoch)
            for m, count in zip(members, drawn)
            for epoch in range(-(-int(count) // m.rows))
            if not self._has_epoch(m.name, epoch)
        }


def _remembered(lengths: Lengths) -> Lengths:
    """`lengths`, with its last tables kept in memory; a missing one is looked up again."""
    held: collections.OrderedDict[tuple[str, int], np.ndarray] = collections.OrderedDict()

    def look_up(name: str, epoch: int) -> np.ndarray | None:
        table = held.pop((name, epoch), None)
        table = lengths(name, epoch) if table is None else table
        if table is not None:
            held[name, epoch] = table
            if len(held) > _TABLES:
                held.popitem(last=False)
        return table

    return look_up


def plan_once(
    members: list[Member],
    lengths: Lengths,
    capacity: tuple[int, ...],
    seed: int,
    rows: int,
) -> Plan:
    """Returns the plan of every row of every member once, in a hashed order.

    Args:
      members: the mixture, in a fixed order.
      lengths: see `Lengths`.
      capacity: tokens that a row holds, D numbers; see `Planner`.
      seed: decides the orders.
      rows: at most so many packed rows.

    Raises:
      MissingEpochs: if a first epoch is not built.
    """
    member = np.repeat(np.arange(len(members)), [m.rows for m in members])
    index = np.concatenate([np.arange(m.rows) for m in members])
    order = permutation(len(member), "once", seed)
    member, index = member[order], index[order]
    sizes = _sizes(members, lengths, member, np.zeros_like(member), index, len(capacity))
    bins = [
        [int(i) + begin for i in row]
        for begin in range(0, len(member), WINDOWS[1])
        for row in pack_window(sizes[begin : begin + WINDOWS[1]], capacity)
    ]
    bins = [bins[i] for i in permutation(len(bins), "once rows", seed)[:rows]]
    picked = np.concatenate(bins).astype(np.int64)
    begins = np.concatenate([[0], np.cumsum([len(row) for row in bins])])
    filled = np.stack([sizes[picked].sum(0), np.array(capacity, np.int64) * len(bins)])
    return Plan(
        begins,
        member[picked].astype(np.int32),
        np.zeros(len(picked), np.int32),
        index[picked].astype(np.int32),
        filled,
    )


def _draw_members(rates: np.ndarray, seed: int, window: int, size: int) -> np.ndarray:
    uniform = (random_bits(size, "draw", seed, window) >> np.uint64(11)) * 2.0**-53
    return np.searchsorted(np.cumsum(rates) / rates.sum(), uniform, side="right")


def draw_window(
    members: list[Member],
    drawn: np.ndarray,
    seed: int,
    window: int,
    size: int,
    orders: dict[tuple[int, int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the examples of a window: (member, epoch, index), each int64 [size].

    Draws are independent with probability rate / sum of rates; a member's rows come in a new hashed
    order each epoch.

    Args:
      members: the mixture.
      drawn: int64 [members], examples drawn of each member in the windows before.
      seed: decides draws and orders.
      window: its number.
      size: examples of a window.
      orders: (member, epoch) -> the order of its rows; new ones are added.
    """
    orders = {} if orders is None else orders
    member = _draw_members(np.array([m.rate for m in members], np.float64), seed, window, size)
    epoch, index = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for m in np.unique(member):
        at = np.flatnonzero(member == m)
        position = drawn[m] + np.arange(len(at))
        epoch[at] = position // members[m].rows
        for e in np.unique(epoch[at]):
            if (m, e) not in orders:
                orders[m, e] = permutation(members[m].rows, "epoch", seed, members[m].name, e)
            inside = at[epoch[at] == e]
            index[inside] = orders[m, e][position[epoch[at] == e] % members[m].rows]
    return member, epoch, index


def _sizes(
    members: list[Member],
    lengths: Lengths,
    member: np.ndarray,
    epoch: np.ndarray,
    index: np.ndarray,
    columns: int,
) -> np.ndarray:
    """What each drawn example takes of a row: int64 [examples, columns]."""
    sizes, missing = np.zeros((len(member), columns), np.int64), set()
    for m, e in sorted(set(zip(member.tolist(), epoch.tolist()))):
        table = lengths(members[m].name, e)
        if table is None:
            missing.add((members[m].name, e))
        else:
            at = np.flatnonzero((member == m) & (epoch == e))
            sizes[at] = table[index[at]]
    if missing:
        raise MissingEpochs(missing)
    return sizes


def pack_window(sizes: np.ndarray, capacity: tuple[int, ...]) -> list[list[int]]:
    """Packs examples into rows: vector bin packing, with a dimension for each length of a row.

    A row begins with the largest example that is left (by its largest share of a length) and takes,
    while one fits, the example that matches its room best: the largest dot product of room and
    need, both as shares of the row and weighted by how scarce each length is, over a power of the
    need's norm (Panigrahy et al. 2011, "Heuristics for vector bin packing"). Without the norm large
    examples go first, which is best where one length is much scarcer; the full norm leaves the
    direction alone, which is best where both are about as scarce. The power is the one that packs
    a sample of the examples best.

    Args:
      sizes: int [N, D], tokens of each example, none larger than `capacity`.
      capacity: tokens that a row holds, D numbers.

    Returns:
      The rows, each a list of example positions.
    """
    shares = sizes / np.array(capacity)
    demand = shares.sum(0)
    order = np.argsort(-shares.max(1), kind="stable")
    needs, shares, scarcity = sizes[order], shares[order], demand / demand.max()
    norm = np.maximum(np.sqrt((shares**2 * scarcity).sum(1, keepdims=True)), 1e-9)
    root = np.sqrt(norm)  # powers by roots, which are exact, so that every host packs alike
    rules = [
        shares * scarcity / np.array(capacity) / power
        for power in (root, 1, root * np.sqrt(root), norm)
    ]
    wants = rules[0]
    if len(capacity) > 1 and len(sizes) >= _SAMPLE:  # with one length all rules are the same
        step = len(sizes) // _SAMPLE
        wants = min(
            rules, key=lambda wants: len(_fill_rows(needs[::step], wants[::step], capacity))
        )
    return [order[row].tolist() for row in _fill_rows(needs, wants, capacity)]


def _fill_rows(needs: np.ndarray, wants: np.ndarray, capacity: tuple[int, ...]) -> list[np.ndarray]:
    """Fills one row after the other: first the first example left, then those that suit its room.

    Args:
      needs: int [N, D], the sizes of the examples.
      wants: float [N, D], whose product with the room of a row says how well an example suits it.
      capacity: tokens that a row holds, D numbers.

    Returns:
      The examples of each row, int [n].
    """
    # float32 is exact below 2^24
    needs, wants = (
        [np.ascontiguousarray(c, np.float32) for c in array.T] for array in (needs, wants)
    )
    left, rows = np.arange(len(needs[0])), []
    while len(left):
        row, best, free, room = [], 0, np.ones(len(left), bool), list(map(np.float32, capacity))
        while free[best]:
            row.append(best)
            free[best] = False
            room = [space - need[best] for space, need in zip(room, needs)]
            fits = functools.reduce(
                np.logical_and, (need <= space for space, need in zip(room, needs)), free
            )
            match = sum(space * want for space, want in zip(room, wants))
            # the first, which is not free, if none fits
            best = int(np.where(fits, match, -1).argmax())
        rows.append(left[row])
        left, needs, wants = (
            left[free],
            [need[free] for need in needs],
            [want[free] for want in wants],
        )
    return rows
