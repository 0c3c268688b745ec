"""A model that goes on: what it knew stays, what is new can be learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("one backend is enough", allow_module_level=True)

from schemes import SCHEMES, SPEC  # noqa: E402

from urlm_helpers.data import Dataset, Schema, from_frames  # noqa: E402
from urlm_helpers.features import CompactEmbedding  # noqa: E402
from urlm_helpers.model import FunnelLoss, UnifiedRecommender  # noqa: E402
from urlm_helpers.preprocessing import (  # noqa: E402
    Encoder,
    load_encoder,
    save_encoder,
)
from urlm_helpers.training import (  # noqa: E402
    fit_scenario,
    grow,
    grow_encoder,
    warm_start,
)

LARGER = replace(
    SPEC,
    fields={"user": 14, "item": 9, "scenario": 5},
    scenarios=(*SPEC.scenarios, "app"),
)
ALONE = ("separate", "hinet", "hmoe")  # whose scenarios can't be appended
QUIET: dict[str, Any] = {
    "epochs": 3,
    "patience": 3,
    "batch_size": 32,
    "learning_rate": 0.02,
}


def rows(n: int, scenarios: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    scenario = rng.integers(0, scenarios, n)
    fields = [rng.integers(0, 12, n), rng.integers(0, 9, n), 1 + scenario]
    return {
        "fields": np.stack(fields, axis=1).astype("int32"),
        "numeric": rng.normal(size=(n, 2)).astype("float32"),
        "history": rng.integers(0, 9, (n, 4, 1)).astype("int32"),
        "history_age": rng.random((n, 4)).astype("float32"),
        "scenario": scenario.astype("int32"),
    }


def made(scheme: str, **options: Any) -> UnifiedRecommender:
    """Make a model whose every weight is away from its start."""
    sharing = SCHEMES[scheme](3, 3, (6,))
    model = UnifiedRecommender(SPEC, sharing=sharing, dim=4, bottom=8, **options)
    rng = np.random.default_rng(1)
    old = model.get_weights()
    model.set_weights([w + 0.2 * rng.normal(size=w.shape) for w in old])
    return model


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in ALONE])
def test_a_grown_model_scores_as_before(scheme: str) -> None:
    model, x = made(scheme, match=4), rows(64)
    grown = grow(model, LARGER)
    np.testing.assert_allclose(grown.logits(x), model.logits(x), atol=2e-6)
    new, unseen = (
        {**x, "fields": np.where([[1, 0, 0]], u, x["fields"])} for u in (13, 0)
    )
    np.testing.assert_array_equal(grown.logits(new), grown.logits(unseen))


def test_a_new_scenario_starts_as_the_mean_of_the_others() -> None:
    model = made("shared_bottom")
    grown, x = grow(model, LARGER), rows(64)
    kernel = grown.heads.kernel.numpy()
    np.testing.assert_allclose(kernel[3], kernel[:3].mean(axis=0), atol=1e-6)
    table = grown.embedding.table.embeddings.numpy()
    names = table[14 + 9 :]
    np.testing.assert_allclose(names[4], names[1:4].mean(axis=0), atol=1e-6)
    x["fields"][:, 2] = 0  # without the name, the heads alone tell scenarios apart
    each = [grown.logits({**x, "scenario": np.full(64, s)}) for s in range(4)]
    np.testing.assert_allclose(each[3], np.mean(each[:3], axis=0), atol=1e-5)


@pytest.mark.parametrize("scheme", ["mmoe", "star", "urlm"])
def test_a_new_scenario_learns_and_no_other_moves_by_a_bit(scheme: str) -> None:
    model = grow(made(scheme, match=4), LARGER)
    old, own = rows(64), rows(200)
    own["fields"][:, 2], own["scenario"][:] = 4, 3
    y = np.tile(own["numeric"][:, :1] > 0, 3).astype("int8")
    parts = {"train": np.arange(150), "valid": np.arange(150, 200)}
    before, kept = model.logits(own), model.logits(old)
    mixed = {k: np.concatenate([own[k], old[k]]) for k in own}  # others are left out
    labels = np.concatenate([y, np.zeros((64, 3), "int8")])
    parts["train"] = np.concatenate([parts["train"], np.arange(200, 264)])
    how = {**QUIET, "weight_decay": 0.5}
    history = fit_scenario(model, mixed, labels, parts, "app", **how)
    assert history["valid_loss"].iloc[-1] < history["valid_loss"].iloc[0]
    valid = {name: array[150:] for name, array in own.items()}
    loss = FunnelLoss(SPEC.parents)(y[150:], model.logits(valid))
    assert float(loss) == pytest.approx(history["valid_loss"].min(), rel=1e-4)
    assert np.abs(model.logits(own) - before).max() > 0.1
    np.testing.assert_array_equal(model.logits(old), kept)
    assert all(v.trainable for v in model.trainable_variables)


def test_what_belongs_to_the_scenario_is_all_that_learns() -> None:
    model = grow(made("mmoe"), LARGER)
    own = rows(100)
    own["fields"][:, 2], own["scenario"][:] = 4, 3
    y = np.ones((100, 3), "int8")
    old = model.get_weights()
    parts = {"train": np.arange(80), "valid": np.arange(80, 100)}
    fit_scenario(model, own, y, parts, "app", **QUIET)
    moved = {
        v.path.split("/", 1)[-1]: (a != b).sum()
        for v, a, b in zip(model.weights, old, model.get_weights(), strict=True)
        if (a != b).any()
    }
    # 3 tasks: vectors of 6 and a bias; 4 gates for each of 8 inputs and a bias; a name
    assert sum(moved.values()) <= 3 * 7 + 12 * 9 + 4
    assert len(moved) == 5, moved


@pytest.mark.parametrize("scheme", ALONE)
def test_schemes_with_a_scenarios_own_layers_are_refused(scheme: str) -> None:
    with pytest.raises(NotImplementedError, match="train"):
        grow(made(scheme), LARGER)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"scenarios": ("app", *SPEC.scenarios)}, "must stand behind"),
        ({"fields": {"user": 11, "item": 9, "scenario": 4}}, "differ in more"),
        ({"numeric": ("age",)}, "differ in more"),
    ],
)
def test_other_inputs_are_refused(other: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        grow(made("mmoe"), replace(SPEC, **other))


def test_a_compact_table_is_refused() -> None:
    table = CompactEmbedding([12, 9, 4], 4, rows=6, above=10)
    model = UnifiedRecommender(SPEC, dim=4, embedding=table)
    with pytest.raises(NotImplementedError, match="CompactEmbedding"):
        grow(model, LARGER)


# --- with a log -----------------------------------------------------------------------

SCHEMA = Schema(("shop", "feed"), ("click",), item_categorical=("kind",))


def shop(days: int, scenarios: tuple[str, ...] = ("shop", "feed")) -> Dataset:
    """Make a log; each day users and items of later numbers come."""
    parts = []
    for day in range(days):
        rng = np.random.default_rng(day)
        user = rng.integers(1, 20 + 4 * day, 150)
        part = {
            "user": user,
            "item": [f"item {n}" for n in rng.integers(0, 8 + 3 * day, 150)],
            "scenario": rng.choice(scenarios, 150),
            "time": pd.Timestamp("2026-01-01")
            + pd.Timedelta(days=day)
            + pd.to_timedelta(np.arange(150), "min"),
            "click": (user % 2 == 0) ^ (rng.random(150) < 0.1),
        }
        parts.append(pd.DataFrame(part).astype({"click": int}))
    log = pd.concat(parts, ignore_index=True)
    items = pd.DataFrame({"item": log["item"].unique()})
    items["kind"] = items["item"].str[-1]
    schema = replace(SCHEMA, scenarios=scenarios)
    return from_frames(log, None, items, schema=schema)


HOW: dict[str, Any] = {"look_back": [["item"], ["user"]], "min_count": 3}


def test_a_grown_encoder_keeps_the_codes_and_appends(tmp_path: Path) -> None:
    old = Encoder(shop(3), "2026-01-04", **HOW)
    data = shop(6)
    grown = grow_encoder(old, data, "2026-01-06", min_count=3)
    late = data.interactions["time"] >= "2026-01-06"
    for name, known in old.vocabularies.items():
        values = grown.vocabularies[name].values
        assert values[: len(known.values)].equals(known.values)
        assert values.is_unique
    seen = data.interactions.loc[~late, "user"].value_counts()
    assert set(grown.vocabularies["user"].values) == set(seen.index[seen >= 3]) | set(
        old.vocabularies["user"].values
    )
    assert grown.spec.fields["user"] > old.spec.fields["user"]
    early = data.interactions[data.interactions["time"] < "2026-01-03"]
    one, two = (encoder.transform(early) for encoder in (old, grown))
    was = one["fields"] > 0
    np.testing.assert_array_equal(two["fields"][was], one["fields"][was])
    np.testing.assert_array_equal(two["numeric"], one["numeric"])
    save_encoder(grown, tmp_path / "encoder.npz")
    again = load_encoder(tmp_path / "encoder.npz").transform(data.interactions)
    for name, array in grown.transform(data.interactions).items():
        np.testing.assert_array_equal(again[name], array)


def test_a_grown_encoder_refuses_another_schema() -> None:
    old = Encoder(shop(2), "2026-01-03", **HOW)
    with pytest.raises(ValueError, match="must stand behind"):
        grow_encoder(old, shop(2, ("feed", "shop")))
    data = shop(2)
    other = replace(data, schema=replace(data.schema, consumed_again=True))
    with pytest.raises(ValueError, match="more than its scenarios"):
        grow_encoder(old, other)


def test_going_on_learns_the_new_days_and_replays_the_old() -> None:
    encoder = Encoder(shop(3), "2026-01-04", **HOW)
    model = UnifiedRecommender(encoder.spec, dim=4, bottom=8)
    before, data = model.get_weights(), shop(6)
    new = data.interactions.query("time >= '2026-01-04' and time < '2026-01-06'")
    losses = []
    for replay in (0.0, 1.0):
        how = {**QUIET, "min_count": 3, "replay": replay}
        how.pop("patience")
        keras.utils.set_random_seed(0)
        warm, grown = warm_start(
            model, encoder, data, "2026-01-04", "2026-01-06", **how
        )
        assert grown.spec == warm.spec and grown.spec.fields["user"] > 20
        p = warm.probabilities(grown.transform(new))[:, 0]
        losses.append(-np.log(np.where(new["click"] == 1, p, 1 - p)).mean())
    assert max(losses) < 0.6 and losses[0] != losses[1]
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    with pytest.raises(ValueError, match="no row is new"):
        warm_start(model, encoder, data, "2027-01-01")
