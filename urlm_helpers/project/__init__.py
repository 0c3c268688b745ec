"""A reader's own project, above all other wings: tune, judge, report; section 5.7."""

from typing import TYPE_CHECKING, Any

from urlm_helpers.project.blending import Blend, blend
from urlm_helpers.project.judging import Judgement, judge
from urlm_helpers.project.means import Means
from urlm_helpers.project.reporting import report, summary
from urlm_helpers.project.rivals import rival_probabilities
from urlm_helpers.project.settings import (
    BadInput,
    Settings,
    check_classes,
    fingerprint,
    read_settings,
    read_tables,
)

if TYPE_CHECKING:
    from urlm_helpers.project.tuning import Tuned, tune


def __getattr__(name: str) -> Any:
    """Load what trains, which needs Keras, when somebody asks for it."""
    if name in ("Tuned", "tune"):
        from urlm_helpers.project import tuning

        return getattr(tuning, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
