"""What a GPU makes of the training: one run of at most eight minutes.

    make gpu                        # or, where TensorFlow sees a GPU already:
    python benchmarks/gpu.py
    python benchmarks/gpu.py --dry  # on the CPU, with small sizes: does it run at all?

Measured are products and copies (the roofs), the reference job of
`benchmarks/training_speed.py` in batches of 4,096 to 65,536 rows in float32, TF32 and
half precision, Adam and its row-wise form on tables of several sizes, four ways to read
the batches, whether pages 5.5 and 5.6 run, and every way of sharing and every encoder
in the precision that `choose_devices` proposes.

The cases of one group share a process. Each is written to the result, with the card's
name, as soon as it is known, and is skipped when the program is started again on the
same card. Near the end of its time the program starts nothing more and says what it
left out. A dry run writes to a file that it removes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from results import RESULTS, Result

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("card", "case", "measure", "value")
SECONDS, DRY_SECONDS = 450.0, 210.0
EXPECTED = {"roofs": 10, "speed": 20, "tables": 15, "reading": 15}
EXPECTED |= {"layers": 15, "pages": 75}
"""Seconds that the first case of a group may take; the later ones as the longest."""

PRECISIONS = {"float32": "float32", "TF32": "float32", "mixed": "mixed_float16"}
READINGS = ("row by row", "Keras's fit", "feed", "one batch again")
SCHEMES = ("AITM", "CrossStitch", "FullyShared", "HMoE", "HiNet", "MMoE", "OMoE")
SCHEMES += ("PEPNet", "PLE", "STAR", "Separate", "SharedBottom", "TaskTowers", "URLM")
ENCODERS = ("ConvPool", "HSTU", "MeanPool", "SelfAttention", "TargetAttention")
PAGES = ("5-5-training", "5-5b-tables", "5-6-large")
PAGES += ("5-6b-generative", "5-6c-machines")


def plan(dry: bool) -> dict[str, list[str]]:
    """Return the cases of each group, in the order in which they are run."""
    batches = (512,) if dry else (4_096, 16_384, 65_536)
    rows = (10_000,) if dry else (10_000, 100_000, 1_000_000, 5_000_000)
    return {
        "roofs": [*(f"products in {p}" for p in PRECISIONS), "copies"],
        "speed": [f"{p}, batches of {b}" for p in PRECISIONS for b in batches],
        "tables": [f"{o}, {r} rows" for o in ("Adam", "row-wise") for r in rows],
        "reading": [f"read by {how}" for how in READINGS],
        "pages": [f"page {name}" for name in PAGES[-1 if dry else 0 :]],
        "layers": [*SCHEMES, *ENCODERS],
    }


# --- what is known, and the time --------------------------------------------------


def known(result: Result, card: str) -> set[str]:
    """Return the cases of the result that were measured on a card."""
    return {line["case"] for line in result.lines() if line["card"] == card}


def in_time(
    cases: Iterable[str],
    measure: Callable[[str], Mapping[str, float]],
    left: Callable[[], float],
    expected: float,
) -> Iterator[dict[str, Any]]:
    """Measure one case after the other while the next one fits into what is left.

    Parameters
    ----------
    cases : iterable of str
        What to measure.
    measure : callable
        Returns numbers by their names. An exception fails that case alone.
    left : callable
        Returns the seconds that are left.
    expected : float
        Seconds that the first case may take; a later one as long as the longest.
    """
    for case in cases:
        before = left()
        if before < expected:
            return
        try:
            yield {"case": case, "found": measure(case)}
        except Exception as error:  # report every case, not only the first
            yield {"case": case, "error": f"{type(error).__name__}: {error}"}
        expected = max(expected, before - left())


def run(
    result: Result,
    card: str,
    groups: Mapping[str, list[str]],
    start: Callable[[str, list[str]], Iterable[Mapping[str, Any]]],
) -> tuple[list[str], list[str]]:
    """Run what the result lacks; return the cases left out and those that failed.

    Parameters
    ----------
    result, card : Result and str
        Where to write, and whose lines of it count.
    groups : mapping of str to list of str
        Of :func:`plan`.
    start : callable
        Starts the cases of a group; yields lines with ``case`` and either ``found`` or
        ``error``, fewer than there are cases where the time does not suffice.
    """
    old = known(result, card)
    todo = {g: [c for c in cases if c not in old] for g, cases in groups.items()}
    missing = [case for cases in todo.values() for case in cases]
    print(f"{card}: {len(missing)} cases to go, {len(old)} known", flush=True)
    failed = []
    for group, cases in todo.items():
        for line in start(group, cases) if cases else ():
            case = line["case"]
            missing.remove(case)
            if "error" in line:
                failed.append(case)
                shown = f"FAILED, {line['error']}"
            else:
                found = line["found"].items()
                whose = {"card": card, "case": case}
                result.keep(*({**whose, "measure": m, "value": v} for m, v in found))
                shown = ", ".join(f"{m} {v:.4g}" for m, v in found)
            print(f"{case}: {shown} ({len(missing)} to go)", flush=True)
    return missing, failed


# --- the measurements, each in a process that has TensorFlow ------------------------


def fastest(do: Callable[[], Any], rounds: int = 3) -> float:
    """Return the shortest time in seconds, after a round that warms up."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        do()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def use(precision: str) -> None:
    """Set the precision of the models that are made from here on."""
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(PRECISIONS[precision])
    tf.config.experimental.enable_tensor_float_32_execution(precision == "TF32")


