"""Figures of class-averaged Grad-CAM: each finding's mean map, all findings at one look, outcomes apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr.figures.frame import DARK, MUTED, SMALL, TEXT, Style, capital, figure, note, spoken, wrap
from cxr.figures.pictures import Heat, Pixels, overlay, picture, scale, scale_bar, sheet

# outcome -> what stands under its picture
OUTCOMES = {"true positive": "found", "false negative": "missed", "false positive": "false alarm"}
_BOX: Style = {"bbox": {"fc": "white", "ec": "none", "pad": 3.0}, "ha": "center", "va": "center"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMapRow:
    """The class-averaged Grad-CAM of one finding, over `images` images of `patients` patients.

    `auroc` None means undefined. The three pictures share one shape [H, W]: `mean_image` grey levels,
    `mean_map` >= 0 and `sd_map` (all NaN where fewer than two images) in the unit of the class's logit.
    """

    finding: str
    auroc: float | None
    images: int
    patients: int
    mean_image: Pixels
    mean_map: Heat
    sd_map: Heat
    zero_maps: int = 0  # images whose map has no positive value


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The average over the images of one outcome: `mean_image` grey levels [H, W], `mean_map` [H, W] >= 0."""

    images: int
    patients: int
    mean_image: Pixels
    mean_map: Heat


@dataclass(frozen=True, kw_only=True, eq=False)
class OutcomeRow:
    """A finding's averages by outcome, a key of OUTCOMES; an outcome without an image is left out."""

    finding: str
    groups: Mapping[str, Group]


def class_maps(rows: Sequence[ClassMapRow], *, title: str, subtitle: str) -> Figure:
    """The paper's Figures 2 and 3: mean image, mean Grad-CAM and its SD, one row a finding.

    Within a row the mean and the SD share one scale, from 0 to the higher of the two maxima, shown by the
    row's colour bar. Rows have scales of their own: logits of different classes do not compare.
    """
    assert rows, "no rows to draw"
    height, width = rows[0].mean_image.shape
    fig = figure(title, subtitle, 0.35 + len(rows) * (2.12 * height / width + 0.12), compress=True)
    axes = fig.subplots(len(rows), 3, squeeze=False)
    for ax, head in zip(axes[0], ("mean image", "mean map", "SD of the maps"), strict=True):
        ax.set_title(head, fontsize=TEXT)
    for row, cells in zip(rows, axes, strict=True):
        _class_map_row(row, cells)
    return fig


def class_grid(rows: Sequence[ClassMapRow], *, title: str, subtitle: str) -> Figure:
    """All findings at one look: each one's mean map over its mean image, five a line.

    Every picture has its own scale, from 0 to the maximum that stands under it: colours of two findings do
    not compare, since logits of different classes do not.
    """
    cells = []
    for row in rows:
        highest = f"maximum {row.mean_map.max():.2g} logits" if row.mean_map.any() else "mean map is zero"
        cells.append((overlay(row.mean_image, row.mean_map), spoken(row.finding), f"{_sizes(row)}\n{highest}"))
    subtitle += "\nEach picture has its own scale: compare where the colours lie, not how strong they are."
    fig = sheet(cells, (title, subtitle), columns=5, extra=0.55, weight="bold")
    scale_bar(fig, "picture's maximum")
    return fig


