"""A network and shrunk means, put together where validation rows say that it helps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.linear_model import LogisticRegression

from urlm_helpers.evaluation.metrics import log_loss
from urlm_helpers.preprocessing import InputSpec, Prepared
from urlm_helpers.project.means import Means

TINY = 1e-7


class Network(Protocol):
    """A model of encoded rows, such as `urlm_helpers.model.UnifiedRecommender`."""

    spec: InputSpec

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return probabilities, ``(rows, tasks)``."""


def ids(x: Mapping[str, np.ndarray], spec: InputSpec) -> dict[str, np.ndarray]:
    """Return the columns by which `Means` groups, of encoded rows."""
    names = list(spec.fields)
    # 0 is unseen there, -1 here
    found = {name: x["fields"][:, names.index(name)] - 1 for name in ("user", "item")}
    return {**found, "scenario": x["scenario"]}


def _log_odds(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, TINY, 1 - TINY)
    return np.asarray(np.log(p / (1 - p)))


class Blend:
    r"""A network's and the means' log-odds, weighted task by task.

    .. math:: \operatorname{logit} p = a + b \operatorname{logit} p_{network}
              + c \operatorname{logit} p_{means}

    A child of the funnel is never more probable than its parent.

    Parameters
    ----------
    network : UnifiedRecommender
    means : Means
        User + item means.
    weights : ndarray, shape (tasks, 3)
        a, b and c.
    """

    def __init__(self, network: Network, means: Means, weights: np.ndarray) -> None:
        self.network, self.means = network, means
        self.weights, self.spec = np.asarray(weights), network.spec

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return the probability of each task, ``(rows, tasks)``."""
        network = _log_odds(self.network.probabilities(x))
        means = _log_odds(self.means.probabilities(ids(x, self.spec)))
        a, b, c = self.weights.T
        p = 1 / (1 + np.exp(-(a + b * network + c * means)))
        for task, parent in enumerate(self.spec.parents):
            if parent >= 0:
                p[:, task] = np.minimum(p[:, task], p[:, parent])
        return np.asarray(p)

    def save(self, path: str | Path) -> None:
        """Write all but the network as JSON."""
        means = {name: getattr(self.means, name) for name in ("groups", "sizes")}
        means["rates"] = self.means.rates.tolist()
        means["deviations"] = [[d.tolist() for d in t] for t in self.means.deviations]
        text = json.dumps({"weights": self.weights.tolist(), **means})
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, network: Network) -> "Blend":
        """Read what `save` wrote, and put it beside its network."""
        given = json.loads(Path(path).read_text(encoding="utf-8"))
        means = Means(*given["groups"])
        means.sizes, means.rates = given["sizes"], np.array(given["rates"])
        means.deviations = [[np.array(d) for d in t] for t in given["deviations"]]
        return cls(network, means, given["weights"])


def blend(network: Network, prepared: Prepared, least: float = 1e-3) -> Blend | None:
    """Blend a network with user + item means, if validation rows gain by it.

    The three weights of a task are fitted on validation rows. What they gain is
    measured on users whose rows did not fit them, in five folds.

    Parameters
    ----------
    network : UnifiedRecommender
    prepared : Prepared
        What it was trained on.
    least : float
        Share of the log-loss, summed over tasks, that must be gained.

    Returns
    -------
    Blend or None
        None where less is gained.
    """
    spec, y, weight = prepared.encoder.spec, prepared.y, prepared.weight
    train, valid = prepared.parts["train"], prepared.parts["valid"]
    codes = ids(prepared.x, spec)
    means = Means(("item",), ("user",)).fit(codes, y, weight, train, valid)
    x, w = prepared.take(valid), weight[valid]
    p = network.probabilities(x)
    pair = _log_odds(p), _log_odds(means.probabilities(ids(x, spec)))
    users = np.unique(prepared.rows["user"].iloc[valid], return_inverse=True)[1]
    if users.max() < 4:
        return None  # too few users to tell
    weights, before, after = [], 0.0, 0.0
    for t in range(y.shape[1]):
        label, both = y[valid, t], np.stack([one[:, t] for one in pair], axis=1)
        outside, fold = np.zeros(len(valid)), users % 5
        for k in range(5):
            fitting, held = fold != k, fold == k
            if len(np.unique(label[fitting])) < 2:
                return None
            model = LogisticRegression(C=1.0)
            model.fit(both[fitting], label[fitting], sample_weight=w[fitting])
            outside[held] = model.predict_proba(both[held])[:, 1]
        model = LogisticRegression(C=1.0).fit(both, label, sample_weight=w)
        weights.append([*model.intercept_, *model.coef_[0]])
        before += log_loss(label, p[:, t], w)
        after += log_loss(label, outside, w)
    if after > (1 - least) * before:
        return None
    return Blend(network, means, np.array(weights))
