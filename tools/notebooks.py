"""Run the book's notebooks: each alone, in its own empty folder, on two cores.

``python tools/notebooks.py execute``
    runs every notebook from top to bottom and writes its outputs back.
``python tools/notebooks.py test``
    runs every notebook through nbval, which compares each output with the committed
    one, and holds its time and its memory against its limits. With ``--record FILE`` a
    notebook is left out that passed on the same inputs (see `inputs`).

``python tools/notebooks.py data``
    says which real data are there, and which cells are left out for want of them.

All take the paths of notebooks; without any they take every notebook of the book.

About time. What counts is processor time, of all processes of a notebook: two run side
by side (``--jobs 2``), and each then takes longer by the clock, up to twice as long,
while its processor time stays within a tenth or two. It is divided by the speed of the
machine in the same minutes, as `reference` measures it: before a notebook, and after it
when it was a long one, so that a processor that slows down as it gets hot is seen; the
slower of the two counts. The result, in seconds of the reference machine, fails

- beyond ``GROWTH`` times what ``tests/book/times.csv`` says the notebook takes: one
  that got twice as slow, on every machine;
- beyond what two cores can do in the time that it states at its top, and ``NOISE``
  times of that beside another page, which takes caches and bandwidth.

``--jobs 1`` times every notebook alone and holds the clock, scaled the same way,
against the stated time; beyond ``NOISE`` times of it the notebook fails.
``--write-times`` enters what was measured into the table.

About real data. A cell that needs a data set which no package brings has the tag
``data:FOLDER``, the folder's name in the cache, and so have the cells that print what
came of it. Where the folder is missing their outputs are not compared, the last lines
say so, and ``execute`` does not write the notebook back.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# What nbformat validates with builds grammars for addresses on import, if it finds this
# module: 1.5 processor seconds, here and in each page's process, and no notebook has a
# field that they check.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

import folds  # noqa: E402
import nbformat  # noqa: E402
import reference  # noqa: E402
from inputs import Record, Repository, data_folders  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = "tests/book/nbval_sanitize.cfg"
TIMES = ROOT / "tests" / "book" / "times.csv"
RUNNER = (SANITIZE, "tools/notebooks.py", "tools/inputs.py", "tools/reference.py")
CELL_SECONDS = 600
MAX_SECONDS = 90
MAX_GIB = 4.0
CORES = 2
GROWTH = 1.6
NOISE = 1.25
FRESH = 60.0  # seconds for which a reading of the machine's speed holds

# Libraries choose their instructions when they start, and wider ones sum in another
# order: outputs of a machine with AVX-512 failed on one without, a last digit apart.
# So all use what every x86-64 of the last ten years has; elsewhere this says nothing.
SAME_DIGITS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_CLX "
    "AVX512_CNL AVX512_ICL AVX512_SPR",
}

# Quiet and repeatable: no progress bars, no banner of TensorFlow, one summation order.
# Threads that wait must not spin: beside a second notebook they made LightGBM four
# times as slow. So do those of NumPy's linear algebra, whatever that setting says: a
# regression took 22 processor seconds instead of 2.
ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "PYTHONHASHSEED": "0",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    **SAME_DIGITS,
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "URLM_CHECK_FIGURES": "1",
}

START = """
import runpy, sys
sys.modules["rfc3987_syntax"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""

# Linux counts what a process was forked from to its peak, so a small one does the fork.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, "-c", *sys.argv[2:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=file)
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
    """One run of one notebook: how it ended and what it used.

    Attributes
    ----------
    path : Path
        The notebook.
    code : int
        0 if all went well.
    output : str
        What was printed.
    seconds, processor : float
        By the clock, and of all processors together.
    gib : float
        Peak memory.
    slowness : float
        Of the machine meanwhile: 2.0 is half as fast as the reference machine.
    """

    path: Path
    code: int
    output: str
    seconds: float
    processor: float
    gib: float
    slowness: float = 1.0

    @property
    def work(self) -> float:
        """Processor seconds that the reference machine would have taken."""
        return self.processor / self.slowness


class Speed:
    """Read the machine's slowness, anew when the last reading is old.

    Parameters
    ----------
    read : callable
        Returns the processor seconds of the reference program.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        read: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._when = -FRESH
        self._last = 1.0
        self.readings: list[float] = []

    def slowness(self) -> float:
        """Return the processor seconds of the program over those of the reference."""
        with self._lock:
            if not self.readings or self._clock() - self._when >= FRESH:
                self._last = self._read() / reference.SECONDS
                self._when = self._clock()
                self.readings.append(self._last)
            return self._last

    def beside(self, run: Callable[[], Run]) -> Run:
        """Run a notebook between two readings; the slower one counts."""
        before = self.slowness()
        done = run()
        return replace(done, slowness=max(before, self.slowness()))


def read_speed() -> float:
    """Run the reference program in a process of its own."""
    command = [sys.executable, str(Path(reference.__file__))]
    said = subprocess.check_output(
        command, env={**os.environ, **ENVIRONMENT}, text=True
    )
    return float(said)


def all_notebooks(book: Path) -> list[Path]:
    """Return every notebook in the folder of the book, in the order of the pages."""
    found = book.rglob("*.ipynb")
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


def wanted_data(cell: Any) -> set[str]:
    """Return the folders of real data that a cell is tagged with."""
    tags = cell.metadata.get("tags", [])
    return {tag.removeprefix("data:") for tag in tags if tag.startswith("data:")}


def missing_data(notebook: Any, data: Sequence[Path]) -> set[str]:
    """Return the folders of real data that a notebook wants and the cache lacks."""
    wanted = set().union(*map(wanted_data, notebook.cells))
    return {n for n in wanted if not any((folder / n).is_dir() for folder in data)}


def without_data(notebook: Any, missing: set[str]) -> int:
    """Tag the cells whose data are missing, so that nbval runs and does not compare.

    Returns
    -------
    int
        How many cells are left out.
    """
    left_out = [cell for cell in notebook.cells if wanted_data(cell) & missing]
    for cell in left_out:
        cell.metadata.tags.append("nbval-ignore-output")
    return len(left_out)


def run_alone(notebook: Any, path: Path, command: list[str], folder: Path) -> Run:
    """Run a command on a copy of one notebook in an empty folder, and measure it.

    The memory is the largest resident size of any process of the run, as the operating
    system counts it, which is the kernel's.
    """
    nbformat.write(notebook, folder / path.name)
    log = folder.with_suffix(".log")
    used = folder.with_suffix(".used")
    start = time.perf_counter()
    with log.open("wb") as out:
        code = subprocess.call(
            [sys.executable, "-c", MEASURE, str(used), START, *command, path.name],
            cwd=folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    seconds = time.perf_counter() - start
    peak, processor = map(float, used.read_text().split())
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    said = log.read_text(errors="replace")
    return Run(path, code, said, seconds, processor, peak * unit / 2**30)


def execute(path: Path) -> Run:
    """Execute one notebook and write its outputs back, cleaned.

    It stays as it was when it fails, and when real data that it wants are not in the
    cache afterwards: outputs made with data are not replaced by some made without.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "notebook")
        folder.mkdir()
        command = ["jupyter", "execute", "--inplace", f"--timeout={CELL_SECONDS}"]
        notebook = nbformat.read(path, as_version=4)
        run = run_alone(notebook, path, command, folder)
        missing = missing_data(notebook, data_folders())
        if run.code == 0 and missing:
            lacking = f"not written back: no real data {', '.join(sorted(missing))}"
            return replace(run, code=1, output=lacking)
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
        command += [f"--nbval-sanitize-with={ROOT / SANITIZE}"]
        notebook = nbformat.read(path, as_version=4)
        without_data(notebook, missing_data(notebook, data_folders()))
        return run_alone(notebook, path, command, folder)


