"""The tool that runs the notebooks: fresh folders, fair times, real data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import notebook_checks as checks
import notebooks
import pytest
from inputs import Record
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

TOP = "# Title\n\n*Needs: nothing · Time: ≤ 30 s · Memory: ≤ 1 GiB (two cores, no GPU)*"
STATED = notebooks.Limits(seconds=30, gib=1)
KERNELS = """
import numpy, scipy.linalg, threadpoolctl
print({each.get("architecture") for each in threadpoolctl.threadpool_info()})
"""
RUN = notebooks.Run(Path("a"), 0, "", seconds=20.0, processor=30.0, gib=0.9)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_notebook(source: str, name: str = "page", **cell: Any) -> Path:
        """A notebook of one cell that is committed as if it had printed 4."""
        cell = {"outputs": [new_output("stream", name="stdout", text="4\n")], **cell}
        path = tmp_path / f"{name}.ipynb"
        notebook = new_notebook(
            cells=[
                new_markdown_cell(TOP),
                new_code_cell(source, **{"execution_count": 1, **cell}),
            ],
            metadata=notebooks.METADATA,
        )
        nbformat.write(notebook, path)
        return path

    return write_notebook


def steady(*readings: float) -> notebooks.Speed:
    """A machine that is so slow, one reading a minute, the last for ever."""
    told = iter(notebooks.reference.SECONDS * each for each in readings)
    minutes = iter(range(0, 10_000, 60))
    last = notebooks.reference.SECONDS * readings[-1]
    return notebooks.Speed(lambda: next(told, last), lambda: next(minutes))


def test_execute_runs_in_an_empty_folder_and_writes_clean_outputs(
    write: Callable[..., Path],
) -> None:
    path = write("import os\n\nprint(os.listdir())\nprint(2 + 2)")
    assert notebooks.execute(path).code == 0
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[1].outputs[0].text == "['page.ipynb']\n4\n"
    assert notebook.cells[1].execution_count == 1
    assert checks.foreign_metadata(notebook) == []
    assert notebooks.test(path).code == 0


def test_execute_leaves_a_notebook_that_fails_as_it_was(
    write: Callable[..., Path],
) -> None:
    path = write("1 / 0")
    before = path.read_bytes()
    assert notebooks.execute_all([path]) == 1
    assert path.read_bytes() == before


def test_test_sees_an_output_that_is_no_longer_true(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = Record(tmp_path / "record.json")
    page = write("print(2 + 3)")
    assert notebooks.test_all([page], jobs=1, record=record, speed=steady(1)) == 1
    printed = capsys.readouterr().out
    assert "nbval ended with code 1" in printed
    assert "notebooks: 0 passed, 1 failed" in printed
    assert record.known == {}


def test_memory_and_processor_time_are_the_kernels(write: Callable[..., Path]) -> None:
    busy = "from time import process_time\nwhile process_time() < 6:\n    pass\n"
    run = notebooks.test(write(busy + "block = bytearray(700 * 2**20)\nprint(2 + 2)"))
    assert run.code == 0, run.output
    assert 0.7 < run.gib < 1.2
    assert 6 < run.processor < 14


def test_clean_joins_the_pieces_of_a_stream() -> None:
    pieces = [new_output("stream", name="stdout", text=text) for text in ("a\n", "b\n")]
    notebook = new_notebook(cells=[new_code_cell("1", outputs=pieces)])
    notebooks.clean(notebook)
    assert [output.text for output in notebook.cells[0].outputs] == ["a\nb\n"]


# --- time -----------------------------------------------------------------------------


@pytest.mark.parametrize("slowness", [0.5, 1.0, 3.0])
def test_a_slow_machine_fails_no_page_and_a_slow_page_fails_on_each(
    slowness: float,
) -> None:
    def said(times: float) -> list[str]:
        run = replace(
            RUN,
            seconds=20 * times * slowness,
            processor=30 * times * slowness,
            slowness=slowness,
        )
        return notebooks.complaints(run, STATED, known=30.0, alone=False)

    assert said(1.0) == said(1.4) == []
    assert len(said(2.0)) == 1


def test_a_page_is_held_to_what_it_states() -> None:
    def said(**used: float) -> int:
        run = replace(RUN, **used)  # type: ignore[arg-type]
        return len(notebooks.complaints(run, STATED, known=None, alone=True))

    assert said() == said(seconds=37.0) == said(processor=59.0) == 0
    assert said(seconds=38.0) == 1
    assert said(processor=61.0) == 1  # not to be done by two cores in 30 s
    beside = replace(RUN, processor=61.0), replace(RUN, processor=76.0)
    found = [notebooks.complaints(run, STATED, None, alone=False) for run in beside]
    assert [len(each) for each in found] == [0, 1]
    assert said(gib=1.1) == 1
    assert said(seconds=300.0, processor=300.0, slowness=10.0) == 0


def test_no_page_may_take_more_than_all_may() -> None:
    run = replace(RUN, gib=notebooks.MAX_GIB + 0.1, seconds=10.0, processor=10.0)
    lavish = notebooks.Limits(seconds=1e4, gib=99.0)
    for changed, wrong in (
        ({}, 1),
        ({"gib": notebooks.MAX_GIB}, 0),
        ({"gib": 1.0, "processor": notebooks.CORES * notebooks.MAX_SECONDS + 1}, 1),
        ({"gib": 1.0, "processor": notebooks.CORES * notebooks.MAX_SECONDS}, 0),
    ):
        one = replace(run, **changed)  # type: ignore[arg-type]
        assert len(notebooks.complaints(one, lavish, None, True)) == wrong, changed


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86-64")
def test_pages_use_no_wider_instructions_than_each_machine_has() -> None:
    said = subprocess.check_output(
        [sys.executable, "-c", KERNELS],
        env={**os.environ, "OPENBLAS_CORETYPE": "Nehalem", **notebooks.ENVIRONMENT},
        text=True,
    )
    assert said == "{'Haswell'}\n"


def test_the_clock_counts_only_alone() -> None:
    run = replace(RUN, seconds=59.0)
    assert notebooks.complaints(run, STATED, known=30.0, alone=False) == []


def test_a_machine_that_slows_down_meanwhile_is_seen() -> None:
    run = steady(1.0, 2.0).beside(lambda: RUN)
    assert run.slowness == 2.0
    assert run.work == 15.0


def test_a_reading_holds_for_a_while() -> None:
    told = iter(notebooks.reference.SECONDS * each for each in (1.0, 3.0))
    moments = iter([0.0, 1.0, notebooks.FRESH + 1, notebooks.FRESH + 1])
    speed = notebooks.Speed(lambda: next(told), lambda: next(moments))
    found = [speed.slowness() for _ in range(3)]
    assert found == pytest.approx([1.0, 1.0, 3.0])


def test_times_are_written_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    assert notebooks.read_times(file) == {}
    notebooks.write_times({"b": 2.4, "a": 10.0}, file)
    assert file.read_text() == "page,seconds\na,10\nb,2\n"
    assert notebooks.read_times(file) == {"a": 10.0, "b": 2.0}


# --- progress and the record ----------------------------------------------------------


def test_each_page_is_told_as_it_finishes_and_not_run_again(
    write: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pages = [write("print(2 + 2)", name) for name in ("long", "short")]
    ran = []

    def test(path: Path) -> notebooks.Run:
        ran.append(path)
        return replace(RUN, path=path)

    monkeypatch.setattr(notebooks, "test", test)
    record = Record(tmp_path / "record.json")
    assert notebooks.test_all(pages, 1, record, steady(1)) == 0
    printed = capsys.readouterr().out
    assert "[1/2]" in printed and "; 1 left, about" in printed
    assert "[2/2]" in printed and "notebooks: 2 passed, 0 failed" in printed

    prose = nbformat.read(pages[0], as_version=4)
    prose.cells[0].source += "\n\nOne more sentence."
    nbformat.write(prose, pages[0])
    code = nbformat.read(pages[1], as_version=4)
    code.cells[1].source += "  # four"
    nbformat.write(code, pages[1])
    ran.clear()
    again = Record(tmp_path / "record.json")
    assert notebooks.test_all(pages, 1, again, steady(1)) == 0
    assert ran == [pages[1]]
    assert "1 passed before on the same inputs" in capsys.readouterr().out


# --- real data ------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    (folder / "here").mkdir(parents=True)
    monkeypatch.setenv("URLM_DATA", str(folder))
    return folder


def tagged(name: str) -> dict[str, Any]:
    return {"metadata": {"tags": [f"data:{name}"]}}


def test_a_cell_is_compared_where_its_data_are(
    write: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out = write("print(5)", "left_out", **tagged("gone"))
    compared = write("print(5)", "compared", **tagged("here"))
    assert notebooks.test_all([left_out, compared], 2, speed=steady(1)) == 1
    printed = capsys.readouterr().out
    assert "notebooks: 1 passed, 1 failed" in printed
    last = printed.splitlines()[-2]
    assert last.startswith("real data: here; cells left out for want of data: 1 of ")
    assert last.endswith("left_out.ipynb (gone)")


def test_execute_replaces_no_output_that_was_made_with_data(
    write: Callable[..., Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("print(5)", **tagged("gone"))
    before = path.read_bytes()
    assert notebooks.execute_all([path]) == 1
    assert "no real data gone" in capsys.readouterr().out
    assert path.read_bytes() == before
    (data / "gone").mkdir()
    assert notebooks.execute_all([path]) == 0
    assert path.read_bytes() != before


def test_all_data_are_there() -> None:
    page = new_notebook(cells=[new_code_cell("1")])
    assert notebooks.missing_data(page, []) == set()


def test_options_may_stand_between_the_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def note(*given: Any, **named: Any) -> int:
        seen.append((given, named))
        return 0

    monkeypatch.setattr(notebooks, "test_all", note)
    page = str(tmp_path / "a.ipynb")
    command = ["notebooks.py", "test", "--jobs", "1", "--write-times", page]
    monkeypatch.setattr(sys, "argv", command)
    assert notebooks.main() == 0
    assert seen == [(([Path(page)], 1, None), {"enter_times": True})]
