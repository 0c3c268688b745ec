"""Half precision: every layer in every precision that `choose_devices` proposes.

The products of layers are computed in float16 or bfloat16, weights stay float32, and
so do logits, losses, ages, batch statistics and the balance of the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from schemes import SCHEMES, SPEC, asked, fill, rows  # noqa: E402

from urlm_helpers import features  # noqa: E402
from urlm_helpers.model import (  # noqa: E402
    DoublyRobustLoss,
    EntireSpaceLoss,
    FunnelLoss,
    GradNorm,
    Heads,
    InversePropensityLoss,
    NextAction,
    PCGrad,
    UncertaintyWeights,
    UnifiedRecommender,
)
from urlm_helpers.recommendation import TwoTower  # noqa: E402
from urlm_helpers.sharing import MMoE, PartitionedNorm  # noqa: E402
from urlm_helpers.training import RowAdam, choose_devices, fit  # noqa: E402

EPSILON = {"float32": 2.0**-23, "mixed_float16": 2.0**-10, "mixed_bfloat16": 2.0**-7}
"""What stands between 1 and the next number that a precision has."""

ROUNDINGS = 12
"""A layer rounds its inputs, weights and output, each by half of EPSILON at most, and
the deepest path has eight layers one after the other: 3 / 2 * 8."""

HALVES = [name for name in EPSILON if name != "float32"]
ENCODERS: dict[str, Callable[[], Any]] = {
    "mean": features.MeanPool,
    "convolution": features.ConvPool,
    "target": lambda: features.TargetAttention(units=5),
    "self": lambda: features.SelfAttention(blocks=2, heads=2),
    "hstu": lambda: features.HSTU(blocks=2, heads=2, time_buckets=6),
}
TABLES = {
    "hash": lambda: features.CompactEmbedding([12, 9, 4], 4, rows=8, above=8),
    "quotient_remainder": lambda: features.CompactEmbedding(
        [12, 9, 4], 4, rows=12, how="quotient_remainder", above=8, scale=10.0
    ),
}
BALANCES = [UncertaintyWeights, GradNorm, PCGrad]


def balance(kind: Any) -> Any:
    """Return a scheme with its defaults; GradNorm looks at a layer of an MMoE."""
    return kind("expert_0/dense_1", batches=2) if kind is GradNorm else kind()


LOSSES = [FunnelLoss, EntireSpaceLoss, InversePropensityLoss, DoublyRobustLoss]
Array = np.ndarray
each_half = pytest.mark.parametrize("half", HALVES)


@pytest.fixture(autouse=True)
def policy(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Return what sets the precision; afterwards it is float32 again.

    Nothing is traced that runs once or twice: that takes longer than to run it.
    Programs as readers run them have the mark ``xla``.
    """
    tf.config.run_functions_eagerly(request.node.get_closest_marker("xla") is None)
    yield keras.mixed_precision.set_dtype_policy
    keras.mixed_precision.set_dtype_policy("float32")
    tf.config.run_functions_eagerly(False)


def numbers(tensor: Any) -> Array:
    """Return a tensor of any precision as float32."""
    return np.asarray(keras.ops.cast(tensor, "float32"))


def assert_near(got: Any, expected: Any, half: str) -> None:
    """Compare with float32: as near as the roundings allow, relative to the largest."""
    got, expected = numbers(got), numbers(expected)
    assert np.isfinite(got).all()
    off = np.abs(got - expected).max() / max(np.abs(expected).max(), 1.0)
    assert off <= ROUNDINGS * EPSILON[half], off


def assert_gradients(layer: Any, value: Callable[[], Any]) -> None:
    """Check that every trainable weight has a finite gradient that is not 0."""
    with tf.GradientTape() as tape:
        scalar = value()
    assert scalar.dtype == "float32"
    weights = layer.trainable_variables
    found = tape.gradient(scalar, [w.value for w in weights])
    for weight, gradient in zip(weights, found, strict=True):
        assert gradient is not None, weight.path
        size = np.abs(tf.convert_to_tensor(gradient))
        assert weight.dtype == "float32" and gradient.dtype == "float32"
        assert np.isfinite(size).all() and size.max() > 0, weight.path


def loss_of(outputs: Any) -> Any:
    """Return a number that depends on all outputs."""
    wide = [keras.ops.cast(o, "float32") for o in outputs]
    return tf.add_n([tf.reduce_mean(o * o + tf.sin(3 * o)) for o in wide])