def complaints(run: Run, limits: Limits, known: float | None, alone: bool) -> list[str]:
    """Say what is wrong with a run: how it ended, its memory and its time.

    Parameters
    ----------
    run : Run
        What happened.
    limits : Limits
        What the notebook states.
    known : float or None
        The processor seconds that it takes on the reference machine.
    alone : bool
        Whether it had the machine for itself, so that the clock counts.

    Examples
    --------
    >>> run = Run(Path("a.ipynb"), 0, "", seconds=100.0, processor=60.0, gib=1.0)
    >>> complaints(run, Limits(seconds=40, gib=2), known=30, alone=False)
    ['took 60 processor seconds as on the reference machine, known are 30']
    >>> slow_machine = replace(run, slowness=2.0)
    >>> complaints(slow_machine, Limits(seconds=40, gib=2), known=30, alone=False)
    []
    """
    found = []
    if run.code != 0:
        found.append(f"nbval ended with code {run.code}")
    if run.gib > min(limits.gib, MAX_GIB):
        found.append(f"peaked at {run.gib:.2f} GiB, stated {limits.gib:g} GiB")
    stated = min(limits.seconds, MAX_SECONDS)
    took = f"took {run.work:.0f} processor seconds as on the reference machine"
    if known is not None and run.work > GROWTH * known:
        found.append(f"{took}, known are {known:.0f}")
    if run.work > CORES * stated * (1 if alone else NOISE):
        found.append(f"{took}, more than {CORES} cores have in {stated:.0f} s")
    clock = run.seconds / run.slowness
    if alone and clock > NOISE * stated:
        found.append(f"took {clock:.0f} s alone, stated {stated:.0f} s")
    return found


def read_times(file: Path = TIMES) -> dict[str, float]:
    """Read each notebook's processor seconds on the reference machine."""
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as rows:
        return {row["page"]: float(row["seconds"]) for row in csv.DictReader(rows)}


