"""The book's plots: what is drawn is what the table says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.markers import MarkerStyle  # noqa: E402
from matplotlib.text import Annotation  # noqa: E402

from urlm_helpers import figures  # noqa: E402


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with plt.rc_context(cast("Any", figures.STYLE)):
        yield
    plt.close("all")


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


def test_each_axis_says_what_is_drawn_along_it() -> None:
    row = {"label": "a", "group": "b", "difference": 0.1, "low": 0.0, "high": 0.2}
    ax = figures.differences(pd.DataFrame([row]), "A is better", "AUC")
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == (
        "A is better",
        "AUC",
        "",
    )
    upright = np.asarray(ax.lines[-1].get_xdata())
    assert upright.tolist() == [0, 0]  # no difference
    table = pd.DataFrame({"predicted": [0.1, 0.2], "observed": [0.4, 0.3]})
    ax = figures.calibration({"shop": table, "feed": table / 2}, "Too low")
    assert ax.get_title(loc="left") == "Too low"
    assert ax.get_xlabel().startswith("predicted")
    assert ax.get_ylabel().startswith("observed")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), table)
    legend = ax.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["shop", "feed", "perfect"]
    np.testing.assert_array_equal(*np.transpose(ax.lines[-1].get_xydata()))
    many = {name: table for name in "abcdefgh"}
    assert len(figures.calibration(many, "Eight and the ideal").lines) == 9


def test_lines_are_labelled_at_their_ends() -> None:
    _, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    figures.label_lines(ax, ["loss"])
    label = ax.texts[0]
    assert isinstance(label, Annotation)
    assert label.get_text() == "loss" and label.xy == (2, 4)
    with pytest.raises(ValueError, match="1 lines, 2 labels"):
        figures.label_lines(ax, ["a", "b"])


def test_no_two_methods_look_alike() -> None:
    looks = list(figures.METHODS.values())
    assert len(set(looks)) == len(looks)
    for color, marker in looks:
        to_rgb(color), MarkerStyle(marker)
    assert figures.method("URLM") == {"color": figures.COLORS[0], "marker": "o"}


@pytest.mark.parametrize("look", [figures.method, figures.scenario])
def test_an_unknown_name_is_refused_by_name(look: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="'MMOE': one of .*(MMoE|shop)"):
        look("MMOE")


def lightness(color: str, kind: str) -> np.ndarray[Any, Any]:
    """Return CIELAB as eyes without one kind of cone see a color (Viénot, 1999)."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in to_rgb(color)
    )
    mixed = {
        "protan": [
            [0.11238, 0.88762, 0],
            [0.11238, 0.88762, 0],
            [0.00401, -0.00401, 1],
        ],
        "deutan": [
            [0.29275, 0.70725, 0],
            [0.29275, 0.70725, 0],
            [-0.02234, 0.02234, 1],
        ],
        "usual": np.eye(3),
    }
    seen = np.clip(np.asarray(mixed[kind]) @ [red, green, blue], 0, 1)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in np.asarray(xyz) @ seen / [0.9505, 1, 1.089]
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", ["usual", "protan", "deutan"])
def test_every_reader_can_tell_the_colors_apart(kind: str) -> None:
    colors = {color for color, _ in figures.METHODS.values()}
    apart = {
        (a, b): float(np.linalg.norm(lightness(a, kind) - lightness(b, kind)))
        for a, b in itertools.combinations(sorted(colors), 2)
    }
    assert min(apart.values()) > 10, min(apart, key=apart.__getitem__)


def good() -> tuple[Figure, Axes]:
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3], [0.5, 0.4, 0.3], label="loss")
    ax.set(xlabel="passes", ylabel="loss, nats", title="It falls")
    return fig, ax


def test_a_good_figure_has_no_faults() -> None:
    fig, ax = good()
    ax.legend()
    ax.annotate("outside the axes, so not drawn", (2_000, 2_000))
    ax.text(2.5, 0.48, "")
    assert figures.check(fig) == []


@pytest.mark.parametrize("where", [{}, {"rotation": 90}])
def test_texts_that_overlap_are_found(where: dict[str, Any]) -> None:
    fig, ax = good()
    ax.text(2, 0.4, "first", **where)
    ax.annotate("second", (2, 0.4), **where)
    assert figures.check(fig) == ["overlap: 'first' and 'second'"]


def test_axis_labels_of_neighbors_that_overlap_are_found() -> None:
    fig, axes = plt.subplots(1, 2, sharey=True)
    for ax in axes:
        ax.set(xlabel="thousandths of AUC, this scheme's less that of URLM (95 %)")
    faults = [fault for fault in figures.check(fig) if fault.startswith("overlap")]
    assert len(faults) == 1 and faults[0].count("thousandths") == 2


def test_tick_labels_and_a_legend_take_part() -> None:
    fig, ax = good()
    ax.set_xticks([1, 1.01, 3])
    legend = ax.legend(loc="center")
    fig.draw_without_rendering()
    at = legend.get_texts()[0].get_window_extent()
    ax.text(at.x0, at.y0, "above it", transform=None)
    assert figures.check(fig) == [
        "overlap: 'above it' and 'loss'",
        "overlap: '1.00' and '1.01'",
    ]


def test_a_text_that_leaves_the_canvas_is_found() -> None:
    fig, ax = good()
    ax.text(0.99, 0.5, "cut off", transform=fig.transFigure, in_layout=False)
    fig.suptitle("wide " * 40)
    faults = figures.check(fig)
    assert [fault[:25] for fault in faults] == [
        "leaves the canvas: 'wide ",
        "leaves the canvas: 'cut o",
    ]


def test_an_axis_of_numbers_needs_a_label() -> None:
    fig, ax = good()
    ax.set(xlabel=" ")
    twin = ax.twinx()
    twin.plot([1, 2, 3], [5, 6, 7])
    assert [fault[:15] for fault in figures.check(fig)] == [
        "no label: the x",
        "no label: the y",
    ]
    ax.set(xlabel="passes", yscale="log")
    twin.set(ylabel="seconds")
    assert figures.check(fig) == []
    ax.set(ylabel="")
    assert len(figures.check(fig)) == 1  # powers of ten are numbers too


def test_names_a_shared_axis_and_a_picture_need_no_label() -> None:
    fig, axes = plt.subplots(2, 2, sharex=True)
    for row in axes:
        row[0].barh(["shop", "search"], [1, 2])
        row[1].imshow([[0, 1], [2, 3]])
        row[1].set(yticks=[])
    axes[1, 0].set(xlabel="clicks")
    bar = fig.colorbar(axes[1, 1].images[0], ax=axes[1, 1])
    assert figures.check(fig)[0].startswith("no label: the y")
    bar.ax.set_title("p")
    axes[0, 1].axis("off")
    assert figures.check(fig) == []


def test_a_page_that_is_checked_shows_no_faulty_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    figures.set_up()
    plt.subplots()[1].plot([1, 2])
    plt.show()
    assert shown == [[1]]  # not checked: no such variable
    monkeypatch.setenv(figures.CHECKED, "1")
    for _ in range(2):
        figures.set_up()
    with pytest.raises(ValueError, match="can't be read:\nno label: the x.*\nno label"):
        plt.show()
    plt.close("all")
    good()
    plt.show()
    assert shown == [[1], [1]]
