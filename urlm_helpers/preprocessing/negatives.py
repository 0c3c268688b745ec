"""A log that holds what happened alone: draw from what did not happen, and undo it."""

from dataclasses import replace

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import Dataset

MOST_ROWS = 100_000_000
"""Drawn rows above which a rate is refused."""


def draw_negatives(
    dataset: Dataset, rate: float, *, alpha: float = 0.0, seed: int = 0
) -> tuple[Dataset, np.ndarray]:
    """Add rows without any event to a log that has none.

    A *visit* is what one user did in one scenario at one moment. In each, every item
    that was there by then (the scenario's log has it at that moment or before) and did
    not get an event is drawn with the same probability ``rate``. So the drawn rows are
    a thinned log of everything that did not happen, the schema's ``negative_rate`` is
    ``rate``, and losses and metrics undo it as they do for any thinned log: a trained
    model gives the probability that an item of the scenario gets an event in a visit
    of the log. Visits in which nothing happened are not in such a log.

    With ``alpha`` > 0 an item is drawn with a probability proportional to the number
    of its events in the scenario to the power of ``alpha`` [1]_, on average ``rate``;
    the weights that come back undo the difference.

    Parameters
    ----------
    dataset : Dataset
        Each of its rows has an event.
    rate : float
        Share, in (0, 1], of the pairs of visit and item without an event that is
        drawn. Of a catalog of 1,000 items a rate of .005 draws about 5 a visit.
    alpha : float
        Power of the popularity, 0 or more.
    seed : int
        Of the draw.

    Returns
    -------
    Dataset, ndarray
        With the drawn rows, in order of time, and ``negative_rate``; events and ids
        are as before. Context columns of a drawn row are those of the first row of
        its visit. And what each row counts beside that, ``(n,)``, for the
        ``sample_weight`` of :func:`urlm_helpers.training.fit`: 1 unless ``alpha`` > 0.

    Raises
    ------
    ValueError
        If the log has rows without any event or is thinned already, has more or less
        than one root task, ``rate`` or ``alpha`` is out of range, or the rate would
        draw more than ``MOST_ROWS`` rows.

    Notes
    -----
    An item is there from its first event on. For one with k events that counts about
    one event too many: its probability comes out as that of k + 1.

    References
    ----------
    .. [1] T. Mikolov et al., "Distributed Representations of Words and Phrases and
       their Compositionality", NeurIPS 2013 (with 3/4). arXiv:1310.4546

    Examples
    --------
    >>> from urlm_helpers.data import Schema, from_frames
    >>> log = pd.DataFrame({"user": [1, 1, 2], "item": ["a", "b", "c"], "buy": 1,
    ...                     "scenario": "shop", "time": pd.to_datetime([0, 1, 1])})
    >>> data = from_frames(log, schema=Schema(("shop",), ("buy",)))
    >>> full, _ = draw_negatives(data, rate=1.0)
    >>> full.interactions[["user", "item", "buy"]].to_numpy().tolist()
    [[1, 'a', 1], [1, 'b', 1], [2, 'c', 1], [1, 'a', 0], [1, 'c', 0], [2, 'a', 0], \
[2, 'b', 0]]
    """
    schema, log = dataset.schema, dataset.interactions
    if not 0 < rate <= 1 or not 0 <= alpha < np.inf:
        raise ValueError(
            f"rate must lie in (0, 1] and alpha be 0 or more, got {rate!r}, {alpha!r}"
        )
    without = int((~log[list(schema.tasks)].any(axis=1)).sum())
    if without or schema.negative_rate < 1:
        raise ValueError(
            f"{dataset.name} has {without:,} rows without any event and negative_rate="
            f"{schema.negative_rate:g}: negatives are drawn for a log that has none; "
            "leave those rows out, or train on them as they are"
        )
    if len(roots := [t for t in schema.tasks if t not in schema.funnel]) != 1:
        raise ValueError(
            f"drawn negatives can be undone for one root task only, got {roots}: say "
            "in the schema's funnel which task each of the others needs"
        )
    rng = np.random.default_rng(seed)
    tables, weights = [log], [np.ones(len(log))]
    for scenario in schema.scenarios:
        rows = log[log["scenario"] == scenario]
        if len(rows):
            table, weight = _draw(rows, schema.timed, rate, alpha, rng)
            tables.append(table.assign(**dict.fromkeys(schema.tasks, 0)))
            weights.append(weight)
    full = pd.concat(tables, ignore_index=True).astype(log.dtypes)
    order = np.arange(len(full))
    if schema.timed:
        order = np.argsort(full["time"].to_numpy(), kind="stable")
    return (
        replace(
            dataset,
            interactions=full.iloc[order].reset_index(drop=True),
            schema=replace(schema, negative_rate=rate),
        ),
        np.concatenate(weights)[order],
    )


def _draw(
    rows: pd.DataFrame,
    timed: bool,
    rate: float,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw for one scenario; return the rows, and what each counts beside the rate."""
    keys = ["user", "time"] if timed else ["user"]
    of_row = rows.groupby(keys, sort=False, observed=True).ngroup().to_numpy()
    visits = rows.drop_duplicates(keys)  # numbered as ngroup does
    items, item_of_row = np.unique(rows["item"].to_numpy(), return_inverse=True)
    first = np.zeros(len(items), "int64")
    there = np.full(len(visits), len(items))  # items that were there, per visit
    if timed:
        time = rows["time"].to_numpy("int64")
        first[:] = time.max()
        np.minimum.at(first, item_of_row, time)
        when = visits["time"].to_numpy("int64")
        there = np.searchsorted(np.sort(first), when, side="right")
    by_age = np.argsort(first, kind="stable")
    popularity = np.bincount(item_of_row)[by_age] ** float(alpha)
    chance = np.minimum(rate * popularity / popularity.mean(), 1.0)
    most, ends = chance.max(), np.cumsum(there)
    if (expected := most * ends[-1]) > MOST_ROWS:
        raise ValueError(
            f"a rate of {rate:g} draws {expected:,.0f} of {ends[-1]:,} pairs of visit "
            f"and item, at most {MOST_ROWS:,} are allowed; "
            f"{5 * len(visits) / ends[-1]:.2g} would draw five a visit"
        )
    at = _successes(most, int(ends[-1]), rng)
    visit = np.searchsorted(ends, at, side="right")
    item = at - (ends - there)[visit]
    happened = of_row.astype("int64") * len(items) + np.argsort(by_age)[item_of_row]
    keep = ~np.isin(visit.astype("int64") * len(items) + item, happened)
    keep &= rng.random(len(at)) < chance[item] / most
    visit, item = visit[keep], item[keep]
    return visits.iloc[visit].assign(item=items[by_age[item]]), rate / chance[item]


def _successes(p: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return where ``n`` independent trials succeed, without drawing the others.

    Examples
    --------
    >>> _successes(1.0, 3, np.random.default_rng(0)).tolist()
    [0, 1, 2]
    """
    parts, last = [np.zeros(0, "int64")], -1
    while last < n:
        gaps = rng.geometric(p, int(1.1 * p * (n - last)) + 10)
        parts.append(last + np.cumsum(gaps))
        last = int(parts[-1][-1])
    at = np.concatenate(parts)
    return at[at < n]
