"""Training: row-wise steps, checkpoints, shards, memory, several devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip(
        "row-wise steps and strategies are TensorFlow's", allow_module_level=True
    )

import tensorflow as tf  # noqa: E402

from urlm_helpers.features import (  # noqa: E402
    CompactEmbedding,
    FieldEmbedding,
)
from urlm_helpers.model import UnifiedRecommender  # noqa: E402
from urlm_helpers.preprocessing import (  # noqa: E402
    InputSpec,
    read_shard,
    write_shards,
)
from urlm_helpers.sharing import MMoE  # noqa: E402
from urlm_helpers.training import (  # noqa: E402
    GIB,
    Batches,
    RowAdam,
    ShardBatches,
    check_memory,
    checkpoints,
    choose_devices,
    devices,
    feed,
    fit,
    fit_batches,
    launch,
    table_rows,
    train_worker,
    training_memory,
)
from urlm_helpers.training import loop as training  # noqa: E402

pytestmark = pytest.mark.xla  # as for readers; most tests share one compiled model

SIZES = {"user": 50, "item": 30}
SPEC = InputSpec(SIZES, ("age",), ("item",), 3, ("a", "b"), ("click", "buy"), {})


def model(seed: int = 0, **options: Any) -> UnifiedRecommender:
    keras.utils.set_random_seed(seed)
    sharing = MMoE(2, 2, units=(8,), experts=2, towers=(4,))
    return UnifiedRecommender(SPEC, sharing=sharing, dim=4, bottom=8, **options)


def log(rows: int = 1500, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return inputs, and labels that depend on the item and the number."""
    rng = np.random.default_rng(seed)
    fields = np.stack([rng.integers(0, n, rows) for n in SIZES.values()], axis=1)
    age = rng.normal(size=(rows, 1)).astype("float32")
    x = {
        "fields": fields.astype("int32"),
        "numeric": age,
        "history": rng.integers(0, 30, (rows, 3, 1)).astype("int32"),
        "history_age": np.ones((rows, 3), "float32"),
        "scenario": rng.integers(0, 2, rows).astype("int32"),
    }
    score = np.sin(fields[:, 1])[:, None] + age * [[1.0, -1.0]]
    return x, (score + rng.normal(size=score.shape) > 0).astype("int8")


X, Y = log()
PARTS = {"train": np.arange(1200), "valid": np.arange(1200, 1500)}


@pytest.fixture(scope="module")
def compiled() -> UnifiedRecommender:
    return model()


@pytest.fixture
def same(compiled: UnifiedRecommender) -> UnifiedRecommender:
    """A model as ``model()`` returns it, which keeps what was compiled for batches of
    16 rows: most of a short test's time.
    """
    compiled.reset(0)
    return compiled


