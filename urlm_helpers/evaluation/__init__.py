"""Evaluation, sections 4.3 and 5.4: metrics, intervals, comparisons, policies."""

from urlm_helpers.evaluation.bootstrap import (
    METRICS,
    percentile_interval,
    resample_users,
    values,
)
from urlm_helpers.evaluation.calibration import (
    calibration_table,
    ece,
    ece_floor,
    pcoc,
    undo_downsampling,
)
from urlm_helpers.evaluation.catalog import exposure, gini, shown_popularity
from urlm_helpers.evaluation.comparison import compare, holm, t_interval, user_mean
from urlm_helpers.evaluation.intervals import cells, evaluate, ranking_table
from urlm_helpers.evaluation.metrics import (
    auc,
    entropy,
    gauc,
    log_loss,
    normalized_entropy,
    threshold_metrics,
)
from urlm_helpers.evaluation.off_policy import policy_value
from urlm_helpers.evaluation.ranking import query_metrics, ranking_metrics
from urlm_helpers.evaluation.rows import effective_sample_size
from urlm_helpers.evaluation.slices import cold_start, evaluate_slices, pcoc_deciles
