"""How often do the package's intervals of 95 % miss the truth, with few positives?

    python benchmarks/interval_coverage.py

In each cell (users, how evenly active they are, positives) 200 small logs are drawn
from a population whose truth is known: users differ in how often they click, and the
models in how much they like a user, so that the rows of a user go together. Two
models are noise, so that their AUC is 0.5 and no difference is one; the others know
the true probabilities. A row of the result says how often the bare interval misses the
truth, how often the package gives it (the `support` is at least `ENOUGH`, see
`urlm_helpers.evaluation.evaluate`) and how often it misses where it is given. Noise has
exactly the cell's number of positives, the rates have it in expectation.

`evaluate_slices` is `evaluate` on fewer rows. The ECE of the true probabilities and of
two models that are off, and a difference of ECE, have percentiles but are given no
interval: their lines show why. So do the "debiased", where the bootstrap's estimate of
the bias is taken off, once for the value and once for the resamples. The t-interval
over runs has rows of its own, by number of runs. The lines of a cell are written
together, those of ECE apart, and skipped when the study is started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from results import Result
from tqdm import tqdm

from urlm_helpers.evaluation import METRICS, bootstrap, compare, t_interval
from urlm_helpers.evaluation.bootstrap import (
    Cell,
    Statistic,
    percentile_interval,
    ratio,
    resample_users,
    values,
)
from urlm_helpers.evaluation.calibration import mass_bins
from urlm_helpers.evaluation.metrics import entropy, row_log_loss

COLUMNS = ["interval", "users", "activity", "positives", "worlds", "support"]
COLUMNS += ["missed", "given", "missed_where_given"]
USERS, ACTIVITY, POSITIVES = (5, 20, 200), ("even", "zipf"), (1, 2, 4, 10, 20, 40, 100)
WORLDS, RESAMPLES, RUNS = 200, 200, (2, 3, 5, 10, 20)
ACTIONS = 10  # of the logging policy, which tosses a fair die
ENOUGH = bootstrap.ENOUGH


class Found(NamedTuple):
    """The bare interval of one log, what it rests on, and the truth."""

    low: float
    high: float
    support: float
    truth: float
    shifted: bool = False


def probabilities(rng: np.random.Generator, user: Any, users: int, rate: float) -> Any:
    """Return each row's chance of a click: habits of users, appeal of items."""
    habit = np.exp(0.5 * rng.normal(size=users) - 0.125)[user]
    appeal = np.exp(0.8 * rng.normal(size=len(user)) - 0.32)
    return np.minimum(rate * habit * appeal, 0.95)


def truths(rate: float, scale: float) -> dict[str, float]:
    """Return the metrics of the population, from half a million users."""
    n = 500_000
    p = probabilities(np.random.default_rng(1), np.arange(n), n, rate)
    loss, said = row_log_loss(p, p).mean(), p * scale >= 0.5
    hit, chance = (p * said).mean(), np.minimum(ACTIONS * p, 1).mean()
    return {
        "log_loss": loss,
        "normalized_entropy": loss / entropy(p.mean()),
        "pcoc": 1.0,
        "accuracy": np.where(said, p, 1 - p).mean(),
        "precision": hit / said.mean(),
        "recall": hit / p.mean(),
        "f1": 2 * hit / (said.mean() + p.mean()),
        "pcoc, upper half": 1.0,
        "hits of a ranking": p.mean(),
        "two rankings' NDCG": 0.0,
        **dict.fromkeys(("ips", "snips", "dr"), chance),
    }


def rates(
    rng: np.random.Generator, user: Any, p: Any, scale: float, users: int
) -> dict[str, Statistic]:
    """Return the statistics of a log whose probabilities the model knows."""
    n, one = len(p), np.ones(len(p))
    y, again = (rng.random((2, n)) < p).astype(float)
    known = Cell(y, p, one, user, users)
    bold = known._replace(p=np.minimum(p * scale, 0.999))
    made = {m: METRICS[m](known) for m in ("log_loss", "normalized_entropy", "pcoc")}
    made |= {m: METRICS[m](bold) for m in ("accuracy", "precision", "recall", "f1")}
    top = p >= np.median(p)
    made["pcoc, upper half"] = ratio(user[top], users, p[top], y[top])
    made["hits of a ranking"] = ratio(user, users, y, one)
    gain = 1 / np.log2(1 + rng.integers(1, 11, size=(2, n)))
    made["two rankings' NDCG"] = ratio(user, users, y * gain[0] - again * gain[1], one)
    w, chance = ACTIONS * (rng.random(n) < 1 / ACTIONS), np.minimum(ACTIONS * p, 1)
    reward, q = rng.random(n) < chance, 0.8 * chance
    made["ips"] = ratio(user, users, w * reward, one)
    made["snips"] = ratio(user, users, w * reward, w)
    dr = ratio(user, users, q + w * (reward - q), one)
    made["dr"] = dr._replace(support=min(dr.support, made["ips"].support))
    return made


