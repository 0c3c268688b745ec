"""The simulated app with known probabilities, and the best that a score can do."""

from urlm_helpers.world.app import World
from urlm_helpers.world.best import (
    best_on_observables,
    reference_lines,
    task_correlation,
)
from urlm_helpers.world.knobs import SCENARIOS, Knobs
from urlm_helpers.world.log import Log
from urlm_helpers.world.people import TasteWalk
from urlm_helpers.world.reference import (
    excess_log_loss,
    expected_auc,
    gap_closed,
    popularity,
)
from urlm_helpers.world.scaling import PowerLaw, action_excess, excess, fit_power_law
from urlm_helpers.world.truth import TASKS, logits
