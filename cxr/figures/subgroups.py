"""One measure in groups of patients or images, such as women and men: AUROC, and rates at a threshold."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from cxr.figures.frame import (
    BLUE,
    DARK,
    GREEN,
    MUTED,
    PURPLE,
    TEXT,
    VERMILION,
    Style,
    auroc_axis,
    dress,
    figure,
    is_macro,
    legend,
    note,
    rows_axes,
    rows_height,
    spoken,
    whiskers,
)

_LOOKS = ((BLUE, "o"), (VERMILION, "D"), (GREEN, "s"), (PURPLE, "^"), (DARK, "v"))
_STEP = 0.115  # inches between the levels of a row


class _Level(NamedTuple):
    name: str
    label: str
    offset: float  # in rows
    color: str
    marker: str


def subgroups(table: pd.DataFrame, *, attribute: str, subtitle: str) -> Figure:
    """AUROC of every finding in each level of `attribute`, such as "sex": a mark a level, macro averages below.

    `table`: a row a finding (or `macro_...`) and level, columns `finding`, `level` (up to 5), `auroc` (NaN = too
    few patients), `auroc_low`, `auroc_high`, `images`, `patients`. Findings and levels keep their order.
    """
    names, foot, levels = _order(table)
    fig = figure(_title(table, attribute, levels), subtitle, 1.5 + _height(names + foot, levels))
    ax = rows_axes(fig, names, foot)
    _cells(ax, table, names + foot, "auroc", levels)
    auroc_axis(ax, [table[["auroc", "auroc_low", "auroc_high"]]])
    legend(fig, 1)
    return fig


def rates(table: pd.DataFrame, *, attribute: str, subtitle: str) -> Figure:
    """Sensitivity and false alarms at the validation threshold in each level of `attribute`, side by side.

    `table` as for `subgroups`, with `tpr`, `tpr_low`, `tpr_high`, `fpr`, `fpr_low`, `fpr_high` (shares; NaN =
    too few patients) in place of AUROC.
    """
    names, foot, levels = _order(table)
    title = f"Findings found and false alarms by {spoken(attribute)}, at the threshold set on validation"
    fig = figure(title, subtitle, 1.5 + _height(names + foot, levels))
    left, right = fig.subplots(1, 2, sharey=True)
    for ax, measure, label in (
        (left, "tpr", "found: share of the images with the finding"),
        (right, "fpr", "false alarms: share of the images without it"),
    ):
        dress(ax, names, foot)
        _cells(ax, table, names + foot, measure, levels)
        values = table[[measure, f"{measure}_low", f"{measure}_high"]].to_numpy(dtype=float)
        top = np.max(values[np.isfinite(values)], initial=0.0)
        ax.set_xlim(0, 1 if measure == "tpr" else min(1.0, max(0.1, 1.08 * top)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
        ax.set_xlabel(label, fontsize=TEXT)
    right.tick_params(labelleft=False)
    legend(fig, 1)
    return fig


def _order(table: pd.DataFrame) -> tuple[list[str], list[str], list[_Level]]:
    rows = [str(name) for name in table["finding"].unique()]
    names = list(table["level"].unique())
    assert 0 < len(names) <= len(_LOOKS), f"not 1 to {len(_LOOKS)} levels: {names}"
    assert not table.duplicated(["finding", "level"]).any(), "a finding has a level twice"
    share = _STEP * len(names) / _each(len(names))  # of a row's height that its levels take
    offsets = (np.arange(len(names)) - (len(names) - 1) / 2) * share / len(names)
    levels = []
    for name, offset, (color, marker) in zip(names, offsets, _LOOKS, strict=False):
        sizes = table.loc[table["level"] == name, ["images", "patients"]].max()  # a finding may lack labels
        counts = ", ".join(f"{size:,.0f} {what}" for what, size in sizes.items() if np.isfinite(size))
        label = f"{spoken(name)}: {counts}" if counts else spoken(name)
        levels.append(_Level(name, label, float(offset), color, marker))
    return [r for r in rows if not is_macro(r)], [r for r in rows if is_macro(r)], levels


def _each(levels: int) -> float:
    return max(0.34, _STEP * levels + 0.13)  # inches a row


def _height(names: list[str], levels: list[_Level]) -> float:
    return rows_height(names, _each(len(levels)))


def _cells(ax: Axes, table: pd.DataFrame, rows: list[str], measure: str, levels: list[_Level]) -> None:
    """A mark for each row and level; those without a value stand in a column of their own beside the axes."""
    beside = ax.get_yaxis_transform() + ScaledTranslation(24 / 72, 0, ax.figure.dpi_scale_trans)
    missing = False
    ax.plot([], [], color=MUTED, linewidth=1.8, label="lines: 95 % intervals")
    for level in levels:
        cells = table[table["level"] == level.name].set_index("finding").reindex(rows)
        at = np.arange(len(rows)) + level.offset
        ends = (cells[f"{measure}{end}"] for end in ("", "_low", "_high"))
        size = 6.5 if len(levels) < 4 else 5.5
        whiskers(ax, at, *ends, color=level.color, marker=level.marker, label=level.label, size=size)
        if len(few := at[cells[measure].isna()]):
            missing = True
            grey: Style = {"color": MUTED, "markerfacecolor": "white", "clip_on": False, "linestyle": "none"}
            ax.plot(np.ones(len(few)), few, marker=level.marker, markersize=size - 1, transform=beside, **grey)
    if missing:
        note(ax, "too few\npatients", (1, 1), (24, 4), ha="center", color=MUTED)


def _title(table: pd.DataFrame, attribute: str, levels: list[_Level]) -> str:
    macro = table[[is_macro(name) for name in table["finding"]]].set_index("level")["auroc"].dropna()
    each = [f"{spoken(level.name)} {macro[level.name]:.3f}" for level in levels if level.name in macro.index]
    said = ", ".join(each) if len(each) <= 3 else f"{macro.min():.3f} to {macro.max():.3f}"
    return f"AUROC by {spoken(attribute)}" + f"; macro average: {said}" * (len(each) > 1)
