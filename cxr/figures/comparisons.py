"""Two AUROCs of the same finding: their difference, and both side by side."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr.figures.frame import (
    BLUE,
    DARK,
    LINE,
    MUTED,
    PALE,
    TEXT,
    VERMILION,
    Style,
    auroc_axis,
    brackets,
    column,
    figure,
    is_macro,
    legend,
    mute,
    note,
    rows_axes,
    rows_height,
    whiskers,
    words,
    wrap,
)

LEVEL = 0.05  # of the p values


def differences(table: pd.DataFrame, *, names: tuple[str, str], subtitle: str) -> Figure:
    """AUROC of the first model minus that of the second, largest first, macro averages below.

    `table`: index finding or `macro_...`, columns `first`, `second`, `difference`, `difference_low`,
    `difference_high` (95 %), `p_holm` (NaN = not tested), optionally `few` (bool). NaN differences come last.
    """
    far = (table["first"] - table["second"] - table["difference"]).abs().max()
    assert not far > 0.001, f"a difference is not first minus second: off by {far}"
    table = _sorted(table.assign(few=table["few"].eq(True) if "few" in table else False), "difference")
    known = table[table["difference"].notna()]
    rows, foot = _names(table)
    heads = [wrap(name, 0.78, TEXT) for name in (*names, "differ-\nence", "95 % interval", "p\n(Holm)")]
    # an arrow stays with its word: textwrap does not break at a no-break space
    sides = [wrap(f"←\u00a0{names[1]} better", 1.2, TEXT), wrap(f"{names[0]} better\u00a0→", 1.2, TEXT)]
    above = max(head.count("\n") for head in (*heads, *sides)) * TEXT * LINE
    fig = figure(_verdict(known, names), subtitle, 1.6 + above + rows_height([*rows, *foot]))
    ax = rows_axes(fig, rows, foot)
    _decisions(ax, table, names)
    ends = known[["difference", "difference_low", "difference_high"]].abs().to_numpy(dtype=float)
    reach = 1.08 * float(np.max(ends[np.isfinite(ends)], initial=0.005))
    ax.set_xlim(-reach, reach)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.axvline(0, color="black", linewidth=1.2)
    label = f"difference of AUROC, 95 % interval\n{wrap(f'{names[0]} minus {names[1]}', 4.0, TEXT)}"
    ax.set_xlabel(label, fontsize=TEXT, parse_math=False)
    for side, align, text in zip((0.0, 1.0), ("left", "right"), sides, strict=True):
        note(ax, text, (side, 1), (0, 3), ha=align, color=DARK)
    for row in np.flatnonzero(table["difference"].isna()):
        mute(ax, int(row))
    legend(fig, 2)
    column(ax, 68, heads[0], table["first"], ".3f", color=DARK)
    column(ax, 134, heads[1], table["second"], ".3f", color=DARK)
    column(ax, 184, heads[2], table["difference"], "+.3f", color=DARK, weight="bold")
    words(
        ax, 288, "95 % interval", brackets(table["difference_low"], table["difference_high"], "+.3f"), color=DARK
    )
    words(ax, 336, heads[4], [_p(value) for value in table["p_holm"]], color=DARK)
    return fig


def beside(table: pd.DataFrame, *, names: tuple[str, str], title: str, subtitle: str) -> Figure:
    """Two AUROCs a finding with their 95 % intervals, in the order of the first; macro averages below.

    `table`: index finding or `macro_...`, columns `first`, `first_low`, `first_high`, `second`, `second_low`,
    `second_high` (NaN = undefined, or no interval). Any other column is a count, shown under its own name.
    """
    table = _sorted(table, "first")
    values = [f"{which}{end}" for which in ("first", "second") for end in ("", "_low", "_high")]
    counts = [str(name) for name in table.columns if name not in values]
    rows, foot = _names(table)
    heads = [wrap(name, 1.0, TEXT) for name in (*names, *(count.replace("_", " ") for count in counts))]
    above = max(head.count("\n") for head in heads) * TEXT * LINE
    fig = figure(title, subtitle, 1.4 + above + rows_height([*rows, *foot], 0.42))
    ax = rows_axes(fig, rows, foot)
    auroc_axis(ax, [table[values]])
    both = np.flatnonzero(table[["first", "second"]].notna().all(axis=1))
    middle: Style = {"color": "#BBBBBB", "linewidth": 1.2, "zorder": 1}
    ax.plot(table[["first", "second"]].iloc[both].T, [both - 0.17, both + 0.17], **middle)
    for which, name, offset, marker, color in zip(
        ("first", "second"), names, (-0.17, 0.17), "oD", (BLUE, VERMILION), strict=True
    ):
        ends = (table[f"{which}{end}"] for end in ("", "_low", "_high"))
        at, label = np.arange(len(table)) + offset, f"{name}, 95 % interval"
        whiskers(ax, at, *ends, color=color, marker=marker, label=label, size=6)
    for row in np.flatnonzero(table[["first", "second"]].isna().all(axis=1)):
        mute(ax, int(row))
    legend(fig, 2)
    right = 76
    for which, head, color in zip(("first", "second"), heads, (BLUE, VERMILION), strict=False):
        column(ax, right, head, table[which], ".3f", color=color)
        right += 76
    for count, head in zip(counts, heads[2:], strict=True):
        column(ax, right, head, table[count].astype(float), ",.0f", color=DARK)
        right += 76
    return fig


def _sorted(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Findings by a column, highest first and undefined last; then macro averages as they came."""
    macro = np.array([is_macro(name) for name in table.index], dtype=bool)
    findings = table[~macro].sort_values(by, ascending=False, kind="stable", na_position="last")
    return pd.concat([findings, table[macro]])


