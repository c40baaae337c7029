"""What repeating shows: the same training from several seeds, and intervals put to the test by simulation."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxr.figures.frame import (
    BLUE,
    DARK,
    GREEN,
    PALE,
    TEXT,
    VERMILION,
    Numbers,
    Style,
    auroc_axis,
    brackets,
    capital,
    column,
    dress,
    figure,
    is_macro,
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

PROMISED = 0.95


def seeds(table: pd.DataFrame, *, values: pd.DataFrame, subtitle: str) -> Figure:
    """AUROC of several seeds and, apart from it, the sampling interval of one run; macro averages on top.

    `table`: index finding or `macro_...`, columns `mean`, `sd` (between seeds; NaN for one seed), optionally
    `low`, `high` (95 % interval of one run over test patients). `values`: a row a seed, columns findings.
    The two uncertainties have different causes; nothing here adds them.
    """
    assert set(values.columns) >= set(table.index), f"no seeds of {set(table.index) - set(values.columns)}"
    macro = np.array([is_macro(name) for name in table.index], dtype=bool)
    findings = table[~macro].sort_values("mean", ascending=False, kind="stable", na_position="last")
    table = pd.concat([table[macro], findings])
    names, n = [str(name) for name in table.index], len(values)
    fig = figure(_seeds_title(table, n), subtitle, 1.6 + rows_height(names, 0.42))
    ax = rows_axes(fig, names)
    for tick in ax.get_yticklabels()[: macro.sum()]:
        tick.set_fontweight("bold")
    if 0 < macro.sum() < len(table):
        ax.axhline(macro.sum() - 0.5, color=DARK, linewidth=0.9)
    at, mean, sd = np.arange(len(table)), table["mean"].to_numpy(float), table["sd"].to_numpy(float)
    spread = np.isfinite(sd)
    band: Style = {"color": PALE, "alpha": 0.7, "linewidth": 0, "zorder": 1}
    if spread.any():
        label = f"mean ± SD between {n} seeds (the same test patients)"
        ax.barh(at[spread] - 0.14, 2 * sd[spread], 0.4, left=(mean - sd)[spread], label=label, **band)
    known = np.isfinite(mean)
    ax.vlines(mean[known], at[known] - 0.34, at[known] + 0.06, color=BLUE, linewidth=2)
    points: Style = {"markersize": 5, "markerfacecolor": "white", "color": BLUE, "clip_on": False}
    for seed, run in enumerate(values[list(table.index)].to_numpy(dtype=float)):
        ax.plot(run, at - 0.14, "o", label="" if seed else "one seed each", **points)
    if has_interval := "low" in table and bool(table["low"].notna().any()):
        label = "95 % interval of one run over test patients: another uncertainty, not added to the SD"
        ends: Style = {"color": VERMILION, "marker": "|", "label": label}
        whiskers(ax, at + 0.26, np.full(len(table), np.nan), table["low"], table["high"], **ends)
        for end in ("low", "high"):
            ax.plot(table[end], at + 0.26, "|", color=VERMILION, markersize=7, markeredgewidth=1.8)
    auroc_axis(ax, [values[list(table.index)], mean - sd, mean + sd, table.filter(["low", "high"])], near=True)
    for row in at[~known]:
        mute(ax, int(row))
    legend(fig, 1)
    column(ax, 46, "mean", mean, ".3f", color=BLUE, weight="bold")
    column(ax, 94, "SD", sd, ".4f", color=BLUE)
    if has_interval:
        words(ax, 194, "interval", brackets(table["low"], table["high"]), color=VERMILION)
    return fig


def coverage(table: pd.DataFrame, *, subtitle: str) -> Figure:
    """How often 95 % intervals held the truth in a simulation, by method, a panel a number of positive patients.

    `table`: a row a method and number, columns `method` (up to 6), `positive_patients`, `coverage` (0 to 1, NaN =
    not tried), `repetitions`, `mean_width`. Error bars are Wilson's 95 % interval of the coverage itself.
    """
    methods, sizes = [str(m) for m in table["method"].unique()], sorted(table["positive_patients"].unique())
    assert 0 < len(methods) <= 6, f"not 1 to 6 methods: {methods}"
    assert len(sizes) <= 4, f"more than 4 numbers of patients: {sizes}"
    table = table.assign(low=np.nan, high=np.nan)
    share, runs = table["coverage"].to_numpy(dtype=float), table["repetitions"].to_numpy(dtype=float)
    table["low"], table["high"] = _wilson(share, runs)
    fig = figure(_coverage_title(table), subtitle, 1.7 + rows_height(methods, 0.4))
    panels = fig.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0]
    ends = table[["coverage", "low"]].to_numpy(dtype=float)
    least = float(np.min(ends[np.isfinite(ends)], initial=0.9))
    panels[0].set_xlim(max(0.0, np.floor(20 * least - 0.2) / 20), 1.0)
    for ax, size in zip(panels, sizes, strict=True):
        cells = table[table["positive_patients"] == size].set_index("method").reindex(methods)
        dress(ax, methods)
        _coverage_panel(ax, cells)
        note(ax, f"{size:,} positive patients", (0, 1), (0, 20), weight="bold")
    for ax in panels[1:]:
        ax.tick_params(labelleft=False)
    often = f"{runs.min():,.0f}" if runs.min() == runs.max() else f"{runs.min():,.0f} to {runs.max():,.0f}"
    label = (
        f"% of {often} repetitions in which the interval held the true AUROC, with the 95 % interval of that share"
    )
    label = wrap(f"{label}; width: mean width of the intervals", 7.2, TEXT)
    # blank lines keep the height: the layout would make the first panel as wide as the text
    panels[0].set_xlabel("\n".join(" " for _ in label.split("\n")), fontsize=TEXT)
    note(panels[0], label, (0, 0), (0, -20), va="top", in_layout=False)
    legend(fig)
    return fig


def _coverage_panel(ax: Axes, cells: pd.DataFrame) -> None:
    ax.axvline(PROMISED, color="black", linewidth=1.2)
    note(ax, "95 %", (PROMISED, 1), (2, 3), xycoords=ax.get_xaxis_transform(), ha="right")
    below, above = cells["high"] < PROMISED, cells["low"] > PROMISED
    for which, label, marker, color in (
        (below, "holds less than the promised 95 %", "D", VERMILION),
        (~below & ~above, "as promised, within chance", "o", BLUE),
        (above, "holds more than 95 %", "s", GREEN),
    ):
        at = np.flatnonzero(which & cells["coverage"].notna())
        if len(at):
            ends = (cells[name].iloc[at] for name in ("coverage", "low", "high"))
            whiskers(ax, at, *ends, color=color, marker=marker, label=label)
    for row in np.flatnonzero(cells["coverage"].isna()):
        mute(ax, int(row), "not tried", whole=False)
    column(ax, 42, "width", cells["mean_width"], ".3f", color=DARK)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}"))


def _wilson(share: Numbers, runs: Numbers) -> tuple[Numbers, Numbers]:
    """Wilson 1927: the 95 % interval of a share of so many runs."""
    z = 1.96
    middle, scale = share + z**2 / (2 * runs), 1 + z**2 / runs
    half = z * np.sqrt(share * (1 - share) / runs + z**2 / (4 * runs**2))
    return (middle - half) / scale, (middle + half) / scale


def _seeds_title(table: pd.DataFrame, n: int) -> str:
    title = f"AUROC of {n} seed{'s' * (n != 1)}"
    macro = table.reindex(["macro_14"]).iloc[0]
    if np.isnan(mean := float(macro["mean"])):
        return title
    sd = float(macro["sd"])
    spread = "" if np.isnan(sd) else f", SD {sd:.4f}"
    return f"{title}: macro average {mean:.3f}{spread}"


def _coverage_title(table: pd.DataFrame) -> str:
    known = table[table["coverage"].notna()]
    if known.empty:
        return "Do 95 % intervals hold what they promise? Nothing was tried"
    worst = known.sort_values("coverage").iloc[0]
    if worst["high"] >= PROMISED:
        return "All intervals hold the 95 % that they promise, within chance"
    where = f"with {worst['positive_patients']:,} positive patients"
    return f"{capital(spoken(worst['method']))} promises 95 % and holds {100 * worst['coverage']:.0f} % {where}"
