"""Weights of rows: one of 2 is the row twice, one of 0 is the row gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("the gradients are taken with TensorFlow", allow_module_level=True)

import tensorflow as tf  # noqa: E402

from urlm_helpers.model import (  # noqa: E402
    Balance,
    DoublyRobustLoss,
    EntireSpaceLoss,
    FunnelLoss,
    InversePropensityLoss,
    UncertaintyWeights,
    UnifiedRecommender,
)
from urlm_helpers.preprocessing import (  # noqa: E402
    InputSpec,
    read_shard,
    write_shards,
)
from urlm_helpers.sharing import MMoE  # noqa: E402
from urlm_helpers.training import (  # noqa: E402
    Batches,
    ShardBatches,
    fit,
    fit_batches,
    loop,
)

SPEC = InputSpec(
    {"user": 9, "item": 7},
    ("age",),
    ("item",),
    2,
    ("a", "b"),
    ("click", "buy"),
    {"buy": "click"},
    0.5,
)
N, TRAIN = 60, np.arange(40)
VALID = np.arange(40, 60)


def log() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    x = {
        "fields": rng.integers(0, 7, (N, 2)).astype("int32"),
        "numeric": rng.normal(size=(N, 1)).astype("float32"),
        "history": rng.integers(0, 7, (N, 2, 1)).astype("int32"),
        "history_age": np.ones((N, 2), "float32"),
        "scenario": rng.integers(0, 2, N).astype("int32"),
    }
    y = rng.random((N, 2)) < 0.5
    return x, np.cumprod(y, axis=1).astype("int8")


X, Y = log()
TIMES = np.random.default_rng(1).integers(0, 4, N)
AGAIN = np.repeat(np.arange(N), TIMES)  # each row as often as it counts


def model(loss: Any = None, balance: Balance | None = None) -> UnifiedRecommender:
    keras.utils.set_random_seed(0)
    sharing = MMoE(2, 2, units=(4,), experts=2, towers=(3,))
    imputed = isinstance(loss, DoublyRobustLoss)
    return UnifiedRecommender(
        SPEC, sharing=sharing, dim=2, bottom=4, imputed=imputed, balance=balance
    )


def rows(of: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return {name: array[of] for name, array in X.items()}, Y[of]


LOSSES = (FunnelLoss, EntireSpaceLoss, InversePropensityLoss, DoublyRobustLoss)


@pytest.mark.parametrize("balance", [None, UncertaintyWeights])
@pytest.mark.parametrize("kind", LOSSES)
def test_the_gradient_is_that_of_rows_repeated(kind: Any, balance: Any) -> None:
    loss = kind(SPEC.parents, SPEC.negative_rate)
    one = model(loss, balance and balance())
    one.compile(keras.optimizers.SGD(), loss, run_eagerly=True)
    found = []
    for batch in (
        Batches(X, Y, np.arange(N), N, sample_weight=TIMES * 10.0)[0],
        Batches(X, Y, AGAIN, len(AGAIN))[0],
    ):
        x, y, *weight = batch
        with tf.GradientTape() as tape:
            value = one.compute_loss(x, y, one(x, training=True), *weight)
        variables = [v.value for v in one.trainable_variables]
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, variables)]
        found.append([value, *gradients])
    for weighted, repeated in zip(*found, strict=True):
        np.testing.assert_allclose(weighted, repeated, rtol=1e-4, atol=1e-6)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler: each test has batches of another size."""
    how = {"steps_per_execution": 1, "jit_compile": False, "run_eagerly": True}
    monkeypatch.setattr(loop, "compiling", lambda *_: how)


HOW: dict[str, Any] = {"epochs": 3, "patience": 3}


def assert_same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    for column in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(first[column], second[column], rtol=1e-4)


