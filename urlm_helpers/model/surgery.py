"""Projecting the gradients of conflicting tasks."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.model.balance import _divide, _PerTask


class PCGrad(_PerTask):
    r"""Gradients without what goes against another task [1]_.

    For each task :math:`i`, going through the others in random order,

    .. math:: g_i \leftarrow g_i - \frac{\min(\langle g_i, g_j \rangle, 0)}
        {\|g_j\|^2} g_j

    and the results are added up. Only inner products of gradients enter, so that it is
    enough to work out what each :math:`g_j` counts in the sum: see
    :func:`surgery`.

    Shared are all variables in front of the heads that the gradients of two or more
    tasks reach, as one long vector. The heads and the towers of one task get the plain
    sum.

    Parameters
    ----------
    seed : int
        Of the order.

    Raises
    ------
    NotImplementedError
        On training with another backend than TensorFlow.

    References
    ----------
    .. [1] T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman, C. Finn, "Gradient Surgery
       for Multi-Task Learning", NeurIPS 2020. arXiv:2001.06782

    Examples
    --------
    >>> PCGrad(seed=3).get_config()["seed"]
    3
    """

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = int(seed)

    def build(self, losses_shape: Sequence[int]) -> None:
        """Create the number of the step, which the order is drawn from."""
        super().build(losses_shape)
        self.step = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="step"
        )

    def gradients(
        self, model: keras.Model, tape: Any, each: Sequence[Any], losses: Any
    ) -> list[Any]:
        """Return the projected gradients, added up."""
        import tensorflow as tf

        variables = model.trainable_variables
        heads = {v.path for v in model.heads.trainable_variables}
        values = [v.value for v in variables]
        by_task = [
            [None if g is None else tf.convert_to_tensor(g) for g in gradients]
            for gradients in (tape.gradient(loss, values) for loss in each)
        ]
        by_variable = list(zip(*by_task, strict=True))
        shared = [
            v.path not in heads and sum(g is not None for g in gradients) > 1
            for v, gradients in zip(variables, by_variable, strict=True)
        ]
        count = self.surgery_weights(
            [g for g, is_shared in zip(by_variable, shared, strict=True) if is_shared]
        )
        total: list[Any] = []
        for gradients, is_shared in zip(by_variable, shared, strict=True):
            there = [(k, g) for k, g in enumerate(gradients) if g is not None]
            parts = [count[k] * g if is_shared else g for k, g in there]
            total.append(tf.add_n(parts) if parts else None)
        return total

    def products(self, shared: Sequence[Sequence[Any]]) -> Any:
        """Return the tasks' gradients times one another, ``(tasks, tasks)``.

        Parameters
        ----------
        shared : sequence of sequence of tensor
            For each variable the gradient of each task, None for none.
        """
        import tensorflow as tf

        gram = tf.zeros((self.tasks, self.tasks))
        for gradients in shared:
            some = next(g for g in gradients if g is not None)
            filled = [tf.zeros_like(some) if g is None else g for g in gradients]
            flat = tf.reshape(tf.stack(filled), (self.tasks, -1))
            gram += tf.matmul(flat, flat, transpose_b=True)
        return gram

    def surgery_weights(self, shared: Sequence[Sequence[Any]]) -> Any:
        """Return what each task's gradient counts; move on by one step.

        Parameters
        ----------
        shared : sequence of sequence of tensor
            For each variable the gradient of each task, None for none.
        """
        import tensorflow as tf

        gram = self.products(shared)
        seeds = tf.stack([self.seed, tf.convert_to_tensor(self.step)])
        keys = tf.random.stateless_uniform((self.tasks, self.tasks), seeds)
        self.step.assign_add(1)
        return surgery(gram, tf.argsort(keys, axis=1))


def surgery(gram: Any, order: Any) -> Any:
    r"""Work PCGrad out from inner products.

    Every projected gradient is a combination :math:`\sum_j C_{ij} g_j`, so that
    :math:`\langle g_i, g_j \rangle = (C G)_{ij}` with the inner products :math:`G` of
    the original ones.

    Parameters
    ----------
    gram : tensor, shape (tasks, tasks)
        Inner products of the gradients.
    order : int tensor, shape (tasks, tasks)
        Row ``i`` is the order in which task ``i`` meets the tasks; itself is skipped.

    Returns
    -------
    tensor, shape (tasks,)
        What each gradient counts in the sum of the projected ones.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> count = np.asarray(surgery(g @ g.T, np.array([[0, 1], [0, 1]])))
    >>> count.tolist(), (count @ g).tolist()
    ([2.0, 1.5], [0.5, 1.5])
    """
    gram = ops.convert_to_tensor(gram)
    order = ops.cast(order, "int32")
    tasks = gram.shape[0]
    own = ops.eye(tasks, dtype=gram.dtype)
    size = ops.diagonal(gram)  # (tasks,)
    c = own
    for position in range(tasks):
        other = ops.one_hot(order[:, position], tasks, dtype=gram.dtype)
        other = other * (1.0 - own)
        inner = ops.sum(ops.matmul(c, gram) * other, axis=1)  # (tasks,)
        step = _divide(ops.minimum(inner, 0.0), ops.sum(other * size, axis=1))
        c = c - step[:, None] * other
    return ops.sum(c, axis=0)
