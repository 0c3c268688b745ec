"""Plant bugs in the package, one at a time, and see that a test notices each.

``python tools/planted.py`` takes the list in ``tests/planted.toml``. It copies the
checkout and sees that all tests in question pass there: what fails by itself notices
nothing. Then, for each bug in a copy of its own, it replaces the one place that ``was``
names by ``now`` and runs the tests that should notice. One that they do not notice
lives, and the program ends with 1. What was noticed is not tried again before the
module or the tests change; ``--again`` forgets that. Words after the options choose
bugs whose module or reason contains one of them.

It takes a process of tests for each bug, so it is not part of ``make test``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from inputs import Record, Repository, digest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "planted.toml"
SECONDS = 300
"""How long the tests of one bug may take."""
QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Half of the time of a short test goes into plugins that it does not use."""


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


def run(
    folder: Path, tests: Iterable[str], seconds: float | None = None
) -> tuple[int, str]:
    """Run tests of a copy until one fails: pytest's exit status, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, **QUICK, "PYTHONPATH": f"{folder}:{folder / 'tools'}"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    return done.returncode, done.stdout + done.stderr


def noticed(bug: Bug, plain: Path) -> str:
    """Plant a bug in a copy of a copy: ``caught by`` a test, ``LIVED`` or a failure."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "tree")
        shutil.copytree(plain, folder)
        planted = bug.plant((folder / bug.file).read_text(encoding="utf-8"))
        (folder / bug.file).write_text(planted, encoding="utf-8")
        try:
            code, said = run(folder, bug.tests, SECONDS)
        except subprocess.TimeoutExpired:
            return f"no end after {SECONDS} s"
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
    with (
        tempfile.TemporaryDirectory() as plain,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        copied(repository, Path(plain))
        tests = sorted({test for bug in todo for test in bug.tests})
        if todo and (plain_run := run(Path(plain), tests))[0]:
            print(plain_run[1], "a test fails without any bug", sep="\n")
            return 1
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
