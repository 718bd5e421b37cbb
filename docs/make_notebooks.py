"""Runs the notebooks of examples/ and writes what their cells show into them.

    python docs/make_notebooks.py            # all; or names of files

Jupyter is not needed: cells are plain Python. tests/test_docs_python.py runs them in the same way.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run_cells(notebook: dict[str, Any]) -> None:
    """Runs the code cells in their order in one namespace, and replaces their outputs.

    Args:
      notebook: the JSON of a notebook, format 4.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = _run("".join(cell["source"]), names)
        cell["execution_count"], cell["outputs"] = number, []
        if printed.getvalue():
            stream = {"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())}
            cell["outputs"].append(stream)
        if value is not None:
            cell["outputs"].append(_shown(value, number))


def _run(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell; returns the value of its last line if that is an expression."""
    tree, last = ast.parse(source), None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, "<cell>", "exec"), names)
    return None if last is None else eval(compile(last, "<cell>", "eval"), names)


def _shown(value: Any, number: int) -> dict[str, Any]:
    data = {"text/plain": _lines(repr(value))}
    if hasattr(value, "_repr_markdown_"):
        data["text/markdown"] = _lines(value._repr_markdown_())
    return {
        "output_type": "execute_result",
        "execution_count": number,
        "metadata": {},
        "data": data,
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(names: list[str]) -> None:
    """Runs the notebooks of these names, each in an empty directory, and writes them."""
    for path in [EXAMPLES / name for name in names] or sorted(EXAMPLES.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                run_cells(notebook)
            finally:
                os.chdir(here)
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