def table_model(optimizer: Any, jit: bool, rows: int = 9) -> Any:
    keras.utils.set_random_seed(1)
    layers = [keras.Input((2,), dtype="int32"), keras.layers.Embedding(rows, 3)]
    one = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1)])
    one.compile(optimizer, "mse", jit_compile=jit)
    return one


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_row_adam_is_adam_where_every_row_occurs(jit: bool, decay: float) -> None:
    rng = np.random.default_rng(0)
    twice = np.concatenate([np.arange(9), np.arange(9)]).reshape(-1, 2)
    adam = keras.optimizers.AdamW(0.01, weight_decay=decay)
    models = [table_model(o, jit) for o in (adam, RowAdam(0.01, decay))]
    for _ in range(20):
        target = rng.normal(size=(9, 1))
        for one in models:
            one.train_on_batch(twice, target)
    for a, b in zip(*(one.get_weights() for one in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_row_adam_is_a_loop_over_the_rows_of_the_batch() -> None:
    one = table_model(RowAdam(0.01), jit=True)
    table = one.layers[0].embeddings
    w = table.numpy().astype("float64")
    m, v = np.zeros_like(w), np.zeros_like(w)
    rng = np.random.default_rng(0)
    for step in range(1, 8):
        rows, target = rng.integers(0, 6, (4, 2)), rng.normal(size=(4, 1))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((one(rows) - target) ** 2)
        found = tape.gradient(loss, table.value)
        at, each = found.indices.numpy(), found.values.numpy()
        one.train_on_batch(rows, target)
        for row in np.unique(rows):
            own = each[at == row]  # one for each time that the row occurs
            m[row] += 0.1 * (own.sum(axis=0) - m[row])
            v[row] += 0.001 * ((own**2).sum(axis=0) - v[row])
            rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            w[row] -= rate * m[row] / (np.sqrt(v[row]) + 1e-7)
        np.testing.assert_allclose(table.numpy(), w, rtol=1e-3, atol=1e-6)
    assert np.array_equal(table.numpy()[6:].astype("float64"), w[6:])


def test_row_adam_is_saved_with_the_model_and_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    batches = [(rng.integers(0, 9, (8, 2)), rng.normal(size=(8, 1))) for _ in range(6)]
    one = table_model(RowAdam(0.01, 0.1), jit=True)
    for batch in batches[:3]:
        one.train_on_batch(*batch)
    one.save(tmp_path / "one.keras")
    other = keras.models.load_model(tmp_path / "one.keras")
    assert isinstance(other.optimizer, RowAdam)
    for batch in batches[3:]:
        for each in (one, other):
            each.train_on_batch(*batch)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fit_takes_row_adam_for_large_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    one = model()
    assert table_rows(one) == (80, 4)
    fit(one, X, Y, PARTS, batch_size=100)
    assert isinstance(one.optimizer, keras.optimizers.AdamW)
    monkeypatch.setattr(training, "ROW_WISE_FROM", 80)
    fit(one, X, Y, PARTS, batch_size=100)
    assert isinstance(one.optimizer, RowAdam)
    before = one.embedding.table.embeddings.numpy()
    few = {**X, "fields": X["fields"] % 10, "history": X["history"] % 10}
    fit(one, few, Y, PARTS, batch_size=100)
    moved = (one.embedding.table.embeddings.numpy() != before).any(axis=1)
    assert moved[[*range(10), *range(50, 60)]].all() and moved.sum() == 20


def test_the_order_is_that_of_the_seed() -> None:
    def order(seed: int) -> list[int]:
        return Batches(X, Y, PARTS["train"], 100, seed).rows.tolist()

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == PARTS["train"].tolist()


@pytest.mark.parametrize(("row_wise", "saves"), [(False, 1), (True, 4)])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same: UnifiedRecommender,
    row_wise: bool,
    saves: int,
) -> None:
    path = tmp_path / "run.npz"
    how: dict[str, Any] = {"batch_size": 16, "epochs": 3, "patience": 3, "seed": 5}
    how |= {"row_wise": row_wise, "checkpoint_steps": 21}
    fit(same, X, Y, PARTS, **how)  # 75 steps a pass, a checkpoint each 40
    whole = same.get_weights()
    same.reset(0)
    save, calls = checkpoints.Progress.save, []

    def cut(progress: checkpoints.Progress) -> None:
        save(progress)
        calls.append(progress.step)
        if len(calls) == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Progress, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            fit(same, X, Y, PARTS, checkpoint=path, **how)
    other = model(seed=7)  # draws other numbers, too
    with pytest.raises(ValueError, match="seed=5, this one has seed=6"):
        fit(other, X, Y, PARTS, checkpoint=path, **{**how, "seed": 6})
    table = fit(other, X, Y, PARTS, checkpoint=path, **how)
    assert calls == [40, 0, 40, 0][:saves] and len(table) == 3
    assert not path.exists()
    for a, b in zip(whole, other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("quality", "patience", "passes", "best"),
    [
        ([1, 3, 2, 3, 2, 9], 3, 5, 2),  # as good as the best is not better
        ([1, 3, 2, 4, 3, 2], 2, 6, 4),
        ([5, 4, 3, 2, 1, 9], 5, 6, 6),
        ([5, 4, 3, 2, 1, 9], 4, 5, 1),
        ([1, 2, 3, 4, 5, 6], 1, 6, 6),
    ],
)
def test_what_fit_hands_back_is_the_pass_with_the_lowest_loss(
    monkeypatch: pytest.MonkeyPatch,
    same: UnifiedRecommender,
    tmp_path: Path,
    quality: list[int],
    patience: int,
    passes: int,
    best: int,
    cut: bool,
) -> None:
    seen: list[list[np.ndarray]] = []

    def logits(self: Any, x: Any) -> np.ndarray:
        seen.append(self.get_weights())
        return quality[len(seen) - 1] * (2.0 * Y[PARTS["valid"]] - 1.0)

    monkeypatch.setattr(UnifiedRecommender, "logits", logits)
    how: dict[str, Any] = {"batch_size": 16, "epochs": 6, "patience": patience}
    parts = PARTS | {"train": np.arange(320)}
    if cut:
        how |= {"checkpoint": tmp_path / "run.npz", "checkpoint_steps": 500}
        save = checkpoints.Progress.save

        def stop(progress: checkpoints.Progress) -> None:
            save(progress)
            if progress.epoch == 4:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checkpoints.Progress, "save", stop)
            fit(same, X, Y, parts, **how)
        same.reset(3)
    table = fit(same, X, Y, parts, **how)
    assert table["epoch"].tolist() == list(range(1, passes + 1))
    assert table.loc[table["best"], "epoch"].tolist() == [best]
    assert table["valid_loss"].idxmin() == best - 1
    for own, kept in zip(same.get_weights(), seen[best - 1], strict=True):
        np.testing.assert_array_equal(own, kept)
    assert any((a != b).any() for a, b in zip(seen[0], seen[1], strict=True))


