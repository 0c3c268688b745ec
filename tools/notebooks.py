"""Run the book's notebooks: each alone, in its own empty folder, on two cores.

``python tools/notebooks.py execute``
    runs every notebook from top to bottom and writes its outputs back.
``python tools/notebooks.py test``
    runs every notebook through nbval, which compares each output with the committed
    one, and holds its time and its memory against the limits that it states.

Both take the paths of notebooks; without any they take every notebook of the book.

About the time limit: two notebooks run side by side (``--jobs 2``), and then each takes
longer than alone. Since the same run was seen to vary by a factor of two between
machines of one kind, a notebook fails beyond ``ALLOWANCE`` times its stated time. One
that stays within that in company does so alone too; one that does not is timed again
alone, and only that second time counts. ``--jobs 1`` times every notebook alone and
reports those beyond their stated time as slow.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folds
import nbformat

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = ROOT / "tests" / "book" / "nbval_sanitize.cfg"
CELL_SECONDS = 600
MAX_SECONDS = 90
MAX_GIB = 4.0
ALLOWANCE = 2.0

# Quiet and repeatable: no progress bars, no banner of TensorFlow, one summation order.
# Threads that wait must not spin: beside a second notebook they made LightGBM four
# times as slow.
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "PYTHONHASHSEED": "0",
    "OMP_WAIT_POLICY": "passive",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}

# Linux counts what a process was forked from to its peak, so a small one does the fork.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-m", *sys.argv[2:]])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""

METADATA: dict[str, Any] = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


@dataclass(frozen=True)
class Limits:
    """What a notebook says at its top that it needs.

    Attributes
    ----------
    seconds : float
        Wall time on two cores.
    gib : float
        Peak memory of the kernel, in GiB (2**30 bytes).
    """

    seconds: float
    gib: float


@dataclass(frozen=True)
class Run:
    """One run of one notebook: how it ended and what it used."""

    path: Path
    code: int
    output: str
    seconds: float
    gib: float


def all_notebooks() -> list[Path]:
    """Return every notebook of the book, in the order of the pages."""
    found = (ROOT / "book").rglob("*.ipynb")
    return sorted(p for p in found if ".ipynb_checkpoints" not in p.parts)


def stated_limits(notebook: Any) -> Limits:
    """Read ``≤ 60 s`` and ``≤ 2 GiB`` from the first cell of a notebook.

    Raises
    ------
    ValueError
        If the first cell is not text, or does not state both.
    """
    top = notebook.cells[0] if notebook.cells else None
    text = top.source if top is not None and top.cell_type == "markdown" else ""
    seconds = re.search(r"≤ (\d+) s\b", text)
    gib = re.search(r"≤ (\d+(?:\.\d+)?) GiB\b", text)
    if seconds is None or gib is None:
        raise ValueError("the first cell does not state '≤ N s' and '≤ N GiB'")
    return Limits(float(seconds[1]), float(gib[1]))


def clean(notebook: Any) -> None:
    """Remove from a notebook what differs between two machines, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for name in ("collapsed", "scrolled", "jupyter", "pycharm", "vscode"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.metadata = nbformat.from_dict(
                folds.metadata(cell.metadata, cell.source)
            )
            cell.outputs = merged_streams(cell.outputs)
            for output in cell.outputs:
                output.pop("transient", None)


def merged_streams(outputs: list[Any]) -> list[Any]:
    """Join neighboring pieces of one stream: where they break is chance."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and output.output_type == last.output_type == "stream"
            and output.name == last.name
        ):
            last.text += output.text
        else:
            joined.append(output)
    return joined


def run_alone(path: Path, command: list[str], folder: Path) -> Run:
    """Run a command on a copy of one notebook in an empty folder, and measure it.

    The memory is the largest resident size of any process of the run, as the operating
    system counts it, which is the kernel's.
    """
    shutil.copy(path, folder / path.name)
    log = folder.with_suffix(".log")
    start = time.perf_counter()
    peak = folder.with_suffix(".peak")
    with log.open("wb") as out:
        code = subprocess.call(
            [sys.executable, "-c", MEASURE, str(peak), *command, path.name],
            cwd=folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return Run(
        path,
        code,
        log.read_text(errors="replace"),
        time.perf_counter() - start,
        int(peak.read_text()) * unit / 2**30,
    )


def execute(path: Path) -> Run:
    """Execute one notebook and write its outputs back, cleaned."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "notebook")
        folder.mkdir()
        command = ["jupyter", "execute", "--inplace", f"--timeout={CELL_SECONDS}"]
        run = run_alone(path, command, folder)
        if run.code == 0:
            notebook = nbformat.read(folder / path.name, as_version=4)
            clean(notebook)
            nbformat.write(notebook, path)
    return run


def test(path: Path) -> Run:
    """Run one notebook through nbval."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "notebook")
        folder.mkdir()
        command = ["pytest", "-q", "-p", "no:cacheprovider", "--rootdir=."]
        command += ["--nbval", "--nbval-current-env"]
        command += [f"--nbval-cell-timeout={CELL_SECONDS}"]
        command += [f"--nbval-sanitize-with={SANITIZE}"]
        return run_alone(path, command, folder)


def complaints(run: Run, limits: Limits, alone: bool) -> list[str]:
    """Say what is wrong with a run: how it ended, its memory and, alone, its time.

    Parameters
    ----------
    run : Run
        What happened.
    limits : Limits
        What the notebook states.
    alone : bool
        Whether it had the machine for itself, so that its time counts.

    Examples
    --------
    >>> slow = Run(Path("a.ipynb"), 0, "", seconds=100.0, gib=1.0)
    >>> complaints(slow, Limits(seconds=40, gib=2), alone=True)
    ['took 100 s alone, stated 40 s']
    >>> complaints(slow, Limits(seconds=40, gib=2), alone=False)
    []
    """
    found = []
    if run.code != 0:
        found.append(f"nbval ended with code {run.code}")
    if run.gib > min(limits.gib, MAX_GIB):
        found.append(f"peaked at {run.gib:.2f} GiB, stated {limits.gib:g} GiB")
    if alone and run.seconds > ALLOWANCE * min(limits.seconds, MAX_SECONDS):
        found.append(f"took {run.seconds:.0f} s alone, stated {limits.seconds:.0f} s")
    return found


def shown(path: Path) -> str:
    """Return a path as a person would type it."""
    return os.path.relpath(path)


def execute_all(paths: list[Path]) -> int:
    """Execute notebooks one after another; return 0 if all ran."""
    for path in paths:
        run = execute(path)
        print(f"{shown(path)}: {run.seconds:.0f} s, {run.gib:.2f} GiB", flush=True)
        if run.code != 0:
            print(run.output)
            return 1
    return 0


def test_all(paths: list[Path], jobs: int) -> int:
    """Test notebooks, ``jobs`` at a time; return 0 if all pass within their limits."""
    failed: dict[Path, list[str]] = {}
    limits = {p: stated_limits(nbformat.read(p, as_version=4)) for p in paths}
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(test, paths))
    for run in runs:
        alone = jobs == 1
        too_long = ALLOWANCE * min(limits[run.path].seconds, MAX_SECONDS)
        if not alone and run.code == 0 and run.seconds > too_long:
            print(f"{shown(run.path)}: {run.seconds:.0f} s in company, again alone:")
            run, alone = test(run.path), True
        stated = limits[run.path]
        print(
            f"{shown(run.path)}: {run.seconds:.0f} s{'' if alone else ' in company'} "
            f"(≤ {stated.seconds:.0f} s), {run.gib:.2f} GiB (≤ {stated.gib:g} GiB)",
            flush=True,
        )
        if run.code != 0:
            print(run.output)
        found = complaints(run, stated, alone)
        if found:
            failed[run.path] = [f"{shown(run.path)}: {each}" for each in found]
        if alone and not found and run.seconds > stated.seconds:
            print(f"  slow: beyond its stated time, within {ALLOWANCE:g} times of it")
    print("\n".join(complaint for each in failed.values() for complaint in each))
    print(f"notebooks: {len(paths) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["execute", "test"])
    parser.add_argument("paths", nargs="*", type=Path, help="default: every notebook")
    parser.add_argument("--jobs", type=int, default=2, help="tests side by side")
    options = parser.parse_args()
    paths = [path.resolve() for path in options.paths] or all_notebooks()
    if options.what == "execute":
        return execute_all(paths)
    return test_all(paths, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
