"""The ranges of the knobs of `urlm_helpers.world.World`."""

from __future__ import annotations

from math import pi
from numbers import Integral, Real
from typing import TYPE_CHECKING

from urlm_helpers.world_people import CANDIDATES, SCENARIOS

if TYPE_CHECKING:
    from urlm_helpers.world import World

COUNTS: dict[str, tuple[float, float]] = {  # knob: smallest value, largest value
    "seed": (0, 2**63 - 1),
    "users": (10, 10_000_000),
    "items": (CANDIDATES, 10_000_000),
    "latents": (1, 64),
    "user_features": (1, 256),
    "item_features": (1, 256),
    "days": (1, 3_650),
}
AMOUNTS: dict[str, tuple[float, float]] = {
    "scenario_shift": (0, pi / 2),
    "task_shift": (0, pi / 2),
    "user_overlap": (0, 1),
    "item_overlap": (0, 1),
    "feature_noise": (0, 10),
    "position_bias": (0, 5),
    "drift": (0, 1),
    "new_users": (0, 0.9),
    "new_items": (0, 0.9),
    "confounder": (0, 5),
    "homophily": (0, 1),
    "friend_effect": (0, 5),
    "query_effect": (0, 5),
    "random_share": (0, 1),
}


def check_knobs(world: World) -> None:
    """Refuse a knob that is no number or lies outside its range."""
    for name, (low, high) in (COUNTS | AMOUNTS).items():
        value = getattr(world, name)
        kind, what = (Integral, "whole number") if name in COUNTS else (Real, "number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} must be a {what}, got {value!r}")
        if not low <= float(value) <= high:
            raise ValueError(f"{name} must lie in [{low:.4g}, {high:.4g}], got {value}")
    shares = tuple(world.traffic)
    if not (len(shares) == 3 and min(shares) > 0 and abs(sum(shares) - 1) < 1e-9):
        raise ValueError(
            f"traffic must be three positive shares that sum to 1, for {SCENARIOS}; "
            f"got {world.traffic!r}"
        )
