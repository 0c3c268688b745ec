"""The regression inside the model: its columns, its fit, and what starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from urlm_helpers.preprocessing import InputSpec

keras = pytest.importorskip("keras")

from urlm_helpers.model import (  # noqa: E402
    ProductBranch,
    UnifiedRecommender,
    branch,
)
from urlm_helpers.sharing import SharedBottom  # noqa: E402
from urlm_helpers.training import fit  # noqa: E402

SPEC = InputSpec(
    fields={"user": 30, "item": 40, "kind": 4, "size (bucket)": 5, "shelf": 99},
    numeric=("age", "price", "hour"),
    history_fields=(),
    history_length=0,
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
    user_side=("user", "age"),
    item_side=("item", "kind", "price", "size (bucket)", "shelf"),
)


def log(rows: int = 6_000, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return inputs and labels: the old want it dear in the shop, cheap in the feed."""
    rng = np.random.default_rng(seed)
    fields = [rng.integers(0, n, rows) for n in SPEC.fields.values()]
    numeric = rng.normal(size=(rows, 3)).astype("float32")
    scenario = rng.integers(0, 2, rows).astype("int32")
    match = numeric[:, 0] * numeric[:, 1] * np.where(scenario == 0, 1.5, -1.5)
    z = np.stack([match, numeric[:, 2] + (fields[2] == 1)], axis=1)
    y = (rng.random((rows, 2)) < 1 / (1 + np.exp(-z))).astype("float32")
    y[:, 1] *= y[:, 0]
    x = {"fields": np.stack(fields, axis=1), "numeric": numeric, "scenario": scenario}
    x["history"] = np.zeros((rows, 0, 0), "int32")
    x["history_age"] = np.zeros((rows, 0), "float32")
    return x, y


numbers = keras.ops.convert_to_numpy
PARTS = {"train": np.arange(4_000), "valid": np.arange(4_000, 6_000)}


def model(**options: Any) -> UnifiedRecommender:
    """Return a small model with the branch."""
    sharing = SharedBottom(2, 2, units=(8,))
    return UnifiedRecommender(SPEC, None, sharing, 4, 0, products=True, **options)


def test_columns_by_hand() -> None:
    """Numbers, one column per value of a small field, and age times the item's own."""
    layer = ProductBranch(SPEC)
    assert "shelf = 3" not in layer.names and "user = 3" not in layer.names
    assert len(layer.names) == 3 + 4 + 5 + (1 + 4)  # no bucket in the products
    x = {"fields": np.array([[7, 8, 2, 1, 50]]), "numeric": np.array([[2.0, 3, 5]])}
    found = dict(zip(layer.names, numbers(layer.columns(x))[0], strict=True))
    wanted = {"age": 2, "price": 3, "hour": 5, "kind = 2": 1, "size (bucket) = 1": 1}
    wanted |= {"age × price": 6, "age × kind = 2": 2}
    assert {name: value for name, value in found.items() if value} == wanted


def test_a_number_in_buckets_enters_by_its_buckets_and_in_products() -> None:
    """Not by itself; a count in buckets makes no products either."""
    fields = {**SPEC.fields, "price (bucket)": 6}
    layer = ProductBranch(replace(SPEC, fields=fields))
    assert {"price (bucket) = 5", "hour", "age × kind = 1", "age × price"} <= {
        *layer.names
    }
    assert "price" not in layer.names
    x = {"fields": np.array([[7, 8, 2, 1, 50, 5]]), "numeric": np.array([[2.0, 3, 5]])}
    found = dict(zip(layer.names, numbers(layer.columns(x))[0], strict=True))
    wanted = {"age": 2, "hour": 5, "kind = 2": 1, "size (bucket) = 1": 1}
    wanted |= {"price (bucket) = 5": 1, "age × price": 6, "age × kind = 2": 2}
    assert {name: value for name, value in found.items() if value} == wanted

    counted = "item: clicks"
    spec = replace(
        SPEC,
        numeric=("age", counted, "hour"),
        fields={**SPEC.fields, f"{counted} (bucket)": 6},
        item_side=("item", "kind", counted),
    )
    names = ProductBranch(spec).names
    assert f"{counted} (bucket) = 5" in names and "age × kind = 1" in names
    assert not {counted, f"age × {counted}"} & set(names)

    every = {f"{name} (bucket)": 3 for name in SPEC.numeric}
    layer = ProductBranch(replace(SPEC, fields={**SPEC.fields, **every}))
    x = log(8)[0] | {"fields": np.ones((8, 8), int)}
    assert np.array(layer.columns(x)).shape == (8, len(layer.names))
    assert "age × price" in layer.names


def test_it_finds_the_planted_weights() -> None:
    """Of each scenario and task, a child's where its parent happened."""
    x, y = log()
    layer = ProductBranch(SPEC)
    assert not layer.fitted
    layer.fit(x, y, PARTS["train"])
    kernel = numbers(layer.kernel)
    match = layer.names.index("age × price")
    np.testing.assert_allclose(kernel[:, 0, match], [1.5, -1.5], atol=0.25)
    assert np.abs(kernel[:, 1, match]).max() < 0.25
    np.testing.assert_allclose(kernel[:, 1, layer.names.index("hour")], 1, atol=0.25)
    assert layer.fitted


