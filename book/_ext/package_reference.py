"""The reference of the helper package, made of its docstrings when the site is built.

``.. wing:: sharing`` documents all public names of one folder of ``urlm_helpers``. The
sources are read, never imported: the site's environment has no TensorFlow. Napoleon,
which comes with Sphinx, reads the docstrings; the domain of Python gives each name an
anchor and a line in the index.

Names and pages are linked both ways. A name lists the pages that import it, and each of
these pages ends with a line of links to the names that it imports.

(`sphinx-autoapi` would document what Python can import, with its own packages and
templates, and could not name pages. What it would save is most of this file.)
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, NumpyDocstring
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

PACKAGE = "urlm_helpers"
STYLE: Any = Config(
    napoleon_use_param=False,
    napoleon_use_rtype=False,
    napoleon_custom_sections=[("Attributes", "params_style")],
)
OTHERS = ("numpy.", "pandas.", "keras.", "scipy.", "sklearn.")
"""What a docstring may name of other libraries; it gets no link."""
Definition = ast.ClassDef | ast.FunctionDef


@dataclass
class Name:
    """A public name: where it is defined, from where it is imported, what it says."""

    kind: str
    signature: str
    text: str
    module: str
    home: str
    members: list[Name] = field(default_factory=list)

    @property
    def short(self) -> str:
        """Its name without its module and its parameters."""
        return self.signature.split("(")[0]


def parameters(node: Definition) -> str:
    """Return what a call may pass, without the types, which the docstring tells.

    Examples
    --------
    >>> text = "def f(self, x: int, *, k: int = 3, **more: int) -> None: ..."
    >>> parameters(ast.parse(text).body[0])
    '(x, *, k=3, **more)'
    """
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if getattr(n, "name", "") == "__init__"]
        if inits and isinstance(inits[0], ast.FunctionDef):
            return parameters(inits[0])
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        marks = [*node.decorator_list, *node.bases]
        if not any(re.match(r"dataclass|NamedTuple", ast.unparse(m)) for m in marks):
            return ""
        given = [
            ast.unparse(n.target) + (f"={ast.unparse(n.value)}" if n.value else "")
            for n in fields
        ]
        return f"({', '.join(g for g in given if g[0] != '_')})"
    for each in ast.walk(node.args):
        if isinstance(each, ast.arg):
            each.annotation = None
    given = [a for a in ast.unparse(node.args).split(", ") if a not in ("self", "cls")]
    return f"({', '.join(given)})"


def public(body: list[ast.stmt], module: str, member: bool) -> Iterator[Name]:
    """Yield the names of a module or a class that have a docstring, in their order."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and not node.name.startswith("_"):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                if member:
                    marks = [ast.unparse(d) for d in node.decorator_list]
                    known = {"property": "property", "cached_property": "property"}
                    known |= {"classmethod": "classmethod"}
                    kind = next((known[m] for m in marks if m in known), "method")
                call = "" if kind == "property" else parameters(node)
                found = Name(kind, node.name + call, text, module, module)
                if isinstance(node, ast.ClassDef):
                    found.members = list(public(node.body, module, True))
                yield found
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not member:
            said = after.value if isinstance(after, ast.Expr) else None
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(said, ast.Constant) and isinstance(said.value, str):
                name = ast.unparse(target)
                if not name.startswith("_"):
                    yield Name("data", name, cleandoc(said.value), module, module)