def roofs(case: str, dry: bool) -> dict[str, float]:
    """Measure the fastest product of a precision, or how fast memory is copied."""
    import tensorflow as tf

    if case == "copies":
        v = tf.ones((2**22 if dry else 2**28,))
        double = tf.function(lambda: v * 2.0)
        took = fastest(lambda: double()[0].numpy(), 8)
        return {"bytes_per_s": 2 * 4 * v.shape[0] / took}
    precision, n = case.split()[-1], 256 if dry else 8192
    use(precision)
    dtype = tf.float16 if precision == "mixed" else tf.float32
    a = tf.cast(tf.random.normal((n, n)), dtype)
    product = tf.function(lambda: a @ a)
    took = fastest(lambda: product()[0, 0].numpy(), 8)
    return {"flops_per_s": 2 * n**3 / took}


@cache
def job(precision: str, batch: int, steps: int) -> tuple[Any, Any]:
    """Return the reference job's model, compiled, and batches with coins as labels."""
    import numpy as np
    from training_speed import DIM, SIZES, book_model, compiled, inputs

    from urlm_helpers.training import Batches

    use(precision)
    rng, rows = np.random.default_rng(0), batch * steps
    fields = [(n * rng.random(rows) ** 2).astype("int32") for n in SIZES]
    y = rng.integers(0, 2, (rows, 2)).astype("int8")
    x = inputs(np.stack(fields, axis=1))
    model = compiled(book_model(SIZES, DIM))
    return model, Batches(x, y, np.arange(rows), batch)


def ms_per_step(model: Any, data: Any, steps: int) -> dict[str, float]:
    """Time passes of so many steps."""
    took = fastest(lambda: model.fit(data, verbose=0, shuffle=False))
    return {"ms_per_step": 1000 * took / steps}


def speed(case: str, dry: bool) -> dict[str, float]:
    """Train the reference job in one precision and size of a batch."""
    from training_speed import DIM, flops

    from urlm_helpers.training import feed

    precision, _, size = case.partition(", batches of ")
    batch, steps = int(size), 4 if dry else 40
    model, batches = job(precision, batch, steps)
    found = ms_per_step(model, feed(batches), steps)
    rate = 1000 * batch / found["ms_per_step"]
    return {**found, "rows_per_s": rate, "flops_per_s": rate * flops(17 * DIM)}


def tables(case: str, dry: bool) -> dict[str, float]:
    """Time a step with two tables of so many rows."""
    from training_speed import scale

    use("TF32")
    optimizer, _, rows = case.removesuffix(" rows").partition(", ")
    step = scale(optimizer, int(rows), 3 if dry else 40)
    return {"ms_per_step": 1000 * step["seconds_per_step"]}


def reading(case: str, dry: bool) -> dict[str, float]:
    """Train with the batches read in one of four ways."""
    import tensorflow as tf

    from urlm_helpers.training import feed

    batch, steps = (512, 4) if dry else (4096, 40)
    model, batches = job("TF32", batch, steps)
    how = case.removeprefix("read by ")
    if how == "row by row":
        rows = tf.data.Dataset.from_tensor_slices((batches.x, batches.y))
        data = rows.shuffle(50_000).batch(batch, drop_remainder=True).prefetch(1)
    elif how == "one batch again":  # nothing to gather, only to carry over
        data = tf.data.Dataset.from_tensors(batches[0]).repeat(steps)
    else:
        data = feed(batches) if how == "feed" else batches
    return ms_per_step(model, data, steps)


