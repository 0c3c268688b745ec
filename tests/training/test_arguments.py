"""Every argument of `fit` changes what is trained, or what it says it changes."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

keras = pytest.importorskip("keras")

from urlm_helpers.model import EntireSpaceLoss, UnifiedRecommender  # noqa: E402
from urlm_helpers.preprocessing import InputSpec  # noqa: E402
from urlm_helpers.sharing import SharedBottom  # noqa: E402
from urlm_helpers.training import RowAdam, fit, fit_batches, loop  # noqa: E402

SPEC = InputSpec(
    {"user": 40, "item": 30}, ("age",), (), 1, ("a",), ("x", "y"), {"y": "x"}
)
N = 130


def log() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    x = {name: np.repeat(like, N, axis=0) for name, like in SPEC.example().items()}
    x["fields"] = rng.integers(0, 30, (N, 2)).astype("int32")
    x["numeric"] = rng.normal(size=(N, 1)).astype("float32")
    return x, np.cumprod(rng.random((N, 2)) < 0.5, axis=1).astype("int8")


X, Y = log()
PARTS = {"train": np.arange(80), "valid": np.arange(80, N)}
BASE: dict[str, Any] = {"batch_size": 16, "epochs": 2, "patience": 2}


@cache
def base() -> UnifiedRecommender:
    return run()[1]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without the compiler."""
    how = {"steps_per_execution": 1, "jit_compile": False, "run_eagerly": True}
    monkeypatch.setattr(loop, "compiling", lambda *_: how)
    monkeypatch.setattr(loop, "STEPS_PER_EXECUTION", 2)


def untrained() -> UnifiedRecommender:
    keras.utils.set_random_seed(0)
    sharing = SharedBottom(2, 1, units=(4,))
    return UnifiedRecommender(SPEC, sharing=sharing, dim=2, bottom=4)


def run(**options: Any) -> tuple[pd.DataFrame, UnifiedRecommender]:
    model = untrained()
    return fit(model, X, Y, PARTS, **{**BASE, **options}), model


def differs(one: UnifiedRecommender, other: UnifiedRecommender) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return any((a != b).any() for a, b in pairs)


TRAINED: dict[str, Any] = {
    "batch_size": 15,
    "seed": 1,
    "sample_weight": np.arange(N),
    "epochs": 1,
    "learning_rate": 1e-3,
    "decay": False,
    "weight_decay": 0.5,
    "weights": (1.0, 9.0),
    "loss": EntireSpaceLoss(SPEC.parents),
    "row_wise": True,
}
"""A value of each argument that changes the weights."""

ELSEWHERE = {"patience", "checkpoint", "checkpoint_steps", "settings", "valid_weight"}
ELSEWHERE |= {"balance_decays"}
"""Arguments that change when a run ends or goes on: tested below, or by name."""

GIVEN = {"model", "x", "y", "parts", "train", "valid_x", "valid_y", "options"}


def test_no_argument_is_forgotten() -> None:
    every = {*inspect.signature(fit).parameters}
    every |= {*inspect.signature(fit_batches).parameters}
    assert every == {*TRAINED} | ELSEWHERE | GIVEN


def test_the_same_arguments_train_the_same() -> None:
    assert not differs(run()[1], base())


@pytest.mark.parametrize("name", TRAINED)
def test_each_argument_changes_the_weights(name: str) -> None:
    table, model = run(**{name: TRAINED[name]})
    assert differs(model, base())
    assert isinstance(model.optimizer, RowAdam) == (name == "row_wise")
    assert len(table) == (1 if name == "epochs" else 2)


def test_patience_is_what_a_run_waits() -> None:
    lasting: dict[str, Any] = {
        "epochs": 9,
        "learning_rate": 0.3,
        "decay": False,
    }  # soon overfitted
    lengths = {}
    for patience in (1, 3):
        table = run(**lasting, patience=patience)[0]
        lengths[patience] = len(table)
        assert len(table) - table["valid_loss"].argmin() - 1 == patience
    assert lengths[1] < lengths[3] < 9


def test_checkpoints_come_after_so_many_steps_with_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved: list[tuple[int, int]] = []
    path = tmp_path / "run.npz"

    def note(progress: loop.Progress) -> None:
        assert progress.path == path and progress.settings["parts"] == "own"
        saved.append((progress.epoch, progress.step))

    monkeypatch.setattr(loop.Progress, "save", note)
    own: dict[str, Any] = {
        "settings": {"parts": "own"},
        "checkpoint": path,
        "epochs": 1,
    }
    for steps, at in ((1, [2, 4]), (3, [4]), (9, [])):  # of 5, rounded up to pairs
        saved.clear()
        model = untrained()
        batches = loop.Batches(X, Y, PARTS["train"], 16)
        valid: Any = ({name: a[80:] for name, a in X.items()}, Y[80:])
        fit_batches(model, batches, *valid, checkpoint_steps=steps, **own)
        assert saved == [(1, step) for step in at]
