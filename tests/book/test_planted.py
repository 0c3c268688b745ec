"""The runner of planted bugs: each can be planted, and what no test sees is said."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import planted
import pytest
from inputs import Repository
from planted import Bug

MODULE = "def more(n, k):\n    return n > k  # strictly\n"
TEST = "from module import more\n\n\ndef test_it():\n    assert not more(2, {})\n"
BUG = Bug("equal counts as more", "module.py", "n > k", "n >= k", ("test_module.py",))
HARMLESS = Bug("a comment", "module.py", "# strictly", "# not equal", BUG.tests)


def write(tree: Path, least: int = 2) -> None:
    """Write a module, and a test that asks whether 2 is more than `least`."""
    (tree / "module.py").write_text(MODULE)
    (tree / "test_module.py").write_text(TEST.format(least))


@pytest.mark.parametrize(
    "bug", planted.read(), ids=lambda bug: f"{bug.file}: {bug.why}"
)
def test_a_bug_can_be_planted_and_its_tests_are_there(bug: Bug, root: Path) -> None:
    source = (root / bug.file).read_text(encoding="utf-8")
    assert bug.was != bug.now and bug.tests
    planted_source = bug.plant(source)
    if bug.file.endswith(".py"):  # no change of layout alone
        assert ast.dump(ast.parse(planted_source)) != ast.dump(ast.parse(source))
    else:
        assert planted_source.split() != source.split()
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert re.search(rf"def {name}\b" if name else "", (root / file).read_text())


def test_a_bug_is_noticed_and_a_harmless_change_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    found = planted.noticed(BUG, tmp_path)
    assert found == "caught by test_module.py::test_it"
    assert planted.noticed(HARMLESS, tmp_path) == "LIVED"
    endless = replace(BUG, now="any(iter(int, 1))")
    monkeypatch.setattr(planted, "SECONDS", 3)
    assert planted.noticed(endless, tmp_path) == "no end after 3 s"
    broken = Bug("no Python", "module.py", "def", "fed", BUG.tests)
    monkeypatch.undo()
    assert "SyntaxError" in planted.noticed(broken, tmp_path)
    assert (tmp_path / "module.py").read_text() == MODULE
    with pytest.raises(ValueError, match=r"module.py: 'n' is there 3 times"):
        Bug("", "module.py", "n", "m", ()).plant(MODULE)


def test_what_fails_by_itself_notices_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(planted, "ROOT", tmp_path)
    monkeypatch.setattr(planted, "read", lambda: [BUG])
    monkeypatch.setattr(planted, "LIBRARIES", ())
    monkeypatch.setattr(sys, "argv", ["planted.py"])
    write(tmp_path, least=1)
    assert planted.main() == 1
    assert "fails without any bug" in capsys.readouterr().out
    write(tmp_path)
    assert planted.main() == 0
    monkeypatch.setattr(planted, "run", None)  # not run again: nothing has changed
    assert planted.main() == 0
    assert "1 bugs, 1 noticed, 0 not" in capsys.readouterr().out


def test_a_copy_has_no_pages(tmp_path: Path, root: Path) -> None:
    planted.copied(Repository(root), tmp_path)
    assert (tmp_path / "tests/planted.toml").exists()
    assert not list(tmp_path.rglob("*.ipynb"))
