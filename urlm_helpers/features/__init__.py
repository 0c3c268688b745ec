"""Feature extraction (特征提取), section 3.2.2: embeddings, encoders of a history."""

from urlm_helpers.features.attention import SelfAttention, TargetAttention
from urlm_helpers.features.compact import CompactEmbedding
from urlm_helpers.features.embedding import FieldEmbedding, Match
from urlm_helpers.features.hstu import HSTU
from urlm_helpers.features.pooling import ConvPool, MeanPool
