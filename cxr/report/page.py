"""Contents -> the page, by a template that escapes whatever comes from runs."""

import hashlib
import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from cxr.report.contents import Contents

_FOLDER = Path(__file__).parent
_FILES = ("page.html", "style.css")
_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    # only links that people follow; nothing is loaded from there
    (re.compile(r"(https://[^\s)&;,]+)"), r'<a href="\1" rel="noreferrer">\1</a>'),
)


def prose(text: str) -> Markup:
    """Text with **bold**, `code` and https links, everything else escaped."""
    marked = str(escape(text))
    for pattern, with_what in _MARKS:
        marked = pattern.sub(with_what, marked)
    return Markup(marked)  # escaped above


def render(contents: Contents) -> str:
    """The page, as one HTML document that loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["prose"] = prose
    style = Markup((_FOLDER / "style.css").read_text())  # ours
    return environment.get_template("page.html").render(contents=contents, style=style)


def template_digest() -> str:
    """16 hexadecimal digits over template and style: they are no Python files, yet the result depends on them."""
    state = hashlib.sha256()
    for name in _FILES:
        state.update((_FOLDER / name).read_bytes())
    return state.hexdigest()[:16]
