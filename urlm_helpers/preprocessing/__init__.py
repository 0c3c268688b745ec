"""Data preprocessing (数据预处理): look back, encode, split by time; section 3.2.1."""

from urlm_helpers.preprocessing.columns import Buckets, Scaler, Vocabulary
from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.preprocessing.files import (
    load_encoder,
    save_encoder,
    vocabulary_version,
)
from urlm_helpers.preprocessing.lookback import LookBack
from urlm_helpers.preprocessing.negatives import draw_negatives
from urlm_helpers.preprocessing.prepared import Prepared, prepare
from urlm_helpers.preprocessing.shards import (
    encode_shards,
    read_shard,
    write_shards,
)
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.preprocessing.tables import integrate, split_by_time
from urlm_helpers.preprocessing.world_inputs import world_inputs
