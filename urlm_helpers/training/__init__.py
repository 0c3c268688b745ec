"""Training on CPU and GPU: batches, the loop, devices, checkpoints, workers; part 5."""

from urlm_helpers.training.batches import Batches, ShardBatches, feed
from urlm_helpers.training.checkpoints import Progress
from urlm_helpers.training.devices import (
    GIB,
    check_memory,
    choose_devices,
    device_report,
    keep_freed_memory,
    training_memory,
)
from urlm_helpers.training.loop import fit, fit_batches
from urlm_helpers.training.optimizers import RowAdam, table_rows
from urlm_helpers.training.warm import fit_scenario, grow, grow_encoder, warm_start
from urlm_helpers.training.workers import launch, train_worker
