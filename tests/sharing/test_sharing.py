"""Every way to share: its equation in NumPy, and the invariants of the model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from schemes import SCHEMES, SPEC, asked, fill, make, rows  # noqa: E402

from urlm_helpers.model import FunnelLoss  # noqa: E402
from urlm_helpers.sharing import (  # noqa: E402
    PLE,
    STAR,
    FullyShared,
    HMoE,
    PartitionedNorm,
    SharedBottom,
)
from urlm_helpers.training import fit  # noqa: E402

TASKS, SCENARIOS, UNITS, DIM, ROWS = 3, 4, (7, 5), 6, 24
OURS = ("fully_shared", "separate", "urlm")
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def built(scheme: str, **options: Any) -> Any:
    """Return a layer with visible weights."""
    layer = SCHEMES[scheme](TASKS, SCENARIOS, UNITS, **options)
    layer.build((None, DIM), *([(None, 2)] if layer.needs_prior else []))
    fill(layer)
    return layer


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features and scenarios; every scenario has six rows, mixed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, DIM)).astype("float32")
    return x, rng.permutation(np.arange(ROWS) % SCENARIOS).astype("int32")


def vectors(layer: Any, x: Any, scenario: Any, **how: Any) -> np.ndarray:
    """Return the layer's vectors as ``(batch, tasks, width)``."""
    out = [np.asarray(v) for v in layer(x, scenario, **{**asked(layer, x), **how})]
    assert [v.shape[1] for v in out] == [layer.width] * layer.tasks
    return np.stack(out, axis=1)


# --- the equations, one row at a time ---------------------------------------------


