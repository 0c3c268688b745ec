"""What a committed notebook must be, as functions that list what is wrong.

Each takes a notebook and returns one line per fault. `test_notebooks.py` runs them over
all notebooks of the book, and each over a notebook that is bad in just that way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import folds
import notebooks

MAX_LINES = 30
MAX_COLUMNS = 88
WIDGETS = "application/vnd.jupyter.widget"

SETUP_CELL = """\
# @title Set-up
# On Colab this installs the book's helper package; where it is installed, nothing.
import importlib.util

if importlib.util.find_spec("urlm_helpers") is None:
    %pip install -q "urlm-helpers[book] @ git+{url}\"
"""


def code_cells(notebook: Any) -> list[tuple[int, Any]]:
    """Return the code cells and their places in the notebook."""
    return [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"]


def outputs(notebook: Any) -> list[tuple[int, Any, Any]]:
    """Return each output with its cell and the cell's place."""
    return [(i, c, o) for i, c in code_cells(notebook) for o in c.outputs]


def out_of_order(notebook: Any) -> list[str]:
    """List the code cells that were not run, or not as number 1, 2, 3, … from the top.

    nbval compares nothing in a cell that was never run, so a stripped notebook passes.
    """
    return [
        f"cell {i}: run as {cell.execution_count}, not as {number}"
        for number, (i, cell) in enumerate(code_cells(notebook), start=1)
        if cell.execution_count != number
    ]


def empty_cells(notebook: Any) -> list[str]:
    """List the cells with nothing in them."""
    return [
        f"cell {i}: empty" for i, c in enumerate(notebook.cells) if not c.source.strip()
    ]


def unexpected_errors(notebook: Any) -> list[str]:
    """List the errors in cells that do not say, by their tag, that they raise one."""
    return [
        f"cell {i}: {output.ename} without the tag raises-exception"
        for i, cell, output in outputs(notebook)
        if output.output_type == "error"
        and "raises-exception" not in cell.metadata.get("tags", [])
    ]


def errors_that_did_not_come(notebook: Any) -> list[str]:
    """List the cells that say that they raise an error, and did not."""
    return [
        f"cell {i}: tagged raises-exception, and raised none"
        for i, cell in code_cells(notebook)
        if "raises-exception" in cell.metadata.get("tags", [])
        and not any(output.output_type == "error" for output in cell.outputs)
    ]


def stderr_noise(notebook: Any) -> list[str]:
    """List the outputs on stderr: warnings, banners, progress bars."""
    return [
        f"cell {i}: stderr: {str(output.text)[:60]!r}"
        for i, _, output in outputs(notebook)
        if output.output_type == "stream" and output.name == "stderr"
    ]


def widgets(notebook: Any) -> list[str]:
    """List the ipywidgets outputs, whose scripts come from another host."""
    found = [
        f"cell {i}: ipywidgets output"
        for i, _, output in outputs(notebook)
        if any(kind.startswith(WIDGETS) for kind in output.get("data", {}))
    ]
    return found + (["widget state"] if "widgets" in notebook.metadata else [])


def long_cells(notebook: Any) -> list[str]:
    """List the code cells that are longer than a reader can hold in mind."""
    return [
        f"cell {i}: {len(cell.source.splitlines())} lines"
        for i, cell in code_cells(notebook)
        if len(cell.source.splitlines()) > MAX_LINES
    ]


def wide_lines(notebook: Any) -> list[str]:
    """List the lines of code that are cut on paper."""
    return [
        f"cell {i}: {len(line)} columns: {line[:40]}…"
        for i, cell in code_cells(notebook)
        for line in cell.source.splitlines()
        if len(line) > MAX_COLUMNS
    ]


def unpaired_solutions(notebook: Any) -> list[str]:
    """List the solutions that open or close without the other; an exercise for each."""
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    gates = re.findall(r"^:::\{(exercise|solution-start|solution-end)\}", text, re.M)
    wanted = ["exercise", "solution-start", "solution-end"]
    return [
        f"exercise {i // 3 + 1}: {gates[i : i + 3]}"
        for i in range(0, len(gates), 3)
        if gates[i : i + 3] != wanted
    ][:1]


def data_without_stand_in(notebook: Any) -> list[str]:
    """List the cells that need real data, if no cell goes on without them."""
    cells = code_cells(notebook)
    if any("except DownloadError" in cell.source for _, cell in cells):
        return []
    return [
        f"cell {i}: wants {sorted(wanted)}, and no cell catches DownloadError"
        for i, cell in cells
        if (wanted := notebooks.wanted_data(cell))
    ]


def unstated_limits(notebook: Any) -> list[str]:
    """Say so if the top does not state time and memory, or states too much."""
    try:
        stated = notebooks.stated_limits(notebook)
    except ValueError as error:
        return [str(error)]
    faults = []
    if stated.seconds > notebooks.MAX_SECONDS:
        faults.append(f"states {stated.seconds:g} s, above {notebooks.MAX_SECONDS} s")
    if stated.gib > notebooks.MAX_GIB:
        faults.append(f"states {stated.gib:g} GiB, above {notebooks.MAX_GIB:g} GiB")
    return faults


def figures_without_alt(notebook: Any) -> list[str]:
    """List the cells that draw a figure and do not say in words what it shows."""
    found = []
    for i, cell, output in outputs(notebook):
        drawn = any(kind.startswith("image/") for kind in output.get("data", {}))
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if drawn and not alt.strip():
            found.append(f"cell {i}: a figure without mystnb.image.alt in the metadata")
    return found


def foreign_metadata(notebook: Any) -> list[str]:
    """Say so if the metadata tell whose machine this ran on, or when."""
    faults = []
    if dict(notebook.metadata) != notebooks.METADATA:
        faults.append(
            "the notebook's metadata are not those that `make notebooks` writes"
        )
    return faults + [
        f"cell {i}: execution times in the metadata"
        for i, cell in code_cells(notebook)
        if "execution" in cell.metadata
    ]


def wrong_setup_cell(notebook: Any, url: str) -> list[str]:
    """Say so if the first code cell does not begin with Colab's line."""
    cells, wanted = code_cells(notebook), SETUP_CELL.format(url=url)
    if not cells or not f"{cells[0][1].source}\n".startswith(wanted):
        return [f"the first code cell does not begin with:\n{wanted}"]
    return []


def wrong_folds(notebook: Any) -> list[str]:
    """List the cells whose fold and what they do disagree."""
    found = []
    for number, (i, cell) in enumerate(code_cells(notebook)):
        if dict(cell.metadata) != folds.metadata(cell.metadata, cell.source):
            found.append(f"cell {i}: metadata are not those of its title (folds.py)")
        found += [f"cell {i}: {fault}" for fault in folds.faults(cell, number == 0)]
    return found


CHECKS: list[Callable[[Any], list[str]]] = [
    out_of_order,
    empty_cells,
    unexpected_errors,
    errors_that_did_not_come,
    stderr_noise,
    widgets,
    long_cells,
    wide_lines,
    unpaired_solutions,
    data_without_stand_in,
    unstated_limits,
    figures_without_alt,
    foreign_metadata,
    wrong_folds,
]
