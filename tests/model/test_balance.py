"""How the losses of tasks are put together, against NumPy and against plain sums."""

from __future__ import annotations

import re
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from urlm_helpers.model import (  # noqa: E402
    Balance,
    EntireSpaceLoss,
    FunnelLoss,
    GradNorm,
    PCGrad,
    UncertaintyWeights,
    UnifiedRecommender,
    surgery,
)
from urlm_helpers.preprocessing import InputSpec  # noqa: E402
from urlm_helpers.sharing import MMoE, SharedBottom  # noqa: E402
from urlm_helpers.training import fit  # noqa: E402

Array = np.ndarray
SCHEMES: list[type[Balance]] = [UncertaintyWeights, GradNorm, PCGrad]


def balance(scheme: type[Balance], layer: str = "shared/bottom") -> Balance:
    """Return a scheme with its defaults; GradNorm looks at a layer."""
    return scheme(layer=layer) if scheme is GradNorm else scheme()


@keras.saving.register_keras_serializable("test_balance")
class Decayed(SharedBottom):
    """A shared bottom that adds a penalty to the loss by itself."""

    def call(self, x: Any, scenario: Any) -> list[Any]:
        self.add_loss(0.1 * keras.ops.sum(self.bottom.layers[0].kernel ** 2))
        return super().call(x, scenario)


def log(tasks: int, rows: int = 64) -> tuple[dict[str, Array], Array]:
    """Return inputs and labels; the first task is easy, the others are coins."""
    rng = np.random.default_rng(0)
    fields = rng.integers(1, 7, (rows, 2))
    x = {"fields": fields, "scenario": np.zeros(rows, int)}
    y = rng.integers(0, 2, (rows, tasks))
    y[:, 0] = fields[:, 1] > 3
    return x, y


def make(
    tasks: int,
    balance: Any = None,
    sharing: type[SharedBottom] | type[MMoE] = SharedBottom,
    **options: Any,
) -> Any:
    """Return a model with visible weights everywhere; tasks without a funnel."""
    names = tuple(f"task_{t}" for t in range(tasks))
    spec = InputSpec(
        fields={"user": 9, "item": 7},
        numeric=(),
        history_fields=(),
        history_length=0,
        scenarios=("one",),
        tasks=names,
        funnel={},
    )
    layer = sharing(tasks, 1, (6,), name="shared")
    model = UnifiedRecommender(
        spec, sharing=layer, dim=4, balance=balance, **{"bottom": 5, **options}
    )
    rng = np.random.default_rng(1)
    for v in model.trainable_variables:
        if "log_variance" not in v.path:
            v.assign(rng.normal(0, 0.5, v.shape))
    return model


def name_of(v: Any) -> str:
    """Return a variable's path without what Keras numbers as it goes."""
    top, rest = v.path.split("/", 2)[1:]
    return f"{re.sub('_[0-9]+$', '', top)}/{rest}"


def step(
    model: UnifiedRecommender,
    x: dict[str, Array],
    y: Array,
    loss: FunnelLoss | None = None,
    xla: bool = False,
) -> dict[str, Array]:
    """Return the gradient that one step of the model follows."""
    before = {name_of(v): v.numpy() for v in model.trainable_variables}
    model.compile(
        keras.optimizers.SGD(1.0),
        loss or FunnelLoss(model.spec.parents),
        jit_compile=xla,
        run_eagerly=not xla,
    )
    model.train_on_batch(x, y)
    after = {name_of(v): v.numpy() for v in model.trainable_variables}
    return {name: before[name] - after[name] for name in before}


def by_task(
    model: UnifiedRecommender, x: dict[str, Array], y: Array, loss: FunnelLoss
) -> list[dict[str, Array]]:
    """Return the gradient of each task alone, by a tape of its own."""
    out = []
    for t in range(y.shape[1]):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss.tasks(y, model(x)), axis=0)[t]
        variables = model.trainable_variables
        found = tape.gradient(value, [v.value for v in variables])
        out.append(
            {
                name_of(v): np.zeros(v.shape)
                if g is None
                else np.array(tf.convert_to_tensor(g), "float64")
                for v, g in zip(variables, found, strict=True)
            }
        )
    return out


def assert_same(one: dict[str, Array], two: dict[str, Array]) -> None:
    """Compare all but what a scheme itself has, to 1e-6."""
    assert {n for n in one if "log_variance" not in n} == set(two)
    for name in two:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6, err_msg=name)


