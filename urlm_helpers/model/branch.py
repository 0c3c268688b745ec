"""A regression on products inside the model: what the network starts from."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from urlm_helpers.data.arrays import Singles
from urlm_helpers.features.base import Configured
from urlm_helpers.model.regression import ShrunkRegression
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.sharing.base import of_scenario

FEW = 16
"""Values of a field that get a column each; one with more is left to the network."""
ROWS = 100_000
"""Rows of a scenario that the regression learns from, at most."""
AT_ONCE = 16_384
COUNT = ": "
"""What the name of a look-back has, and that of a given number has not."""


class ProductBranch(Configured, keras.layers.Layer):
    r"""Adds a regression's logits to those of a network, per scenario and task.

    .. math:: \ell_{st}(x) = (w_t + \delta_{st})^\top \varphi(x) + b_{st} + f_{st}(x)

    The columns :math:`\varphi` are the numbers, one for each value of the fields with
    few values, and the products of each number of the user with each column of the
    item. A number that is there in buckets too enters by its buckets, and in products
    as it is, unless it is a count: a count grows with the days, and a straight line
    through it leads astray. :meth:`fit` finds
    the weights as :class:`~urlm_helpers.model.ShrunkRegression` does and freezes them;
    the network :math:`f` learns what the regression can't say, if anything.
    A linear model beside a deep one is Wide & Deep [1]_; there both are trained
    together, and the wide part knows no scenario.

    Parameters
    ----------
    spec : InputSpec or mapping
        What the inputs are.

    References
    ----------
    .. [1] H.-T. Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS
       2016. arXiv:1606.07792

    Examples
    --------
    >>> spec = InputSpec(fields={"user": 9, "item": 7, "kind": 2}, numeric=("age",
    ...                  "price"), history_fields=(), history_length=0,
    ...                  scenarios=("shop",), tasks=("click",), funnel={},
    ...                  user_side=("user", "age"), item_side=("item", "kind", "price"))
    >>> print(*ProductBranch(spec).names, sep=", ")
    age, price, kind = 0, kind = 1, age × price, age × kind = 0, age × kind = 1
    """

    def __init__(self, spec: InputSpec | Mapping[str, Any], **kwargs: Any) -> None:
        # a regression of many columns adds up in Keras's floatx
        super().__init__(**{**kwargs, "dtype": keras.config.floatx()})
        self.spec = spec = spec if isinstance(spec, InputSpec) else InputSpec(**spec)
        self.few = [
            (f, n)
            for f, (name, n) in enumerate(spec.fields.items())
            if n <= FEW and name not in ("user", "item", "scenario")
        ]
        fields = list(spec.fields)
        self.numbers = [
            c
            for c, name in enumerate(spec.numeric)
            if f"{name} (bucket)" not in spec.fields
        ]
        self.multiplied = [  # numbers that enter in products alone
            c
            for c, name in enumerate(spec.numeric)
            if c not in self.numbers and COUNT not in name
        ]
        columns = [spec.numeric[c] for c in self.numbers]
        of_item = [c for c, name in enumerate(columns) if name in spec.item_side]
        of_user = [c for c, name in enumerate(columns) if name in spec.user_side]
        for f, n in self.few:
            if fields[f] in spec.item_side and "(bucket)" not in fields[f]:
                of_item += range(len(columns), len(columns) + n)
            columns += [f"{fields[f]} = {value}" for value in range(n)]
        single = len(columns)
        for at, c in enumerate(self.multiplied, single):
            columns.append(spec.numeric[c])
            of_user += [at] * (columns[at] in spec.user_side)
            of_item += [at] * (columns[at] in spec.item_side)
        self.products = [(u, i) for u in of_user for i in of_item]
        products = [f"{columns[u]} × {columns[i]}" for u, i in self.products]
        self.names = (*columns[:single], *products)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Create the regression's weights; 0 until they are fitted."""
        shape = len(self.spec.scenarios), len(self.spec.tasks)
        frozen = {"initializer": "zeros", "trainable": False}
        self.kernel = self.add_weight(
            (*shape, len(self.names)), name="kernel", **frozen
        )
        self.bias = self.add_weight(shape, name="bias", **frozen)
        self.built = True

    @property
    def fitted(self) -> bool:
        """Whether the weights have been found."""
        return bool(np.any(ops.convert_to_numpy(self.bias)))

    def columns(self, x: Mapping[str, Any]) -> Any:
        """Return what the regression sees, ``(batch, columns)``."""
        fields = ops.cast(x["fields"], "int32")
        numeric = ops.cast(x["numeric"], self.dtype)
        parts = [numeric[:, c : c + 1] for c in self.numbers]
        parts += [ops.one_hot(fields[:, f], n, dtype=self.dtype) for f, n in self.few]
        found = ops.concatenate(parts, axis=-1)
        if not self.products:
            return found
        more = [numeric[:, c : c + 1] for c in self.multiplied]
        every = ops.concatenate([found, *more], axis=-1)
        left, right = (
            ops.take(every, list(side), axis=1)
            for side in zip(*self.products, strict=True)
        )
        return ops.concatenate([found, left * right], axis=-1)

    def call(self, x: Mapping[str, Any]) -> Any:
        """Return the regression's logits, ``(batch, tasks)``."""
        every = ops.einsum("bd,std->bst", self.columns(x), self.kernel) + self.bias
        return of_scenario(every, ops.cast(x["scenario"], "int32"))

    def fit(
        self,
        x: Mapping[str, np.ndarray],
        y: np.ndarray,
        rows: np.ndarray,
        weight: np.ndarray | None = None,
    ) -> None:
        """Find the weights from training rows, task by task along the funnel.

        A child task learns from the rows where its parent happened. Of a scenario with
        more than ``ROWS`` rows, so many drawn at random count.

        Parameters
        ----------
        x, y : mapping and ndarray
            All rows, as of :func:`urlm_helpers.preprocessing.prepare`.
        rows : ndarray of int
            Numbers of the training rows.
        weight : ndarray, optional
            What each row of ``y`` counts.
        """
        scenario = np.asarray(x["scenario"])
        rows = np.concatenate([*_some(rows, scenario[rows])])
        table = np.concatenate([*self.tables(x, rows)])
        kernel, bias = (np.zeros(v.shape, "float32") for v in (self.kernel, self.bias))
        for t, parent in enumerate(self.spec.parents):
            seen = np.ones(len(rows), bool) if parent < 0 else y[rows, parent] == 1
            own = rows[seen]
            if not 0 < y[own, t].sum() < len(own):
                continue
            model = ShrunkRegression().fit(
                table[seen],
                y[own, t],
                scenario[own],
                None if weight is None else weight[own],
                len(self.spec.scenarios),
            )
            kernel[:, t], bias[:, t] = model.weights, model.levels
            if parent < 0:  # negatives that were not logged, as in FunnelLoss
                bias[:, t] += np.log(self.spec.negative_rate)
        self.kernel.assign(kernel)
        self.bias.assign(bias)

    def tables(
        self, x: Mapping[str, np.ndarray], rows: np.ndarray
    ) -> Iterator[Singles]:
        """Yield what the regression sees of rows, piece by piece.

        Parameters
        ----------
        x : mapping
            All rows, as of :func:`urlm_helpers.preprocessing.prepare`.
        rows : ndarray of int

        Yields
        ------
        ndarray, shape (some rows, columns)
        """
        for at in range(0, len(rows), AT_ONCE):
            piece = rows[at : at + AT_ONCE]
            found = self.columns({k: x[k][piece] for k in ("fields", "numeric")})
            yield ops.convert_to_numpy(found).astype("float32")


def _some(rows: np.ndarray, scenario: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of each scenario, at most ``ROWS`` of it."""
    rng = np.random.default_rng(0)
    for s in np.unique(scenario):
        own = np.sort(rows[scenario == s])
        yield np.sort(rng.choice(own, ROWS, replace=False)) if len(own) > ROWS else own
