"""Kinds of arrays, as signatures name them, and the check that shows a wrong value."""

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def refuse(values: Floats, wrong: Booleans, rule: str) -> None:
    """Raise a ValueError that shows the first wrong value and its row."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{rule}, got {values[row]} in row {row}")
