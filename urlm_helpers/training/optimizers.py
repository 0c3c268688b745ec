"""Adam for embedding tables: a step costs what the batch holds, not the vocabulary."""

from collections.abc import Sequence
from typing import Any

import keras

from urlm_helpers.features.base import PACKAGE

TABLE = "embeddings"
"""Name of the variable of a ``keras.layers.Embedding``."""


def table_rows(model: keras.Model) -> tuple[int, int]:
    """Return the rows of a model's tables, all together, and the longest vector.

    Parameters
    ----------
    model : Model
        Built.

    Returns
    -------
    tuple of int
        Rows, and their length; 0 and 0 without a table.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Embedding(7, 2)])
    >>> table_rows(model)
    (7, 2)
    """
    tables = [v for v in model.variables if v.name == TABLE and len(v.shape) == 2]
    return (
        sum(int(v.shape[0]) for v in tables),
        max((int(v.shape[1]) for v in tables), default=0),
    )


@keras.saving.register_keras_serializable(PACKAGE)
class RowAdam(keras.optimizers.Adam):
    r"""AdamW that leaves the rows of a table alone which the batch did not ask for.

    In Adam [1]_ every row of every table moves in every step: the moments of a row
    that got no gradient shrink, and it goes on along what is left of them,

    .. math:: m \leftarrow \beta_1 m, \quad v \leftarrow \beta_2 v, \quad
        w \leftarrow w - \alpha_t \, m / (\sqrt{v} + \epsilon).

    So a step reads and writes three times the table. Here a row without a gradient
    keeps :math:`w`, :math:`m` and :math:`v`; a row with one is updated exactly as in
    Keras's Adam, with the bias correction of the global step ("lazy" Adam). Where all
    rows occur in every batch the two are the same. That includes what Keras makes of a
    row that occurs several times in a batch: for :math:`v` it squares the gradient of
    each occurrence and adds up the squares, where the paper squares the sum. Frequent
    rows whose gradients agree take longer steps that way.

    Rows are told apart without sorting: each position of the batch writes its number
    into its row's ``slot``, and the one that is found there stands for the row.

    Parameters
    ----------
    learning_rate : float
        Step size.
    weight_decay : float, optional
        As in AdamW; a row of a table decays when it is updated.
    **kwargs
        Of ``keras.optimizers.Adam``.

    Notes
    -----
    Tables are the variables called ``embeddings``, as those of
    ``keras.layers.Embedding`` are. Other variables, and gradients that are dense (on
    other backends than TensorFlow they all are), get AdamW's step.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
       arXiv:1412.6980

    Examples
    --------
    >>> import numpy as np
    >>> table = keras.layers.Embedding(1000, 2)
    >>> model = keras.Sequential([keras.Input((1,), dtype="int32"), table])
    >>> before = table.get_weights()[0]
    >>> model.compile(RowAdam(0.1), "mse")
    >>> _ = model.train_on_batch(np.array([[3], [3], [7]]), np.zeros((3, 1, 2)))
    >>> np.flatnonzero((table.get_weights()[0] != before).any(axis=1)).tolist()
    [3, 7]
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        weight_decay: float | None = None,
        name: str = "row_adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay=weight_decay or None, name=name, **kwargs
        )

    def build(self, variables: Sequence[Any]) -> None:
        """Create the moments, and a slot per row of each table."""
        if self.built:
            return
        super().build(variables)
        tables = [v for v in variables if v.name == TABLE and len(v.shape) == 2]
        self._slots: dict[int, keras.Variable] = {}
        for table in tables:
            slot = keras.Variable(
                keras.ops.zeros((table.shape[0],), "int32"),
                dtype="int32",
                trainable=False,
                name=f"slot_{len(self._slots)}",
            )
            self._track_variable(slot)
            self._slots[self._get_variable_index(table)] = slot
        if tables and self.weight_decay is not None:
            spared = [v for v in variables if not self._use_weight_decay(v)]
            self.exclude_from_weight_decay(var_list=[*tables, *spared])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        index = self._get_variable_index(variable)
        if not hasattr(gradient, "indices") or index not in self._slots:
            if index in self._slots and self.weight_decay is not None:
                rate = keras.ops.cast(learning_rate, variable.dtype)
                self.assign_sub(variable, variable * self.weight_decay * rate)
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        rows, each = gradient.indices, tf.cast(gradient.values, variable.dtype)
        n = each.shape[0] or tf.size(rows)
        position = tf.range(n, dtype="int32")
        slot = self._slots[index].value
        slot.scatter_update(tf.IndexedSlices(position, rows))
        stands_for = tf.gather(slot, rows)
        g, squares = (  # (n, dim)
            tf.math.unsorted_segment_sum(e, stands_for, n) for e in (each, each * each)
        )

        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(learning_rate, variable.dtype)
        alpha = rate * tf.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        moments = (self._momentums[index].value, self._velocities[index].value)
        m, v = (tf.gather(moment, rows) for moment in moments)
        dm, dv = (1 - self.beta_1) * (g - m), (1 - self.beta_2) * (squares - v)
        change = alpha * (m + dm) / (tf.sqrt(v + dv) + self.epsilon)
        if self.weight_decay is not None:
            change += rate * self.weight_decay * tf.gather(variable, rows)
        own = tf.cast(stands_for == position, variable.dtype)[:, None]
        for moment, delta in zip(moments, (dm, dv), strict=True):
            moment.scatter_add(tf.IndexedSlices(own * delta, rows))
        variable.scatter_sub(tf.IndexedSlices(own * change, rows))
