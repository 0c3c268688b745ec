"""The folded cells of the notebooks: the first line says what is in the fold.

A cell whose first line is ``# @title …`` is folded: to one line in the book, to a form
in Colab, to a hidden source in JupyterLab. There are five kinds:

==========================  =====================================================
``Set-up``                  the first code cell: Colab's line, imports, the style
``The code of this figure`` draws the figure that stands below it
``The code of this table``  prints the table that stands below it
``Helper: …``               defines what the cells below call
``✓ Checked: …``            fails when a claim of the text stops being true
==========================  =====================================================

``python tools/folds.py`` writes the metadata of all notebooks to match.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETUP = "Set-up"
FIGURE = "The code of this figure"
TABLE = "The code of this table"
HELPER = "Helper: "
CHECKED = "✓ Checked: "
TITLE = "# @title "
HIDE = ("hide-input", "hide-cell")


def title(source: str) -> str | None:
    r"""Return what a cell's first line calls the fold, None for an open cell.

    Examples
    --------
    >>> title("# @title Set-up\nimport numpy as np")
    'Set-up'
    >>> title("import numpy as np") is None
    True
    """
    first = source.split("\n", 1)[0]
    return first.removeprefix(TITLE).strip() if first.startswith(TITLE) else None


def metadata(old: Mapping[str, Any], source: str) -> dict[str, Any]:
    r"""Return a code cell's metadata with its fold, or without one.

    Examples
    --------
    >>> metadata({}, "# @title ✓ Checked: x falls\nassert True")["tags"]
    ['hide-cell']
    >>> metadata({"tags": ["hide-input"], "cellView": "form"}, "1 + 1")
    {}
    """
    new = {key: value for key, value in old.items() if key not in ("cellView", "tags")}
    new.pop("jupyter", None)
    tags = [tag for tag in old.get("tags", []) if tag not in HIDE]
    prompts = ("code_prompt_show", "code_prompt_hide")
    book = {k: v for k, v in old.get("mystnb", {}).items() if k not in prompts}
    name = title(source)
    if name is not None:
        shows = name in (FIGURE, TABLE)  # its output stays in sight
        tags.append("hide-input" if shows else "hide-cell")
        text = name.replace("{", "{{").replace("}", "}}")
        book |= dict.fromkeys(prompts, text)
        new |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    new.pop("mystnb", None)
    if book:
        new["mystnb"] = book
    if tags:
        new["tags"] = tags
    return new


def statements(source: str) -> list[ast.stmt]:
    """Parse a cell, its IPython magics left out."""
    lines = source.split("\n")
    plain = [re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines]
    return ast.parse("\n".join(plain)).body


def asserts(nodes: list[ast.stmt]) -> bool:
    """Tell whether statements check something, in any of the ways that fail."""
    return any(
        isinstance(node, ast.Assert)
        or (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")).startswith(
                ("assert_", "check_", "raises")
            )
        )
        for statement in nodes
        for node in ast.walk(statement)
    )


def is_verdict(node: ast.stmt) -> bool:
    """Tell whether a statement only asserts or prints."""
    if isinstance(node, ast.Assert):
        return True
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return name.startswith("assert_") or name == "print"


def faults(cell: Any, first: bool) -> list[str]:
    """List where a code cell's title and what the cell does disagree.

    Parameters
    ----------
    cell : notebook cell
        A code cell with its outputs.
    first : bool
        Whether it is the first code cell of its page.
    """
    source = str(cell.source)
    nodes = statements(source)
    checks = asserts(nodes)
    drawn = any(
        kind.startswith("image/")
        for out in cell.outputs
        for kind in out.get("data", {})
    )
    name = title(source)
    defines = [
        n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Assign)
    ]
    if (name == SETUP) != first:
        return ["the first code cell, and no other, is titled Set-up"]
    if name is None:
        bare = [n for n in nodes if isinstance(n, ast.Assert)]
        return (
            (["draws a figure and is not folded"] if drawn else [])
            + (["only checks, and is not folded"] if _only_checks(nodes) else [])
            + (["has a bare assert: move it to a fold"] if bare else [])
        )
    if name == SETUP:
        return ["the set-up prints or checks"] if checks or cell.outputs else []
    if name == FIGURE:
        return [] if drawn and not checks else ["no figure, or a check, in its fold"]
    if name == TABLE:
        fine = cell.outputs and not drawn and not checks
        return [] if fine else ["no table, a figure or a check in its fold"]
    if name.startswith(HELPER):
        fine = defines and not checks and not cell.outputs
        return [] if fine else ["a helper defines, and neither prints nor checks"]
    if name.startswith(CHECKED):
        return [] if checks and not drawn else ["checks nothing, or draws"]
    return [f"no such kind of fold: {name}"]


def _only_checks(nodes: list[ast.stmt]) -> bool:
    return bool(nodes) and asserts(nodes) and all(map(is_verdict, nodes))


def main() -> None:
    """Write the metadata of all notebooks."""
    root = Path(__file__).resolve().parent.parent
    for path in sorted((root / "book").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        text = path.read_text("utf-8")
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["metadata"] = metadata(cell["metadata"], "".join(cell["source"]))
        new = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if notebook != json.loads(text):  # the order of the keys says nothing
            path.write_text(new, "utf-8")
            print(path.relative_to(root))


if __name__ == "__main__":
    main()
