"""Whether maps lie in the boxes that a radiologist drew, beside baselines that know nothing of the image."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxr.figures.frame import (
    BLUE,
    DARK,
    GREEN,
    MUTED,
    PURPLE,
    SMALL,
    TEXT,
    VERMILION,
    Numbers,
    Style,
    brackets,
    column,
    dress,
    figure,
    legend,
    mute,
    note,
    rows_axes,
    rows_height,
    spoken,
    whiskers,
    words,
)

_Which = npt.NDArray[np.bool_]

_ALL = "all"
_FOOT = "all findings"
_GREY = "#DCDCDC"
# method -> marker, colour, name
_BASELINES = {
    "shuffled": ("x", DARK, "baseline: the same map, shuffled"),
    "centre": ("+", PURPLE, "baseline: the image's centre"),
    "class_mean": ("^", GREEN, "baseline: other patients' mean map"),
}
_WANG = "Wang 2017 (theirs: all 984 boxes, ImageNet start)"
_PANELS = {"iobb_0.1": "IoBB > 0.1", "iobb_0.25": "IoBB > 0.25", "iobb_0.5": "IoBB > 0.5"}


def pointing(table: pd.DataFrame, *, subtitle: str) -> Figure:
    """In how many images the map's maximum lies in a box, against three baselines on the same images.

    `table`: columns finding (and `all`), stratum, method (`gradcam` and the baselines), measure, images,
    patients, value (0 to 1), low, high (95 %, NaN = none); what is not of stratum `all` is left out. A grey bar
    reaches to the best baseline: a map is worth something where its whole interval lies to the right of the bar.
    (Paired differences, in the table of differences, tell a little more apart.)
    """
    cells = _cells(table, "pointing")
    names, foot = _names(cells)
    fig = figure(_title(cells, names, "Pointing"), subtitle, 1.75 + rows_height([*names, *foot]))
    ax = rows_axes(fig, names, foot)
    cells = cells.reindex([*names, *([_ALL] if foot else [])])
    best = _best(cells)
    _bars(ax, best)
    _verdicts(ax, cells, best)
    at = np.arange(len(cells))
    for method, (marker, color, label) in _BASELINES.items():
        if ("value", method) in cells:
            _marks(ax, cells["value", method].to_numpy(dtype=float), at, marker, color, label)
    _percent(ax, "images whose map's maximum lies in a box")
    for row in np.flatnonzero(cells["value", "gradcam"].isna()):
        mute(ax, int(row))
    legend(fig, 2)
    column(ax, 44, "map", 100 * cells["value", "gradcam"], ".0f", color=DARK, weight="bold")
    ends = brackets(100 * cells["low", "gradcam"], 100 * cells["high", "gradcam"], ".0f")
    words(ax, 106, "95 %", ends, color=DARK)
    column(ax, 168, "best\nbaseline", 100 * best, ".0f", color=DARK)
    column(ax, 220, "images", cells["images", "gradcam"], ",.0f", color=DARK)
    column(ax, 278, "patients", cells["patients", "gradcam"], ",.0f", color=DARK)
    note(ax, "in % of images", (1, 1), (106, 34), ha="right", color=DARK, fontsize=SMALL)
    return fig


def box_accuracy(
    table: pd.DataFrame, *, published: Mapping[str, Mapping[str, float]] | None = None, subtitle: str
) -> Figure:
    """How often a box that is detected on the map lies well enough in a drawn one, at three demands.

    `table` as for `pointing`, with measures `iobb_0.1`, `iobb_0.25` and `iobb_0.5`. `published`: measure ->
    finding -> accuracy of Wang et al. 2017, to be given only where the data is NIH's. The grey bar reaches to the
    best of the baselines, panel by panel.
    """
    first = _cells(table, "iobb_0.1")
    names, foot = _names(first)
    order = [*names, *([_ALL] if foot else [])]
    fig = figure(
        _title(first, names, "Boxes found (IoBB > 0.1)"), subtitle, 1.75 + rows_height([*names, *foot], 0.36)
    )
    panels = fig.subplots(1, len(_PANELS), sharex=True, sharey=True)
    for ax, (measure, head) in zip(panels, _PANELS.items(), strict=True):
        dress(ax, names, [*foot])
        cells = _cells(table, measure).reindex(order)
        best = _best(cells)
        _bars(ax, best)
        _verdicts(ax, cells, best)
        theirs = np.array([(published or {}).get(measure, {}).get(name, np.nan) for name in order])
        if np.isfinite(theirs).any():
            style: Style = {"markeredgecolor": "black", "markerfacecolor": "white", "markersize": 5.5}
            ax.plot(theirs, np.arange(len(order)) + 0.24, "D", color="none", label=_WANG, zorder=4, **style)
        _percent(ax, "images", 3)
        for row in np.flatnonzero(cells["value", "gradcam"].isna()):
            mute(ax, int(row), whole=False)
        note(ax, head, (0, 1), (0, 6), weight="bold")
        column(ax, 26, "%", 100 * cells["value", "gradcam"], ".0f", color=DARK)
    for ax in panels[1:]:
        ax.tick_params(labelleft=False)
    legend(fig, 2)
    return fig


def _cells(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """A row a finding; columns (what, method)."""
    own = table[(table["stratum"] == _ALL) & (table["measure"] == measure)]
    assert len(own), f"no {measure} in the table"
    assert not own.duplicated(["finding", "method"]).any(), "a finding has a method twice"
    wanted = ["value", "low", "high", "images", "patients"]
    return own.pivot_table(index="finding", columns="method", values=wanted, dropna=False)


def _names(cells: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Findings by what the map reaches, and the row for all of them where there is one."""
    order = cells["value", "gradcam"].drop(_ALL, errors="ignore")
    order = order.sort_values(ascending=False, kind="stable", na_position="last")
    return [str(name) for name in order.index], [_FOOT] if _ALL in cells.index else []