def noise(
    rng: np.random.Generator, user: Any, p: Any, positives: int, seed: int
) -> Iterator[tuple[str, Found]]:
    """Yield the intervals of models that know nothing, and of their differences."""
    users = int(user.max()) + 1
    y = np.zeros(len(p))
    y[rng.choice(len(p), positives, replace=False, p=p / p.sum())] = 1

    def model() -> pd.DataFrame:
        score = rng.normal(size=users)[user] + rng.normal(size=len(p))
        chance = 1 / (1 + np.exp(-score))
        return pd.DataFrame({"user": user, "scenario": "s", "y_t": y, "p_t": chance})

    a, b = [model() for _ in range(3)], [model() for _ in range(3)]
    for name, one, other, metric in (
        ("difference in auc", a[0], b[0], "auc"),
        ("difference in auc, 3 runs", a, b, "auc"),
        ("difference in log_loss", a[0], b[0], "log_loss"),
    ):
        table = compare(one, other, ["t"], metric, resamples=RESAMPLES, seed=seed)
        low, high, support = table.loc[0, ["low", "high", "support"]]
        yield name, Found(low, high, support, 0.0)
    cell = Cell(y, a[0]["p_t"].to_numpy(), np.ones(len(y)), user, users)
    made = {name: METRICS[name](cell) for name in ("auc", "gauc")}
    yield from intervals(made, dict.fromkeys(made, 0.5), users, seed)


def intervals(
    made: dict[str, Statistic], truth: dict[str, float], users: int, seed: int
) -> Iterator[tuple[str, Found]]:
    """Yield the bootstrap's intervals."""
    draws = values(list(made.values()), resample_users(users, RESAMPLES, seed))
    for (name, statistic), draw in zip(made.items(), draws, strict=True):
        ends = percentile_interval(draw, 0.95)
        yield name, Found(*ends, statistic.support, truth[name], statistic.shifted)


def summary(found: list[Found]) -> dict[str, Any]:
    """Return how often the intervals missed."""
    low, high, support, truth, shifted = np.array(found).T
    bare = ~np.isnan(low)
    missed = bare & ((truth < low) | (truth > high))
    given = bare & (support >= ENOUGH) & (shifted == 0)
    return {
        "worlds": len(found),
        "support": float(np.median(support)),
        "missed": float(missed.mean()),
        "given": float(given.mean()),
        "missed_where_given": float(missed[given].mean()) if given.any() else "",
    }


def rate_of(users: int, positives: int) -> float:
    """Return a cell's expected share of positives."""
    return positives / max(20 * users, 5 * positives)


def logs(
    users: int, activity: str, positives: int
) -> Iterator[tuple[int, np.random.Generator, Any, Any]]:
    """Yield a cell's logs: seed, generator, user and true probability of each row."""
    rows = max(20 * users, 5 * positives)
    share = 1 / np.arange(1, users + 1) ** (activity == "zipf")
    for seed in range(WORLDS):
        rng = np.random.default_rng([users, positives, seed])
        user = np.sort(rng.choice(users, rows, p=share / share.sum()))
        user = np.unique(user, return_inverse=True)[1]
        yield (
            seed,
            rng,
            user,
            probabilities(rng, user, user.max() + 1, rate_of(users, positives)),
        )


