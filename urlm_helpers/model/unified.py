"""One model for every scenario and task: embeddings + encoder + sharing + heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras_rs.layers import FeatureCross

from urlm_helpers.features.embedding import PACKAGE, FieldEmbedding, Match
from urlm_helpers.features.pooling import MeanPool
from urlm_helpers.model.heads import Heads, along_funnel
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.sharing.base import tower
from urlm_helpers.sharing.experts import MMoE

PREDICT_ROWS = 8192
"""Rows that are scored at a time."""


@keras.saving.register_keras_serializable(PACKAGE)
class UnifiedRecommender(keras.Model):
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
        default :class:`~urlm_helpers.sharing.MMoE`.
    dim : int
        Length of an embedding.
    bottom : int
        Width of the dense layer that comes before the sharing; 0 for none.
    match : int
        Products of user and item, see :class:`~urlm_helpers.features.Match`, that are
        put beside the other features and once more before the heads; 0 for none.
    crosses : int
        Layers of ``keras_rs.layers.FeatureCross`` [2]_ before it; each multiplies the
        features with linear combinations of themselves once more.
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
        crosses: int = 0,
        imputed: bool = False,
        balance: keras.layers.Layer | None = None,
        embedding: FieldEmbedding | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spec = spec if isinstance(spec, InputSpec) else InputSpec(**spec)
        self.dim = dim
        self.bottom_units = bottom
        names = list(self.spec.fields)
        sizes = list(self.spec.fields.values())
        self.own_embedding = embedding
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
        self.crosses = [FeatureCross(name=f"cross_{i}") for i in range(crosses)]
        self.bottom = tower((bottom,) if bottom else (), "bottom")
        self.balance = balance
        self.imputed = [
            t for t, p in enumerate(self.spec.parents) if imputed and p >= 0
        ]
        own = self.sharing.scenario_heads
        self.heads = Heads(len(self.spec.scenarios) if own else 1)
        self.build()  # every variable exists from here on, not from the first batch on

    def build(self, input_shape: Any = None) -> None:
        """Create the variables of every part."""
        spec, dim = self.spec, self.dim
        width = (len(spec.fields) + 1) * dim + len(spec.numeric)
        if not self.embedding.built:
            self.embedding.build()
        if spec.history_fields:
            width += dim
            if not self.encoder.built:  # a loaded one comes built
                self.encoder.build((None, spec.history_length, dim))
            self.project.build((None, dim))
        pairs = 0
        if self.match is not None:
            pairs = self.match.units
            width += pairs
            if not self.match.built:
                sides = (self.spec.user_side, self.spec.item_side)
                self.match.build(*((None, self._side_width(side)) for side in sides))
        for cross in self.crosses:
            cross(ops.zeros((1, width)))  # its build alone creates no weights
        if self.bottom_units:
            self.bottom.build((None, width))
            width = self.bottom_units
        if not self.sharing.built:
            self.sharing.build((None, width))
        vectors = len(spec.tasks) + len(self.imputed)
        self.heads.build([(None, self.sharing.width + pairs)] * vectors)
        if self.balance is not None and not self.balance.built:
            self.balance.build((len(spec.tasks),))
        self.built = True

    def _side_width(self, side: Sequence[str]) -> int:
        fields = sum(name in side for name in self.spec.fields)
        return fields * self.dim + sum(name in side for name in self.spec.numeric)

    def _side(self, side: Sequence[str], fields: Any, numeric: Any) -> Any:
        """Put together the columns of one side, ``(batch, width)``."""
        spec = self.spec
        at = [f for f, name in enumerate(spec.fields) if name in side]
        own = ops.take(fields, ops.convert_to_tensor(at, "int32"), axis=1)
        parts = [ops.reshape(own, (-1, len(at) * self.dim))]
        at = [c for c, name in enumerate(spec.numeric) if name in side]
        if at:
            parts.append(ops.take(numeric, ops.convert_to_tensor(at, "int32"), axis=1))
        return ops.concatenate(parts, axis=-1)

    def pairs(self, x: Mapping[str, Any]) -> Any:
        """Return the products of user and item, ``(batch, match)``."""
        fields = self.embedding(x["fields"])
        numeric = ops.cast(x["numeric"], fields.dtype)
        sides = (self.spec.user_side, self.spec.item_side)
        return self.match(*(self._side(side, fields, numeric) for side in sides))

    def reset(self, seed: int) -> None:
        """Draw every weight anew; a compiled model stays compiled."""
        keras.utils.set_random_seed(seed)
        self.set_weights(type(self).from_config(self.get_config()).get_weights())

    def represent(self, x: Mapping[str, Any]) -> Any:
        """Turn inputs into one feature vector per row, ``(batch, features)``.

        The history enters through its match with the item alone. Its own vector is a
        fingerprint of the visit: given that, a model learns by heart which visits
        bought much, and predicts the next ones worse.
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
            parts.append(self.project(past) * target)
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
        vectors = self.sharing(features, scenario, training=training)
        vectors = [*vectors, *(vectors[t] for t in self.imputed)]
        vectors = [ops.concatenate([v, *pairs], axis=-1) for v in vectors]
        return self.heads(
            vectors, scenario if self.heads.scenarios > 1 else 0 * scenario
        )

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
        return self.balance(self.task_losses(y, y_pred, sample_weight)) + sum(
            self.losses
        )

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
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "spec": self.spec.to_dict(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "sharing": keras.saving.serialize_keras_object(self.sharing),
            "balance": keras.saving.serialize_keras_object(self.balance),
            "embedding": keras.saving.serialize_keras_object(self.own_embedding),
            "dim": self.dim,
            "bottom": self.bottom_units,
            "match": 0 if self.match is None else self.match.units,
            "crosses": len(self.crosses),
            "imputed": bool(self.imputed),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> UnifiedRecommender:
        """Make a model from what :meth:`get_config` returned."""
        parts = ("encoder", "sharing", "balance", "embedding")
        layers = {p: keras.saving.deserialize_keras_object(config[p]) for p in parts}
        return cls(**{**config, **layers})