def test_the_bar_counts_every_step_once(
    monkeypatch: pytest.MonkeyPatch, same: UnifiedRecommender
) -> None:
    ends = []
    after = training._Steps.on_train_batch_end

    def watch(steps: Any, batch: int, logs: Any = None) -> None:
        after(steps, batch, logs)
        ends.append(steps.bar.n)

    monkeypatch.setattr(training._Steps, "on_train_batch_end", watch)
    fit(same, X, Y, PARTS, batch_size=16, epochs=2, patience=2)
    assert ends == [20, 40, 60, 75, 95, 115, 135, 150]


def test_shards_hold_every_row_once_in_a_new_order_each_pass(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, X, Y, shard_rows=190)
    assert len(paths) == 8 and not list(tmp_path.glob("*.part"))
    back = read_shard(paths[0])
    for name, array in {**X, "labels": Y}.items():
        np.testing.assert_array_equal(back[name], array[:190])
        assert back[name].dtype == array.dtype
    with pytest.raises(FileExistsError, match="name an empty one"):
        write_shards(tmp_path, X, Y)
    batches = ShardBatches(tmp_path, batch_size=100, mix=3)
    assert len(batches) == 15
    orders = []
    for _ in range(2):
        got = [batches[b] for b in range(15)]
        rows = np.concatenate([inputs["numeric"][:, 0] for inputs, _ in got])
        labels = np.concatenate([labels for _, labels in got])
        at = pd.Series(range(1500), index=X["numeric"][:, 0]).loc[rows]
        assert sorted(at) == list(range(1500))
        np.testing.assert_array_equal(labels, Y[at])
        first = at.to_numpy()[:100] // 190
        assert len(set(first)) == 3  # rows of three shards in a batch
        orders.append(at.to_numpy())
        again = batches[4][0]["numeric"][:, 0]
        np.testing.assert_array_equal(again, rows[400:500])
        assert len(batches._loaded) <= 3
        batches.on_epoch_end()
    assert (orders[0] != orders[1]).any()
    same = ShardBatches(tmp_path, batch_size=100, mix=3)
    np.testing.assert_array_equal(same[7][0]["fields"], X["fields"][orders[0][700:800]])


def test_bad_shards_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Parquet file"):
        ShardBatches(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "0.parquet")
    with pytest.raises(ValueError, match="do not fill a batch"):
        ShardBatches(tmp_path, batch_size=2)
    with pytest.raises(ValueError, match="write_shards"):
        ShardBatches(tmp_path, batch_size=1)[0]


