"""Prediction and recommendation (预测与推荐): score candidates, show the best k."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from urlm_helpers.data.checks import check_known, show
from urlm_helpers.data.checks import rows as describe
from urlm_helpers.data.times import moment
from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.preprocessing.lookback import LookBack
from urlm_helpers.recommendation.fusion import Mix, fuse, mix_weights

CHUNK = 200_000
"""Candidates that are encoded at a time, which bounds the memory."""


class Scores(Protocol):
    """Anything that gives one probability per row and task."""

    def probabilities(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return probabilities, ``(rows, tasks)``."""


def candidates(
    encoder: Encoder,
    users: Iterable[Any],
    scenario: str,
    time: str | pd.Timestamp | int,
    items: Iterable[Any] | None = None,
    **context: Any,
) -> pd.DataFrame:
    """Pair each user with each item in one scenario at one moment.

    Parameters
    ----------
    encoder : Encoder
        Of the dataset that knows the users and items.
    users : iterable
        User ids.
    scenario : str
        One of the schema's scenarios.
    time : str, Timestamp or int
        The moment of the request: only what came before counts.
    items : iterable, optional
        Item ids; by default all that the scenario can show, see ``Schema.catalog``.
    **context
        A value for each context column of the schema; or a Series with one for each
        item, by id, where the context differs between them.

    Returns
    -------
    DataFrame
        ``user``, ``item``, ``scenario``, ``time`` and the context columns.

    Raises
    ------
    ValueError
        If the scenario, a user, an item or a context column is unknown or missing, an
        id is given twice, or as of :meth:`~urlm_helpers.preprocessing.Encoder.accept`.
    """
    dataset, schema = encoder.dataset, encoder.schema
    wanted = sorted(schema.context_categorical + schema.context_numeric)
    if sorted(context) != wanted:
        raise ValueError(
            f"the context must give exactly {wanted}, got {sorted(context)}"
        )
    own = {c: context.pop(c) for c, v in [*context.items()] if isinstance(v, pd.Series)}
    for name, value in {"scenario": scenario, **context}.items():
        if pd.api.types.is_list_like(value):
            raise ValueError(f"{name!r} must be one value, got {value!r}")
    ids = {
        "user": pd.Index(users),
        "item": pd.Index(dataset.shown_in(scenario) if items is None else items),
    }
    for kind, asked in ids.items():
        if asked.has_duplicates:
            twice = asked[asked.duplicated()][0]
            raise ValueError(
                f"{kind} {show(twice)} is given twice: it would be listed so"
            )
    pairs = pd.MultiIndex.from_product(list(ids.values()), names=list(ids))
    rows = pairs.to_frame(index=False).assign(
        scenario=scenario, time=moment("time", time, schema.time_unit), **context
    )
    for column, values in own.items():
        values = values[~values.index.duplicated(keep=False)]
        if (bad := ~rows["item"].isin(values.index)).any():
            raise ValueError(
                f"candidates: {column!r} has no value, or several, for "
                f"{describe(rows, bad)}: give a Series with one for each item"
            )
        rows[column] = rows["item"].map(values)
    rows = encoder.accept(rows, "candidates")
    for kind, table in (("user", dataset.users), ("item", dataset.items)):
        check_known("candidates", rows, table, kind)
    if (hidden := ~rows["item"].isin(dataset.shown_in(scenario))).any():
        raise ValueError(
            f"candidates: {describe(rows, hidden)} can't be shown in {scenario!r}: "
            f"{schema.catalog[scenario]!r} is 0 in the table of items"
        )
    return rows


def recommend(
    model: Scores,
    encoder: Encoder,
    rows: pd.DataFrame,
    *,
    k: int = 10,
    task: Mix | None = None,
    keep_consumed: bool | None = None,
) -> pd.DataFrame:
    """Return the k best items of each user in each scenario.

    Parameters
    ----------
    model : object with ``probabilities(x)``
        Such as a :class:`~urlm_helpers.model.UnifiedRecommender`.
    encoder : Encoder
        The one that encoded the model's training rows.
    rows : DataFrame
        Candidates, as of :func:`candidates`, or the log's own impressions.
    k : int
        Items per list.
    task : str or mapping, optional
        What to order by; by default the first task. A mix of tasks is the weights of
        their powers in a product, ``{"click": 1, "buy": 0.5}``, or such weights for
        each scenario, see :func:`~urlm_helpers.recommendation.mix_weights`.
    keep_consumed : bool, optional
        Whether items that the user has consumed before may be shown; by default as
        the domain asks (``schema.consumed_again``): groceries are bought again, books
        are not.

    Returns
    -------
    DataFrame
        ``user``, ``scenario``, ``time``, ``rank`` (from 1), ``item``, ``name``, one
        ``p_<task>`` per task, ``consumed`` (how often before); by user, scenario and
        rank. Equal scores keep the order of ``rows``. A list is shorter than
        k where there are fewer candidates.

    Raises
    ------
    ValueError
        If ``k`` is not positive, a candidate is there twice, or as of
        :func:`~urlm_helpers.recommendation.mix_weights` and
        :meth:`~urlm_helpers.preprocessing.Encoder.accept`.
    """
    schema = encoder.schema
    mix = schema.tasks[0] if task is None else task
    weights = mix_weights(mix, schema.tasks, schema.scenarios)
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number and at least 1, got {k!r}")
    rows = encoder.accept(rows, "candidates").reset_index(drop=True)
    if (twice := rows.duplicated(["user", "scenario", "time", "item"])).any():
        raise ValueError(
            f"candidates: listed twice are {describe(rows, twice)}: keep one of them"
        )
    consumed = LookBack(encoder.events, rows, ["user", "item"]).count()
    if not (schema.consumed_again if keep_consumed is None else keep_consumed):
        rows = rows[consumed == 0].reset_index(drop=True)
        consumed = consumed[consumed == 0]
    parts = [
        model.probabilities(encoder.transform(rows.iloc[at : at + CHUNK]))
        for at in range(0, len(rows), CHUNK)
    ]
    p = np.concatenate(parts) if parts else np.zeros((0, len(schema.tasks)))
    request = ["user", "scenario", "time"]
    table = rows[[*request, "item"]].copy()
    table[[f"p_{name}" for name in schema.tasks]] = p
    table["consumed"] = consumed
    scenario = pd.Index(schema.scenarios).get_indexer(pd.Index(rows["scenario"]))
    table = table.iloc[np.argsort(-fuse(p, weights[scenario]), kind="stable")]
    table.insert(3, "rank", table.groupby(request).cumcount() + 1)
    table = table[table["rank"] <= k].sort_values([*request, "rank"])
    if schema.item_name is not None:
        names = encoder.dataset.items.set_index("item", drop=False)[schema.item_name]
        table.insert(5, "name", table["item"].map(names))
    return table.reset_index(drop=True)
