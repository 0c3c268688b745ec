"""Plant bugs in the package, one at a time, and see that a test notices each.

``python tools/planted.py`` takes the list in ``tests/planted.toml``. For each bug it
copies the checkout into an empty folder, replaces the one place that ``was`` names by
``now`` and runs the tests that should notice. One that they do not notice lives, and
the program ends with 1. What was noticed is not tried again before the module or the
tests change; ``--again`` forgets that. Words after the options choose bugs whose module
or reason contains one of them.

It takes a process of tests for each bug, so it is not part of ``make test``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from inputs import Record, Repository, digest
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "planted.toml"
SECONDS = 300


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
    """Copy all files of the checkout into a folder, pages without their outputs."""
    for file in repository.files:
        if not file.endswith(".ipynb"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)


def noticed(bug: Bug, repository: Repository) -> str:
    """Run the tests with a bug: ``caught``, ``LIVED`` or what went wrong otherwise."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copied(repository, folder)
        planted = bug.plant((folder / bug.file).read_text(encoding="utf-8"))
        (folder / bug.file).write_text(planted, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", *bug.tests]
        try:
            done = subprocess.run(
                [*command, "-p", "no:cacheprovider"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{folder}:{folder / 'tools'}"},
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {SECONDS} s"
    if done.returncode == 0:
        return "LIVED"
    return "caught" if done.returncode == 1 else (done.stdout + done.stderr)[-500:]


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
    options = parser.parse_args()
    repository = Repository(ROOT)
    record = Record(ROOT / ".passed" / "planted.json")
    bugs = read()
    if options.words:
        bugs = [b for b in bugs if any(w in b.file + b.why for w in options.words)]
    keys = {bug: key(bug, repository) for bug in bugs}
    todo = [b for b in bugs if options.again or not record.has(repr(b), keys[b])]
    lived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda bug: (bug, noticed(bug, repository)), todo)
        for bug, how in tqdm(found, total=len(todo), unit="bug"):
            tqdm.write(f"{how}: {bug.file}: {bug.why}")
            if how == "caught":
                record.add([(repr(bug), keys[bug])])
            else:
                lived += 1
    print(f"{len(bugs)} bugs, {len(bugs) - lived} noticed, {lived} not")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