def lines(users: int, activity: str, positives: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of one cell, but for ECE."""
    rate = rate_of(users, positives)
    some = probabilities(np.random.default_rng(2), np.arange(9999), 9999, rate)
    scale = 0.5 / np.quantile(some, 0.9)  # the bold model says yes to a tenth
    truth = truths(rate, scale)
    found: dict[str, list[Found]] = {}
    for seed, rng, user, p in logs(users, activity, positives):
        n = int(user.max()) + 1
        made = rates(rng, user, p, scale, n)
        for name, one in (
            *noise(rng, user, p, positives, seed),
            *intervals(made, truth, n, seed),
        ):
            found.setdefault(name, []).append(one)
    yield from summaries(found, users, activity, positives)


def models(p: Any, rate: float) -> dict[str, Any]:
    """Return what models say: the truth, a logit too high, and one too flat."""
    logit = np.log(p / (1 - p))
    flat = 0.7 * logit + 0.3 * np.log(rate / (1 - rate))
    off = {"ece, logit + 0.3": logit + 0.3, "ece, slope 0.7": flat}
    return {"ece, calibrated": p} | {k: 1 / (1 + np.exp(-x)) for k, x in off.items()}


def ece_lines(users: int, activity: str, positives: int) -> Iterator[dict[str, Any]]:
    """Yield a cell's lines of ECE, in the bins of half a million users its truth."""
    rate = rate_of(users, positives)
    all_users = np.arange(500_000)
    p = probabilities(np.random.default_rng(1), all_users, len(all_users), rate)
    truth = {}
    for name, said in models(p, rate).items():
        code = mass_bins(said, np.ones(len(p)), 10)
        truth[name] = np.abs(np.bincount(code, said - p)).sum() / len(p)
    calibrated, off, _ = truth
    found: dict[str, list[Found]] = {}
    for seed, rng, user, p in logs(users, activity, positives):
        n, y = int(user.max()) + 1, (rng.random(len(p)) < p).astype(float)
        made = [
            METRICS["ece"](Cell(y, said, np.ones(len(p)), user, n))
            for said in models(p, rate).values()
        ]
        full = values(made, [np.ones((1, n))])
        draws = values(made, resample_users(n, RESAMPLES, seed))
        back = np.maximum(draws - 2 * (draws.mean(axis=1, keepdims=True) - full), 0)
        tried = dict(zip(truth, draws, strict=True))
        tried["difference in ece"] = tried[off] - tried[calibrated]
        tried |= {f"{name}, debiased": d for name, d in zip(truth, back, strict=True)}
        for name, drawn in tried.items():
            true = truth.get(name.removesuffix(", debiased"), truth[off])
            ends = percentile_interval(drawn, 0.95)
            one = Found(*ends, made[0].support, true, shifted=True)
            found.setdefault(name, []).append(one)
    yield from summaries(found, users, activity, positives)


def summaries(
    found: dict[str, list[Found]], users: int, activity: str, positives: int
) -> Iterator[dict[str, Any]]:
    """Yield the lines of what was found in a cell's logs."""
    where = {"users": users, "activity": activity, "positives": positives}
    for name, all_of_it in found.items():
        yield {"interval": name, **where, **summary(all_of_it)}


def over_runs() -> Iterator[dict[str, Any]]:
    """Yield the t-interval's lines, where `users` is the number of runs."""
    rng = np.random.default_rng(0)
    for runs in RUNS:
        x = rng.normal(size=(runs, 20_000))
        shapes = {"normal": (x, 0.0), "skewed": (np.exp(x), np.e**0.5)}
        for name, (drawn, truth) in shapes.items():
            _, low, high = t_interval(drawn)
            missed = float(((truth < low) | (truth > high)).mean())
            yield {
                "interval": f"t over runs, {name}",
                "users": runs,
                "worlds": x.shape[1],
                "support": float(runs),
                "missed": missed,
                "given": 1.0,
                "missed_where_given": missed,
            }


def main() -> None:
    """Run what is missing of the study, and show it by number of positives."""
    bootstrap.ENOUGH = 0.0  # the bare interval, whatever it rests on
    result = Result("interval-coverage.csv", COLUMNS, digits=4)
    done = {tuple(x[name] for name in COLUMNS[:4]) for x in result.lines()}
    if not any(x["interval"].startswith("t over") for x in result.lines()):
        result.keep(*over_runs())
    parts = {"auc": lines, "ece, calibrated": ece_lines}
    todo = [
        (parts[name], cell)
        for name, cell in product(parts, product(USERS, ACTIVITY, POSITIVES))
        if (name, *map(str, cell)) not in done
    ]
    for part, cell in tqdm(todo, unit="cell"):
        result.keep(*part(*cell))
    table = pd.DataFrame(result.lines()).query("positives != ''")
    numbers = table.columns[3:]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    table["said"] = table["given"] * table["worlds"]
    table["wrong"] = (table["missed_where_given"] * table["said"]).fillna(0)
    sums = table.pivot_table(
        ["missed", "given", "said", "wrong"], "interval", "positives", "mean"
    )
    shown = {
        "missed by the bare interval": sums["missed"],
        "given": sums["given"],
        "missed where given": sums["wrong"] / sums["said"].replace(0, np.nan),
    }
    for title, part in shown.items():
        print(f"\n{title}, all cells together\n{part.round(2).to_string()}")


if __name__ == "__main__":
    main()
