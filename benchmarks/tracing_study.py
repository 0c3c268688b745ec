"""Deep knowledge tracing on ASSISTments 2009, the long run of page 7.3.

    python benchmarks/tracing_study.py

The students of the training file are split: a tenth of them says when to stop, and
which step size and width. Then the network is trained with three seeds and asked about
the students of the test file, once; so is the logistic regression on counts of the
page. A network's line also says by how much its AUC is ahead of the regression's, with
a 95 % interval over students (500 resamples). Lines are skipped that are there already.
"""

from __future__ import annotations

import time
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from results import Result
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from urlm_helpers.data.download import cache_folder

if TYPE_CHECKING:  # its import takes longer than the tests of the rest
    import keras

COLUMNS = ["model", "seed", "step_size", "units", "passes", "valid_auc", "auc"]
COLUMNS += ["log_loss", "ahead", "low", "high", "seconds"]
LENGTH, DIM, BATCH, MOST, PATIENCE = 200, 64, 64, 12, 2
STEP_SIZES, UNITS, SEEDS = (1e-3, 2e-3, 4e-3), (64, 128), (1, 2, 3)
FOLDER = cache_folder("assistments09") / "assistments09"  # where page 7.3 puts it


def before(log: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """Return log(1 + answers) and log(1 + right answers) so far, (rows, 2)."""
    group = log.groupby(keys)["correct"]
    right = group.cumsum() - log["correct"]
    return np.log1p(np.stack([group.cumcount(), right], 1).astype(float))


def table(log: pd.DataFrame, skills_of: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return item, skills, and counts per skill, item and in all: one row an answer."""
    n = len(log)
    own = skills_of[log["item_id"].to_numpy()].tocoo()
    long = pd.DataFrame({"row": own.row, "skill": own.col}).sort_values(["row"])
    long["user_id"] = log["user_id"].to_numpy()[long["row"]]
    long["correct"] = log["correct"].to_numpy()[long["row"]]
    counts = before(long, ["user_id", "skill"])
    place, shape = (long["row"], long["skill"]), (n, skills_of.shape[1])
    item: Any = (np.ones(n), (np.arange(n), log["item_id"]))
    parts: list[Any] = [sparse.csr_matrix(item, shape=(n, skills_of.shape[0])), own]
    parts += [sparse.csr_matrix((c, place), shape=shape) for c in counts.T]
    parts += [before(log, keys) for keys in (["user_id"], ["user_id", "item_id"])]
    return sparse.hstack(parts).tocsr()


def sequences(log: pd.DataFrame) -> tuple[list[np.ndarray], np.ndarray]:
    """Return answers before, item and skill asked, whether right; and the row's place.

    A student's answers are cut into pieces of ``LENGTH``. Ids count from 1; 0 is
    padding, or no answer before.
    """
    pieces: list[Any] = []
    for rows in log.groupby("user_id", sort=False).indices.values():
        pieces += [rows[a : a + LENGTH] for a in range(0, len(rows), LENGTH)]
    row = np.full((len(pieces), LENGTH), -1)
    for piece, line in zip(pieces, row, strict=True):
        line[: len(piece)] = piece
    seen = row >= 0

    def of(column: str, plus: int) -> np.ndarray:
        return np.where(seen, log[column].to_numpy()[row] + plus, 0).astype("int32")

    asked = [of("item_id", 1), of("skill_id", 1)]
    answer = of("correct", 1)
    past = [np.pad(a, ((0, 0), (1, 0)))[:, :-1] for a in (*asked, answer)]
    return [*past, *asked], row


def network(items: int, skills: int, units: int) -> keras.Model:
    """Return a GRU over past answers that is asked about the next exercise."""
    import keras

    layers = keras.layers
    inputs = [keras.Input((LENGTH,), dtype="int32") for _ in range(5)]
    item, skill = layers.Embedding(items, DIM), layers.Embedding(skills, DIM)
    both = [
        layers.Concatenate()([item(i), skill(s)]) for i, s in (inputs[:2], inputs[3:])
    ]
    answer = layers.Embedding(3, 2 * DIM)(inputs[2])
    past = layers.Concatenate()([layers.Multiply()([both[0], answer]), answer])
    state = layers.Dropout(0.5)(layers.GRU(units, return_sequences=True)(past))
    joint = layers.Dense(units, "relu")(layers.Concatenate()([state, both[1]]))
    logit = layers.Dense(1)(layers.Dropout(0.5)(joint))
    return keras.Model(inputs, layers.Reshape((LENGTH,))(logit))


def train(
    log: pd.DataFrame, valid: np.ndarray, seed: int, step_size: float, units: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Train until the validation students gain no more; return p of the test rows."""
    import keras

    keras.utils.set_random_seed(seed)
    began = time.perf_counter()
    right, test = log["correct"].to_numpy(), log["test"].to_numpy()
    parts = {}
    for name, rows in {
        "train": ~valid & ~test,
        "valid": valid & ~test,
        "test": test,
    }.items():
        own = log[rows].reset_index()
        x, row = sequences(own)
        parts[name] = x, np.where(row >= 0, own["index"].to_numpy()[row], -1)
    items, skills = (int(log[name].max()) + 2 for name in ("item_id", "skill_id"))
    model = network(items, skills, units)

    def loss(y: Any, z: Any) -> Any:  # the answers of 50 rows weigh as one
        seen = keras.ops.cast(y >= 0, "float32")
        each = keras.ops.relu(z) - z * y + keras.ops.log1p(keras.ops.exp(-abs(z)))
        return keras.ops.sum(each * seen, axis=-1) / 50

    def said(part: str) -> tuple[np.ndarray, np.ndarray]:
        x, row = parts[part]
        z = model.predict(x, verbose=0, batch_size=256)[row >= 0]
        return row[row >= 0], 1 / (1 + np.exp(-z.astype(float)))

    model.compile(keras.optimizers.Adam(step_size), loss=loss)
    x, row = parts["train"]
    y = np.where(row >= 0, right[row], -1).astype("float32")
    best, p, passes = 0.0, np.zeros(0), 0
    for epoch in range(1, MOST + 1):
        model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
        rows, now = said("valid")
        auc = float(roc_auc_score(right[rows], now))
        print(
            f"   seed {seed}, {step_size:g}, {units}: pass {epoch}, {auc:.4f}",
            flush=True,
        )
        if auc > best:
            at, now = said("test")
            best, passes, p = auc, epoch, now[np.argsort(at)]
        elif epoch >= passes + PATIENCE:
            break
    line = {"model": "DKT", "seed": seed, "step_size": step_size, "units": units}
    seconds = round(time.perf_counter() - began, 1)
    return {**line, "passes": passes, "valid_auc": best, "seconds": seconds}, p


def ahead(
    y: np.ndarray, p: np.ndarray, rival: np.ndarray, student: np.ndarray
) -> dict[str, float]:
    """Return by how much an AUC is ahead, with an interval over students."""
    person = np.unique(student, return_inverse=True)[1]
    rng, found = np.random.default_rng(0), []
    for _ in range(500):
        drawn = rng.integers(0, person.max() + 1, person.max() + 1)
        w = np.bincount(drawn, minlength=person.max() + 1)[person]
        found.append(
            roc_auc_score(y, p, sample_weight=w)
            - roc_auc_score(y, rival, sample_weight=w)
        )
    low, high = np.quantile(found, [0.025, 0.975])
    gain = roc_auc_score(y, p) - roc_auc_score(y, rival)
    return {"ahead": float(gain), "low": float(low), "high": float(high)}


def main() -> None:
    """Run what is missing of the study."""
    if not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is missing: page 7.3 fetches it, run that first.")
    files = {"train.csv": False, "test.csv": True}
    log = pd.concat(
        [
            pd.read_csv(FOLDER / file, sep="\t").assign(test=test)
            for file, test in files.items()
        ],
        ignore_index=True,
    )
    students = log.loc[~log["test"], "user_id"].unique()
    drawn = np.random.default_rng(0).permutation(students)[: len(students) // 10]
    valid = (log["user_id"].isin(drawn) & ~log["test"]).to_numpy()
    test = log["test"].to_numpy()
    result = Result("tracing.csv", COLUMNS, digits=6)

    def known(**asked: Any) -> list[dict[str, str]]:
        return [
            line
            for line in result.lines()
            if all(line[k] == str(v) for k, v in asked.items())
        ]

    for step_size, units in product(STEP_SIZES, UNITS):
        if not known(model="DKT", seed=0, step_size=step_size, units=units):
            result.keep(train(log, valid, 0, step_size, units)[0])
    tried = known(model="DKT", seed=0)
    best = max(tried, key=lambda line: float(line["valid_auc"]))
    if all(known(model="DKT", seed=seed) for seed in SEEDS):
        return
    x = table(log, sparse.load_npz(FOLDER / "q_mat.npz").tocsr())
    y = log["correct"].to_numpy()
    began = time.perf_counter()
    model = LogisticRegression(max_iter=1000).fit(x[~test], y[~test])
    rival, y = model.predict_proba(x[test])[:, 1], y[test]
    student = log.loc[test, "user_id"].to_numpy()
    if not known(model="counts"):
        line = {"model": "counts", "auc": roc_auc_score(y, rival)}
        line |= {"log_loss": log_loss(y, rival)}
        result.keep(line | {"seconds": round(time.perf_counter() - began, 1)})
    for seed in SEEDS:
        if not known(model="DKT", seed=seed):
            step_size, units = float(best["step_size"]), int(best["units"])
            line, p = train(log, valid, seed, step_size, units)
            line |= {"auc": roc_auc_score(y, p), "log_loss": log_loss(y, p)}
            result.keep(line | ahead(y, p, rival, student))


if __name__ == "__main__":
    main()
