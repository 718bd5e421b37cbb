"""The forms of records in files of one's own, recognized by their fields.

A form turns a record into segments: texts that are trained or only read. A further form is one more
line of `FORMS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from flan_jax.catalogue.records import Drop
from flan_jax.data.chat.dialogue_records import dialogue_row, is_unicode
from flan_jax.errors import UserError
from flan_jax.messages import listed, shown


class Segment(NamedTuple):
    """A part of an example: its text, and whether the loss is on its tokens."""

    text: str
    is_trained: bool


@dataclasses.dataclass(frozen=True)
class RecordForm:
    """A form of records.

    Attributes:
      name: the needed fields, such as 'prompt/completion'; the last one is the target.
      optional: fields that are read if they are there; they follow the input's other fields.
      inputs: format of the input; '' for a form without one. The optional fields follow it.
      targets: format of the target.
      is_dialogue: whether a record has several turns.
    """

    name: str
    optional: tuple[str, ...] = ()
    inputs: str = ""
    targets: str = ""
    is_dialogue: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Returns the needed fields."""
        return tuple(self.name.split("/"))

    def segments(self, record: Mapping[str, Any]) -> list[Segment] | Drop:
        """Returns the segments of a record, or why it cannot be used; not of a dialogue."""
        texts: dict[str, str] = {}
        for name in (*self.fields, *self.optional):
            text = _text(record.get(name), name)
            if isinstance(text, Drop):
                return text
            if not text and name in self.fields:
                return Drop(f"empty {name}" if name in record else f"no field {shown(name)}")
            texts[name] = text
        target = Segment(self.targets.format(**texts), True)
        if not self.inputs:
            return [target]
        parts = [self.inputs.format(**texts), *(texts[name] for name in self.optional)]
        return [Segment("\n\n".join(filter(None, parts)), False), target]


# The first one that fits is taken: those with more, or rarer, fields come before the others.
FORMS = {
    form.name: form
    for form in (
        RecordForm("messages", ("tools",), is_dialogue=True),
        RecordForm("conversations", ("system", "tools"), is_dialogue=True),
        RecordForm("inputs/targets", (), "{inputs}", "{targets}"),
        RecordForm("prompt/completion", (), "{prompt}", "{completion}"),
        RecordForm("prompt/response", (), "{prompt}", "{response}"),
        RecordForm("instruction/output", ("input",), "{instruction}", "{output}"),
        RecordForm("instruction/response", ("input", "context"), "{instruction}", "{response}"),
        # chain of thought, as the 2022 collection trains it: reasons before the answer
        RecordForm(
            "question/rationale/answer",
            (),
            "{question}\n\nExplain step by step, then give the answer.",
            "{rationale}\nThe answer is {answer}",
        ),
        RecordForm("question/answer", ("context",), "{question}", "{answer}"),
        RecordForm("text", (), "", "{text}"),
    )
}
FORMS_IN_WORDS = ", ".join(
    " + ".join(form.fields) + "".join(f" (+ {name})" for name in form.optional)
    for form in FORMS.values()
)


def recognize(records: Iterable[Mapping[str, Any]], where: object) -> tuple[RecordForm, list[str]]:
    """Returns the form of records, and the names of the fields that it does not read.

    Args:
      records: the first ones of a file.
      where: the file, for messages.

    Raises:
      UserError: if their fields are those of no form.
    """
    records = list(records)
    found = list(dict.fromkeys(name for record in records for name in record))
    # A table has all its columns in each record, also those without a value.
    with_value = {name for record in records for name, value in record.items() if value is not None}
    for names in (with_value, found):
        for form in FORMS.values():
            if all(name in names for name in form.fields):
                return form, [n for n in found if n not in (*form.fields, *form.optional)]
    raise UserError(
        f"{shown(where)}: no known form of records; its fields are {listed(found, 12) or 'none'}. "
        f"The forms are {FORMS_IN_WORDS}: rename the fields{_other_separator(found)}."
    )


def _other_separator(fields: list[str]) -> str:
    """A hint where a header of cells was read as one field."""
    for separator in (";", "\t", ",", "|"):
        if len(fields) == 1 and separator in fields[0]:
            return f", or write the separator of its kind between cells, not {separator!r}"
    return ""


def row_of(record: Mapping[str, Any] | Drop, form: str) -> dict[str, Any] | Drop:
    """Returns the fields of a record of a form, as the row function of a `Dataset` does.

    They are 'inputs', unless the form has none, and 'answer'; for a dialogue see `dialogue_row`.
    """
    if FORMS[form].is_dialogue and not isinstance(record, Drop):
        return dialogue_row(record, form)
    segments = record if isinstance(record, Drop) else FORMS[form].segments(record)
    if isinstance(segments, Drop):
        return segments
    names = ("answer",) if len(segments) == 1 else ("inputs", "answer")
    return {name: segment.text for name, segment in zip(names, segments)}


def _text(value: Any, name: str) -> str | Drop:
    """A value as text; '' for a missing one, which pandas writes as NaN."""
    if value is None or value != value:
        return ""
    if isinstance(value, Collection) and not isinstance(value, str):
        return Drop(f"{name} is not text but a {type(value).__name__}")
    text = str(value).strip()
    if not (text.isascii() or is_unicode(text)):
        return Drop(f"{name} is not UTF-8, or has half of a character")
    return text
