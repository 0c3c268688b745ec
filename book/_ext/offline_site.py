"""Keep every page of the site self-contained, over http and opened from the disk.

- Diagrams: `sphinxcontrib-mermaid` imports an ES module from a content network, which
  browsers refuse on `file://` pages. Here a classic script from `_vendor/` draws
  them, and only pages that have a diagram load it. The theme inverts the drawings in
  dark mode, so that one palette serves both modes.
- Thebe: jupyter-book always loads `sphinx-thebe`, which names another host and declares
  its constants twice (a SyntaxError in the console of every page). Live code is off in
  this book, so its scripts go.
- Mathematics: Sphinx gives a page MathJax when a page below it in the contents has a
  formula, so the landing page would always load it. Here a page needs one of its own.
- Accessibility: `book-a11y.js` mends what axe-core finds in the theme's own markup.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinxcontrib import mermaid

DRAW = (
    "window.addEventListener('DOMContentLoaded', () => {"
    "mermaid.initialize({startOnLoad: false});"
    "mermaid.run({querySelector: 'pre.mermaid'});});"
)


def add_mermaid(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Load the diagram script on the pages that have a diagram."""
    if doctree is not None and doctree.next_node(mermaid.mermaid) is not None:
        app.add_js_file("mermaid/mermaid.min.js", loading_method="defer")
        app.add_js_file(None, body=DRAW)


def drop_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Remove what the page has no use for: thebe, and MathJax without a formula."""
    unused = ["sphinx-thebe", "THEBE_JS_URL"]
    if doctree is None or not any(doctree.findall(is_math)):
        unused += ["mathjax/", "window.MathJax"]
    for key in ("script_files", "css_files"):
        context[key][:] = [
            file
            for file in context[key]
            if not any(mark in described(file) for mark in unused)
        ]


def is_math(node: nodes.Node) -> bool:
    """Tell whether a node of a page is a formula."""
    return isinstance(node, nodes.math | nodes.math_block)


def described(file: Any) -> str:
    """Return the name of a script or style sheet, and its text if it has one."""
    return f"{file} {getattr(file, 'attributes', {}).get('body') or ''}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.setup_extension("sphinxcontrib.mermaid")
    listeners = app.events.listeners["html-page-context"]
    listeners[:] = [
        each for each in listeners if each.handler is not mermaid.install_js
    ]
    app.connect("html-page-context", add_mermaid)
    app.connect("html-page-context", drop_scripts, priority=900)
    app.add_js_file("book-a11y.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
