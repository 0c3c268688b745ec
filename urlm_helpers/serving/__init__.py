"""Serving: exported models, the service, latency; section 5.7."""

from urlm_helpers.serving.exports import (
    Exported,
    ExportError,
    LiteScores,
    SavedScores,
    export,
)
from urlm_helpers.serving.latency import Latency, measure_latency
from urlm_helpers.serving.service import Service
