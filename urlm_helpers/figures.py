"""The book's plots: one look, the three shapes that chapters draw, and a check.

Colors are those of Okabe and Ito, told apart by readers with any form of color
blindness. The background stays white in the dark theme too.
"""

import functools
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, its darker colors first."""
BLUE, VERMILION, GREEN, PURPLE, _, ORANGE = COLORS  # sky blue is too pale for words
WINE, INDIGO = "#882255", "#332288"  # two of Tol's, apart from these by their darkness

_MARKERS = {
    BLUE: {"URLM": "o", "unified": "P"},  # the book's model, and with any way to share
    VERMILION: {"single": "D", "separate": "s", "AITM": "v", "ESMM": "^"}
    | {"ESCM2-IPS": "<", "ESCM2-DR": ">"},
    GREEN: {"STAR": "*", "boosted trees": "^", "iALS": "<"},
    PURPLE: {"PLE": "P", "HiNet": "D", "popularity": "s", "counts": "^"},
    INDIGO: {"fully shared": "o", "PEPNet": "P", "logistic regression": "v"},
    ORANGE: {"shared bottom": "s", "cross-stitch": "X", "EASE": ">"},
    WINE: {"MMoE": "o", "OMoE": "v", "HMoE": "^"},
    "black": {"truth": "*", "oracle": "D", "known": "|", "random": "x"},
}
METHODS = {name: (c, m) for c, marks in _MARKERS.items() for name, m in marks.items()}
"""Color and marker of each method, the same on every page; no pair stands twice."""
_THREE = (BLUE, "o"), (VERMILION, "s"), (GREEN, "^")
_NAMES = ("shop", "social", "search"), ("mailer", "display", "both")
SCENARIOS = {k: v for names in _NAMES for k, v in zip(names, _THREE, strict=True)}
"""Color and marker of each scenario, of the simulated app and of Complete Journey."""
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
CHECKED = "URLM_CHECK_FIGURES"
"""Name of the environment variable that has every figure of a page checked."""


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
    if os.environ.get(CHECKED) and not hasattr(plt.show, "__wrapped__"):
        plt.show = _checking(plt.show)


def method(name: str) -> dict[str, str]:
    """Return how plots draw a method, on this page as on all others.

    Parameters
    ----------
    name : str
        One of :data:`METHODS`.

    Returns
    -------
    dict
        ``color`` and ``marker``, for ``plot``, ``scatter`` and ``errorbar``.

    Raises
    ------
    ValueError
        If the name is not one of them.

    Examples
    --------
    >>> method("MMoE")
    {'color': '#882255', 'marker': 'o'}
    """
    return _look(METHODS, "method", name)


def scenario(name: str) -> dict[str, str]:
    """Return how plots draw one of :data:`SCENARIOS`, as :func:`method` does."""
    return _look(SCENARIOS, "scenario", name)


def _look(known: Mapping[str, tuple[str, str]], kind: str, name: str) -> dict[str, str]:
    if name not in known:
        raise ValueError(f"no {kind} is called {name!r}: one of {', '.join(known)}")
    color, marker = known[name]
    return {"color": color, "marker": marker}


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
        place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points"}
        place |= {"va": "center", "annotation_clip": False}
        ax.annotate(label, at, color=line.get_color(), **place)


def differences(table: pd.DataFrame, title: str, unit: str) -> Axes:
    """Draw differences with their intervals, one line each, against zero.

    Parameters
    ----------
    table : DataFrame
        ``label``, ``difference``, ``low``, ``high``, and ``group``: neighbors with the
        same one share a color, a method's own if it is one of :data:`METHODS`.
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
        look = METHODS.get(group, (COLORS[groups.index(group) % len(COLORS)], "o"))
        ax.plot(ends[i], [at[i], at[i]], color=look[0], linewidth=2)
        ax.plot(middle[i], at[i], look[1], color=look[0])
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
    for i, (name, table) in enumerate(tables.items()):
        seen = table[(table["predicted"] > 0) & (table["observed"] > 0)]
        ax.plot(seen["predicted"], seen["observed"], f"{'os^Dv'[i % 5]}-", label=name)
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    ends = [max(low.min(), 1e-5), high.max()]
    ax.plot(ends, ends, "--", color="#555555", linewidth=1, label="perfect")
    ax.set(xscale="log", yscale="log", title=title)
    ax.set(xlabel="predicted rate (mean of a bin)", ylabel="observed rate")
    ax.legend(frameon=False)
    return ax