def _names(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    names = [str(name) for name in table.index]
    return [n for n in names if not is_macro(n)], [n for n in names if is_macro(n)]


def _p(value: float) -> str:
    return "–" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _wins(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Where the first model is better and where the second is, beyond chance and from enough patients."""
    decided = (table["p_holm"] < LEVEL) & ~table["few"]
    return decided & (table["difference"] > 0), decided & (table["difference"] < 0)


def _decisions(ax: Axes, table: pd.DataFrame, names: tuple[str, str]) -> None:
    (first, second), few = _wins(table), table["few"]
    untested = table["p_holm"].isna() & ~few
    for which, label, marker, color, pale in (
        (first, f"{names[0]} better, p < {LEVEL} (Holm)", "o", BLUE, ""),
        (second, f"{names[1]} better, p < {LEVEL} (Holm)", "D", VERMILION, ""),
        (~first & ~second & ~untested & ~few, "undecided", "s", MUTED, ""),
        (untested, "not tested (no p)", "^", MUTED, ""),
        (few, "fewer than 30 effective positive patients", "s", MUTED, PALE),
    ):
        at = np.flatnonzero(which & table["difference"].notna())
        if len(at):
            ends = (table[f"difference{end}"].iloc[at] for end in ("", "_low", "_high"))
            whiskers(ax, at, *ends, color=color, marker=marker, label=label, hollow=color == MUTED, pale=pale)


def _verdict(known: pd.DataFrame, names: tuple[str, str]) -> str:
    known = known[[not is_macro(name) for name in known.index]]
    if known.empty:
        return f"{names[0]} and {names[1]}: no difference is defined"
    if known["p_holm"].isna().all():
        return f"{names[0]} minus {names[1]}: differences of AUROC, not tested"
    tested = known[known["p_holm"].notna()]
    first, second = (int(which.sum()) for which in _wins(tested))
    undecided = f"undecided for {len(tested) - first - second} of {len(tested)}"
    return f"{names[0]} better for {first}; {names[1]} better for {second}; {undecided}"
