"""One set of weights on TensorFlow, JAX and PyTorch: what differs, and what it costs.

    nice -n 10 python benchmarks/backends_study.py

*Apart*: the book's model on each backend of Keras that is installed, each in a process
of its own, with the same weights and the same batches. How far are the probabilities
of the tasks from those on TensorFlow, after so many steps? TensorFlow runs twice: as it
is, and with the gradients of a table's row summed up before Adam squares them, as the
others do; that one is compared with. Beside it the same with the rows of each batch in
another order, and with other weights at the start; and PyTorch with its own Adam.
*Time*: processor seconds of the import, the first step, a step and a request, in
rounds, beside a forward pass written in NumPy. *Public*: torch-rechub's MMoE with the
weights of ours.

*Defaults*: a small ranker as a first script writes it, on TensorFlow, with one default
of Keras after the other put to PyTorch's. All else, step size and batches included, is
the same; the pass with the lowest validation loss counts.

What is not installed is left out; ``pip install jax torch torch-rechub`` has it all. A
line is written as soon as it is known, and skipped when the study is started again.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from results import Result

ROWS, BATCH, STEPS, PROBES, EXAMPLES = 50_000, 512, 1_000, 10_000, 4
MARKS = (0, 1, 3, 10, 30, 100, 300, 1_000)
CALLS, ROUNDS = 200, 2
RUNS = {  # the backend, and what of it differs from Keras as it is
    "TensorFlow, summed": ("tensorflow", "summed"),  # the one to compare with
    "TensorFlow": ("tensorflow", ""),
    "JAX": ("jax", ""),
    "PyTorch": ("torch", ""),
    "PyTorch, its own Adam": ("torch", "adam"),
    "TensorFlow, another order": ("tensorflow", "order"),
    "TensorFlow, other weights": ("tensorflow", "weights"),
}
PACKAGES = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}
Arrays = dict[str, np.ndarray]

WORLDS, DEFAULT_BATCH = (1, 2, 3, 4, 5), 500
PASSES, PATIENCE = 20, 2
TRAIN, VALID, TEST = 50_000, 10_000, 30_000
VARIANTS: dict[str, dict[str, Any]] = {
    "Keras": {},
    "Keras, another seed": {"seed": 1},
    "embeddings": {"embedding": "torch"},
    "dense layers": {"dense": "torch"},
    "BatchNorm": {"momentum": 0.9, "norm_epsilon": 1e-5},
    "Adam": {"adam": "torch"},
    "Adam, only the sum": {"adam": "summed"},
    "all four": {
        "embedding": "torch",
        "dense": "torch",
        "momentum": 0.9,
        "norm_epsilon": 1e-5,
        "adam": "torch",
    },
    "momentum 0.99": {"momentum": 0.01},
    "weight_decay 0.01, Keras": {"decay": 0.01},
    "weight_decay 0.01, PyTorch": {"l2": 0.01},
}
"""Of Keras's; the last three are a number that is copied without its meaning."""


def problem() -> tuple[Arrays, np.ndarray, Arrays, np.ndarray, Any]:
    """Return rows and labels, rows to compare on and their truth, and the inputs."""
    from urlm_helpers.preprocessing import world_inputs
    from urlm_helpers.world import World

    world = World(seed=1)
    log = world.sample(ROWS + PROBES, seed=1, balanced=True, random=True)
    x, y, spec = world_inputs(world, log.interactions)
    probe = {name: array[ROWS:] for name, array in x.items()}
    truth = log.truth["click"].to_numpy()[ROWS:]
    return x, y[:ROWS].astype("float32"), probe, truth, spec


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-z))


def weights(shapes: list[tuple[int, ...]], seed: int = 0) -> list[np.ndarray]:
    """Draw weights with NumPy, so that every backend starts from the same."""
    rng = np.random.default_rng(seed)
    limits = [(6 / sum(shape[-2:])) ** 0.5 if len(shape) > 1 else 0 for shape in shapes]
    return [
        rng.uniform(-limit, limit, shape).astype("float32")
        for limit, shape in zip(limits, shapes, strict=True)
    ]


