"""The model beside the strongest simple rivals, in numbers and in words."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from urlm_helpers.data.arrays import Booleans
from urlm_helpers.evaluation import cold_start, compare, evaluate
from urlm_helpers.preprocessing import Prepared
from urlm_helpers.project.rivals import rival_probabilities
from urlm_helpers.recommendation.lists import Scores

METRICS = {"auc": "AUC", "log_loss": "log-loss", "gauc": "AUC within users", "pcoc": ""}
"""AUC, log-loss, AUC within users, and PCOC: the sum of p over the sum of y."""

ALL, EVERYWHERE = "all rows", "all scenarios"
MODEL = "model"
_KEY = ["slice", "scenario", "task", "metric"]


@dataclass(frozen=True)
class Judgement:
    """What `judge` found.

    Parameters
    ----------
    table : DataFrame
        One line per `slice`, `scenario`, `task`, `metric` and `method`: its `value`;
        `difference` of the model's value to it, `low` and `high` of that (in the lines
        of the model: of its own value); `rows`, `users`, `positives`; `note` says why
        a number is missing.
    verdict : list of str
        A sentence per cell, in AUC and log-loss, and one per rival that is ahead.
    lost : bool
        Whether a rival is ahead beyond the interval, over all scenarios, in AUC or
        log-loss of any task.
    predictions : mapping of str to DataFrame
        The test rows with the probabilities of ``"model"`` and of each rival.
    """

    table: pd.DataFrame
    verdict: list[str]
    lost: bool
    predictions: Mapping[str, pd.DataFrame]


def judge(
    model: Scores, prepared: Prepared, *, resamples: int = 300, seed: int = 0
) -> Judgement:
    """Hold a model against its simple rivals on the test rows.

    The rivals are those of :func:`~urlm_helpers.project.rival_probabilities`: they
    learn from training rows and are tuned on validation rows. Slices are users and
    items without a training row.

    Parameters
    ----------
    model : object with ``probabilities(x)``
    prepared : Prepared
        What the model was trained on.
    resamples : int
        Of the users, for the intervals.
    seed : int
        Of the resamples.

    Returns
    -------
    Judgement
    """
    rows, tasks = prepared.parts["test"], prepared.encoder.schema.tasks
    scores = {MODEL: model.probabilities(prepared.take(rows))}
    scores |= rival_probabilities(prepared, rows, seed=seed)
    predictions = {n: prepared.predictions(rows, p) for n, p in scores.items()}
    names, at, number = _cells(prepared, rows)
    # each cell is a scenario of one long table, so that all share their resamples
    frames = {
        name: frame.iloc[at].assign(scenario=number).reset_index(drop=True)
        for name, frame in predictions.items()
    }
    own = frames.pop(MODEL)
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few positives: the notes say it
        first = evaluate(own, tasks, metrics=list(METRICS), **how)
        lines = [first.assign(method=MODEL, difference=np.nan)]
        for name, frame in frames.items():
            for metric in METRICS:
                line = compare(own, frame, tasks, metric, **how)
                line = line.rename(columns={"b": "value"}).assign(method=name)
                lines.append(line)
    table = pd.concat(lines, ignore_index=True)
    counts = first[["rows", "users", "positives"]][:: len(METRICS)]
    counts.index = pd.MultiIndex.from_frame(
        first[["scenario", "task"]][:: len(METRICS)]
    )
    key = pd.MultiIndex.from_frame(table[["scenario", "task"]])
    table[counts.columns] = counts.loc[key].to_numpy()
    table[["slice", "scenario"]] = np.array(names, object)[table["scenario"]]
    table["note"] = _notes(table)
    table = table[
        [*_KEY, "method", "value", "difference", "low", "high", *counts, "note"]
    ]
    pooled = (table["slice"] == ALL) & (table["scenario"] == EVERYWHERE)
    lost = bool((pooled & _ahead(table, of_rivals=True)).any())
    return Judgement(table, list(_sentences(table)), lost, predictions)


def _cells(
    prepared: Prepared, rows: np.ndarray
) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Name slices and scenarios; return their rows one after the other, and whose."""
    log = prepared.rows
    tested = log.iloc[rows].reset_index(drop=True)
    where = tested["scenario"]
    masks = {(ALL, EVERYWHERE): np.ones(len(rows), bool)}
    if where.nunique() > 1:
        masks |= {(ALL, str(n)): (where == n).to_numpy() for n in where.unique()}
    cold = cold_start(tested, log.iloc[prepared.parts["train"]])
    masks |= {(str(n), EVERYWHERE): mask.to_numpy() for n, mask in cold.items()}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    number = np.repeat(np.arange(len(masks)), [mask.sum() for mask in masks.values()])
    at = np.concatenate([np.flatnonzero(mask) for mask in masks.values()])
    return list(masks), at, number


def _notes(table: pd.DataFrame) -> list[str]:
    """Say of each line why it lacks a number."""
    notes = []
    columns = (table[name].tolist() for name in ("value", "low", "rows", "positives"))
    for value, low, rows, positives in zip(*columns, strict=True):
        rarer = min(positives, rows - positives)
        kind = "positive" if rarer == positives else "negative"
        if np.isnan(value):
            only = f"no {kind} among {rows:,} rows"
            notes.append("no user with both labels" if rarer else only)
        else:
            few = f"no interval: too few users with one of {rarer} {kind}s"
            notes.append(few if np.isnan(low) else "")
    return notes


def _ahead(table: pd.DataFrame, *, of_rivals: bool) -> Booleans:
    """Mark the lines in which a rival is ahead of the model, or the model of it."""
    lower, higher = table["high"] < 0, table["low"] > 0
    better = higher if not of_rivals else lower
    worse = lower if not of_rivals else higher
    metric, rival = table["metric"], table["method"] != MODEL
    found = rival & np.where(metric == "log_loss", worse, better & (metric == "auc"))
    return found.to_numpy(bool)


def _sentences(table: pd.DataFrame) -> Iterator[str]:
    """Say of each cell who is ahead; of the slices only where a rival is."""
    rivals = table[table["method"] != MODEL]
    rivals = rivals[rivals["metric"].isin(["auc", "log_loss"])]
    for key, cell in rivals.groupby(_KEY, sort=False):
        which, scenario, task, metric = map(str, cast("tuple[Any, ...]", key))
        place = f"{METRICS[metric]} of {task}, {scenario}"
        place += "" if which == ALL else f", {which}"
        ahead = cell[_ahead(cell, of_rivals=True)]
        known = (cell if ahead.empty else ahead)["value"].dropna()
        if known.empty and which == ALL:
            yield f"no {place}: {cell['note'].iloc[0]}"
        if known.empty:
            continue
        ordered = cell.loc[known.index].sort_values("value")
        best = ordered.iloc[-1 if metric == "auc" else 0]
        if len(ahead):
            more = f" and {len(ahead) - 1} more" if len(ahead) > 1 else ""
            yield f"BEHIND {best['method']}{more} in {place}: {_numbers(best)}"
        elif which != ALL:
            continue
        elif best["note"]:
            yield f"nothing to say of {place}: {best['note']}"
        elif _ahead(cell, of_rivals=False).all():
            yield f"ahead of all rivals in {place}, {best['method']}: {_numbers(best)}"
        else:
            yield f"not better than {best['method']} in {place}: {_numbers(best)}"


def _numbers(line: Any) -> str:
    """Write the difference with its interval."""
    value, gap = line.value, line.difference
    return (
        f"{value + gap:.4g} against {value:.4g}, difference {gap:+.3g} "
        f"[{line.low:+.3g}, {line.high:+.3g}]"
    )
