"""The house: eleven wings, one floor above the other, and no circle of imports."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

WINGS = (
    "data",
    "world",
    "preprocessing",
    "features",
    "sharing",
    "model",
    "training",
    "evaluation",
    "recommendation",
    "serving",
    "project",
)
Graph = dict[str, set[str]]


def imports(package: Path) -> Graph:
    """Draw the import graph: each module, and the modules that it names.

    Imports inside functions and under ``TYPE_CHECKING`` count. A wing's ``__init__``
    is a module like any other; ``from package.wing import name`` is an import of the
    module ``name`` where there is one, otherwise of the wing.
    """
    name = package.name
    files = {
        ".".join((name, *path.relative_to(package).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in package.rglob("*.py")
    }
    graph: Graph = {}
    for module, path in files.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: a relative import"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found.add(whole if whole in files else str(node.module))
        graph[module] = {other for other in found if other in files} - {module}
    return graph


def wing(module: str) -> str | None:
    """Return the wing that a module stands in, None for the package and figures."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in WINGS else None


def upward(graph: Graph) -> list[str]:
    """List the imports of a module that stands on a higher floor."""
    floor = {name: number for number, name in enumerate(WINGS)}
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if (here := wing(module)) and (there := wing(other))
        if floor[there] > floor[here]
    ]


def circle(graph: Graph) -> list[str]:
    """Return the modules of a circle of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def package() -> Path:
    return Path(__file__).resolve().parents[1] / "urlm_helpers"


def test_eleven_wings_and_nothing_beside_them(package: Path) -> None:
    folders = {p.name for p in package.iterdir() if p.is_dir()}
    assert folders - {"__pycache__", "results"} == set(WINGS)
    files = {p.name for p in package.glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "figures.py"}


def test_no_wing_imports_a_higher_one(package: Path) -> None:
    assert upward(imports(package)) == []


def test_no_circle(package: Path) -> None:
    assert circle(imports(package)) == []


def test_figures_import_no_wing(package: Path) -> None:
    assert imports(package)["urlm_helpers.figures"] == set()


def test_wings_and_modules_are_small(package: Path) -> None:
    paths = [p for p in package.rglob("*.py") if p.name != "__init__.py"]
    crowded = Counter(path.parent for path in paths)
    assert max(crowded.values()) <= 10, crowded.most_common(1)
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in paths}
    long = {p.relative_to(package).as_posix(): n for p, n in lines.items() if n > 330}
    assert long == {}


def test_tests_have_the_same_wings(package: Path) -> None:
    tests = Path(__file__).resolve().parent
    folders = {p.name for p in tests.iterdir() if p.is_dir() and p.name[0] not in "._"}
    assert folders - {"book", "benchmarks"} == set(WINGS)


def test_pytest_enters_every_folder_with_tests(package: Path) -> None:
    root = package.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]
    closed = settings["pytest"]["ini_options"]["norecursedirs"]
    for path in (root / "tests").rglob("test_*.py"):
        for folder in path.relative_to(root).parts[:-1]:
            assert not any(fnmatch(folder, pattern) for pattern in closed), path


def test_what_a_wing_hands_on_is_its_own(package: Path) -> None:
    for name in WINGS:
        tree = ast.parse((package / name / "__init__.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module != "typing":
                assert str(node.module).startswith(f"urlm_helpers.{name}"), node.module


@pytest.mark.parametrize(
    ("where", "line", "seen"),
    [
        ("data/schema.py", "from pkg.model.unified import Model", "upward"),
        (
            "data/schema.py",
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from pkg.data import checks",
            "circle",
        ),
        ("data/schema.py", "def f():\n    import pkg.world.app", "upward"),
    ],
)
def test_the_graph_sees(tmp_path: Path, where: str, line: str, seen: str) -> None:
    package = tmp_path / "pkg"
    for path, text in {
        "__init__.py": "",
        "data/__init__.py": "",
        "data/schema.py": line,
        "data/checks.py": "from pkg.data.schema import Schema",
        "world/__init__.py": "",
        "world/app.py": "import pkg.data.schema",
        "model/__init__.py": "",
        "model/unified.py": "",
    }.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    graph = imports(package)
    if seen == "upward":
        assert len(upward(graph)) == 1
    else:
        assert set(circle(graph)) == {"pkg.data.schema", "pkg.data.checks"}
