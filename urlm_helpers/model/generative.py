"""A generative recommender: a person's log as a sequence of tokens, read once.

Each event is two tokens, what was shown and what the person did. The model predicts
the action after each content token from all tokens before it, so that one pass over a
sequence trains as many predictions as it has events.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from urlm_helpers.features.base import Configured, built
from urlm_helpers.features.embedding import FieldEmbedding
from urlm_helpers.features.hstu import HSTU

INPUTS = ("fields", "numeric", "action", "age", "mask")
SHRINK = 5.0
"""Events without surprise that are counted with those of a person."""


class NextAction(Configured, keras.Model):
    r"""The next action of a person, from contents and actions in turn.

    .. math:: c_1, a_1, c_2, a_2, \dots, c_n, a_n \;\to\;
        P(a_i \mid c_1, a_1, \dots, a_{i-1}, c_i)

    A content token is the sum of the vectors of its fields (the item, its category, the
    scenario, ...) and of a linear map of its numbers; an action token is a vector per
    action. The tokens go through :class:`~urlm_helpers.features.HSTU`, and a softmax
    over the actions is read at the content tokens [1]_. No token knows who the person
    is: what they like has to be read from what they did.

    Parameters
    ----------
    fields : mapping of str to int
        Categorical fields of a content with their vocabulary sizes.
    numeric : int
        Numbers of a content.
    actions : int
        Actions, one of which is "nothing".
    length : int
        Events of a sequence, at most.
    dim : int
        Length of a token.
    blocks, heads : int
        Of the encoder.

    References
    ----------
    .. [1] J. Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter
       Sequential Transducers for Generative Recommendations", ICML 2024.
       arXiv:2402.17152

    Examples
    --------
    >>> model = NextAction({"item": 9, "scenario": 3}, 1, actions=4, length=5, dim=8)
    >>> x = model.example(rows=2)
    >>> model(x).shape
    TensorShape([2, 5, 4])
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        numeric: int,
        actions: int,
        length: int,
        dim: int = 32,
        blocks: int = 2,
        heads: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # the layers cast; half precision would round ages
        self.fields, self.numeric = dict(fields), numeric
        self.actions, self.length, self.dim = actions, length, dim
        self.embedding = FieldEmbedding([*self.fields.values(), actions], dim)
        self.numbers = keras.layers.Dense(dim, name="numbers")
        self.encoder = HSTU(blocks, heads)
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.output_layer = keras.layers.Dense(
            actions, name="actions", dtype=keras.config.floatx()
        )
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Create the variables of every part."""
        built(self.embedding)
        built(self.encoder, (None, 2 * self.length, self.dim))
        built(self.numbers, (None, None, self.numeric))
        built(self.norm, (None, None, self.dim))
        built(self.output_layer, (None, None, self.dim))

    def example(self, rows: int = 1) -> dict[str, np.ndarray]:
        """Return valid inputs, all of them zeros."""
        shape = (rows, self.length)
        return {
            "fields": np.zeros((*shape, len(self.fields)), "int32"),
            "numeric": np.zeros((*shape, self.numeric), "float32"),
            "action": np.zeros(shape, "int32"),
            "age": np.zeros(shape, "float32"),
            "mask": np.zeros(shape, "float32"),
        }

    def tokens(self, x: Mapping[str, Any]) -> Any:
        """Return contents and actions in turn, ``(batch, 2 * length, dim)``."""
        n = len(self.fields)
        vectors = self.embedding(x["fields"], fields=range(n))  # (batch, length, n, d)
        content = ops.sum(vectors, axis=2) + self.numbers(x["numeric"])
        action = self.embedding(ops.expand_dims(x["action"], -1), fields=[n])[:, :, 0]
        both = ops.stack([content, action], axis=2)  # (batch, length, 2, dim)
        return ops.reshape(both, (-1, 2 * both.shape[1], self.dim))

    def call(self, x: Mapping[str, Any], training: bool = False) -> Any:
        """Return the logits of the actions at each event, ``(batch, length, actions)``.

        Those of padded events (``mask`` 0; they stand before the others) mean nothing.
        """
        if missing := sorted(set(INPUTS) - set(x)):
            raise ValueError(f"NextAction needs {INPUTS}, missing: {missing}")
        mask, age = (ops.repeat(x[name], 2, axis=1) for name in ("mask", "age"))
        states = self.encoder.states(self.tokens(x), mask, None, age)
        return self.output_layer(self.norm(states[:, 0::2]))


def sequences(
    log: pd.DataFrame,
    contents: Mapping[str, np.ndarray],
    tasks: Sequence[str],
    length: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Turn a log into one sequence per person: their latest events, newest last.

    Parameters
    ----------
    log : DataFrame
        ``user``, ``time`` and a 0/1 column per task.
    contents : mapping
        ``fields`` (rows, fields) and ``numeric`` (rows, numbers) of the log's rows.
    tasks : sequence of str
        A funnel, from its first task to its last; the action of a row is how many of
        them happened.
    length : int
        Events of a sequence, at most.

    Returns
    -------
    x : dict of str to ndarray
        Inputs of :class:`NextAction`, a row per person.
    rows : ndarray of int, shape (people, length)
        Which row of the log stands where; -1 where none does.

    Raises
    ------
    ValueError
        If ``contents`` has another number of rows than the log.

    Examples
    --------
    >>> day = pd.to_datetime(["2026-01-02", "2026-01-01", "2026-01-03"])
    >>> log = pd.DataFrame({"user": [7, 7, 9], "time": day, "click": [1, 0, 1]})
    >>> contents = {"fields": np.array([[4], [5], [6]]), "numeric": np.zeros((3, 1))}
    >>> x, rows = sequences(log, contents, ["click"], length=3)
    >>> rows.tolist(), x["action"].tolist()
    ([[-1, 1, 0], [-1, -1, 2]], [[0, 0, 1], [0, 0, 1]])
    """
    sizes = {name: len(array) for name, array in contents.items()}
    if set(sizes.values()) != {len(log)}:
        raise ValueError(f"the log has {len(log)} rows, contents have {sizes}")
    time = log["time"].to_numpy("datetime64[ns]").astype("int64")
    user, first = np.unique(log["user"].to_numpy(), return_inverse=True)
    order = np.lexsort((np.arange(len(log)), time, first))  # by user, then in time
    ends = np.searchsorted(first[order], np.arange(len(user)), side="right")
    at = ends[:, None] - length + np.arange(length)  # (people, length)
    starts = np.concatenate([[0], ends[:-1]])
    real = at >= starts[:, None]
    rows = np.where(real, order[np.maximum(at, 0)], -1)
    done = log[list(tasks)].to_numpy("int32").sum(axis=1)
    days = (time[rows[:, -1:]] - time[rows]) / 86_400e9
    x = {
        "fields": contents["fields"][rows].astype("int32") * real[..., None],
        "numeric": contents["numeric"][rows].astype("float32") * real[..., None],
        "action": (done[rows] * real).astype("int32"),
        "age": (days * real).astype("float32"),
        "mask": real.astype("float32"),
    }
    return {name: np.ascontiguousarray(a) for name, a in x.items()}, rows


