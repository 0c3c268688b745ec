"""The softmax of a batch: each row's item against the items of the other rows."""

from typing import Any

import keras
import numpy as np
from keras import ops
from keras_rs.layers import SamplingProbabilityCorrection
from numpy.typing import ArrayLike, NDArray


def in_batch_softmax(
    user: Any, item: Any, candidate: Any, probability: Any, temperature: float
) -> Any:
    r"""Return the loss of each row against the other rows' items, ``(batch,)``.

    .. math:: -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}, \qquad
              s_{ij} = \frac{u_i^\top v_j}{\tau} - \log Q_j

    A popular item is in many batches, which teaches the towers that it fits nobody;
    :math:`-\log Q_j` takes that back [1]_. A row j of the same item as row i is no
    negative of it and is left out of the sum.

    Parameters
    ----------
    user, item : tensor, shape (batch, dim)
        Vectors of the rows' users and items.
    candidate : int tensor, shape (batch,)
        The rows' item ids.
    probability : tensor, shape (batch,)
        How likely each row's item is to be drawn into a batch, Q; ones for no
        correction.
    temperature : float
        The τ above.

    Notes
    -----
    ``keras_rs.layers.RemoveAccidentalHits`` would be the layer for the same items. In
    keras-rs 0.4.0 it returns the logits as they are
    (https://github.com/keras-team/keras-rs/pull/206), so the mask is drawn here.

    With the mask, the correction is right as long as no item fills much of a batch:
    where it does, the sum lacks that item's other rows.

    References
    ----------
    .. [1] X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
       Recommendations", RecSys 2019. doi:10.1145/3298689.3346996

    Examples
    --------
    >>> vector = np.eye(2, dtype="float32")
    >>> loss = in_batch_softmax(vector, vector, [7, 9], np.ones(2, "float32"), 1.0)
    >>> bool(np.allclose(loss, np.log(1 + 1 / np.e)))
    True
    >>> loss = in_batch_softmax(vector, vector, [7, 7], np.ones(2, "float32"), 1.0)
    >>> np.asarray(loss).tolist()
    [0.0, 0.0]
    """
    scores = ops.matmul(user, ops.transpose(item)) / temperature  # (batch, batch)
    correct = SamplingProbabilityCorrection(epsilon=1e-12, dtype=keras.config.floatx())
    logits = correct(scores, ops.convert_to_tensor(probability, scores.dtype))
    ids = ops.convert_to_tensor(candidate)
    own = ops.eye(ops.shape(scores)[0], dtype="bool")
    same = ops.equal(ids[:, None], ids[None, :])
    logits = ops.where(ops.logical_and(same, ops.logical_not(own)), -1e9, logits)
    return ops.logsumexp(logits, axis=-1) - ops.diagonal(logits)


def sampling_probability(items: ArrayLike) -> NDArray[np.float32]:
    """Return the share of the rows that have the same item, ``(rows,)``.

    That is Q of `in_batch_softmax` where batches are drawn from these rows.

    Examples
    --------
    >>> sampling_probability(["a", "b", "a", "a"]).tolist()
    [0.75, 0.25, 0.75, 0.75]
    """
    _, code, count = np.unique(items, return_inverse=True, return_counts=True)
    return (count[code] / len(code)).astype(np.float32)
