"""The quickstart of the landing page and of the readme: one text, and it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = ("book/index.md", "README.md")
LINES = 15
SECONDS = 120  # measured: 20 to 35 on one core; more than this is a fault


def quickstart(path: Path) -> str:
    found = re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)
    assert len(found) == 1, path
    return str(found[0])


def test_the_copies_agree(root: Path) -> None:
    first, second = (quickstart(root / page) for page in PAGES)
    assert first == second


@pytest.mark.parametrize("page", PAGES)
def test_it_is_short(root: Path, page: str) -> None:
    lines = [line for line in quickstart(root / page).splitlines() if line]
    assert len(lines) <= LINES
    assert all(len(line) <= 88 for line in lines)


def test_it_runs(root: Path, tmp_path: Path) -> None:
    program = tmp_path / "quickstart.py"
    program.write_text(quickstart(root / PAGES[0]), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    measured, recommended = ran.stdout.split("rank", 1)
    assert measured.count("auc") == 9  # three scenarios, three tasks
    assert len(recommended.strip().splitlines()) == 1 + 9
