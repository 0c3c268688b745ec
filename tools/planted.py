"""Plant bugs in the package, one at a time, and see that a test notices each.

``python tools/planted.py`` takes the list in ``tests/planted.toml``. It copies the
checkout and sees that all tests in question pass there: what fails by itself notices
nothing. Then, for each bug in a copy of its own, it replaces the one place that ``was``
names by ``now`` and runs the tests that should notice. One that they do not notice
lives, and the program ends with 1. What passed and what was noticed is not tried again
before the module or the tests change, so a run that was cut goes on where it stopped;
``--again`` forgets that. Words after the options choose bugs whose module or reason
contains one of them.

The tests of a bug run in a process of their own. It is forked from one that has loaded
TensorFlow and the other libraries, once, and nothing of this repository. All bugs take
a quarter of an hour, so they are not part of ``make test``.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from inputs import Record, Repository, digest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "planted.toml"
SECONDS = 300
"""How long the tests of one bug may take."""
LIBRARIES = ("pytest", "matplotlib.pyplot", "scipy.stats", "sklearn", "keras")
"""What is loaded before a process is forked."""
QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""Half of the time of a short test goes into plugins that it does not use."""
FORKS = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Bug:
    """One bug: where it is planted, and which tests should notice.

    Attributes
    ----------
    why : str
        What goes wrong with it.
    file : str
        The module, relative to the top.
    was, now : str
        A piece of it that occurs once, and what stands there instead.
    tests : tuple of str
        What pytest is given: files, or single tests of a file that takes long.
    """

    why: str
    file: str
    was: str
    now: str
    tests: tuple[str, ...]

    def plant(self, source: str) -> str:
        """Return the module with the bug.

        Raises
        ------
        ValueError
            If the piece is not there, or not once.

        Examples
        --------
        >>> Bug("off by one", "a.py", "n < k", "n <= k", ()).plant("n < k or m")
        'n <= k or m'
        """
        if (times := source.count(self.was)) != 1:
            raise ValueError(f"{self.file}: {self.was!r} is there {times} times")
        return source.replace(self.was, self.now)


def read(file: Path = LIST) -> list[Bug]:
    """Read the list of bugs."""
    bugs = tomllib.loads(file.read_text(encoding="utf-8"))["bug"]
    return [Bug(**{**each, "tests": tuple(each["tests"])}) for each in bugs]


def copied(repository: Repository, folder: Path) -> None:
    """Copy all files of a checkout into a folder, pages without their outputs."""
    for file in repository.files:
        if not file.endswith(".ipynb"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository.root / file, folder / file)


def child(folder: str, tests: tuple[str, ...], said: str) -> None:
    """Run tests of a copy in this process until one fails, and end it."""
    os.setsid()  # what the tests start ends with them
    with open(said, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ |= {**QUICK, "PYTHONPATH": f"{folder}:{folder}/tools"}
    here = {"", str(ROOT), str(ROOT / "tools")}
    sys.path[:] = [path for path in sys.path if path not in here]
    for name in ("inputs", "planted"):
        sys.modules.pop(name, None)  # the checkout's, not the copy's
    sys.exit(int(pytest.main(["-qx", "-p", "no:cacheprovider", *tests])))


def run(folder: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests of a copy until one fails: pytest's exit status, and what it said."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        process = FORKS.Process(
            target=child, args=(str(folder), tuple(tests), said.name)
        )
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            return -1, f"no end after {SECONDS} s"
        return process.exitcode, said.read()


def noticed(bug: Bug, plain: Path) -> str:
    """Plant a bug in a copy of a copy: ``caught by`` a test, ``LIVED`` or a failure."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, module = Path(scratch, "tree"), Path(scratch, "tree", bug.file)
        shutil.copytree(plain, folder, copy_function=os.link)
        planted = bug.plant(module.read_text(encoding="utf-8"))
        module.unlink()
        module.write_text(planted, encoding="utf-8")
        Path(importlib.util.cache_from_source(module)).unlink(missing_ok=True)
        code, said = run(folder, bug.tests)
    if code == 0:
        return "LIVED"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return f"caught by {failed[1]}" if code == 1 and failed else said[-500:]


def key(bug: Bug, repository: Repository) -> str:
    """Return the hash of a bug, its module and the tests that should notice."""
    files = {each.split("::")[0] for each in bug.tests} & set(repository.files)
    parts = [repr(bug), repository.content(bug.file)]
    return digest(*parts, *(repository.key(file) for file in sorted(files)))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", help="only bugs with one of these")
    parser.add_argument("--again", action="store_true", help="forget what was noticed")
    parser.add_argument("--jobs", type=int, default=2, help="bugs side by side")
    options = parser.parse_intermixed_args()
    repository = Repository(ROOT)
    record = Record(ROOT / ".passed" / "planted.json")
    bugs = read()
    if options.words:
        bugs = [b for b in bugs if any(w in b.file + b.why for w in options.words)]
    keys = {bug: key(bug, repository) for bug in bugs}
    todo = [b for b in bugs if options.again or not record.has(repr(b), keys[b])]
    lived = 0
    FORKS.set_forkserver_preload(list(LIBRARIES))
    with (
        tempfile.TemporaryDirectory() as plain,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        copied(repository, Path(plain))
        by_file: dict[str, set[str]] = {}
        for test in sorted({test for bug in todo for test in bug.tests}):
            by_file.setdefault(test.split("::")[0], set()).add(test)
        needed = [
            (f"plain {sorted(tests)}", repository.key(file), sorted(tests))
            for file, tests in by_file.items()
        ]
        needed = [n for n in needed if options.again or not record.has(*n[:2])]
        ran = pool.map(lambda n: (n, *run(Path(plain), n[2])), needed)
        for (name, passed, _), code, said in tqdm(ran, total=len(needed), unit="file"):
            if code:
                print(said, "a test fails without any bug", sep="\n")
                return 1
            record.add([(name, passed)])
        found = pool.map(lambda bug: (bug, noticed(bug, Path(plain))), todo)
        for bug, how in tqdm(found, total=len(todo), unit="bug"):
            tqdm.write(f"{how}: {bug.file}: {bug.why}")
            if how.startswith("caught"):
                record.add([(repr(bug), keys[bug])])
            else:
                lived += 1
    print(f"{len(bugs)} bugs, {len(bugs) - lived} noticed, {lived} not")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
