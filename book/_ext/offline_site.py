"""Keep every page of the site self-contained, over http and opened from the disk.

- Diagrams: `sphinxcontrib-mermaid` imports an ES module from a content network, which
  browsers refuse on `file://` pages. Here a classic script from `_vendor/` draws
  them, and only pages that have a diagram load it. The theme inverts the drawings in
  dark mode, so that one palette serves both modes.
- Thebe: jupyter-book always loads `sphinx-thebe`, which names another host and declares
  its constants twice (a SyntaxError in the console of every page). Live code is off in
  this book, so its scripts go.
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


def drop_thebe(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Remove the scripts and the style sheet of `sphinx-thebe`."""
    for key in ("script_files", "css_files"):
        context[key][:] = [file for file in context[key] if not is_thebe(file)]


def is_thebe(file: Any) -> bool:
    """Tell whether a script or style sheet belongs to `sphinx-thebe`."""
    body = getattr(file, "attributes", {}).get("body") or ""
    return "sphinx-thebe" in str(file) or "THEBE_JS_URL" in body


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.setup_extension("sphinxcontrib.mermaid")
    listeners = app.events.listeners["html-page-context"]
    listeners[:] = [
        each for each in listeners if each.handler is not mermaid.install_js
    ]
    app.connect("html-page-context", add_mermaid)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.add_js_file("book-a11y.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
