"""Training: which batches, which loss, which optimizer, and when to stop."""

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops
from tqdm import tqdm

from urlm_helpers.model.losses import FunnelLoss
from urlm_helpers.model.unified import UnifiedRecommender
from urlm_helpers.training.batches import Batches, ShardBatches, feed, of_mean_one
from urlm_helpers.training.checkpoints import Progress
from urlm_helpers.training.devices import (
    check_memory,
    compiling,
    keep_freed_memory,
    training_memory,
)
from urlm_helpers.training.optimizers import RowAdam, table_rows

STEPS_PER_EXECUTION = 20
"""Batches between two looks of Python at the training."""

ROW_WISE_FROM = 200_000
"""Rows of a model's tables from which on only those of the batch are updated."""


class _Steps(keras.callbacks.Callback):
    """Lowers the step size along a cosine and moves a bar, over all passes.

    The step size falls in stairs of some steps, in a short pass of as many as it has;
    the last stair of a pass counts whole.
    """

    def __init__(
        self, learning_rate: float, epochs: int, steps: int, decay: bool
    ) -> None:
        super().__init__()
        self.learning_rate, self.decay = learning_rate, decay
        self.steps, self.total = steps, epochs * steps
        self.bar = tqdm(total=self.total, unit="batch", desc="training")

    def begin(self, epoch: int, step: int) -> None:
        """Say where the batches that come next stand, passes from 1 on."""
        stair = min(STEPS_PER_EXECUTION, self.steps)
        stairs = -(-self.steps // stair)
        self.start = (epoch - 1) * stairs * stair + step
        self.before = (epoch - 1) * self.steps + step

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        keep_freed_memory()  # TensorFlow's generators ask glibc for the opposite

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        stair = batch // STEPS_PER_EXECUTION * STEPS_PER_EXECUTION
        done = min(self.start + stair, self.total - 1)
        share = done / self.total if self.decay else 0.0
        falling = 0.5 * self.learning_rate * (1 + np.cos(np.pi * share))
        self.model.optimizer.learning_rate = falling

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Of a call that stands for several steps, Keras names the last, were it full.
        done = self.before + min(batch + 1, self.params["steps"])
        self.bar.update(done - self.bar.n)


def _compile(
    model: UnifiedRecommender,
    loss: FunnelLoss,
    weight_decay: float,
    row_wise: bool,
    balance_decays: bool = True,
) -> None:
    """Compile the model, unless it is compiled like that; forget earlier steps."""
    kind = RowAdam if row_wise else keras.optimizers.AdamW
    same = model.compiled and type(model.loss) is type(loss)
    same = same and type(model.optimizer) is kind
    same = same and (model.optimizer.weight_decay or 0.0) == weight_decay
    same = same and getattr(model, "balance_decays", True) == balance_decays
    if same and model.loss.get_config() == loss.get_config():
        for variable in model.optimizer.variables:
            variable.assign(ops.zeros_like(variable))
        return
    # Of TensorFlow alone: a model that was made for several devices.
    strategy = getattr(model, "distribute_strategy", None)
    several = getattr(strategy, "num_replicas_in_sync", 1) > 1
    how = compiling(STEPS_PER_EXECUTION, several)
    with strategy.scope() if strategy and several else nullcontext():
        optimizer = kind(weight_decay=weight_decay)
        if model.balance is not None and not balance_decays:
            own = model.balance.trainable_variables
            optimizer.exclude_from_weight_decay(var_list=own)
        model.balance_decays = balance_decays
        model.compile(optimizer, loss, **how)
        # A step that had to create the optimizer's variables would be traced twice.
        model.optimizer.build(model.trainable_variables)


def fit(
    model: UnifiedRecommender,
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    parts: Mapping[str, np.ndarray],
    *,
    batch_size: int = 2048,
    seed: int = 0,
    sample_weight: np.ndarray | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Train until the validation loss stops falling; keep the best pass.

    The steps are compiled by XLA, which on a CPU adds up in one order: after
    ``model.reset(seed)`` or ``keras.utils.set_random_seed`` (the order of the batches
    is drawn from Python's generator) the same seed gives the same weights. A model that
    was fitted before with the same loss is not compiled again; ``model.reset(seed)``
    and ``fit`` repeat a run with another seed.

    Parameters
    ----------
    model : UnifiedRecommender
        Trained in place; ends with the weights of its best pass.
    x, y : mapping and ndarray
        All rows, as of :func:`urlm_helpers.preprocessing.prepare`.
    parts : mapping
        Row numbers of ``"train"`` and ``"valid"``; ``"test"`` is not touched.
    batch_size : int
        Rows per step.
    seed : int
        Of which rows make up a batch.
    sample_weight : ndarray, shape (n,), optional
        What each row counts in the loss, of training and of validation, relative to
        the mean there: one of 2 counts as if it stood there twice. For rows that a
        thinned log has kept with a known probability: its inverse. The schema's
        ``negative_rate`` is none of these, the loss undoes it already.
    **options
        Of :func:`fit_batches`.

    Returns
    -------
    DataFrame
        As of :func:`fit_batches`.
    """
    train = Batches(x, y, parts["train"], batch_size, seed, sample_weight)
    at = parts["valid"]
    valid = {name: array[at] for name, array in x.items()}
    settings: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
    settings |= {"rows": len(train.rows), "sample_weight": None}
    if sample_weight is not None:
        settings["sample_weight"] = zlib.crc32(
            np.asarray(sample_weight, "float64").tobytes()
        )
        options["valid_weight"] = np.asarray(sample_weight)[at]
    if model.branch is not None and not model.branch.fitted:
        model.branch.fit(x, y, train.rows, sample_weight)
    return fit_batches(model, train, valid, y[at], settings=settings, **options)


def _watched(
    model: UnifiedRecommender,
    x: Mapping[str, np.ndarray],
    y: np.ndarray,
    weight: np.ndarray | None,
) -> float:
    """Return the validation loss."""
    return float(model.loss(y, model.logits(x), weight))


def fit_batches(
    model: UnifiedRecommender,
    train: Batches | ShardBatches,
    valid_x: Mapping[str, np.ndarray],
    valid_y: np.ndarray,
    *,
    valid_weight: np.ndarray | None = None,
    epochs: int = 1,
    patience: int = 1,
    learning_rate: float = 4e-3,
    decay: bool = True,
    weight_decay: float = 0.0,
    balance_decays: bool = True,
    weights: Sequence[float] | None = None,
    loss: FunnelLoss | None = None,
    row_wise: bool | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_steps: int = 500,
    settings: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train on batches, from memory or from shards; see :func:`fit`.

    Parameters
    ----------
    model : UnifiedRecommender
        Trained in place; ends with the weights of its best pass.
    train : Batches or ShardBatches
        A new order after each pass, drawn from its own seed.
    valid_x, valid_y : mapping and ndarray
        The validation rows.
    valid_weight : ndarray, shape (n,), optional
        What each of them counts; those of the training come with the batches.
    epochs : int
        Passes over the training rows, at most. On logs of impressions models get
        worse after very few [1]_.
    patience : int
        Passes without a lower validation loss before stopping.
    learning_rate : float
        Adam's first step size.
    decay : bool
        Whether it falls towards 0 along a cosine over ``epochs`` passes, in stairs of
        ``STEPS_PER_EXECUTION`` steps. Few passes over many rows may need every step:
        then it stays.
    weight_decay : float
        Share of each weight, times the step size, that a step takes away [2]_.
    balance_decays : bool
        Whether that goes for what the ``balance`` learns, too.
    weights : sequence of float, optional
        What each task counts in the loss; see
        :class:`~urlm_helpers.model.FunnelLoss`.
    loss : FunnelLoss, optional
        Another loss, such as :class:`~urlm_helpers.model.EntireSpaceLoss`; it brings
        its own weights.
    row_wise : bool, optional
        Whether a step updates only those rows of the tables that the batch holds,
        see :class:`~urlm_helpers.training.RowAdam`; by default where the tables have
        ``ROW_WISE_FROM`` rows or more, on TensorFlow.
    checkpoint : path, optional
        A file that remembers where the run stands. If it is there at the start, the
        run goes on from it and ends with the same weights, bit for bit, as if it had
        not been cut off. It is removed at the end.
    checkpoint_steps : int
        Steps between two checkpoints, rounded up to whole executions.
    settings : mapping, optional
        What must be the same in a run that goes on.

    Raises
    ------
    FloatingPointError
        If the training diverged.
    MemoryError
        If it would not fit into memory; what to change is in the message.
    ValueError
        If ``checkpoint`` holds a run with other settings.

    Returns
    -------
    DataFrame
        ``epoch``, ``train_loss``, ``valid_loss`` (nats per row), ``best``. With
        ``products`` there is an epoch 0, that of the regression alone.

    References
    ----------
    .. [1] Z.-Y. Zhang et al., "Towards Understanding the Overfitting Phenomenon of
       Deep Click-Through Rate Models", CIKM 2022. arXiv:2209.06053.
    .. [2] I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
       arXiv:1711.05101.
    """
    tables, dim = table_rows(model)
    if row_wise is None:
        row_wise = tables >= ROW_WISE_FROM and keras.backend.backend() == "tensorflow"
    dense = model.count_params() - tables * dim
    needed = training_memory(tables, dim, dense_parameters=dense, row_wise=row_wise)
    check_memory(needed, already=4 * model.count_params())
    if valid_weight is not None:
        valid_weight, _ = of_mean_one(valid_weight)
    loss = loss or FunnelLoss(model.spec.parents, model.spec.negative_rate, weights)
    _compile(model, loss, weight_decay, row_wise, balance_decays)
    settings = {
        **(settings or {}),
        "epochs": epochs,
        "patience": patience,
        "learning_rate": learning_rate,
        "decay": decay,
        "weight_decay": weight_decay,
        "balance_decays": balance_decays,
        "loss": [type(loss).__name__, json.loads(json.dumps(loss.get_config()))],
        "row_wise": bool(row_wise),
        "parameters": model.count_params(),
    }
    run = Progress(model, checkpoint, settings)
    steps = _Steps(learning_rate, epochs, len(train), decay)
    if run.load():
        for _ in range(2 * (run.epoch - 1) + (run.step > 0)):
            train.on_epoch_end()  # the orders of the passes that are done
        steps.bar.update((run.epoch - 1) * len(train) + run.step)
    if model.branch is not None and not run.log and run.step == 0:
        # the regression alone, which no pass may be better than
        kept = model.heads.get_weights()
        model.heads.set_weights([np.zeros_like(weights) for weights in kept])
        run.note(0, np.nan, _watched(model, valid_x, valid_y, valid_weight))
        model.heads.set_weights(kept)
    stride = len(train)
    if checkpoint is not None:
        stride = -(-checkpoint_steps // STEPS_PER_EXECUTION) * STEPS_PER_EXECUTION
    with steps.bar as bar:
        while run.epoch <= epochs:
            if run.step == 0:
                train.on_epoch_end()  # at both ends of a pass, as in Keras's own fit
                run.order = train.order()
            while run.step < len(train):
                part = run.order[run.step : run.step + stride]
                steps.begin(run.epoch, run.step)
                how = {"verbose": 0, "callbacks": [steps], "shuffle": False}
                (loss_of_part,) = model.fit(feed(train, part), **how).history["loss"]
                run.loss_sum += loss_of_part * len(part)
                run.step += len(part)
                if run.step < len(train):
                    run.save()
            value = _watched(model, valid_x, valid_y, valid_weight)
            bar.set_postfix(valid=f"{value:.4f}")
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the validation loss is {value} after pass {run.epoch}: lower "
                    f"learning_rate (it was {learning_rate:g})"
                )
            improved = run.note(run.epoch, run.loss_sum / len(train), value)
            if not improved and run.epoch - run.best_epoch >= patience:
                break
            train.on_epoch_end()
            run.epoch, run.step, run.loss_sum = run.epoch + 1, 0, 0.0
            if run.epoch <= epochs:
                run.save()
    model.set_weights(run.best)
    run.finish()
    return pd.DataFrame(run.log).assign(best=lambda t: t["epoch"] == run.best_epoch)