def evidence(
    x: Mapping[str, np.ndarray], surprise: np.ndarray, alike: np.ndarray, field: int
) -> np.ndarray:
    r"""Count by hand what the past says of each event, a rival of :class:`NextAction`.

    For event :math:`i` and each action, the surprises :math:`r_j` of the events before
    it are averaged with weights :math:`w_{ij}`,

    .. math:: \sum_{j<i} w_{ij} r_j \Big/ \Bigl(5 + \sum_{j<i} |w_{ij}|\Bigr),

    once with all weights 1 (does this person act much?), once with those of events of
    the same field (here?), and once with the product :math:`z_i^\top z_j` of what two
    contents are (on things like this?). Nothing is trained.

    Parameters
    ----------
    x : mapping of str to ndarray
        Of :func:`sequences`.
    surprise : ndarray, shape (people, length, actions)
        What happened, 0 or 1, less what was to be expected.
    alike : ndarray, shape (people, length, numbers)
        What a content is; centred, so that a product may be negative.
    field : int
        Column of ``fields`` that two events share or not.

    Returns
    -------
    ndarray, shape (people, length, 1 + 3 * actions)
        How many events stand before, and the three averages.

    Examples
    --------
    >>> x = {"mask": np.ones((1, 3)), "fields": np.array([[[1], [2], [1]]])}
    >>> surprise = np.array([[[1.0], [1.0], [0.0]]])
    >>> alike = np.array([[[1.0], [-1.0], [1.0]]])
    >>> evidence(x, surprise, alike, 0)[0, -1].round(2).tolist()
    [2.0, 0.29, 0.17, 0.0]
    """
    there = np.asarray(x["mask"], "float64")
    length = there.shape[1]
    before = np.tril(np.ones((length, length)), -1) * there[:, None]
    kind = x["fields"][..., field]
    weights = (
        before,
        before * (kind[:, :, None] == kind[:, None]),
        before * np.einsum("pik,pjk->pij", alike, alike),
    )
    columns = [before.sum(-1, keepdims=True)]
    for weight in weights:
        size = SHRINK + abs(weight).sum(-1, keepdims=True)
        columns.append(weight @ surprise / size)
    return np.concatenate(columns, axis=-1)
