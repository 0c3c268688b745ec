"""The attention encoders: against NumPy, and what must never change their output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from urlm_helpers.features import HSTU, SelfAttention, TargetAttention  # noqa: E402
from urlm_helpers.model import (  # noqa: E402
    FunnelLoss,
    UnifiedRecommender,
)
from urlm_helpers.preprocessing import InputSpec  # noqa: E402
from urlm_helpers.training import fit  # noqa: E402

ROWS, LENGTH, DIM = 24, 6, 4
KINDS = ["target", "self", "hstu"]
Parts = dict[str, np.ndarray]


def make(kind: str) -> Any:
    """Return an encoder that has every part more than once."""
    encoders = {
        "target": lambda: TargetAttention(units=5),
        "self": lambda: SelfAttention(blocks=2, heads=2),
        "hstu": lambda: HSTU(blocks=2, heads=2, time_buckets=6),
    }
    return encoders[kind]()


def built(kind: str, length: int = LENGTH) -> Any:
    """Return an encoder with random weights everywhere."""
    encoder, rng = make(kind), np.random.default_rng(1)
    encoder.build((None, length, DIM))
    encoder.set_weights([rng.normal(0, 0.7, w.shape) for w in encoder.get_weights()])
    return encoder


def parts_of(encoder: Any) -> Parts:
    """Return the weights of an encoder by the end of their path."""
    short = [w.path.removeprefix(f"{encoder.name}/") for w in encoder.weights]
    return dict(zip(short, encoder.get_weights(), strict=True))


@pytest.fixture(scope="module")
def x() -> Parts:
    """Return histories of every number of events: empty, full and in between."""
    rng = np.random.default_rng(0)
    events = np.arange(ROWS) % (LENGTH + 1)
    mask = (np.arange(LENGTH) >= LENGTH - events[:, None]).astype("float32")
    hours = 2.0 ** rng.uniform(-2, 9, (ROWS, LENGTH))
    age = -np.sort(-hours / 24, axis=1).astype("float32") * mask
    sequence = rng.normal(size=(ROWS, LENGTH, DIM)).astype("float32")
    target = rng.normal(size=(ROWS, DIM)).astype("float32")
    return {"sequence": sequence, "mask": mask, "target": target, "age": age}


def run(encoder: Any, x: Parts) -> Any:
    """Call an encoder as the model does."""
    return encoder(x["sequence"], x["mask"], x["target"], x["age"])


def norm(z: np.ndarray, p: Parts, name: str) -> np.ndarray:
    centered = z - z.mean(-1, keepdims=True)
    z = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    return z * p.get(f"{name}/gamma", 1.0) + p.get(f"{name}/beta", 0.0)


def dense(z: np.ndarray, p: Parts, name: str) -> np.ndarray:
    return z @ p[f"{name}/kernel"] + p.get(f"{name}/bias", 0.0)


def silu(z: np.ndarray) -> np.ndarray:
    return z / (1 + np.exp(-z))


def by_hand_target(encoder: Any, x: Parts, row: int) -> np.ndarray:
    p, total, a = parts_of(encoder), np.zeros(DIM), x["target"][row]
    for e in x["sequence"][row][x["mask"][row] > 0]:
        hidden = dense(np.concatenate([e, a, e * a]), p, "hidden")
        hidden = np.where(hidden > 0, hidden, p["slope/alpha"][0] * hidden)
        total += dense(hidden, p, "weight") * e
    return total


def by_hand_self(encoder: Any, x: Parts, row: int) -> np.ndarray:
    p, real = parts_of(encoder), x["mask"][row] > 0
    states = (x["sequence"][row] + p["position"])[real]  # no padding is left
    if not len(states):
        return np.zeros(DIM)
    half = DIM // 2
    for b in ("block_0", "block_1"):
        z = norm(states, p, f"{b}/norm_in")
        q, k, v = (dense(z, p, f"{b}/{name}") for name in ("query", "key", "value"))
        new = states.copy()
        for i in range(len(states)):
            for part in (slice(0, half), slice(half, DIM)):
                weight = np.exp(k[: i + 1, part] @ q[i, part] / np.sqrt(half))
                new[i, part] += weight @ v[: i + 1, part] / weight.sum()
        inner = dense(norm(new, p, f"{b}/norm_out"), p, f"{b}/inner")
        states = new + dense(np.maximum(inner, 0), p, f"{b}/outer")
    return norm(states[-1], p, "norm")


def by_hand_hstu(encoder: Any, x: Parts, row: int, target: bool = True) -> np.ndarray:
    p, real = parts_of(encoder), x["mask"][row] > 0
    tokens, age = x["sequence"][row][real], x["age"][row][real].astype("float64")
    if target:
        tokens = np.concatenate([tokens, x["target"][row][None]])
        age = np.append(age, 0.0)
    if not len(tokens):
        return np.zeros(DIM)
    half = DIM // 2
    for b in ("block_0", "block_1"):
        z = norm(tokens, p, f"{b}/norm_in")
        u, q = np.split(silu(dense(z, p, f"{b}/uq")), 2, axis=1)
        v, k = np.split(silu(dense(z, p, f"{b}/vk")), 2, axis=1)
        pooled = np.zeros_like(tokens)
        for i in range(len(tokens)):
            for j in range(i + 1):
                hours = 24 * (age[j] - age[i])
                bucket = sum(hours >= edge for edge in (1, 2, 4, 8, 16))
                r = p[f"{b}/position_bias"][i - j] + p[f"{b}/time_bias"][bucket]
                for part in (slice(0, half), slice(half, DIM)):
                    weight = silu(q[i, part] @ k[j, part] + r) / (LENGTH + 1)
                    pooled[i, part] += weight * v[j, part]
        tokens = tokens + dense(norm(pooled, p, f"{b}/norm_out") * u, p, f"{b}/out")
    return tokens[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop_in_numpy(kind: str, x: Parts) -> None:
    encoder = built(kind)
    by_hand = {"target": by_hand_target, "self": by_hand_self, "hstu": by_hand_hstu}
    expected = [by_hand[kind](encoder, x, row) for row in range(ROWS)]
    np.testing.assert_allclose(run(encoder, x), expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.1


def test_hstu_without_a_target_is_the_state_of_the_newest_event(x: Parts) -> None:
    encoder = built("hstu")
    expected = [by_hand_hstu(encoder, x, row, target=False) for row in range(ROWS)]
    got = encoder(x["sequence"], x["mask"], age=x["age"])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_position_changes_nothing(kind: str, x: Parts) -> None:
    encoder, real = built(kind), x["mask"] > 0
    noisy = np.where(real[..., None], x["sequence"], 9).astype("float32")
    age = np.where(real, x["age"], 99).astype("float32")
    got = encoder(noisy, x["mask"], x["target"], age)
    np.testing.assert_array_equal(got, run(encoder, x))
    shorter = {k: v[:, -3:] if k != "target" else v for k, v in x.items()}
    few = x["mask"].sum(1) <= 3
    got = run(encoder, shorter)
    np.testing.assert_allclose(got[few], run(encoder, x)[few], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_see_each_other(kind: str, x: Parts) -> None:
    encoder, order = built(kind), np.random.default_rng(2).permutation(ROWS)
    got = run(encoder, {name: value[order] for name, value in x.items()})
    np.testing.assert_allclose(got, np.asarray(run(encoder, x))[order], atol=1e-6)
    alone = run(encoder, {name: value[5:6] for name, value in x.items()})
    np.testing.assert_allclose(alone, run(encoder, x)[5:6], atol=1e-6)


def states_of(encoder: Any, x: Parts) -> np.ndarray:
    """Return the states of all positions."""
    known = ("sequence", "mask") if isinstance(encoder, SelfAttention) else tuple(x)
    return np.asarray(encoder.states(**{name: x[name] for name in known}))


@pytest.mark.parametrize("kind", ["self", "hstu"])
def test_a_later_event_does_not_change_an_earlier_state(kind: str, x: Parts) -> None:
    encoder = built(kind)
    before = states_of(encoder, x)
    np.testing.assert_allclose(
        before[:, -1] * (1 if kind == "hstu" else x["mask"][:, -1:]),
        run(encoder, x),
        atol=1e-5,
    )
    rng, full = np.random.default_rng(5), x["mask"].sum(1) == LENGTH
    sequence = x["sequence"].copy()
    sequence[:, 4] = rng.normal(size=(ROWS, DIM))
    after = states_of(encoder, {**x, "sequence": sequence})
    real = x["mask"][:, :4] > 0
    np.testing.assert_allclose(after[:, :4][real], before[:, :4][real], atol=1e-6)
    assert (np.abs(after - before)[full, 4:].max(-1) > 1e-3).all()
    if kind == "hstu":
        target = rng.normal(size=(ROWS, DIM)).astype("float32")
        other = states_of(encoder, {**x, "target": target})
        np.testing.assert_allclose(other[:, :-1], before[:, :-1], atol=1e-6)
        assert (np.abs(other - before)[:, -1].max(-1) > 1e-3).all()
        younger = states_of(encoder, {**x, "age": x["age"] / 8})
        assert (np.abs(younger - before)[full, -1].max(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_order_matters_to_those_that_know_positions(kind: str, x: Parts) -> None:
    encoder = built(kind)
    full = {name: value[x["mask"].sum(1) == LENGTH] for name, value in x.items()}
    full["age"] = np.ones_like(full["age"])  # nothing but the position tells the order
    turned = {**full, "sequence": full["sequence"][:, [1, 2, 3, 4, 0, 5]]}
    same = np.abs(np.asarray(run(encoder, full)) - run(encoder, turned)).max(axis=1)
    assert (same < 1e-5).all() if kind == "target" else (same > 1e-3).all()


SPEC = InputSpec(
    fields={"user": 9, "item": 40},
    numeric=("price",),
    history_fields=("item",),
    history_length=LENGTH,
    scenarios=("shop", "feed"),
    tasks=("click", "buy"),
    funnel={"buy": "click"},
)


def log(x: Parts) -> tuple[Parts, np.ndarray]:
    """Return inputs of a model, whose histories are those of ``x``, and labels."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, (ROWS, 2)).astype("float32")
    y[:, 1] *= y[:, 0]
    items = rng.integers(1, 40, (ROWS, LENGTH, 1)) * x["mask"][..., None]
    inputs = {
        "fields": rng.integers(0, [9, 40], (ROWS, 2)).astype("int32"),
        "numeric": rng.normal(size=(ROWS, 1)).astype("float32"),
        "history": items.astype("int32"),
        "history_age": x["age"],
        "scenario": rng.integers(0, 2, ROWS).astype("int32"),
    }
    return inputs, y


