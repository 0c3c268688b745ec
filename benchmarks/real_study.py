"""Does the map of the simulated app tell what one model brings on a real log?

    python benchmarks/real_study.py predict
    python benchmarks/real_study.py measure

Complete Journey twice: its places (display, mailer, both) as scenarios, and its
departments. One of them at a time is the small scenario: it keeps 250 to 16,000 of its
training rows, the others keep up to 20,000 together. `predict` estimates from those
training rows how far the tastes agree, reads from the map how much one model for all
(the better of a pooled regression and a pooled network) would gain over the best of
what can be had from the scenario's own rows, and writes that down. `measure` then fits
the contenders of the map, and asks the test weeks.

The rule of the prediction, fixed before any test week was looked at: at the case's
number of rows, the map's points of both worlds (clicks) are averaged angle by angle;
between their agreements the gain is read on a straight line, beyond them at the nearest
end. Where the halves of the small scenario have less than `RELIABLE` in common, the
estimate is no estimate, and the gain is the mean over the angles. Two rivals predict
too: "always share" and "share below 4,000 rows".

Contenders see the same columns: numbers, and buckets of counts of the past; no ids.
A line is written as soon as it is known, and skipped when the study is started again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from map_study import CONTENDERS, SEARCH, Arrays, choose, scores
from results import RESULTS, Result

from urlm_helpers.data import load
from urlm_helpers.data.logs import complete_journey
from urlm_helpers.evaluation import auc, compare
from urlm_helpers.model import ProductBranch, taste_agreement
from urlm_helpers.preprocessing import Prepared, prepare

KEY = ["by", "target", "rows", "draw"]
PREDICTED = [*KEY, "agreement", "reliability", "gain"]
COLUMNS = [*KEY, "contender", "auc", "over", "difference", "low", "high", "step_size"]
ROWS, DRAWS, OTHERS = (250, 1_000, 4_000, 16_000), (0,), 20_000
DEPARTMENTS = ("PRODUCE", "DRUG GM", "MEAT", "DELI", "PASTRY")
RELIABLE = 0.2
TEST, VALID, TIMES = 40_000, 5, 200
POOLED = ("regression pooled", "network pooled")
SEPARATE = ("regression alone", "network alone", "trees alone")


@cache
def log() -> tuple[Prepared, np.ndarray, dict[str, np.ndarray]]:
    """Return the log as Part 5 reads it, its columns, and both kinds of scenario."""
    data = load("complete-journey")
    done = prepare(data, **complete_journey.READING)
    branch = ProductBranch(done.encoder.spec)
    columns = np.concatenate([*branch.tables(done.x, np.arange(len(done.y)))])
    department = data.items.set_index("item")["department"]
    kinds = {
        "place": done.rows["scenario"].to_numpy(str),
        "department": department.loc[done.rows["item"]].to_numpy(str),
    }
    return done, columns, kinds


class Case:
    """A scenario with few rows, and the others; as a point of the map in one world."""

    def __init__(self, by: str, target: str, rows: int, draw: int) -> None:
        done, columns, kinds = log()
        rng = np.random.default_rng([draw, rows])
        own = kinds[by] == target
        # what is not the small scenario: its largest, and the rest
        names, sizes = np.unique(kinds[by][~own], return_counts=True)
        largest = kinds[by] == names[sizes.argmax()]
        self.scenario = np.where(own, SEARCH, np.where(largest, 0, 1)).astype("int32")
        self.y = done.y[:, 0].astype("float32")
        parts = {}
        for part, few, many in (
            ("train", rows, OTHERS),
            ("valid", max(rows // VALID, 50), OTHERS // VALID),
        ):
            at = rng.permutation(done.parts[part])
            small, others = at[own[at]], at[~own[at]]
            if len(small) < few and part == "train":
                raise ValueError(f"{target} has {len(small)} rows, {few} are needed")
            parts[part] = np.sort(small[:few]), np.sort(others[:many])
        test = done.parts["test"]
        test = np.sort(rng.permutation(test[own[test]])[:TEST])
        self.train, self.valid = (
            self._arrays(np.concatenate(parts[part])) for part in ("train", "valid")
        )
        self.own_train, self.own_valid = (
            self._arrays(parts[part][0]) for part in ("train", "valid")
        )
        self.test = self._arrays(test)
        self.users = done.rows["user"].to_numpy()[test]
        # a network gathers its rows from here
        every = [self.train, self.valid, self.own_train, self.own_valid, self.test]
        used = np.unique(np.concatenate([rows["user"] for rows in every]))
        for rows_of in every:
            rows_of["user"] = np.searchsorted(used, rows_of["user"]).astype("int32")
            rows_of["item"] = np.zeros_like(rows_of["user"])
        self.world = {"users": columns[used], "items": np.zeros((1, 0), "f4")}

    def _arrays(self, at: np.ndarray) -> Arrays:
        """Return the numbers of some rows; a row stands in for its user."""
        return {"user": at, "scenario": self.scenario[at], "y": self.y[at]}

    def products(self, rows: Arrays) -> np.ndarray:
        """Return the columns of rows."""
        return self.world["users"][rows["user"]]

    def auc(self, score: Any) -> float:
        """Return the AUC of a score of the small scenario's test rows."""
        return auc(self.test["y"], np.asarray(score))

    def frame(self, score: Any) -> pd.DataFrame:
        """Return a score of the test rows as :func:`compare` wants it."""
        frame = pd.DataFrame({"user": self.users, "scenario": "small"})
        return frame.assign(y_buy=self.test["y"], p_buy=np.asarray(score))


