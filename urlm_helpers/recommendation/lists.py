"""Prediction and recommendation (预测与推荐): score candidates, show the best k."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.preprocessing.lookback import LookBack

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
    time: str | pd.Timestamp,
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
    time : str or Timestamp
        The moment of the request: only what came before counts.
    items : iterable, optional
        Item ids; by default the whole catalog.
    **context
        A value for each context column of the schema.

    Returns
    -------
    DataFrame
        ``user``, ``item``, ``scenario``, ``time`` and the context columns.

    Raises
    ------
    ValueError
        If the scenario, a user, an item or a context column is unknown or missing.
    """
    dataset, schema = encoder.dataset, encoder.schema
    if scenario not in schema.scenarios:
        raise ValueError(
            f"scenario {scenario!r} is not one of {list(schema.scenarios)}"
        )
    wanted = sorted(schema.context_categorical + schema.context_numeric)
    if sorted(context) != wanted:
        raise ValueError(
            f"the context must give exactly {wanted}, got {sorted(context)}"
        )
    ids = {
        "user": pd.Index(users),
        "item": pd.Index(dataset.items["item"] if items is None else items),
    }
    for kind, asked in ids.items():
        unknown = asked[~asked.isin(getattr(dataset, f"{kind}s")[kind])]
        if len(unknown):
            raise ValueError(
                f"{len(unknown)} {kind}(s) are not in the {kind}s table, such as "
                f"{unknown[0]!r}"
            )
    pairs = pd.MultiIndex.from_product(list(ids.values()), names=list(ids))
    return pairs.to_frame(index=False).assign(
        scenario=scenario, time=pd.Timestamp(time), **context
    )


def recommend(
    model: Scores,
    encoder: Encoder,
    rows: pd.DataFrame,
    *,
    k: int = 10,
    task: str | None = None,
    keep_consumed: bool | None = None,
) -> pd.DataFrame:
    """Return the k most probable items of each user in each scenario.

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
    task : str, optional
        What to order by; by default the first task.
    keep_consumed : bool, optional
        Whether items that the user has consumed before may be shown; by default as
        the domain asks (``schema.consumed_again``): groceries are bought again, books
        are not.

    Returns
    -------
    DataFrame
        ``user``, ``scenario``, ``time``, ``rank`` (from 1), ``item``, ``name``, one
        ``p_<task>`` per task, ``consumed`` (how often before); by user, scenario and
        rank. Equal probabilities keep the order of ``rows``. A list is shorter than
        k where there are fewer candidates.

    Raises
    ------
    ValueError
        If there is no candidate, ``k`` is not positive or the task is unknown.
    """
    schema = encoder.schema
    task = schema.tasks[0] if task is None else task
    if task not in schema.tasks:
        raise ValueError(f"task {task!r} is not one of {list(schema.tasks)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(rows) == 0:
        raise ValueError("there is no candidate to rank")
    rows = rows.reset_index(drop=True)
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
    table = table.iloc[np.argsort(-p[:, schema.tasks.index(task)], kind="stable")]
    table.insert(3, "rank", table.groupby(request).cumcount() + 1)
    table = table[table["rank"] <= k].sort_values([*request, "rank"])
    if schema.item_name is not None:
        names = encoder.dataset.items.set_index("item")[schema.item_name]
        table.insert(5, "name", table["item"].map(names))
    return table.reset_index(drop=True)
