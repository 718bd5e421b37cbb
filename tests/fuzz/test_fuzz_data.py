"""Damaged rows and damaged files of the token cache.

A message, the right result, or rendered again; never another.
"""

import functools
import json

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import as_json, damaged_bytes, damaged_values

import flan_jax.tasks  # noqa: F401  (fills the catalogue)
from flan_jax.catalogue import CATALOGUE
from flan_jax.data import packs
from flan_jax.data.packs import Packs, PackWriter, Shard
from flan_jax.data.rows import usable_rows
from flan_jax.data.sources.hub import HubSource
from flan_jax.data.sources.jsonl import JsonlSource
from flan_jax.data.sources.jsonl_files import count_jsonl

RTE = [
    {
        "premise": f'Zürich has {i} "bridges"\nand\\or boats.',
        "hypothesis": f"There are {i}.",
        "label": i % 2,
        "idx": i,
    }
    for i in range(4)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RTE)


def rows_are_read(directory, contents: bytes) -> bool:
    """Reads the rows of a file; JSON lines have no checksum, so that any rows are right."""
    path = directory / "rte" / "validation.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents)
    source = JsonlSource(directory)
    rows = list(usable_rows(source, CATALOGUE["rte"], "validation"))
    return len(rows) <= count_jsonl(path)


def test_json_lines_with_damaged_bytes(fuzz, tmp_path):
    fuzz(
        "rows, bytes",
        damaged_bytes(LINES.encode()),
        lambda damaged: rows_are_read(tmp_path, damaged.value),
        60,
    )


def test_json_lines_with_odd_values(fuzz, tmp_path):
    def check(damaged) -> bool:
        text = LINES + as_json(damaged.value) + "\n" + LINES
        return rows_are_read(tmp_path, text.encode("utf-8", "surrogatepass"))

    fuzz("rows, values", damaged_values(RTE[0]), check, 60)


@functools.cache
def shards() -> dict[str, Shard]:
    rng = np.random.default_rng(0)
    return {
        f"copa/{i}": Shard(
            f"copa/{i}",
            {"counts": {"rows": i}},
            {
                "inputs": rng.integers(0, 500, 40 + i).astype(np.uint16),
                "inputs_ends": np.arange(i, dtype=np.int64),
                "nothing": np.zeros(0, np.int32),
            },
        )
        for i in range(3)
    }


@pytest.fixture
def pack(tmp_path):
    with PackWriter(tmp_path) as writer:
        for shard in shards().values():
            writer.add(shard)
    return writer.written[0]


def is_found_whole_or_not_at_all(pack, contents: bytes) -> bool:
    pack.write_bytes(contents)
    packs._CHECKED.clear()
    for key, shard in shards().items():
        found = Packs(pack.parent).find(key)
        if found is not None and (
            found.meta != shard.meta
            or found.arrays.keys() != shard.arrays.keys()
            or not all((found.arrays[name] == array).all() for name, array in shard.arrays.items())
        ):
            return False
    return True


def test_a_pack_with_damaged_bytes(fuzz, pack):
    whole = pack.read_bytes()
    fuzz(
        "token cache, bytes",
        damaged_bytes(whole),
        lambda damaged: is_found_whole_or_not_at_all(pack, damaged.value),
        100,
    )


def test_a_pack_whose_bits_are_flipped_or_whose_end_is_cut(fuzz, pack):
    whole = pack.read_bytes()
    places = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 8))

    def check(place) -> bool:
        at, bit = place
        flipped = (
            whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
            if bit < 8
            else whole[:at]
        )
        return is_found_whole_or_not_at_all(pack, flipped)

    fuzz("token cache, one bit", places, check, 100)


def test_parquet_files_of_the_hub_with_damaged_bytes(fuzz, tmp_path):
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    dataset = CATALOGUE["rte"]
    folder = tmp_path / dataset.hub.id / dataset.hub.config / "validation"
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(RTE), folder / "0000.parquet", row_group_size=2
    )
    parquet = (folder / "0000.parquet").read_bytes()

    def check(damaged) -> bool:
        (folder / "0000.parquet").write_bytes(damaged.value)
        return len(list(usable_rows(HubSource(tmp_path), dataset, "validation"))) <= len(RTE)

    fuzz("rows, parquet", damaged_bytes(parquet), check, 60)
