"""Multi-task learning (多任务学习), section 3.2.3: schemes to share parameters."""

from urlm_helpers.sharing.base import Sharing
from urlm_helpers.sharing.bottoms import (
    CrossStitch,
    FullyShared,
    Separate,
    SharedBottom,
)
from urlm_helpers.sharing.chains import AITM, TaskTowers
from urlm_helpers.sharing.experts import HMoE, MMoE, OMoE
from urlm_helpers.sharing.levels import PLE, HiNet
from urlm_helpers.sharing.pepnet import FeatureGate, PEPNet
from urlm_helpers.sharing.star import STAR, PartitionedNorm
from urlm_helpers.sharing.urlm import URLM
