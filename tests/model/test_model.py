"""The invariants of the model, on a small log with every part in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from urlm_helpers.data import Schema, clean, from_frames
from urlm_helpers.preprocessing import (
    Buckets,
    InputSpec,
    Prepared,
    Scaler,
    Vocabulary,
    prepare,
    split_by_time,
)

keras = pytest.importorskip("keras")

from urlm_helpers.features import (  # noqa: E402
    HSTU,
    ConvPool,
    MeanPool,
    SelfAttention,
    TargetAttention,
)
from urlm_helpers.model import (  # noqa: E402
    FunnelLoss,
    UnifiedRecommender,
)
from urlm_helpers.recommendation import candidates, recommend  # noqa: E402
from urlm_helpers.sharing import MMoE, SharedBottom  # noqa: E402
from urlm_helpers.training import fit  # noqa: E402
from urlm_helpers.training import loop as training  # noqa: E402

OPTIONS: dict[str, Any] = {"look_back": [["user"], ["user", "item"]], "min_count": 1}
CUTS = ("2024-03-01", "2024-04-01")


def log(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return a funnel of clicks and purchases in two scenarios over 120 days."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2024-01-01")
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 20, rows),
            "item": rng.integers(0, 30, rows),
            "scenario": rng.choice(["shop", "feed"], rows),
            "time": start + pd.to_timedelta(rng.integers(0, 120 * 24, rows), "h"),
            "click": rng.integers(0, 2, rows),
        }
    )
    frame["buy"] = frame["click"] * rng.integers(0, 2, rows)
    return frame


def prepared(frame: pd.DataFrame) -> Prepared:
    """Encode the log."""
    schema = Schema(("shop", "feed"), ("click", "buy"), funnel={"buy": "click"})
    items = pd.DataFrame({"item": range(30)})
    return prepare(from_frames(frame, items=items, schema=schema), *CUTS, **OPTIONS)


def make(data: Prepared, sharing: str = "mmoe") -> UnifiedRecommender:
    """Return an untrained model with visible weights everywhere."""
    keras.utils.set_random_seed(1)
    scheme = {"mmoe": MMoE, "bottom": SharedBottom}[sharing](2, 2, units=(8,))
    model = UnifiedRecommender(data.encoder.spec, ConvPool(), scheme, dim=4)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def data() -> Prepared:
    """Return the encoded log."""
    return prepared(log())


@pytest.fixture(scope="module")
def used(data: Prepared) -> UnifiedRecommender:
    """Return a model that was fitted before, and is compiled: tests reset it."""
    model = UnifiedRecommender(data.encoder.spec, dim=4)
    fit(model, data.x, data.y, data.parts, seed=8)
    return model


def test_look_back_equals_a_loop_over_the_past(data: Prepared) -> None:
    encoder, rows = data.encoder, data.rows
    names = [n for n in encoder.numeric_names if n.endswith(": count")]
    assert names == ["user: count", "user × item: count"]
    events = encoder.events
    for name, by in zip(names, (["user"], ["user", "item"]), strict=True):
        column = encoder.numeric_names.index(name)
        scaled = data.x["numeric"][:, column]
        raw = scaled * encoder.scaler.std[column] + encoder.scaler.mean[column]
        for r in range(0, len(rows), 17):
            row = rows.iloc[r]
            past = events[events["time"] < row["time"]]
            same = (past[by] == row[by]).all(axis=1).sum()
            assert np.expm1(raw[r]) == pytest.approx(same, abs=1e-3)


def test_history_holds_the_last_earlier_events_oldest_first(data: Prepared) -> None:
    events = data.encoder.events.sort_values("time", kind="stable")
    codes = data.encoder.vocabularies["item"]
    for r in range(0, len(data.rows), 23):
        row = data.rows.iloc[r]
        own = events[(events["user"] == row["user"]) & (events["time"] < row["time"])]
        expected = codes.encode(own["item"])[-32:]
        history = data.x["history"][r, :, 0]
        np.testing.assert_array_equal(history[history > 0], expected)
        assert not history[: 32 - len(expected)].any()


def test_the_future_changes_nothing_of_the_past() -> None:
    before = prepared(log())
    changed = log()
    late = changed["time"] >= "2024-03-01"
    changed.loc[late, "item"] = 29 - changed.loc[late, "item"]
    changed.loc[late, ["click", "buy"]] = 1
    after = prepared(changed)
    rows = before.parts["train"]
    for name in before.x:
        np.testing.assert_array_equal(before.x[name][rows], after.x[name][rows])
    assert before.encoder.spec == after.encoder.spec


@pytest.mark.parametrize("sharing", ["mmoe", "bottom"])
def test_rows_are_independent_and_padding_is_mute(data: Prepared, sharing: str) -> None:
    model, x = make(data, sharing), {k: v[:40] for k, v in data.x.items()}
    p = model.probabilities(x)
    order = np.random.default_rng(0).permutation(40)
    shuffled = model.probabilities({k: v[order] for k, v in x.items()})
    np.testing.assert_allclose(shuffled, p[order], atol=1e-6)
    alone = model.probabilities({k: v[3:4] for k, v in x.items()})
    np.testing.assert_allclose(alone, p[3:4], atol=1e-6)
    assert (p[:, 1] <= p[:, 0]).all()


@pytest.mark.parametrize("encoder", [MeanPool(), ConvPool()])
def test_a_padded_position_changes_nothing(encoder: MeanPool | ConvPool) -> None:
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(2, 6, 4)).astype("float32")
    mask = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]], "float32")
    noisy = np.where(mask[..., None] > 0, steps, 9.0).astype("float32")
    np.testing.assert_allclose(encoder(steps, mask), encoder(noisy, mask), atol=1e-6)


def test_every_parameter_gets_a_gradient(data: Prepared) -> None:
    tf = pytest.importorskip("tensorflow")
    model, loss = make(data), FunnelLoss([-1, 0])
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(data.y, model(data.x)))
    gradients = tape.gradient(value, [w.value for w in model.trainable_variables])
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, weight.path
    gate = np.abs(
        gradients[
            [w.path for w in model.trainable_variables].index(
                next(
                    w.path
                    for w in model.trainable_variables
                    if w.path.endswith("gate/bias")
                )
            )
        ]
    )
    assert (gate > 0).all()


@pytest.mark.parametrize("bypass", [True, False])
def test_the_match_multiplies_user_and_item_before_layers_and_heads(
    data: Prepared, tmp_path, bypass: bool
) -> None:
    spec, x = data.encoder.spec, {k: v[:50] for k, v in data.x.items()}
    counts = {
        f"user: {n}" for n in ("count", "last 7 days", "last 28 days", "days since")
    }
    assert set(spec.user_side) == {"user", *counts} and spec.item_side == ("item",)
    sharing = SharedBottom(2, 2, units=(8,))
    options: dict[str, Any] = {"dim": 4, "bottom": 0, "match": 6, "crosses": 1}
    model = UnifiedRecommender(spec, ConvPool(), sharing, bypass=bypass, **options)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    table, start = np.asarray(model.embedding.table.embeddings), model.embedding.offsets
    columns = [spec.numeric.index(n) for n in spec.user_side[1:]]
    user = np.hstack([table[x["fields"][:, 0]], x["numeric"][:, columns]])
    item = table[x["fields"][:, 1] + start[1]]
    (w, b), (v, c) = (
        side.get_weights() for side in (model.match.of_user, model.match.of_item)
    )
    pairs = (user @ w + b) * (item @ v + c)
    np.testing.assert_allclose(model.pairs(x), pairs, atol=1e-5)
    z = np.hstack([np.asarray(model.represent(x)), pairs])
    kernel, bias = model.crosses[0].get_weights()
    z = z * (z @ kernel + bias) + z
    kernel, bias = sharing.bottom.layers[0].get_weights()
    z = np.hstack([np.maximum(z @ kernel + bias, 0), *([pairs] if bypass else [])])
    kernel, bias = (w[x["scenario"]] for w in model.heads.get_weights())
    expected = np.einsum("nd,ntd->nt", z, kernel) + bias
    np.testing.assert_allclose(model.logits(x), expected, rtol=1e-4, atol=1e-3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.logits(x), model.logits(x), rtol=1e-5)


def test_each_event_of_a_history_has_its_age_in_days(data: Prepared) -> None:
    events = data.encoder.events.sort_values("time", kind="stable")
    for r in range(0, len(data.rows), 37):
        row = data.rows.iloc[r]
        own = events[(events["user"] == row["user"]) & (events["time"] < row["time"])]
        days = (row["time"] - own["time"]).dt.total_seconds().to_numpy()[-32:] / 86_400
        ages = data.x["history_age"][r]
        np.testing.assert_allclose(ages[32 - len(days) :], days, rtol=1e-5)
        assert not ages[: 32 - len(days)].any()


@pytest.mark.xla  # shares `used`
def test_weight_decay_pulls_weights_towards_zero(
    data: Prepared, used: UnifiedRecommender
) -> None:
    sizes: dict[float, float] = {}
    for decay in (0.0, 5.0, 0.0):
        used.reset(0)
        fit(used, data.x, data.y, data.parts, weight_decay=decay)
        size = sum(float(np.square(w).sum()) for w in used.get_weights())
        assert sizes.setdefault(decay, size) == size  # compiled anew where it changes
    assert sizes[5.0] < 0.99 * sizes[0.0]


def test_saved_and_loaded_scores_are_the_same(data: Prepared, tmp_path) -> None:
    model = make(data)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.probabilities(data.x), model.probabilities(data.x), atol=1e-6
    )


@pytest.mark.xla
def test_same_seed_same_weights_and_the_loss_falls(
    data: Prepared, used: UnifiedRecommender
) -> None:
    weights = []
    fresh = UnifiedRecommender(data.encoder.spec, dim=4)
    for model in (fresh, used, used):  # a model that was fitted before starts anew
        model.reset(3)
        table = fit(model, data.x, data.y, data.parts, epochs=4, patience=4)
        weights.append(model.get_weights())
    for one, two, three in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0]


@pytest.mark.xla  # shares `used`
def test_the_step_size_falls_without_a_progress_bar_too(
    data: Prepared, used: UnifiedRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "tqdm", partial(training.tqdm, disable=True))
    used.reset(0)
    options: dict[str, Any] = {"epochs": 3, "patience": 3, "batch_size": 1}
    fit(used, data.x, data.y, data.parts, learning_rate=1.0, **options)
    assert 0 < float(used.optimizer.learning_rate) < 0.1
    fit(used, data.x, data.y, data.parts, learning_rate=2.0, **options)
    assert 0 < float(used.optimizer.learning_rate) < 0.2


def test_one_scenario_one_task_shared_bottom_is_a_plain_network(data: Prepared) -> None:
    spec = replace(data.encoder.spec, scenarios=("one",), tasks=("click",), funnel={})
    x = {**data.x, "scenario": np.zeros(len(data.y), "int32")}
    for scheme in (SharedBottom, MMoE):
        model = UnifiedRecommender(spec, MeanPool(), scheme(1, 1, (8,)), dim=4)
        model.reset(0)
        fit(model, x, data.y[:, :1], data.parts)
        assert np.isfinite(model.probabilities(x)).all()
    model = UnifiedRecommender(spec, MeanPool(), SharedBottom(1, 1, (8,)), dim=4)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    z = np.asarray(model.represent(x))
    for layer in (model.bottom, model.sharing.bottom.layers[0]):
        kernel, bias = layer.get_weights()
        z = np.maximum(z @ kernel + bias, 0)
    kernel, bias = model.heads.get_weights()
    expected = z @ kernel[0, 0][:, None] + bias[0]
    np.testing.assert_allclose(model.logits(x), expected, atol=1e-4)


def test_the_loss_learns_the_rate_before_down_sampling() -> None:
    kept, rate = 1000, 0.1
    y = np.zeros((kept, 1))
    y[:500] = 1  # 500 of 500 + 500 / 0.1 rows
    z = np.full((kept, 1), np.log(500 / (500 / rate)))
    loss = FunnelLoss([-1], rate)
    best = float(loss(y, z))
    assert best < float(loss(y, z + 0.01)) and best < float(loss(y, z - 0.01))
    with pytest.raises(ValueError, match="one root task"):
        FunnelLoss([-1, -1], 0.5)


def test_recommend_ranks_by_probability_and_leaves_out_the_consumed(
    data: Prepared,
) -> None:
    model = make(data)
    rows = candidates(data.encoder, [1, 2], "shop", "2024-04-20")
    best = recommend(model, data.encoder, rows, k=5)
    assert (best["consumed"] == 0).all() and len(best) == 10
    assert (
        best.groupby("user")["p_click"].apply(lambda p: p.is_monotonic_decreasing).all()
    )
    kept = recommend(model, data.encoder, rows, k=30, keep_consumed=True)
    assert len(kept) == 60 and (kept["consumed"] > 0).any()
    with pytest.raises(ValueError, match="unknown scenario 'street'"):
        candidates(data.encoder, [1], "street", "2024-04-20")


def test_predictions_stand_beside_the_labels_and_weights_of_their_rows() -> None:
    frame = log()
    kept = replace(
        Schema(("shop", "feed"), ("click", "buy"), funnel={"buy": "click"}),
        negative_rate=0.25,
    )
    items = pd.DataFrame({"item": range(30)})
    data = prepare(from_frames(frame, items=items, schema=kept), *CUTS, **OPTIONS)
    rows = data.parts["test"][::2]
    p = np.linspace(0.1, 0.9, 2 * len(rows)).reshape(-1, 2)
    table = data.predictions(rows, p)
    truth = data.rows.iloc[rows]
    for column, expected in {
        "user": truth["user"],
        "y_buy": truth["buy"],
        "p_buy": p[:, 1],
        "weight": np.where(truth["click"] == 1, 1, 4),
    }.items():
        np.testing.assert_array_equal(table[column], expected)
    assert list(data.predictions(rows, p[:, 0]))[3:] == ["y_click", "p_click"]
    np.testing.assert_array_equal(data.take(rows)["scenario"], data.x["scenario"][rows])
    with pytest.raises(ValueError, match="up to 2 tasks"):
        data.predictions(rows, p[1:])


@pytest.mark.xla  # shares `used`
def test_a_diverging_run_says_so(data: Prepared, used: UnifiedRecommender) -> None:
    used.reset(0)
    broken = {**data.x, "numeric": np.full_like(data.x["numeric"], np.nan)}
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        fit(used, broken, data.y, data.parts)


def test_what_is_fitted_and_what_is_refused() -> None:
    words = Vocabulary.fit(pd.Series(["a", "a", "b"]), min_count=2)
    assert words.encode(pd.Series(["a", "b", "z", None])).tolist() == [1, 0, 0, 0]
    assert Scaler.fit(np.array([[2.0], [4.0]])).transform(np.array([[3.0]])) == 0
    assert Buckets.fit(np.arange(9.0), 3).encode(np.array([-5.0, 99.0])).tolist() == [
        1,
        3,
    ]
    with pytest.raises(ValueError, match="no row falls into"):
        split_by_time(pd.Series(pd.to_datetime(["2024-01-01"])), *CUTS)
    with pytest.raises(KeyError, match="no column"):
        clean(pd.DataFrame({"a": [1]}), required=["b"])


# --- the history ----------------------------------------------------------------------

SPEC = InputSpec(
    fields={"user": 5, "category": 4, "item": 7},
    numeric=("age",),
    history_fields=("item", "category"),
    history_length=3,
    scenarios=("shop",),
    tasks=("click",),
    funnel={},
)
PAST: dict[str, np.ndarray] = {  # no, one and two events, and one of an unknown item
    "fields": np.array([[1, 2, 3], [4, 1, 6], [2, 3, 5], [3, 3, 1]]),
    "numeric": np.zeros((4, 1), "float32"),
    "history": np.array(
        [[[0, 0]] * 3, [[0, 0]] * 2 + [[6, 1]], [[0, 0], [2, 3], [4, 2]]]
        + [[[0, 0], [0, 0], [0, 2]]]
    ),
    "history_age": np.array([[0, 0, 0], [0, 0, 2], [0, 9, 5], [0, 0, 1]], "float32"),
    "scenario": np.zeros(4, "int32"),
}


def with_past(encoder: Any, **options: Any) -> UnifiedRecommender:
    """Return a model with visible weights, and histories of two fields."""
    sharing = SharedBottom(1, 1, (8,))
    model = UnifiedRecommender(SPEC, encoder, sharing, dim=4, **options)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


def test_a_history_is_looked_up_in_its_own_fields_and_meets_the_item() -> None:
    model = with_past(MeanPool())
    table = np.asarray(model.embedding.table.embeddings)
    fields = PAST["fields"] + [0, 5, 9]  # where each field's vectors begin
    steps = table[PAST["history"] + [9, 5]].sum(axis=2)
    real = (PAST["history"] != 0).max(axis=-1)
    assert real.sum(axis=1).tolist() == [0, 1, 2, 1]
    past = np.where(real[..., None], steps, 0).sum(axis=1)
    past = past / np.maximum(real.sum(axis=1, keepdims=True), 1)
    target = table[fields[:, 1]] + table[fields[:, 2]]
    kernel = np.asarray(model.project.kernel)
    got = np.asarray(model.represent(PAST))
    np.testing.assert_allclose(got[:, -4:], past @ kernel * target, atol=1e-6)
    np.testing.assert_allclose(got[:, :12], table[fields].reshape(4, 12), atol=1e-6)
    pair = table[fields[:, 0]] * table[fields[:, 2]]
    np.testing.assert_allclose(got[:, 12:16], pair, atol=1e-6)


def test_a_history_may_enter_as_its_own_vector(tmp_path) -> None:
    model = with_past(MeanPool(), history="vector")
    assert not any("project" in w.path for w in model.trainable_variables)
    steps = np.asarray(model.embedding(PAST["history"], fields=[2, 1])).sum(axis=2)
    real = (PAST["history"] != 0).any(axis=-1)
    expected = np.asarray(model.encoder(steps, real.astype("float32")))
    got = np.asarray(model.represent(PAST))[:, -4:]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.logits(PAST), model.logits(PAST), rtol=1e-5)
    with pytest.raises(ValueError, match="one of .*vector.*, got 'both'"):
        with_past(MeanPool(), history="both")


@pytest.mark.parametrize(
    "encoder", [MeanPool, ConvPool, TargetAttention, SelfAttention, HSTU]
)
def test_what_is_padded_is_mute_and_what_is_real_is_not(encoder: Any) -> None:
    model = with_past(encoder())
    before = np.asarray(model.represent(PAST))
    table = np.asarray(model.embedding.table.embeddings).copy()
    table[[5, 9]] = 9  # what an unknown category and item, and a padded event, look up
    model.embedding.table.set_weights([table])
    age = np.where(PAST["history"].any(axis=-1), PAST["history_age"], 77)
    after = np.asarray(model.represent({**PAST, "history_age": age}))
    np.testing.assert_allclose(after[:3], before[:3], atol=1e-5)
    history = PAST["history"].copy()
    history[:, -1] = [3, 1]
    moved = np.asarray(model.represent({**PAST, "history": history}))
    apart = np.abs(moved[1:3, -4:] - after[1:3, -4:]).max(axis=1)
    assert (apart > 1e-3).all()
