"""Where a model looks that it should not: what masking a region costs, and how much attention it gets."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxr.figures.frame import (
    BLUE,
    DARK,
    MUTED,
    SMALL,
    TEXT,
    VERMILION,
    Numbers,
    Style,
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
    wrap,
)

ALARM = 0.02  # of AUROC: an interval of the drop above it is an alarm
_MARKERS = "os^"  # a region each


def masking(table: pd.DataFrame, *, subtitle: str) -> Figure:
    """What each finding's AUROC loses when a region is masked: which findings live off a shortcut.

    `table`: a row a finding and region (up to 3), columns `finding`, `region`, `drop` (AUROC before less after;
    NaN = undefined), `low`, `high` (95 %), `few`, `alarm` (bool). Findings with an alarm come first, then by drop.
    """
    assert not table.duplicated(["finding", "region"]).any(), "a finding has a region twice"
    regions = [str(name) for name in table["region"].unique()]
    assert 0 < len(regions) <= len(_MARKERS), f"not 1 to {len(_MARKERS)} regions: {regions}"
    table = table.assign(alarm=table["alarm"].eq(True), few=table["few"].eq(True))
    names = _alarms_first(table)
    fig = figure(_verdict(table), subtitle, 1.75 + rows_height(names, 0.2 + 0.13 * len(regions)))
    ax = rows_axes(fig, names)
    for number, region in enumerate(regions):
        cells = table[table["region"] == region].set_index("finding").reindex(names)
        at = np.arange(len(names), dtype=np.float64) + (number - (len(regions) - 1) / 2) * 0.6 / len(regions)
        _region(ax, cells, at, region, _MARKERS[number])
    _drop_axis(ax, table)
    told = []
    for row, name in enumerate(names):
        own = table[table["finding"] == name]
        told.append(_told(own))
        if own["alarm"].any():
            ax.get_yticklabels()[row].set(color=VERMILION, weight="bold")
        elif own["drop"].isna().all():
            mute(ax, row)
    _explain_looks(ax, table)
    legend(fig, len(regions))
    note(ax, "ALARM: change of AUROC", (1, 1), (12, 4), weight="bold", color=DARK)
    for row, (text, style) in enumerate(told):
        note(ax, text, (1, row), (12, 0), xycoords=ax.get_yaxis_transform(), va="center", **style)
    return fig


def attention(table: pd.DataFrame, *, area: Mapping[str, float], subtitle: str) -> Figure:
    """Each finding's share of attention in each region, against the region's share of the image.

    `table`: index finding, a column a region (up to 3), shares of 0 to 1, NaN = undefined. `area`: region -> its
    share of the image, which is what a map without any preference would give it.
    """
    regions = [str(name) for name in table.columns]
    assert 0 < len(regions) <= 3, f"not 1 to 3 regions: {regions}"
    names = [str(name) for name in table.index]
    fig = figure(_attended(table, area), subtitle, 1.65 + rows_height(names))
    panels = fig.subplots(1, len(regions), sharex=True, sharey=True, squeeze=False)[0]
    for ax, region in zip(panels, regions, strict=True):
        dress(ax, names)
        _attention_panel(ax, table[region].to_numpy(dtype=float), area[region])
        ax.set_xlabel("share of attention", fontsize=TEXT)
        note(ax, f"line: {100 * area[region]:.0f} % of the image", (0, 1), (0, 4), color=DARK, fontsize=SMALL)
        note(ax, wrap(spoken(region), 1.9, TEXT * 1.1), (0, 1), (0, 18), weight="bold")
    most = float(np.nanmax([table.max(axis=None), *area.values()]))
    panels[0].set_xlim(0, min(1.0, 1.1 * most))
    panels[0].xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for ax in panels[1:]:
        ax.tick_params(labelleft=False)
    legend(fig, 2)
    return fig


def _region(ax: Axes, cells: pd.DataFrame, at: Numbers, region: str, marker: str) -> None:
    """One region's drops: alarms are large and vermilion, the rest grey; few patients hollow and dashed."""
    ax.plot([], [], marker, color=MUTED, markersize=5.5, label=f"{spoken(region)} masked")
    alarm, few = (cells[name].eq(True).to_numpy(dtype=bool) for name in ("alarm", "few"))
    there = cells["drop"].notna().to_numpy()
    for which, color, pale, size in ((alarm, VERMILION, "#EBA983", 8.0), (~alarm, MUTED, "#BBBBBB", 5.5)):
        for rows, hollow in (
            (np.flatnonzero(which & there & ~few), False),
            (np.flatnonzero(which & there & few), True),
        ):
            ends = (cells[name].iloc[rows] for name in ("drop", "low", "high"))
            style: Style = {"size": size, "hollow": hollow, "pale": pale if hollow else ""}
            whiskers(ax, at[rows], *ends, color=color, marker=marker, label="", **style)