def test_a_row_that_counts_nothing_is_gone(plain: None) -> None:
    here = (TIMES > 0).astype(float)
    with_it, without = model(), model()
    parts = {"train": TRAIN, "valid": VALID}
    table = fit(with_it, X, Y, parts, batch_size=N, sample_weight=here, **HOW)
    parts = {name: at[here[at] > 0] for name, at in parts.items()}
    assert_same(table, fit(without, X, Y, parts, batch_size=N, **HOW))
    for a, b in zip(with_it.get_weights(), without.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_losses_that_fit_reports_are_those_of_rows_repeated(plain: None) -> None:
    parts = {"train": TRAIN, "valid": VALID}
    options: dict[str, Any] = {"batch_size": 200, "epochs": 1, "learning_rate": 1e-9}
    table = fit(model(), X, Y, parts, sample_weight=TIMES, **options)
    again = {name: np.repeat(at, TIMES[at]) for name, at in parts.items()}
    assert_same(table, fit(model(), X, Y, again, **options))


def test_shards_carry_weights(plain: None, tmp_path: Path) -> None:
    write_shards(tmp_path, X, Y, TRAIN, shard_rows=7, sample_weight=TIMES)
    kept = read_shard(tmp_path / "000001.parquet")["sample_weight"]
    np.testing.assert_array_equal(kept, TIMES[TRAIN][7:14])
    order = np.argsort(X["numeric"][:, 0])
    batches = ShardBatches(tmp_path, batch_size=8, mix=2)
    for b in range(len(batches)):
        x, y, weight = batches[b]
        numbers = X["numeric"][order, 0]
        at = order[np.searchsorted(numbers, x["numeric"][:, 0])]
        np.testing.assert_array_equal(y, Y[at])
        np.testing.assert_allclose(weight, TIMES[at] / TIMES[TRAIN].mean(), rtol=1e-6)
    from_shards, from_memory = model(), model()
    whole = ShardBatches(tmp_path, batch_size=len(TRAIN))
    valid: Any = rows(VALID)
    table = fit_batches(from_shards, whole, *valid, valid_weight=TIMES[VALID], **HOW)
    parts = {"train": TRAIN, "valid": VALID}
    same = fit(from_memory, X, Y, parts, batch_size=N, sample_weight=TIMES, **HOW)
    assert_same(table, same)


def test_equal_weights_are_none(plain: None) -> None:
    one, other = model(), model()
    parts = {"train": TRAIN, "valid": VALID}
    first = fit(one, X, Y, parts, batch_size=16, **HOW)
    keras.utils.set_random_seed(0)
    model()  # as before the first run
    second = fit(other, X, Y, parts, batch_size=16, sample_weight=np.full(N, 7), **HOW)
    assert_same(first, second)


BAD = {
    "one short": np.ones(N - 1),
    "a column": np.ones((N, 1)),
    "NaN": np.where(np.arange(N) == 3, np.nan, 1.0),
    "infinite": np.where(np.arange(N) == 3, np.inf, 1.0),
    "negative": np.where(np.arange(N) == 3, -0.1, 1.0),
    "none at all": np.zeros(N),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_refused(case: str) -> None:
    with pytest.raises(ValueError, match="sample_weight"):
        Batches(X, Y, TRAIN, 8, sample_weight=BAD[case])


def test_a_run_with_other_weights_does_not_go_on(plain: None, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    one = model()
    loop._compile(one, FunnelLoss(SPEC.parents, SPEC.negative_rate), 0.0, False)
    parts = {"train": TRAIN, "valid": VALID}
    saved: dict[str, Any] = {"batch_size": 16, "checkpoint": path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Progress, "finish", loop.Progress.save)
        fit(one, X, Y, parts, sample_weight=TIMES, **saved)
    for other in (None, TIMES + 1):
        with pytest.raises(ValueError, match="holds a run with sample_weight="):
            fit(one, X, Y, parts, sample_weight=other, **saved)
    saved["sample_weight"] = TIMES
    for how in (
        {"weights": [3.0, *[1.0] * (Y.shape[1] - 1)]},
        {"loss": EntireSpaceLoss(SPEC.parents)},
    ):
        with pytest.raises(ValueError, match="holds a run with loss="):
            fit(one, X, Y, parts, **how, **saved)