def write_times(times: dict[str, float], file: Path = TIMES) -> None:
    """Write the table of processor seconds, in the order of the pages."""
    with file.open("w", encoding="utf-8", newline="") as rows:
        table = csv.writer(rows, lineterminator="\n")
        table.writerow(["page", "seconds"])
        table.writerows([page, f"{times[page]:.0f}"] for page in sorted(times))


def in_repository(path: Path) -> str:
    """Return a notebook's path from the top of the repository."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


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


def real_data(paths: list[Path], data: Sequence[Path]) -> str:
    """Say which real data were there, and which cells were left out without them."""
    there: set[str] = set()
    left_out = []
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        missing = missing_data(notebook, data)
        there |= set().union(*map(wanted_data, notebook.cells)) - missing
        if count := without_data(notebook, missing):
            names = ", ".join(sorted(missing))
            left_out.append(f"{count} of {shown(path)} ({names})")
    used = ", ".join(sorted(there)) or "none"
    return f"real data: {used}; cells left out for want of data: " + (
        "; ".join(left_out) or "none"
    )


def test_all(
    paths: list[Path],
    jobs: int,
    record: Record | None = None,
    speed: Speed | None = None,
    enter_times: bool = False,
) -> int:
    """Test notebooks, ``jobs`` at a time; return 0 if all pass within their limits.

    The longest come first, so that none runs on by itself at the end. Each is told as
    it finishes, with how many are left and for about how long.
    """
    speed = speed or Speed(read_speed)
    repository = Repository(ROOT, data_folders())
    keys: dict[Path, str] = {}
    if record is not None:
        keys = {p: repository.key(in_repository(p), *RUNNER) for p in paths}
        known_good = {p for p in paths if record.has(in_repository(p), keys[p])}
    else:
        known_good = set()
    todo = [path for path in paths if path not in known_good]
    if known_good:
        print(f"notebooks: {len(known_good)} passed before on the same inputs")
    times = read_times()
    limits = {p: stated_limits(nbformat.read(p, as_version=4)) for p in todo}
    weights = {p: times.get(in_repository(p), limits[p].seconds) for p in todo}
    todo.sort(key=weights.__getitem__, reverse=True)
    failed: dict[Path, list[str]] = {}
    ready = 0.0
    start = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(speed.beside, partial(test, p)) for p in todo}
        for done, future in enumerate(as_completed(futures), start=1):
            run = future.result()
            name = in_repository(run.path)
            found = complaints(run, limits[run.path], times.get(name), jobs == 1)
            if found:
                failed[run.path] = [f"{shown(run.path)}: {each}" for each in found]
            if record is not None and not found:
                record.add([(name, keys[run.path])])
            if enter_times and run.code == 0:
                write_times(read_times() | {name: run.work})
            ready += weights[run.path]
            pace = (time.monotonic() - start) / ready
            left = pace * (sum(weights.values()) - ready)
            print(
                f"[{done}/{len(todo)}] {shown(run.path)}: "
                f"{'FAILED, ' if found else ''}{used(run, limits[run.path])}"
                f"{time_left(len(todo) - done, left)}",
                flush=True,
            )
            if run.code != 0:
                print(run.output, flush=True)
    for line in (each for lines in failed.values() for each in lines):
        print(line)
    if speed.readings:
        low, high = min(speed.readings), max(speed.readings)
        print(f"this machine: {low:.2f} to {high:.2f} times the reference's seconds")
    print(real_data(paths, repository.data))
    print(f"notebooks: {len(paths) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def used(run: Run, limits: Limits) -> str:
    """Return a run's time and memory for the reader of the log."""
    return (
        f"{run.seconds:.0f} s (≤ {limits.seconds:.0f} s), {run.processor:.0f} s of "
        f"processors, {run.gib:.2f} GiB (≤ {limits.gib:g} GiB)"
    )


def time_left(pages: int, seconds: float) -> str:
    """Return how much is left.

    Examples
    --------
    >>> time_left(3, 130.0)
    '; 3 left, about 2 min'
    >>> time_left(0, 0.0)
    ''
    """
    if pages == 0:
        return ""
    about = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"; {pages} left, about {about}"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["execute", "test", "data"])
    parser.add_argument("paths", nargs="*", type=Path, help="default: every notebook")
    parser.add_argument("--jobs", type=int, default=2, help="tests side by side")
    parser.add_argument("--record", type=Path, help="what passed before, on what")
    parser.add_argument(
        "--write-times", action="store_true", help="enter the times into the table"
    )
    options = parser.parse_intermixed_args()
    paths = [p.resolve() for p in options.paths] or all_notebooks(ROOT / "book")
    if options.what == "execute":
        return execute_all(paths)
    if options.what == "data":
        print(real_data(paths, data_folders()))
        return 0
    record = Record(options.record) if options.record else None
    return test_all(paths, options.jobs, record, enter_times=options.write_times)


if __name__ == "__main__":
    sys.exit(main())
