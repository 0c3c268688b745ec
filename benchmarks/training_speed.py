"""How fast a training step is, against the machine's peak and against other programs.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --peers path/to/python

The reference job: one million rows, 16 categorical fields (vocabularies of 10,000,
5,000 and fourteen from 2 to 500), vectors of 16, an MMoE with four experts of 128 and
64, two towers of 32, batches of 4,096, Adam with a step size of 0.001, two passes, on
the CPU. Every measurement is a process of its own, and all of them take turns, round
after round: compare them within a round. ``--peers`` names a Python with torch-rechub
(``pip install torch-rechub==0.9.0`` in an environment of its own).

A line of the result is written as soon as it is known. An earlier result is replaced.
At the end the ratios within a round are printed and drawn; ``--report`` does just that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from results import RESULTS, Result

ROOT = Path(__file__).resolve().parent.parent
RESULT = RESULTS / "training-speed.csv"
PLOT = ROOT / "_build" / "training-speed.png"
SMALL = (2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 400, 500)
SIZES = (10_000, 5_000, *SMALL)
TEST_SEED, TURNS = 3, 9
ROWS, TEST, BATCH, DIM, PASSES, ROUNDS = 1_000_000, 200_000, 4_096, 16, 2, 3
SCALE = 20.0
"""Of the book's table: of 1, 4, 10 and 20 the best on rows of seed 2."""
SCALES = (10_000, 100_000, 1_000_000, 5_000_000)
SCALE_DIM, SCALE_STEPS = 32, 60
MEASUREMENTS = ("peak", "keras", "keras XLA", "no memory kept", "book", "shards")
MEASUREMENTS += ("scale 1", "reading")


def log(
    rows: int, seed: int, sizes: tuple[int, ...] = SIZES
) -> tuple[np.ndarray, np.ndarray]:
    """Draw fields ``(rows, 16)`` and labels ``(rows, 2)`` from a known truth."""
    x, p, draws = probabilities(rows, seed, sizes)
    return x, (draws.random(p.shape) < p).astype("int8")


