"""The glossary: one table of terms, a page, and a link where a term is introduced.

``.. terms:: glossary.csv`` shows the table as a glossary. On the page that the table
names for a term, the term's first use in a paragraph becomes a link to its entry; the
notebooks themselves stay as they are.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from package_reference import pages
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

TABLE = "book/appendix/glossary.csv"
NOT_HERE = (
    nodes.title,
    nodes.reference,
    nodes.literal,
    nodes.math,
    nodes.raw,
    nodes.image,
    nodes.container,  # code and its outputs
    nodes.Admonition,  # exercises, whose ground is colored
    addnodes.pending_xref,
)


@cache
def terms(file: Path) -> list[dict[str, str]]:
    """Return the table's rows: `term`, `chinese`, `definition`, `page`."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def pattern(term: str) -> re.Pattern[str]:
    """Return what finds a term in a text, also in the plural.

    Examples
    --------
    >>> [bool(pattern("gate").search(text)) for text in ("Gates open", "investigate")]
    [True, False]
    >>> pattern("STAR").search("we start") is None
    True
    """
    words = r"\s+".join(map(re.escape, term.split()))
    same = 0 if term.isupper() else re.IGNORECASE
    return re.compile(rf"(?<![\w-]){words}(?:e?s)?(?![\w-])", same)


class Terms(SphinxDirective):
    """The table, as a glossary."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write reStructuredText and have it parsed."""
        name, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        known = pages(Path(self.env.srcdir))
        lines = [".. glossary::", "   :sorted:", ""]
        for row in terms(Path(path)):
            number, _ = known[row["page"]]
            where = f":doc:`{number} </{row['page']}>`"
            said = f"{row['chinese']}. {row['definition']} → {where}"
            lines += [f"   {row['term']}", f"      {said}", ""]
        parent = nodes.section()
        parent.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, source=name), parent)
        return parent.children


def link_first_uses(app: Sphinx, doctree: nodes.document) -> None:
    """Link the terms that a page introduces to their entries."""
    for row in terms(Path(app.srcdir) / TABLE):
        if row["page"] == app.env.docname:
            link_first_use(doctree, row["term"])


def link_first_use(doctree: nodes.document, term: str) -> None:
    """Make of a term's first use in a paragraph a link to its entry."""
    for text in doctree.findall(nodes.Text):
        found = pattern(term).search(text)
        above, node = [], text.parent
        while node is not None:
            above.append(node)
            node = node.parent
        if (
            found is None
            or not any(isinstance(each, nodes.paragraph) for each in above)
            or any(isinstance(each, NOT_HERE) for each in above)
        ):
            continue
        link = addnodes.pending_xref(
            "",
            nodes.inline("", found[0]),
            refdomain="std",
            reftype="term",
            reftarget=term,
            refexplicit=True,
            refwarn=True,
        )
        before, after = text[: found.start()], text[found.end() :]
        parts = [nodes.Text(before), link, nodes.Text(after)]
        text.parent.replace(text, [part for part in parts if part.astext()])
        return


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the links."""
    app.add_directive("terms", Terms)
    app.connect("doctree-read", link_first_uses)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