def outcomes(rows: Sequence[OutcomeRow], *, title: str, subtitle: str) -> Figure:
    """Mean maps of found, missed and falsely alarmed images, each over its mean image; two findings a line.

    A finding has one scale, from 0 to the highest of its maxima, shown by its colour bar: strength compares within
    a finding, and not between findings.
    """
    assert rows, "no rows to draw"
    assert all(set(row.groups) <= set(OUTCOMES) for row in rows), f"outcomes are {list(OUTCOMES)}"
    shapes = [group.mean_image.shape for row in rows for group in row.groups.values()]
    height, width = shapes[0] if shapes else (8, 8)
    words = "; ".join(f"{said}: {outcome}s" for outcome, said in OUTCOMES.items())
    subtitle += f"\n{capital(words)}. Colours are in logit units and compare within a finding only."
    lines = -(-len(rows) // 2)
    fig = figure(title, subtitle, 0.1 + lines * (1.25 * height / width + 0.82), compress=True)
    axes = fig.subplots(lines, 6, squeeze=False).reshape(-1, 3)  # [findings, outcomes]
    for row, cells in zip(rows, axes, strict=False):
        _outcome_row(row, list(cells), np.full((height, width), 245, np.uint8))
    for ax in axes[len(rows) :].flat:
        ax.remove()
    return fig


def _class_map_row(row: ClassMapRow, axes: Sequence[Axes]) -> None:
    has_sd, nothing = not np.isnan(row.sd_map).all(), np.zeros_like(row.mean_map)
    sd_map = row.sd_map if has_sd else nothing
    limit = float(max(row.mean_map.max(), sd_map.max()))
    for ax, heat in zip(axes, (nothing, row.mean_map, sd_map), strict=True):
        picture(ax, overlay(row.mean_image, heat, limit=limit))
    if not row.mean_map.any():
        note(axes[1], "map is zero", (0.5, 0.5), (0, 0), **_BOX)
    if not sd_map.any():
        note(axes[2], "SD is zero" if has_sd else "SD needs two images", (0.5, 0.5), (0, 0), **_BOX)
    note(axes[0], wrap(spoken(row.finding), 1.3, 12), (0, 0.55), (-8, 0), ha="right", weight="bold")
    note(axes[0], _sizes(row), (0, 0.53), (-8, 0), ha="right", va="top", color=DARK)
    _bar(axes[2], limit, "Grad-CAM, logit units")


def _outcome_row(row: OutcomeRow, axes: Sequence[Axes], blank: Pixels) -> None:
    limit = max((float(group.mean_map.max()) for group in row.groups.values()), default=0.0)
    for ax, (outcome, said) in zip(axes, OUTCOMES.items(), strict=True):
        group = row.groups.get(outcome)
        counts = f"{_count(group.images, 'image')}\n{_count(group.patients, 'patient')}" if group else ""
        ax.set_xlabel(f"{said}\n{counts}", fontsize=SMALL, color=DARK, labelpad=3)
        picture(ax, overlay(group.mean_image, group.mean_map, limit=limit) if group else blank)
        if group is None:
            note(ax, "no image", (0.5, 0.5), (0, 0), ha="center", va="center", style="italic", color=MUTED)
            continue
        if not group.mean_map.any():
            note(ax, "map is zero", (0.5, 0.5), (0, 0), **_BOX)
    axes[0].set_title(wrap(spoken(row.finding), 2.4, TEXT * 1.1), loc="left", fontsize=TEXT, weight="bold",
                      parse_math=False)  # fmt: skip
    _bar(axes[2], limit)


def _bar(ax: Axes, limit: float, label: str = "") -> None:
    """The scale of a line, right of its last picture; none where every map is zero."""
    if limit > 0:
        bar_axes = ax.inset_axes((1.04, 0.0, 0.05, 1.0))
        bar = ax.figure.colorbar(scale(limit), cax=bar_axes)
        bar.set_label(label, fontsize=SMALL)
        bar.locator = MaxNLocator(4, steps=[1, 2, 5, 10])
        bar_axes.tick_params(labelsize=SMALL)


def _sizes(row: ClassMapRow) -> str:
    """AUROC and counts, a line each."""
    score = "AUROC undefined" if row.auroc is None else f"AUROC {row.auroc:.3f}"
    lines = [score, _count(row.images, "image"), _count(row.patients, "patient")]
    return "\n".join([*lines, *([_count(row.zero_maps, "zero map")] if row.zero_maps else [])])


def _count(number: int, one: str) -> str:
    return f"{number:,} {one}{'s' * (number != 1)}"
