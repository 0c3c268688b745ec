"""How fast is this machine, now? A short program, timed beside the pages.

A page's time says little by itself: the same page took 60 seconds on one machine, 120
on another and, beside a busy neighbor, 90 on the first. So the tool that runs the pages
runs this program too, in the same minutes, and divides by what it took. It does what
pages do: multiply matrices, loop in Python, group a table, and run through much code
that no cache holds, as an import or the tracing of a model does: compile modules of the
standard library. Without that part a machine with little cache, on which pages took 1.5
to 2 times as long, was read as 1.2. It needs no TensorFlow.

``python tools/reference.py`` prints its processor seconds, which
``tools/notebooks.py`` compares with ``SECONDS``, those of the machine on which the
times in ``tests/book/times.csv`` were measured.
"""

import os
import time
from pathlib import Path

SECONDS = 1.6
MODULES = ("argparse", "inspect", "typing", "tarfile", "_pydecimal", "doctest")


def work() -> None:
    """Do a bit of each thing that pages do, always the same."""
    import numpy as np
    import pandas as pd

    sources = [Path(os.__file__).with_name(f"{each}.py") for each in MODULES]
    rng = np.random.default_rng(0)
    left = rng.normal(size=(700, 700)).astype("float32")
    for _ in range(12):
        left = np.tanh(left @ left / 30)
    total = 0
    for number in range(2_500_000):
        total += number % 7
    frame = pd.DataFrame({"key": rng.integers(500, size=200_000)})
    frame["value"] = rng.normal(size=len(frame))
    for _ in range(12):
        frame.sort_values(["key", "value"]).groupby("key")["value"].agg(["mean", "std"])
    for source in sources * 3:
        compile(source.read_bytes(), source.name, "exec")


def main() -> None:
    """Print the processor seconds of the second time, when all is loaded."""
    work()
    start = time.process_time()
    work()
    print(time.process_time() - start)


if __name__ == "__main__":
    main()