def pair(
    make: Callable[[], Any], shape: Any, half: str, policy: Any, *more: Any
) -> list[Any]:
    """Return a layer in float32 and the same in half precision."""
    layers = []
    for name in ("float32", half):
        policy(name)
        layer = make()
        if shape is not None:
            layer.build(shape, *more)
        fill(layer)
        layers.append(layer)
    return layers


def test_the_tested_precisions_are_those_that_are_proposed() -> None:
    assert choose_devices().precision in EPSILON


# --- encoders ---------------------------------------------------------------------

LENGTH, DIM = 6, 4


def histories() -> tuple[Array, Array, Array, Array]:
    """Return histories of every number of events, half a year old, hours apart."""
    rng, n = np.random.default_rng(0), 21
    mask = np.arange(LENGTH) >= LENGTH - (np.arange(n) % (LENGTH + 1))[:, None]
    hours = np.sort(2.0 ** rng.uniform(-1, 5, (n, LENGTH)), axis=1)[:, ::-1]
    shape = (n, LENGTH, DIM)
    sequence, target = rng.normal(size=shape), rng.normal(size=(n, DIM))
    arrays = sequence, mask, target, 200 + hours / 24
    return tuple(a.astype("float32") for a in arrays)  # type: ignore[return-value]


@each_half
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder(kind: str, half: str, policy: Any) -> None:
    exact, layer = pair(ENCODERS[kind], (None, LENGTH, DIM), half, policy)
    sequence, mask, target, age = histories()
    got = layer(sequence, mask, target, age)
    assert got.dtype == half.removeprefix("mixed_")
    policy("float32")
    assert_near(got, exact(sequence, mask, target, age), half)
    policy(half)
    padded = mask == 0
    noisy = np.where(padded[..., None], 9, sequence).astype("float32")
    other = layer(noisy, mask, target, np.where(padded, 300, age).astype("float32"))
    np.testing.assert_array_equal(numbers(other), numbers(got))
    assert_gradients(layer, lambda: loss_of([layer(sequence, mask, target, age)]))


@each_half
def test_half_a_year_ago_an_hour_is_still_an_hour(half: str, policy: Any) -> None:
    exact, layer = pair(ENCODERS["hstu"], (None, LENGTH, DIM), half, policy)
    sequence, mask, target, age = histories()
    policy("float32")
    apart = np.asarray(exact(sequence, mask, age=age))
    at_once = np.asarray(exact(sequence, mask, age=np.full_like(age, 200)))
    assert np.abs(apart - at_once).max() > 2 * ROUNDINGS * EPSILON[half]
    policy(half)
    assert_near(layer(sequence, mask, age=age), apart, half)


@each_half
@pytest.mark.parametrize("kind", TABLES)
def test_a_compact_table(kind: str, half: str, policy: Any) -> None:
    exact, layer = pair(TABLES[kind], (), half, policy)
    x, _ = rows()
    assert_near(layer(x["fields"]), exact(x["fields"]), half)
    assert_gradients(layer, lambda: loss_of([layer(x["fields"])]))


@each_half
def test_the_match(half: str, policy: Any) -> None:
    layers = []
    for name in ("float32", half):
        policy(name)
        layers.append(features.Match(units=6))
        layers[-1].build((None, 5), (None, 3))
        fill(layers[-1])
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(20, n)).astype("float32") for n in (5, 3)]
    assert_near(layers[1](*sides), layers[0](*sides), half)
    assert_gradients(layers[1], lambda: loss_of([layers[1](*sides)]))


# --- sharing ----------------------------------------------------------------------


@each_half
@pytest.mark.parametrize("scenarios", [1, 2, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme(scheme: str, scenarios: int, half: str, policy: Any) -> None:
    make = lambda: SCHEMES[scheme](3, scenarios, (7, 5))  # noqa: E731
    prior = [(None, 2)] if scheme == "pepnet" else []
    exact, layer = pair(make, (None, 6), half, policy, *prior)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 6)).astype("float32")
    scenario, how = (np.arange(24) % scenarios).astype("int32"), asked(layer, x)
    policy("float32")
    expected = exact(x, scenario, **how)
    policy(half)
    for one, two in zip(layer(x, scenario, **how), expected, strict=True):
        assert_near(one, two, half)
    if scenarios == 4:
        how |= {"training": True} if scheme == "star" else {}
        assert_gradients(layer, lambda: loss_of(layer(x, scenario, **how)))