def model_of(kind: str, visible: bool = True) -> UnifiedRecommender:
    """Return a model, with visible weights everywhere if asked for."""
    keras.utils.set_random_seed(0)
    model, rng = UnifiedRecommender(SPEC, make(kind), dim=DIM), np.random.default_rng(4)
    if visible:
        model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("visible", [True, False], ids=["random", "initial"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str, visible: bool, x: Parts) -> None:
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with TensorFlow")
    model, (inputs, y) = model_of(kind, visible), log(x)
    weights = model.encoder.trainable_variables
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(FunnelLoss(SPEC.parents)(y, model(inputs)))
    gradients = tape.gradient(value, [w.value for w in weights])
    assert len(weights) == len(parts_of(model.encoder)) > 0
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient is not None, weight.path
        size = np.abs(tf.convert_to_tensor(gradient))
        each = weight.path.endswith(("_bias", "position"))  # every bucket, every slot
        assert np.isfinite(size).all(), weight.path
        # what rounding leaves of a gradient that cancels is below 1e-9
        least = size.min() if each else size.max()
        assert least > (1e-9 if visible else 0.0), weight.path


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_history_leaves_no_nan(kind: str, x: Parts) -> None:
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with TensorFlow")
    encoder = built(kind)
    empty = {name: tf.constant(np.zeros_like(value)) for name, value in x.items()}
    inputs = [empty["sequence"], empty["target"]]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = tf.reduce_sum(tf.sin(run(encoder, empty)))
    sources = [*inputs, *[w.value for w in encoder.trainable_variables]]
    for gradient in tape.gradient(value, sources, unconnected_gradients="zero"):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()
    if kind != "hstu":
        assert not np.asarray(run(encoder, {**empty, "target": x["target"]})).any()
    assert not np.asarray(
        built("hstu")(x["sequence"], 0 * x["mask"], age=x["age"])
    ).any()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_scores_are_the_same(
    kind: str, x: Parts, tmp_path: Path
) -> None:
    model, (inputs, _) = model_of(kind), log(x)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.encoder.get_config() == model.encoder.get_config()
    np.testing.assert_allclose(again.logits(inputs), model.logits(inputs), atol=1e-6)


@pytest.mark.xla
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_step_moves_every_part_of_the_encoder(kind: str, x: Parts) -> None:
    model, (inputs, y) = model_of(kind, visible=False), log(x)
    before = parts_of(model.encoder)
    rows = {"train": np.arange(ROWS), "valid": np.arange(ROWS)}
    table = fit(model, inputs, y, rows, epochs=3, patience=3)
    assert np.isfinite(table["train_loss"]).all()
    for name, value in parts_of(model.encoder).items():
        assert np.isfinite(value).all() and (value != before[name]).any(), name


def test_what_is_refused(x: Parts) -> None:
    with pytest.raises(ValueError, match="call it with target"):
        built("target")(x["sequence"], x["mask"])
    with pytest.raises(ValueError, match="call it with age"):
        built("hstu")(x["sequence"], x["mask"], x["target"])
    for kind in ("self", "hstu"):
        with pytest.raises(ValueError, match="built for 3 events, the sequence has 6"):
            run(built(kind, length=3), x)
    for cls in (SelfAttention, HSTU):
        with pytest.raises(ValueError, match="3 heads cannot share"):
            cls(heads=3).build((None, LENGTH, DIM))
