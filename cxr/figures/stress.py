"""How alike maps stay under stress: a network made random, inputs disturbed, other checkpoints and seeds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.figures.frame import (
    BLUE,
    DARK,
    GRID,
    MUTED,
    SMALL,
    TEXT,
    VERMILION,
    Style,
    column,
    figure,
    legend,
    mute,
    note,
    rows_axes,
    rows_height,
    whiskers,
    wrap,
)

FLOOR = "other image"  # the row that says how alike the maps of two different images are
# column -> marker, colour, name
_MEASURES = {
    "ssim": ("o", BLUE, "SSIM (same picture?)"),
    "spearman": ("D", VERMILION, "Spearman's rank correlation (same order?)"),
}


def randomisation(table: pd.DataFrame, *, subtitle: str) -> Figure:
    """How alike maps stay as more of the network is made random, from the head down (Adebayo et al. 2018).

    `table`: index depth in the order of randomising (`fc` to `conv1`), columns `ssim`, `ssim_low`, `ssim_high`,
    `spearman`, `spearman_low`, `spearman_high` (NaN = undefined), `n` (maps). The trained network's own map is 1.
    A row FLOOR is no step: it is a dashed line for each measure, and what a good map falls to.
    """
    floor, table = table[table.index == FLOOR], table[table.index != FLOOR]
    depths = [str(name) for name in table.index]
    assert depths, "no depth to draw"
    fig = figure(_randomised(table, floor), subtitle, 4.3)
    ax: Axes = fig.subplots()
    at = np.arange(1, len(depths) + 1)
    for (name, (marker, color, label)), shift in zip(_MEASURES.items(), (-0.05, 0.05), strict=True):
        value, low, high = _ends(table, name)
        ax.plot([0, *(at + shift)], [1, *value], color=color, linewidth=1.8, zorder=2)
        ax.vlines(at + shift, low, high, color=color, linewidth=1.8, alpha=0.6, zorder=2)
        style: Style = {"color": color, "markersize": 7, "clip_on": False, "zorder": 3}
        ax.plot(at + shift, value, marker, label=f"{label}, 95 % interval", **style)
    ax.plot(0, 1, "o", color="black", markersize=7, clip_on=False, zorder=4)
    for row in np.flatnonzero(table[list(_MEASURES)].isna().all(axis=1)):
        words: Style = {"xycoords": "data", "ha": "center", "style": "italic", "color": MUTED}
        note(ax, "undefined", (float(row + 1), 0.02), (0, 0), **words)
    _floor_lines(ax, floor, "y")
    ax.set_xlim(-0.3, len(depths) + 0.3)
    steps = [wrap(name if row == 0 else f"+ {name}", 1.0, TEXT) for row, name in enumerate(depths)]
    ax.set_xticks(range(len(depths) + 1), ["trained", *steps], fontsize=TEXT, parse_math=False)
    _similarity_axis(ax, pd.concat([table, floor]), "y")
    least, most = int(table["n"].min()), int(table["n"].max())
    counts = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    label = f"made random so far, from the head down ({counts} map{'s' * (most != 1)} a step)"
    ax.set_xlabel(label, fontsize=TEXT)
    ax.set_ylabel("similarity with the trained network's map", fontsize=TEXT)
    # beside the axes, where no curve runs
    side: Style = {"xycoords": ax.get_yaxis_transform(), "va": "center", "color": DARK, "fontsize": SMALL}
    note(ax, "bad: the map is\nthe same without\nwhat was learned", (1, 0.96), (10, 0), **side)
    good = "good: no more\nalike than maps\nof two images" if len(floor) else "good: nothing\nis left of\nthe map"
    note(ax, good, (1, 0.04), (10, 0), **side)
    legend(fig, 2)
    return fig


def similarities(table: pd.DataFrame, *, title: str, subtitle: str) -> Figure:
    """How alike two maps of the same image are, a row a disturbance, a checkpoint or a seed.

    `table`: index names, columns `ssim`, `ssim_low`, `ssim_high`, `spearman`, `spearman_low`, `spearman_high`
    (NaN = undefined), optionally `probability_change`, the mean size of the change whatever its direction. A row
    FLOOR stands last, carried up by dashed lines.
    """
    assert len(table), "no rows to draw"
    is_floor = table.index == FLOOR
    table = pd.concat([table[~is_floor], table[is_floor]])
    names, foot = [str(name) for name in table.index[table.index != FLOOR]], [FLOOR] * int(is_floor.sum())
    fig = figure(title, subtitle, 1.5 + rows_height([*names, *foot], 0.42))
    ax = rows_axes(fig, names, foot)
    for name, offset in zip(_MEASURES, (-0.17, 0.17), strict=True):
        marker, color, label = _MEASURES[name]
        ends = _ends(table, name)
        whiskers(ax, np.arange(len(table)) + offset, *ends, color=color, marker=marker, label=label, size=6)
    _floor_lines(ax, table[table.index == FLOOR], "x")
    note(ax, "good: the same map", (1, 1), (0, 4), ha="right", color=DARK, fontsize=SMALL)
    _similarity_axis(ax, table, "x")
    ax.set_xlabel("similarity of the two maps (1 = the same map), 95 % interval", fontsize=TEXT)
    for row in np.flatnonzero(table[list(_MEASURES)].isna().all(axis=1)):
        mute(ax, int(row))
    legend(fig, 2)
    column(ax, 52, "SSIM", table["ssim"], ".2f", color=BLUE)
    column(ax, 118, "Spearman", table["spearman"], ".2f", color=VERMILION)
    if "probability_change" in table:
        column(ax, 196, "change of\nprobability", table["probability_change"], ".3f", color=DARK)
    return fig


def plain(ax: Axes) -> None:
    """Axes with two sides and no ticks, their gridlines behind what is drawn."""
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0, pad=6)
    ax.spines[["top", "right"]].set_visible(False)


def _ends(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value, low, high = (table[f"{name}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    return value, low, high


def _floor_lines(ax: Axes, floor: pd.DataFrame, which: str) -> None:
    """How alike maps of two different images are, a dashed line a measure; none where there is no such row."""
    style: Style = {"linewidth": 1.1, "linestyle": (0, (4, 3))}
    known = [(float(value), name) for name in _MEASURES for value in floor[name].dropna()]
    for value, name in known:
        (ax.axvline if which == "x" else ax.axhline)(value, color=_MEASURES[name][1], zorder=1, **style)
    if known:
        ax.plot([], [], color=MUTED, label="as alike as maps of two different images", **style)


def _similarity_axis(ax: Axes, table: pd.DataFrame, which: str) -> None:
    """From 0 to 1, and below 0 where a correlation is; gridlines across it."""
    values = table[[f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")]].to_numpy(dtype=float)
    low = float(np.min(values[np.isfinite(values)], initial=0.0))
    low = np.floor(5 * low) / 5 if low < 0 else 0.0
    plain(ax)
    ax.grid(axis="x" if which == "x" else "y", color=GRID, linewidth=0.8)
    (ax.set_xlim if which == "x" else ax.set_ylim)(low, 1.0)
    if low < 0:
        (ax.axvline if which == "x" else ax.axhline)(0, color="black", linewidth=1.0, zorder=1)


def _randomised(table: pd.DataFrame, floor: pd.DataFrame) -> str:
    good = "A good map fades as the network is made random:"
    last = table.iloc[-1]
    if last[list(_MEASURES)].isna().all():
        return f"{good} undefined at the last step"
    ends = []
    for name, words in (("ssim", "SSIM"), ("spearman", "Spearman")):
        # a value is not torn from its name by the end of a line
        told = f"{words}\u00a0{_two(last[name])}"
        ends.append(told + "".join(f" (different images {_two(value)})" for value in floor[name]))
    return f"{good} here to {', '.join(ends)}"


def _two(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
