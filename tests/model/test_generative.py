"""The next-action model: what a token may see, and how a log becomes sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

keras = pytest.importorskip("keras")

from urlm_helpers.model import NextAction, evidence, sequences  # noqa: E402

LENGTH, ROWS = 5, 4


def model(seed: int = 0) -> NextAction:
    keras.utils.set_random_seed(seed)
    fields = {"item": 9, "scenario": 4}
    one = NextAction(fields, 2, actions=3, length=LENGTH, dim=8)
    rng = np.random.default_rng(seed)
    one.set_weights([rng.normal(0, 0.5, w.shape) for w in one.get_weights()])
    return one


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (ROWS, LENGTH)
    mask = np.arange(LENGTH) >= np.array([[0], [1], [3], [4]])
    fields = [rng.integers(1, n, shape) for n in (9, 4)]
    return {
        "fields": np.stack(fields, axis=-1).astype("int32"),
        "numeric": rng.normal(size=(*shape, 2)).astype("float32"),
        "action": rng.integers(0, 3, shape).astype("int32"),
        "age": np.sort(rng.exponential(3, shape))[:, ::-1].astype("float32"),
        "mask": mask.astype("float32"),
    }


def logits(x: dict[str, Any], one: NextAction) -> np.ndarray:
    return keras.ops.convert_to_numpy(one(x))


@pytest.mark.parametrize("name", ["fields", "numeric", "action"])
@pytest.mark.parametrize("at", range(LENGTH))
def test_an_event_is_seen_by_later_ones_alone(name: str, at: int) -> None:
    x, one = inputs(), model()
    other = {n: array.copy() for n, array in x.items()}
    other[name][:, at] = (
        other[name][:, at] + 1 if name == "numeric" else 1 - (x[name][:, at] == 1)
    )
    before, after = logits(x, one)[0], logits(other, one)[0]
    # An action is known after its own content, so it changes later predictions only.
    first = at + (name == "action")
    np.testing.assert_allclose(after[:first], before[:first], atol=1e-6)
    if first < LENGTH and (other[name][0, at] != x[name][0, at]).any():
        assert np.abs(after[first:] - before[first:]).max() > 1e-4


def test_padded_events_change_nothing() -> None:
    x, one = inputs(), model()
    other = {n: array.copy() for n, array in x.items()}
    padded = x["mask"] == 0
    for name in ("fields", "action"):
        other[name][padded] = 2
    other["numeric"][padded] = 7
    real = ~padded
    np.testing.assert_allclose(
        logits(x, one)[real], logits(other, one)[real], atol=1e-5
    )


def test_every_weight_gets_a_gradient() -> None:
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("gradients are read with TensorFlow's tape")
    one = model()
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(one(inputs()) ** 2)
    variables = [v.value for v in one.trainable_variables]
    for variable, gradient in zip(
        variables, tape.gradient(value, variables), strict=True
    ):
        assert gradient is not None, variable
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    one = model()
    one.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        logits(inputs(), one), logits(inputs(), again), atol=1e-6
    )


def test_it_learns_who_clicks_from_the_past_alone() -> None:
    """People click on everything or on nothing; only the past tells which."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    kind = rng.integers(0, 2, 256)
    one = NextAction({"item": 9}, 1, actions=2, length=LENGTH, dim=8)
    x = one.example(256)
    x["fields"] = rng.integers(1, 9, x["fields"].shape).astype("int32")
    x["action"] = np.repeat(kind[:, None], LENGTH, axis=1).astype("int32")
    x["mask"] = np.ones((256, LENGTH), "float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    one.compile(keras.optimizers.Adam(1e-2), loss)
    one.fit(x, x["action"], epochs=15, batch_size=32, verbose=0)
    right = logits(x, one).argmax(axis=-1) == x["action"]
    assert right[:, 1:].mean() > 0.99 and right[:, 0].mean() < 0.65


def test_a_missing_input_is_named() -> None:
    x = inputs()
    del x["age"]
    with pytest.raises(ValueError, match=r"missing: \['age'\]"):
        model()(x)


def test_sequences_are_a_loop_over_people() -> None:
    rng = np.random.default_rng(0)
    n = 60
    day = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "h")
    click = rng.integers(0, 2, n)
    log = pd.DataFrame({"user": rng.integers(0, 9, n), "time": day, "click": click})
    log["buy"] = log["click"] * rng.integers(0, 2, n)
    contents = {
        "fields": rng.integers(1, 9, (n, 2)),
        "numeric": rng.normal(size=(n, 1)),
    }
    x, rows = sequences(log, contents, ["click", "buy"], LENGTH)
    people = sorted(log["user"].unique())
    assert len(rows) == len(people)
    for person, of in zip(people, range(len(people)), strict=True):
        own = log[log["user"] == person].sort_values("time", kind="stable")
        latest = own.index[-LENGTH:]
        k = LENGTH - len(latest)
        assert rows[of].tolist() == [-1] * k + latest.tolist()
        assert x["mask"][of].tolist() == [0] * k + [1] * len(latest)
        done = (log["click"] + log["buy"])[latest]
        assert x["action"][of].tolist() == [0] * k + done.tolist()
        hours = (own["time"].iloc[-1] - log["time"][latest]) / pd.Timedelta("1D")
        np.testing.assert_allclose(x["age"][of, k:], hours, atol=1e-5)
        np.testing.assert_array_equal(x["fields"][of, k:], contents["fields"][latest])
        assert (x["fields"][of, :k] == 0).all()


def test_contents_of_another_length_are_refused() -> None:
    log = pd.DataFrame({"user": [1], "time": pd.to_datetime(["2026"]), "click": [1]})
    contents = {"fields": np.ones((2, 1)), "numeric": np.ones((2, 1))}
    with pytest.raises(ValueError, match="the log has 1 rows"):
        sequences(log, contents, ["click"], 3)


def test_evidence_is_a_loop_over_the_past() -> None:
    x, rng = inputs(), np.random.default_rng(1)
    surprise, alike = rng.normal(size=(2, ROWS, LENGTH, 2))
    found = evidence(x, surprise, alike, 1)
    for person, now in np.ndindex(ROWS, LENGTH):
        past = [j for j in range(now) if x["mask"][person, j]]
        fields = x["fields"][person, :, 1]
        products = [alike[person, now] @ alike[person, j] for j in past]
        ways = ([1.0] * len(past), [fields[j] == fields[now] for j in past], products)
        want = [float(len(past))]
        for weights in ways:
            total = np.zeros(2)
            for weight, j in zip(weights, past, strict=True):
                total += weight * surprise[person, j]
            want += list(total / (5 + np.abs(np.array(weights, float)).sum()))
        np.testing.assert_allclose(found[person, now], want, atol=1e-12)
