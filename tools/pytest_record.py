"""A pytest plugin: leave out the tests that passed before on the same inputs.

``pytest -p pytest_record --record FILE`` looks each test file up in a record (see
`inputs`) before it is imported, and enters it when all its tests passed. A test of the
built site is looked up by itself: on its page, on the whole site, or on neither, as its
fixtures say. Without ``--record`` nothing is left out.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from inputs import Record, Repository, data_folders, digest

ALWAYS = ("pyproject.toml", "tools/inputs.py")
SITE = "_build/html"
DRAWINGS = "book/_diagrams"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SITE_TESTS = "tests/book/test_book.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that switches the plugin on."""
    parser.addoption("--record", type=Path, help="what passed before, and on what")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin proper, in the process that collects and in its workers."""
    record = config.getoption("--record")
    if record is not None:
        root = config.rootpath
        config.pluginmanager.register(Recorded(root, Record(root / record)))


class Recorded:
    """Leaves out what is in the record, and enters what passes.

    Parameters
    ----------
    root : Path
        The top of the repository.
    record : Record
    """

    def __init__(self, root: Path, record: Record) -> None:
        self.root = root
        self.record = record
        self.repository = Repository(root, data_folders())
        self.site = Site(root / SITE, root / DRAWINGS)
        self.left_out: set[str] = set()
        self.ran: set[str] = set()
        self.failed: set[str] = set()
        self._keys: dict[str, str] = {}

    def file_key(self, file: str) -> str:
        """Return the hash of what a test file, or a module's doctests, depend on."""
        if file not in self._keys:
            fixtures = [f for f in self.repository.files if f.endswith("conftest.py")]
            self._keys[file] = self.repository.key(file, *ALWAYS, *fixtures)
        return self._keys[file]

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out a file that passed before, without importing it."""
        if collection_path.suffix != ".py":
            return None
        file = collection_path.relative_to(self.root).as_posix()
        if file == SITE_TESTS or file not in self.repository.files:
            return None
        if self.record.has(file, self.file_key(file)):
            self.left_out.add(file)
            return True
        return None

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out the tests of the site that passed before."""
        kept, gone = [], []
        for item in items:
            if item.nodeid.startswith(SITE_TESTS):
                seen = self.site.seen_by(item)
                if seen is None:
                    kept.append(item)
                    continue
                key = digest(self.file_key(SITE_TESTS), item.nodeid, seen)
                if self.record.has(item.nodeid, key):
                    gone.append(item)
                    continue
                item.user_properties.append(("key", key))
            kept.append(item)
        if gone:
            self.left_out |= {item.nodeid for item in gone}
            config.hook.pytest_deselected(items=gone)
            items[:] = kept

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that can't be imported."""
        if report.failed:
            self.failed.add(report.nodeid.split("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test went; workers report to the process that writes."""
        name = report.nodeid.split("::")[0]
        key = dict(report.user_properties).get("key")
        if key is not None:
            name = report.nodeid
            self._keys[name] = str(key)
        self.ran.add(name)
        if report.failed:
            self.failed.add(name)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Enter what passed, where all of it was run."""
        if hasattr(session.config, "workerinput"):
            return
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.record.known:
            session.exitstatus = pytest.ExitCode.OK
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        if session.config.option.keyword or session.config.option.markexpr:
            return
        if session.shouldstop or session.shouldfail:
            return
        passed = self.ran - self.failed - {SITE_TESTS}
        keys = ((p, self._keys.get(p) or self.file_key(p)) for p in passed)
        self.record.add(keys)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Say that not everything was run again."""
        known = len(self.record.known) - len(self.ran - self.failed)
        if known > 0:
            terminalreporter.write_line(
                f"{known} files or tests of the record were not run again: "
                "they passed before on the same inputs"
            )


class Site:
    """The built site, as far as a test sees it.

    Parameters
    ----------
    folder : Path
        With the pages.
    drawings : Path
        The folder of the committed diagrams.
    """

    def __init__(self, folder: Path, drawings: Path) -> None:
        self.folder = folder
        self.drawings = drawings
        self._hashes: dict[str, str] = {}

    def seen_by(self, item: pytest.Item) -> str | None:
        """Return the hash of what a test sees of the site; None: it is always run.

        One with the fixture ``site`` and the parameter ``page`` sees that page, what
        it shows and what all pages load; another with ``site`` sees all of it. A test
        that only needs a browser sees its own parameters and the drawings.
        """
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "site" in fixtures:
            if "page" in parameters:
                files = list(self.page_files(parameters["page"]))
            else:
                files = files_below(self.folder)
        elif "browser" in fixtures:
            files = files_below(self.drawings)
        else:
            return None
        own = re.sub(r" at 0x[0-9a-f]+", "", repr(sorted(parameters.items())))
        return digest(own, browser(), *(f"{p} {self.content(p)}" for p in files))

    def page_files(self, page: str) -> Iterator[Path]:
        """Yield a page, the images that it names and what lies in ``_static``."""
        html = self.folder / f"{page}.html"
        if html.is_file():
            yield html
            named = re.findall(
                r"_(?:images|sources)/[\w./%-]+", html.read_text("utf-8")
            )
            yield from (
                p for n in sorted(set(named)) if (p := self.folder / n).is_file()
            )
            yield from files_below(self.folder / "_static")

    def content(self, path: Path) -> str:
        """Return the hash of one file."""
        name = str(path)
        if name not in self._hashes:
            self._hashes[name] = digest(path.read_bytes())
        return self._hashes[name]


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def browser() -> str:
    """Return where the browser is and its size, which tells its versions apart."""
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), ""
    )
    return f"{found} {Path(found).stat().st_size}" if Path(found).is_file() else found
