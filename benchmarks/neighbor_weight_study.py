"""How much should the neighbor's rows count? Chosen on validation rows, then tested.

    python benchmarks/neighbor_weight_study.py measure
    python benchmarks/neighbor_weight_study.py compare

The shops, cases, draws, rows and measures of ``cross_domain_study.py``, where one model
took the neighbor's rows like its own. Here they count with a weight of 0 (own rows
alone), .03, .1, .3 or 1. In iALS it multiplies the loss of the neighbor's entries and
of its zeros, in item-to-item what the neighbor's items add to a score. Weights of 0 and
1 are that study's models, at the parameters that it chose; between them the parameters
are those of 1. A weight for the popular items is tuned on top. What is judged is a
rule: of popularity, the two models, and all weights, take what the case's validation
rows prefer. Of the cases, those whose target is thinned to a tenth, first draw.

**After the test**: that study's test numbers had been seen before this one was thought
of, so that it is no prediction either.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from cross_domain_study import KINDS, MIX, RESAMPLES, SCORES, cases
from results import RESULTS, Result
from scipy import sparse
from shop_models import PASSES, Factors, Job, Params, Score, ndcg, recall, solved
from shops import Case

from urlm_helpers.evaluation import percentile_interval, resample_users

WEIGHTS, MIXES = (0.03, 0.1, 0.3), (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
DRAWS, TABLE = (0,), "neighbor-weight.csv"
COLUMNS = ["target", "other", "share", "draw", "contender", "users", "recall", "ndcg"]
COLUMNS += ["valid", "at"]
THINNED = [case for case in cases() if case.share == 0.1]
RULES = {"own": "separate", "one": "one"}  # this table's names, that study's
RULES |= {name + MIX: that + ", mixed" for name, that in RULES.items()}


class Weighted(Job):
    """A case's rows, of which those of the neighbor count with a weight."""

    def ials_at(self, share: float, width: int, weight: int, decay: int) -> Factors:
        """Return vectors by iALS in which the neighbor's loss has a weight."""
        n, zero = self.own.shape[1], 0.03 * 3.0**weight
        width, pull = round(48 * 2.0**width), 0.003 * 3.0**decay
        root = np.where(np.arange(self.all.shape[1]) < n, 1, share**0.5)
        root = root.astype("float32")
        log, turned = self.all.copy(), self.all.T.tocsr()
        log.data = root[log.indices]
        mass = log.power(2).sum(axis=1) + zero * (root**2).sum()
        rng = np.random.default_rng(0)
        items = rng.normal(0, 0.1 / width**0.5, (len(root), width)).astype("float32")
        for _ in range(PASSES):
            users = solved(log, items * root[:, None], zero, pull, mass=mass)
            items = solved(turned, users, zero, pull)
        return Factors(users, items[:n])

    def item_to_item_at(self, share: float, own: int, others: int, rare: int) -> Score:
        """Return a score to which the neighbor's items add with a weight."""
        whole, n = self.all, self.own.shape[1]
        root = sparse.diags_array(np.where(np.arange(whole.shape[1]) < n, 1, share))
        light = (whole @ root).tocsr()
        plain = self.item_to_item(True, own, others, rare)

        def score(users: np.ndarray) -> np.ndarray:
            self.all = light  # what the plain score reads
            try:
                return plain(users)
            finally:
                self.all = whole

        return score


def fitted(job: Weighted, name: str, at: Params) -> Score | Factors:
    """Return what a contender of this or that study says at its parameters."""
    if name == "popularity":
        return job.popularity()
    kind, _, share = name.partition(" × ")
    if share:
        fit: Callable[..., Any] = getattr(
            job, "ials_at" if kind == "iALS" else "item_to_item_at"
        )
        return fit(float(share), *at)
    fit = job.ials if name.startswith("iALS") else job.item_to_item
    return fit("both" in name, *at)


def quality(job: Job, said: Score | Factors, mix: float = 0.0) -> float:
    """Return the NDCG at 100 of the purchases that are asked for."""
    return float(ndcg(job.ranks(said, mix), 100).mean())


