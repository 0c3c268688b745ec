"""Rows as arrays, cut in time: the whole of section 3.2.1 in one call."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.checks import check_timed
from urlm_helpers.data.schema import Dataset
from urlm_helpers.data.times import moment
from urlm_helpers.preprocessing.encode import Encoder
from urlm_helpers.preprocessing.tables import split_by_time


@dataclass(frozen=True)
class Prepared:
    """Rows as arrays, cut in time, with the encoder that made them.

    Parameters
    ----------
    x : dict of str to ndarray
        As of :meth:`Encoder.transform`.
    y : ndarray, shape (n, tasks)
        Labels, int8.
    rows : DataFrame
        The interactions, row by row.
    parts : dict of str to ndarray
        As of :func:`split_by_time`.
    encoder : Encoder
        For new rows.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray
    rows: pd.DataFrame
    parts: dict[str, np.ndarray]
    encoder: Encoder

    @property
    def weight(self) -> np.ndarray:
        """How many impressions each row stands for, ``(n,)``.

        A row with an event stands for itself, one without for ``1 / negative_rate``.
        """
        happened = self.y.any(axis=1)
        return np.where(happened, 1.0, 1.0 / self.encoder.schema.negative_rate)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of some rows, as a model takes them."""
        return {name: array[rows] for name, array in self.x.items()}

    def predictions(self, rows: np.ndarray, p: np.ndarray) -> pd.DataFrame:
        """Put probabilities beside labels, as every evaluation takes them.

        Parameters
        ----------
        rows : ndarray of int
            Row numbers, such as ``parts["test"]``.
        p : ndarray, shape (rows, tasks) or (rows,)
            Probabilities, or scores, of the first tasks; of the first one alone.

        Returns
        -------
        DataFrame
            ``user``, ``scenario``, ``weight``, and ``y_<task>`` and ``p_<task>`` of
            each task.

        Raises
        ------
        ValueError
            If ``p`` has another number of rows, or more columns than there are tasks.
        """
        p = p.reshape(len(p), -1)
        tasks = self.encoder.schema.tasks
        if len(p) != len(rows) or p.shape[1] > len(tasks):
            raise ValueError(
                f"{len(rows)} rows and up to {len(tasks)} tasks need as many "
                f"predictions, got {p.shape}"
            )
        table = self.rows[["user", "scenario"]].iloc[rows].reset_index(drop=True)
        table["weight"] = self.weight[rows]
        for t in range(p.shape[1]):
            table[f"y_{tasks[t]}"] = self.y[rows, t]
            table[f"p_{tasks[t]}"] = p[:, t]
        return table

    @property
    def megabytes(self) -> float:
        """Memory of the arrays, in MB (10**6 bytes)."""
        return sum(a.nbytes for a in [*self.x.values(), self.y]) / 1e6


def prepare(
    dataset: Dataset,
    valid_from: str | pd.Timestamp | int,
    test_from: str | pd.Timestamp | int,
    **options: Any,
) -> Prepared:
    """Encode a dataset and cut it in time: the whole of section 3.2.1 in one call.

    Parameters
    ----------
    dataset : Dataset
        The three tables.
    valid_from, test_from : str, Timestamp or int
        First moments of the validation and the test period, written as in a log: ISO
        8601, UTC unless they say otherwise; a whole number counts what it counts in
        the log.
    **options
        Of :class:`Encoder`.

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError
        As of :class:`Encoder` and :func:`split_by_time`.

    Examples
    --------
    A log without times, but with an order:

    >>> from urlm_helpers.data import Schema, from_frames
    >>> log = pd.DataFrame({"user": [7, 7, 8], "item": [1, 2, 1], "scenario": "course",
    ...                     "time": [1, 2, 3], "good": [1, 0, 1]})
    >>> schema = Schema(("course",), ("good",), time_unit="D")
    >>> prepared = prepare(from_frames(log, schema=schema), 2, 3, min_count=1)
    >>> {part: rows.tolist() for part, rows in prepared.parts.items()}
    {'train': [0], 'valid': [1], 'test': [2]}
    """
    check_timed(dataset.name, dataset.schema)
    unit = dataset.schema.time_unit
    valid_from = moment("valid_from", valid_from, unit)
    test_from = moment("test_from", test_from, unit)
    encoder = Encoder(dataset, valid_from, **options)
    parts = split_by_time(dataset.interactions["time"], valid_from, test_from)
    labels = dataset.interactions[list(dataset.schema.tasks)].to_numpy("int8")
    return Prepared(encoder.encoded, labels, dataset.interactions, parts, encoder)
