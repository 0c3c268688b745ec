"""Attention over a behavior history (行为序列): which past events matter now.

Encoders of the same contract as those of `urlm_helpers.features`: a sequence
``(batch, length, dim)``, oldest event first, padded on the left; its mask ``(batch,
length)``; the vector of the item in question ``(batch, dim)``; the age of each event
in days ``(batch, length)``. What stands at a padded position changes nothing.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from urlm_helpers.features.base import Configured, built, dense

EPSILON = 1e-6
"""Of the layer norms: Keras' 1e-3 exceeds the variance of freshly drawn vectors."""

MASKED = -3e4
"""Logit of what must not be seen: its softmax is 0, also in half precision."""


def _norm(
    name: str, shape: Any, affine: bool = True
) -> keras.layers.LayerNormalization:
    """Return a layer norm, with or without scale and offset to be learned."""
    norm = keras.layers.LayerNormalization(
        epsilon=EPSILON, center=affine, scale=affine, name=name
    )
    return built(norm, shape)


def _split(x: Any, heads: int) -> Any:
    """Split ``(batch, length, dim)`` into ``(batch, length, heads, dim / heads)``."""
    return ops.reshape(x, (-1, x.shape[1], heads, x.shape[2] // heads))


def _seen(mask: Any, last: int) -> Any:
    """Say what each of the last positions may see: what is real and not later.

    Shape ``(batch, 1, last, length)``, 1 or 0, of the same type as the mask.
    """
    earlier_or_same = np.tri(mask.shape[1])[-last:]
    return ops.convert_to_tensor(earlier_or_same, mask.dtype) * mask[:, None, None]


class TargetAttention(Configured, keras.layers.Layer):
    r"""Deep Interest Network: each event counts as much as it concerns the item.

    .. math:: v(a) = \sum_j w(e_j, a)\, e_j, \qquad
        w(e, a) = u^\top \mathrm{PReLU}(W [e; a; e \odot a] + b) + c

    As in the paper [1]_ the weights are not put through a softmax: a sum
    of many fitting events may be larger than that of one. :math:`c` starts at 1, so
    training starts from the sum of the events, the paper's base model. The difference
    :math:`e - a`, which some implementations add, would be nothing new to a linear
    layer that has both. The order of the events plays no role.

    Parameters
    ----------
    units : int
        Hidden units of the activation unit :math:`w`.

    Raises
    ------
    ValueError
        If it is called without ``target``.

    References
    ----------
    .. [1] G. Zhou et al., "Deep Interest Network for Click-Through Rate Prediction",
       KDD 2018. arXiv:1706.06978

    Examples
    --------
    >>> layer = TargetAttention(units=8)
    >>> steps, mask = np.ones((2, 5, 4), "float32"), np.ones((2, 5), "float32")
    >>> layer(steps, mask, np.ones((2, 4), "float32")).shape
    TensorShape([2, 4])
    """

    def __init__(self, units: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, sequence_shape: Any) -> None:
        """Create the activation unit."""
        dim = sequence_shape[-1]
        pairs, inner = (None, None, 3 * dim), (None, None, self.units)
        self.hidden = dense(self.units, pairs, "hidden")
        self.slope = built(keras.layers.PReLU(shared_axes=[1], name="slope"), inner)
        self.weight = dense(1, inner, "weight", bias_initializer="ones")

    def weights_of(self, sequence: Any, target: Any) -> Any:
        """Return what each event counts, ``(batch, length)``, padded ones included."""
        item = ops.broadcast_to(target[:, None], ops.shape(sequence))
        pairs = ops.concatenate([sequence, item, sequence * item], axis=-1)
        return self.weight(self.slope(self.hidden(pairs)))[..., 0]

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        """Map ``(batch, length, dim)``, mask and target to ``(batch, dim)``."""
        if target is None:
            raise ValueError(
                "TargetAttention weighs events by the item in question: call it with "
                "target, shape (batch, dim)"
            )
        weight = self.weights_of(sequence, target) * ops.cast(mask, sequence.dtype)
        return ops.sum(weight[..., None] * sequence, axis=1)


class _Blocks(Configured, keras.layers.Layer):
    """What the two stacked encoders have in common.

    Parameters
    ----------
    blocks : int
        Layers of attention on top of each other.
    heads : int
        Parts of a vector that attend on their own; a divisor of its length.
    """

    def __init__(self, blocks: int = 2, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_blocks, self.heads = blocks, heads

    def build(self, sequence_shape: Any) -> None:
        """Create the blocks."""
        self.length, dim = sequence_shape[1:]
        if dim % self.heads:
            raise ValueError(f"{self.heads} heads cannot share vectors of length {dim}")
        shape = (None, self.length, dim)
        self.blocks = [
            built(self.block(f"block_{b}"), shape) for b in range(self.n_blocks)
        ]

    def block(self, name: str) -> keras.layers.Layer:
        """Return one block."""
        raise NotImplementedError

    def check(self, sequence: Any) -> None:
        """Refuse a sequence that is longer than what the layer was built for."""
        if sequence.shape[1] > self.length:
            raise ValueError(
                f"{type(self).__name__} was built for {self.length} events, the "
                f"sequence has {sequence.shape[1]}; its shape is "
                f"{tuple(sequence.shape)}"
            )


class _SelfAttentionBlock(Configured, keras.layers.Layer):
    """Causal attention, then a network per position, each with norm and residual."""

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, states_shape: Any) -> None:
        """Create projections, norms and the feed-forward network."""
        dim = states_shape[-1]
        shape = (None, None, dim)
        self.query, self.key, self.value = (
            dense(dim, shape, name, use_bias=False)
            for name in ("query", "key", "value")
        )
        self.inner = dense(dim, shape, "inner", activation="relu")
        self.outer = dense(dim, shape, "outer")
        self.norm_in = _norm("norm_in", shape)
        self.norm_out = _norm("norm_out", shape)

    def call(self, states: Any, mask: Any, last: int) -> Any:
        """Return the new states of the ``last`` positions, ``(batch, last, dim)``."""
        dim = states.shape[2]
        normed = self.norm_in(states)
        q = _split(self.query(normed[:, -last:]), self.heads)
        k = _split(self.key(normed), self.heads)
        v = _split(self.value(normed), self.heads)
        logits = ops.einsum("bqhd,bkhd->bhqk", q, k) * (dim // self.heads) ** -0.5
        logits = ops.where(_seen(mask, last) > 0, logits, MASKED)
        weight = ops.softmax(logits, axis=-1)
        mixed = ops.einsum("bhqk,bkhd->bqhd", weight, v)
        new = states[:, -last:] + ops.reshape(mixed, (-1, last, dim))
        return new + self.outer(self.inner(self.norm_out(new)))


class SelfAttention(_Blocks):
    r"""SASRec: events look back at the events before them.

    .. math:: h = x + \mathrm{softmax}(Q K^\top / \sqrt{d})\, V, \qquad
        y = h + W_2\, \mathrm{ReLU}(W_1 \mathrm{norm}(h) + b_1) + b_2

    with :math:`Q, K, V` linear in :math:`\mathrm{norm}(x)`, where :math:`x` is the
    event plus a vector of its position, counted from the newest event [1]_. The
    output is the state of the newest event after the last block, normalized; zeros
    for an empty history. Neither target nor age are used. The last block is computed
    for the newest event alone, as nobody looks at the others. There is no dropout.

    Parameters
    ----------
    blocks : int
        Layers of attention on top of each other.
    heads : int
        Parts of a vector that attend on their own; a divisor of its length.

    Raises
    ------
    ValueError
        If ``heads`` does not divide ``dim``, or a sequence is longer than built for.

    References
    ----------
    .. [1] W.-C. Kang, J. McAuley, "Self-Attentive Sequential Recommendation",
       ICDM 2018. arXiv:1808.09781

    Examples
    --------
    >>> layer = SelfAttention(blocks=1)
    >>> steps, mask = np.ones((2, 5, 4), "float32"), np.ones((2, 5), "float32")
    >>> layer(steps, mask).shape, layer.states(steps, mask).shape
    (TensorShape([2, 4]), TensorShape([2, 5, 4]))
    """

    def build(self, sequence_shape: Any) -> None:
        """Create the vectors of the positions and the blocks."""
        super().build(sequence_shape)
        self.position = self.add_weight(
            shape=tuple(sequence_shape[1:]),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="position",
        )
        self.norm = _norm("norm", sequence_shape)

    def block(self, name: str) -> keras.layers.Layer:
        """Return one block."""
        return _SelfAttentionBlock(self.heads, name=name)

    def states(self, sequence: Any, mask: Any, last: int | None = None) -> Any:
        """Return the states of the ``last`` events, by default all of them.

        Shape ``(batch, last, dim)``. Those of padded positions mean nothing.
        """
        self.check(sequence)
        length = sequence.shape[1]
        mask = ops.cast(mask, sequence.dtype)
        states = sequence * mask[..., None] + self.position[-length:]
        for block in self.blocks[:-1]:
            states = block(states, mask, last=length)
        return self.norm(self.blocks[-1](states, mask, last=last or length))

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        """Map ``(batch, length, dim)`` and its mask to ``(batch, dim)``."""
        newest = self.states(sequence, mask, last=1)[:, 0]
        return newest * ops.cast(mask, newest.dtype)[:, -1:]
