"""One HTML file that says what the data are, how good the model is, and beside whom."""

import base64
import io
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, cast

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from urlm_helpers import __version__, figures
from urlm_helpers.evaluation import calibration_table
from urlm_helpers.preprocessing import Prepared
from urlm_helpers.project.judging import ALL, EVERYWHERE, MODEL, Judgement


def summary(prepared: Prepared) -> pd.DataFrame:
    """Count what each period has: one line per period.

    Returns
    -------
    DataFrame
        ``from``, ``to``, ``rows``, ``users``, ``items``, the events of each task, and
        the share of rows whose user, and whose item, training has not seen often
        enough to know.
    """
    log, spec = prepared.rows, prepared.encoder.spec
    fields, names = prepared.x["fields"], list(spec.fields)
    lines = {}
    for part, at in prepared.parts.items():
        rows = log.iloc[at]
        line: dict[str, Any] = {"from": rows["time"].min(), "to": rows["time"].max()}
        line |= {"rows": len(rows)}
        line |= {f"{key}s": rows[key].nunique() for key in ("user", "item")}
        line |= {task: int(rows[task].sum()) for task in spec.tasks}
        for key in ("user", "item"):
            unseen = (fields[at, names.index(key)] == 0).mean()
            line[f"{key} unseen"] = f"{unseen:.1%}"
        lines[part] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def _table(frame: pd.DataFrame, index: bool = False) -> str:
    return frame.to_html(
        index=index, border=0, float_format="{:.4g}".format, na_rep="", justify="right"
    )


def _spans(table: pd.DataFrame, column: str) -> pd.Series:
    """Write a value with its interval; the note where there is none."""
    numbers = table[column].map("{:.4g}".format)
    whole = " [" + table["low"].map("{:.4g}".format)
    whole = numbers + whole + ", " + table["high"].map("{:.4g}".format) + "]"
    alone = numbers.where(table[column].notna(), "") + " " + table["note"]
    return whole.where(table["note"] == "", alone).str.strip()


def _wide(table: pd.DataFrame, column: str, index: list[str]) -> pd.DataFrame:
    """Put the metrics side by side."""
    cells = table.assign(cell=_spans(table, column))
    wide = cells.pivot_table("cell", index, "metric", aggfunc="first", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def _image(ax: Axes, alt: str) -> str:
    """Turn a figure into an image inside the page, and close it."""
    figure, file = cast("Figure", ax.figure), io.BytesIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def _calibration(judgement: Judgement, tasks: tuple[str, ...]) -> str:
    rows = judgement.predictions[MODEL]
    tables = {
        task: calibration_table(rows[f"y_{task}"], rows[f"p_{task}"], rows["weight"])
        for task in tasks
    }
    tables = {task: t for task, t in tables.items() if (t["observed"] > 0).any()}
    if not tables:
        return "<p>No bin of the predictions holds an event: no calibration plot.</p>"
    means = "; ".join(
        f"{task}: {t['predicted'].iloc[-1]:.3g} predicted in the highest of its bins, "
        f"{t['observed'].iloc[-1]:.3g} observed"
        for task, t in tables.items()
    )
    ax = figures.calibration(tables, "Predicted and observed rates, test period")
    for axis in (ax.xaxis, ax.yaxis):  # rates of one decade have crowded ticks
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    return _image(ax, f"Calibration plot. {means}.")


def _differences(table: pd.DataFrame) -> str:
    shown = table[(table["metric"] == "auc") & (table["note"] == "")]
    if shown.empty:
        return "<p>No difference in AUC has an interval: too few events.</p>"
    shown = shown.assign(label=shown["method"] + ", " + shown["task"])
    behind, ahead = (shown["high"] < 0).sum(), (shown["low"] > 0).sum()
    title = "AUC of the model minus that of each rival"
    ax = figures.differences(
        shown.assign(group=shown["task"]), title, "difference in AUC, 95 % interval"
    )
    return _image(ax, f"{title}: {ahead} above 0, {behind} below. In the table.")


def report(
    path: str | Path,
    judgement: Judgement,
    prepared: Prepared,
    settings: Mapping[str, Any],
    tuning: pd.DataFrame,
) -> Path:
    """Write the report: one HTML file that needs no other.

    Parameters
    ----------
    path : path
        Overwritten if it is there.
    judgement : Judgement
    prepared : Prepared
        What was judged.
    settings : mapping
        Of the model, with its seed.
    tuning : DataFrame
        As of :func:`~urlm_helpers.project.tune`.

    Returns
    -------
    Path
    """
    card, spec = prepared.encoder.dataset.card, prepared.encoder.spec
    everywhere = judgement.table[judgement.table["scenario"] == EVERYWHERE]
    pooled = everywhere[everywhere["slice"] == ALL]
    own = judgement.table["method"] == MODEL
    rows = judgement.table[own & (judgement.table["slice"] == ALL)]
    rates = prepared.rows.groupby("scenario")[list(spec.tasks)].agg(["mean", "sum"])
    rates = rates.set_axis([", ".join(pair) for pair in rates.columns], axis=1)
    rates.insert(0, "rows", prepared.rows["scenario"].value_counts())
    slices = everywhere.pivot_table(
        "value", ["slice", "task", "metric", "rows", "positives"], "method", sort=False
    )
    who = "A simple rival is" if judgement.lost else "No simple rival is"
    headline = f"{who} ahead of the model beyond the interval, over all scenarios."
    wide = ["scenario", "task", "rows", "positives"]
    chosen = {**settings, "urlm-helpers": __version__}
    parts = {
        "title": escape(card.title),
        "outcome": "lost" if judgement.lost else "fine",
        "headline": headline,
        "verdict": "".join(f"<li>{escape(v)}</li>" for v in judgement.verdict),
        "card": escape(str(card)),
        "summary": _table(summary(prepared), index=True),
        "rates": _table(rates.reset_index()),
        "model": _table(_wide(rows, "value", wide)),
        "calibration": _calibration(judgement, spec.tasks),
        "differences": _differences(pooled[pooled["method"] != MODEL]),
        "rivals": _table(
            _wide(pooled[pooled["method"] != MODEL], "difference", ["task", "method"])
        ),
        "slices": _table(slices.reset_index()),
        "settings": _table(pd.DataFrame(chosen.items(), columns=["setting", "value"])),
        "tuning": _table(tuning),
    }
    text = (resources.files(__package__) / "report.html").read_text(encoding="utf-8")
    path = Path(path)
    path.write_text(Template(text).substitute(parts), encoding="utf-8")
    return path