def project(vectors: Any, orders: Any) -> Array:
    """Return PCGrad's sum as the paper's algorithm states it."""
    total = np.zeros_like(vectors[0])
    for i, order in enumerate(orders):
        g = vectors[i].copy()
        for j in order:
            if j != i and g @ vectors[j] < 0:
                g -= (g @ vectors[j]) / (vectors[j] @ vectors[j]) * vectors[j]
        total += g
    return total


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_task_alone_learns_as_without(scheme: type[Balance]) -> None:
    x, y = log(1)
    loss = FunnelLoss([-1], weights=[2.5])
    plain = step(make(1), x, y, loss)
    assert_same(step(make(1, balance(scheme)), x, y, loss), plain)
    assert max(np.abs(g).max() for g in plain.values()) > 0.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_penalty_that_a_layer_adds_stays(scheme: type[Balance]) -> None:
    x, y = log(1)
    plain = step(make(1, sharing=Decayed), x, y)
    assert_same(step(make(1, balance(scheme), Decayed), x, y), plain)
    own = "shared/bottom/dense_0/kernel"
    assert np.abs(plain[own] - step(make(1), x, y)[own]).max() > 0.05


def test_gradients_without_a_conflict_add_up() -> None:
    x, y = log(2)
    y[:, 1] = y[:, 0]
    loss = FunnelLoss([-1, -1], weights=[1.0, 3.0])
    models = [make(2), make(2, PCGrad())]
    for model in models:
        kernel, bias = model.heads.get_weights()
        kernel[:, 1], bias[:, 1] = kernel[:, 0], bias[:, 0]
        model.heads.set_weights([kernel, bias])
    plain, projected = (step(model, x, y, loss) for model in models)
    assert_same(projected, plain)


@pytest.mark.parametrize("xla", [False, True])
def test_conflicting_gradients_are_projected_where_they_are_shared(xla: bool) -> None:
    x, y = log(2)
    y[:, 1] = 1 - y[:, 0]
    loss, model = FunnelLoss([-1, -1], weights=[1.0, 0.5]), make(2, PCGrad())
    kernel, bias = model.heads.get_weights()
    kernel[:, 1], bias[:, 1] = kernel[:, 0], bias[:, 0] + 0.3
    model.heads.set_weights([kernel, bias])
    each = by_task(model, x, y, loss)
    shared = [n for n in each[0] if not n.startswith("heads")]
    flat = [np.concatenate([g[n].ravel() for n in shared]) for g in each]
    length = np.linalg.norm(flat, axis=1)
    assert flat[0] @ flat[1] / length.prod() < -0.1
    expected = {n: each[0][n] + each[1][n] for n in each[0]}
    parts = np.split(
        project(flat, [[1], [0]]), np.cumsum([each[0][n].size for n in shared])[:-1]
    )
    for name, part in zip(shared, parts, strict=True):
        assert np.abs(part - expected[name].ravel()).max() > 1e-5
        expected[name] = part.reshape(expected[name].shape)
    assert_same(step(model, x, y, loss, xla), expected)


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_surgery_is_the_papers_algorithm(tasks: int) -> None:
    rng = np.random.default_rng(tasks)
    for _ in range(20):
        vectors = rng.normal(size=(tasks, 3))
        vectors[tasks - 1] *= rng.integers(0, 2)  # a task may have no gradient
        orders = np.stack([rng.permutation(tasks) for _ in range(tasks)])
        count = np.asarray(surgery(vectors @ vectors.T, orders))
        np.testing.assert_allclose(count @ vectors, project(vectors, orders), atol=1e-6)


