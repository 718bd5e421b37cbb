"""Pages of the documentation site that are outside of docs/, and links to them: hooks of mkdocs.

Pages keep the links that work in a checkout, such as `../gin/flan.gin`; here they become those of
the site.
"""

from __future__ import annotations

import json
import pathlib
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
# Path in the checkout -> page of the site.
_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_FILES = ("gin/**/*.gin", "LICENSE", "CITATION.cff")
_NOT_SEARCHED = ("templates.md", "changelog.md")  # long, and found where few look for them
_WIDE = (
    "settings.md",
    "verbs.md",
    "catalogue.md",
    "scale.md",
)  # tables that need the room of the navigation
_CODE_OR_LINK = re.compile(
    r"^```.*?^```$|(\]\(|src=\")(?!https?:|mailto:|#)([^()\s#\"]+)", re.MULTILINE | re.DOTALL
)


def on_files(files: Files, config: Any) -> Files:
    """Returns the files of docs/ and those from outside of it."""
    for path, page in _PAGES.items():
        files.append(File.generated(config, page, content=_read(ROOT / path)))
    for notebook in sorted(ROOT.glob("examples/*.ipynb")):
        page = notebook.relative_to(ROOT).with_suffix(".md").as_posix()
        files.append(File.generated(config, page, content=notebook_page(notebook)))
    for path in sorted(path for pattern in _FILES for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=_read(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Returns the text of a page with the links of the site."""
    if page.file.src_uri in _NOT_SEARCHED:
        page.meta["search"] = {"exclude": True}
    if page.file.src_uri in _WIDE:
        page.meta["hide"] = ["navigation"]
    source = {page: path for path, page in _PAGES.items()}.get(page.file.src_uri)
    if source is None:
        own = ROOT / page.file.src_uri
        source = page.file.src_uri if own.with_suffix(".ipynb").exists() else None
    return site_links(markdown, source or f"docs/{page.file.src_uri}", page.file.src_uri)


def site_links(markdown: str, source: str, page: str) -> str:
    """Returns a text with links as the site has them.

    Args:
      markdown: a text whose links are relative to its file in the checkout.
      source: that file, relative to the root.
      page: the page that it is in the site.
    """

    def replaced(link: re.Match) -> str:
        if not link[2]:  # a block of code
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        place = _place(path)
        return link[1] + (posixpath.relpath(place, posixpath.dirname(page) or ".") or ".")

    return _CODE_OR_LINK.sub(replaced, markdown)


def _place(path: str) -> str:
    """Returns where the site has a file of the checkout."""
    if path in _PAGES:
        return _PAGES[path]
    if path.startswith("examples/") and path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return path.removeprefix("docs/")


def notebook_page(path: pathlib.Path) -> str:
    """Returns a notebook as a page: its texts, its code, and what the cells show."""
    parts = []
    for cell in json.loads(_read(path))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/markdown" in data:
        # Headings of a cell's table are not those of the page.
        return re.sub(r"^#+ (.*)$", r"**\1**", "".join(data["text/markdown"]), flags=re.MULTILINE)
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{text.rstrip()}\n```"


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")
