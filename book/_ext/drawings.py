"""Put on a page what was drawn elsewhere: a diagram, a figure of another page.

A page keeps its ```` ```mermaid ```` fence, which GitHub draws itself. The site ships
no diagram script: `tools/diagrams.py` draws each fence once, when its author writes it,
into `book/_diagrams/`, and this directive puts that drawing on the page. A drawing's
name ends in the hash of its source, so a fence that was edited has none, and the build
fails with the command that makes it.

A diagram that would be too small to read on a phone has a second, narrow drawing. The
style sheet shows one of the two.

``{figure-of} page.ipynb`` shows a figure of a notebook, as it is committed there and
with its text for those who cannot see it, so that no second copy can drift: that of the
cell with the tag ``cover``, else the first.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

DRAWINGS = Path(__file__).resolve().parent.parent / "_diagrams"
COMMAND = "make diagrams"


def drawing_name(source: str) -> str:
    r"""Return the name of a diagram's drawing: its title, and a hash of its source.

    Examples
    --------
    >>> drawing_name("flowchart LR\n  accTitle: Two steps\n  A --> B\n")
    'two-steps-5f81078b'
    """
    lines = [line.strip() for line in dedent(source).strip().splitlines()]
    title = re.search(r"^accTitle:(.*)", "\n".join(lines), re.MULTILINE)
    slug = re.sub(r"[^a-z0-9]+", "-", (title[1] if title else "diagram").lower())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{slug.strip('-')}-{digest[:8]}"


def drawing_files(source: str, folder: Path = DRAWINGS) -> list[Path]:
    """Return where the drawing of a diagram lies, and where its narrow one does."""
    name = drawing_name(source)
    return [folder / f"{name}.svg", folder / f"{name}-narrow.svg"]


class Mermaid(SphinxDirective):
    """A fence with a diagram's source, which becomes its committed drawing."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Read the drawing, or say how to make it."""
        source = "\n".join(self.content)
        files = drawing_files(source, DRAWINGS)
        self.env.note_dependency(str(files[0]))
        there = [path for path in files if path.exists()]
        if files[0] not in there:
            logging.getLogger(__name__).warning(
                "no drawing of the diagram %r: run `%s`",
                drawing_name(source),
                COMMAND,
                location=self.get_location(),
            )
            return []
        kinds = ["wide", "narrow"] if len(there) == 2 else ["only"]
        drawn = [
            f'<div class="{kind}">{path.read_text(encoding="utf-8").strip()}</div>'
            for kind, path in zip(kinds, there, strict=True)
        ]
        html = f'<div class="diagram">\n{"".join(drawn)}\n</div>'
        return [nodes.raw("", html, format="html")]


class FigureOf(SphinxDirective):
    """A figure of a notebook, with a caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Take the figure out of the notebook and hand it to Sphinx as a file."""
        name, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        try:
            png, alt = cover(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise self.error(f"{name}: {error}") from None
        file = Path(self.env.app.doctreedir) / f"{Path(name).stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png)
        here = Path(self.env.doc2path(self.env.docname)).parent
        image = nodes.image("", uri=os.path.relpath(file, here), alt=alt)
        caption = nodes.caption("", "")
        lines, messages = self.parse_inline(" ".join(self.content))
        caption.extend(lines)
        return [nodes.figure("", image, caption), *messages]


def cover(notebook: Any) -> tuple[bytes, str]:
    """Return a notebook's cover, else its first figure, and the text that tells it."""
    cells = notebook["cells"]
    first = [c for c in cells if "cover" in c["metadata"].get("tags", [])]
    for cell in [*first, *cells]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = cell["metadata"]["mystnb"]["image"]["alt"]
                return base64.b64decode("".join(output["data"]["image/png"])), alt
    raise ValueError("the notebook has no figure")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("mermaid", Mermaid)
    app.add_directive("figure-of", FigureOf)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
