"""Writes settings.md, and the settings of gin/flan.gin, from their declarations: `make docs`.

A directory as argument takes both files instead.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
import sys
import textwrap

from flan_jax.config.checks import allowed_values
from flan_jax.config.declared_settings import Declared
from flan_jax.config.gin_files import CONFIGURED
from flan_jax.config.gin_search import shipped_directory
from flan_jax.config.settings_help import by_name, default_text, meaning

_MODULES = (*CONFIGURED, "flan_jax.data.seqio.settings")
_WIDTH, _COLUMN = 124, 36  # of gin/flan.gin, and where its comments stand
_LINE = re.compile(r"^([A-Z][A-Z0-9_]*) = .*(?:\n +#.*)*", re.M)


def page() -> str:
    """Returns docs/settings.md."""
    for module in _MODULES:
        importlib.import_module(module)
    lines = [
        "# Settings",
        "<!-- Written by `make docs` from the declarations in the code; edit those, "
        "not this page. -->",
        "",
        "Each is set with `--gin.NAME=VALUE`, or with a line `NAME = VALUE` in a gin file; "
        "`gin/flan.gin` lists those with a name in capitals. Such a name sets the fields in its "
        "last column; each of them can also be set alone, as `--gin.Data.seed=1`. `gin/t5x` binds "
        "`SeqioTasks` for stock T5X; the verbs of `flan-jax` do not read them.",
    ]
    tables: dict[str, list[list[Declared]]] = {}
    for fields in by_name(_MODULES).values():
        tables.setdefault(fields[0].owner, []).append(fields)
    for table in tables.values():
        lines += _table(table)
    return "\n".join(lines) + "\n"


def _table(settings: list[list[Declared]]) -> list[str]:
    """Returns the section of one dataclass or function."""
    first = settings[0][0]
    summary = inspect.getdoc(first.target).splitlines()[0]
    file = first.module.replace(".", "/") + ".py"
    return [
        "",
        f"## {first.owner}",
        "",
        f"{summary} Declared in `{file}`, used in `{pathlib.PurePath(file).parent}`.",
        "",
        "| name | default | value | meaning | sets |",
        "| --- | --- | --- | --- | --- |",
        *map(_row, settings),
    ]


def gin_page(text: str) -> str:
    """Returns the text of gin/flan.gin with the declared defaults and meanings.

    Args:
      text: the page, whose order and other lines stay.
    """
    for module in CONFIGURED:
        importlib.import_module(module)
    named = by_name(CONFIGURED)
    return _LINE.sub(lambda line: _gin_line(named[line[1]]), text)


def _gin_line(fields: list[Declared]) -> str:
    about = meaning(fields)
    if choices := fields[0].setting.choices:
        about = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}: {about}"
    code = f"{fields[0].name} = {default_text(fields[0])}"
    indent = max(_COLUMN, len(code) + 2)
    first, *rest = textwrap.wrap(about, _WIDTH - indent - 2, break_on_hyphens=False)
    return "\n".join([f"{code:{indent}}# {first}", *(f"{'':{indent}}# {line}" for line in rest)])


def _row(fields: list[Declared]) -> str:
    first = fields[0]
    parameters = ", ".join(f"`{declared.parameter}`" for declared in fields)
    cells = (
        f"`{first.name}`",
        f"`{default_text(first)}`",
        allowed_values(first.type, first.setting) or "see meaning",
        meaning(fields),
        parameters if first.setting.macro else "",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    shipped = shipped_directory() / "flan.gin"
    settings, gin_file = pathlib.Path(__file__).parent / "settings.md", shipped
    if len(sys.argv) > 1:
        settings, gin_file = (pathlib.Path(sys.argv[1]) / path.name for path in (settings, shipped))
    settings.write_text(page(), encoding="utf-8")
    gin_file.write_text(gin_page(shipped.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {settings} and {gin_file}")
