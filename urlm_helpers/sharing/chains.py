"""Sharing along a funnel: a tower per task, and what one hands on to the next."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from urlm_helpers.features.base import Configured, built, dense
from urlm_helpers.sharing.base import Sharing, towers


class TaskTowers(Sharing):
    """A tower for each task over shared features: the networks of ESMM [1]_.

    With :class:`~urlm_helpers.model.EntireSpaceLoss` it is ESMM, with
    :class:`~urlm_helpers.model.InversePropensityLoss` or
    :class:`~urlm_helpers.model.DoublyRobustLoss` ESCM² [2]_. Without a dense layer
    before the sharing (the model's ``bottom=0``) the tasks share the embeddings and no
    layer, as in the papers.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers.

    Notes
    -----
    Differs from the paper: it has two tasks and one scenario; here every task of the
    funnel has a tower, which serves all scenarios, and each scenario its own linear
    output. The model's encoder of the history and its ``match`` are shared too.

    References
    ----------
    .. [1] X. Ma et al., "Entire Space Multi-Task Model: An Effective Approach for
       Estimating Post-Click Conversion Rate", SIGIR 2018. arXiv:1804.07931
    .. [2] H. Wang et al., "ESCM²: Entire Space Counterfactual Multi-Task Model for
       Post-Click Conversion Rate Estimation", SIGIR 2022. arXiv:2204.05125

    Examples
    --------
    >>> import numpy as np
    >>> layer = TaskTowers(tasks=2, scenarios=3, units=(8,))
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [8, 8]
    >>> layer.count_params() == 2 * (4 + 1) * 8
    True
    """

    def build(self, x_shape: Any) -> None:
        """Create one tower per task."""
        self.towers = towers(self.tasks, self.units, x_shape)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        return [tower(x) for tower in self.towers]


class _Link(Configured, keras.layers.Layer):
    """Attention of a task over its parent's vector and its own."""

    def build(self, shape: Any) -> None:
        """Create the transfer and the three projections, each ``(width, width)``."""
        k = shape[-1]
        self.transfer = dense(k, (None, k), "transfer", activation="relu")
        self.value, self.key, self.query = (
            dense(k, (None, k), name, use_bias=False)
            for name in ("value", "key", "query")
        )
        self.scale = k**-0.5

    def weights_of(self, parent: Any, own: Any) -> tuple[Any, Any]:
        """Return both vectors ``(batch, 2, width)`` and their shares ``(batch, 2)``."""
        u = ops.stack([self.transfer(parent), own], axis=1)
        match = ops.sum(self.key(u) * self.query(u), axis=-1)
        return u, ops.softmax(match * self.scale, axis=-1)

    def call(self, parent: Any, own: Any) -> Any:
        """Map two ``(batch, width)`` to one."""
        u, share = self.weights_of(parent, own)
        return ops.einsum("bu,bud->bd", share, self.value(u))


class AITM(TaskTowers):
    r"""Adaptive information transfer along the steps of a funnel [1]_.

    Each task :math:`t` has a tower, which gives :math:`q_t`. A task with a parent also
    gets the vector :math:`p_t = g_t(z_{parent})` and weighs the two by attention:

    .. math:: z_t = \sum_{u \in \{p_t, q_t\}} a_u h_1(u), \qquad
        a = \mathrm{softmax}\left(
            \frac{\langle h_2(u), h_3(u) \rangle}{\sqrt k} \right)_u

    A root's :math:`z` is its :math:`q`. Each link has its own :math:`g` (one dense
    layer with ReLU) and its own linear :math:`h_1, h_2, h_3`.

    The paper's loss is the cross-entropy of each step's probability :math:`\hat y_t`
    over *all* rows: here that is :class:`~urlm_helpers.model.EntireSpaceLoss`.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers; :math:`k` is the last one.
    parents : sequence of int, optional
        Column of each task's parent, -1 for none; parents come first. By default one
        chain of all tasks, as in the paper.

    Raises
    ------
    ValueError
        If there is not one parent per task, or one does not come before its child.

    Notes
    -----
    Differs from the paper: its output is the logit of a step's probability itself, and
    a penalty, the behavioral expectation calibrator, discourages a step from being
    more probable than the one before. Here the output is the logit given the step
    before, and the probability the product along the funnel: the calibrator is 0 by
    construction and left out. A funnel may branch. Each scenario has its own linear
    output.

    References
    ----------
    .. [1] D. Xi et al., "Modeling the Sequential Dependence among Audience Multi-step
       Conversions with Multi-task Learning in Targeted Display Advertising",
       KDD 2021. arXiv:2105.08489

    Examples
    --------
    >>> import numpy as np
    >>> layer = AITM(tasks=3, scenarios=1, units=(8,), parents=[-1, 0, 0])
    >>> x, scenario = np.ones((5, 4), "float32"), np.zeros(5, int)
    >>> [v.shape[1] for v in layer(x, scenario)], sorted(layer.links)
    ([8, 8, 8], [1, 2])
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        parents: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        chain = range(-1, tasks - 1)
        self.parents = [int(p) for p in (chain if parents is None else parents)]
        ordered = all(-1 <= p < task for task, p in enumerate(self.parents))
        if len(self.parents) != tasks or not ordered:
            raise ValueError(
                f"{tasks} tasks need as many parents, each -1 or the column of an "
                f"earlier task, got {self.parents}"
            )

    def build(self, x_shape: Any) -> None:
        """Create one tower per task and one link per child."""
        super().build(x_shape)
        children = [t for t, p in enumerate(self.parents) if p >= 0]
        shape = (None, self.width)
        self._links = [built(_Link(name=f"link_{t}"), shape) for t in children]
        self.links = dict(zip(children, self._links, strict=True))

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        vectors = super().call(x, scenario)
        for task, link in self.links.items():
            vectors[task] = link(vectors[self.parents[task]], vectors[task])
        return vectors

    def shares(self, x: Any, scenario: Any) -> dict[int, Any]:
        """Return how much each child takes from its parent, ``(batch,)`` per child."""
        vectors, found = self(x, scenario), {}
        for task, link in self.links.items():
            parent, own = vectors[self.parents[task]], self.towers[task](x)
            found[task] = link.weights_of(parent, own)[1][:, 0]
        return found
