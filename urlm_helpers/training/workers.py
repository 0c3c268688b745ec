"""Several processes train one model: start them, keep them equal, start them again."""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from urlm_helpers.model.losses import FunnelLoss
from urlm_helpers.model.unified import UnifiedRecommender
from urlm_helpers.training.batches import Batches
from urlm_helpers.training.checkpoints import Progress
from urlm_helpers.training.devices import keep_freed_memory

POLL_SECONDS = 0.2


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all are open at once, so all differ
        address = ("127.0.0.1", 0)
        servers = [stack.enter_context(socket.create_server(address)) for _ in range(n)]
        return [server.getsockname()[1] for server in servers]


def launch(command: Sequence[str], workers: int = 2, restarts: int = 3) -> int:
    """Run a program as so many workers on this machine until all of them end well.

    Each gets the address of all in the environment variable ``TF_CONFIG``. When one
    dies the others wait for it in vain: all are stopped and started again, and go on
    from their last checkpoint.

    Parameters
    ----------
    command : sequence of str
        The program, which calls :func:`train_worker`.
    workers : int
        How many.
    restarts : int
        How often to start again, at most.

    Returns
    -------
    int
        How often they were started again.

    Raises
    ------
    RuntimeError
        If a worker failed more often than that.

    Examples
    --------
    >>> import sys
    >>> launch([sys.executable, "-c", "pass"])
    0
    """
    for attempt in range(restarts + 1):
        hosts = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        processes = []
        for index in range(workers):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": hosts}, "task": task}
            environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
            processes.append(subprocess.Popen(list(command), env=environment))
        try:
            while None in (codes := [p.poll() for p in processes]) and not any(codes):
                time.sleep(POLL_SECONDS)
        finally:
            for process in processes:
                process.kill()
            codes = [process.wait() for process in processes]
        if not any(codes):
            return attempt
        print(f"workers ended with {codes}; start {attempt + 1} of {restarts + 1}")
    raise RuntimeError(
        f"a worker failed in each of {restarts + 1} starts, the last with {codes}; "
        "its own message stands above"
    )


def train_worker(
    make_model: Callable[[], UnifiedRecommender],
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    rows: np.ndarray,
    *,
    steps: int,
    batch_size: int = 4096,
    learning_rate: float = 1e-3,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_steps: int = 100,
) -> tuple[UnifiedRecommender, np.ndarray]:
    """Train as one of the workers of ``TF_CONFIG``, or alone without it.

    Every worker draws the same order of the rows and takes its own part of each batch;
    the gradients are added up between them (``MultiWorkerMirroredStrategy``), so that
    all hold the same weights after each step, those that one process would have with
    the whole batch, up to the rounding of sums. The loop is our own: Keras's ``fit``
    does not run under this strategy (keras-team/keras #20585).

    Parameters
    ----------
    make_model : callable
        Returns the untrained model, the same in each worker: seed it.
    x, y : mapping and ndarray
        All rows.
    rows : ndarray of int
        Which rows to train on.
    steps : int
        Steps of training.
    batch_size : int
        Rows of a step, of all workers together.
    learning_rate : float
        Of Adam.
    seed : int
        Of the order of the rows.
    checkpoint : path, optional
        A file that all workers can read; the first one writes it. It is there at the
        start: the run goes on from it.
    checkpoint_steps : int
        Steps between two checkpoints: what a worker that dies costs, at most.

    Returns
    -------
    model, losses : UnifiedRecommender and ndarray
        The trained model, and the loss of each step over the whole batch, in nats.

    Raises
    ------
    ValueError
        If a batch cannot be cut into equal parts, or the checkpoint is of another run.
    """
    import tensorflow as tf

    keep_freed_memory()
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    index = config["task"]["index"] if config else 0
    distribute = tf.distribute
    strategy = distribute.get_strategy()
    if config:
        strategy = distribute.MultiWorkerMirroredStrategy()
    n = strategy.num_replicas_in_sync
    if batch_size % n:
        raise ValueError(
            f"{n} workers cannot share a batch of {batch_size} rows equally"
        )
    with strategy.scope():
        model = make_model()
        loss = FunnelLoss(model.spec.parents, model.spec.negative_rate)
        model.compile(keras.optimizers.Adam(learning_rate), loss)
        model.optimizer.build(model.trainable_variables)

    def own_step(inputs: dict[str, Any], labels: Any) -> Any:
        with tf.GradientTape() as tape:
            each = loss.call(labels, model(inputs, training=True))
            share = tf.reduce_mean(each) / n  # Loss.__call__ may divide by n itself
        variables = model.trainable_variables
        gradients = tape.gradient(share, [v.value for v in variables])
        model.optimizer.apply(gradients, variables)  # adds them up between workers
        return share

    @tf.function
    def step(inputs: dict[str, Any], labels: Any) -> Any:
        shares = strategy.run(own_step, args=(inputs, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)

    def local(array: np.ndarray) -> Any:
        own = np.ascontiguousarray(array[index::n] if n > 1 else array)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(own)
        )

    settings: dict[str, float] = {"seed": seed, "batch_size": batch_size}
    settings |= {"rows": len(rows), "learning_rate": learning_rate}
    run = Progress(model, checkpoint, settings)
    batches = Batches(x, y, rows, batch_size, seed)
    run.load()
    losses = [line["loss"] for line in run.log]
    passes = 0
    for number in range(run.step, steps):
        while passes < number // len(batches):
            batches.on_epoch_end()
            passes += 1
        inputs, labels = batches[number % len(batches)]
        inputs = {name: local(array) for name, array in inputs.items()}
        losses.append(float(step(inputs, local(labels))))
        run.step = number + 1
        if index == 0 and run.step % checkpoint_steps == 0:
            run.log = [{"loss": value} for value in losses]
            run.save()
    return model, np.array(losses)