def tuned(case: Case, known: dict[str, tuple[Params, float]]) -> dict[str, float]:
    """Add validation's value of each weight; return the popularity mixed into each."""
    job, mixes = Weighted(case, 0, tuning=True), {}
    for kind, share in product(("iALS", "item-to-item"), WEIGHTS):
        name, at = f"{kind} × {share}", known[f"{kind} both"][0]
        table = job.kept(fitted(job, name, at))
        known[name] = at, quality(job, table)
        tries = {mix: quality(job, table, mix) for mix in MIXES}
        mixes[name + MIX] = max(tries, key=tries.__getitem__)
        known[name + MIX] = at, tries[mixes[name + MIX]]
    return mixes


def choices(known: dict[str, tuple[Params, float]]) -> dict[str, str]:
    """Return which contender each rule takes: own, one, any weight; mixed or not."""
    found = {}
    for rule, that in RULES.items():
        found[rule] = max(KINDS[that], key=lambda name: known[name][1])
    for mix in ("", MIX):
        kinds = product(("iALS", "item-to-item"), WEIGHTS)
        names = [f"{kind} × {share}{mix}" for kind, share in kinds]
        names += [found["own" + mix], found["one" + mix]]
        found["weighted" + mix] = max(names, key=lambda name: known[name][1])
    return found


def measure() -> None:
    """Tune, fit and judge what is missing."""
    told = pd.read_csv(RESULTS / "cross-domain.csv").query("draw == 0")
    told["at"] = told["at"].fillna("")
    result, tuning = Result(TABLE, COLUMNS, digits=6), {}
    done = {tuple(line[x] for x in COLUMNS[:4]) for line in result.lines()}
    for draw, case in product(DRAWS, THINNED):
        if (*map(str, case), str(draw)) in done:
            continue
        if case not in tuning:
            mine = told[(told[["target", "other", "share"]] == list(case)).all(axis=1)]
            known = {
                line.contender: (tuple(map(int, line.at.split())), line.valid)
                for line in mine.itertuples()
            }
            mixes = {n: 2.0 ** at[0] for n, (at, _) in known.items() if MIX in n}
            tuning[case] = known, mixes | tuned(case, known)
        known, mixes = tuning[case]
        job, lines, fits = Weighted(case, draw, tuning=False), [], {}
        for rule, name in choices(known).items():
            plain = name.removesuffix(MIX)
            if plain not in fits:
                fits[plain] = job.kept(fitted(job, plain, known[plain][0]))
            ranks = job.ranks(fits[plain], mixes.get(name, 0.0))
            SCORES.mkdir(parents=True, exist_ok=True)
            np.save(SCORES / f"{'-'.join(map(str, case))}-{draw}-{rule}.npy", ranks)
            line = case._asdict() | {"draw": draw, "contender": rule}
            line |= {"users": len(ranks), "recall": recall(ranks).mean()}
            line |= {"ndcg": ndcg(ranks).mean(), "valid": known[name][1]}
            lines.append(line | {"at": f"{name} {mixes.get(name, 0.0):g}"})
        result.keep(*lines)
        print(*case, draw, *(f"{x['recall']:.4f}" for x in lines), flush=True)


COMPARISONS = [("one", "own"), ("weighted", "own"), ("weighted", "one")]
COMPARISONS += [(a + MIX, b + MIX) for a, b in COMPARISONS]


def compare() -> None:
    """Hold the rules against each other, with intervals over users."""
    lines = []
    for (a, b), case in product(COMPARISONS, THINNED):
        names = (SCORES / f"{'-'.join(map(str, case))}-0-{rule}.npy" for rule in (a, b))
        sums = np.stack([recall(np.load(name)) for name in names], axis=1)
        blocks = resample_users(len(sums), RESAMPLES, 0)
        drawn = np.concatenate([block @ sums / len(sums) for block in blocks])
        low, high = percentile_interval(drawn[:, 0] - drawn[:, 1], 0.95)
        one, other = sums.mean(axis=0)
        line = case._asdict() | {"a": a, "b": b, "a_mean": one, "b_mean": other}
        line |= {"low": low, "high": high, "relative": one / other - 1}
        lines.append(line)
    table = pd.DataFrame(lines)
    path = RESULTS / "neighbor-weight-compared.csv"
    table.to_csv(path, index=False, float_format="%.5g")
    print(table.to_string())


if __name__ == "__main__":
    steps = {"measure": measure, "compare": compare}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=steps)
    steps[parser.parse_args().step]()
