"""When does one model pay? Predicted, then measured, on shops with the same users.

    python benchmarks/cross_domain_study.py predict   # from training data alone
    python benchmarks/cross_domain_study.py measure
    python benchmarks/cross_domain_study.py compare
    python benchmarks/cross_domain_study.py rules

Four pairs of Amazon shops; ``shops.py`` says where they come from, what their twins are
and how the agreement of their tastes is estimated.

**The rule**, fixed before any test number was known: the gain that ``map.csv`` shows at
a case's agreement and rows for each number to be learned, on straight lines through its
250 and 1,000 rows and beyond (``network pooled`` over the better of ``network alone``
and ``regression alone``; clicks, with thresholds). Numbers to be learned are the
columns of the regression there, and here one for each user and item. Sizes of an AUC do
not transfer: what is predicted is the sign, and the order of the relative gains in
recall. A pilot, with the twins in, was known for two cases: phones gained from
electronics, clothing lost from it.

**Rivals**: fewer own rows for each user; more rows of the other shop for each own row.
The published distance of domains, SDSP (Wen et al., 2025, arXiv 2505.20227), is one
between prototypes that its network learns while it is trained on shared features; these
logs have ids alone, and it is not computed here.

**What is measured**: recall and NDCG at 20 over all items of the target, for at most
5,000 users, a held-out purchase each; ties at mid-rank, after popularity. "One model"
is iALS or item-to-item over both shops, "separate" these over the target, or
popularity; of each kind the one that validation prefers, by NDCG at 100 of a purchase
each of at most 1,500 users, but of no more than a fifth of the target's rows. All are
tuned by climbing until no neighbor on the grid is better, on the first draw of a case;
the one end of a grid is the widest vector of iALS, 96: with 192 the first case had the
same sign, and the time did not allow it for all.

**Added after test numbers had been seen**: the contenders "+ popularity", a weight for
popularity tuned on top of each. Of a tenth of the rows, popularity alone beat what was
planned as one model in three of four shops: no part of that could fall back on it. And
the contest in which it can ("one or popularity"), with what five rules bring in each
contest (``rules``): the users of a pair are drawn jointly for all of its cases, those
of different pairs apart; what validation rows chose is held fixed. The search for the
weight climbs from a quarter and never tries 0, so that in ``compare`` a model must mix
popularity in; in ``rules`` the models without it are candidates too, and validation
rows take one in two of the sixteen cases.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from results import RESULTS, Result
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import rankdata
from shop_models import Factors, Job, Params, Score, climb, ndcg, recall
from shops import SHARES, Case, agreement, shop, twins, without_twins

from urlm_helpers.evaluation import holm, percentile_interval, resample_users
from urlm_helpers.world import World

PAIRS = [("electronic", "phone"), ("electronic", "cloth")]
PAIRS += [("sport", "phone"), ("sport", "cloth")]
DRAWS = 3
MAP_ROWS = (250, 1_000)
WIDEST, RESAMPLES = 1, 2_000  # vectors of 48 x 2^1 at most
PREDICTIONS = RESULTS / "cross-domain-predictions.csv"
COLUMNS = ["target", "other", "share", "draw", "contender", "users", "rows"]
COLUMNS += ["recall", "ndcg", "valid", "at", "seconds"]
SCORES = Path(__file__).resolve().parent / "scores" / "cross-domain"


# --- what is predicted ----------------------------------------------------------------


def cases() -> list[Case]:
    """Return all cases: each shop of each pair, and the smaller ones thinned."""
    found = []
    for share, pair in product(SHARES, PAIRS):
        ways = (pair, pair[::-1])
        small, large = min(ways, key=lambda way: len(shop(*way)[0]))
        found.append(Case(small, large, share))
        if share == 1:
            found.append(Case(large, small, share))
    return found


def map_gain() -> RegularGridInterpolator:
    """Return the map's gain of one model, of agreement and log2 of rows per number.

    Straight lines between its points, and beyond them.
    """
    world = World()
    users = world.people.features.shape[1]
    items = world.goods.features.shape[1] + 1 + len(world.categories)
    told = pd.read_csv(RESULTS / "map.csv")
    told = told[(told["thresholds"] == 1) & (told["task"] == "click")]
    told = told[told["rows"].isin(MAP_ROWS)]
    auc = told.pivot_table("auc", ["rows", "shift", "world"], "contender")
    alone = auc[["network alone", "regression alone"]].max(axis=1)
    gain = (auc["network pooled"] - alone).rename("gain").reset_index()
    gain = gain.pivot_table("gain", "shift", "rows")
    agrees = told.groupby("shift")["agreement"].mean()
    numbers = users + items + users * items
    grid = (agrees.to_numpy()[::-1], np.log2(np.array(MAP_ROWS) / numbers))
    return RegularGridInterpolator(
        grid, gain.to_numpy()[::-1], bounds_error=False, fill_value=None
    )


def predict() -> None:
    """Write down what is expected of each case."""
    gain, lines = map_gain(), []
    for case in cases():
        target, other = case[:2]
        own = shop(target, other)[0]
        users, items = (1 + np.concatenate(shop(target, other)).max(axis=0)).tolist()
        logs = without_twins(target, other), without_twins(other, target)
        pair = sorted(logs, key=len)
        rows = round(case.share * len(own))
        agrees = agreement(*pair, users)
        expected = gain((agrees, np.log2(rows / (users + items)))).item()
        lines.append(
            {
                **case._asdict(),
                "agreement": agrees,
                "users": users,
                "items": items,
                "rows": rows,
                "rows_per_user": rows / users,
                "rows_per_number": rows / (users + items),
                "map_gain": expected,
                "predicted": "pays" if expected > 0 else "hurts",
                "other_rows_per_row": len(logs[1]) / rows,
                "twins": len(twins(target, other)),
                "test_rows_of_twins": np.isin(
                    shop(target, other)[1][:, 1], twins(target, other)
                ).mean(),
            }
        )
    table = pd.DataFrame(lines)
    table.to_csv(PREDICTIONS, index=False, float_format="%.4g")
    print(table.to_string())


# --- what is measured -----------------------------------------------------------------

KINDS = {"one": ("item-to-item both", "iALS both")}
KINDS["separate"] = ("popularity", "item-to-item alone", "iALS alone")
KEPT = ("item-to-item both, twins kept", "iALS both, twins kept")
COMPARISONS = [("one", "separate"), ("iALS both", "separate")]
COMPARISONS += [("iALS shrunk", "separate"), ("iALS both", "iALS alone")]
COMPARISONS += [("item-to-item both", "item-to-item alone")]
COMPARISONS += [("one, mixed", "separate, mixed")]
COMPARISONS += [("iALS shrunk + popularity", "separate, mixed")]
COMPARISONS += [("one, twins kept", "one"), ("one, twins kept", "separate")]
JUDGED = [x for x in COMPARISONS if x[1].startswith("separate") and "kept" not in x[0]]
PREDICTORS = {"map_gain": 1, "rows_per_user": -1, "other_rows_per_row": 1}
CONTENDERS = (*KINDS["separate"], *KINDS["one"], "iALS shrunk")
MIX = " + popularity"  # what was added after the first test numbers had been seen
MIXED = tuple(name + MIX for name in CONTENDERS[1:])
KINDS["one, mixed"] = tuple(name + MIX for name in KINDS["one"])
KINDS["separate, mixed"] = tuple(name + MIX for name in KINDS["separate"][1:])
KINDS["separate, mixed"] += ("popularity",)
WIDE = ("iALS alone", "iALS both")
STARTS: dict[str, Params] = {
    "popularity": (),
    "item-to-item": (2, 2, 0),
    "iALS": (1, 1, 0),
    "iALS shrunk": (0,),
}


def said(job: Job, name: str, at: Params, chosen: dict[str, Params]) -> Score | Factors:
    """Return what a contender with these parameters says."""
    if name == "popularity":
        return job.popularity()
    if name == "iALS shrunk":
        return job.shrunk(chosen["iALS alone"], chosen["iALS both"], *at)
    fit = job.ials if name.startswith("iALS") else job.item_to_item
    return fit("both" in name, *at)


def tuned(job: Job, name: str, chosen: dict[str, Params]) -> tuple[float, Params]:
    """Return the best NDCG at 100 of a contender on a job, and where."""
    if name.endswith(MIX):
        plain = name.removesuffix(MIX)
        fit = job.kept(said(job, plain, chosen[plain], chosen))

        def mixed(at: Params) -> float:
            return float(ndcg(job.ranks(fit, 2.0 ** at[0]), 100).mean())

        return climb(mixed, (-2,))[::-1]

    def quality(at: Params) -> float:
        if name in WIDE and at[0] > WIDEST:
            return -np.inf
        return float(ndcg(job.ranks(said(job, name, at, chosen)), 100).mean())

    start = STARTS.get(name) or STARTS.get(name.rsplit(" ", 1)[0], ())
    return climb(quality, start)[::-1]


def scores(case: Case, draw: int, name: str) -> Path:
    """Return where the ranks of a contender are kept, outside the repository."""
    return SCORES / f"{'-'.join(map(str, case))}-{draw}-{name}.npy"


def _case(line: Mapping[str, str]) -> Case:
    return Case(line["target"], line["other"], float(line["share"]))


def measure() -> None:
    """Tune, fit and judge what is missing."""
    if not PREDICTIONS.exists():
        sys.exit("Predict before you measure: run this with predict first")
    result = Result("cross-domain.csv", COLUMNS, digits=6)
    lines = [
        line
        for line in result.lines()
        if scores(_case(line), line["draw"], line["contender"]).exists()
    ]
    done = {tuple(line[x] for x in COLUMNS[:5]) for line in lines}
    todo = [(draw, case) for draw in range(DRAWS) for case in cases()]
    todo = [(draw, case) for draw, case in todo if draw == 0 or case.share < 1]
    todo.sort(key=lambda x: (x[0], {*x[1][:2]} == {*PAIRS[1]}))  # the longest last
    todo = [(*x, mix) for mix in (False, True) for x in todo]
    for number, (draw, case, mix) in enumerate(todo):
        began = time.perf_counter()
        names = CONTENDERS + (KEPT if case.share == 1 else ())
        names = MIXED if mix else names
        jobs: dict[Any, Job] = {}
        chosen = {
            line["contender"]: tuple(map(int, line["at"].split()))
            for line in lines
            if line["draw"] == "0" and _case(line) == case
        }
        for name in names:
            key = (*map(str, case), str(draw), name)
            if key in done:
                continue
            spent, valid = time.process_time(), float("nan")
            as_is = name.removesuffix(", twins kept")
            plain = as_is.removesuffix(MIX)
            if as_is not in chosen:
                if "tuning" not in jobs:
                    jobs["tuning"] = Job(case, draw, tuning=True)
                valid, chosen[as_is] = tuned(jobs["tuning"], as_is, chosen)
            keep = name in KEPT
            if keep not in jobs:
                jobs[keep] = Job(case, draw, tuning=False, keep=keep)
            job = jobs[keep]
            weight = 2.0 ** chosen[as_is][0] if mix else 0.0
            ranks = job.ranks(said(job, plain, chosen[plain], chosen), weight)
            path = scores(case, draw, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, ranks.astype("float32"))
            line = dict(zip(COLUMNS, key, strict=False))
            line |= {"users": len(ranks), "rows": int(job.own.nnz), "valid": valid}
            line |= {"at": " ".join(map(str, chosen[as_is]))}
            line |= {"recall": recall(ranks).mean(), "ndcg": ndcg(ranks).mean()}
            line |= {"seconds": time.process_time() - spent}
            result.keep(line)
            lines.append({k: str(v) for k, v in line.items()})
        print(*case, draw, f"{time.perf_counter() - began:.0f} s,", end=" ")
        print(len(todo) - number - 1, "cases and draws left", flush=True)


# --- what was measured against what was predicted -------------------------------------


def resampled(case: Case, told: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return means of each contender's recall and NDCG: as measured, and resampled.

    Under the keys "one" and "separate" those of the contenders that validation prefers.
    Over a case's draws; the users that are drawn are the same in all cases of a pair.
    """
    mine = told[(told[["target", "other", "share"]] == list(case)).all(axis=1)]
    valid = mine[mine["draw"] == 0].set_index("contender")["valid"]
    names = [*CONTENDERS, *(KEPT if case.share == 1 else ()), *MIXED]
    whole = mine[mine["contender"] == names[-1]]["draw"]
    columns = {}
    for name in names:
        ranks = [np.load(scores(case, draw, name)) for draw in whole]
        for metric, gain in (("recall", recall), ("ndcg", ndcg)):
            columns[name, metric] = np.mean([gain(r) for r in ranks], axis=0)
    sums = np.stack(list(columns.values()), axis=1)
    seed = [i for i, pair in enumerate(PAIRS) if {case.target, case.other} == {*pair}]
    blocks = resample_users(len(sums), RESAMPLES, seed[0])
    drawn = np.concatenate(
        [sums.mean(axis=0)[None], *(b @ sums / len(sums) for b in blocks)]
    )
    found = dict(zip(columns, drawn.T, strict=True))
    for kind, of in KINDS.items():
        best = valid[list(of)].idxmax()  # the first of equals
        found |= {(kind, m): found[best, m] for m in ("recall", "ndcg")}
        found[kind, "name"] = best
        if kind == "one" and case.share == 1:
            found |= {
                ("one, twins kept", m): found[f"{best}, twins kept", m]
                for m in ("recall", "ndcg")
            }
    return found


