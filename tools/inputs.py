"""What each check of the repository depends on, read off the sources.

A page or a test passes again when nothing that it can reach has changed. What it can
reach is found without running it, and rather too much than too little:

- the modules that it imports, and what those import in turn. Imports in functions
  count, so do programs held in strings, and so does each ``__init__`` on the way;
- the tables in ``urlm_helpers/results`` that a page or a module names;
- the files and folders of the repository that a test names, and the programs in the
  texts among them; all files, when it lists the repository with git;
- the real data lying in the cache, when it loads some by name;
- the installed packages with their versions, and the Python that runs them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PACKAGE = "urlm_helpers"
LOADS_DATA = re.compile(r"""URLM_DATA|DownloadError|\b(?:load|fetch)\(\s*["'a-z]""")
NAMED_MODULE = re.compile(rf"\b{PACKAGE}(?:\.\w*)+|\b(?:from|import) {PACKAGE}\b")


def digest(*parts: str | bytes) -> str:
    """Return one short hash of several texts, in their order."""
    whole = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        whole.update(f"{len(raw)}:".encode() + raw)
    return whole.hexdigest()[:32]


def page_source(notebook: dict[str, Any]) -> str:
    """Return the code of a notebook as one program, IPython's own lines left out."""
    cells = (
        "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"
    )
    return re.sub(r"^(\s*)[%!].*", r"\1pass", "\n".join(cells), flags=re.MULTILINE)


def page_content(notebook: dict[str, Any]) -> str:
    """Return what of a notebook nbval compares, and the limits that it states.

    The prose is not in it: no run of the page can tell one sentence from another.

    Examples
    --------
    >>> cell = {"cell_type": "markdown", "source": ["Time: ≤ 60 s. ", "Why?"]}
    >>> page_content({"cells": [cell]})
    '[["≤ 60 s"]]'
    """
    top = "".join(notebook["cells"][0]["source"])
    kept: list[Any] = [re.findall(r"≤ [\d.]+ (?:s|GiB)\b", top)]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            tags = cell["metadata"].get("tags", [])
            kept.append([cell["source"], cell["outputs"], tags])
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)


