"""The events on a disk: what was acknowledged is there after a crash.

By default a file of SQLite with a write-ahead log: one process writes at a time, any
number read, and a commit returns when the disk has it. Every process that has the file
open sees the same events in the same order, so several can serve from one file. With a
URL, a Redis that several machines reach.
"""

import json
import logging
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from urlm_helpers.data.schema import Schema
from urlm_helpers.preprocessing.lookback import seconds

log = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """The store can't take or give events now; none of those given was kept."""


class Store(ABC):
    """A log of events, in the order in which they came.

    Parameters
    ----------
    schema : Schema
        Whose context columns and tasks a row has.
    """

    def __init__(self, schema: Schema) -> None:
        self.columns = ("user", "item", "scenario", "time", *schema.features("context"))
        self.tasks = schema.tasks
        self.names = ("id", *self.columns, *self.tasks)

    @abstractmethod
    def append(self, rows: Iterable[Sequence[Any]]) -> int:
        """Write events, all or none, and return how many were new.

        Parameters
        ----------
        rows : iterable of sequence
            An id or None, the `columns`, the labels. One whose id is there is ignored.

        Raises
        ------
        StoreError
            If they can't be kept: a full disk, no connection, another process that
            writes for seconds.
        """

    @abstractmethod
    def since(self, number: int) -> list[tuple[Any, ...]]:
        """Return number, `columns` and first label of the events after a number."""

    @abstractmethod
    def rows(self) -> Iterable[Sequence[Any]]:
        """Return `columns` and labels of all events."""

    @abstractmethod
    def empty(self) -> bool:
        """Say whether there is no event."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file or the connection."""

    def fill(self, events: pd.DataFrame) -> None:
        """Write the events of an encoder, if there is nothing yet.

        Their ids are their positions: two processes that start at once fill it once.
        """
        if not self.empty():
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
        log = pd.DataFrame(self.rows(), columns=[*self.columns, *self.tasks])
        log["time"] = log["time"].to_numpy("int64").astype("datetime64[s]")
        known = log[list(self.tasks)].notna().all(axis=1)
        return log[known].astype(dict.fromkeys(self.tasks, np.int8))


class EventStore(Store):
    """A log of events in a file of SQLite.

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
        super().__init__(schema)
        names = self.names
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
        """Write events, all or none, and return how many were new."""
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

    def rows(self) -> Iterable[Sequence[Any]]:
        """Return `columns` and labels of all events."""
        wanted = ", ".join(map(_quoted, (*self.columns, *self.tasks)))
        found = self._db.execute(f"SELECT {wanted} FROM events ORDER BY number")
        return found.fetchall()

    def empty(self) -> bool:
        """Say whether there is no event."""
        return self._db.execute("SELECT 1 FROM events LIMIT 1").fetchone() is None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._write.close()


APPEND = """
local new = 0
for n = 1, #ARGV, 2 do
  if ARGV[n] == "" or redis.call("SADD", KEYS[2], ARGV[n]) == 1 then
    redis.call("RPUSH", KEYS[1], ARGV[n + 1])
    new = new + 1
  end
end
return new
"""
"""What Redis runs in one go: nobody sees, and no crash leaves, a part of it."""

SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
}
"""Settings without which an acknowledged event could be lost."""


class RedisStore(Store):
    """A log of events in a Redis, which many machines can have open.

    Parameters
    ----------
    url : str
        Such as ``redis://host:6379/0``; the database is this store's alone.
    schema : Schema
        Whose context columns and tasks a row has.

    Raises
    ------
    ValueError
        If it has other columns, or the server would forget what it has acknowledged.
    StoreError
        If there is no connection.
    """

    def __init__(self, url: str, schema: Schema) -> None:
        import redis  # an extra of the package

        super().__init__(schema)
        self._errors = redis.RedisError
        options = {"decode_responses": True, "socket_timeout": 5}
        self._db = cast(Any, redis.Redis.from_url(url, **options))
        self._append = self._db.register_script(APPEND)
        self._rows, self._ids = "urlm:events", "urlm:ids"
        wanted = json.dumps(self.names)
        try:
            settings = self._db.config_get(*SAFE)
        except redis.ResponseError:  # some hosts keep them to themselves
            log.warning("can't see whether this Redis has the settings %s", SAFE)
            settings = {}
        except self._errors as error:
            raise StoreError(f"no Redis answers: {error}") from error
        if wrong := {n: v for n, v in settings.items() if v != SAFE[n]}:
            raise ValueError(
                f"this Redis could lose events: it has {wrong}, not {SAFE}"
            )
        self._db.set("urlm:columns", wanted, nx=True)
        if (found := self._db.get("urlm:columns")) != wanted:
            raise ValueError(
                f"this Redis has events with the columns {found}, the schema wants "
                f"{wanted}: take another database"
            )

    def _asked(self, what: Any, *given: Any, **named: Any) -> Any:
        try:
            return what(*given, **named)
        except self._errors as error:
            raise StoreError(f"Redis: {error}") from error

    def append(self, rows: Iterable[Sequence[Any]]) -> int:
        """Write events, all or none, and return how many were new.

        Where the answer is lost on the way they may be there: give them ids.
        """
        given = [(key or "", json.dumps(row)) for key, *row in rows]
        flat = [text for pair in given for text in pair]
        keys = [self._rows, self._ids]
        return int(self._asked(self._append, keys=keys, args=flat)) if flat else 0

    def since(self, number: int) -> list[tuple[Any, ...]]:
        """Return number, `columns` and first label of the events after a number."""
        wanted = len(self.columns) + 1
        return [
            (n, *row[:wanted]) for n, row in enumerate(self._from(number), number + 1)
        ]

    def rows(self) -> Iterable[Sequence[Any]]:
        """Return `columns` and labels of all events."""
        return self._from(0)

    def _from(self, number: int) -> list[Any]:
        found = self._asked(self._db.lrange, self._rows, number, -1)
        return [json.loads(line) for line in found]

    def empty(self) -> bool:
        """Say whether there is no event."""
        return not self._asked(self._db.exists, self._rows)

    def close(self) -> None:
        """Close the connections."""
        self._db.close()


def open_store(where: str | Path, schema: Schema) -> Store:
    """Open the events at a path, or at a URL that begins with ``redis``."""
    if str(where).startswith(("redis://", "rediss://", "unix://")):
        return RedisStore(str(where), schema)
    return EventStore(where, schema)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
