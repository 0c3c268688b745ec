"""Keep every page of the site self-contained and light, over http and from the disk.

- Diagrams: `drawings` puts committed drawings on the pages, so no page loads a script.
- Scripts that a page has no use for go: thebe (live code is off in this book, and it
  names another host), MathJax without a formula, sphinx-design without one of its
  boxes, the search index on all but the search page (nothing is searched as you type),
  and `fontawesome.js` (1.5 MB), since the web fonts in the theme's style sheet draw
  the same icons.
- Live boxes: a page with ``<div data-live="ranker">`` gets ``live-ranker.js``, its
  numbers, and ``live.js``, which draws the controls; no other page loads them.
- Subtitles: a line in italics under a page's title, in Chinese, is the heading of the
  section that the page works out. It becomes a subtitle in that language.
- Accessibility: `book-a11y.js` mends what axe-core finds in the theme's own markup.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CHINESE = re.compile(r"[\u4e00-\u9fff]")
# What the theme's templates load on every page, and what of it only a search needs.
THEME_SCRIPT = r'\s*<script [^>]*src="[^"]*\b(?:{})\.js[^"]*"></script>'
LIVE = r'<div data-live="(\w+)"'
SEARCH = "searchtools|language_data|searchindex"


def mark_subtitle(app: Sphinx, doctree: nodes.document) -> None:
    """Turn the Chinese line under a page's title into a subtitle."""
    title = doctree.next_node(nodes.title)
    line = title and title.next_node(descend=False, siblings=True)
    if (
        isinstance(line, nodes.paragraph)
        and [type(each) for each in line.children] == [nodes.emphasis]
        and CHINESE.search(line.astext())
    ):
        line["classes"] += ["page-subtitle", "language-zh"]  # docutils writes lang="zh"
        line.children = line.children[0].children


def drop_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Remove the scripts and styles of extensions that the page has no use for."""
    unused = ["sphinx-thebe", "THEBE_JS_URL"]
    # Sphinx gives a page MathJax when a page below it in the contents has a formula.
    if doctree is None or not any(doctree.findall(is_math)):
        unused += ["mathjax/", "window.MathJax"]
    if not re.search(r'class="[^"]*\bsd-', context.get("body", "")):
        unused += ["sphinx-design", "design-tabs"]
    for key in ("script_files", "css_files"):
        context[key][:] = [
            file
            for file in context[key]
            if not any(mark in described(file) for mark in unused)
        ]


def add_live_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Give a page with live boxes their scripts; they need no other host, nor http."""
    for name in sorted({*re.findall(LIVE, context.get("body", ""))}):
        for script in (f"live-{name}.js", "live.js"):
            app.add_js_file(script, loading_method="defer")


def drop_theme_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Remove the scripts that the theme's templates name, from the pages as built."""
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        names = "fontawesome" + ("" if path.name == "search.html" else f"|{SEARCH}")
        lean = re.sub(THEME_SCRIPT.format(names), "", html)
        if lean != html:
            path.write_text(lean, encoding="utf-8")


def is_math(node: nodes.Node) -> bool:
    """Tell whether a node of a page is a formula."""
    return isinstance(node, nodes.math | nodes.math_block)


def described(file: Any) -> str:
    """Return the name of a script or style sheet, and its text if it has one."""
    return f"{file} {getattr(file, 'attributes', {}).get('body') or ''}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.setup_extension("drawings")
    app.connect("doctree-read", mark_subtitle)
    app.connect("html-page-context", drop_scripts, priority=900)
    app.connect("html-page-context", add_live_scripts)
    app.connect("build-finished", drop_theme_scripts)
    app.add_js_file("book-a11y.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