def _best(cells: pd.DataFrame) -> Numbers:
    baselines = [("value", name) for name in _BASELINES if ("value", name) in cells]
    best: Numbers = cells[baselines].max(axis=1).to_numpy(dtype=float)
    return best


def _bars(ax: Axes, best: Numbers) -> None:
    label = "up to the best of the three baselines"
    ax.barh(np.arange(len(best)), np.nan_to_num(best), height=0.62, color=_GREY, zorder=1, label=label)


def _sides(cells: pd.DataFrame, best: Numbers) -> tuple[_Which, _Which]:
    """Where the map's whole interval lies above the best baseline, and where it lies below."""
    low, high = (cells[end, "gradcam"].to_numpy(dtype=float) for end in ("low", "high"))
    return low > best, high < best


def _verdicts(ax: Axes, cells: pd.DataFrame, best: Numbers) -> None:
    above, below = _sides(cells, best)
    for which, marker, color, label in (
        (above, "o", BLUE, "Grad-CAM, whole 95 % interval above every baseline"),
        (~above & ~below, "o", MUTED, "Grad-CAM: not told apart from the best baseline"),
        (below, "s", VERMILION, "Grad-CAM: whole interval below the best baseline"),
    ):
        at = np.flatnonzero(which & cells["value", "gradcam"].notna().to_numpy())
        if len(at):
            ends = (cells[name, "gradcam"].iloc[at] for name in ("value", "low", "high"))
            whiskers(ax, at, *ends, color=color, marker=marker, label=label, hollow=color == MUTED)


def _marks(ax: Axes, values: Numbers, at: npt.ArrayLike, marker: str, color: str, label: str) -> None:
    style: Style = {"markersize": 6.5, "markeredgewidth": 1.6, "markeredgecolor": color, "zorder": 2.5}
    known = np.isfinite(values)
    at = np.asarray(at)
    if known.any():
        face = {"markerfacecolor": "white"} if marker == "^" else {}
        ax.plot(values[known], at[known], marker, color=color, label=label, clip_on=False, **(style | face))


def _percent(ax: Axes, label: str, ticks: int = 5) -> None:
    ax.set_xlim(-0.015, 1.015)  # marks at the ends stay clear of names and columns
    ax.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    ax.set_xlabel(label, fontsize=TEXT)


def _title(cells: pd.DataFrame, names: list[str], what: str) -> str:
    known = cells.loc[names]
    known = known[known["value", "gradcam"].notna()]
    if known.empty:
        return f"{what}: undefined for all"
    above, _ = _sides(known, _best(known))
    if len(known) == 1:
        verb = "beats" if above[0] else "does not surely beat"
        return f"{what}: the map {verb} every baseline for {spoken(known.index[0])}"
    return f"{what}: the map beats every baseline for {int(above.sum())} of {len(known)} findings"
