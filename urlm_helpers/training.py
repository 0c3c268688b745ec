"""Training: which device, which batches, which loss, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops
from tqdm import tqdm

from urlm_helpers.losses import FunnelLoss
from urlm_helpers.model import UnifiedRecommender

STEPS_PER_EXECUTION = 20
"""Batches between two looks of Python at the training."""


def device_report() -> str:
    """Say what the model will run on.

    Returns
    -------
    str
        Backend and version, devices, floating-point precision.
    """
    backend = keras.backend.backend()
    devices = keras.distribution.list_devices()
    kind = (
        "GPU"
        if any("gpu" in d.lower() or "cuda" in d.lower() for d in devices)
        else "CPU"
    )
    return (
        f"Keras {keras.__version__} on {backend}, {len(devices)} {kind} "
        f"device{'s' * (len(devices) > 1)} ({', '.join(devices)}), "
        f"{keras.config.floatx()}"
    )


class Batches(keras.utils.PyDataset):
    """Batches of a dict of arrays, in a new random order each epoch.

    Only row numbers are shuffled; the rows of a batch are then gathered at once. Every
    batch has the same size: the few rows that do not fill one more are left out of the
    pass.

    Parameters
    ----------
    x : mapping of str to ndarray
        Inputs, each with ``n`` rows.
    y : ndarray, shape (n, tasks)
        Labels.
    rows : ndarray of int
        Which rows to go through.
    batch_size : int
        Rows in a batch.
    seed : int
        Of the order.

    Examples
    --------
    >>> x = {"numeric": np.arange(5.0)[:, None]}
    >>> batches = Batches(x, np.zeros((5, 1)), np.array([4, 4, 4]), batch_size=2)
    >>> len(batches), batches[0][0]["numeric"].tolist()
    (1, [[4.0], [4.0]])
    """

    def __init__(
        self,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        rows: np.ndarray,
        batch_size: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.x, self.y = x, y
        self.rows = np.array(rows)
        self.batch_size = min(batch_size, len(self.rows))
        self._rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __getitem__(self, batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.rows[batch * self.batch_size : (batch + 1) * self.batch_size]
        return {name: array[rows] for name, array in self.x.items()}, self.y[rows]

    def on_epoch_end(self) -> None:
        """Shuffle the row numbers."""
        self._rng.shuffle(self.rows)


class _Steps(keras.callbacks.Callback):
    """Lowers the step size along a cosine and moves a bar, over all passes."""

    def __init__(self, learning_rate: float, total: int) -> None:
        super().__init__()
        self.learning_rate, self.total, self.done = learning_rate, total, 0
        self.bar = tqdm(total=total, unit="batch", desc="training")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        share = self.done / self.total
        falling = 0.5 * self.learning_rate * (1 + np.cos(np.pi * share))
        self.model.optimizer.learning_rate = falling

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        new = batch + 1 - self.seen  # one call may stand for several steps
        self.seen += new
        self.done += new
        self.bar.update(new)


def _compile(model: UnifiedRecommender, loss: FunnelLoss, weight_decay: float) -> None:
    """Compile the model, unless it is compiled like that; forget earlier steps."""
    same = model.compiled and type(model.loss) is type(loss)
    same = same and model.optimizer.weight_decay == weight_decay
    if same and model.loss.get_config() == loss.get_config():
        for variable in model.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        return
    model.compile(
        optimizer=keras.optimizers.AdamW(weight_decay=weight_decay),
        loss=loss,
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile="auto" if keras.backend.backend() == "torch" else True,
    )


def fit(
    model: UnifiedRecommender,
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    parts: Mapping[str, np.ndarray],
    *,
    epochs: int = 1,
    patience: int = 1,
    batch_size: int = 2048,
    learning_rate: float = 4e-3,
    weight_decay: float = 0.0,
    weights: Sequence[float] | None = None,
    loss: FunnelLoss | None = None,
    seed: int = 0,
    save_to: str | Path | None = None,
) -> pd.DataFrame:
    """Train until the validation loss stops falling; keep the best pass.

    The steps are compiled by XLA, which on a CPU adds up in one order: the same seed
    gives the same weights. A model that was fitted before with the same loss is not
    compiled again; ``model.reset(seed)`` and ``fit`` repeat a run with another seed.

    Parameters
    ----------
    model : UnifiedRecommender
        Trained in place; ends with the weights of its best pass.
    x, y : mapping and ndarray
        All rows, as of :func:`urlm_helpers.encode.prepare`.
    parts : mapping
        Row numbers of ``"train"`` and ``"valid"``; ``"test"`` is not touched.
    epochs : int
        Passes over the training rows, at most. On logs of impressions models get
        worse after very few [1]_.
    patience : int
        Passes without a lower validation loss before stopping.
    batch_size : int
        Rows per step.
    learning_rate : float
        Adam's first step size; it falls towards 0 along a cosine over ``epochs``
        passes, in stairs of ``STEPS_PER_EXECUTION`` steps.
    weight_decay : float
        Share of each weight, times the step size, that a step takes away [2]_.
    weights : sequence of float, optional
        What each task counts in the loss; see
        :class:`~urlm_helpers.losses.FunnelLoss`.
    loss : FunnelLoss, optional
        Another loss, such as :class:`~urlm_helpers.losses.EntireSpaceLoss`; it brings
        its own weights.
    seed : int
        Of the order of the batches.
    save_to : path, optional
        A ``.keras`` file, written after every pass that improves: a run that is cut
        off leaves its best model there.

    Raises
    ------
    FloatingPointError
        If the training diverged.

    Returns
    -------
    DataFrame
        ``epoch``, ``train_loss``, ``valid_loss`` (nats per row), ``best``.

    References
    ----------
    .. [1] Z.-Y. Zhang et al., "Towards Understanding the Overfitting Phenomenon of
       Deep Click-Through Rate Models", CIKM 2022. arXiv:2209.06053.
    .. [2] I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
       arXiv:1711.05101.
    """
    train = Batches(x, y, parts["train"], batch_size, seed)
    valid = {name: array[parts["valid"]] for name, array in x.items()}
    spec = model.spec
    loss = loss or FunnelLoss(spec.parents, spec.negative_rate, weights)
    _compile(model, loss, weight_decay)
    log: list[dict[str, float]] = []
    best: list[np.ndarray] = []
    steps = _Steps(learning_rate, epochs * len(train))
    with steps.bar as bar:
        for epoch in range(1, epochs + 1):
            run = model.fit(train, epochs=1, verbose=0, callbacks=[steps])
            value = float(model.loss(y[parts["valid"]], model.logits(valid)))
            bar.set_postfix(valid=f"{value:.4f}")
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the validation loss is {value} after pass {epoch}: lower "
                    f"learning_rate (it was {learning_rate:g})"
                )
            improved = all(value < earlier["valid_loss"] for earlier in log)
            train_loss = run.history["loss"][0]
            log.append({"epoch": epoch, "train_loss": train_loss, "valid_loss": value})
            if improved:
                best, best_epoch = model.get_weights(), epoch
                if save_to is not None:
                    model.save(save_to)
            elif epoch - best_epoch >= patience:
                break
    model.set_weights(best)
    return pd.DataFrame(log).assign(best=lambda table: table["epoch"] == best_epoch)