def compare() -> None:
    """Hold one model against separate ones, and the predictions against that."""
    told = pd.read_csv(RESULTS / "cross-domain.csv")
    predicted = pd.read_csv(PREDICTIONS)
    found = {case: resampled(case, told) for case in cases()}
    lines = []
    for (one, other), metric in product(COMPARISONS, ("recall", "ndcg")):
        part = []
        for case, means in found.items():
            if (one, metric) in means:
                a, b = means[one, metric], means[other, metric]
                low, high = percentile_interval(a[1:] - b[1:], 0.95)
                wrong = min((a[1:] <= b[1:]).sum(), (a[1:] >= b[1:]).sum())
                line = case._asdict() | {"metric": metric, "a": one, "b": other}
                line |= {"a_is": means.get((one, "name"), one)}
                line |= {"b_is": means.get((other, "name"), other)}
                line |= {"a_mean": a[0], "b_mean": b[0], "difference": a[0] - b[0]}
                line |= {"low": low, "high": high, "relative": a[0] / b[0] - 1}
                line |= {"p_value": min(2 * (1 + wrong) / (1 + RESAMPLES), 1)}
                part.append(line)
        adjusted = holm([line["p_value"] for line in part])
        lines += [x | {"p_holm": p} for x, p in zip(part, adjusted, strict=True)]
    table = pd.DataFrame(lines)
    table.to_csv(
        RESULTS / "cross-domain-compared.csv", index=False, float_format="%.5g"
    )
    verdict(found, table, predicted)


