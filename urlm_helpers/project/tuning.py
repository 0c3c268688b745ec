"""A short search over what matters most, on validation rows, with its budget stated."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import keras
import numpy as np
import pandas as pd

from urlm_helpers.model import UnifiedRecommender
from urlm_helpers.preprocessing import Prepared
from urlm_helpers.project.blending import Blend, blend
from urlm_helpers.training import fit

START = {
    "learning_rate": 1e-3,
    "weight_decay": 1.0,
    "match": 0,
    "products": False,
    "epochs": 6,
}
"""What is tried first: small steps and some decay hurt no log much."""

ORDER = (
    {"learning_rate": 4e-3},
    {"products": True},
    {"learning_rate": 3e-4},
    {"weight_decay": 5.0},
    {"match": 8},
    {"weight_decay": 0.0},
)
"""What is changed next, one after the other, and kept where validation rows gain.

``products`` starts the network from a regression on products of features, its weights
shrunk over the scenarios: the way to share that page 1.3 found safe.
"""

HOW = ("learning_rate", "weight_decay", "epochs")


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Parameters
    ----------
    model : UnifiedRecommender or Blend
        The one to use.
    network : UnifiedRecommender
        The model, or the network in it.
    settings : dict
        Of the network: step size, decay, learned products (``match``), whether it
        starts from a regression (``products``), passes, batch, seed.
    log : DataFrame
        One line per training: settings, ``valid_loss``, ``best_pass``, ``seconds``,
        ``kept``.
    """

    model: UnifiedRecommender | Blend
    network: UnifiedRecommender
    settings: dict[str, Any]
    log: pd.DataFrame


def batch_size(rows: int) -> int:
    """Return how many rows a step takes: a pass has a hundred steps or more.

    Examples
    --------
    >>> batch_size(1_000), batch_size(40_000), batch_size(10**6)
    (64, 256, 2048)
    """
    return int(np.clip(2 ** int(np.log2(max(rows, 1) / 100)), 64, 2048))


def tune(prepared: Prepared, *, trainings: int = 7, seed: int = 0) -> Tuned:
    """Train a few times, keep the best on validation rows, blend it if that helps.

    The first training takes `START`; each further one changes what `ORDER` says. The
    last repeats the best with as many passes as its best one had, over which the step
    size then falls to 0. Test rows are not read.

    Parameters
    ----------
    prepared : Prepared
    trainings : int
        The budget: how often a network is trained, at most.
    seed : int
        Of the weights and the batches.

    Returns
    -------
    Tuned

    Raises
    ------
    ValueError
        If ``trainings`` is below 1.
    """
    if trainings < 1:
        raise ValueError(f"trainings must be at least 1, got {trainings}")
    size = batch_size(len(prepared.parts["train"]))
    networks: dict[tuple[int, bool], UnifiedRecommender] = {}
    best: dict[str, Any] = {}
    kept: list[np.ndarray] = []
    regression: list[np.ndarray] = []  # fitted once: the rows are the same
    lines: list[dict[str, Any]] = []

    def run(settings: Mapping[str, Any]) -> None:
        nonlocal best, kept, regression
        start, kind = perf_counter(), (settings["match"], settings["products"])
        if kind not in networks:  # one model is compiled once for all its step sizes
            match, products = kind
            networks[kind] = UnifiedRecommender(
                prepared.encoder.spec, match=match, products=products
            )
        network = networks[kind]
        network.reset(seed)
        if kind[1] and regression:
            network.branch.set_weights(regression)
        how = {name: settings[name] for name in HOW}
        history = fit(
            network,
            prepared.x,
            prepared.y,
            prepared.parts,
            batch_size=size,
            seed=seed,
            patience=2,
            **how,
        )
        if kind[1]:
            regression = network.branch.get_weights()
        line = history[history["best"]].iloc[0]
        found = {"valid_loss": line["valid_loss"], "best_pass": int(line["epoch"])}
        gained = not best or found["valid_loss"] < best["valid_loss"]
        if gained:
            best, kept = {**settings, **found}, network.get_weights()
        took = round(perf_counter() - start, 1)
        lines.append({**settings, **found, "seconds": took, "kept": gained})

    def settings() -> dict[str, Any]:
        return {name: best[name] for name in START}

    run(START)
    for change in ORDER[: max(trainings - 2, 0)]:
        run({**settings(), **change})
    if trainings > 1 and best["best_pass"] < best["epochs"]:
        run({**settings(), "epochs": best["best_pass"]})
    network = networks[best["match"], best["products"]]
    network.set_weights(kept)
    model = blend(network, prepared) or network
    chosen = {**settings(), "batch_size": size, "seed": seed}
    chosen |= {"blended": model is not network, "backend": keras.backend.backend()}
    return Tuned(model, network, chosen, pd.DataFrame(lines))
