"""Two steps on whole tables: join the features, cut in time."""

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import Dataset
from urlm_helpers.data.times import moment


def integrate(dataset: Dataset) -> pd.DataFrame:
    """Join each impression with the features of its user and of its item.

    Parameters
    ----------
    dataset : Dataset
        The three tables.

    Returns
    -------
    DataFrame
        One row per row of ``dataset.interactions``, in the same order, with the
        user's and the item's feature columns beside the impression's own.

    Examples
    --------
    >>> from urlm_helpers.data import Schema, from_frames
    >>> log = pd.DataFrame({"user": [7], "item": [1], "scenario": ["shop"],
    ...                     "time": ["2024-01-01"], "click": [1]})
    >>> users = pd.DataFrame({"user": [7], "age": ["18-24"]})
    >>> schema = Schema(scenarios=("shop",), tasks=("click",),
    ...                 user_categorical=("age",))
    >>> integrate(from_frames(log, users, schema=schema))["age"].tolist()
    ['18-24']
    """
    schema = dataset.schema
    joined = dataset.interactions
    for key, table in (("user", dataset.users), ("item", dataset.items)):
        if columns := schema.features(key):
            features = table[[key, *columns]]
            joined = joined.merge(features, on=key, how="left", validate="m:1")
    return joined


def split_by_time(
    time: pd.Series, valid_from: str | pd.Timestamp, test_from: str | pd.Timestamp
) -> dict[str, np.ndarray]:
    """Cut rows at two moments that are the same for every user.

    Parameters
    ----------
    time : Series of datetime
        When each row happened.
    valid_from, test_from : str or Timestamp
        First moment of the validation and of the test period.

    Returns
    -------
    dict of str to ndarray
        Row numbers of ``"train"``, ``"valid"`` and ``"test"``.

    Raises
    ------
    ValueError
        If a cut can't be read, the cuts are in the wrong order or a part is empty.

    Notes
    -----
    A random or leave-one-out split lets a model learn from the future [1]_.

    References
    ----------
    .. [1] Y. Ji, A. Sun, J. Zhang, C. Li, "A Critical Study on Data Leakage in
       Recommender System Offline Evaluation", 2020. arXiv:2010.11060.

    Examples
    --------
    >>> days = pd.Series(pd.date_range("2024-01-01", periods=5))
    >>> parts = split_by_time(days, "2024-01-03", "2024-01-05")
    >>> {name: rows.tolist() for name, rows in parts.items()}
    {'train': [0, 1], 'valid': [2, 3], 'test': [4]}
    """
    first, second = moment("valid_from", valid_from), moment("test_from", test_from)
    if not first < second:
        raise ValueError(f"valid_from ({first}) must lie before test_from ({second})")
    parts = {
        "train": np.flatnonzero(time < first),
        "valid": np.flatnonzero((time >= first) & (time < second)),
        "test": np.flatnonzero(time >= second),
    }
    if empty := [name for name, rows in parts.items() if len(rows) == 0]:
        raise ValueError(
            f"no row falls into {empty}: the rows run from {time.min()} to "
            f"{time.max()}, the cuts are {first} and {second}"
        )
    return parts
