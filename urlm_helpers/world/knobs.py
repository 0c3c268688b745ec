"""The knobs of the simulated app, and their ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import pi
from numbers import Integral, Real
from typing import Any

SCENARIOS = ("shop", "social", "search")
CANDIDATES = 20  # items that the policy chooses a list from


def knob(default: float, low: float, high: float) -> Any:
    """Declare a knob and its range; one whose default is whole takes whole numbers."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Knobs:
    """What can be set in a `urlm_helpers.world.World`.

    Parameters
    ----------
    seed : int
        One seed, one world: ids and labels are the same on every machine (with the
        same streams of NumPy's `Generator`; see `urlm_helpers.world.truth`).
    users, items : int
        How many; memory grows with them, never with the rows of a stream.
    latents : int
        Dimensions k of a taste.
    user_features, item_features : int
        Observed columns: orthogonal linear views of the taste, plus noise. Fewer
        columns than latents lose information for good. An item has also a `rating`,
        the view of its appeal, and a `category`, its largest feature.
    scenario_shift : float
        Angle θ in radians by which each scenario turns tastes: 0 makes them equal.
        Between 0 and π/2 it also makes some scenarios' tastes weaker or stronger, by
        the seed: compare a θ over several seeds.
    task_shift : float
        Angle φ by which `like` and `buy` turn the taste of `click`: 0 makes the
        tasks want the same. `urlm_helpers.world.task_correlation` measures what
        it comes to.
    user_overlap, item_overlap : float
        Share of the users (items) that is in every scenario; each other one lives in
        a single scenario, drawn by traffic.
    traffic : tuple of 3 float
        Shares of the requests in shop, social and search.
    feature_noise : float
        Standard deviation σ of the noise on features that have variance 1.
    position_bias : float
        Exponent η: position k is looked at with probability k^-η in shop, k^(-η/2)
        in social and k^(-3η/2) in search.
    drift : float
        How much δ of a taste is new each day: u ← √(1-δ²) u + δ ξ.
    new_users, new_items : float
        Share born after the first day, on any of the later days; nobody in a log of
        one day.
    confounder : float
        Logit per standard deviation of a hidden mood that moves all tasks of a row.
        0 is off, 1 is on.
    homophily : float
        Probability that a picked friend is the most like-minded of eight strangers,
        instead of any stranger.
    friend_effect : float
        Weight, in social, of the friends' mean taste next to one's own.
    query_effect : float
        Logit that an item gains, in search, if it is of the category that was asked
        for: all of it for `click` and in the policy's score, half for `like` and
        `buy`.
    threshold_share : float
        Twice the share of the match's variance that comes from thresholds, which no
        sum of products of features can tell: segments of users, cut by the signs of
        their first three features, each with likes and dislikes among the categories
        (`urlm_helpers.world.draws.segment_tables`). 0 leaves the match bilinear; at 1
        half of it is not.
    random_share : float
        Share of the requests whose list is drawn from the candidates at random.
    days : int
        Length of the log.

    Raises
    ------
    ValueError
        A knob outside its range, with the range.
    """

    seed: int = knob(0, 0, 2**63 - 1)
    users: int = knob(2_000, 10, 10_000_000)
    items: int = knob(1_000, CANDIDATES, 10_000_000)
    latents: int = knob(5, 1, 64)
    user_features: int = knob(10, 1, 256)
    item_features: int = knob(5, 1, 256)
    scenario_shift: float = knob(0.6, 0, pi / 2)
    task_shift: float = knob(0.6, 0, pi / 2)
    user_overlap: float = knob(0.6, 0, 1)
    item_overlap: float = knob(0.6, 0, 1)
    traffic: tuple[float, float, float] = (0.70, 0.25, 0.05)
    feature_noise: float = knob(0.3, 0, 10)
    position_bias: float = knob(1.0, 0, 5)
    drift: float = knob(0.05, 0, 1)
    new_users: float = knob(0.1, 0, 0.9)
    new_items: float = knob(0.1, 0, 0.9)
    confounder: float = knob(0.0, 0, 5)
    homophily: float = knob(0.7, 0, 1)
    friend_effect: float = knob(0.5, 0, 5)
    query_effect: float = knob(1.5, 0, 5)
    threshold_share: float = knob(0.0, 0, 1)
    random_share: float = knob(0.05, 0, 1)
    days: int = knob(14, 1, 3_650)

    def __post_init__(self) -> None:
        for declared in fields(self):
            if declared.metadata:
                self._check(declared.name, type(declared.default), declared.metadata)
        shares = tuple(self.traffic)
        if not (len(shares) == 3 and min(shares) > 0 and abs(sum(shares) - 1) < 1e-9):
            raise ValueError(
                "traffic must be three positive shares that sum to 1, for "
                f"{SCENARIOS}; got {self.traffic!r}"
            )
        object.__setattr__(self, "traffic", tuple(map(float, shares)))

    def _check(self, name: str, kind: type, metadata: Mapping[Any, Any]) -> None:
        """Refuse a knob that is no number or lies outside its range."""
        value, (low, high) = getattr(self, name), metadata["range"]
        number, what = (Integral, "whole number") if kind is int else (Real, "number")
        if not isinstance(value, number) or isinstance(value, bool):
            raise ValueError(f"{name} must be a {what}, got {value!r}")
        if not low <= float(value) <= high:
            raise ValueError(f"{name} must lie in [{low:.4g}, {high:.4g}], got {value}")
        # a np.float64 would turn float32 arrays into float64, with other last bits
        object.__setattr__(self, name, kind(value))
