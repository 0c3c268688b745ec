"""The book's plots: what is drawn is what the table says."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.text import Annotation  # noqa: E402

from urlm_helpers import figures  # noqa: E402


def test_differences_draws_each_row_once_from_the_top() -> None:
    table = pd.DataFrame(
        {
            "label": ["first", "second"],
            "group": ["a", "b"],
            "difference": [0.1, -0.2],
            "low": [0.0, -0.3],
            "high": [0.2, -0.1],
        }
    )
    ax = figures.differences(table, "title", "unit")
    names = [label.get_text() for label in ax.get_yticklabels()]
    heights = ax.get_yticks()
    assert names == ["first", "second"] and heights[0] > heights[1]
    interval, point = ax.lines[2], ax.lines[3]
    np.testing.assert_array_equal(interval.get_xdata(), [-0.3, -0.1])
    np.testing.assert_array_equal(point.get_xydata(), [[-0.2, heights[1]]])
    assert ax.lines[0].get_color() != interval.get_color()


def test_calibration_leaves_out_what_has_no_logarithm() -> None:
    table = pd.DataFrame({"predicted": [0.0, 0.1, 0.2], "observed": [0.1, 0.1, 0.3]})
    ax = figures.calibration({"shop": table}, "title")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0.1, 0.2])
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_lines_are_labelled_at_their_ends() -> None:
    _, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    figures.label_lines(ax, ["loss"])
    label = ax.texts[0]
    assert isinstance(label, Annotation)
    assert label.get_text() == "loss" and label.xy == (2, 4)
    with pytest.raises(ValueError, match="1 lines, 2 labels"):
        figures.label_lines(ax, ["a", "b"])
