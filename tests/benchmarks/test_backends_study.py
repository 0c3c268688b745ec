"""The study of page 8: its weights, batches, forward pass and ported Adam, by hand."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
study: Any = importlib.import_module("backends_study")


def test_weights_are_drawn_within_glorots_limits_and_vectors_are_zero() -> None:
    table, bias, stack = study.weights([(500, 4), (3,), (2, 10, 14)], seed=3)
    assert table.dtype == np.float32 and not bias.any()
    assert 0.95 < np.abs(table).max() / np.sqrt(6 / 504) <= 1
    assert 0.95 < np.abs(stack).max() / np.sqrt(6 / 24) <= 1  # of each matrix
    np.testing.assert_array_equal(table, study.weights([(500, 4)], seed=3)[0])
    assert (table != study.weights([(500, 4)], seed=4)[0]).any()


def test_another_order_has_the_same_rows_in_each_batch() -> None:
    plain, mixed = study.batches(100), study.batches(100, shuffle=True)
    assert plain.shape == (100, study.BATCH) and (plain != mixed).any(axis=1).all()
    np.testing.assert_array_equal(np.sort(plain, axis=1), np.sort(mixed, axis=1))
    one_pass = plain[: study.ROWS // study.BATCH].ravel()
    assert len(np.unique(one_pass)) == len(one_pass)


def test_forward_pass_by_hand() -> None:
    spec = SimpleNamespace(fields={"user": 2, "item": 2})
    x = {
        "fields": np.array([[1, 0]]),
        "numeric": np.array([[5.0]]),
        "scenario": np.array([1]),
    }
    table = np.array([[9.0], [2.0], [3.0], [9.0]])  # user 1 is 2, item 0 is 3
    z = np.array([[2.0, 3.0, 6.0, 5.0]])
    np.testing.assert_array_equal(study.features(table, x, spec), z)
    up, down = np.array([[1.0], [0], [0], [0]]), np.array([[0.0], [0], [-1], [0]])
    experts = [up, np.array([0.5]), down, np.array([1.0])]  # 2.5, and ReLU(-5) = 0
    gate, gate_bias = np.zeros((4, 4)), np.array([9.0, 9.0, np.log(3), 0.0])
    kernel, bias = np.array([[[7.0]], [[2.0]]]), np.array([[7.0], [0.25]])
    values = [table, *experts, gate, gate_bias, kernel, bias]
    # Scenario 1 gives 3/4 to the first expert: 2 · 3/4 · 2.5 + 1/4.
    assert study.numpy_forward(values, x, spec) == pytest.approx(np.array([[4.0]]))


@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_ported_adam_is_algorithm_1_with_decay_in_the_gradient(l2: float) -> None:
    w, m, v = np.array([0.3, -0.2]), np.zeros(2), np.zeros(2)
    weight, optimizer = keras.Variable(w, dtype="float32"), study.port_adam(l2)
    for t, gradient in enumerate(([1e-8, 0.5], [-2e-8, 0.1]), start=1):
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [weight])
        g = np.array(gradient) + l2 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 1e-3 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert keras.ops.convert_to_numpy(weight) == pytest.approx(w, abs=2e-7)
