"""Figures of tables: how common findings are, how test differs from training, AUROC."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.figures.frame import (
    BLUE,
    DARK,
    MUTED,
    PALE,
    SMALL,
    TEXT,
    VERMILION,
    Style,
    column,
    figure,
    note,
    rows_axes,
    wrap,
)
from cxr.findings import CLASSES

_COLUMNS = (55, 119, 167)  # points from the axes to the right edges of columns
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def prevalence(counts: pd.DataFrame, *, subtitle: str) -> Figure:
    """How common each class is in each split, in % of the split's labelled images, most common in train first.

    `counts`: index = names of `CLASSES` (any subset), columns `train`, `val`, `test` = positive images;
    `counts.attrs["images"]` = {"train": n, "val": n, "test": n}, all images of each split, and optionally
    `counts.attrs["labelled"]`, a table like `counts` of the images labelled in each class. The axis is
    logarithmic (0.2 % and 60 % must both be readable) with a true 0. A split without images is left out.
    """
    assert set() < set(counts.index) <= set(CLASSES), f"not our classes: {list(counts.index)}"
    images = counts.attrs["images"]
    looks = {"train": (-0.22, "o", BLUE), "val": (0.0, "s", DARK), "test": (0.22, "D", VERMILION)}
    shown = [split for split in _SPLITS if images[split]]
    labelled = counts.attrs.get("labelled", pd.DataFrame(images, index=counts.index))
    share = (100 * counts / labelled.where(labelled > 0))[shown]
    order = list(share.sort_values(shown, ascending=False, kind="stable").index)
    n, names = len(order), [_SPLITS[split] for split in shown]
    where = f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else f"the {names[0]} images"
    fig = figure(f"How common each finding is in {where}", subtitle, 1.4 + 0.4 * n)
    ax = rows_axes(fig, order)
    for split, right in zip(shown, _COLUMNS[-len(shown) :], strict=True):
        offset, marker, color = looks[split]
        offset *= len(shown) > 1
        style: Style = {"color": color, "label": f"{_SPLITS[split]} ({images[split]:,} images)", "clip_on": False}
        ax.plot(share.loc[order, split], np.arange(n) + offset, marker, **style)
        column(ax, right, _SPLITS[split], counts.loc[order, split], ",", color=color)
    note(ax, "positive images", (1, 1), (_COLUMNS[-1], 20), ha="right", color=DARK, weight="bold")
    positive = [x for x in share.to_numpy(dtype=float).flat if x > 0]
    smallest = float(10 ** np.floor(np.log10(min(positive, default=0.1))))
    ticks = [0, smallest, *(t for t in (0.1, 0.3, 1, 3, 10, 30, 100) if t > smallest)]
    ax.set_xscale("symlog", linthresh=smallest, linscale=0.4)
    ax.set_xticks(ticks, [f"{t:g} %" for t in ticks])
    ax.set_xlim(-smallest / 10, 100)
    ax.set_xlabel(f"positive images, % of those labelled (log scale above {smallest:g} %)", fontsize=TEXT)
    fig.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=SMALL)
    return fig


def shift(measures: pd.DataFrame, *, subtitle: str) -> Figure:
    """How the test images' population differs from training's: a ratio a measure, the largest first.

    `measures`: index = the rows of a leakage report, columns `train`, `test`, `test_over_train`. The axis is
    logarithmic, so that twice and half lie equally far from 1. Measures without a ratio have no row.
    """
    names = {"images_per_patient_mean": "images a patient", "age_mean_years": "age, years (mean)",
             "male_share": "men", "ap_view_share": "AP views"}  # fmt: skip
    rows = measures[["train", "test", "test_over_train"]].rename(index=names)
    rows.index = rows.index.str.removeprefix("prevalence/")
    rows = rows.loc[[name for name in rows.index if name in (*names.values(), *CLASSES)]]
    rows = rows[rows["test_over_train"] > 0].sort_values("test_over_train", ascending=False, kind="stable")
    n = len(rows)
    fig = figure(_shift_title(rows["test_over_train"]), subtitle, 1.4 + 0.34 * max(n, 1))
    ax = rows_axes(fig, list(rows.index) or ["nothing to compare"])
    ratio = rows["test_over_train"].to_numpy(dtype=float)
    far = np.abs(np.log2(ratio)) > np.log2(1.5)
    for label, marker, color, which in (
        ("within a factor of 1.5", "o", BLUE, ~far), ("more than a factor of 1.5 apart", "D", VERMILION, far),
    ):  # fmt: skip
        at = np.flatnonzero(which)
        ax.hlines(at, 1, ratio[which], color=color, linewidth=2)
        ax.plot(ratio[which], at, marker, color=color, label=label, markersize=8)
    ax.axvline(1, color="black", linewidth=1.2)
    ax.set_xscale("log")
    reach = max(2.0, *(1.15 * max(r, 1 / r) for r in ratio)) if n else 2.0
    ticks = [t for t in (0.1, 0.2, 0.33, 0.5, 0.67, 1, 1.5, 2, 3, 5, 10) if 1 / reach <= t <= reach]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(1 / reach, reach)
    ax.set_xlabel("test / training (log scale; 1 = the same)", fontsize=TEXT)
    fig.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=SMALL)
    for right, head in ((62, "train"), (124, "test")):
        note(ax, head, (1, 1), (right, 4), ha="right", color=DARK, weight="bold")
        for row, (name, value) in enumerate(rows[head].items()):
            text = f"{value:.1f}" if name in ("images a patient", "age, years (mean)") else f"{100 * value:.1f} %"
            place = {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
            note(ax, text, (1, row), (right, 0), **place)
    return fig


def _shift_title(ratios: pd.Series) -> str:
    findings = ratios[[name for name in ratios.index if name in CLASSES]]
    if findings.empty:
        return "How the test images differ from training's"
    widest = str(np.log(findings).abs().idxmax())
    return (
        f"{widest.replace('_', ' ')} is {findings[widest]:.2g} times as common in the test images as in training"
    )


def auroc(table: pd.DataFrame, *, macro: float | None, macro_note: str, subtitle: str) -> Figure:
    """The paper's Figure 1: AUROC of every class, highest first, as bars from chance (0.5).

    `table` columns: `finding`, `auroc` (NaN = undefined: listed last, greyed), `positives` (images),
    `patients` (positive patients), and optionally `paper` (the paper's AUROC, NaN where it has none) and
    `in_macro` (bool; a class outside of the macro average has a paler bar). `macro` is drawn as a line
    labelled with `macro_note`, such as "mean of 14 findings"; None draws no line.
    """
    assert set() < set(table["finding"]) <= set(CLASSES), f"not our classes: {list(table['finding'])}"
    table = table.sort_values("auroc", ascending=False, kind="stable", na_position="last")
    n, has_paper = len(table), "paper" in table
    names, scores = [f.replace("_", " ") for f in table["finding"]], table["auroc"].to_numpy(dtype=float)
    paper = table["paper"].to_numpy(dtype=float) if has_paper else np.full(n, np.nan)
    averaged = table["in_macro"].to_numpy(dtype=bool) if "in_macro" in table else np.full(n, True)
    known = [f"{f} {s:.3f}" for f, s in zip(names, scores, strict=True) if not np.isnan(s)]
    span = " to ".join(known[:1] + known[1:][-1:]) or "undefined for all"
    excess, others = np.nan_to_num(scores - 0.5), "this model, not in the macro average"
    fig = figure(f"AUROC by finding: {span}", subtitle, 1.75 + 0.34 * n)
    ax = rows_axes(fig, names)
    for label, color, rows in (("this model", BLUE, averaged), (others, PALE, ~averaged)):
        if rows.any():
            ax.barh(np.flatnonzero(rows), excess[rows], 0.62, left=0.5, color=color, label=label)
    for row in range(len(known), n):
        ax.text(0.508, row, "undefined", color=MUTED, style="italic", va="center", fontsize=TEXT)
        ax.get_yticklabels()[row].set_color(MUTED)
    lowest = np.nanmin([0.45, 0.5 if macro is None else macro, *scores, *paper])
    ax.set_xlim(max(0.0, np.floor(10 * lowest - 0.2) / 10), 1.0)
    ax.set_xlabel("AUROC (1 = every image with the finding scores above every image without)", fontsize=TEXT)
    ax.axvline(0.5, color="black", linewidth=1.2)
    note(ax, "chance", (0.5, 1), (0, 3), xycoords=ax.get_xaxis_transform(), ha="center")
    if macro is not None:
        ax.axvline(macro, color=VERMILION, linewidth=1.6, linestyle=(0, (5, 3)))
        style: Style = {"xycoords": ax.get_xaxis_transform(), "color": VERMILION, "weight": "bold"}
        style["ha"] = "left" if macro < 0.6 else "right" if macro > 0.85 else "center"  # where there is room
        note(ax, f"macro {macro:.3f}\n{wrap(macro_note, 4.4, 11)}", (macro, 1), (0, 19), **style)
    if has_paper:
        style = {"color": "white", "markeredgecolor": "black", "markersize": 7}
        ax.plot(paper, range(n), "D", label="paper (Ahmed 2025)", **style)
        column(ax, 96, "paper", paper, ".3f", color=DARK)
    if has_paper or not averaged.all():
        fig.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=SMALL)
    last = 218 if has_paper else 170  # points to the right edge of the last column
    column(ax, 48, "AUROC", scores, ".3f", color=DARK, weight="bold")
    column(ax, last - 60, "images", table["positives"], ",", color=DARK)
    column(ax, last, "patients", table["patients"], ",", color=DARK)
    note(ax, "with the finding", (1, 1), (last, 20), ha="right", color=DARK, weight="bold")
    return fig
