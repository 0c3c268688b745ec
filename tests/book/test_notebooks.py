"""The committed notebooks: complete, in order, quiet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folds
import nbformat
import notebook_checks as checks
import notebooks
import pytest
import set_url
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
URL = set_url.configured_url(ROOT)
BOOK = notebooks.all_notebooks(ROOT / "book")
NAMES = [path.relative_to(ROOT).as_posix() for path in BOOK]
TOP = "# Title\n\n*Needs: nothing · Time: ≤ 30 s · Memory: ≤ 1 GiB (two cores, no GPU)*"


def setup_cell(notebook: Any) -> list[str]:
    return checks.wrong_setup_cell(notebook, URL)


CHECKS: list[Callable[[Any], list[str]]] = [*checks.CHECKS, setup_cell]


def titled(source: str, **cell: Any) -> Any:
    """A code cell with the metadata that its title asks for."""
    cell["metadata"] = folds.metadata(cell.get("metadata", {}), source)
    return new_code_cell(source, **cell)


def good(source: str = "print(2 + 2)", **cell: Any) -> Any:
    """A notebook without fault: its top, the set-up and one more cell."""
    cell = {"outputs": [new_output("stream", name="stdout", text="4\n")], **cell}
    notebook = new_notebook(
        cells=[
            new_markdown_cell(TOP),
            titled(checks.SETUP_CELL.format(url=URL).rstrip(), execution_count=1),
            titled(source, **{"execution_count": 2, **cell}),
        ],
        metadata=notebooks.METADATA,
    )
    return nbformat.from_dict(notebook)


def bad(change: Callable[[Any], Any]) -> Any:
    notebook = good()
    change(notebook)
    return notebook


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", BOOK, ids=NAMES)
def test_notebook(path: Path, check: Callable[[Any], list[str]]) -> None:
    faults = check(nbformat.read(path, as_version=4))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("path", BOOK, ids=NAMES)
def test_notebook_is_valid(path: Path) -> None:
    nbformat.validate(nbformat.read(path, as_version=4))


# --- each check speaks up about a notebook that is bad in just that way ---------------

ERROR = new_output("error", ename="ValueError", evalue="x", traceback=[])
PNG = new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})
WIDGET = new_output("display_data", data={f"{checks.WIDGETS}-view+json": {}})
STDERR = new_output("stream", name="stderr", text="Warning: old\n")
OUT = new_output("stream", name="stdout", text="4\n")
TAGGED = {"tags": ["raises-exception"]}

EXERCISE = ":::{exercise}\n:label: ex-a\n:::\n\n:::{solution-start} ex-a\n:::"

FAULTS: dict[str, tuple[Callable[[Any], list[str]], Any]] = {
    "a cell that was not run": (
        checks.out_of_order,
        good(execution_count=None, outputs=[]),
    ),
    "a cell run out of order": (checks.out_of_order, good(execution_count=7)),
    "a cell without source": (checks.empty_cells, good(source=" \n")),
    "an error without tag": (checks.unexpected_errors, good(outputs=[ERROR])),
    "a tag without error": (checks.errors_that_did_not_come, good(metadata=TAGGED)),
    "a warning": (checks.stderr_noise, good(outputs=[STDERR])),
    "a widget": (checks.widgets, good(outputs=[WIDGET])),
    "widget state": (
        checks.widgets,
        bad(lambda n: n.metadata.update(widgets={"state": {}})),
    ),
    "a cell of 31 lines": (checks.long_cells, good(source="1\n" * 31)),
    "a line of 89 columns": (checks.wide_lines, good(source="#" * 89)),
    "a solution that is not closed": (
        checks.unpaired_solutions,
        bad(lambda n: n.cells.append(new_markdown_cell(EXERCISE))),
    ),
    "a solution without an exercise": (
        checks.unpaired_solutions,
        bad(lambda n: n.cells.append(new_markdown_cell(":::{solution-end}\n:::"))),
    ),
    "data and nothing in their place": (
        checks.data_without_stand_in,
        good(metadata={"tags": ["data:log"]}),
    ),
    "no limits": (
        checks.unstated_limits,
        bad(lambda n: n.cells[0].update(source="# Title")),
    ),
    "limits in a code cell": (
        checks.unstated_limits,
        bad(lambda n: n.cells.insert(0, new_code_cell("# ≤ 5 s, ≤ 1 GiB"))),
    ),
    "too much time": (
        checks.unstated_limits,
        bad(lambda n: n.cells[0].update(source=TOP.replace("30 s", "91 s"))),
    ),
    "too much memory": (
        checks.unstated_limits,
        bad(lambda n: n.cells[0].update(source=TOP.replace("1 GiB", "4.5 GiB"))),
    ),
    "a figure without words": (checks.figures_without_alt, good(outputs=[PNG])),
    "a kernel of one's own": (
        checks.foreign_metadata,
        bad(lambda n: n.metadata.kernelspec.update(name="my-env")),
    ),
    "execution times": (
        checks.foreign_metadata,
        good(metadata={"execution": {"iopub.status.busy": "2026-01-01"}}),
    ),
    "another Colab line": (
        setup_cell,
        bad(lambda n: n.cells[1].update(source="%pip install urlm-helpers")),
    ),
    "a Colab line for another repository": (
        setup_cell,
        bad(
            lambda n: n.cells[1].update(source=checks.SETUP_CELL.format(url=URL + "x"))
        ),
    ),
    "a set-up that is not first": (
        setup_cell,
        bad(lambda n: n.cells.insert(1, new_code_cell("1"))),
    ),
    "a title without its tags": (
        checks.wrong_folds,
        bad(lambda n: n.cells[1].metadata.clear()),
    ),
    "tags without a title": (
        checks.wrong_folds,
        bad(lambda n: n.cells[2].metadata.update(tags=["hide-input"])),
    ),
    "a set-up that printed": (
        checks.wrong_folds,
        bad(lambda n: n.cells[1].update(outputs=[OUT])),
    ),
    "a second set-up": (checks.wrong_folds, good("# @title Set-up\n1")),
    "a figure in the open": (checks.wrong_folds, good("plt.show()", outputs=[PNG])),
    "a figure's fold without figure": (
        checks.wrong_folds,
        good(f"# @title {folds.FIGURE}\nplt.show()", outputs=[OUT]),
    ),
    "a check in a figure's fold": (
        checks.wrong_folds,
        good(f"# @title {folds.FIGURE}\nassert True", outputs=[PNG]),
    ),
    "a table's fold without table": (
        checks.wrong_folds,
        good(f"# @title {folds.TABLE}\n1", outputs=[]),
    ),
    "a table's fold with a figure": (
        checks.wrong_folds,
        good(f"# @title {folds.TABLE}\n1", outputs=[PNG]),
    ),
    "a helper that prints": (
        checks.wrong_folds,
        good("# @title Helper: add\nadd = sum", outputs=[OUT]),
    ),
    "a check that checks nothing": (
        checks.wrong_folds,
        good("# @title ✓ Checked: all is well\nprint('well')"),
    ),
    "a check in the open": (checks.wrong_folds, good("assert 1 + 1 == 2", outputs=[])),
    "a bare assert in an open cell": (
        checks.wrong_folds,
        good("x = 1\nassert x == 1", outputs=[]),
    ),
    "no such fold": (checks.wrong_folds, good("# @title Odds and ends\n1")),
}


@pytest.mark.parametrize(
    ("title", "tag"),
    [
        (folds.FIGURE, "hide-input"),  # what it draws stays in sight
        (folds.TABLE, "hide-input"),
        (folds.SETUP, "hide-cell"),
        (f"{folds.HELPER}add", "hide-cell"),
        (f"{folds.CHECKED}it adds up", "hide-cell"),
        (None, None),
    ],
)
def test_a_fold_hides_what_its_kind_hides(title: str | None, tag: str | None) -> None:
    source = "1 + 1" if title is None else f"{folds.TITLE}{title}\n1 + 1"
    for stale in folds.HIDE:
        found = folds.metadata({"tags": ["raises-exception", stale]}, source)
        assert found["tags"] == ["raises-exception", *([tag] if tag else [])]
        assert ("jupyter" in found) == ("mystnb" in found) == (tag is not None)


def test_no_check_speaks_up_about_a_good_notebook() -> None:
    error = good(outputs=[ERROR], metadata=TAGGED)
    figure = good(
        f"# @title {folds.FIGURE}\nplt.show()",
        outputs=[PNG],
        metadata={"mystnb": {"image": {"alt": "A line going up."}}},
    )
    check = good(f"# @title {folds.CHECKED}it adds up\nassert 1 + 1 == 2", outputs=[])
    table = good(f"# @title {folds.TABLE}\nprint(2 + 2)")
    helper = good("# @title Helper: add\ndef add(a, b):\n    return a + b", outputs=[])
    twin = "try:\n    read()\nexcept DownloadError:\n    print(4)"
    data = good(twin, metadata={"tags": ["data:log"]})
    for notebook in (good(), error, figure, check, table, helper, data):
        assert [fault for check in CHECKS for fault in check(notebook)] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_check_sees(fault: str) -> None:
    check, notebook = FAULTS[fault]
    assert check(notebook)


def test_every_check_was_seen_to_speak_up() -> None:
    assert {check for check, _ in FAULTS.values()} == set(CHECKS)