def relu(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def linear(dense: Any, z: np.ndarray) -> np.ndarray:
    kernel, bias = dense.get_weights()
    return z @ kernel + bias


def mlp(sequential: Any, z: np.ndarray) -> np.ndarray:
    for dense in sequential.layers:
        z = relu(linear(dense, z))
    return z


def one_tower(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    return [mlp(layer.bottom, x)] * TASKS


def separate(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    by_name = {tower.name: tower for tower in layer.towers}
    return [mlp(by_name[f"tower_{s}_{t}"], x) for t in range(TASKS)]


def task_towers(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    assert len(layer.weights) == 2 * len(UNITS) * TASKS
    return [mlp(tower, x) for tower in layer.towers]


def mixture(layer: Any, x: np.ndarray, gate: np.ndarray) -> np.ndarray:
    weight = softmax(gate)
    return sum(w * mlp(f, x) for w, f in zip(weight, layer.experts, strict=True))


def omoe(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    return [mixture(layer, x, linear(layer.gate, x))] * TASKS


def mmoe(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    gates = linear(layer.gate, x).reshape(SCENARIOS, TASKS, -1)
    return [mixture(layer, x, gates[s, t]) for t in range(TASKS)]


def cross_stitch(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    h, by_name = [x] * TASKS, {dense.name: dense for dense in layer.layers}
    for i in range(len(UNITS)):
        alpha = np.asarray(layer.stitches[i])
        found = [relu(linear(by_name[f"dense_{i}_{t}"], h[t])) for t in range(TASKS)]
        h = [sum(alpha[t, u] * found[u] for u in range(TASKS)) for t in range(TASKS)]
    return h


def cgc(level: Any, inputs: list[np.ndarray], s: int) -> list[np.ndarray]:
    n, m = level.n_own, level.n_shared
    shared = [mlp(f, inputs[-1]) for f in level.shared]
    own = [
        [mlp(f, inputs[t]) for f in level.own[t * n : t * n + n]] for t in range(TASKS)
    ]
    out = []
    for t in range(TASKS):
        gate = linear(level.task_gates[t], inputs[t]).reshape(SCENARIOS, n + m)[s]
        out.append(softmax(gate) @ np.stack(own[t] + shared))
    if not level.last:
        gate = linear(level.shared_gate, inputs[-1])
        out.append(softmax(gate) @ np.stack([*sum(own, []), *shared]))
    return out


def ple(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    h = [x] * (TASKS + 1)
    for level in layer.levels:
        h = cgc(level, h, s)
    assert len(h) == TASKS
    return h


def hmoe(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    gates = linear(layer.gate, x).reshape(SCENARIOS, TASKS, -1)
    label = linear(layer.label_gate, x).reshape(SCENARIOS, TASKS, SCENARIOS)
    out = []
    for t in range(TASKS):
        weight = softmax(label[s, t])
        parts = [
            [weight[j], *(weight[j] * mixture(layer, x, gates[j, t]))]
            for j in range(SCENARIOS)
        ]
        out.append(np.concatenate(parts))
    return out


def hinet(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    n = layer.n_experts
    gate = linear(layer.gate, x)
    found = [
        softmax(gate[i * n : i * n + n])
        @ np.stack([mlp(f, x) for f in layer.experts[i * n : i * n + n]])
        for i in range(1 + SCENARIOS)
    ]
    others = [m for m in range(SCENARIOS) if m != s]
    embedding = np.asarray(layer.embedding.embeddings)
    weight = softmax(linear(layer.attend, embedding[s])[others])
    attended = sum(w * found[1 + m] for w, m in zip(weight, others, strict=True))
    c = np.concatenate([found[0], found[1 + s], attended])
    return cgc(layer.by_task, [c] * (TASKS + 1), s)


def star(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    norm = {v.name: np.asarray(v) for v in layer.norm.variables}
    scale = norm["gamma"] * norm["gamma_p"][s]
    z = (x - norm["moving_mean"][s]) / np.sqrt(norm["moving_variance"][s] + 1e-3)
    h = scale * z + norm["beta"] + norm["beta_p"][s]
    for one in layer.layers:
        w = {v.name: np.asarray(v) for v in one.variables}
        h = relu(h @ (w["kernel"] * w["kernel_p"][s]) + w["bias"] + w["bias_p"][s])
    embedding = np.asarray(layer.embedding.embeddings)[s]
    auxiliary = mlp(layer.auxiliary, np.concatenate([x, embedding]))
    return [np.concatenate([h, auxiliary])] * TASKS


def gate_of(net: Any, z: np.ndarray) -> np.ndarray:
    hidden, out = net.layers
    return 2 * sigmoid(linear(out, relu(linear(hidden, z))))


def scaled(gate: Any, x: np.ndarray, s: int) -> np.ndarray:
    embedding = np.asarray(gate.embedding.embeddings)[s]
    return gate_of(gate.gate, np.concatenate([embedding, x])) * x


def pepnet(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    prior, x = x[:2], scaled(layer.feature_gate, x, s)
    out = []
    for t in range(TASKS):
        scales = gate_of(layer.layer_gates[t], np.concatenate([prior, x]))
        h = x
        for dense, scale in zip(
            layer.towers[t].layers, np.split(scales, np.cumsum(UNITS)[:-1]), strict=True
        ):
            h = scale * relu(linear(dense, h))
        out.append(h)
    return out


def urlm(layer: Any, x: np.ndarray, s: int) -> list[np.ndarray]:
    return mmoe(layer, scaled(layer.feature_gate, x, s), s)


EQUATIONS: dict[str, Callable[[Any, np.ndarray, int], list[np.ndarray]]] = {
    "fully_shared": one_tower,
    "shared_bottom": one_tower,
    "separate": separate,
    "omoe": omoe,
    "mmoe": mmoe,
    "cross_stitch": cross_stitch,
    "ple": ple,
    "hmoe": hmoe,
    "hinet": hinet,
    "star": star,
    "pepnet": pepnet,
    "task_towers": task_towers,
    "urlm": urlm,
}


@pytest.mark.parametrize("scheme", EQUATIONS)  # that of AITM: test_losses.py
def test_the_layer_equals_its_equation(scheme: str) -> None:
    options = {"experts": 2, "shared_experts": 3, "levels": 3}
    layer = built(scheme, **(options if scheme == "ple" else {}))
    x, scenario = batch()
    expected = [EQUATIONS[scheme](layer, row, s) for row, s in zip(x, scenario)]  # noqa: B905
    np.testing.assert_allclose(
        vectors(layer, x, scenario), np.array(expected), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("scheme", ["mmoe", "ple"])
def test_a_tower_per_task_comes_behind_the_mixture(scheme: str) -> None:
    layer = built(scheme, towers=(6, 2))
    x, scenario = batch()
    mixed = [EQUATIONS[scheme](layer, row, s) for row, s in zip(x, scenario)]  # noqa: B905
    expected = [[mlp(layer.towers[t], row[t]) for t in range(TASKS)] for row in mixed]
    assert np.ptp(expected) > 0.1
    got = vectors(layer, x, scenario)
    assert got.shape == (ROWS, TASKS, 2) and len(layer.towers) == TASKS
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@each_scheme
def test_what_differs_from_the_paper_stands_in_the_notes(scheme: str) -> None:
    text = inspect.getdoc(SCHEMES[scheme]) or ""
    _, _, notes = text.partition("Notes\n-----\n")
    differs = notes.split("\n\n")[0]
    assert differs.startswith("Differs from the paper: ") and differs.endswith(".")
    assert ("there is none" in differs) == (scheme in OURS)


# --- gates, towers and gradients --------------------------------------------------


def last_gates(layer: Any) -> list[tuple[Any, int, int, slice]]:
    """Return ``(gate, scenario, task, its columns)`` of each gate before the output."""
    if isinstance(layer, PLE) or hasattr(layer, "by_task"):
        level = layer.levels[-1] if isinstance(layer, PLE) else layer.by_task
        n = level.n_own + level.n_shared
        return [
            (level.task_gates[t], s, t, slice(s * n, s * n + n))
            for s in range(SCENARIOS)
            for t in range(TASKS)
        ]
    gate = layer.label_gate if isinstance(layer, HMoE) else layer.gate
    n = SCENARIOS if isinstance(layer, HMoE) else layer.n_experts
    return [
        (gate, s, t, slice((s * TASKS + t) * n, (s * TASKS + t + 1) * n))
        for s in range(SCENARIOS)
        for t in range(TASKS)
    ]


@pytest.mark.parametrize("scheme", ["mmoe", "ple", "hmoe", "hinet", "urlm"])
def test_every_gate_reaches_its_own_output_and_no_other(scheme: str) -> None:
    layer = built(scheme)
    x, scenario = batch()
    before = vectors(layer, x, scenario)
    seen = set()
    for gate, s, t, columns in last_gates(layer):
        bias = np.asarray(gate.bias)
        changed = bias.copy()
        changed[columns.start] += 1.0
        gate.bias.assign(changed)
        moved = np.abs(vectors(layer, x, scenario) - before).max(axis=2) > 1e-6
        expected = np.zeros_like(moved)
        expected[scenario == s, t] = True
        np.testing.assert_array_equal(moved, expected, err_msg=f"gate {s}, {t}")
        gate.bias.assign(bias)
        seen.add((s, t))
    assert len(seen) == SCENARIOS * TASKS


def test_the_one_gate_of_omoe_is_the_same_for_all() -> None:
    layer = built("omoe")
    x, scenario = batch()
    out = vectors(layer, x, scenario)
    np.testing.assert_array_equal(out, vectors(layer, x, 0 * scenario))
    np.testing.assert_array_equal(out, np.repeat(out[:, :1], TASKS, axis=1))


def test_separate_towers_share_nothing() -> None:
    layer = built("separate")
    x, scenario = batch()
    for s, t in ((0, 0), (3, 1)):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(layer(x, scenario)[t][scenario == s])
        weights = [w.value for one in layer.towers for w in one.trainable_variables]
        gradients = tape.gradient(
            value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        each = len(weights) // len(layer.towers)
        used = {
            one.name
            for i, one in enumerate(layer.towers)
            if any(np.abs(g).max() > 0 for g in gradients[i * each : (i + 1) * each])
        }
        assert used == {f"tower_{s}_{t}"}


def test_fully_shared_knows_the_scenario_from_the_features_only() -> None:
    model, (x, _) = make("fully_shared"), rows()
    moved = {**x, "scenario": (x["scenario"] + 1) % 3}
    np.testing.assert_array_equal(model.logits(moved), model.logits(x))
    assert isinstance(model.sharing, SharedBottom)
    assert FullyShared.scenario_heads is False
    model = make("shared_bottom")
    assert (np.abs(model.logits(moved) - model.logits(x)) > 1e-6).all()


def test_hmoe_scores_of_other_scenarios_count_but_learn_nothing() -> None:
    layer = built("hmoe")
    x, scenario = batch()
    first = scenario == 0
    shape = (SCENARIOS, TASKS, layer.n_experts)

    def score(bias: Any = None) -> Any:
        if bias is not None:
            layer.gate.bias.assign(bias)
        return tf.add_n([tf.reduce_sum(v) for v in layer(x[first], scenario[first])])

    with tf.GradientTape() as tape:
        value = score()
    gradient = np.asarray(tape.gradient(value, layer.gate.bias.value)).reshape(shape)
    bias, eps = np.asarray(layer.gate.bias), 1e-2
    for s in range(SCENARIOS):
        steps = []
        for sign in (1, -1):
            changed = bias.reshape(shape).copy()
            changed[s, 1, 2] += sign * eps
            steps.append(float(score(changed.ravel())))
        slope = (steps[0] - steps[1]) / (2 * eps)
        assert abs(slope) > 1e-3
        assert gradient[s, 1, 2] == pytest.approx(slope if s == 0 else 0, abs=1e-3)


def test_pepnet_gates_do_not_pull_at_the_features() -> None:
    layer = built("pepnet")
    x, scenario = batch()
    for gate in (layer.feature_gate.gate, *layer.layer_gates):
        gate.layers[-1].kernel.assign(0 * gate.layers[-1].kernel)  # gates see nothing
    prior = tf.constant(x[:, :2])
    with tf.GradientTape() as tape:
        tape.watch([features := tf.constant(x), prior])
        value = tf.reduce_sum(layer(features, scenario, prior)[0])
    blind, of_prior = tape.gradient(value, [features, prior])
    assert not np.any(of_prior)
    layer.layer_gates[0].layers[-1].kernel.assign(
        layer.layer_gates[0].layers[-1].kernel + 0.3
    )
    with tf.GradientTape() as tape:
        tape.watch([features := tf.constant(x), prior])
        value = tf.reduce_sum(layer(features, scenario, prior)[0])
    seeing, of_prior = tape.gradient(value, [features, prior])
    assert not np.allclose(blind, seeing)

    def slope(at: int, direction: np.ndarray) -> float:
        """Finite difference along the features (0) or along the prior (1)."""
        ends = []
        for sign in (1, -1):
            moved = [x, np.asarray(prior)]
            moved[at] = moved[at] + sign * 1e-2 * direction[:, : moved[at].shape[1]]
            out = vectors(layer, moved[0], scenario, prior=moved[1])
            ends.append(out[:, 0].sum())
        return (ends[0] - ends[1]) / 2e-2

    direction = np.random.default_rng(0).normal(size=x.shape).astype("float32")
    assert abs(slope(0, direction) - (seeing * direction).numpy().sum()) > 1e-2
    full = (of_prior * direction[:, :2]).numpy().sum()  # the prior learns by the gates
    assert abs(full) > 0.1 and slope(1, direction) == pytest.approx(full, 1e-2)


def test_the_prior_is_the_vectors_of_user_item_and_author_and_no_other() -> None:
    spec = replace(SPEC, fields={"category": 5, **SPEC.fields, "brand": 6})
    model, (x, _) = make("pepnet", spec), rows(spec=spec)
    table = model.embedding(x["fields"]).numpy()  # (rows, fields, dim)
    expected = table[:, [1, 2, 0]].reshape(len(table), -1)
    np.testing.assert_array_equal(model.prior(x), expected)
    for kernel in (w for w in model.bottom.weights if w.name == "kernel"):
        kernel.assign(0 * kernel)  # whatever is seen of a row now is the prior
    before = model.logits(x)
    for column, name in enumerate(spec.fields):
        fields = x["fields"].copy()
        fields[:, column] = (fields[:, column] + 1) % spec.fields[name]
        moved = np.abs(model.logits({**x, "fields": fields}) - before).max()
        assert (moved > 1e-4) == (name in ("user", "item", "category")), name


@each_scheme
def test_only_a_scheme_that_needs_a_prior_is_offered_one(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(scheme)
    seen: list[set[str]] = []
    call = model.sharing.call
    names = inspect.signature(call).parameters

    def noted(*given: Any, **named: Any) -> Any:
        seen.append(set(named))
        return call(*given, **named)

    monkeypatch.setattr(model.sharing, "call", noted)
    model(rows(4)[0])
    assert ("prior" in names) == ("prior" in seen[0]) == model.sharing.needs_prior


def test_cross_stitch_starts_near_the_identity() -> None:
    for tasks, rest in ((1, 0), (2, 0.1), (4, 0.1 / 3)):
        layer = SCHEMES["cross_stitch"](tasks, 2, (4, 4))
        layer.build((None, 3))
        expected = np.full((tasks, tasks), rest)
        np.fill_diagonal(expected, 1 - (tasks - 1) * rest)
        for stitch in layer.stitches:
            np.testing.assert_allclose(np.asarray(stitch), expected, atol=1e-6)


def test_mmoe_creates_its_variables_in_this_order() -> None:
    layer = SCHEMES["mmoe"](2, 3, (5,), experts=2)
    layer.build((None, 4))
    assert [(w.name, tuple(w.shape)) for w in layer.weights] == [
        *[("kernel", (4, 5)), ("bias", (5,))] * 2,
        ("kernel", (4, 12)),
        ("bias", (12,)),
    ]
    assert not np.asarray(layer.gate.kernel).any()


# --- statistics per scenario ------------------------------------------------------


def test_partitioned_norm_is_the_formula_in_training() -> None:
    layer = PartitionedNorm(SCENARIOS, momentum=0.8)
    layer.build((None, DIM))
    fill(layer)
    w = {v.name: np.asarray(v) for v in layer.variables}
    x, scenario = batch()
    scenario[scenario == 2] = 1  # scenario 2 has no row, scenario 3 one
    scenario[np.flatnonzero(scenario == 3)[1:]] = 0
    out = np.asarray(layer(x, scenario, training=True))
    for s in range(SCENARIOS):
        own = x[scenario == s]
        mean, variance = w["moving_mean"][s], w["moving_variance"][s]
        kept = 1.0
        if len(own) >= 2:
            kept, mean, variance = 0.8, own.mean(axis=0), own.var(axis=0)
        z = (own - mean) / np.sqrt(variance + 1e-3)
        expected = w["gamma"] * w["gamma_p"][s] * z + w["beta"] + w["beta_p"][s]
        np.testing.assert_allclose(out[scenario == s], expected, atol=1e-5)
        for name, value in (("moving_mean", mean), ("moving_variance", variance)):
            after = np.asarray(getattr(layer, name))[s]
            expected = kept * w[name][s] + (1 - kept) * value
            np.testing.assert_allclose(after, expected, atol=1e-6)
    assert [(scenario == s).sum() for s in (2, 3)] == [0, 1]


def test_two_rows_of_a_scenario_have_a_variance_and_one_has_none() -> None:
    layer = PartitionedNorm(scenarios=2, epsilon=0.0)
    z = np.array([[1.0], [3.0], [50.0]], "float32")
    out = np.asarray(layer(z, np.array([0, 0, 1]), training=True))
    np.testing.assert_allclose(out, np.array([[-1], [1], [50]]), rtol=1e-5)
    moved = np.asarray(layer.moving_mean)
    np.testing.assert_allclose(moved, np.array([[0.1], [0]]), rtol=1e-5)


def test_partitioned_norm_never_uses_the_batch_at_inference() -> None:
    layer = PartitionedNorm(SCENARIOS)
    x, scenario = batch()
    for _ in range(200):
        layer(x, scenario, training=True)
    before = [np.asarray(v) for v in layer.variables]
    out = np.asarray(layer(x, scenario))
    for r in (0, 5):
        alone = np.asarray(layer(x[r : r + 1], scenario[r : r + 1]))
        np.testing.assert_allclose(alone[0], out[r], atol=1e-6)
    for one, two in zip(before, layer.variables, strict=True):
        np.testing.assert_array_equal(one, np.asarray(two))
    trained = np.asarray(layer(x, scenario, training=True))
    np.testing.assert_allclose(trained, out, atol=1e-2)  # the averages have arrived


@each_scheme
def test_rows_of_one_scenario_do_not_move_those_of_another(scheme: str) -> None:
    layer = built(scheme)
    how = {"training": True} if scheme == "star" else {}
    weights = layer.get_weights()
    x, scenario = batch()
    before = vectors(layer, x, scenario, **how)
    layer.set_weights(weights)
    changed = np.where(scenario[:, None] == 1, 5 * x + 3, x).astype("float32")
    after = vectors(layer, changed, scenario, **how)
    other = scenario != 1
    np.testing.assert_allclose(after[other], before[other], atol=1e-5)
    assert np.abs(after[~other] - before[~other]).max() > 1e-3
    layer.set_weights(weights)
    order = np.random.default_rng(1).permutation(ROWS)
    shuffled = vectors(layer, x[order], scenario[order], **how)
    np.testing.assert_allclose(shuffled, before[order], atol=1e-5)


# --- inside the model -------------------------------------------------------------


@each_scheme
def test_rows_are_independent_and_a_child_stays_below_its_parent(scheme: str) -> None:
    model, (x, _) = make(scheme), rows()
    p = model.probabilities(x)
    order = np.random.default_rng(0).permutation(len(p))
    shuffled = model.probabilities({k: v[order] for k, v in x.items()})
    np.testing.assert_allclose(shuffled, p[order], atol=1e-6)
    alone = model.probabilities({k: v[3:4] for k, v in x.items()})
    np.testing.assert_allclose(alone, p[3:4], atol=1e-6)
    assert (np.diff(p, axis=1) <= 0).all() and np.ptp(p[:, 0]) > 0.01


@each_scheme
def test_logits_have_both_signs(scheme: str) -> None:
    x, _ = rows(400)
    signs: set[tuple[int, float]] = set()
    model = make(scheme, filled=False)
    for seed in range(6):
        fill(model, seed, scale=0.6)
        z = model.logits(x)
        signs |= {(t, sign) for t in range(3) for sign in np.sign(z[:, t])}
    assert {(t, sign) for t in range(3) for sign in (-1, 1)} <= signs


@each_scheme
def test_every_parameter_gets_a_gradient(scheme: str) -> None:
    model, (x, y) = make(scheme), rows(200)
    loss = FunnelLoss(SPEC.parents)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss(y, model(x, training=True)))
    variables = model.trainable_variables
    gradients = tape.gradient(value, [w.value for w in variables])
    for weight, gradient in zip(variables, gradients, strict=True):
        assert gradient is not None, weight.path
        size = np.abs(tf.convert_to_tensor(gradient))
        assert size.max() > 0, weight.path
        if re.search(
            r"gate(_\d)?/bias$", weight.path
        ):  # of a softmax: each column counts
            assert (size > 0).all(), weight.path
        if weight.path.endswith("_p"):  # of each scenario
            assert (size.reshape(size.shape[0], -1).max(axis=1) > 0).all(), weight.path


@each_scheme
def test_trained_saved_and_loaded_alike(scheme: str, tmp_path) -> None:
    model, (x, y) = make(scheme, filled=False), rows(120)
    model.compile(keras.optimizers.SGD(), FunnelLoss(SPEC.parents), jit_compile=True)
    model.optimizer.build(model.trainable_variables)  # traced once
    runs = []
    for _ in range(2):
        model.reset(3)
        for variable in model.optimizer.variables:
            variable.assign(0 * variable)
        model.optimizer.learning_rate = 1e-2
        start = model.get_weights()
        losses = [float(model.train_on_batch(x, y)) for _ in range(5)]
        runs.append(model.get_weights())
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)
    assert losses[-1] < losses[0]
    moved = [np.abs(a - b).max() > 0 for a, b in zip(start, runs[0], strict=True)]
    averages = ["moving" in w.path for w in model.weights]
    assert sum(averages) == (2 if isinstance(model.sharing, STAR) else 0)
    assert all(m for m, a in zip(moved, averages, strict=True) if a)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.sharing) is type(model.sharing)
    assert again.sharing.get_config() == model.sharing.get_config()
    for one, two in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(
        again.probabilities(x), model.probabilities(x), atol=1e-6
    )


def test_fit_keeps_the_moving_averages_of_its_best_pass() -> None:
    model, (x, y) = make("star", filled=False), rows(120)
    parts = {"train": np.arange(80), "valid": np.arange(80, 120)}
    fit(model, x, y, parts, batch_size=20, epochs=2, patience=2)
    mean = np.asarray(model.sharing.norm.moving_mean)
    assert (np.abs(mean).max(axis=1) > 0).all()


@each_scheme
def test_other_settings_survive_the_config(scheme: str) -> None:
    numbers: dict[str, Any] = {
        "parents": (-1, -1),
        "towers": (7,),
        "same": 0.7,
        "experts": 3,
        "shared_experts": 2,
        "levels": 3,
        "auxiliary": 5,
        "embedding": 6,
        "gate": 9,
    }
    arguments = inspect.signature(SCHEMES[scheme]).parameters
    own = {k: v for k, v in numbers.items() if k in arguments}
    assert set(arguments) - set(own) == {"tasks", "scenarios", "units", "kwargs"}
    assert set(own) <= set(SCHEMES[scheme](2, 3).get_config())  # defaults too
    layer = SCHEMES[scheme](2, 3, (9, 4), **own)
    again = type(layer).from_config(layer.get_config())
    for one in (layer, again):
        one.build((None, 5), *([(None, 2)] if layer.needs_prior else []))
    assert again.get_config() == layer.get_config()
    assert own.items() <= again.get_config().items()
    shapes = [[tuple(w.shape) for w in one.weights] for one in (layer, again)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("scheme", ["pepnet", "urlm"])
def test_gate_and_embedding_have_the_sizes_asked_for(scheme: str) -> None:
    layer = SCHEMES[scheme](2, 3, (9, 4), gate=7, embedding=6)
    layer.build((None, 5), *([(None, 2)] if layer.needs_prior else []))
    gate = layer.feature_gate
    shapes = [tuple(w.shape) for w in (*gate.embedding.weights, *gate.gate.weights)]
    assert shapes == [(3, 6), (11, 7), (7,), (7, 5), (5,)]


@each_scheme
@pytest.mark.parametrize("scenarios", [1, 2])
def test_one_task_and_few_scenarios_run_and_train(scheme: str, scenarios: int) -> None:
    spec = replace(
        SPEC, scenarios=SPEC.scenarios[:scenarios], tasks=("click",), funnel={}
    )
    model, (x, y) = make(scheme, spec), rows(60, spec)
    model.compile(keras.optimizers.Adam(1e-2), FunnelLoss([-1]), run_eagerly=True)
    first = model.train_on_batch(x, y)
    for _ in range(3):
        last = model.train_on_batch(x, y)
    assert last < first
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert model.probabilities(x).shape == (60, 1)


@each_scheme
def test_empty_settings_are_refused(scheme: str) -> None:
    for wrong in ((0, 2, (8,)), (2, 0, (8,)), (2, 2, ()), (2, 2, (8, 0))):
        with pytest.raises(ValueError, match="needs at least one task"):
            SCHEMES[scheme](*wrong)


def test_ple_without_an_expert_or_a_level_is_refused() -> None:
    none: list[dict[str, Any]] = [{"experts": 0}, {"shared_experts": 0}, {"levels": 0}]
    for wrong in none:
        with pytest.raises(ValueError, match="PLE needs at least one expert"):
            PLE(2, 2, (8,), **wrong)
