"""Towers, shared or not: the two ends of the scale, and what lies between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from urlm_helpers.features.base import built, dense
from urlm_helpers.sharing.base import Sharing, of_scenario, tower, views


class SharedBottom(Sharing):
    """One tower for all scenarios and tasks; only the heads differ [1]_.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the tower's layers.

    Notes
    -----
    Differs from the paper: each scenario has its own linear output, the paper has one
    scenario. One sigmoid layer there, dense layers with ReLU here.

    References
    ----------
    .. [1] R. Caruana, "Multitask Learning", Machine Learning 28, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> layer = SharedBottom(tasks=2, scenarios=3, units=(8,))
    >>> [v.shape[1] for v in layer(np.ones((5, 4)), np.zeros(5, int))]
    [8, 8]
    """

    def build(self, x_shape: Any) -> None:
        """Create the tower."""
        self.bottom = built(tower(self.units, "bottom"), x_shape)

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        return [self.bottom(x)] * self.tasks


class FullyShared(SharedBottom):
    """One tower, and one output per task for all scenarios.

    A scenario can differ from another only through what the features say of it. The
    baseline that every multi-scenario model has to beat.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of the tower's layers.

    Notes
    -----
    Differs from the paper: there is none; it is a reference line.

    Examples
    --------
    >>> FullyShared(tasks=2, scenarios=3).scenario_heads
    False
    """

    scenario_heads = False


class Separate(Sharing):
    """A tower of its own for each scenario and task: nothing is shared from here on.

    With the embeddings still in common; the other end of the scale from
    :class:`FullyShared`.

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers.

    Notes
    -----
    Differs from the paper: there is none; it is a reference line.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Separate(tasks=2, scenarios=3, units=(8,))
    >>> [v.shape[1] for v in layer(np.ones((5, 4), "float32"), np.zeros(5, int))]
    [8, 8]
    >>> layer.count_params() == 2 * 3 * (4 + 1) * 8
    True
    """

    def build(self, x_shape: Any) -> None:
        """Create the towers, by task and then by scenario."""
        self.towers = [
            built(tower(self.units, f"tower_{s}_{t}"), x_shape)
            for t in range(self.tasks)
            for s in range(self.scenarios)
        ]

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        n = self.scenarios
        return [
            of_scenario(views(self.towers[t * n : (t + 1) * n], x), scenario)
            for t in range(self.tasks)
        ]


class CrossStitch(Sharing):
    r"""A tower per task; after each layer the tasks exchange what they found [1]_.

    .. math:: \tilde h_t = \sum_u \alpha_{tu} h_u

    with one learned matrix :math:`\alpha` per layer (the paper's equation 1).

    Parameters
    ----------
    tasks, scenarios : int
        How many there are.
    units : sequence of int
        Widths of each tower's layers.
    same : float
        Initial :math:`\alpha_{tt}`; the rest up to 1 goes to the other tasks in equal
        parts.

    Notes
    -----
    Differs from the paper: it stitches two convolutional networks for images, with one
    number per channel or for all; here as many towers as tasks, after every dense
    layer, with one number for all units of a layer. Each scenario has its own linear
    output.

    References
    ----------
    .. [1] I. Misra, A. Shrivastava, A. Gupta, M. Hebert, "Cross-stitch Networks for
       Multi-task Learning", CVPR 2016. arXiv:1604.03539

    Examples
    --------
    >>> import numpy as np
    >>> layer = CrossStitch(tasks=3, scenarios=2, units=(8, 4))
    >>> layer.build((None, 5))
    >>> print(ops.convert_to_numpy(layer.stitches[0])[0].round(2))
    [0.9  0.05 0.05]
    """

    def __init__(
        self,
        tasks: int,
        scenarios: int,
        units: Sequence[int] = (32,),
        same: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(tasks, scenarios, units, **kwargs)
        self.same = same

    def build(self, x_shape: Any) -> None:
        """Create the towers, by layer and then by task, and the matrices."""
        n = self.tasks
        same = self.same if n > 1 else 1.0
        others = (1 - same) / max(n - 1, 1)
        alpha = np.full((n, n), others) + (same - others) * np.eye(n)
        self.layers, self.stitches = [], []
        width = x_shape[-1]
        for i, units in enumerate(self.units):
            for t in range(n):
                name = f"dense_{i}_{t}"
                layer = dense(units, (None, width), name, activation="relu")
                self.layers.append(layer)
            stitch = self.add_weight(
                shape=(n, n),
                initializer=lambda shape, dtype=None: ops.cast(alpha, dtype),
                name=f"stitch_{i}",
            )
            self.stitches.append(stitch)
            width = units

    def call(self, x: Any, scenario: Any) -> list[Any]:
        """Map ``(batch, dim)`` to one ``(batch, units[-1])`` per task."""
        inputs = [x] * self.tasks
        for i, stitch in enumerate(self.stitches):
            layers = self.layers[i * self.tasks : (i + 1) * self.tasks]
            found = [f(h) for f, h in zip(layers, inputs, strict=True)]
            mixed = ops.einsum("tu,bud->btd", stitch, ops.stack(found, axis=1))
            inputs = [mixed[:, t] for t in range(self.tasks)]
        return inputs