def _explain_looks(ax: Axes, table: pd.DataFrame) -> None:
    """What colour and filling mean, for the legend: a shape is a region."""
    if table["alarm"].any():
        ax.plot([], [], color=VERMILION, linewidth=5, label=f"ALARM: the whole interval lies above {ALARM:g}")
    if (table["few"] & table["drop"].notna()).any():
        line: Style = {"color": MUTED, "linewidth": 1.8, "linestyle": (0, (2, 1.2))}
        ax.plot([], [], label="hollow: fewer than 30 effective positive patients", **line)


def _drop_axis(ax: Axes, table: pd.DataFrame) -> None:
    values = table[["drop", "low", "high"]].to_numpy(dtype=float)
    known = values[np.isfinite(values)]
    low, high = min(-0.02, float(np.min(known, initial=0.0))), max(0.05, float(np.max(known, initial=0.0)))
    ax.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    ax.axvline(0, color="black", linewidth=1.2, zorder=1)
    ax.axvline(ALARM, color=VERMILION, linewidth=1.4, linestyle=(0, (4, 2)), zorder=1)
    top: Style = {"xycoords": ax.get_xaxis_transform(), "fontsize": SMALL}
    note(ax, "no loss", (0, 1), (-3, 4), ha="right", **top)
    note(ax, f"alarm line: {ALARM:g}", (ALARM, 1), (3, 4), color=VERMILION, **top)
    ax.set_xlabel("AUROC lost when the region is masked, 95 % interval", fontsize=TEXT)


def _alarms_first(table: pd.DataFrame) -> list[str]:
    each = table.groupby("finding", sort=False).agg(alarm=("alarm", "any"), drop=("drop", "max"))
    each = each.sort_values(["alarm", "drop"], ascending=False, kind="stable", na_position="last")
    return [str(name) for name in each.index]


def _told(own: pd.DataFrame) -> tuple[str, Style]:
    """What the alarm column says of a finding: which masks raise it and by how much, or that none does."""
    raised = own[own["alarm"]].sort_values("drop", ascending=False)
    if len(raised):
        changes = zip(raised["region"], -raised["drop"], strict=True)
        lines = [f"{spoken(region)}: {change:+.3f}".replace("-", "−") for region, change in changes]
        return "\n".join(lines), {"color": VERMILION, "weight": "bold"}
    blank = own[own["drop"].isna()]
    text = "none" if blank.empty else "none; no value: " + ", ".join(map(spoken, blank["region"]))
    text = "not measured" if len(blank) == len(own) else text
    return wrap(text, 1.7, SMALL), {"color": MUTED, "fontsize": SMALL}


def _verdict(table: pd.DataFrame) -> str:
    measured, findings = (part["finding"].nunique() for part in (table.dropna(subset=["drop"]), table))
    # few patients make narrow intervals: such an alarm leads only where there is no other
    alarms = table[table["alarm"]].sort_values(["few", "drop"], ascending=[True, False], kind="stable")
    if not measured:
        return "Shortcuts: nothing could be measured"
    if alarms.empty:
        all_of = "no finding" if measured == findings else f"none of the {measured} findings measured"
        return f"No alarm: {all_of} surely loses more than {ALARM:g} of AUROC when a region is masked"
    first, others = alarms.iloc[0], alarms["finding"].nunique() - 1
    more = f"; {others} more finding{'s' * (others != 1)} raise{'s' * (others == 1)} the alarm" if others else ""
    kind = "Shortcut alarm from few patients" if first["few"] else "Shortcut alarm"
    lost = f"loses {first['drop']:.2f} of AUROC (masked: {spoken(first['region'])})"
    return f"{kind}: {spoken(first['finding'])} {lost}{more}"


def _attention_panel(ax: Axes, share: Numbers, even: float) -> None:
    ax.axvline(even, color="black", linewidth=1.2)
    more = "more attention than the region's share of the image: a hint of a shortcut, which masking tests"
    for which, marker, color, label in (
        (share > even, "D", VERMILION, more),
        (share <= even, "o", BLUE, "no more than its share of the image"),
    ):
        at = np.flatnonzero(which)
        if len(at):
            ax.hlines(at, even, share[at], color=color, linewidth=2)
            ax.plot(share[at], at, marker, color=color, label=label, markersize=7, clip_on=False)
    for row in np.flatnonzero(np.isnan(share)):
        mute(ax, int(row), whole=False)
    column(ax, 34, "%", 100 * share, ".0f", color=DARK)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def _attended(table: pd.DataFrame, area: Mapping[str, float]) -> str:
    share = table.to_numpy(dtype=float)  # [findings, regions]
    times = share / np.array([area[str(name)] for name in table.columns])
    if np.isnan(times).all():
        return "Attention by region: undefined for all"
    row, place = np.unravel_index(np.nanargmax(times), times.shape)
    if times[row, place] <= 1:
        return "No finding gives a region more attention than its share of the image"
    finding, region = str(table.index[int(row)]), str(table.columns[int(place)])
    percent = f"{100 * share[row, place]:.0f} % of its attention to {100 * area[region]:.0f} % of the image"
    return f"{spoken(finding)} gives {percent} ({spoken(region)})"
