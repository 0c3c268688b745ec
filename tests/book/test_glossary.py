"""The glossary's table, and the links where its terms are introduced."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from docutils import nodes
from docutils.utils import new_document
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book/_ext"))

import glossary  # noqa: E402

ROWS = glossary.terms(ROOT / glossary.TABLE)
CODE = re.compile(
    r"```.*?```|`[^`]*`|^#.*?$|\$\$.*?\$\$|\$[^$]*\$", re.DOTALL | re.MULTILINE
)


def prose(page: str) -> str:
    """A page's text without headings, code and formulas."""
    cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return CODE.sub(" ", "\n\n".join(texts))


def test_table_is_sorted_and_long_enough() -> None:
    names = [row["term"].lower() for row in ROWS]
    assert names == sorted(set(names))
    assert len(names) >= 120


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["term"])
def test_term(row: dict[str, str]) -> None:
    assert re.search(r"[\u4e00-\u9fff]", row["chinese"])
    said = row["definition"]
    assert said.endswith(".") and len(re.findall(r"\.(?:\s|$)", said)) == 1
    assert len(said.split()) <= 30
    assert glossary.pattern(row["term"]).search(prose(row["page"]))


def paragraph(*parts: nodes.Node) -> nodes.paragraph:
    node = nodes.paragraph()
    node.extend(parts)
    return node


def test_first_use_in_a_paragraph_is_the_link() -> None:
    tree = new_document("a page")
    tree += nodes.title("", "The gate")
    tree += nodes.rubric("", "A gate over a list")
    tree += nodes.note("", paragraph(nodes.Text("A gate in a colored box.")))
    tree += paragraph(
        nodes.literal("", "gate"), nodes.Text(" is code, delegate another.")
    )
    tree += paragraph(nodes.strong("", "Two Gates open."), nodes.Text(" A gate."))
    glossary.link_first_use(tree, "gate")
    (link,) = tree.findall(addnodes.pending_xref)
    assert link.astext() == "Gates" and link["reftarget"] == "gate"
    assert isinstance(link.parent, nodes.strong)
    assert tree.astext().count("Two Gates open. A gate.") == 1


def test_without_a_use_nothing_changes() -> None:
    tree = new_document("a page")
    tree += paragraph(nodes.Text("We start."))
    glossary.link_first_use(tree, "STAR")
    assert not list(tree.findall(addnodes.pending_xref))
