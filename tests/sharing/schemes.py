"""Every way to share, and a small model around each, for the tests of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from urlm_helpers.features import MeanPool
from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.preprocessing import InputSpec
from urlm_helpers.sharing import (
    AITM,
    PLE,
    STAR,
    URLM,
    CrossStitch,
    FullyShared,
    HiNet,
    HMoE,
    MMoE,
    OMoE,
    PEPNet,
    Separate,
    SharedBottom,
    Sharing,
    TaskTowers,
)

SCHEMES: dict[str, Callable[..., Sharing]] = {
    "fully_shared": FullyShared,
    "shared_bottom": SharedBottom,
    "separate": Separate,
    "omoe": OMoE,
    "mmoe": MMoE,
    "cross_stitch": CrossStitch,
    "ple": PLE,
    "hmoe": HMoE,
    "hinet": HiNet,
    "star": STAR,
    "pepnet": PEPNet,
    "task_towers": TaskTowers,
    "aitm": AITM,
    "urlm": URLM,
}
"""Name → constructor ``(tasks, scenarios, units)``."""

SPEC = InputSpec(
    fields={"user": 12, "item": 9, "scenario": 4},
    numeric=("age", "price"),
    history_fields=("item",),
    history_length=4,
    scenarios=("shop", "feed", "mail"),
    tasks=("click", "cart", "buy"),
    funnel={"cart": "click", "buy": "cart"},
)


def rows(n: int = 60, spec: InputSpec = SPEC, seed: int = 0) -> Any:
    """Return inputs and labels of ``n`` random rows."""
    rng = np.random.default_rng(seed)
    scenario = rng.integers(0, len(spec.scenarios), n).astype("int32")
    fields = [rng.integers(0, size, n) for size in spec.fields.values()]
    length = spec.history_length
    history = rng.integers(0, spec.fields["item"], (n, length, 1))
    x = {
        "fields": np.stack(fields, axis=1).astype("int32"),
        "numeric": rng.normal(size=(n, len(spec.numeric))).astype("float32"),
        "history": history.astype("int32"),
        "history_age": rng.uniform(0, 90, (n, length)).astype("float32"),
        "scenario": scenario,
    }
    y = (rng.random((n, len(spec.tasks))) < 0.6).cumprod(axis=1).astype("float32")
    return x, y


def fill(layer: Any, seed: int = 0, scale: float = 0.4) -> None:
    """Give a layer or model visible weights everywhere; a variance stays positive."""
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        value = rng.normal(0, scale, variable.shape)
        if "variance" in variable.path:
            value = 0.5 + np.abs(value)
        variable.assign(value.astype(variable.dtype))


def asked(layer: Any, x: Any) -> dict[str, Any]:
    """Return what a layer is called with besides features and scenario.

    A prior, where it needs one; these are the features' first two columns.
    """
    return {"prior": x[:, :2]} if layer.needs_prior else {}


def make(
    scheme: str, spec: InputSpec = SPEC, encoder: Any = None, filled: bool = True
) -> UnifiedRecommender:
    """Return an untrained model around a scheme."""
    keras.utils.set_random_seed(1)
    sharing = SCHEMES[scheme](len(spec.tasks), len(spec.scenarios), units=(16, 12))
    model = UnifiedRecommender(spec, encoder or MeanPool(), sharing, dim=4, bottom=10)
    if filled:
        fill(model)
    return model
