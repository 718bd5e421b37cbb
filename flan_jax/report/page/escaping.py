"""Text from rows and settings in a page: never read as markup."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Characters that end a line or a script for some reader of the page, and those that UTF-8 lacks.
_UNSAFE_IN_SCRIPT = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


def text(value: object) -> str:
    """Returns a text as HTML that shows it, in an element or in a quoted attribute."""
    return html.escape(_UNSAFE_IN_TEXT.sub("\ufffd", str(value)))


def json_for_script(value: Any) -> str:
    """Returns JSON that can stand in a `<script type="application/json">`.

    A text in it ends neither the script nor opens a comment.
    """
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _UNSAFE_IN_SCRIPT.sub(lambda match: f"\\u{ord(match[0]):04x}", plain)


def paragraphs(markdown: str) -> str:
    """Returns paragraphs of Markdown as HTML; of its marks only backticks are read."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", text(markdown.strip()))
    return "".join(f"<p>{part}</p>" for part in marked.split("\n\n"))


def html_table(kind: str, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table of texts, which scrolls where it is wider than the page.

    Args:
      kind: its class.
      titles: of the columns.
      rows: the cells of each; None is an empty one.
    """
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    body = ""
    for row in rows:
        cells = (text("" if cell is None else cell) for cell in row)
        body += "<tr>" + "".join(f'<td dir="auto">{cell}</td>' for cell in cells) + "</tr>"
    return (
        f'<div class="scroll"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