def test_the_order_is_random_and_repeats_with_the_seed() -> None:
    vectors = np.array([[1.0, 0.0], [-1.0, 0.2], [-0.3, -1.0]], "float32")
    gradients = [[tf.constant(v) for v in vectors]]
    draws = []
    for seed in (3, 3, 4):
        layer = PCGrad(seed=seed)
        layer.build((3,))
        draws.append(
            [np.asarray(layer.surgery_weights(gradients)) @ vectors for _ in range(120)]
        )
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    possible = {
        tuple(project(vectors.astype(float), orders).round(4))
        for orders in product(permutations(range(3)), repeat=3)
    }
    seen = {tuple(d.astype(float).round(4)) for d in draws[0]}
    assert len(possible) > 1
    assert len(seen) == len(possible)
    for one in seen:
        assert (
            min(np.abs(np.array(one) - p).max() for p in map(np.array, possible)) < 2e-4
        )


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("shared/bottom", {}),
        ("cross_0", {"crosses": 1, "bottom": 0}),
        ("table", {"bottom": 0}),
    ],
)
def test_gradnorm_weighs_the_losses_and_looks_at_the_layer_that_it_was_told(
    layer: str, options: dict[str, Any]
) -> None:
    x, y = log(3)
    balance = GradNorm(layer, alpha=0.7, learning_rate=0.1)
    model, loss = make(3, balance, **options), FunnelLoss([-1, -1, -1])
    balance.seen.assign(balance.batches)
    w = np.array([0.6, 1.4, 1.0])  # of two, only the signs would count
    first = np.array([0.9, 0.5, 0.7])
    balance.task_weights.assign(w)
    balance.first.assign(first)
    each = by_task(model, x, y, loss)
    start = {"cross_0": "cross/", "table": "field_emb"}.get(layer, layer)
    own = [n for n in each[0] if n.startswith(start)]
    assert own
    norms = np.array([np.sqrt(sum((g[n] ** 2).sum() for n in own)) for g in each])
    losses = np.mean(loss.tasks(y, np.asarray(model(x))), axis=0)
    got = step(model, x, y, loss, xla=not options)
    assert_same(
        got, {n: sum(k * g[n] for k, g in zip(w, each, strict=True)) for n in each[0]}
    )
    rate = losses / first / np.mean(losses / first)
    big = w * norms - np.mean(w * norms) * rate**0.7
    moved = w * np.exp(-0.1 * np.sign(big) * w * norms / np.mean(w * norms))
    moved *= 3 / moved.sum()
    np.testing.assert_allclose(balance.task_weights, moved, atol=1e-6)
    assert np.abs(moved - w).max() > 1e-3
    np.testing.assert_array_equal(np.asarray(balance.first), first.astype("float32"))


def test_gradnorm_refuses_a_layer_that_is_not_there_or_not_one() -> None:
    x, y = log(2)
    for name, count in (("cross_0", 0), ("bott", 0), ("bottom", 2), ("dense_0", 2)):
        model = make(2, GradNorm(name))
        with pytest.raises(ValueError, match=f"'{name}' names {count} of .*shared/bot"):
            step(model, x, y)


def test_gradnorm_starts_from_the_mean_of_the_first_batches() -> None:
    layer = GradNorm("any", alpha=1.0, learning_rate=0.1, batches=3)
    layer.build((2,))
    drawn = np.array([[0.6, 0.0], [0.9, 0.3], [0.6, 0.6], [0.7, 0.1]], "float32")
    norms = np.ones(2, "float32")
    for k, losses in enumerate(drawn[:3]):
        layer.update(losses, norms)
        mean = drawn[: k + 1].mean(0)
        np.testing.assert_allclose(np.asarray(layer.first), mean, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(layer.task_weights), [1, 1])
    layer.update(drawn[3], norms)
    np.testing.assert_allclose(np.asarray(layer.first), [0.7, 0.3], rtol=1e-6)
    w = np.exp(0.1 * np.array([1, -1]))  # the second one fell to a third
    np.testing.assert_allclose(np.asarray(layer.task_weights), 2 * w / w.sum(), 1e-5)


def test_gradnorm_evens_norms_out_and_pulls_the_slow_task() -> None:
    even, pulled = (GradNorm("any", alpha=a, batches=1) for a in (0.0, 1.0))
    for layer in (even, pulled):
        layer.build((2,))
        layer.update(np.array([1.0, 0.0], "float32"), np.array([1.0, 0.0], "float32"))
        layer.update(np.array([1.0, 2.0], "float32"), np.array([1.0, 1.0], "float32"))
        np.testing.assert_array_equal(np.asarray(layer.first), [1.0, 2.0])
    for _ in range(300):  # the second task's gradient is 4 times as long
        # that its loss fell further means nothing to an alpha of 0
        even.update(np.array([0.5, 0.2], "float32"), np.array([1.0, 4.0], "float32"))
        # and here it halved its loss, which the first did not
        pulled.update(np.array([1.0, 1.0], "float32"), np.array([1.0, 1.0], "float32"))
    w = np.asarray(even.task_weights)
    assert w.sum() == pytest.approx(2) and w[0] / w[1] == pytest.approx(4, rel=0.15)
    w = np.asarray(pulled.task_weights)
    assert w.sum() == pytest.approx(2) and w[0] / w[1] == pytest.approx(2, rel=0.15)


def test_gradnorm_favors_the_task_that_does_not_get_better() -> None:
    x, y = log(2, rows=640)
    balance = GradNorm("shared/bottom", alpha=2.0, learning_rate=0.05, batches=4)
    model = make(2, balance)
    parts = {"train": np.arange(512), "valid": np.arange(512, 640)}
    settings: dict[str, Any] = {"epochs": 15, "patience": 15, "batch_size": 64}
    fit(model, x, y, parts, **settings, learning_rate=0.02)
    easy, coin = np.asarray(balance.task_weights)
    assert coin > easy + 0.2 and easy + coin == pytest.approx(2, abs=1e-5)


