"""AUROC by finding with its intervals, and the macro averages below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.figures.frame import (
    BLUE,
    DARK,
    PALE,
    SMALL,
    VERMILION,
    Style,
    auroc_axis,
    brackets,
    column,
    figure,
    free,
    legend,
    mute,
    note,
    rows_axes,
    rows_height,
    spoken,
    whiskers,
    words,
    wrap,
)
from cxr.findings import CLASSES

FEW = "fewer than 30 effective positive patients: interval too narrow; see auroc_t in the table"


@dataclass(frozen=True, kw_only=True)
class MacroRow:
    """A macro average under the findings: its AUROC (None = undefined), interval (NaN = none) and scope."""

    label: str  # such as "macro, 14 findings"
    value: float | None
    low: float = np.nan
    high: float = np.nan
    note: str = ""  # such as "mean of 13 (without Hernia: fewer than 10 patients a side)"


def auroc(table: pd.DataFrame, *, macro: Sequence[MacroRow] = (), subtitle: str) -> Figure:
    """The paper's Figure 1, with intervals: AUROC of every class, highest first, and macro averages below.

    `table`: index = names of `CLASSES` (any subset), columns `auroc` (NaN = undefined: listed last, greyed),
    `auroc_low`, `auroc_high` (95 % interval, NaN = none), `positives` (images), `positive_patients`, `few` and
    `in_macro` (bool), optionally `note` (why a class is undefined) and `paper` (the paper's AUROC, NaN where
    it has none). A class with few patients is hollow and pale; one outside of the macro average is a square.
    """
    assert set() < set(table.index) <= set(CLASSES), f"not our classes: {list(table.index)}"
    table = table.sort_values("auroc", ascending=False, kind="stable", na_position="last")
    names, foot = [str(name) for name in table.index], [text for m in macro for text in (m.label, "")]
    fig = figure(_title(table), subtitle, 1.55 + rows_height([*names, *foot], 0.37))
    ax = rows_axes(fig, names, foot)
    means = pd.DataFrame({"auroc": [m.value for m in macro], "auroc_low": [m.low for m in macro],
                          "auroc_high": [m.high for m in macro]}, dtype=float)  # fmt: skip
    auroc_axis(ax, [table.filter(["auroc", "auroc_low", "auroc_high", "paper"]), means])
    _classes(ax, table)
    for row in np.flatnonzero(table["auroc"].isna()):
        mute(ax, int(row), _why_undefined(table.iloc[int(row)]))
    if "paper" in table:
        style: Style = {"color": "white", "markeredgecolor": "black", "markersize": 5, "zorder": 4}
        ax.plot(table["paper"], np.arange(len(table)) + 0.27, "D", label="Ahmed 2025 (the paper)", **style)
    _means(ax, means, [m.note for m in macro], len(table))
    legend(fig, 2)

    last = 298 if "paper" in table else 250  # points to the right edge of the last column
    words(ax, 44, "AUROC", _with_gaps(table, means, _scores), color=DARK, weight="bold")
    words(ax, 138, "95 % interval", _with_gaps(table, means, _brackets), color=DARK)
    if "paper" in table:
        column(ax, 184, "paper", table["paper"], ".3f", color=DARK)
    column(ax, last - 60, "images", table["positives"], ",", color=DARK)
    column(ax, last, "patients", table["positive_patients"], ",", color=DARK)
    note(ax, "with the finding", (1, 1), (last, 20), ha="right", color=DARK, weight="bold")
    return fig


def _title(table: pd.DataFrame) -> str:
    known = table[table["auroc"].notna()]
    trusted = known[~known["few"].eq(True)]
    where = "AUROC by finding" if len(trusted) == len(known) else "AUROC where patients suffice"
    if trusted.empty and len(known):
        where, trusted = "AUROC by finding, each from few patients", known
    ends = [f"{spoken(name)} {score:.3f}" for name, score in trusted["auroc"].items()]
    return f"{where}: {' to '.join(ends[:1] + ends[1:][-1:]) or 'undefined for all'}"


def _classes(ax: Axes, table: pd.DataFrame) -> None:
    few, averaged = (table[name].eq(True).to_numpy(dtype=bool) for name in ("few", "in_macro"))
    others = "not in the macro average"
    for which, label, marker, hollow in (
        (averaged & ~few, "this model, 95 % interval", "o", False),
        (~averaged & ~few, f"{others}, 95 % interval", "s", False),
        (averaged & few, FEW, "o", True),
        (~averaged & few, f"{others}; {FEW}", "s", True),
    ):
        at = np.flatnonzero(which & table["auroc"].notna().to_numpy())
        if len(at):
            values = (table[name].iloc[at] for name in ("auroc", "auroc_low", "auroc_high"))
            pale = PALE if hollow else ""
            whiskers(ax, at, *values, color=BLUE, marker=marker, label=label, hollow=hollow, pale=pale)


def _means(ax: Axes, means: pd.DataFrame, notes: Sequence[str], first: int) -> None:
    at = first + 2 * np.arange(len(means))
    if means["auroc"].notna().any():
        label = "macro average (mean of classes), 95 % interval"
        values = (means[name] for name in ("auroc", "auroc_low", "auroc_high"))
        whiskers(ax, at, *values, color=VERMILION, marker="D", label=label, size=6)
    for row, value, text in zip(at, means["auroc"], notes, strict=True):
        if np.isnan(value):
            mute(ax, int(row))
        style: Style = {"xycoords": ax.get_yaxis_transform(), "va": "center", "color": DARK, "fontsize": SMALL}
        style["bbox"] = {"fc": "white", "ec": "none", "pad": 1.5}  # the line of chance runs behind
        note(ax, wrap(text, 6.2, SMALL), (free(ax), row + 0.75), (0, 0), **style)  # over the axes and the columns


def _why_undefined(row: pd.Series) -> str:
    text = str(row.get("note", "") or "undefined")
    return wrap(text if text.startswith("undefined") else f"undefined: {text}", 3.0, SMALL)


def _with_gaps(table: pd.DataFrame, means: pd.DataFrame, form: Callable[[pd.DataFrame], list[str]]) -> list[str]:
    return [*form(table), *(text for mean in form(means) for text in (mean, ""))]


def _scores(table: pd.DataFrame) -> list[str]:
    return ["–" if np.isnan(value) else f"{value:.3f}" for value in table["auroc"]]


def _brackets(table: pd.DataFrame) -> list[str]:
    return brackets(table["auroc_low"], table["auroc_high"])
