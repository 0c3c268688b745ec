"""The unified model, its losses, and how the losses of tasks are balanced; part 4."""

from urlm_helpers.model.agreement import Agreement, taste_agreement
from urlm_helpers.model.balance import Balance, GradNorm, UncertaintyWeights
from urlm_helpers.model.branch import ProductBranch
from urlm_helpers.model.debiased import (
    DoublyRobustLoss,
    InversePropensityLoss,
    logged_share,
)
from urlm_helpers.model.generative import NextAction, evidence, sequences
from urlm_helpers.model.heads import Heads, along_funnel
from urlm_helpers.model.losses import EntireSpaceLoss, FunnelLoss
from urlm_helpers.model.regression import ShrunkRegression
from urlm_helpers.model.surgery import PCGrad, surgery
from urlm_helpers.model.unified import UnifiedRecommender