def test_training_from_shards_is_training_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: UnifiedRecommender
) -> None:
    write_shards(tmp_path, X, Y, PARTS["train"], shard_rows=100)
    valid = (
        {name: array[PARTS["valid"]] for name, array in X.items()},
        Y[PARTS["valid"]],
    )

    def run(seed: int, **how: Any) -> pd.DataFrame:
        same.reset(seed)
        train = ShardBatches(tmp_path, batch_size=16, mix=4)
        return fit_batches(same, train, *valid, epochs=2, patience=2, **how)

    untrained = same.logits(valid[0])
    table = run(0)
    whole, before = same.get_weights(), float(same.loss(valid[1], untrained))
    assert table["valid_loss"].min() < before - 0.05
    path = tmp_path / "run.npz"
    save = checkpoints.Progress.save

    def cut(progress: checkpoints.Progress) -> None:
        save(progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Progress, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            run(0, checkpoint=path, checkpoint_steps=40)
    run(1, checkpoint=path, checkpoint_steps=40)
    for a, b in zip(whole, same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pass_is_read_without_the_autotuner(
    monkeypatch: pytest.MonkeyPatch, same: UnifiedRecommender
) -> None:
    read: list[Any] = []
    own = UnifiedRecommender.fit

    def watched(self: Any, data: Any, **how: Any) -> Any:
        read.append(data)
        return own(self, data, **how)

    monkeypatch.setattr(UnifiedRecommender, "fit", watched)
    fit(same, X, Y, PARTS, batch_size=16, epochs=2, patience=2)
    assert len(read) == 2 and all(len(data) == 1200 // 16 for data in read)
    assert not any(data.options().autotune.enabled for data in read)


def test_a_feed_gives_every_batch_in_its_order() -> None:
    batches = Batches(X, Y, PARTS["train"], 64)
    for numbers in (None, [2, 0, 2]):
        expected = range(len(batches)) if numbers is None else numbers
        fed = list(feed(batches, numbers))
        assert len(fed) == len(feed(batches, numbers)) == len(expected)
        for b, (inputs, labels) in zip(expected, fed, strict=True):
            np.testing.assert_array_equal(labels, batches[b][1])
            for name, array in batches[b][0].items():
                np.testing.assert_array_equal(inputs[name], array)


def test_half_precision_trains_what_float32_does(same: UnifiedRecommender) -> None:
    how: dict[str, Any] = {"batch_size": 16, "epochs": 2, "patience": 2}
    plain = fit(same, X, Y, PARTS, row_wise=True, **how)["valid_loss"]
    keras.config.set_dtype_policy("mixed_float16")  # as on a GPU
    try:
        one = model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert one.sharing.compute_dtype == "float16"
    one.reset(0)  # as the other: a part that is loaded draws its weights first
    half = fit(one, X, Y, PARTS, row_wise=True, **how)["valid_loss"]
    np.testing.assert_allclose(half, plain, atol=0.01)


def test_steps_fall_along_a_cosine_or_stay(
    monkeypatch: pytest.MonkeyPatch, same: UnifiedRecommender
) -> None:
    seen: list[float] = []
    before = training._Steps.on_train_batch_end

    def watch(self: Any, batch: int, logs: Any = None) -> None:
        seen.append(float(self.model.optimizer.learning_rate))
        before(self, batch, logs)

    monkeypatch.setattr(training._Steps, "on_train_batch_end", watch)
    fit(same, X, Y, PARTS, batch_size=16, learning_rate=0.01)
    falling, seen[:] = list(seen), []
    fit(same, X, Y, PARTS, batch_size=16, learning_rate=0.01, decay=False)
    assert len(falling) == len(seen) >= 3
    np.testing.assert_allclose(seen, 0.01, rtol=1e-6)
    assert falling[0] == pytest.approx(0.01) and falling[-1] < 0.005


@pytest.mark.parametrize(("steps", "epochs"), [(6, 4), (1, 3), (21, 3), (45, 2)])
def test_the_step_size_never_rises_again(steps: int, epochs: int) -> None:
    falling = training._Steps(0.01, epochs, steps, decay=True)
    falling.set_model(SimpleNamespace(optimizer=SimpleNamespace()))
    seen = []
    for epoch in range(1, epochs + 1):
        falling.begin(epoch, 0)
        for step in range(0, steps, training.STEPS_PER_EXECUTION):
            falling.on_train_batch_begin(step)
            seen.append(falling.model.optimizer.learning_rate)
    assert seen[0] == 0.01 and (np.diff(seen) <= 0).all()
    if steps <= training.STEPS_PER_EXECUTION:  # a pass is one stair
        cosine = 0.005 * (1 + np.cos(np.pi * np.arange(epochs) / epochs))
        np.testing.assert_allclose(seen, cosine)


def test_a_scaled_table_moves_further_in_a_step_and_starts_alike(
    tmp_path: Path,
) -> None:
    rows, moved = np.array([[3, 1]]), {}
    for scale in (1.0, 20.0):
        keras.utils.set_random_seed(0)
        table = FieldEmbedding([5_000, 4], 8, scale=scale)
        table.build()
        weights = table.table.embeddings
        np.testing.assert_allclose(
            table(rows)[0], scale * weights.numpy()[[3, 5_001]], rtol=1e-6
        )
        start = scale * weights.numpy()[:5_000]
        assert start.std() == pytest.approx(0.01, rel=0.05)
        before = table(rows).numpy()
        with tf.GradientTape() as tape:
            out = tf.reduce_sum(table(rows))
        keras.optimizers.Adam(0.001).apply(
            [tape.gradient(out, weights.value)], [weights]
        )
        moved[scale] = before - table(rows).numpy()
    np.testing.assert_allclose(moved[1.0], 0.001, rtol=1e-3)
    np.testing.assert_allclose(moved[20.0], 0.02, rtol=1e-3)
    one = model(embedding=FieldEmbedding([50, 30], 4, scale=20.0))
    one.save(tmp_path / "one.keras")
    again = keras.models.load_model(tmp_path / "one.keras")
    assert again.embedding.scale == 20.0
    np.testing.assert_allclose(again.logits(X), one.logits(X), atol=1e-6)
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        FieldEmbedding([3], 2, scale=0)


def test_memory_is_predicted_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = training_memory(1000, 8, dense_parameters=50).set_index("part")["GiB"] * GIB
    expected = [4 * 8050, 8 * 8050, 4000, 200, 4 * 8050, 0]
    assert parts.round().tolist() == [*expected, sum(expected)]
    dense = training_memory(1000, 8, row_wise=False).set_index("part")["GiB"] * GIB
    assert dense["gradients"] == 4 * 8000 and dense["slots"] == 0
    monkeypatch.setattr(devices, "available_memory", lambda: 40_000)
    with pytest.raises(MemoryError, match=r"raise min_count .* lower dim"):
        check_memory(training_memory(1000, 8))
    monkeypatch.setattr(devices, "available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="GiB are free"):
        fit(model(), X, Y, PARTS)
    check_memory(training_memory(1000, 8), already=expected[0] * 100)


def test_available_memory_obeys_a_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = devices.available_memory()
    assert 10**8 < real < 10**14
    import builtins
    import io

    files = {
        "/sys/fs/cgroup/memory.max": "5000",
        "/sys/fs/cgroup/memory.current": "2000",
    }
    opened = builtins.open

    def fake(path: Any, *args: Any, **kwargs: Any) -> Any:
        known = str(path) in files
        return io.StringIO(files[str(path)]) if known else opened(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", fake)
    assert devices.available_memory() == 3000


@pytest.mark.parametrize("how", ["hash", "quotient_remainder"])
def test_a_compact_table_is_the_formula(how: str, tmp_path: Path) -> None:
    layer = CompactEmbedding([40, 5, 60], dim=2, rows=30, how=how, above=5)
    layer.build()
    rng = np.random.default_rng(0)
    table = layer.table.embeddings
    if how == "quotient_remainder":
        assert layer.modulus + -(-100 // layer.modulus) <= 30
        assert (table.numpy()[5 + layer.modulus :] == 1).all()
    table.assign(rng.normal(size=table.shape))
    t, m = table.numpy(), layer.modulus
    indices = np.array([[39, 4, 0], [0, 0, 59], [31, 2, 31]])
    got = layer(indices).numpy()
    for r, row in enumerate(indices):
        for f, (value, offset) in enumerate(zip(row, [0, 0, 40], strict=True)):
            i = value + offset
            if f == 1:
                expected = t[value]
            else:
                expected = t[5 + i % m]
                if how == "quotient_remainder":
                    expected = expected * t[5 + m + i // m]
            np.testing.assert_allclose(got[r, f], expected, rtol=1e-6)
    own = layer(indices[:, [2]], fields=[2]).numpy()
    np.testing.assert_array_equal(own[:, 0], got[:, 2])
    if how == "quotient_remainder":  # no two values share a vector
        every = layer(np.arange(40)[:, None], fields=[0]).numpy().reshape(40, 2)
        assert len(np.unique(every, axis=0)) == 40


def test_a_model_with_a_compact_table_is_saved_and_loaded(tmp_path: Path) -> None:
    table = CompactEmbedding([50, 30], 4, rows=20, how="quotient_remainder", above=40)
    one = model(embedding=table)
    fit(one, X, Y, PARTS, batch_size=100)
    one.save(tmp_path / "one.keras")
    other = keras.models.load_model(tmp_path / "one.keras")
    np.testing.assert_allclose(other.logits(X), one.logits(X), atol=1e-6)
    with pytest.raises(ValueError, match="the embedding is for"):
        model(embedding=CompactEmbedding([99, 30], 4, rows=20, above=40))
    bads: list[dict[str, Any]] = [{"how": "magic"}, {"above": 50}]
    for bad in (*bads, {"rows": 3, "how": "quotient_remainder"}):
        how: dict[str, Any] = {"rows": 20, "above": 40, **bad}
        with pytest.raises(ValueError, match="rows|CompactEmbedding needs"):
            CompactEmbedding([50, 30], 4, **how)


def test_one_device_is_chosen_and_a_missing_one_named() -> None:
    choice = choose_devices(["CPU:0"])
    assert choice.compiled and choice.precision == "float32"
    with pytest.raises(ValueError, match=r"no device \['GPU:7'\]; there are"):
        choose_devices(["GPU:7"])


PROGRAM = """
import json, os, signal, sys
import numpy as np
sys.path[:0] = {path!r}
import tensorflow as tf
from test_training import PARTS, X, Y, log, model
{body}
"""


def program(body: str) -> list[str]:
    """Return the command of a process of its own."""
    root = Path(__file__).parent
    text = PROGRAM.format(path=[str(root.parent), str(root)], body=body)
    return [sys.executable, "-c", text]


def run(body: str) -> Any:
    """Run a program; what it printed last, as JSON."""
    command = program(body)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


MIRRORED = """
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from urlm_helpers.training import choose_devices
from urlm_helpers.training import fit
out = []
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    choice = choose_devices(devices)
    for row_wise in (False, True):
        with choice.strategy.scope():
            one = model()
        table = fit(one, X, Y, PARTS, batch_size=64, epochs=2, row_wise=row_wise)
        assert one.jit_compile == choice.compiled == (len(devices) == 1)
        replicas = choice.strategy.num_replicas_in_sync
        out.append([replicas, row_wise, *table["valid_loss"]])
print(json.dumps(out))
"""


def test_two_mirrored_devices_train_what_one_does() -> None:
    one, one_row_wise, two, two_row_wise = run(MIRRORED)
    assert [one[0], two[0]] == [1, 2] and two_row_wise[1]
    np.testing.assert_allclose(two[2:], one[2:], rtol=1e-4)
    np.testing.assert_allclose(two_row_wise[2:], one_row_wise[2:], rtol=1e-4)


WORKER = """
from urlm_helpers.training import train_worker
from urlm_helpers.training import workers
out, checkpoint = sys.argv[1:]
worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
class Dying(workers.Batches):  # the second worker, once, in step 25
    def __getitem__(self, batch):
        if batch == 25 and worker == 1 and not os.path.exists(out + ".died"):
            open(out + ".died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(batch)
workers.Batches = Dying
one, losses = train_worker(model, X, Y, PARTS["train"], steps=35, batch_size=32,
    checkpoint=checkpoint, checkpoint_steps=10)
total = float(sum(np.abs(w).sum() for w in one.get_weights()))
json.dump([losses.tolist(), total], open(f"{out}.{worker}", "w"))
"""


def test_two_workers_train_what_one_does_and_survive_a_death(tmp_path: Path) -> None:
    one, alone = train_worker(model, X, Y, PARTS["train"], steps=35, batch_size=32)
    total = float(sum(np.abs(w).sum() for w in one.get_weights()))
    command, checkpoint = program(WORKER), tmp_path / "run.npz"
    command += [str(tmp_path / "pair"), str(checkpoint)]
    assert launch(command, workers=2) == 1
    assert (tmp_path / "pair.died").exists()
    first, second = (json.loads((tmp_path / f"pair.{i}").read_text()) for i in (0, 1))
    assert first == second and len(first[0]) == 35
    np.testing.assert_allclose(first[0], alone, rtol=1e-4)
    assert abs(first[1] - total) < 1e-3 * total
    with np.load(checkpoint) as file:
        assert json.loads(str(file["state"]))["step"] == 30


def test_a_program_that_always_fails_is_given_up() -> None:
    with pytest.raises(RuntimeError, match="in each of 2 starts"):
        launch([sys.executable, "-c", "raise SystemExit(3)"], restarts=1)