KINDS["one or popularity"] = ("popularity", *KINDS["one"])
CONTESTS = {"as committed": ("one", "separate")}
CONTESTS |= {"popularity a candidate": ("one or popularity", "separate")}
KINDS["one, any weight"] = (*KINDS["one, mixed"], *KINDS["one or popularity"])
KINDS["separate, any weight"] = (*KINDS["separate, mixed"], *KINDS["separate"])
CONTESTS |= {"popularity mixed in": ("one, any weight", "separate, any weight")}


def ranks_again(case: Case, draw: int, name: str, mine: pd.DataFrame) -> np.ndarray:
    """Return the kept ranks of a contender, or fit it again where it was tuned."""
    path = scores(case, draw, name)
    if not path.exists():
        at = {
            x: tuple(map(int, str(y).split())) if pd.notna(y) else ()
            for x, y in mine[mine["draw"] == 0].set_index("contender")["at"].items()
        }
        plain, job = name.removesuffix(MIX), Job(case, draw, tuning=False)
        weight = 2.0 ** at[name][0] if name.endswith(MIX) else 0.0
        ranks = job.ranks(said(job, plain, at[plain], at), weight)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, ranks.astype("float32"))
    return np.load(path)


def rules() -> None:
    """Hold one model against own ones in three contests, and five rules in each."""
    told, predicted = (
        pd.read_csv(RESULTS / "cross-domain.csv"),
        pd.read_csv(PREDICTIONS),
    )
    pays = predicted.set_index(["target", "other", "share"])["predicted"] == "pays"
    lines: list[dict[str, Any]] = []
    brought: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    for case in cases():
        mine = told[(told[["target", "other", "share"]] == list(case)).all(axis=1)]
        valid = mine[mine["draw"] == 0].set_index("contender")["valid"]
        pick = {kind: valid[list(of)].idxmax() for kind, of in KINDS.items()}
        names = sorted({pick[kind] for pair in CONTESTS.values() for kind in pair})
        whole = mine[mine["contender"] == names[-1]]["draw"]
        each = []
        for name in names:
            found = [recall(ranks_again(case, draw, name, mine)) for draw in whole]
            stored = mine[mine["contender"] == name].set_index("draw")["recall"]
            apart = np.abs(np.mean(found, axis=1) - stored[whole].to_numpy()).max()
            if apart > 1e-3:
                print("unlike the table:", *case, name, f"{apart:.4f}", flush=True)
            each.append(np.mean(found, axis=0))
        sums = np.stack(each, axis=1)
        seed = [i for i, pair in enumerate(PAIRS) if {*case[:2]} == {*pair}][0]
        blocks = resample_users(len(sums), RESAMPLES, seed)
        drawn = [sums.mean(axis=0)[None], *(b @ sums / len(sums) for b in blocks)]
        mean = dict(zip(names, np.concatenate(drawn).T, strict=True))
        for contest, (one, own) in CONTESTS.items():
            a, b = mean[pick[one]], mean[pick[own]]
            low, high = percentile_interval(a[1:] - b[1:], 0.95)
            line = {"contest": contest, **case._asdict(), "users": len(sums)}
            line |= {"a_is": pick[one], "b_is": pick[own], "a_mean": a[0]}
            line |= {"b_mean": b[0], "low": low, "high": high}
            better = valid[pick[one]] > valid[pick[own]]
            lines.append(line | {"valid_says_share": better})
            gain, more = a / b - 1, len(sums) * (a - b)
            follow = {"always share": True, "share if thinned": case.share < 1}
            follow |= {"the map": bool(pays[case]), "validation rows": bool(better)}
            follow |= {"hindsight": bool(gain[0] > 0)}
            for rule, share in follow.items():
                brought.setdefault((contest, rule), []).append(
                    (share * gain, share * more)
                )
        print(*case, "done", flush=True)
    table = pd.DataFrame(lines)
    table.to_csv(RESULTS / "cross-domain-equal.csv", index=False, float_format="%.5g")
    lines = []
    for (contest, rule), found in brought.items():
        gain, more = np.mean([g for g, _ in found], axis=0), sum(m for _, m in found)
        line = {"contest": contest, "rule": rule}
        for name, value in (("gain", gain), ("found", more)):
            low, high = percentile_interval(value[1:], 0.95)
            line |= {name: value[0], f"{name}_low": low, f"{name}_high": high}
        base = np.mean([g for g, _ in brought[contest, "always share"]], axis=0)
        low, high = percentile_interval((gain - base)[1:], 0.95)
        line |= {"over": gain[0] - base[0], "over_low": low, "over_high": high}
        lines.append(line)
    table = pd.DataFrame(lines)
    table.to_csv(RESULTS / "cross-domain-rules.csv", index=False, float_format="%.4g")
    print(table.to_string())