def cases(sizes: Iterable[int] = ROWS) -> Iterator[tuple[str, str, int, int]]:
    """Yield what is asked: by, target, rows and draw."""
    done, _, kinds = log()
    targets = [("place", name) for name in complete_journey.SCENARIOS]
    targets += [("department", name) for name in DEPARTMENTS]
    for draw, rows, (by, target) in product(DRAWS, sizes, targets):
        if (kinds[by][done.parts["train"]] == target).sum() >= rows:
            yield by, target, rows, draw


def read(rows: int, agreement: float, reliability: float) -> float:
    """Read from the map what one network gains over the best of the separate ones."""
    table = pd.read_csv(RESULTS / "map.csv").query("task == 'click' and rows == @rows")
    index = ["thresholds", "shift", "world"]
    value = table.pivot_table(index=index, columns="contender", values="auc")
    one, own = (value[[*names]].max(axis=1) for names in (POOLED, SEPARATE))
    gain = (one - own).groupby("shift").mean()
    at = table.groupby("shift")["agreement"].mean()
    if not reliability >= RELIABLE or np.isnan(agreement):
        return float(gain.mean())
    return float(np.interp(agreement, at[::-1], gain[::-1]))


def predict() -> None:
    """Write down what the map says of each case, from training rows alone."""
    result = Result("real-predictions.csv", PREDICTED, digits=4)
    done = {tuple(line[c] for c in KEY) for line in result.lines()}
    for case in cases():
        if tuple(map(str, case)) in done:
            continue
        made = Case(*case)
        x, rows = made.products(made.train), made.train
        small = rows["scenario"] == SEARCH
        asked = small | (np.cumsum(~small) % 2 == 0)  # half of the others is enough
        where = small.astype(int)[asked]
        found = taste_agreement(x[asked], rows["y"][asked], where, 1, 0)
        line = dict(zip(KEY, case, strict=True)) | found._asdict()
        line["agreement"] = line.pop("value")
        line["gain"] = read(case[2], *found)
        result.keep(line)
        print(*line.values(), flush=True)


def measure(sizes: Iterable[int]) -> None:
    """Fit what is missing, and ask the test weeks."""
    result = Result("real.csv", COLUMNS, digits=5)
    done = {tuple(line[c] for c in [*KEY, "contender"]) for line in result.lines()}
    todo, began, seen = list(cases(sizes)), time.perf_counter(), 0
    for number, case in enumerate(todo):
        if all((*map(str, case), c) in done for c in CONTENDERS):
            continue
        made = Case(*case)
        found = scores(CONTENDERS, [made], partial(choose, cases=[made]))
        said = {name: (made.frame(z[0]), rate) for name, rate, z in found}
        value = {name: made.auc(frame["p_buy"]) for name, (frame, _) in said.items()}
        over = max(SEPARATE, key=value.__getitem__)
        lines = []
        for name, (frame, rate) in said.items():
            line = dict(zip(KEY, case, strict=True)) | {"contender": name}
            line |= {"auc": value[name], "over": over, "step_size": rate}
            if name != over:
                found = compare(frame, said[over][0], ["buy"], resamples=TIMES)
                line |= dict(found[["difference", "low", "high"]].iloc[0])
            lines.append(line)
        result.keep(*lines)
        seen += 1
        left = (time.perf_counter() - began) / seen * (len(todo) - number - 1)
        print(*case, f"at most {left / 60:.0f} min left", flush=True)


def main() -> None:
    """Predict, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("predict", "measure"))
    parser.add_argument("--rows", nargs="+", type=int, choices=ROWS, default=ROWS)
    asked = parser.parse_args()
    if asked.what == "predict":
        predict()
    else:
        measure(asked.rows)


if __name__ == "__main__":
    main()
