"""Prediction and recommendation (预测与推荐), section 3.2.4: whom to show what."""

from typing import TYPE_CHECKING, Any

from urlm_helpers.recommendation.fusion import (
    Mix,
    choose,
    front,
    fuse,
    list_values,
    mix_weights,
    simplex,
)
from urlm_helpers.recommendation.lists import candidates, recommend
from urlm_helpers.recommendation.rerank import at_most, best, dpp, mmr, never
from urlm_helpers.recommendation.vector_index import VectorIndex, latencies, overlap

if TYPE_CHECKING:
    from urlm_helpers.recommendation.in_batch import (
        in_batch_softmax,
        sampling_probability,
    )
    from urlm_helpers.recommendation.towers import TwoTower, fit_towers


def __getattr__(name: str) -> Any:
    """Load the towers, which need Keras, when somebody asks for them."""
    if name in ("TwoTower", "fit_towers", "in_batch_softmax", "sampling_probability"):
        from urlm_helpers.recommendation import towers

        return getattr(towers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
