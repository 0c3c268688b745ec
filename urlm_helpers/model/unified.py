"""One model for every scenario and task: embeddings + encoder + sharing + heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras_rs.layers import FeatureCross

from urlm_helpers.features.base import Configured, built
from urlm_helpers.features.embedding import FieldEmbedding, Match
from urlm_helpers.features.pooling import MeanPool
from urlm_helpers.model.branch import ProductBranch
from urlm_helpers.model.heads import Heads, along_funnel
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.sharing.base import tower
from urlm_helpers.sharing.experts import MMoE

PREDICT_ROWS = 8192
"""Rows that are scored at a time."""

FEEDS = ("match", "vector")
"""How a history may enter."""

PRIOR = ("user", "item", "author", "category")
"""Fields whose vectors are the prior of a scheme that needs one, where there are."""

PARTS = ("encoder", "sharing", "balance", "embedding")
"""Arguments that are layers."""


class UnifiedRecommender(Configured, keras.Model):
    """Every scenario and every task from one set of parameters.

    Parameters
    ----------
    spec : InputSpec or mapping
        What the inputs are; :attr:`urlm_helpers.preprocessing.Encoder.spec`.
    encoder : Layer, optional
        From ``(batch, length, dim)``, mask, target ``(batch, dim)`` and age ``(batch,
        length)`` to ``(batch, dim)``; by default
        :class:`~urlm_helpers.features.MeanPool`.
    sharing : Layer, optional
        From ``(batch, dim)`` and scenario to a list with one vector per task; by
        default :class:`~urlm_helpers.sharing.MMoE`. One that ``needs_prior`` is also
        offered what :meth:`prior` returns.
    dim : int
        Length of an embedding.
    bottom : int
        Width of the dense layer that comes before the sharing; 0 for none.
    match : int
        Products of user and item, see :class:`~urlm_helpers.features.Match`, that are
        put beside the other features and once more before the heads; 0 for none.
    bypass : bool
        Whether they are put before the heads as well, past the sharing: each scenario
        and task then has weights of its own for them.
    crosses : int
        Layers of ``keras_rs.layers.FeatureCross`` [2]_ before it; each multiplies the
        features with linear combinations of themselves once more.
    history : str
        What the layers see of the encoder's vector: ``"match"``, its product with the
        item's, or ``"vector"``, itself.
    products : bool
        Whether a regression on products of features, shrunk over the scenarios, is
        fitted first and kept, see :class:`~urlm_helpers.model.ProductBranch`; the
        network then learns what it leaves.
    imputed : bool
        Whether each child task gets one more output, behind those of the tasks: the
        loss that it would have where its parent did not happen, for
        :class:`~urlm_helpers.model.DoublyRobustLoss`.
    balance : Layer, optional
        How the losses of the tasks are put together; by default they are added up.
        See `urlm_helpers.model.balance`.
    embedding : FieldEmbedding, optional
        Another table, such as
        :class:`~urlm_helpers.features.CompactEmbedding`.

    Raises
    ------
    ValueError
        If ``history`` is neither, or ``embedding`` is for other fields.

    Notes
    -----
    The output for task :math:`t` is the logit of its probability *given its parent*
    in the funnel. :meth:`probabilities` multiplies along the funnel, as ESMM [1]_
    does, so a child can never be more probable than its parent.

    References
    ----------
    .. [1] X. Ma et al., "Entire Space Multi-Task Model", SIGIR 2018. arXiv:1804.07931
    .. [2] R. Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons
       for Web-scale Learning to Rank Systems", WWW 2021. arXiv:2008.13535

    Examples
    --------
    >>> spec = InputSpec(fields={"user": 9, "item": 7}, numeric=("age",),
    ...                  history_fields=("item",), history_length=3,
    ...                  scenarios=("shop", "feed"), tasks=("click", "buy"),
    ...                  funnel={"buy": "click"})
    >>> model = UnifiedRecommender(spec, dim=4)
    >>> x = {"fields": np.array([[1, 2]]), "numeric": np.zeros((1, 1), "float32"),
    ...      "history": np.zeros((1, 3, 1), int),
    ...      "history_age": np.zeros((1, 3)), "scenario": np.array([1])}
    >>> p = model.probabilities(x)
    >>> p.shape, bool(p[0, 1] <= p[0, 0])
    ((1, 2), True)
    """

    def __init__(
        self,
        spec: InputSpec | Mapping[str, Any],
        encoder: keras.layers.Layer | None = None,
        sharing: keras.layers.Layer | None = None,
        dim: int = 8,
        bottom: int = 128,
        match: int = 0,
        bypass: bool = True,
        crosses: int = 0,
        history: str = "match",
        products: bool = False,
        imputed: bool = False,
        balance: keras.layers.Layer | None = None,
        embedding: FieldEmbedding | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # the layers cast; half precision would round ages
        self.spec = spec if isinstance(spec, InputSpec) else InputSpec(**spec)
        self.dim, self.bottom_units = dim, bottom
        if history not in FEEDS:
            raise ValueError(f"history must be one of {FEEDS}, got {history!r}")
        self.multiplies = history == "match"
        names, sizes = list(self.spec.fields), list(self.spec.fields.values())
        self.embedding = FieldEmbedding(sizes, dim) if embedding is None else embedding
        if (self.embedding.sizes, self.embedding.dim) != (sizes, dim):
            raise ValueError(
                f"the embedding is for {self.embedding.sizes} values of length "
                f"{self.embedding.dim}, the model has {sizes} and dim={dim}"
            )
        self.history_columns = [names.index(f) for f in self.spec.history_fields]
        self.encoder = MeanPool() if encoder is None else encoder
        self.sharing = sharing or MMoE(len(self.spec.tasks), len(self.spec.scenarios))
        self.project = keras.layers.Dense(dim, use_bias=False, name="project")
        self.match: Any = Match(match) if match else None
        self.bypass = bypass
        self.crosses = [FeatureCross(name=f"cross_{i}") for i in range(crosses)]
        self.bottom = tower((bottom,) if bottom else (), "bottom")
        self.balance = balance
        children = [t for t, parent in enumerate(self.spec.parents) if parent >= 0]
        self.imputed = children if imputed else []
        own = self.sharing.scenario_heads
        self.heads = Heads(len(self.spec.scenarios) if own else 1)
        self.branch: Any = ProductBranch(self.spec) if products else None
        self.build()  # every variable exists from here on, not from the first batch on

    def build(self, input_shape: Any = None) -> None:
        """Create the variables of every part."""
        spec, dim, pairs = self.spec, self.dim, 0
        width = (len(spec.fields) + 1) * dim + len(spec.numeric)
        built(self.embedding)
        if spec.history_fields:
            width += dim
            built(self.encoder, (None, spec.history_length, dim))
            if self.multiplies:
                built(self.project, (None, dim))
        if self.match is not None:
            pairs = self.match.units
            width += pairs
            sides = (len(f) * dim + len(numbers) for f, numbers in self._sides())
            built(self.match, *((None, side) for side in sides))
        for cross in self.crosses:
            cross(ops.zeros((1, width)))  # its build alone creates no weights
        if self.bottom_units:
            built(self.bottom, (None, width))
            width = self.bottom_units
        prior = [(None, len(self._prior()) * dim)] if self.sharing.needs_prior else []
        built(self.sharing, (None, width), *prior)
        vectors = len(spec.tasks) + len(self.imputed)
        width = self.sharing.width + (pairs if self.bypass else 0)
        built(self.heads, [(None, width)] * vectors)
        if self.balance is not None:
            built(self.balance, (len(spec.tasks),))

    def _sides(self) -> list[tuple[list[int], list[int]]]:
        """Return which fields and which numbers are the user's, and the item's."""
        spec = self.spec
        return [
            (
                [f for f, name in enumerate(spec.fields) if name in side],
                [c for c, name in enumerate(spec.numeric) if name in side],
            )
            for side in (spec.user_side, spec.item_side)
        ]

    def _prior(self) -> list[int]:
        """Return the columns of the prior's fields."""
        names = list(self.spec.fields)
        return [names.index(name) for name in PRIOR if name in names]

    def prior(self, x: Mapping[str, Any]) -> Any:
        """Return the vectors of user, item and author, ``(batch, fields * dim)``."""
        vectors = ops.take(self.embedding(x["fields"]), self._prior(), axis=1)
        return ops.reshape(vectors, (-1, len(self._prior()) * self.dim))

    def pairs(self, x: Mapping[str, Any]) -> Any:
        """Return the products of user and item, ``(batch, match)``."""
        fields = self.embedding(x["fields"])
        numeric = ops.cast(x["numeric"], fields.dtype)
        sides = []
        for of_fields, of_numbers in self._sides():
            vectors = ops.take(fields, of_fields, axis=1)
            parts = [ops.reshape(vectors, (-1, len(of_fields) * self.dim))]
            if of_numbers:
                parts.append(ops.take(numeric, of_numbers, axis=1))
            sides.append(ops.concatenate(parts, axis=-1))
        return self.match(*sides)

    def reset(self, seed: int) -> None:
        """Draw every weight anew; a compiled model stays compiled."""
        keras.utils.set_random_seed(seed)
        self.set_weights(type(self).from_config(self.get_config()).get_weights())

    def represent(self, x: Mapping[str, Any]) -> Any:
        """Turn inputs into one feature vector per row, ``(batch, features)``.

        By default the history enters through its match with the item alone. Its own
        vector is a fingerprint of the visit, from which a model may learn by heart
        which visits bought much.
        """
        fields = self.embedding(x["fields"])  # (batch, fields, dim)
        names = list(self.spec.fields)
        user, item = (fields[:, names.index(name)] for name in ("user", "item"))
        parts = [ops.reshape(fields, (-1, len(names) * self.dim)), user * item]
        if self.spec.numeric:
            parts.append(ops.cast(x["numeric"], fields.dtype))
        if self.spec.history_fields:
            history = self.embedding(x["history"], fields=self.history_columns)
            mask = ops.any(ops.cast(x["history"], "int32") != 0, axis=-1)
            steps = ops.sum(history, axis=2)  # (batch, length, dim)
            mask = ops.cast(mask, steps.dtype)
            target = sum(fields[:, f] for f in self.history_columns)
            past = self.encoder(steps, mask, target, x["history_age"])  # (batch, dim)
            parts.append(self.project(past) * target if self.multiplies else past)
        return ops.concatenate(parts, axis=-1)

    def call(self, x: Mapping[str, Any], training: bool = False) -> Any:
        """Return the logit of each task given its parent, ``(batch, tasks)``."""
        features = self.represent(x)
        pairs = [] if self.match is None else [self.pairs(x)]  # (batch, match)
        first = features = ops.concatenate([features, *pairs], axis=-1)
        for cross in self.crosses:
            features = cross(first, features)
        if self.bottom_units:
            features = self.bottom(features)  # (batch, bottom)
        scenario = ops.cast(x["scenario"], "int32")
        offered = {"prior": self.prior(x)} if self.sharing.needs_prior else {}
        vectors = self.sharing(features, scenario, training=training, **offered)
        vectors = [*vectors, *(vectors[t] for t in self.imputed)]
        if self.bypass:
            vectors = [ops.concatenate([v, *pairs], axis=-1) for v in vectors]
        own = scenario if self.heads.scenarios > 1 else 0 * scenario
        logits = self.heads(vectors, own)
        if self.branch is None:
            return logits
        more = [[0, 0], [0, len(self.imputed)]]
        return logits + ops.pad(ops.cast(self.branch(x), logits.dtype), more)

    def task_losses(self, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the mean loss of each task, ``(tasks,)``."""
        each = self.loss.tasks(y, y_pred)
        if sample_weight is not None:
            each = each * ops.reshape(ops.cast(sample_weight, each.dtype), (-1, 1))
        return ops.mean(each, axis=0)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss; in training as ``balance`` puts it together."""
        if self.balance is None or not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        losses = self.task_losses(y, y_pred, sample_weight)
        return self.balance(losses) + sum(self.losses)

    def train_step(self, *args: Any) -> Any:
        """Do one step of training, that of ``balance`` where it has its own."""
        step = getattr(self.balance, "train_step", None)
        return super().train_step(*args) if step is None else step(self, *args)

    def logits(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the logit of each task given its parent, ``(rows, tasks)``.

        Every batch has the same size, filled up with copies of rows where needed: a
        compiled model is compiled for one shape.
        """
        rows = len(x["scenario"])
        size = min(PREDICT_ROWS, 1 << (rows - 1).bit_length())
        filled = np.arange(-(-rows // size) * size) % rows
        batches = [
            self.predict_on_batch({name: array[at] for name, array in x.items()})
            for at in filled.reshape(-1, size)
        ]
        return np.concatenate(batches)[:rows, : len(self.spec.tasks)]

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the probability of each task, ``(rows, tasks)``, along the funnel."""
        return along_funnel(self.logits(x), self.spec.parents)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, the default parts included."""
        parts = {"encoder": self.encoder, "sharing": self.sharing}
        config = {**super().get_config(), **parts, "spec": self.spec.to_dict()}
        save = keras.saving.serialize_keras_object
        return {**config, **{part: save(config[part]) for part in PARTS}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> UnifiedRecommender:
        """Make a model from what :meth:`get_config` returned."""
        load = keras.saving.deserialize_keras_object
        return cls(**{**config, **{part: load(config[part]) for part in PARTS}})
