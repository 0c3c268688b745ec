"""What a model needs to know of its inputs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class InputSpec:
    """What a model's inputs are: names, sizes and the funnel; no data.

    Parameters
    ----------
    fields : mapping of str to int
        Categorical fields in order, with their vocabulary sizes.
    numeric : tuple of str
        Numeric columns in order.
    history_fields : tuple of str
        Fields that describe an event of the history; they share the item's vectors.
    history_length : int
        Events in a history.
    scenarios, tasks, funnel, negative_rate
        As in :class:`~urlm_helpers.data.Schema`.
    user_side, item_side : tuple of str
        Fields and numeric columns that describe the user, and the item, alone.
    """

    fields: Mapping[str, int]
    numeric: tuple[str, ...]
    history_fields: tuple[str, ...]
    history_length: int
    scenarios: tuple[str, ...]
    tasks: tuple[str, ...]
    funnel: Mapping[str, str]
    negative_rate: float = 1.0
    user_side: tuple[str, ...] = ("user",)
    item_side: tuple[str, ...] = ("item",)

    @property
    def parents(self) -> list[int]:
        """Column of each task's parent in the funnel, -1 for none."""
        return [
            self.tasks.index(self.funnel[task]) if task in self.funnel else -1
            for task in self.tasks
        ]

    def example(self) -> dict[str, np.ndarray]:
        """Return one row of valid inputs, all unseen and empty."""
        return {
            "fields": np.zeros((1, len(self.fields)), "int32"),
            "numeric": np.zeros((1, len(self.numeric)), "float32"),
            "history": np.zeros(
                (1, self.history_length, len(self.history_fields)), "int32"
            ),
            "history_age": np.zeros((1, self.history_length), "float32"),
            "scenario": np.zeros(1, "int32"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain Python values."""
        return asdict(self)