@dataclass
class Names:
    """What one Python text names: modules, and short strings that may be paths."""

    modules: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, source: str) -> Names:
        """Read the names off a program; one that is broken names the whole package."""
        found = cls()
        try:
            tree = ast.parse(source)
        except SyntaxError:
            found.modules.add(f"{PACKAGE}.")
            return found
        told = set(docstrings(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.modules.add(node.module)
                found.modules |= {f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in told:
                    found.add_string(node.value)
        return found

    def add_string(self, text: str) -> None:
        """Note a string: a path, a module's name or a program that imports some."""
        for name in NAMED_MODULE.findall(text):
            self.modules.add(name.split()[-1])
        if len(text) < 100:
            self.strings.add(text)
        for line in re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE):
            self.modules.add(line)


def docstrings(tree: ast.AST) -> Iterator[int]:
    """Yield the identities of the strings that stand alone: they run nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)


class Repository:
    """The files of a checkout, and which of them a check can reach.

    Parameters
    ----------
    root : Path
        The top folder.
    data : sequence of Path
        The folders of the real data.
    """

    def __init__(self, root: Path, data: Sequence[Path] = ()) -> None:
        self.root = root
        self.data = data
        self._direct: dict[str, set[str]] = {}
        self._reach: dict[str, frozenset[str]] = {}
        self._hashes: dict[str, str] = {}
        self._names: dict[str, Names] = {}

    @cached_property
    def files(self) -> list[str]:
        """Every file that git knows or would add."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        return sorted({f for f in listed if f and (self.root / f).is_file()})

    @cached_property
    def modules(self) -> dict[str, set[str]]:
        """The files behind each name of a module.

        A name without a dot is any file of that name in the folders of tools, tests
        and studies, because pytest puts several of them on the path.
        """
        found: dict[str, set[str]] = {}
        for file in self.files:
            if file.endswith(".py"):
                path = Path(file)
                if path.parts[0] == PACKAGE:
                    name = ".".join(path.with_suffix("").parts)
                    found.setdefault(name.removesuffix(".__init__"), set()).add(file)
                else:
                    found.setdefault(path.stem, set()).add(file)
        return found

    @cached_property
    def results(self) -> set[str]:
        """The tables of the studies."""
        return {f for f in self.files if f.startswith(f"{PACKAGE}/results/")}

    @cached_property
    def listings(self) -> list[str]:
        """What lies in each folder of the real data."""
        return [listing(folder) for folder in self.data]

    def text(self, file: str) -> str:
        """Return a file's text."""
        return (self.root / file).read_text(encoding="utf-8")

    def source(self, file: str) -> str:
        """Return the program in a module or in a page."""
        if file.endswith(".ipynb"):
            return page_source(json.loads(self.text(file)))
        return self.text(file)

    def names(self, file: str) -> Names:
        """Return what a module or a page names."""
        if file not in self._names:
            if file.endswith(".md"):
                self._names[file] = found = Names()
                found.add_string(self.text(file))
            else:
                self._names[file] = Names.of(self.source(file))
        return self._names[file]

    def imported(self, name: str) -> set[str]:
        """Return the files that run when a module is imported.

        ``urlm_helpers.`` alone, as of a name put together while running, is the whole
        package.
        """
        if name == f"{PACKAGE}.":
            return {f for f in self.files if f.startswith(f"{PACKAGE}/")}
        parts = name.rstrip(".").split(".")
        if parts[0] != PACKAGE:
            # As in `from package.module import name`: the folder is not on the path.
            return self.modules.get(parts[0], set()) | self.modules.get(
                parts[-1], set()
            )
        steps = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return set().union(*(self.modules.get(step, set()) for step in steps))

    def direct(self, file: str) -> set[str]:
        """Return what a file names: modules, results and, in a test, any file."""
        names = self.names(file)
        found = set().union(*map(self.imported, names.modules))
        ends = {Path(text).name for text in names.strings}
        if ".csv" in names.strings:  # the end of a name put together while running
            found |= self.results
        found |= {f for f in self.results if Path(f).name in ends}
        if file.startswith("tests/"):
            if "ls-files" in names.strings:
                found |= set(self.files)
            for text in names.strings - {"", "."}:
                there = text.strip("/")
                found |= {
                    f for f in self.files if f == there or f.startswith(there + "/")
                }
        return found - {file}

    def reach(self, file: str) -> frozenset[str]:
        """Return every file that a file can reach, itself included."""
        if file not in self._reach:
            seen: set[str] = set()
            todo = [file]
            while todo:
                here = todo.pop()
                if here not in seen:
                    seen.add(here)
                    if here.endswith((".py", ".md")) or here == file:
                        if here not in self._direct:
                            self._direct[here] = self.direct(here)
                        todo += self._direct[here]
            self._reach[file] = frozenset(seen)
        return self._reach[file]

    def content(self, file: str) -> str:
        """Return the hash of one file."""
        if file not in self._hashes:
            self._hashes[file] = digest((self.root / file).read_bytes())
        return self._hashes[file]

    def key(self, file: str, *also: str) -> str:
        """Return the hash of all that a page or a test depends on.

        Parameters
        ----------
        file : str
            The page or the test, relative to the top.
        also : str
            Files that belong to how it is run.
        """
        reached = (self.reach(file) | set(also)) - {file}
        if file.endswith(".ipynb"):
            own = page_content(json.loads(self.text(file)))
        else:
            own = self.text(file)
        parts = [file, own, environment()]
        parts += [f"{each} {self.content(each)}" for each in sorted(reached)]
        if LOADS_DATA.search(self.source(file)):
            parts += self.listings
        return digest(*parts)


def environment() -> str:
    """Return the installed packages, the Python and the kind of machine, as text."""
    global _environment
    if _environment is None:
        found = {f"{d.metadata['Name']}=={d.version}" for d in distributions()}
        here = (platform.python_version(), platform.system(), platform.machine())
        _environment = "\n".join([*here, *sorted(found)])
    return _environment


_environment: str | None = None


def listing(folder: Path) -> str:
    """Return the names and sizes of all files below a folder, as text."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{p.relative_to(folder)} {p.stat().st_size}" for p in files)


def data_folders() -> list[Path]:
    """Return the folders of the real data: ``URLM_DATA``, the package's cache or both.

    As `urlm_helpers.data.download.cache_folder` has it: a ``URLM_DATA`` that is marked
    as read-only is only read.
    """
    chosen = os.environ.get("URLM_DATA")
    folders = [Path(chosen).expanduser()] if chosen else []
    if not any(not f.is_dir() or f.stat().st_mode & 0o222 for f in folders):
        from urlm_helpers.data.download import cache_folder

        folders.append(cache_folder())
    return folders


class Record:
    """What passed, and on which inputs: a file of names and hashes.

    It lies outside `_build`, so that it outlives a build; ``make clean`` and
    ``make test-all`` remove it. A check has one hash, that of the last time it passed.

    Parameters
    ----------
    path : Path
        A JSON file. One that can't be read is an empty record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def has(self, name: str, key: str) -> bool:
        """Tell whether a check passed on these inputs."""
        return self.known.get(name) == key

    def add(self, passed: Iterable[tuple[str, str]]) -> None:
        """Enter checks that passed; the file is replaced in one step."""
        self.known |= dict(passed)
        self._write()

    def drop(self, names: Iterable[str]) -> None:
        """Forget checks that failed."""
        for name in names:
            self.known.pop(name, None)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.known, indent=0, sort_keys=True), "utf-8")
        new.replace(self.path)