def probabilities(
    rows: int, seed: int, sizes: tuple[int, ...] = SIZES
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Draw fields, the probability of each label, and who draws the labels."""
    truth = np.random.default_rng(7)
    latent = [truth.normal(size=(size, 8)) / np.sqrt(8) for size in sizes]
    own = [truth.normal(size=(size, 2)) for size in sizes]
    weight = [np.arange(1, size + 1) ** -0.6 for size in sizes]
    rng = np.random.default_rng(seed)
    x = np.stack(
        [rng.choice(len(w), rows, p=w / w.sum()) for w in weight], axis=1
    ).astype("int32")
    alone = sum(values[x[:, f]] for f, values in enumerate(own)) / 4
    user, item = latent[0][x[:, 0]], latent[1][x[:, 1]]
    context = sum(latent[f][x[:, f]] for f in range(2, 9))
    taste = np.sqrt(8) * (user * item).sum(1)
    click = -1.2 + 1.3 * alone[:, 0] + 1.3 * taste + 0.8 * (user * context).sum(1)
    buy = -1.5 + 0.45 * alone[:, 0] + 0.8 * alone[:, 1] + 0.7 * taste
    buy += 0.8 * (item * context).sum(1)
    return x, 1 / (1 + np.exp(-np.stack([click, buy], axis=1))), rng


def auc(p: np.ndarray) -> dict[str, float]:
    """Return the AUC of both tasks on the test rows."""
    from sklearn.metrics import roc_auc_score

    _, y = log(TEST, seed=TEST_SEED)
    return {
        f"auc_{task}": float(roc_auc_score(y[:, t], p[:, t]))
        for t, task in enumerate(("click", "buy"))
    }


def inputs(fields: np.ndarray) -> dict[str, np.ndarray]:
    """Put fields into the form that the book's model takes."""
    n = len(fields)
    empty = np.zeros((n, 0), "float32")
    history = np.zeros((n, 0, 0), "int32")
    scenario = np.zeros(n, "int32")
    return {
        "fields": fields,
        "numeric": empty,
        "history": history,
        "history_age": empty,
        "scenario": scenario,
    }


def book_model(sizes: tuple[int, ...], dim: int, scale: float = SCALE) -> Any:
    """Return the reference model from the book's package."""
    import keras

    from urlm_helpers.features import FieldEmbedding
    from urlm_helpers.model import UnifiedRecommender
    from urlm_helpers.preprocessing import InputSpec
    from urlm_helpers.sharing import MMoE

    keras.utils.set_random_seed(0)
    names = ["user", "item", *(f"field {f}" for f in range(2, len(sizes)))]
    fields = dict(zip(names, sizes, strict=True))
    spec = InputSpec(fields, (), (), 0, ("all",), ("click", "buy"), {})
    sharing = MMoE(2, 1, units=(128, 64), experts=4, towers=(32,))
    table = FieldEmbedding(sizes, dim, scale=scale)
    return UnifiedRecommender(spec, sharing=sharing, dim=dim, bottom=0, embedding=table)


def compiled(model: Any, row_wise: bool = False) -> Any:
    """Compile a model of two root tasks as the book's ``fit`` does."""
    from urlm_helpers.model import FunnelLoss
    from urlm_helpers.training.loop import _compile

    _compile(model, FunnelLoss([-1, -1]), 0.0, row_wise)
    return model


def flops(width: int) -> float:
    """Return the floating-point operations of a row, forward and backward.

    Two for each weight of a product, and twice as many again for the two gradients.
    """
    experts = 4 * (width * 128 + 128 * 64)
    return 6.0 * (experts + 2 * 4 * width + 2 * (64 * 32 + 32))


def peak() -> dict[str, float]:
    """Measure the fastest product of float32 matrices, of NumPy's and TensorFlow's."""
    import tensorflow as tf

    best = 0.0
    a = np.random.default_rng(0).random((2048, 2048), "float32")
    t = tf.constant(a)
    for _ in range(8):
        for multiply in (lambda: a @ a, lambda: (t @ t)[0, 0].numpy()):
            start = time.perf_counter()
            multiply()
            best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return {"flops_per_s": best}


def plain_keras(compiled: bool) -> dict[str, float]:
    """Train the same network as a reader of Keras's guides would write it."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    columns = [keras.Input((), dtype="int32") for _ in SIZES]
    vectors = [
        layers.Embedding(size, DIM)(column)
        for size, column in zip(SIZES, columns, strict=True)
    ]
    x = layers.Concatenate()(vectors)
    experts = [layers.Dense(64, "relu")(layers.Dense(128, "relu")(x)) for _ in range(4)]
    stacked = ops.stack(experts, axis=1)
    outputs = []
    for _ in range(2):
        gate = layers.Dense(4, "softmax")(x)
        mixed = ops.einsum("be,bed->bd", gate, stacked)
        outputs.append(layers.Dense(1, "sigmoid")(layers.Dense(32, "relu")(mixed)))
    model = keras.Model(columns, outputs)
    loss = ["binary_crossentropy"] * 2
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=compiled)
    fields, y = log(ROWS, seed=1)
    columns_in = [np.ascontiguousarray(c) for c in fields.T]
    labels = [y[:, :1].astype("float32"), y[:, 1:].astype("float32")]
    # Up to the last batch: what Keras waits for after it (see `reading`) is luck.
    ends = [0.0]
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        model.fit(columns_in, labels, batch_size=BATCH, verbose=0, callbacks=[watch])
        seconds.append(ends[-1] - start)
    test, _ = log(TEST, seed=TEST_SEED)
    p = np.concatenate(model.predict(list(test.T), 8192, verbose=0), axis=1)
    rate = ROWS / min(seconds)
    return {"rows_per_s": rate, "flops_per_s": rate * flops(16 * DIM), **auc(p)}


def book(source: str, keep: bool = True, scale: float = SCALE) -> dict[str, float]:
    """Train with the book's ``fit``, from memory or from shards."""
    from urlm_helpers.preprocessing import write_shards
    from urlm_helpers.training import ShardBatches
    from urlm_helpers.training import loop as training

    if not keep:
        training.keep_freed_memory = lambda: False
    model = book_model(SIZES, DIM, scale)
    fields, y = log(ROWS, seed=1)
    x = inputs(fields)
    valid = inputs(fields[:BATCH]), y[:BATCH]
    with tempfile.TemporaryDirectory() as folder:
        if source == "shards":
            write_shards(folder, x, y)
            train: Any = ShardBatches(folder, BATCH)
        else:
            train = training.Batches(x, y, np.arange(ROWS), BATCH)
        # Each pass is timed, from one new order to the next; the first one compiles.
        times: list[float] = []
        after = train.on_epoch_end

        def watch() -> None:
            after()
            times.append(time.perf_counter())

        train.on_epoch_end = watch
        settings = {"epochs": PASSES, "patience": PASSES, "decay": False}
        training.fit_batches(model, train, *valid, learning_rate=1e-3, **settings)
    test, _ = log(TEST, seed=TEST_SEED)
    passes = np.diff(times)[::2]
    rate = ROWS / float(passes.min())
    score = auc(model.logits(inputs(test)))
    return {"rows_per_s": rate, "flops_per_s": rate * flops(17 * DIM), **score}


def reading() -> dict[str, float]:
    """Train as Keras's ``fit`` reads the batches, and as the book's does, in turns.

    The rates are those of each one's median pass and of its slowest.
    """
    import keras

    from urlm_helpers.training import Batches, feed, keep_freed_memory

    keep = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: keep_freed_memory()
    )
    model = compiled(book_model(SIZES, DIM))
    fields, y = log(ROWS // 2, seed=1)
    batches = Batches(inputs(fields), y, np.arange(len(y)), BATCH)
    seconds: dict[str, list[float]] = {"tuner": [], "feed": []}
    for _ in range(TURNS):
        for name, data in (("tuner", batches), ("feed", feed(batches))):
            start = time.perf_counter()
            model.fit(data, verbose=0, shuffle=False, callbacks=[keep])
            seconds[name].append(time.perf_counter() - start)
    rows = len(batches) * BATCH
    return {
        f"rows_per_s_{name}_{which}": rows / float(pick(times[1:]))
        for name, times in seconds.items()
        for which, pick in (("median", np.median), ("slowest", np.max))
    }


def scale(optimizer: str, rows: int, steps: int = SCALE_STEPS) -> dict[str, float]:
    """Time a step with two tables of so many rows."""
    from urlm_helpers.training import Batches, feed, keep_freed_memory

    model = compiled(book_model((rows, rows), SCALE_DIM), optimizer == "row-wise")
    n = steps * BATCH
    rng = np.random.default_rng(0)
    fields = rng.integers(0, rows, (n, 2)).astype("int32")
    y = rng.integers(0, 2, (n, 2)).astype("int8")
    batches = Batches(inputs(fields), y, np.arange(n), BATCH)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        model.fit(feed(batches), verbose=0, shuffle=False)
        seconds.append(time.perf_counter() - start)
        keep_freed_memory()
    return {"seconds_per_step": min(seconds[1:]) / steps}


RECHUB = """
import json, sys, time
import numpy as np, torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator
folder, batch, passes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = np.load(folder + "/job.npz"); sizes = data["sizes"]
torch.manual_seed(0)
names = [f"f{i}" for i in range(len(sizes))]
features = [SparseFeature(n, int(s), embed_dim=16) for n, s in zip(names, sizes)]
model = MMOE(features, ["classification"] * 2, 4, expert_params={"dims": [128, 64]},
             tower_params_list=[{"dims": [32]}] * 2)
dicts = lambda x: {n: x[:, i].astype("int64") for i, n in enumerate(names)}
y = data["y"].astype("float32")
make = DataGenerator(dicts(data["x"]), y)
train, _, _ = make.generate_dataloader(split_ratio=[0.999, 0.0005], batch_size=batch)
trainer = MTLTrainer(model, ["classification"] * 2, optimizer_params={"lr": 1e-3},
                     n_epoch=passes, device="cpu", model_path=folder)
seconds = []
for _ in range(passes):
    start = time.perf_counter(); trainer.train_one_epoch(train)
    seconds.append(time.perf_counter() - start)
model.eval(); p = []
with torch.no_grad():
    for s in range(0, len(data["test"]), 8192):
        x = {n: torch.tensor(v) for n, v in dicts(data["test"][s:s + 8192]).items()}
        p.append(model(x).numpy())
np.save(folder + "/p.npy", np.concatenate(p))
print(json.dumps({"rows_per_s": len(y) * 0.999 / min(seconds)}))
"""


def rechub(python: str) -> dict[str, float]:
    """Train torch-rechub's MMoE with its own trainer, in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        x, y = log(ROWS, seed=1)
        test, _ = log(TEST, seed=TEST_SEED)
        np.savez(f"{folder}/job.npz", x=x, y=y, test=test, sizes=SIZES)
        command = [python, "-c", RECHUB, folder, str(BATCH), str(PASSES)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        found["flops_per_s"] = found["rows_per_s"] * flops(16 * DIM)
        return {**found, **auc(np.load(f"{folder}/p.npy"))}


def measure(name: str, peers: str | None) -> dict[str, float]:
    """Do one measurement in this process."""
    if name.startswith(("Adam ", "row-wise ")):
        optimizer, rows = name.split()
        return scale(optimizer, int(rows))
    if name == "torch-rechub":
        return rechub(str(peers))
    return {
        "peak": peak,
        "keras": lambda: plain_keras(False),
        "keras XLA": lambda: plain_keras(True),
        "no memory kept": lambda: book("memory", keep=False),
        "book": lambda: book("memory"),
        "shards": lambda: book("shards"),
        "reading": reading,
        "scale 1": lambda: book("memory", scale=1.0),
    }[name]()


def report() -> None:
    """Print the result as ratios within a round, and draw it."""
    import matplotlib.pyplot as plt
    import pandas as pd

    found = pd.read_csv(RESULT).pivot_table("value", "what", ["measure", "round"])
    table = pd.DataFrame(
        {
            "speed (keras = 1)": (
                found["rows_per_s"] / found["rows_per_s"].loc["keras"]
            ).mean(axis=1),
            "share of the peak": (
                found["flops_per_s"] / found["flops_per_s"].loc["peak"]
            ).mean(axis=1),
            "auc_click": found["auc_click"].mean(axis=1),
            "auc_buy": found["auc_buy"].mean(axis=1),
            "step (row-wise 10000 = 1)": (
                found["seconds_per_step"]
                / found["seconds_per_step"].loc["row-wise 10000"]
            ).mean(axis=1),
        }
    )
    print(table.round(3).to_string(na_rep=""))
    speed = table["speed (keras = 1)"].dropna().sort_values()
    fig, ax = plt.subplots(layout="constrained")
    ax.barh(list(speed.index), list(speed))
    ax.set(title="Reference job, speed of training", xlabel="rows/s, plain Keras = 1")
    PLOT.parent.mkdir(exist_ok=True)
    fig.savefig(PLOT, dpi=150)
    print("drawn:", PLOT)


def main() -> None:
    """Run all measurements, or one of them and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="a Python with torch-rechub")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--report", action="store_true", help="of the last result")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.peers)))
        return
    if options.report:
        report()
        return
    names = [*MEASUREMENTS, *(["torch-rechub"] if options.peers else [])]
    names += [f"{o} {rows}" for o in ("Adam", "row-wise") for rows in SCALES]
    # Adam moves 5 M rows in some seconds a step: nothing new is learned from that.
    names.remove(f"Adam {SCALES[-1]}")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TQDM_DISABLE": "1",
    }
    RESULT.unlink(missing_ok=True)
    result = Result(RESULT, ["round", "what", "measure", "value"], digits=6)
    for turn, name in product(range(options.rounds), names):
        command = [sys.executable, __file__, "--only", name]
        command += ["--peers", options.peers] if options.peers else []
        done = subprocess.run(
            command,
            env=environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for key, value in json.loads(done.stdout.splitlines()[-1]).items():
            line = {"round": turn, "what": name, "measure": key, "value": value}
            result.keep(line)
            print(*line.values(), flush=True)
    report()


if __name__ == "__main__":
    main()