def order_fits(expected: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each column of gains with what is expected."""
    a, b = rankdata(expected), rankdata(gains, axis=0)
    a, b = a - a.mean(), b - b.mean(axis=0)
    return a @ b / np.sqrt((a @ a) * (b * b).sum(axis=0))


def verdict(
    found: dict[Case, Any], table: pd.DataFrame, predicted: pd.DataFrame
) -> None:
    """Write down how many signs held, and how well each order fits the measured one."""
    lines = []
    whole = (predicted["share"] == 1).to_numpy()
    for (one, other), part in product(JUDGED, ("all", "whole", "thinned")):
        at = {"all": whole | True, "whole": whole, "thinned": ~whole}[part]
        mine = table[(table["a"] == one) & (table["b"] == other)]
        mine = mine[mine["metric"] == "recall"].loc[lambda x, at=at: at]
        up, sure = mine["difference"] > 0, mine["p_holm"] < 0.05
        said = (predicted["predicted"] == "pays")[at].to_numpy()
        gains = np.stack(
            [x[one, "recall"] / x[other, "recall"] - 1 for x in found.values()]
        )
        for name, sign in PREDICTORS.items():
            fits = order_fits(sign * predicted[name].to_numpy()[at], gains[at])
            low, high = percentile_interval(fits[1:], 0.95)
            line = {"a": one, "b": other, "cases": part, "predictor": name}
            line |= {"correlation": fits[0], "low": low, "high": high, "of": at.sum()}
            if name == "map_gain":
                line |= {"held": (said == up).sum(), "always_pays_held": up.sum()}
                line |= {"held_surely": ((said == up) & sure).sum()}
                line |= {"failed_surely": ((said != up) & sure).sum()}
            lines.append(line)
    result = pd.DataFrame(lines)
    result.to_csv(
        RESULTS / "cross-domain-verdict.csv", index=False, float_format="%.4g"
    )
    print(result.to_string())


if __name__ == "__main__":
    steps = {"predict": predict, "measure": measure, "compare": compare}
    steps["rules"] = rules
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=steps)
    steps[parser.parse_args().step]()
