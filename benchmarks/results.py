"""The result of a study: a CSV file that grows as it runs, and outlives a cut."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "urlm_helpers" / "results"


class Result:
    """A result that is written line by line.

    Parameters
    ----------
    path : path
        The file, made where there is none; of a plain name in ``RESULTS``.
    columns : sequence of str
        Its columns.
    digits : int, optional
        Digits of a float that are kept; by default all.
    """

    def __init__(
        self, path: str | Path, columns: Sequence[str], digits: int | None = None
    ) -> None:
        self.path, self.columns, self.digits = RESULTS / path, columns, digits

    def lines(self) -> list[dict[str, str]]:
        """Return what has been written so far."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def keep(self, *lines: Mapping[str, Any]) -> None:
        """Add lines, all of them or none; a column that a line lacks stays empty."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(
                {name: self._shown(line[name]) for name in self.columns if name in line}
                for line in lines
            )

    def _shown(self, value: Any) -> Any:
        rounded = self.digits is not None and isinstance(value, float)
        return f"{value:.{self.digits}g}" if rounded else value