def layers(case: str, dry: bool) -> dict[str, float]:
    """Train one layer in the precision that is proposed for this machine.

    Its scores are held against those of the same weights in float32.
    """
    import keras
    import numpy as np

    from urlm_helpers import features, sharing
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.preprocessing import InputSpec
    from urlm_helpers.training import choose_devices, feed, fit

    batch, steps = (128, 2) if dry else (4096, 20)
    rng, n = np.random.default_rng(0), batch * steps
    sizes = {"user": 5_000, "item": 1_000, "kind": 30}
    tasks, past = {"click": None, "like": "click", "buy": "click"}, 20
    funnel = {task: parent for task, parent in tasks.items() if parent}
    where = ("shop", "feed", "search")
    spec = InputSpec(sizes, ("price",), ("item",), past, where, tuple(tasks), funnel)
    x = {
        "fields": np.stack([rng.integers(0, s, n) for s in sizes.values()], 1),
        "numeric": rng.normal(size=(n, 1)).astype("float32"),
        "history": rng.integers(0, sizes["item"], (n, past, 1)),
        "history_age": rng.uniform(0, 90, (n, past)).astype("float32"),
        "scenario": rng.integers(0, len(where), n).astype("int32"),
    }
    x |= {name: x[name].astype("int32") for name in ("fields", "history")}
    y = (rng.random((n, 3)) < 0.5).astype("int8")
    y[:, 1:] *= y[:, :1]

    def network(policy: str) -> Any:
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        encoder = getattr(features, case)() if case in ENCODERS else features.MeanPool()
        own = {"parents": spec.parents} if case == "AITM" else {}
        kind = getattr(sharing, case if case in SCHEMES else "MMoE")
        return UnifiedRecommender(spec, encoder, kind(3, 3, (64, 32), **own))

    model = network(choose_devices().precision)
    rows = {"train": np.arange(n), "valid": np.arange(batch)}
    begin = time.perf_counter()
    fit(model, x, y, rows, batch_size=batch)  # refuses a loss that is no number
    took = {"seconds_with_compiling": time.perf_counter() - begin}
    if not dry:
        from urlm_helpers.training import Batches

        took |= ms_per_step(model, feed(Batches(x, y, np.arange(n), batch)), steps)
    plain = network("float32")
    plain.set_weights(model.get_weights())
    some = {name: array[:batch] for name, array in x.items()}
    far = abs(model.probabilities(some) - plain.probabilities(some))
    return {**took, "largest_difference": float(far.max())}


def page(case: str, limit: float) -> dict[str, float]:
    """Run a page through nbval, which compares its outputs."""
    path = next((ROOT / "book").rglob(case.removeprefix("page ") + ".ipynb"))
    command = [sys.executable, "tools/notebooks.py", "test", str(path)]
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=limit
    )
    if done.returncode:
        raise RuntimeError(f"nbval says\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return {"seconds": time.perf_counter() - begin}


# --- the command --------------------------------------------------------------------


def card_here() -> str | None:
    """Return the name of the first NVIDIA GPU, None without one."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return (done.stdout.splitlines() or [None])[0]


def child(group: str, cases: list[str], seconds: float, dry: bool) -> None:
    """Measure the cases of a group in this process; print a line of JSON for each."""
    end = time.monotonic() + seconds
    import tensorflow as tf

    if not dry and not tf.config.list_physical_devices("GPU"):
        raise SystemExit("TensorFlow sees no GPU; `make gpu` installs one that does")
    do = {f.__name__: f for f in (roofs, speed, tables, reading, layers)}[group]
    wait: Callable[[], float] = lambda: end - time.monotonic()  # noqa: E731
    for line in in_time(cases, lambda case: do(case, dry), wait, EXPECTED[group]):
        print(json.dumps(line), flush=True)


def starter(
    left: Callable[[], float], dry: bool
) -> Callable[[str, list[str]], Iterator[Mapping[str, Any]]]:
    """Return what starts the cases of a group, in a process of their own."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    quiet |= {"PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": "0"}
    quiet |= {"CUDA_VISIBLE_DEVICES": "-1"} if dry else {}

    def start(group: str, cases: list[str]) -> Iterator[Mapping[str, Any]]:
        if group == "pages":
            expected = EXPECTED[group]
            yield from in_time(cases, lambda c: page(c, left()), left, expected)
            return
        todo = list(cases)
        while todo and left() >= EXPECTED[group]:
            command = [sys.executable, __file__, "--group", group, "--cases", *todo]
            command += ["--seconds", f"{left():.0f}", *(["--dry"] if dry else [])]
            with subprocess.Popen(
                command, env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                for text in process.stdout:
                    if text.startswith("{"):
                        yield (line := json.loads(text))
                        todo.remove(line["case"])
            if process.returncode > 0:
                raise SystemExit(f"the process of {group!r} failed, see above")
            if process.returncode == 0:
                return  # done, or out of time
            if todo:  # killed: by a crash below Python, or for want of memory
                yield {"case": todo.pop(0), "error": f"killed, {process.returncode}"}

    return start


def main() -> int:
    """Run what is missing, or the cases of one group in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry", action="store_true", help="small, on the CPU")
    parser.add_argument("--seconds", type=float, help="after which nothing starts")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    dry = options.dry
    seconds = options.seconds or (DRY_SECONDS if dry else SECONDS)
    if options.group:
        child(options.group, options.cases, seconds, dry)
        return 0
    card = "CPU, a dry run" if dry else card_here()
    if card is None:
        raise SystemExit("no NVIDIA GPU here (nvidia-smi); try a dry run: --dry")
    end = time.monotonic() + seconds
    start = starter(lambda: end - time.monotonic(), dry)
    with tempfile.TemporaryDirectory() as folder:
        if dry:
            print("A dry run: small sizes, on the CPU. Its numbers say nothing.")
        path = (Path(folder) if dry else RESULTS) / "gpu.csv"
        result = Result(path, COLUMNS, digits=6)
        missing, failed = run(result, card, plan(dry), start)
        there = "thrown away" if dry else f"in {path}"
        print(f"{len(known(result, card))} cases measured, {there}")
    if missing:
        print(f"left out for want of time, run again: {'; '.join(missing)}")
    if failed:
        print(f"failed: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
