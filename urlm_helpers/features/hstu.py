"""The hierarchical sequential transduction unit, an encoder without softmax."""

from typing import Any

import keras
import numpy as np
from keras import ops

from urlm_helpers.features.attention import _Blocks, _norm, _seen, _split
from urlm_helpers.features.base import Configured, dense

HOURS_PER_DAY = 24.0


class _HSTUBlock(Configured, keras.layers.Layer):
    """Pointwise attention with biases of position and time, gated by the token."""

    def __init__(self, heads: int, time_buckets: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.time_buckets = heads, time_buckets

    def build(self, tokens_shape: Any) -> None:
        """Create projections and biases, for one token more than there are events."""
        length, dim = tokens_shape[1:]
        self.slots = length + 1
        shape = (None, None, dim)
        self.norm_in = _norm("norm_in", shape, affine=False)
        self.norm_out = _norm("norm_out", shape, affine=False)
        self.uq, self.vk = (
            dense(2 * dim, shape, name, activation="silu") for name in ("uq", "vk")
        )
        self.out = dense(dim, shape, "out")
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.position_bias = self.add_weight((self.slots,), small, name="position_bias")
        self.time_bias = self.add_weight((self.time_buckets,), small, name="time_bias")

    def bias(self, bucket: Any) -> Any:
        """Return what position and time add to a logit, ``(batch, last, length)``."""
        last, length = bucket.shape[1:]
        slot = np.arange(length)
        steps_back = np.maximum(slot[-last:, None] - slot, 0)  # (last, length)
        by_time = ops.take(self.time_bias, bucket, axis=0)
        return ops.take(self.position_bias, steps_back, axis=0) + by_time

    def call(self, tokens: Any, mask: Any, bucket: Any, last: int) -> Any:
        """Return the new states of the ``last`` tokens, ``(batch, last, dim)``."""
        normed = self.norm_in(tokens)
        u, q = ops.split(self.uq(normed[:, -last:]), 2, axis=-1)
        v, k = ops.split(self.vk(normed), 2, axis=-1)
        q, v, k = (_split(x, self.heads) for x in (q, v, k))
        logits = ops.einsum("bqhd,bkhd->bhqk", q, k)
        logits = logits + self.bias(bucket[:, -last:])[:, None]
        weight = ops.silu(logits) * _seen(mask, last) / self.slots
        pooled = ops.einsum("bhqk,bkhd->bqhd", weight, v)
        pooled = ops.reshape(pooled, (-1, last, tokens.shape[2]))
        return tokens[:, -last:] + self.out(self.norm_out(pooled) * u)


class HSTU(_Blocks):
    r"""Hierarchical sequential transduction units: attention that adds up.

    .. math:: U, V, Q, K = \mathrm{SiLU}(f_1(\mathrm{norm}(X))), \quad
        A = \mathrm{SiLU}(Q K^\top + r) / N, \quad
        Y = X + f_2(\mathrm{norm}(A V) \odot U)

    The bias :math:`r` of two tokens is one number for how many positions lie between
    them plus one for how much time does [1]_. The time is put into buckets: under
    one hour, then up to 2, 4, 8, ... hours; the last bucket has no end. :math:`N` is
    the longest history plus one and the same for every row. The norms have nothing
    to learn.

    The target is appended as the newest token, of age 0, and the output is its state;
    without a target it is that of the newest event, zeros for an empty history. The
    last block is computed for that token alone.

    Parameters
    ----------
    blocks : int
        Layers of attention on top of each other.
    heads : int
        Parts of a vector that attend on their own; a divisor of its length.
    time_buckets : int
        Buckets of the time between two tokens; the last starts at
        ``2 ** (time_buckets - 2)`` hours, 683 days for 16.

    Raises
    ------
    ValueError
        If it is called without ``age``, ``heads`` does not divide ``dim``, or a
        sequence is longer than built for.

    Notes
    -----
    No softmax means that a weight does not shrink because other events are there too.
    The norm of :math:`A V` then takes a common factor out, :math:`1/N` among them:
    what is left of the number of events is their sum in relation to the token's own.

    References
    ----------
    .. [1] J. Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter
       Sequential Transducers for Generative Recommendations", ICML 2024.
       arXiv:2402.17152

    Examples
    --------
    >>> layer = HSTU(blocks=1)
    >>> steps, mask = np.ones((2, 5, 4), "float32"), np.ones((2, 5), "float32")
    >>> days = np.full((2, 5), [9, 7, 4, 1, 0.2], "float32")
    >>> layer(steps, mask, np.ones((2, 4), "float32"), days).shape
    TensorShape([2, 4])
    """

    def __init__(
        self, blocks: int = 2, heads: int = 1, time_buckets: int = 16, **kwargs: Any
    ) -> None:
        super().__init__(blocks, heads, **kwargs)
        self.time_buckets = time_buckets
        self.autocast = False  # half precision would round ages to hours

    def block(self, name: str) -> keras.layers.Layer:
        """Return one block."""
        return _HSTUBlock(self.heads, self.time_buckets, name=name)

    def buckets(self, age: Any, last: int) -> Any:
        """Return the bucket of the time between tokens, ``(batch, last, length)``."""
        hours = HOURS_PER_DAY * (age[:, None] - age[:, -last:, None])
        bucket = 1.0 + ops.floor(ops.log2(ops.maximum(hours, 0.5)))
        return ops.minimum(ops.cast(bucket, "int32"), self.time_buckets - 1)

    def states(
        self, sequence: Any, mask: Any, target: Any, age: Any, last: int | None = None
    ) -> Any:
        """Return the states of the ``last`` tokens, by default all of them.

        Shape ``(batch, last, dim)``; with a target, the last one is the target's.
        Those of padded positions mean nothing.
        """
        self.check(sequence)
        mask, age = ops.cast(mask, sequence.dtype), ops.cast(age, keras.config.floatx())
        tokens = sequence * mask[..., None]
        if target is not None:
            tokens = ops.concatenate([tokens, target[:, None]], axis=1)
            mask = ops.concatenate([mask, ops.ones_like(mask[:, :1])], axis=1)
            age = ops.concatenate([age, ops.zeros_like(age[:, :1])], axis=1)
        length = tokens.shape[1]
        last = last or length
        bucket = self.buckets(age, length if len(self.blocks) > 1 else last)
        for block in self.blocks[:-1]:
            tokens = block(tokens, mask, bucket, last=length)
        return self.blocks[-1](tokens, mask, bucket, last=last)

    def call(
        self, sequence: Any, mask: Any, target: Any = None, age: Any = None
    ) -> Any:
        """Map ``(batch, length, dim)``, mask, target and age to ``(batch, dim)``."""
        if age is None:
            raise ValueError(
                "HSTU looks at the time between events: call it with age, their age "
                "in days, shape (batch, length)"
            )
        newest = self.states(sequence, mask, target, age, last=1)[:, 0]
        if target is not None:
            return newest
        return newest * ops.cast(mask, newest.dtype)[:, -1:]
