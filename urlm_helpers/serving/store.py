"""The events in a file: what was acknowledged is there after a crash.

SQLite with a write-ahead log: one process writes at a time, any number read, and a
commit returns when the disk has it. Every process that has the file open sees the same
events in the same order, so several can serve from one file.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import Schema
from urlm_helpers.preprocessing.lookback import seconds


class StoreError(RuntimeError):
    """The store can't take events now; none of those given was kept."""


class EventStore:
    """A log of events, in the order in which they came.

    Parameters
    ----------
    path : path
        Of the file; made if it is not there.
    schema : Schema
        Whose context columns and tasks a row has.

    Raises
    ------
    ValueError
        If the file is none of this store, or has other columns.
    """

    def __init__(self, path: str | Path, schema: Schema) -> None:
        self.columns = ("user", "item", "scenario", "time", *schema.features("context"))
        self.tasks = schema.tasks
        names = ("id", *self.columns, *self.tasks)
        made = [f"{_quoted(n)}{' UNIQUE' * (n == 'id')}" for n in names]
        table = ", ".join(["number INTEGER PRIMARY KEY", *made])
        self._db, self._write = (
            sqlite3.connect(
                path, timeout=5, isolation_level=None, check_same_thread=False
            )
            for _ in range(2)
        )
        try:
            self._write.execute("PRAGMA journal_mode=WAL")
            self._write.execute("PRAGMA synchronous=FULL")
            self._write.execute(f"CREATE TABLE IF NOT EXISTS events ({table})")
            found = [row[1] for row in self._write.execute("PRAGMA table_info(events)")]
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is no store of events: {error}") from None
        if found != ["number", *names]:
            raise ValueError(
                f"{path} has events with the columns {found[1:]}, the schema wants "
                f"{list(names)}: start with a new file"
            )
        marks = ", ".join("?" * len(names))
        self._insert = f"INSERT OR IGNORE INTO events VALUES (NULL, {marks})"
        wanted = ", ".join(map(_quoted, ("number", *self.columns, self.tasks[0])))
        self._select = f"SELECT {wanted} FROM events WHERE number > ? ORDER BY number"

    def append(self, rows: Iterable[Sequence[Any]]) -> int:
        """Write events, all or none, and return how many were new.

        Parameters
        ----------
        rows : iterable of sequence
            An id or None, the `columns`, the labels. One whose id is there is ignored.

        Raises
        ------
        StoreError
            If the disk is full, or another process writes for seconds.
        """
        before = self._write.total_changes
        try:
            self._write.execute("BEGIN IMMEDIATE")
            self._write.executemany(self._insert, rows)
            self._write.execute("COMMIT")
        except sqlite3.Error as error:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
            raise StoreError(f"no event was kept: {error}") from error
        return self._write.total_changes - before

    def since(self, number: int) -> list[tuple[Any, ...]]:
        """Return number, `columns` and first label of the events after a number."""
        return self._db.execute(self._select, (number,)).fetchall()

    def fill(self, events: pd.DataFrame) -> None:
        """Write the events of an encoder, if there is nothing yet.

        Their ids are their positions: two processes that start at once fill it once.
        """
        if self._db.execute("SELECT 1 FROM events LIMIT 1").fetchone():
            return
        columns = {
            name: events[name].astype(object).where(events[name].notna(), None).tolist()
            for name in self.columns
            if name in events and name != "time"
        }
        columns["time"] = seconds(events).tolist()
        nothing = [None] * len(events)
        given = [columns.get(name, nothing) for name in self.columns]
        labels = [[1] * len(events), *[nothing] * (len(self.tasks) - 1)]
        ids = map("start {}".format, range(len(events)))
        self.append(zip(ids, *given, *labels, strict=True))

    def log(self) -> pd.DataFrame:
        """Return all events as a log to train on: those whose labels are known."""
        wanted = ", ".join(map(_quoted, (*self.columns, *self.tasks)))
        rows = self._db.execute(f"SELECT {wanted} FROM events ORDER BY number")
        log = pd.DataFrame(rows.fetchall(), columns=[*self.columns, *self.tasks])
        log["time"] = log["time"].to_numpy("int64").astype("datetime64[s]")
        known = log[list(self.tasks)].notna().all(axis=1)
        return log[known].astype(dict.fromkeys(self.tasks, np.int8))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._write.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