def test_uncertainty_weights_settle_at_the_log_of_twice_the_loss() -> None:
    losses = tf.constant([0.02, 0.7, 3.0])
    layer = UncertaintyWeights()
    layer.build((3,))
    optimizer = keras.optimizers.Adam(0.1)
    for _ in range(200):
        with tf.GradientTape() as tape:
            value = layer(losses)
        (slope,) = tape.gradient(value, [layer.log_variance.value])
        optimizer.apply([slope], [layer.log_variance])
    best = np.log(2 * losses.numpy())
    np.testing.assert_allclose(layer.log_variance, best, atol=1e-3)
    assert float(layer(losses)) == pytest.approx(0.5 * (best + 1).sum(), abs=1e-4)


def test_weight_decay_may_leave_the_balance_out() -> None:
    x, y = log(2, rows=240)
    model, s = make(2, UncertaintyWeights()), np.array([2.0, -2.0], "float32")
    parts = {"train": np.arange(200), "valid": np.arange(200, 240)}
    how: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 100.0}
    for row_wise in (False, True):
        for decays in (True, False, True):  # a compiled model takes the change over
            model.reset(3)
            model.balance.log_variance.assign(s)
            how |= {"row_wise": row_wise, "balance_decays": decays}
            fit(model, x, y, parts, batch_size=50, decay=False, **how)
            left = np.asarray(model.balance.log_variance) / s  # of four steps
            np.testing.assert_allclose(left, 0.9**4 if decays else 1, atol=0.01)


def test_uncertainty_weights_are_trained_with_the_model_but_not_validated() -> None:
    x, y = log(2)
    model, plain = make(2, UncertaintyWeights()), make(2)
    s = np.array([0.5, -1.0], "float32")
    model.balance.log_variance.assign(s)
    gradient = step(model, x, y)
    each = by_task(plain, x, y, FunnelLoss([-1, -1]))
    a = np.exp(-s)
    assert_same(gradient, {n: a[0] * each[0][n] + a[1] * each[1][n] for n in each[0]})
    losses = np.mean(FunnelLoss([-1, -1]).tasks(y, np.asarray(plain(x))), axis=0)
    (own,) = [g for n, g in gradient.items() if "log_variance" in n]
    np.testing.assert_allclose(own, 0.5 - a * losses, atol=1e-6)
    for one in (model, plain):
        one.compile(loss=FunnelLoss([-1, -1]), run_eagerly=True)
        value = one.evaluate(x, y, verbose=0)
        z = one.logits(x)
        assert value == pytest.approx(float(FunnelLoss([-1, -1])(y, z)), abs=1e-6)


@pytest.mark.xla
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_balanced_model_repeats_itself_and_can_be_saved(
    scheme: type[Balance], tmp_path: Any
) -> None:
    x, y = log(3, rows=240)
    own_layer = "shared/expert_0/dense_0"
    model = make(3, balance(scheme, own_layer), MMoE)
    parts = {"train": np.arange(200), "valid": np.arange(200, 240)}
    weights = []
    for _ in range(2):
        model.reset(3)
        settings: dict[str, Any] = {"epochs": 3, "patience": 3, "batch_size": 8}
        table = fit(model, x, y, parts, **settings)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0]
    own = model.balance.get_weights()
    fresh = make(3, balance(scheme, own_layer), MMoE).balance.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(own, fresh, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.balance) is scheme
    assert again.balance.get_config() == model.balance.get_config()
    for one, two in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_whole_funnel_in_one_loss_reaches_more_than_one_tower() -> None:
    x, y = log(2)
    y[:, 1] *= y[:, 0]
    model, loss = make(2, PCGrad(), MMoE), EntireSpaceLoss([-1, 0])
    each = by_task(model, x, y, loss)
    got = step(model, x, y, loss)
    heads = [n for n in got if n.startswith("heads")]
    for name in heads:
        np.testing.assert_allclose(got[name], each[0][name] + each[1][name], atol=1e-6)


@pytest.mark.parametrize("scheme", [GradNorm, PCGrad])
def test_other_backends_are_told_what_to_take(
    scheme: type[Balance], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = log(2)
    model = make(2, balance(scheme))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match="on jax take UncertaintyWeights"):
        model.train_step([], (x, y))  # there a step gets the state too


def test_what_gradnorm_refuses() -> None:
    bad: list[dict[str, Any]] = [{"alpha": -1.0}, {"learning_rate": 0.0}]
    for wrong in (*bad, {"batches": 0}):
        with pytest.raises(ValueError, match="alpha is not negative"):
            GradNorm("bottom", **wrong)
