"""Four tricks of a training loop: none, all, and all but one of them.

    python benchmarks/training_tricks.py

The network and the log are those of `benchmarks/training_speed.py`, 163,840 rows of
it. The program without tricks reads them by ``tf.data``, which shuffles row by row and
then batches, as many tutorials do. The tricks: one gather per batch, 20 steps a call,
XLA, and memory that is kept, which is tried alone too. All programs train by Keras's
``fit`` with its Adam, so that nothing else differs.

Time is the processor's, with one thread for arithmetic, so that other work on the
machine hardly counts: of each program the lesser of two passes, after one that
compiles. Programs that leave the C library in the same state share a process and take
turns there (what is kept can't be given back, and a generator of ``tf.data`` changes
the library's settings too). ``peak`` is the fastest product of 2,048 by 2,048 on the
same thread. The lines of a process are written as soon as it is done, and skipped when
the study is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from results import Result
from training_speed import (
    BATCH,
    DIM,
    ROOT,
    SIZES,
    book_model,
    flops,
    inputs,
    log,
)

TRICKS = ("gather", "20 steps", "XLA", "memory")
BUT_ONE = [tuple(u for u in TRICKS if u != t) for t in TRICKS]
GROUPS = ([("memory",), *BUT_ONE[:3], TRICKS], [()], BUT_ONE[3:])
"""Programs that share a process."""
ROWS, PASSES, ROUNDS, BUFFER = 40 * BATCH, 3, 1, 10_000
COLUMNS = ["round", "tricks", "cpu_us_per_row", "gflop_per_cpu_s"]
ONE_THREAD = {f"TF_NUM_INT{e}OP_THREADS": "1" for e in ("RA", "ER")}
ONE_THREAD |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def peak() -> float:
    """Return the most operations a second of processor's time of a large product."""
    import tensorflow as tf

    a = tf.random.normal((2048, 2048), seed=0)
    run = tf.function(lambda: tf.reduce_max(a @ a), jit_compile=True)
    best = 0.0
    for multiply, _ in product((lambda: a @ a, lambda: run().numpy()), range(3)):
        start = time.process_time()
        multiply()
        best = max(best, 2 * 2048**3 / (time.process_time() - start))
    return best


def program(tricks: tuple[str, ...], x: dict[str, Any], y: Any) -> Callable[[], float]:
    """Return what trains for a pass and says how long it took."""
    import keras
    import tensorflow as tf

    from urlm_helpers.model import FunnelLoss
    from urlm_helpers.training import Batches, feed, keep_freed_memory

    model = book_model(SIZES, DIM)
    model.compile(
        keras.optimizers.Adam(1e-3),
        FunnelLoss([-1, -1]),
        jit_compile="XLA" in tricks,
        steps_per_execution=20 if "20 steps" in tricks else 1,
    )
    model.optimizer.build(model.trainable_variables)
    data: Any
    if "gather" in tricks:
        data = feed(Batches(x, y, np.arange(ROWS), BATCH))
    else:
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(BUFFER, seed=0)
        data = data.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    keep = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: keep_freed_memory()
    )
    callbacks = [keep] if "memory" in tricks else []

    def a_pass() -> float:
        start = time.process_time()
        model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)
        return time.process_time() - start

    return a_pass


def measure(group: int) -> list[dict[str, Any]]:
    """Measure the programs of a group in this process."""
    fields, y = log(ROWS, seed=1)
    x = inputs(fields)
    programs = [program(tricks, x, y) for tricks in GROUPS[group]]
    times = [[a_pass() for a_pass in programs] for _ in range(PASSES)]
    lines = [{"tricks": "peak", "gflop_per_cpu_s": peak() / 1e9}]
    for tricks, seconds in zip(
        GROUPS[group], np.min(times[1:], axis=0).tolist(), strict=True
    ):
        rate = ROWS * flops(17 * DIM) / seconds / 1e9
        line = {"tricks": " + ".join(tricks), "cpu_us_per_row": 1e6 * seconds / ROWS}
        lines.append(line | {"gflop_per_cpu_s": rate})
    return lines


def main() -> None:
    """Run what is not in the result yet, or one group and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(measure(options.only)))
        return
    result = Result("training-tricks.csv", COLUMNS, digits=5)
    known = {(int(line["round"]), line["tricks"]) for line in result.lines()}
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    for turn, group in product(range(options.rounds), range(len(GROUPS))):
        if (turn, " + ".join(GROUPS[group][0])) in known:
            continue
        command = [sys.executable, __file__, "--only", str(group)]
        done = subprocess.run(
            command, env=environment, check=True, text=True, stdout=subprocess.PIPE
        )
        lines = json.loads(done.stdout.splitlines()[-1])
        result.keep(*({"round": turn} | line for line in lines))
        print(turn, *lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
