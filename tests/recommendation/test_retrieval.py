"""Two towers and their loss, against brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from urlm_helpers.preprocessing import InputSpec

keras = pytest.importorskip("keras")

from urlm_helpers.recommendation import (  # noqa: E402
    TwoTower,
    fit_towers,
    in_batch_softmax,
    sampling_probability,
)

SPEC = InputSpec(
    fields={"user": 9, "item": 31, "scenario": 3},
    numeric=("age", "price", "met before"),
    history_fields=("item",),
    history_length=4,
    scenarios=("shop", "feed"),
    tasks=("click",),
    funnel={},
)
USER, ITEM = ["user", "age", "scenario", "history"], ["item", "price"]


def inputs(rows: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = list(SPEC.fields.values())
    return {
        "fields": np.stack([rng.integers(0, n, rows) for n in sizes], 1).astype("i4"),
        "numeric": rng.normal(size=(rows, 3)).astype("f4"),
        "history": rng.integers(0, 31, (rows, 4, 1)).astype("i4"),
        "history_age": rng.random((rows, 4)).astype("f4"),
        "scenario": rng.integers(0, 2, rows).astype("i4"),
    }


def make(seed: int = 0, **options: Any) -> TwoTower:
    keras.utils.set_random_seed(seed)
    model = TwoTower(SPEC, USER, ITEM, dim=5, units=(7,), **options)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


# --- the loss -------------------------------------------------------------------------


def slow_loss(
    user: np.ndarray, item: np.ndarray, ids: np.ndarray, q: np.ndarray, tau: float
) -> list[float]:
    losses = []
    for i in range(len(user)):
        others = [j for j in range(len(user)) if j == i or ids[j] != ids[i]]
        s = {j: user[i] @ item[j] / tau - np.log(q[j]) for j in others}
        losses.append(-s[i] + np.log(sum(np.exp(value) for value in s.values())))
    return losses


def test_loss_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 12, 4)).astype("f4")
    ids = rng.integers(0, 6, 12)
    assert len(np.unique(ids)) < 12
    q = sampling_probability(ids)
    for probability in (q, np.ones(12, "f4"), q * 1e-8):
        loss = in_batch_softmax(user, item, ids, probability, 0.5)
        wanted = slow_loss(user, item, ids, probability, 0.5)
        np.testing.assert_allclose(np.asarray(loss), wanted, rtol=1e-4)


def test_sampling_probability_counts_rows() -> None:
    q = sampling_probability([5, 5, 3, 5])
    np.testing.assert_allclose(q, [0.75, 0.75, 0.25, 0.75])


def test_training_uses_raw_ids_and_the_correction() -> None:
    """compute_loss is in_batch_softmax over the raw ids, with Q as y."""
    model, x = make(), inputs()
    codes = np.arange(40, dtype="i4") % 7
    q = sampling_probability(codes)
    user, item = model(x)
    loss = model.compute_loss({**x, "candidate": codes}, q, (user, item))
    u, v = model.user_vectors(x), model.item_vectors(x)
    wanted = np.mean(slow_loss(u, v, codes, q, model.temperature))
    assert float(loss) == pytest.approx(wanted, rel=1e-4)


def test_correction_keeps_what_everybody_wants() -> None:
    """Positives drawn from a known softmax: with logQ the scores find it back.

    All users want the same: item i with probability p_i, none above 10 %. Without the
    correction the best score is the same for every item; with it, log p_i and a
    constant.
    """
    p = np.geomspace(1, 12, 30)
    p /= p.sum()
    assert p.max() < 0.1
    items = np.random.default_rng(0).choice(30, 6000, p=p)
    x = {name: np.zeros_like(array) for name, array in inputs(6000).items()}
    x["fields"][:, 1] = items + 1
    each = {name: array[:30].copy() for name, array in x.items()}
    each["fields"][:, 1] = np.arange(30) + 1
    model = TwoTower(SPEC, USER, ["item"], 5, (), 1.0, False)
    slope = {}
    for corrected in (False, True):
        model.reset(0)
        options: dict[str, Any] = {"epochs": 10, "learning_rate": 0.03}
        fit_towers(model, x, items, corrected=corrected, batch_size=200, **options)
        score = model.item_vectors(each) @ model.user_vectors(each)[0]
        slope[corrected] = np.polyfit(np.log(p), score, 1)[0]
    assert slope[True] == pytest.approx(1, abs=0.15)
    assert slope[False] == pytest.approx(0, abs=0.15)


# --- the model ------------------------------------------------------------------------


def test_towers_see_their_own_columns_alone() -> None:
    model, x = make(), inputs()
    u, v = model.user_vectors(x), model.item_vectors(x)
    columns = {"user": 0, "item": 1, "scenario": 2}
    for name, column in columns.items():
        changed = {**x, "fields": x["fields"].copy()}
        changed["fields"][:, column] = (changed["fields"][:, column] + 1) % 3
        assert (model.user_vectors(changed) != u).any() == (name in USER)
        assert (model.item_vectors(changed) != v).any() == (name in ITEM)
    for column, name in enumerate(SPEC.numeric):
        changed = {**x, "numeric": x["numeric"].copy()}
        changed["numeric"][:, column] += 1
        assert (model.user_vectors(changed) != u).any() == (name in USER)
        assert (model.item_vectors(changed) != v).any() == (name in ITEM)
    changed = {**x, "history": x["history"] % 3 + 1}
    assert (model.user_vectors(changed) != u).any()
    assert (model.item_vectors(changed) == v).all()


def test_padding_changes_nothing() -> None:
    model, x = make(), inputs()
    short = {**x, "history": x["history"].copy()}
    short["history"][:, :2] = 0
    longer = {**short, "history": np.pad(short["history"], ((0, 0), (3, 0), (0, 0)))}
    np.testing.assert_allclose(
        model.user_vectors(longer), model.user_vectors(short), atol=1e-6
    )


def test_what_is_padded_is_mute_and_what_is_real_is_not() -> None:
    model, x = make(), inputs()
    x["history"] = np.maximum(x["history"], 1)
    x["history"][:, :2] = 0
    before = model.user_vectors(x)
    table = model.user_tower.past_embedding.table
    vectors = table.get_weights()[0].copy()
    vectors[0] = 9  # what a padded position looks up
    table.set_weights([vectors])
    np.testing.assert_allclose(model.user_vectors(x), before, atol=1e-6)
    moved = {**x, "history": x["history"].copy()}
    moved["history"][:, -1] = x["history"][:, -1] % 30 + 1
    assert (np.abs(model.user_vectors(moved) - before).max(axis=1) > 1e-4).all()


def test_rows_are_independent() -> None:
    model, x = make(), inputs()
    order = np.random.default_rng(1).permutation(40)
    moved = {name: array[order] for name, array in x.items()}
    for vectors in (model.user_vectors, model.item_vectors):
        np.testing.assert_allclose(vectors(moved), vectors(x)[order], atol=1e-6)


@pytest.mark.parametrize("unit_length", [True, False])
def test_lengths(unit_length: bool) -> None:
    model = make(unit_length=unit_length)
    length = np.linalg.norm(model.item_vectors(inputs()), axis=1)
    assert np.allclose(length, 1, atol=1e-5) == unit_length


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make(), inputs()
    whole = model.item_vectors(x)
    monkeypatch.setattr("urlm_helpers.recommendation.towers.CHUNK", 7)
    np.testing.assert_allclose(model.item_vectors(x), whole, atol=1e-6)
    none = {name: array[:0] for name, array in x.items()}
    assert model.user_vectors(none).shape == (0, 5)


def test_every_weight_is_trained() -> None:
    model, x = make(), inputs()
    before = [w.copy() for w in model.get_weights()]
    fit_towers(model, x, np.arange(40), epochs=2, batch_size=40)
    for old, new, weight in zip(
        before, model.get_weights(), model.weights, strict=True
    ):
        assert (old != new).any(), weight.path


@pytest.mark.xla
def test_same_seed_same_weights_and_save_and_load(tmp_path: Path) -> None:
    x, model = inputs(), make()
    runs = []
    for _ in range(2):
        model.reset(3)
        fit_towers(model, x, np.arange(40) % 9, epochs=2, batch_size=10, seed=3)
        runs.append((model.user_vectors(x), model.item_vectors(x)))
    vectors = runs[0]
    np.testing.assert_array_equal(runs[1], vectors)
    model.save(tmp_path / "towers.keras")
    loaded = keras.saving.load_model(tmp_path / "towers.keras")
    np.testing.assert_array_equal(loaded.user_vectors(x), vectors[0])
    np.testing.assert_array_equal(loaded.item_vectors(x), vectors[1])


BAD: dict[str, tuple[Any, str]] = {
    "column": (lambda: TwoTower(SPEC, ["sex"], ITEM), "unknown: .'sex'"),
    "no column": (lambda: TwoTower(SPEC, [], ITEM), "got 0 columns"),
    "both towers": (lambda: TwoTower(SPEC, USER, ["age"]), "'age'. in both"),
    "temperature": (
        lambda: TwoTower(SPEC, USER, ITEM, temperature=0.0),
        "temperature is above 0",
    ),
    "one row": (lambda: fit_towers(make(), inputs(1), [1]), "two rows or more"),
    "items": (lambda: fit_towers(make(), inputs(4), [1, 2, 3]), "one item per row"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()