@each_half
def test_statistics_of_a_scenario_stay_float32(half: str, policy: Any) -> None:
    exact, layer = pair(lambda: PartitionedNorm(2), (None, 6), half, policy)
    rng = np.random.default_rng(0)
    z = (100 + rng.normal(size=(24, 6))).astype("float32")  # half: off by 0.03 and more
    scenario = (np.arange(24) % 2).astype("int32")
    for one in (exact, layer):
        one(z, scenario, training=True)
    for one, two in zip(layer.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


# --- losses and their balance -----------------------------------------------------


@each_half
@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_computed_in_float32(kind: Any, half: str) -> None:
    loss = kind(SPEC.parents, negative_rate=0.3)
    _, y = rows()
    outputs = 5 if kind is DoublyRobustLoss else 3
    z = np.random.default_rng(0).normal(size=(60, outputs))
    z = keras.ops.cast(z, half.removeprefix("mixed_"))
    got = loss.tasks(y, z)
    assert got.dtype == "float32"
    np.testing.assert_array_equal(got, loss.tasks(y, numbers(z)))
    np.testing.assert_array_equal(loss(y, z), loss(y, numbers(z)))


@each_half
def test_a_balance_is_computed_in_float32(half: str, policy: Any) -> None:
    losses = np.array([0.123456, 0.2, 3e-6], "float32")
    policy(half)
    for kind in BALANCES:
        layer = balance(kind)
        assert layer(losses).dtype == "float32"
        assert float(layer(losses)) == pytest.approx(float(losses.sum()), rel=1e-6)


def test_gradnorm_takes_no_step_where_gradients_overflow() -> None:
    layer = GradNorm("any", batches=1)
    layer.build((2,))
    losses = np.array([0.5, 0.2], "float32")
    layer.update(losses, np.array([1.0, 1.0], "float32"))  # the first batch
    layer.update(losses, np.array([1.0, np.inf], "float32"))
    np.testing.assert_array_equal(np.asarray(layer.task_weights), [1, 1])
    layer.update(losses, np.array([1.0, 2.0], "float32"))
    assert np.asarray(layer.task_weights)[0] != 1


# --- whole models -----------------------------------------------------------------


def model_of(scheme: str, encoder: str, **options: Any) -> UnifiedRecommender:
    """Return a model of the current precision."""
    sharing = SCHEMES[scheme](3, 3, (7, 5))
    return UnifiedRecommender(
        SPEC, ENCODERS[encoder](), sharing, dim=4, **{"bottom": 10, **options}
    )


CASES: dict[str, dict[str, Any]] = {
    **{scheme: {"scheme": scheme, "encoder": "mean"} for scheme in SCHEMES},
    **{encoder: {"scheme": "urlm", "encoder": encoder} for encoder in ENCODERS},
    "crosses": {"scheme": "mmoe", "encoder": "hstu", "crosses": 1, "bottom": 0},
}


def padded() -> tuple[dict[str, Array], Array]:
    """Return rows, some with short histories or none, and their labels."""
    x, y = rows(200)
    x["history"][:50, :2] = 0
    x["history"][:20] = 0
    return x, y


@cache
def logits_in_float32(case: str) -> Array:
    """Return what a model of float32 says: once for all halves."""
    model = model_of(**CASES[case])
    fill(model)
    return model.logits(padded()[0])


@each_half
@pytest.mark.parametrize("case", CASES)
def test_a_model_and_one_step(case: str, half: str, policy: Any) -> None:
    (x, y), expected = padded(), logits_in_float32(case)
    policy(half)
    model = model_of(**CASES[case])
    fill(model)
    loss = FunnelLoss(SPEC.parents)
    got = model.logits(x)
    assert got.dtype == np.float32 and (got != expected).any()
    assert_near(got, expected, half)
    assert_gradients(model, lambda: loss(y, model(x, training=True)))
    before = model.get_weights()
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(x, y, batch_size=200, epochs=1, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        new = np.asarray(weight)
        assert np.isfinite(new).all() and (new != old).any(), weight.path


class Spy(features.MeanPool):
    """A mean that keeps the ages it is given."""

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        self.age = age
        return super().call(sequence, mask, target)


@each_half
def test_an_encoder_gets_the_ages_as_they_are(half: str, policy: Any) -> None:
    policy(half)
    spy, (x, _) = Spy(autocast=False), rows()
    UnifiedRecommender(SPEC, spy, SCHEMES["mmoe"](3, 3), dim=4)(x)
    np.testing.assert_array_equal(numbers(spy.age), x["history_age"])


@pytest.mark.xla
@pytest.mark.parametrize(
    ("half", "row_wise"),
    [("mixed_float16", False), ("mixed_float16", True), ("mixed_bfloat16", False)],
)
def test_fit_compiled_by_xla(half: str, row_wise: bool, policy: Any) -> None:
    policy(half)
    keras.utils.set_random_seed(0)
    model = model_of("urlm", "hstu", match=6)
    x, y = rows(260)
    parts = {"train": np.arange(200), "valid": np.arange(200, 260)}
    before = model.get_weights()
    settings: dict[str, Any] = {"epochs": 2, "patience": 2, "batch_size": 50}
    table = fit(model, x, y, parts, row_wise=row_wise, **settings)
    assert table["train_loss"].iloc[1] < table["train_loss"].iloc[0]
    for weight, old in zip(model.weights, before, strict=True):
        assert (np.asarray(weight) != old).any(), weight.path
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert isinstance(inner, RowAdam) is row_wise


@each_half
@pytest.mark.parametrize("kind", BALANCES)
def test_a_balanced_model(kind: Any, half: str, policy: Any) -> None:
    policy(half)
    model, (x, y) = model_of("mmoe", "mean", balance=balance(kind)), rows(200)
    fill(model.sharing)
    before = model.get_weights()
    loss = FunnelLoss(SPEC.parents)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    for _ in range(8):  # the first steps may overflow, and are then left out
        model.train_on_batch(x, y)
    for weight, old in zip(model.weights, before, strict=True):
        new = np.asarray(weight)
        assert np.isfinite(new).all() and (new != old).any(), weight.path


@each_half
def test_the_generative_model(half: str, policy: Any) -> None:
    make = lambda: NextAction({"item": 9}, 2, actions=3, length=5, dim=8)  # noqa: E731
    exact, model = pair(make, None, half, policy)
    rng, x = np.random.default_rng(0), exact.example(12)
    x["fields"] = rng.integers(1, 9, x["fields"].shape)
    x["numeric"] = rng.normal(size=x["numeric"].shape).astype("float32")
    x["action"] = rng.integers(0, 3, x["action"].shape)
    x["age"] = (200 - np.arange(5) / 12 + 0 * x["age"]).astype("float32")  # 2 hours
    x["mask"] = (np.arange(5) >= np.arange(12)[:, None] % 5).astype("float32")
    policy("float32")
    expected = exact(x)
    policy(half)
    got, real = model(x), x["mask"] > 0
    assert got.dtype == "float32"
    assert_near(got[real], expected[real], half)
    other = {**x, "numeric": np.where(real[..., None], x["numeric"], 9.0)}
    np.testing.assert_array_equal(model(other)[real], got[real])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert_gradients(model, lambda: loss(x["action"], model(x)))
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(x, x["action"], verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


@each_half
def test_two_towers(half: str, policy: Any) -> None:
    user, item = ["user", "age", "history"], ["item", "price"]
    make = lambda: TwoTower(SPEC, user, item, dim=4)  # noqa: E731
    exact, model = pair(make, None, half, policy)
    x, _ = rows(50)
    policy("float32")
    expected = exact.user_vectors(x), exact.item_vectors(x)
    policy(half)
    for got, side in zip(
        (model.user_vectors(x), model.item_vectors(x)), expected, strict=True
    ):
        assert got.dtype == np.float32
        assert_near(got, side, half)
    x = {**x, "candidate": x["fields"][:, 1]}
    q = np.full(50, 0.1, "float32")
    step = lambda m: m.compute_loss(x, q, m(x))  # noqa: E731
    assert_gradients(model, lambda: step(model))
    got = float(step(model))
    policy("float32")
    assert got == pytest.approx(float(step(exact)), rel=10 * ROUNDINGS * EPSILON[half])


@each_half
def test_a_model_is_loaded_in_the_precision_of_the_machine(
    half: str, policy: Any, tmp_path: Path
) -> None:
    policy(half)
    model, (x, _) = model_of("cross_stitch", "self"), rows()
    fill(model)
    model.save(tmp_path / "model.keras")
    policy("float32")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in again._flatten_layers()} == {"float32"}
    assert_near(model.logits(x), again.logits(x), half)


def test_a_precision_that_was_asked_for_is_kept() -> None:
    layer = MMoE(2, 1, dtype="mixed_bfloat16")
    again = MMoE.from_config(layer.get_config())
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert "dtype" not in MMoE(2, 1).get_config()


def test_double_precision_is_kept_where_it_is_asked_for() -> None:
    scenario = np.array([0, 1, 1])
    keras.config.set_floatx("float64")
    try:
        x = np.linspace(0.1, 1.2, 12).reshape(3, 4)
        for out in (
            Heads(scenarios=2)([x, x], scenario),
            PartitionedNorm(scenarios=2)(x, scenario),
        ):
            assert keras.backend.standardize_dtype(out.dtype) == "float64"
    finally:
        keras.config.set_floatx("float32")
