"""The strongest simple rivals of a model, on the same rows and features."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from urlm_helpers.data.arrays import Floats
from urlm_helpers.evaluation.metrics import log_loss
from urlm_helpers.preprocessing import LookBack, Prepared
from urlm_helpers.project.means import Means

Rows = tuple[Any, np.ndarray]
"""Features and labels."""

FIT_ROWS = 300_000
"""Training rows that logistic regression and trees learn from, at most."""


def rival_probabilities(
    prepared: Prepared, rows: np.ndarray, *, seed: int = 0
) -> dict[str, np.ndarray]:
    r"""Fit the simple rivals, and ask them for the probabilities of some rows.

    Each is fitted on training rows and tuned on validation rows; no other label is
    read. Means weigh a row as ``prepared.weight`` says; logistic regression and trees
    learn the rows that were kept, and what was left out is put back afterwards.

    Parameters
    ----------
    prepared : Prepared
    rows : ndarray of int
        Such as ``prepared.parts["test"]``.
    seed : int
        Of which training rows are used where there are more than `FIT_ROWS`.

    Returns
    -------
    dict of str to ndarray, shape (rows, tasks)
        ``constant`` (of the scenario), ``popularity`` (the item's rate in it), ``past
        counts`` (the rate after so many earlier events of this user with this item),
        ``user + item means``, ``logistic regression`` and ``boosted trees`` on the
        model's features.

    Notes
    -----
    With weights of 1 and 2,000, a solver stops before its first step counts and a leaf
    of few rows leaps. In rows that were kept with probability 1, if something happened,
    or else r, a task has the probability p' and the root of the funnel q', and

    .. math:: p = \frac{p'}{q' + (1 - q') / r}.
    """
    train, valid = prepared.parts["train"], prepared.parts["valid"]
    log, encoder = prepared.rows, prepared.encoder
    ids = {key: np.unique(log[key], return_inverse=True)[1] for key in ("user", "item")}
    past = LookBack(encoder.events, log, ["user", "item"]).count()
    x = {
        **ids,
        "past": np.log2(1 + past).astype(int),
        "scenario": prepared.x["scenario"],
    }
    groups: dict[str, tuple[tuple[str, ...], ...]] = {
        "constant": (),
        "popularity": (("scenario", "item"),),
        "past counts": (("scenario", "past"),),
        "user + item means": (("item",), ("user",)),
    }
    found = {}
    asked = {name: column[rows] for name, column in x.items()}
    for name, by in groups.items():
        means = Means(*by).fit(x, prepared.y, prepared.weight, train, valid)
        found[name] = means.probabilities(asked)
    if len(train) > FIT_ROWS:
        train = np.random.default_rng(seed).choice(train, FIT_ROWS, replace=False)
    for name, design in (
        ("logistic regression", _one_hot),
        ("boosted trees", _columns),
    ):
        tables = [design(prepared, at) for at in (train, valid, rows)]
        tasks = tqdm(prepared.y.T, desc=name, unit="task")
        p = np.stack([_fitted(tables, y[train], y[valid]) for y in tasks], axis=1)
        root = p[:, [encoder.spec.parents.index(-1)]]
        found[name] = p / (root + (1 - root) / encoder.spec.negative_rate)
    return found


def _one_hot(prepared: Prepared, rows: np.ndarray) -> sparse.csr_matrix:
    """Return a column per category and number of the model's features."""
    fields = prepared.x["fields"][rows]
    starts = np.cumsum([0, *prepared.encoder.spec.fields.values()])
    ends = np.arange(0, fields.size + 1, fields.shape[1])
    at = (np.ones(fields.size), (fields + starts[:-1]).ravel(), ends)
    hot = sparse.csr_matrix(at, (len(rows), int(starts[-1])))
    return sparse.hstack([hot, prepared.x["numeric"][rows].astype(float)], "csr")


def _columns(prepared: Prepared, rows: np.ndarray) -> pd.DataFrame:
    """Return the model's features for trees, which cut numbers into buckets alone."""
    names, numeric = list(prepared.encoder.spec.fields), prepared.x["numeric"][rows]
    codes = pd.DataFrame(prepared.x["fields"][rows], columns=range(len(names)))
    kinds = codes[[f for f, name in enumerate(names) if "(bucket)" not in name]]
    numbers = pd.DataFrame(numeric).add_prefix("number ")
    return pd.concat([kinds.add_prefix("kind "), numbers], axis=1)


def _fitted(tables: list[Any], y: np.ndarray, y_valid: np.ndarray) -> Floats:
    """Fit a few models to a task; return the probabilities of the best on validation.

    The tables hold the features of the training, the validation and the asked rows.
    """
    past, later, asked = tables
    rate = y.mean()
    if rate in (0.0, 1.0):
        return np.full(asked.shape[0], rate)  # one class: nothing to fit
    fit = _trees if isinstance(past, pd.DataFrame) else _logistic
    tries = list(fit((past, y.astype(int)), (later, y_valid.astype(int))))
    losses = [log_loss(y_valid, ask(later)) for ask in tries]
    return tries[int(np.argmin(losses))](asked)


def _logistic(past: Rows, later: Rows) -> Iterator[Callable[[Any], Floats]]:
    """Fit with three strengths of the penalty."""
    for strength in (0.003, 0.03, 0.3):
        model = LogisticRegression(C=strength, tol=1e-3, max_iter=200)
        model.fit(*past)

        def ask(table: Any, model: LogisticRegression = model) -> Floats:
            return np.asarray(model.predict_proba(table)[:, 1])

        yield ask


def _trees(past: Rows, later: Rows) -> Iterator[Callable[[Any], Floats]]:
    """Boost trees of two sizes, each as long as the validation rows gain."""
    import lightgbm  # an extra of the package

    table, *_ = past
    how = {"objective": "binary", "verbose": -1, "learning_rate": 0.1, "seed": 0}
    how |= {"cat_smooth": 100, "min_data_per_group": 200, "feature_fraction": 0.5}
    how |= {"deterministic": True, "force_row_wise": True}
    how["num_threads"] = 1 if len(table) < 20_000 else 0  # 0: one per core
    kinds = [c for c in table.columns if c.startswith("kind")]
    for leaves in (7, 31):
        first, watched = (
            lightgbm.Dataset(x, y, categorical_feature=kinds, params=how)
            for x, y in (past, later)
        )
        watched.set_reference(first)
        stop: list[Any] = [lightgbm.early_stopping(20, verbose=False)]
        sized = {**how, "num_leaves": leaves}
        model = lightgbm.train(sized, first, 200, [watched], callbacks=stop)

        def ask(table: Any, model: lightgbm.Booster = model) -> Floats:
            return np.asarray(model.predict(table))

        yield ask
