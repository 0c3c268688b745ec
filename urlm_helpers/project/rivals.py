"""The strongest simple rivals of a model, on the same rows and features."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from urlm_helpers.data.arrays import Floats
from urlm_helpers.evaluation.metrics import log_loss
from urlm_helpers.preprocessing import InputSpec, LookBack, Prepared
from urlm_helpers.project.means import Means

FIT_ROWS = 300_000
"""Training rows that logistic regression and trees learn from, at most."""

Predict = Callable[[np.ndarray], Floats]
"""From row numbers to probabilities."""


def rival_probabilities(
    prepared: Prepared, rows: np.ndarray, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """Fit the simple rivals, and ask them for the probabilities of some rows.

    Each is fitted on training rows and tuned on validation rows; no other label is
    read. Rows count as often as ``prepared.weight`` says.

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
    fits = {"logistic regression": _logistic, "boosted trees": _trees}
    for name, fit in fits.items():
        tasks = tqdm(range(prepared.y.shape[1]), desc=name, unit="task")
        found[name] = np.stack(
            [_fitted(fit, prepared, t, train, valid, rows) for t in tasks], axis=1
        )
    return found


def _fitted(
    fit: Callable[..., list[Predict]],
    prepared: Prepared,
    task: int,
    train: np.ndarray,
    valid: np.ndarray,
    rows: np.ndarray,
) -> Floats:
    """Return the probabilities of that of several fits which validation prefers."""
    y, weight = prepared.y[:, task].astype(float), prepared.weight
    rate = np.average(y[train], weights=weight[train])
    if rate in (0.0, 1.0):
        return np.full(len(rows), rate)  # one class: nothing to fit
    tries = fit(prepared.x, prepared.encoder.spec, y, weight, train, valid)
    best = min(tries, key=lambda p: log_loss(y[valid], p(valid), weight[valid]))
    return best(rows)


def _logistic(
    x: Mapping[str, np.ndarray],
    spec: InputSpec,
    y: Floats,
    weight: Floats,
    train: np.ndarray,
    valid: np.ndarray,
) -> list[Predict]:
    """One weight per category and number, for three strengths of the penalty."""
    starts = np.cumsum([0, *spec.fields.values()])

    def design(rows: np.ndarray) -> sparse.csr_matrix:
        at = x["fields"][rows] + starts[:-1]
        ends = np.arange(0, at.size + 1, at.shape[1])
        shape = (len(rows), int(starts[-1]))
        hot = sparse.csr_matrix((np.ones(at.size), at.ravel(), ends), shape)
        return sparse.hstack([hot, x["numeric"][rows].astype(float)], "csr")

    def predictor(model: LogisticRegression) -> Predict:
        return lambda rows: np.asarray(model.predict_proba(design(rows))[:, 1])

    past, tries = design(train), []
    for strength in (0.003, 0.03, 0.3):
        model = LogisticRegression(C=strength, tol=1e-3, max_iter=200)
        model.fit(past, y[train], sample_weight=weight[train])
        tries.append(predictor(model))
    return tries


def _trees(
    x: Mapping[str, np.ndarray],
    spec: InputSpec,
    y: Floats,
    weight: Floats,
    train: np.ndarray,
    valid: np.ndarray,
) -> list[Predict]:
    """Boosted trees of two sizes, each stopped on the validation rows."""
    import lightgbm  # an extra of the package, and not needed for a new project

    kinds = [f for f, name in enumerate(spec.fields) if "(bucket)" not in name]

    def columns(rows: np.ndarray) -> np.ndarray:
        return np.hstack([x["fields"][rows][:, kinds], x["numeric"][rows]])

    def predictor(model: lightgbm.Booster) -> Predict:
        return lambda rows: np.asarray(model.predict(columns(rows)))

    options = {"objective": "binary", "verbose": -1, "learning_rate": 0.05}
    options |= {"cat_smooth": 100, "min_data_per_group": 200, "feature_fraction": 0.5}
    options |= {"seed": 0, "deterministic": True, "force_row_wise": True}
    options["num_threads"] = 1 if len(train) < 20_000 else 0  # 0: one per core
    tries = []
    for leaves in (7, 31):
        how = {**options, "num_leaves": leaves}
        past, later = (
            lightgbm.Dataset(
                columns(rows),
                y[rows],
                weight=weight[rows],
                categorical_feature=list(range(len(kinds))),
                params=how,
            )
            for rows in (train, valid)
        )
        stop: list[Callable[..., Any]] = [lightgbm.early_stopping(30, verbose=False)]
        later.set_reference(past)
        model = lightgbm.train(how, past, 400, valid_sets=[later], callbacks=stop)
        tries.append(predictor(model))
    return tries