def test_it_reads_training_rows_alone() -> None:
    """Labels and numbers of other rows change nothing."""
    x, y = log()
    layers = [ProductBranch(SPEC) for _ in range(2)]
    layers[0].fit(x, y, PARTS["train"])
    later = PARTS["valid"]
    other = {**x, "numeric": x["numeric"].copy()}
    other["numeric"][later], wrong = 99, y.copy()
    wrong[later] = 1 - y[later]
    layers[1].fit(other, wrong, PARTS["train"])
    np.testing.assert_array_equal(*(numbers(layer.kernel) for layer in layers))


def test_many_rows_are_thinned_and_weighted_rows_count(monkeypatch: Any) -> None:
    """At most so many of a scenario; a row of weight 0 is as good as absent."""
    x, y = log()
    monkeypatch.setattr(branch, "ROWS", 500)
    rows = np.concatenate([*branch._some(PARTS["train"], x["scenario"][:4_000])])
    assert np.bincount(x["scenario"][rows]).tolist() == [500, 500]
    assert len(np.unique(rows)) == 1_000 and rows.max() < 4_000
    weight, wrong = np.ones(len(y)), y.copy()
    weight[::2], wrong[::2] = 0, 1 - y[::2]
    wrong[:, 1] *= wrong[:, 0]
    layer = ProductBranch(SPEC)
    layer.fit(x, wrong, PARTS["train"], weight)
    match = layer.names.index("age × price")
    assert numbers(layer.kernel)[0, 0, match] > 1


def test_thinned_negatives_move_the_level_alone() -> None:
    """With a tenth of the negatives logged the root's level falls by ln 10."""
    x, y = log()
    plain, thinned = (
        ProductBranch(SPEC),
        ProductBranch(replace(SPEC, negative_rate=0.1)),
    )
    for layer in (plain, thinned):
        layer.fit(x, y, PARTS["train"])
    np.testing.assert_array_equal(numbers(plain.kernel), numbers(thinned.kernel))
    fell = numbers(plain.bias) - numbers(thinned.bias)
    np.testing.assert_allclose(fell, [[np.log(10), 0]] * 2, atol=1e-5)


@pytest.mark.parametrize("step_size", [1e-9, 1.0])
def test_passes_that_lose_against_the_regression_are_not_kept(
    step_size: float, tmp_path: Path
) -> None:
    """A network that learned nothing, or went wild, leaves the regression alone."""
    x, y = log()
    made = model()
    curve = fit(made, x, y, PARTS, learning_rate=step_size, epochs=1, batch_size=64)
    assert curve["epoch"].tolist() == [0, 1] and curve["best"].tolist() == [True, False]
    np.testing.assert_allclose(made.logits(x), numbers(made.branch(x)), atol=1e-5)
    path = tmp_path / "model.keras"
    made.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_allclose(again.logits(x), made.logits(x), atol=1e-6)


def test_the_network_learns_what_the_regression_leaves() -> None:
    """A threshold, which no sum of products tells: the network's passes are kept."""
    x, y = log(12_000)
    steep = np.where(np.abs(x["numeric"][:, 2]) > 0.7, 2.0, -2.0)
    draw = np.random.default_rng(5).random(len(y))
    y[:, 0] = draw < 1 / (1 + np.exp(-steep))
    y[:, 1] *= y[:, 0]
    parts = {"train": np.arange(9_000), "valid": np.arange(9_000, 12_000)}
    how: dict[str, Any] = {"learning_rate": 4e-3, "epochs": 6, "batch_size": 64}
    curve = fit(model(), x, y, parts, **how).set_index("epoch")["valid_loss"]
    assert curve.min() < curve[0] - 0.1


def test_it_is_fitted_once_and_stays() -> None:
    """Training moves the network, not the regression; a reset forgets both."""
    x, y = log()
    made = model()
    fit(made, x, y, PARTS, learning_rate=4e-3, epochs=1, batch_size=512)
    kernel = numbers(made.branch.kernel)
    reference = ProductBranch(SPEC)
    reference.fit(x, y, PARTS["train"])
    np.testing.assert_array_equal(kernel, numbers(reference.kernel))
    few = {**PARTS, "train": PARTS["train"][:500]}
    fit(made, x, y, few, learning_rate=4e-3, epochs=1, batch_size=512)
    np.testing.assert_array_equal(kernel, numbers(made.branch.kernel))
    made.reset(0)
    assert not made.branch.fitted


def test_one_class_leaves_the_rest_in_peace() -> None:
    """A task that never happens gets no weights, and no NaN."""
    x, y = log()
    y[:, 1] = 0
    layer = ProductBranch(SPEC)
    layer.fit(x, y, PARTS["train"])
    assert not numbers(layer.kernel)[:, 1].any()
    assert np.isfinite(numbers(layer(x))).all()