def batches(steps: int, shuffle: bool = False) -> np.ndarray:
    """Draw the rows of each step, ``(steps, batch)``; ``shuffle`` reorders each."""
    rng = np.random.default_rng(0)
    passes = -(-steps * BATCH // ROWS) + 1
    usable = ROWS // BATCH * BATCH
    order = np.concatenate([rng.permutation(ROWS)[:usable] for _ in range(passes)])
    order = order.reshape(-1, BATCH)[:steps]
    return rng.permuted(order, axis=1) if shuffle else order


def summed_adam() -> Any:
    """Return Keras's Adam with one gradient for each row of a table, on TensorFlow.

    There the gradient of a table comes in pieces, one for each time that a row occurs
    in the batch, and Keras squares each piece. Elsewhere it squares their sum.
    """
    import keras
    import tensorflow as tf

    class SummedAdam(keras.optimizers.Adam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            whole = tf.convert_to_tensor(gradient)
            super().update_step(whole, variable, learning_rate)

    return SummedAdam(1e-3)


def compiled(spec: Any, change: str = "") -> Any:
    """Return the book's model with few parts, ready to train."""
    import keras

    from urlm_helpers.model import FunnelLoss, UnifiedRecommender

    model = UnifiedRecommender(spec, bottom=0)
    summed = change in ("summed", "order", "weights")
    optimizer = summed_adam() if summed else keras.optimizers.Adam(1e-3)
    model.compile(optimizer, FunnelLoss(spec.parents))
    return model


def features(table: np.ndarray, x: Arrays, spec: Any) -> np.ndarray:
    """Return what the experts see: fields, user times item, and the numbers."""
    offset = np.cumsum([0, *spec.fields.values()])[:-1]
    fields = table[x["fields"] + offset]  # (rows, fields, dim)
    flat = fields.reshape(len(fields), -1)
    return np.concatenate([flat, fields[:, 0] * fields[:, 1], x["numeric"]], axis=1)


def numpy_forward(values: list[np.ndarray], x: Arrays, spec: Any) -> np.ndarray:
    """Return the logits of that model, written with NumPy."""
    table, *layers, gate, gate_bias, kernel, bias = values
    z, scenario = features(table, x, spec), x["scenario"]
    pairs = zip(layers[::2], layers[1::2], strict=True)
    experts = np.stack([np.maximum(z @ w + b, 0) for w, b in pairs], axis=1)
    logits = (z @ gate + gate_bias).reshape(len(z), *kernel.shape[:2], -1)
    own = np.exp(logits[np.arange(len(z)), scenario])  # (rows, tasks, experts)
    mixed = own / own.sum(axis=-1, keepdims=True) @ experts  # (rows, tasks, units)
    return (mixed * kernel[scenario]).sum(axis=-1) + bias[scenario]


def torch_adam(model: Any) -> Callable[[Arrays, np.ndarray], None]:
    """Return a step of PyTorch's own Adam on the model of Keras."""
    import torch

    parameters = [v.value for v in model.trainable_variables]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step(x: Arrays, y: np.ndarray) -> None:
        optimizer.zero_grad()
        model.loss(torch.tensor(y), model(x, training=True)).backward()
        optimizer.step()

    return step


def train(name: str, file: Path) -> None:
    """Keep the logits of the probes after as many steps as are marked."""
    change = RUNS[name][1]
    x, y, probe, _, spec = problem()
    model = compiled(spec, change)
    shapes = [w.shape for w in model.get_weights()]
    model.set_weights(weights(shapes, 1 if change == "weights" else 0))
    step = torch_adam(model) if change == "adam" else model.train_on_batch
    found = {"0": model.logits(probe)}
    for number, rows in enumerate(batches(STEPS, change == "order"), start=1):
        step({name: array[rows] for name, array in x.items()}, y[rows])
        if number in MARKS:
            found[str(number)] = model.logits(probe)
    np.savez(file, **found)


def seconds(calls: Iterable[Callable[[], Any]]) -> float:
    """Return the processor seconds of a call, the middle of many."""
    taken = []
    for call in calls:
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def requests(score: Callable[[Arrays], Any], probe: Arrays) -> dict[str, float]:
    """Return the processor seconds of a request, after a first one."""
    times = {}
    for size in (1, 500):
        call = partial(score, {name: array[:size] for name, array in probe.items()})
        call()
        times[f"request of {size}"] = seconds([call] * CALLS)
    return times


def times() -> dict[str, float]:
    """Return the processor seconds of a backend, in a process that has just begun."""
    start = time.process_time()
    importlib.import_module("keras")
    found = {"import": time.process_time() - start}
    x, y, probe, _, spec = problem()
    model = compiled(spec)
    rows = batches(CALLS + 1)
    given = [({k: v[at] for k, v in x.items()}, y[at]) for at in rows]
    first, *calls = [partial(model.train_on_batch, *batch) for batch in given]
    found["first step"], found["step"] = seconds([first]), seconds(calls)
    return found | requests(model.logits, probe)


def numpy_times() -> dict[str, float]:
    """Return the times of NumPy, on one thread: the forward pass, and no step."""
    program = "import time; t = time.process_time(); import numpy; "
    program += "print(time.process_time() - t)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    _, _, probe, _, spec = problem()
    values = weights([w.shape for w in compiled(spec).get_weights()])
    score = requests(lambda some: numpy_forward(values, some, spec), probe)
    return {"import": float(run.stdout), **score}


def again(*arguments: str, backend: str = "tensorflow") -> str:
    """Run this file in a process of its own, and return its last line."""
    run = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend, "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return (run.stdout.splitlines() or [""])[-1]


def clock(result: Result) -> None:
    """Time every backend that is installed, one after the other, in rounds."""
    done = {(line["round"], line["run"]) for line in result.lines()}
    for number in range(ROUNDS):
        for name in ("TensorFlow", "JAX", "PyTorch", "NumPy"):
            backend = RUNS.get(name, ("tensorflow", ""))[0]
            if (str(number), name) in done or not importlib.util.find_spec(backend):
                continue
            found = json.loads(again("--times", name, backend=backend))
            print(number, name, found, flush=True)
            line = {"round": number, "run": name}
            result.keep(*({**line, "what": w, "value": v} for w, v in found.items()))


def public(values: list[np.ndarray], x: Arrays, spec: Any) -> float:
    """Return how far torch-rechub's MMoE is from ours, for the first scenario."""
    import torch
    from torch_rechub.basic.features import DenseFeature
    from torch_rechub.models.multi_task import MMOE

    x = {name: array[x["scenario"] == 0] for name, array in x.items()}
    table, *layers, gate, gate_bias, kernel, bias = values
    z = features(table, x, spec)
    tasks, count = kernel.shape[1], len(layers) // 2
    columns = [DenseFeature(f"z{c}") for c in range(z.shape[1])]
    kinds, towers = ["classification"] * tasks, [{"dims": []} for _ in range(tasks)]
    experts = {"dims": [layers[0].shape[1]]}
    theirs = MMOE(columns, kinds, count, experts, towers).eval()
    gates = gate.reshape(len(gate), -1, tasks, count)[:, 0]
    gate_biases = gate_bias.reshape(-1, tasks, count)[0]
    filled = [*zip(theirs.experts, layers[::2], layers[1::2], strict=True)]
    for t in range(tasks):
        filled.append((theirs.gates[t], gates[:, t], gate_biases[t]))
        filled.append((theirs.towers[t], kernel[0, t][:, None], bias[0, t][None]))
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eps = 0.0  # ours has none
        for network, w, b in filled:
            (layer,) = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
            layer.weight.copy_(torch.tensor(w.T.copy()))
            layer.bias.copy_(torch.tensor(b))
        found = theirs({f"z{c}": torch.tensor(z[:, c]) for c in range(z.shape[1])})
    ours = sigmoid(numpy_forward(values, x, spec))
    return float(np.abs(found.numpy() - ours).max())


def torch_defaults() -> dict[str, float]:
    """Read what PyTorch does where a script says nothing."""
    import torch

    def said(function: Any, name: str) -> float:
        return float(inspect.signature(function).parameters[name].default)

    torch.manual_seed(0)
    table, linear = torch.nn.Embedding(10_000, 8), torch.nn.Linear(64, 1_000)
    edge = 64**-0.5
    return {
        "embedding, standard deviation": float(table.weight.detach().std()),
        "dense kernel, largest": float(linear.weight.detach().abs().max()) / edge,
        "dense bias, largest": float(linear.bias.detach().abs().max()) / edge,
        "BatchNorm, share that is kept": 1 - said(torch.nn.BatchNorm1d, "momentum"),
        "BatchNorm, epsilon": said(torch.nn.BatchNorm1d, "eps"),
        "LayerNorm, epsilon": said(torch.nn.LayerNorm, "eps"),
        "Adam, epsilon": said(torch.optim.Adam, "eps"),
        "AdamW, weight decay": said(torch.optim.AdamW, "weight_decay"),
    }


def compare(result: Result) -> None:
    """Run what is installed, and write how far it is apart and what it takes."""
    from urlm_helpers.world import expected_auc

    done = {line["run"] for line in result.lines()}
    folder = Path(tempfile.gettempdir()) / "backends-study"
    folder.mkdir(exist_ok=True)
    for name, (backend, _) in RUNS.items():
        file = folder / f"{name}.npz"
        if not importlib.util.find_spec(backend):
            print(f"{name}: not installed")
        elif not file.exists():
            print(name, flush=True)
            again("--train", name, str(file), backend=backend)

    def keep(run: str, lines: list[tuple[str, Any, Any]]) -> None:
        result.keep(
            *({"run": run, "what": w, "at": a, "value": v} for w, a, v in lines)
        )

    _, _, probe, truth, spec = problem()
    reference = np.load(folder / "TensorFlow, summed.npz")
    for name, (backend, _) in RUNS.items():
        if name in done or not (folder / f"{name}.npz").exists():
            continue
        found, lines = np.load(folder / f"{name}.npz"), []
        for mark in map(str, MARKS):
            p, q = (
                sigmoid(logits[mark].astype(float)) for logits in (found, reference)
            )
            lines.append(("apart", mark, float(np.abs(p - q).max())))
            lines.append(("auc", mark, expected_auc(p[:, 0], truth)))
        if "," not in name:
            shown = found["0"][:EXAMPLES].ravel().astype(float)
            lines += [("logit", at, value) for at, value in enumerate(shown)]
            lines.append(("version", "", version(PACKAGES[backend])))
        keep(name, lines)
    values = weights([w.shape for w in compiled(spec).get_weights()])
    if "NumPy" not in done:
        exact = numpy_forward([w.astype(float) for w in values], probe, spec)
        shown = exact[:EXAMPLES].ravel()
        lines = [("logit", at, float(value)) for at, value in enumerate(shown)]
        keep("NumPy", [*lines, ("version", "", version("numpy"))])
    if "torch-rechub" not in done and importlib.util.find_spec("torch_rechub"):
        found = torch_defaults().items()
        keep("PyTorch", [("default", name, value) for name, value in found])
        far = ("apart", 0, public(values, probe, spec))
        keep("torch-rechub", [far, ("version", "", version("torch-rechub"))])


def port_adam(l2: float) -> Any:
    """Return PyTorch's Adam: its epsilon, where it stands, and its weight decay."""
    import keras
    from keras import ops

    class PortAdam(keras.optimizers.Adam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            gradient = ops.convert_to_tensor(gradient) + l2 * variable
            at = self._get_variable_index(variable)
            t = ops.cast(self.iterations + 1, "float32")
            m, v = self._momentums[at], self._velocities[at]
            m.assign(m + 0.1 * (gradient - m))
            v.assign(v + 0.001 * (ops.square(gradient) - v))
            scale = ops.sqrt(v / (1 - 0.999**t)) + 1e-8
            variable.assign(variable - learning_rate * m / (1 - 0.9**t) / scale)

    return PortAdam(1e-3)


def ranker(sizes: list[int], numbers: int, variant: Mapping[str, Any]) -> Any:
    """Return the ranker of a first script: embeddings, two dense layers, an output."""
    import keras
    from keras import initializers, layers

    def dense(units: int, z: Any) -> Any:
        if variant.get("dense") != "torch":
            return layers.Dense(units)(z)
        edge = z.shape[-1] ** -0.5
        draw = initializers.RandomUniform(-edge, edge)
        again = initializers.RandomUniform(-edge, edge)
        return layers.Dense(units, kernel_initializer=draw, bias_initializer=again)(z)

    def norm(z: Any) -> Any:
        given = variant.get("momentum", 0.99), variant.get("norm_epsilon", 1e-3)
        return layers.BatchNormalization(momentum=given[0], epsilon=given[1])(z)

    wide = variant.get("embedding") == "torch"
    start = initializers.RandomNormal(stddev=1.0) if wide else "uniform"
    fields, numeric = keras.Input((len(sizes),), dtype="int32"), keras.Input((numbers,))
    table = layers.Embedding(sum(sizes), 8, embeddings_initializer=start)
    z = layers.Concatenate()([layers.Flatten()(table(fields)), numeric])
    for units in (64, 32):
        z = layers.ReLU()(norm(dense(units, z)))
    model = keras.Model([fields, numeric], dense(1, z))
    ported = variant.get("adam") == "torch" or "l2" in variant
    if ported:
        optimizer = port_adam(variant.get("l2", 0.0))
    elif variant.get("adam") == "summed":
        optimizer = summed_adam()
    else:
        decay = variant.get("decay")
        optimizer = keras.optimizers.Adam(1e-3, weight_decay=decay)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def defaults(result: Result) -> None:
    """Put one default after the other to PyTorch's, in several worlds."""
    import keras

    from urlm_helpers.preprocessing import world_inputs
    from urlm_helpers.world import World, expected_auc

    done = {(line["variant"], line["world"]) for line in result.lines()}
    for number in WORLDS:
        world, parts = World(seed=number), []
        for rows, seed in ((TRAIN, 1), (VALID, 2), (TEST, 3)):
            log = world.sample(rows, seed=seed, balanced=True, random=True)
            x, y, spec = world_inputs(world, log.interactions)
            sizes = list(spec.fields.values())
            ids = x["fields"] + np.cumsum([0, *sizes])[:-1].astype("int32")
            click, truth = y[:, :1].astype("float32"), log.truth["click"].to_numpy()
            parts.append(([ids, x["numeric"]], click, truth))
        train, valid, test = parts
        for name, variant in VARIANTS.items():
            if (name, str(number)) in done:
                continue
            keras.utils.set_random_seed(100 * variant.get("seed", 0) + number)
            model, best = (
                ranker(sizes, x["numeric"].shape[1], variant),
                (np.inf, 0.0, 0),
            )
            for passed in range(1, PASSES + 1):
                model.fit(*train[:2], batch_size=DEFAULT_BATCH, verbose=0)
                loss = model.evaluate(*valid[:2], batch_size=5_000, verbose=0)
                if loss < best[0]:
                    score = model.predict(test[0], batch_size=5_000, verbose=0)[:, 0]
                    best = loss, expected_auc(score, test[2]), passed
                elif passed >= best[2] + PATIENCE:
                    break
            line = dict(zip(("loss", "auc", "passed"), best, strict=True))
            print(number, name, line, flush=True)
            result.keep({"variant": name, "world": number, **line})


def main() -> None:
    """Write what is missing of the three results."""
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--times"]:
        print(json.dumps(numpy_times() if sys.argv[2] == "NumPy" else times()))
    else:
        compare(Result("backends.csv", ["run", "what", "at", "value"], digits=9))
        clock(Result("backends-times.csv", ["round", "run", "what", "value"], digits=4))
        columns = ["variant", "world", "loss", "auc", "passed"]
        defaults(Result("backends-defaults.csv", columns, digits=6))


if __name__ == "__main__":
    main()