def check(fig: Figure) -> list[str]:
    """List what keeps a reader from reading a figure.

    Parameters
    ----------
    fig : Figure
        A finished figure.

    Returns
    -------
    list of str
        One line per pair of texts that overlap, per text that leaves the canvas, and
        per axis with numbers and no label. An axis whose ticks are names needs none,
        nor does one that shares its scale with one that has it.

    Examples
    --------
    >>> fig, ax = plt.subplots()
    >>> _ = ax.set(xlabel="passes")
    >>> _ = ax.plot([1, 2], [0.5, 0.4])
    >>> check(fig)
    ["no label: the y axis that shows '0.40'"]
    >>> plt.close(fig)
    """
    fig.draw_without_rendering()  # lays out, and puts the ticks where they will stand
    renderer = cast("Any", fig.canvas).get_renderer()
    boxes = [(text, _box(text, renderer)) for text in _texts(fig)]
    shown = [(text.get_text(), box) for text, box in boxes if box.width > 0]
    found = [
        f"overlap: {a!r} and {b!r}"
        for (a, one), (b, other) in itertools.combinations(shown, 2)
        if _overlap(one, other)
    ]
    canvas = fig.bbox.padded(1)
    found += [
        f"leaves the canvas: {text!r}"
        for text, box in shown
        if not (canvas.contains(*box.min) and canvas.contains(*box.max))
    ]
    return found + [
        f"no label: the {axis.axis_name} axis that shows {numbers[0]!r}"
        for ax in fig.axes
        for axis in _axes_of(ax)
        if (numbers := _numbers(axis)) and not _is_labelled(ax, axis)
    ]


def _checking(show: Any) -> Any:
    @functools.wraps(show)
    def checked(*args: Any, **kwargs: Any) -> Any:
        found = [fault for n in plt.get_fignums() for fault in check(plt.figure(n))]
        if found:
            raise ValueError("\n".join(["a figure that can't be read:", *found]))
        return show(*args, **kwargs)

    return checked


def _axes_of(ax: Axes) -> list[XAxis | YAxis]:
    drawn = ax.get_visible() and ax.axison
    return [a for a in (ax.xaxis, ax.yaxis) if drawn and a.get_visible()]


def _ticks(axis: XAxis | YAxis) -> list[Text]:
    """Return the tick labels in sight: Matplotlib keeps some beyond the ends."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    return [
        label
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if low - slack <= tick.get_loc() <= high + slack and label.get_visible()
    ]


def _texts(fig: Figure) -> Iterator[Text]:
    parents = fig, *(ax for ax in fig.axes if ax.get_visible())
    for child in (child for parent in parents for child in parent.get_children()):
        if isinstance(child, Text):
            yield child
        elif isinstance(child, Legend):
            yield from (child.get_title(), *child.get_texts())
    for axis in (axis for ax in fig.axes for axis in _axes_of(ax)):
        yield from (axis.label, axis.get_offset_text(), *_ticks(axis))


def _box(text: Text, renderer: RendererBase) -> Bbox:
    """Return where a text stands, in pixels: an empty box if it is not drawn."""
    seen = text.get_visible() and bool(text.get_text().strip())
    if isinstance(text, Annotation) and seen:
        # The annotation's own box holds its arrow; it is null beyond the axes' ends.
        own = text.get_tightbbox(renderer)
        seen = own is not None and own.width > 0
    return Text.get_window_extent(text, renderer) if seen else Bbox.null()


def _overlap(one: Bbox, other: Bbox) -> bool:
    """Tell whether ink meets: a box is as high as the highest and lowest letters."""
    both, low = Bbox.intersection(one, other), min(one.height, other.height)
    return both is not None and bool(both.width > 1 and both.height > 0.2 * low)


def _numbers(axis: XAxis | YAxis) -> list[str]:
    """Return the tick labels that are numbers: a name says by itself what it is."""
    labels = (label.get_text() for label in _ticks(axis))
    power = r"\\[a-z]+|(?<=\d)e(?=[+-]?\d)"  # as TeX, or as 1e-5
    return [x for x in labels if re.fullmatch(r"[\W\d_]+", re.sub(power, "", x))]


def _is_labelled(ax: Axes, axis: XAxis | YAxis) -> bool:
    """Tell whether an axis, or one that shares its scale, says what it shows."""
    shared = getattr(ax, f"get_shared_{axis.axis_name}_axes")().get_siblings(ax)
    labels = [getattr(other, f"get_{axis.axis_name}label")() for other in shared]
    if ax.get_label() == "<colorbar>":
        labels += [ax.get_title(loc=loc) for loc in ("left", "center", "right")]
    return any(label.strip() for label in labels)
