"""The book's plots: one look, and the three shapes that every chapter draws.

Colors are those of Okabe and Ito, told apart by readers with any form of color
blindness. The background stays white in the dark theme too.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, its darker colors first."""
STYLE: dict[str, Any] = {
    "figure.figsize": (7.0, 3.8),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=COLORS),
}


QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
"""What keeps TensorFlow silent, and its sums in one order on every machine."""


def set_up(digits: int | None = None) -> None:
    """Give the page that follows the book's look; call it before TensorFlow loads.

    Parameters
    ----------
    digits : int, optional
        Decimals of the numbers in tables; pandas' own choice without it.

    Examples
    --------
    >>> set_up(digits=2)
    >>> pd.options.display.float_format(0.1234)
    '0.12'
    >>> pd.options.display.float_format = None
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    plt.rcParams.update(cast("Any", STYLE))
    if digits is not None:
        pd.options.display.float_format = f"{{:.{digits}f}}".format


def label_lines(ax: Axes, labels: Sequence[str]) -> None:
    """Write each line's name at its last point, instead of a legend.

    Parameters
    ----------
    ax : Axes
        With one drawn line per label, in order.
    labels : sequence of str
        Names.

    Raises
    ------
    ValueError
        If there is not one line per label.
    """
    if len(ax.lines) != len(labels):
        raise ValueError(f"{len(ax.lines)} lines, {len(labels)} labels")
    for line, label in zip(ax.lines, labels, strict=True):
        at = (np.asarray(line.get_xdata())[-1], np.asarray(line.get_ydata())[-1])
        ax.annotate(
            label,
            at,
            xytext=(6, 0),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
        )


def differences(table: pd.DataFrame, title: str, unit: str) -> Axes:
    """Draw differences with their intervals, one line each, against zero.

    Parameters
    ----------
    table : DataFrame
        ``label``, ``difference``, ``low``, ``high``, and ``group``: neighbors with the
        same one share a color.
    title : str
        The finding.
    unit : str
        Name of the horizontal axis.

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(7.0, 0.9 + 0.3 * len(table)))
    groups = list(dict.fromkeys(table["group"]))
    at = np.arange(len(table))[::-1]
    ends = table[["low", "high"]].to_numpy(float)
    middle = table["difference"].to_numpy(float)
    for i, group in enumerate(table["group"]):
        color = COLORS[groups.index(group) % len(COLORS)]
        ax.plot(ends[i], [at[i], at[i]], color=color, linewidth=2)
        ax.plot(middle[i], at[i], "o", color=color)
    ax.axvline(0, color="#555555", linewidth=1)
    ax.set_yticks(at, list(table["label"]))
    ax.set(title=title, xlabel=unit)
    ax.grid(axis="y", visible=False)
    return ax


def calibration(tables: Mapping[str, pd.DataFrame], title: str) -> Axes:
    """Draw observed against predicted rates on logarithmic axes.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Name of a curve, and a table as of
        :func:`urlm_helpers.evaluation.calibration_table`.
    title : str
        The finding.

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(5.6, 4.6))
    for marker, (name, table) in zip("os^Dv", tables.items(), strict=False):
        seen = table[(table["predicted"] > 0) & (table["observed"] > 0)]
        ax.plot(seen["predicted"], seen["observed"], f"{marker}-", label=name)
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    ends = [max(low.min(), 1e-5), high.max()]
    ax.plot(ends, ends, "--", color="#555555", linewidth=1, label="perfect")
    ax.set(xscale="log", yscale="log", title=title)
    ax.set(xlabel="predicted rate (mean of a bin)", ylabel="observed rate")
    ax.legend(frameon=False)
    return ax
