"""Files of one's own as datasets: what a run, and `flan-jax tasks`, read of them."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

from flan_jax.catalogue.records import Dataset, Template
from flan_jax.config.run_directory import HUB
from flan_jax.data.encode import Rendering
from flan_jax.data.record_forms import RecordForm, recognize, row_of
from flan_jax.data.sources.hub_files import directory_of, hub_directory
from flan_jax.data.sources.own_files import OwnFiles, paths_of
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown

# Stands for the cluster of the catalogue's datasets in the mixture card.
CLUSTER = "own data"
# Fields are looked for in so many records.
_RECORDS = 100
_NO_CAP = 2**62

_PAIR = Template("record", "{inputs}")
_TEXT = Template("record", "", kind="text")
_DIALOGUE = Template("record", "{inputs}", kind="dialogue")


@dataclasses.dataclass(frozen=True, eq=False)
class OwnData:
    """A file or directory as a dataset.

    Attributes:
      dataset: its record.
      source: its rows.
      form: of its records.
      unread: names of fields that the form does not read.
    """

    dataset: Dataset
    source: OwnFiles
    form: RecordForm
    unread: tuple[str, ...]

    def rendering(self, rendering: Rendering, architecture: str) -> Rendering:
        """Returns how its rows become tokens in a run.

        They are written as they are. Texts without an input have no exemplars, and are divided
        into examples as long as a row holds: S + T tokens of a decoder, T of an encoder-decoder.

        Args:
          rendering: that of the datasets of the catalogue.
          architecture: 't5' or 'decoder'.
        """
        rendering = dataclasses.replace(rendering, instructions="template", options_style="fixed")
        if self.form.is_dialogue:
            return dataclasses.replace(rendering, shots=0)
        if self.form.inputs:
            return rendering
        if architecture != "decoder":
            return dataclasses.replace(rendering, shots=0)
        row = rendering.input_length + rendering.target_length
        return dataclasses.replace(rendering, shots=0, input_length=0, target_length=row)

    def described(self) -> str:
        """Returns its form, splits and unread fields, in words."""
        optional = [f"(+ {name})" for name in self.form.optional]
        counts = self.source.counts
        rows = ", ".join(f"{split} {count:,}" for split, count in counts.items())
        text = f"{' '.join([self.form.name, *optional])}; rows: {rows}"
        if "validation" not in self.source.files:
            spec = self.dataset.splits.get("validation")
            text += f"; validation: {spec}, chosen by hash" if spec else "; too few for validation"
        if "test" in self.source.files:
            text += "; test rows are not read"
        for what, names in (("fields", self.unread), ("files", self.source.unread)):
            text += f"; {what} not read: {listed(names)}" if names else ""
        return text


def own_paths(name: str) -> list[pathlib.Path]:
    """Returns the files and directories of a name for which `mixture_language.is_own` is true.

    Downloads a dataset of the hub that is not on disk.

    Raises:
      UserError: if there are none.
    """
    return [directory_of(name[len(HUB) :])] if name.startswith(HUB) else paths_of(name)


def open_own(paths: Sequence[pathlib.Path]) -> dict[str, OwnData]:
    """Returns the datasets of files and directories, by name.

    A name is that of the file; where two have the same, the path below the directory of both. That
    of a dataset of the hub is 'org/name/config/'.

    Raises:
      UserError: if one has no rows, or none of a known form.
    """
    return {name: _open(name, path) for name, path in zip(_names(paths), paths)}


def open_named(names: Sequence[str]) -> list[OwnData]:
    """Returns the datasets of names for which `mixture_language.is_own` is true; see `open_own`."""
    return list(open_own([path for name in names for path in own_paths(name)]).values())


def _open(name: str, path: pathlib.Path) -> OwnData:
    source = OwnFiles(path)
    records = source.first_records(_RECORDS)
    if not records:
        rows = source.counts["train"]
        why = f"{rows:,} rows, none of which can be read" if rows else "no rows"
        raise UserError(f"{shown(path)} has {why}; is it the right file?")
    form, unread = recognize(records, path)
    template = _DIALOGUE if form.is_dialogue else _PAIR if form.inputs else _TEXT
    dataset = Dataset(
        name=name,
        cluster=CLUSTER,
        splits=source.splits,
        fields=("inputs",) if template is not _TEXT else (),
        row=functools.partial(row_of, form=form.name),
        options=None,
        templates=(template,),
        train_cap=_NO_CAP,
    )
    return OwnData(dataset, source, form, tuple(unread))


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    names = [_name(path.absolute()) + "/" * path.is_dir() for path in paths]
    if len(set(names)) == len(names):
        return names
    common = pathlib.Path(os.path.commonpath([path.absolute().parent for path in paths]))
    below = [str(path.absolute().relative_to(common)) + "/" * path.is_dir() for path in paths]
    twice = next((path for path, name in zip(paths, below) if below.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"MIXTURE_OR_TASK_NAME names {shown(twice)} twice; give it once.")
    return below


def _name(path: pathlib.Path) -> str:
    hub = hub_directory()
    return str(path.relative_to(hub)) if path.is_relative_to(hub) else path.name