@cache
def wing(root: Path, name: str) -> list[tuple[str, str, list[Name]]]:
    """Return a wing's modules: their names, what they say, and their public names."""
    top = root / PACKAGE / name
    files = [*top.parent.glob(f"{name}.py"), *sorted(top.rglob("*.py"))]
    trees = {
        ".".join(file.relative_to(root).with_suffix("").parts): ast.parse(
            file.read_text(encoding="utf-8")
        )
        for file in files
        if "template" not in file.parts
    }
    inits = {m: tree for m, tree in trees.items() if m.endswith(".__init__")}
    homes = {
        (node.module, each.name): m.removesuffix(".__init__")
        for m, tree in inits.items()
        for node in ast.walk(tree)  # some are imported for the type checker only
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    found = []
    for module, tree in trees.items():
        names = list(public(tree.body, module, False))
        for each in names:
            each.home = homes.get((module, each.short), module)
            for member in each.members:
                member.home = each.home
        if names:
            found.append((module, ast.get_docstring(tree) or "", names))
    return found


def as_rst(docstring: str) -> list[str]:
    r"""Return a numpydoc docstring as lines of reStructuredText.

    Numbered references become a plain list: two docstrings on a page both start at 1.

    Examples
    --------
    >>> as_rst("See [1]_.\n\n.. [1] A. Author,\n   Title.")
    ['See [1].', '', '1. A. Author,', '   Title.', '']
    """
    text = re.sub(r"\[(\d+)\]_", r"[\1]", docstring)
    text = re.sub(r"^( *)\.\. \[(\d+)\] ", r"\1\2. ", text, flags=re.MULTILINE)
    return str(NumpyDocstring(text, STYLE)).splitlines() + [""]


@cache
def pages(root: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Return of each notebook its number, and what it imports from the package.

    A name imported is mapped to its full name, as the page writes it.
    """
    found = {}
    for path in sorted((root / "book").rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        text = re.sub(r"^(\s*)[%!].*", r"\1pass", "\n".join(code), flags=re.MULTILINE)
        names = {
            each.name: f"{node.module}.{each.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith(f"{PACKAGE}.")
            for each in node.names
        }
        title = "".join(cells[0]["source"]).splitlines()[0]
        number = title.removeprefix("#").split()[0]
        found[path.relative_to(root).with_suffix("").as_posix()] = number, names
    return found


class Wing(SphinxDirective):
    """All public names of one folder of the package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write reStructuredText and have it parsed."""
        root = Path(self.env.srcdir)
        modules = wing(root, self.arguments[0])
        if not modules:
            raise self.error(f"no module of {PACKAGE} is called {self.arguments[0]}")
        lines = []
        for module, text, names in modules:
            lines += ["", module, "-" * len(module), "", *as_rst(text)]
            for each in names:
                lines += self.described(each, root)
        parent = nodes.section()
        parent.document = self.state.document
        source = StringList(lines, source=f"{PACKAGE}.{self.arguments[0]}")
        nested_parse_with_titles(self.state, source, parent)
        return parent.children

    def described(self, name: Name, root: Path, member: bool = False) -> list[str]:
        """Return one name's directive, and those of its members."""
        head = [f".. py:{name.kind}:: {name.signature}"]
        head += ["   :module: " + name.home]
        if name.home != name.module and not member:
            head += [f"   :canonical: {name.module}.{name.short}"]
        body = as_rst(name.text)
        both = {f"{name.home}.{name.short}", f"{name.module}.{name.short}"}
        used = [
            f":doc:`{number} </{page}>`"
            for page, (number, names) in pages(root).items()
            if both & set(names.values())
        ]
        if used and not member:
            body += ["On pages: " + ", ".join(used), ""]
        for each in name.members:
            body += self.described(each, root, member=True)
        return [*head, "", *("   " + line for line in body), ""]


def link_back(app: Sphinx, doctree: nodes.document) -> None:
    """End a page with a line of links to what it imports from the package."""
    _, names = pages(Path(app.srcdir)).get(app.env.docname, ("", {}))
    documented = {
        f"{place}.{each.short}"
        for part in {full.split(".")[1] for full in names.values()}
        for _, _, found in wing(Path(app.srcdir), part)
        for each in found
        for place in (each.home, each.module)
    }
    line = nodes.paragraph("", "From the package, on this page: ")
    for name, full in sorted(names.items(), key=lambda pair: pair[0].lower()):
        if full in documented:
            line += nodes.Text(", " if len(line) > 1 else "")
            what = {"refdomain": "py", "reftype": "obj", "reftarget": full}
            text = nodes.literal("", name)
            line += addnodes.pending_xref("", text, refexplicit=True, **what)
    section = doctree.next_node(nodes.section)
    if len(line) > 1 and section is not None:
        section += line


def find(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve a name that a docstring gives without its module, and let others be."""
    if node.get("refdomain") != "py" or "py:module" not in node:
        return None
    file = Path(app.srcdir, *node["reftarget"].split(".")).with_suffix(".py")
    if node["reftarget"].startswith(OTHERS) or file.exists():
        return contnode
    domain = env.get_domain("py")
    ends = {
        (each.docname, each.node_id)
        for full, each in domain.objects.items()
        if full.endswith("." + node["reftarget"])
    }
    if len(ends) != 1:
        return None
    docname, anchor = ends.pop()
    link = nodes.reference("", "", contnode, internal=True)
    where = app.builder.get_relative_uri(node["refdoc"], docname)
    link["refuri"] = f"{where}#{anchor}"
    return link


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the links."""
    app.add_directive("wing", Wing)
    app.connect("doctree-read", link_back)
    app.connect("missing-reference", find)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
