"""Figures of how common findings are: in each split, in test against training, as estimated from scores."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.figures.frame import (
    BLUE,
    DARK,
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


def prior_shift(table: pd.DataFrame, *, subtitle: str) -> Figure:
    """How common findings are in validation and test, and as estimated from the test scores alone (EM).

    `table`: index finding, columns `validation_prevalence`, `test_prevalence`, `em_prevalence` (0 to 1, NaN =
    unknown). Most common in test first; the axis is logarithmic, so a prevalence of 0 stands in the columns only.
    """
    shares = 100 * table[["validation_prevalence", "test_prevalence", "em_prevalence"]].astype(float)
    shares = shares.set_axis(["validation", "test", "estimated"], axis=1)
    shares = shares.sort_values("test", ascending=False, kind="stable", na_position="last")
    n, names = len(shares), [str(name) for name in shares.index]
    fig = figure(_prior_title(shares), subtitle, 1.5 + rows_height(names))
    ax = rows_axes(fig, names)
    drawn = shares.where(shares > 0)
    for row, (start, end) in enumerate(zip(drawn["validation"], drawn["test"], strict=True)):
        if np.isfinite(start) and np.isfinite(end):
            arrow: Style = {"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.3, "shrinkA": 3, "shrinkB": 3}
            ax.annotate("", (end, row), (start, row), arrowprops=arrow)
    looks = {
        "validation": ("o", BLUE, BLUE, "validation"),
        "test": ("D", VERMILION, VERMILION, "test, by its labels"),
        "estimated": ("s", "none", "black", "test, estimated from the scores without labels (EM)"),
    }
    for name, (marker, face, edge, label) in looks.items():
        style: Style = {"markerfacecolor": face, "markeredgecolor": edge, "clip_on": False}
        size = 11 if name == "estimated" else 7
        ax.plot(drawn[name], range(n), marker, label=label, markersize=size, markeredgewidth=1.4, **style)
    known = drawn.to_numpy()[drawn.notna().to_numpy()]
    low, high = (known.min() / 1.4, min(100.0, known.max() * 1.4)) if len(known) else (0.1, 100.0)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    steps = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if high < 2000 * low else (0.001, 0.01, 0.1, 1, 10, 100)
    ticks = [t for t in steps if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g} %" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("images with the finding, % of those labelled (log scale)", fontsize=TEXT)
    for blank in np.flatnonzero(shares.isna().all(axis=1)):
        mute(ax, int(blank), "not known")
    legend(fig)
    for right, name in ((68, "validation"), (118, "test"), (190, "estimated")):
        column(ax, right, name, shares[name], ".2f", color=DARK)
    note(ax, "% of images", (1, 1), (190, 20), ha="right", color=DARK, weight="bold")
    return fig


def _prior_title(shares: pd.DataFrame) -> str:
    logs = shares.where(shares > 0).map(np.log).dropna()
    if logs.empty:
        return "How common findings are in validation and test: nothing to compare"
    nearer = (logs["estimated"] - logs["test"]).abs() < (logs["validation"] - logs["test"]).abs()
    share = f"{nearer.sum()} of {len(logs)}"
    return f"Test prevalence: the estimate without labels comes nearer than validation's for {share}"
