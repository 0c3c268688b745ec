"""Serving: exported models, a live page, the service, latency; 3.2.4c, 5.7b, 5.8."""

from urlm_helpers.serving.exports import (
    Exported,
    ExportError,
    LiteScores,
    SavedScores,
    export,
)
from urlm_helpers.serving.latency import Latency, measure_latency
from urlm_helpers.serving.online import Online
from urlm_helpers.serving.page import (
    LivePage,
    export_page,
    forward_script,
    page_variables,
    read_page,
)
from urlm_helpers.serving.requests import Refused
from urlm_helpers.serving.service import Service, from_bundle
from urlm_helpers.serving.store import (
    EventStore,
    RedisStore,
    Store,
    StoreError,
    open_store,
)
