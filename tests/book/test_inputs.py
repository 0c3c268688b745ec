"""A change reruns exactly what can reach it, on a small tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import inputs
import pytest
from inputs import Record, Repository

ROOT = Path(__file__).resolve().parents[2]
TREE = {
    "urlm_helpers/__init__.py": "",
    "urlm_helpers/data/__init__.py": "from urlm_helpers.data.schema import Schema",
    "urlm_helpers/data/schema.py": '"""See urlm_helpers.model.heads."""\nSchema = dict',
    "urlm_helpers/model/__init__.py": "",
    "urlm_helpers/model/heads.py": (
        "def head():\n    from urlm_helpers.data import Schema\n    return Schema()"
    ),
    "urlm_helpers/serving/__init__.py": "",
    "urlm_helpers/serving/latency.py": "import urlm_helpers.serving.service",
    "urlm_helpers/serving/service.py": "",
    "urlm_helpers/results/speed.csv": "a\n1\n",
    "urlm_helpers/results/other.csv": "a\n1\n",
    "tests/helper.py": "from urlm_helpers.model.heads import head",
    "tests/test_heads.py": "import helper\n\n\ndef test_it():\n    helper.head()",
    "tests/test_process.py": 'PROGRAM = """\nimport os\n'
    'from urlm_helpers.serving.latency import x\n"""\n\n\ndef test_it():\n    pass',
    "tests/test_text.py": 'FILE = "README.md"\n\n\ndef test_it():\n    pass',
    "tests/test_all.py": 'LIST = "ls-files"\n\n\ndef test_it():\n    pass',
    "README.md": "```python\nfrom urlm_helpers.data import Schema\n```",
    "pyproject.toml": "",
    "tools/inputs.py": "",
}
PAGES = {
    "none": "1 + 1",
    "data": "from urlm_helpers.data import Schema",
    "heads": "%pip install it\nif 1:\n    !ls\nfrom urlm_helpers.model import heads",
    "latency": "def f():\n    from urlm_helpers.serving.latency import x",
    "speed": 'import urlm_helpers\nname = "speed.csv"',
    "tables": 'import urlm_helpers\nfor name in "ab":\n    open(f"{name}.csv")',
    "log": 'import json\ndata = load("movielens-100k")',
}


def page(
    source: str,
    text: str = "≤ 5 s ≤ 1 GiB",
    output: str = "4",
    tags: tuple[str, ...] = (),
) -> str:
    cell = {
        "cell_type": "code",
        "metadata": {"tags": tags},
        "source": [source],
        "outputs": [{"text": output}],
    }
    top = {"cell_type": "markdown", "source": [text]}
    return json.dumps({"cells": [top, cell]})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    pages = {f"pages/{name}.ipynb": page(source) for name, source in PAGES.items()}
    for name, text in (TREE | pages).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def keys(root: Path, *data: Path) -> dict[str, str]:
    """The hash of each page and each test of a tree."""
    repository = Repository(root, data)
    return {
        Path(file).stem: repository.key(file)
        for file in repository.files
        if file.endswith(".ipynb") or Path(file).name.startswith("test_")
    }


@pytest.mark.parametrize(
    ("file", "reached"),
    {
        "urlm_helpers/serving/service.py": {"latency", "test_process"},
        "urlm_helpers/serving/latency.py": {"latency", "test_process"},
        "urlm_helpers/model/heads.py": {"heads", "test_heads"},
        "urlm_helpers/data/schema.py": {"data", "heads", "test_heads", "test_text"},
        "urlm_helpers/results/speed.csv": {"speed", "tables"},
        "urlm_helpers/results/other.csv": {"tables"},
        "urlm_helpers/__init__.py": {
            *PAGES,
            "test_heads",
            "test_process",
            "test_text",
        }
        - {"none", "log"},
        "tests/helper.py": {"test_heads"},
        "tests/test_heads.py": {"test_heads"},
        "README.md": {"test_text"},
        "pyproject.toml": set(),
    }.items(),
)
def test_a_change_reruns_exactly_what_reaches_it(
    tree: Path, file: str, reached: set[str]
) -> None:
    before = keys(tree)
    with (tree / file).open("a", encoding="utf-8") as changed:
        changed.write("\n# changed\n")
    after = keys(tree)
    assert {name for name in after if before[name] != after[name]} == {
        *reached,
        "test_all",
    }


