"""The invariants on the other backends of Keras, each in a process of its own.

Skipped where a backend is not installed. ``KERAS_BACKEND=jax python
tests/training/test_backends.py`` runs the checks alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


def gradients(model: Any, x: Any, y: Any) -> list[Any]:
    """Return the gradient of the funnel's loss with the backend's own means."""
    import keras
    import numpy as np
    from keras import ops

    from urlm_helpers.model import FunnelLoss

    loss = FunnelLoss(model.spec.parents)
    if keras.backend.backend() == "jax":
        jax = importlib.import_module("jax")  # not where the types are checked
        state = [v.value for v in model.non_trainable_variables]

        def value(weights: list[Any]) -> Any:
            logits, _ = model.stateless_call(weights, state, x, training=True)
            return loss(y, logits)

        found = jax.grad(value)([v.value for v in model.trainable_variables])
        return [np.asarray(g) for g in found]
    if keras.backend.backend() == "torch":
        model.zero_grad()
        loss(y, model(x, training=True)).backward()
        return [
            np.asarray(v.value.grad.to("cpu").to_dense())
            for v in model.trainable_variables
        ]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        total = loss(y, model(x, training=True))
    found = tape.gradient(total, [v.value for v in model.trainable_variables])
    return [ops.convert_to_numpy(tf.convert_to_tensor(g)) for g in found]


def check(scheme: str, encoder: Any = None) -> None:
    """Check rows, gradients, one step of training, and saving, for one model."""
    import keras
    import numpy as np
    from schemes import make, rows

    from urlm_helpers.training import fit

    model, (x, y) = make(scheme, encoder=encoder), rows(200)
    p = model.probabilities(x)
    order = np.random.default_rng(0).permutation(len(p))
    shuffled = model.probabilities({k: v[order] for k, v in x.items()})
    np.testing.assert_allclose(shuffled, p[order], atol=1e-5)
    alone = model.probabilities({k: v[3:4] for k, v in x.items()})
    np.testing.assert_allclose(alone, p[3:4], atol=1e-5)
    assert (np.diff(p, axis=1) <= 0).all()
    for weight, gradient in zip(
        model.trainable_variables, gradients(model, x, y), strict=True
    ):
        assert np.abs(gradient).max() > 0, f"no gradient: {weight.path}"
    before = model.get_weights()
    parts = {"train": np.arange(150), "valid": np.arange(150, 200)}
    fit(model, x, y, parts, batch_size=50)
    for weight, old in zip(model.weights, before, strict=True):
        new = keras.ops.convert_to_numpy(weight.value)
        assert np.abs(new - old).max() > 0, f"not trained: {weight.path}"
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        again = keras.models.load_model(Path(folder) / "model.keras")
    np.testing.assert_allclose(
        again.probabilities(x), model.probabilities(x), atol=1e-6
    )


def main() -> None:
    """Check every scheme with one encoder, and every encoder with one scheme."""
    import keras
    from schemes import SCHEMES

    from urlm_helpers.features import HSTU, ConvPool, SelfAttention, TargetAttention

    print("backend:", keras.backend.backend())
    failed = 0
    cases: list[tuple[str, Any]] = [(scheme, None) for scheme in SCHEMES]
    cases += [("mmoe", e) for e in (ConvPool, TargetAttention, SelfAttention, HSTU)]
    for scheme, encoder in cases:
        name = f"{scheme}, {encoder.__name__ if encoder else 'MeanPool'}"
        try:
            check(scheme, encoder() if encoder else None)
        except Exception as error:  # report every case, not only the first
            failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
        else:
            print("passed", name)
    print(f"{failed} of {len(cases)} failed")
    sys.exit(failed > 0)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_invariants_hold_on(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"the backend {backend} is not installed")
    path = os.pathsep.join([str(TESTS.parent), str(TESTS / "sharing")])
    run = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    from schemes import SCHEMES

    cases = len(SCHEMES) + 4  # each scheme, and each other encoder
    assert f"backend: {backend}" in run.stdout
    assert f"0 of {cases} failed" in run.stdout


if __name__ == "__main__":
    main()
