"""What two pages really import is what was read off them: a change reruns them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from inputs import Repository

ROOT = Path(__file__).resolve().parents[2]


def test_what_a_page_really_imports_is_reached() -> None:
    """Run the imports of two pages and compare with what was read off them."""
    repository = Repository(ROOT)
    for file in (
        "book/1-background/1-1-history.ipynb",
        "book/4-mathematics/4-3-case.ipynb",
    ):
        lines = [
            line.strip()
            for line in repository.source(file).splitlines()
            if line.strip().startswith("from urlm_helpers") and "(" not in line
        ]
        program = "\n".join(
            [
                *lines,
                "import sys, json",
                "names = [m.__file__ for n, m in "
                "sys.modules.items() if n.startswith('urlm_helpers')]",
                "print(json.dumps(names))",
            ]
        )
        said = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT)
        loaded = {
            Path(name).relative_to(ROOT).as_posix()
            for name in json.loads(said.splitlines()[-1])
        }
        assert loaded <= repository.reach(file)