def test_prose_reruns_no_page_and_code_and_outputs_and_limits_do(tree: Path) -> None:
    before = keys(tree)["data"]
    file = tree / "pages/data.ipynb"
    source = PAGES["data"]

    def after(text: str) -> str:
        file.write_text(text, encoding="utf-8")
        return keys(tree)["data"]

    assert after(page(source, text="A sentence. ≤ 5 s ≤ 1 GiB")) == before
    assert after(page(source, text="≤ 6 s ≤ 1 GiB")) != before
    assert after(page(source, output="5")) != before
    assert after(page(source, tags=("raises-exception",))) != before
    assert after(page(source + "  # a comment")) != before
    assert after(page(source)) == before


def test_a_hash_knows_where_a_part_ends() -> None:
    assert inputs.digest("ab", "c") != inputs.digest("a", "bc")
    assert inputs.digest("a", "b") != inputs.digest("b", "a")
    assert inputs.digest("ä") == inputs.digest("ä".encode())


def test_data_rerun_what_loads_some(tree: Path, tmp_path: Path) -> None:
    before = keys(tree, tmp_path / "gone")
    (tmp_path / "data" / "log").mkdir(parents=True)
    (tmp_path / "data" / "log" / "rows.csv").write_text("1")
    after = keys(tree, tmp_path / "data")
    assert {name for name in after if before[name] != after[name]} == {"log"}


def test_another_version_reruns_everything(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(tree)
    monkeypatch.setattr(inputs, "_environment", "3.99\nnumpy==99")
    after = keys(tree)
    assert not {name for name in after if before[name] == after[name]}


def test_a_page_that_is_no_program_reaches_the_whole_package(tree: Path) -> None:
    (tree / "pages/none.ipynb").write_text(page("1 +"), encoding="utf-8")
    assert len(Repository(tree).reach("pages/none.ipynb")) == 1 + sum(
        name.startswith("urlm_helpers/") for name in TREE
    )


# --- the record -----------------------------------------------------------------------


def test_record_outlives_the_process_and_a_broken_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "made" / "record.json"
    record = Record(path)
    record.add([("a", "1"), ("b", "2")])
    record.add([("a", "3")])
    again = Record(path)
    assert again.has("a", "3") and again.has("b", "2") and not again.has("a", "1")
    path.write_text("{", encoding="utf-8")
    assert not Record(path).has("a", "3")


def pytest_run(tree: Path, *arguments: str) -> str:
    """Run pytest with the plugin on a tree; return what it printed."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "pytest_record"),
            *("--record", ".passed/tests.json"),
            *("-p", "no:cacheprovider", "-p", "no:nbval"),
            *arguments,
        ],
        cwd=tree,
        env={
            "PATH": os.defpath,
            "PYTHONPATH": f"{ROOT / 'tools'}:{tree}",
            "URLM_DATA": "none",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr + f"code {ran.returncode}"


def test_pytest_leaves_out_what_passed(tree: Path) -> None:
    (tree / ".gitignore").write_text(".passed\n__pycache__\n")
    (tree / "tests/conftest.py").write_text("")
    first = pytest_run(tree, "--numprocesses", "2", "--dist", "loadfile")
    assert "4 passed" in first and "code 0" in first, first
    second = pytest_run(tree)
    assert "no tests ran" in second and "code 0" in second, second

    (tree / "tests/helper.py").write_text("def head():\n    raise ValueError")
    broken = pytest_run(tree, "--numprocesses", "2", "--dist", "loadfile")
    # test_heads, and test_all, which lists every file
    assert "1 failed, 1 passed" in broken and "code 1" in broken, broken
    assert "1 failed" in pytest_run(tree)
