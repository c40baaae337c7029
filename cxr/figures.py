"""Figures for people who read a run: how common findings are, AUROC, Grad-CAM maps, contact sheets.

Every function takes tables or arrays and returns a `Figure` that nothing else holds on to: no pyplot, no
global state, so it draws in any thread and without a display. Input comes from our own code: a wrong
shape fails an assertion. Figures are 990 pixels wide, to stay readable at the 900 that the MLflow UI
gives a picture. Colours are from Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), each with
a second cue (marker, position or text). A caller's text is never mathtext: names may hold a dollar sign.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from cxr.findings import CLASSES

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.floating[Any]]
Cell = tuple[Pixels, str, str]  # picture, caption, name
Style = dict[str, Any]

_WIDTH, _DPI, _LINE = 9.0, 110, 1.35 / 72  # inches; pixels per inch; inches of line height per point of font
_TITLE, _TEXT, _SMALL = 14.0, 10.0, 9.0  # points
_BLUE, _PALE, _VERMILION, _DARK, _MUTED = "#0072B2", "#8FC1DE", "#D55E00", "#444444", "#707070"
_COLUMNS = (55, 119, 167)  # points from the axes to the right edges of columns
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_HEAT_MAP = colormaps["plasma"]  # perceptually uniform; its low end is a colour, not black, so grey shows


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


@dataclass(frozen=True, eq=False)
class Tile:
    """One grey image [H, W], its map [H, W] >= 0, what to say of it, and its file name."""

    image: Pixels
    map: Heat
    caption: str
    name: str


def prevalence(counts: pd.DataFrame, *, subtitle: str) -> Figure:
    """How common each class is in each split, in % of the split's labelled images, most common in train first.

    `counts`: index = names of `CLASSES` (any subset), columns `train`, `val`, `test` = positive images;
    `counts.attrs["images"]` = {"train": n, "val": n, "test": n}, all images of each split, and optionally
    `counts.attrs["labelled"]`, a table like `counts` of the images labelled in each class. The axis is
    logarithmic (0.2 % and 60 % must both be readable) with a true 0. A split without images is left out.
    """
    assert set() < set(counts.index) <= set(CLASSES), f"not our classes: {list(counts.index)}"
    images = counts.attrs["images"]
    looks = {"train": (-0.22, "o", _BLUE), "val": (0.0, "s", _DARK), "test": (0.22, "D", _VERMILION)}
    shown = [split for split in _SPLITS if images[split]]
    labelled = counts.attrs.get("labelled", pd.DataFrame(images, index=counts.index))
    share = (100 * counts / labelled.where(labelled > 0))[shown]
    order = list(share.sort_values(shown, ascending=False, kind="stable").index)
    n, names = len(order), [_SPLITS[split] for split in shown]
    where = f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else f"the {names[0]} images"
    fig = _figure(f"How common each finding is in {where}", subtitle, 1.4 + 0.4 * n)
    ax = _rows_axes(fig, order)
    for split, right in zip(shown, _COLUMNS[-len(shown) :], strict=True):
        offset, marker, color = looks[split]
        offset *= len(shown) > 1
        style: Style = {"color": color, "label": f"{_SPLITS[split]} ({images[split]:,} images)", "clip_on": False}
        ax.plot(share.loc[order, split], np.arange(n) + offset, marker, **style)
        _column(ax, right, _SPLITS[split], counts.loc[order, split], ",", color=color)
    _note(ax, "positive images", (1, 1), (_COLUMNS[-1], 20), ha="right", color=_DARK, weight="bold")
    positive = [x for x in share.to_numpy(dtype=float).flat if x > 0]
    smallest = float(10 ** np.floor(np.log10(min(positive, default=0.1))))
    ticks = [0, smallest, *(t for t in (0.1, 0.3, 1, 3, 10, 30, 100) if t > smallest)]
    ax.set_xscale("symlog", linthresh=smallest, linscale=0.4)
    ax.set_xticks(ticks, [f"{t:g} %" for t in ticks])
    ax.set_xlim(-smallest / 10, 100)
    ax.set_xlabel(f"positive images, % of those labelled (log scale above {smallest:g} %)", fontsize=_TEXT)
    fig.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=_SMALL)
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
    fig = _figure(_shift_title(rows["test_over_train"]), subtitle, 1.4 + 0.34 * max(n, 1))
    ax = _rows_axes(fig, list(rows.index) or ["nothing to compare"])
    ratio = rows["test_over_train"].to_numpy(dtype=float)
    far = np.abs(np.log2(ratio)) > np.log2(1.5)
    for label, marker, color, which in (
        ("within a factor of 1.5", "o", _BLUE, ~far), ("more than a factor of 1.5 apart", "D", _VERMILION, far),
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
    ax.set_xlabel("test / training (log scale; 1 = the same)", fontsize=_TEXT)
    fig.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=_SMALL)
    for right, head in ((62, "train"), (124, "test")):
        _note(ax, head, (1, 1), (right, 4), ha="right", color=_DARK, weight="bold")
        for row, (name, value) in enumerate(rows[head].items()):
            text = f"{value:.1f}" if name in ("images a patient", "age, years (mean)") else f"{100 * value:.1f} %"
            place = {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
            _note(ax, text, (1, row), (right, 0), **place)
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
    fig = _figure(f"AUROC by finding: {span}", subtitle, 1.75 + 0.34 * n)
    ax = _rows_axes(fig, names)
    for label, color, rows in (("this model", _BLUE, averaged), (others, _PALE, ~averaged)):
        if rows.any():
            ax.barh(np.flatnonzero(rows), excess[rows], 0.62, left=0.5, color=color, label=label)
    for row in range(len(known), n):
        ax.text(0.508, row, "undefined", color=_MUTED, style="italic", va="center", fontsize=_TEXT)
        ax.get_yticklabels()[row].set_color(_MUTED)
    lowest = np.nanmin([0.45, 0.5 if macro is None else macro, *scores, *paper])
    ax.set_xlim(max(0.0, np.floor(10 * lowest - 0.2) / 10), 1.0)
    ax.set_xlabel("AUROC (1 = every image with the finding scores above every image without)", fontsize=_TEXT)
    ax.axvline(0.5, color="black", linewidth=1.2)
    _note(ax, "chance", (0.5, 1), (0, 3), xycoords=ax.get_xaxis_transform(), ha="center")
    if macro is not None:
        ax.axvline(macro, color=_VERMILION, linewidth=1.6, linestyle=(0, (5, 3)))
        style: Style = {"xycoords": ax.get_xaxis_transform(), "color": _VERMILION, "weight": "bold"}
        style["ha"] = "left" if macro < 0.6 else "right" if macro > 0.85 else "center"  # where there is room
        _note(ax, f"macro {macro:.3f}\n{_wrap(macro_note, 4.4, 11)}", (macro, 1), (0, 19), **style)
    if has_paper:
        style = {"color": "white", "markeredgecolor": "black", "markersize": 7}
        ax.plot(paper, range(n), "D", label="paper (Ahmed 2025)", **style)
        _column(ax, 96, "paper", paper, ".3f", color=_DARK)
    if has_paper or not averaged.all():
        fig.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=_SMALL)
    last = 218 if has_paper else 170  # points to the right edge of the last column
    _column(ax, 48, "AUROC", scores, ".3f", color=_DARK, weight="bold")
    _column(ax, last - 60, "images", table["positives"], ",", color=_DARK)
    _column(ax, last, "patients", table["patients"], ",", color=_DARK)
    _note(ax, "with the finding", (1, 1), (last, 20), ha="right", color=_DARK, weight="bold")
    return fig


def class_maps(rows: Sequence[ClassMapRow], *, title: str, subtitle: str) -> Figure:
    """The paper's Figures 2 and 3: mean image, mean Grad-CAM and its SD, one row a finding.

    Within a row the mean and the SD share one scale, from 0 to the higher of the two maxima, shown by the
    row's colour bar. Rows have scales of their own: logits of different classes do not compare.
    """
    assert rows, "no rows to draw"
    height, width = rows[0].mean_image.shape
    fig = _figure(title, subtitle, 0.35 + len(rows) * (2.12 * height / width + 0.12), compress=True)
    axes = fig.subplots(len(rows), 3, squeeze=False)
    for ax, head in zip(axes[0], ("mean image", "mean map", "SD of the maps"), strict=True):
        ax.set_title(head, fontsize=_TEXT)
    for row, cells in zip(rows, axes, strict=True):
        _class_map_row(row, cells)
    return fig


def panel(tiles: Sequence[Tile], *, title: str, subtitle: str, columns: int = 3) -> Figure:
    """Single images, each beside its own Grad-CAM overlay, `columns` pairs a line.

    Every overlay has its own scale, from 0 to that map's maximum: colours of two tiles do not compare.
    """
    cells = [(_pair(t), t.caption, t.name + ("" if t.map.any() else " (map is zero)")) for t in tiles]
    fig = _sheet(cells, (title, subtitle), columns, extra=0.55)
    bar = fig.colorbar(_scale(1.0), ax=fig.axes, location="bottom", shrink=0.3, aspect=28, pad=0.02)
    bar.set_ticks([0, 1], labels=["0", "tile's maximum"], fontsize=_SMALL)
    return fig


def example_images(images: Sequence[Pixels], captions: Sequence[str], *, title: str, subtitle: str) -> Figure:
    """A contact sheet of grey uint8 images [H, W], up to four a line, each under its caption."""
    assert all((i.ndim, i.dtype.name) == (2, "uint8") for i in images), "a grey image is uint8 [H, W]"
    return _sheet([(i, c, "") for i, c in zip(images, captions, strict=True)], (title, subtitle), columns=4)


def overlay(image: Pixels, heat: Heat, *, limit: float | None = None, alpha: float = 0.45) -> Pixels:
    """`heat` laid over a grey `image`: RGB, uint8 [H, W, 3], from uint8 [H, W] and finite float [H, W] >= 0.

    Colour runs from heat 0 to `limit` (default: the map's maximum; higher values are clipped), and so does
    the blend weight, from 0 to `alpha`: heat 0, or limit 0, leaves the grey untouched.
    """
    assert (image.ndim, image.dtype.name) == (2, "uint8"), f"not uint8 [H, W]: {image.dtype} {image.shape}"
    assert heat.shape == image.shape, f"map {heat.shape} does not fit image {image.shape}"
    assert 0 <= heat.min() <= heat.max() < np.inf, "the map is negative or not finite somewhere"
    top = float(heat.max()) if limit is None else limit
    assert top >= 0 <= alpha <= 1, f"limit {top} is negative, or alpha {alpha} not between 0 and 1"
    level = np.minimum(heat, top) / top if top > 0 else np.zeros(heat.shape)
    weight = alpha * level[..., None]
    blend: Pixels = np.rint((1 - weight) * image[..., None] + weight * 255 * _HEAT_MAP(level)[..., :3])
    return blend.astype(np.uint8)


def _wrap(text: str, inches: float, size: float) -> str:
    # 0.54 em is a little over the mean width of a letter in matplotlib's default font
    letters = max(8, int(inches * 72 / (0.54 * size)))
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def _figure(title: str, subtitle: str, body: float, *, compress: bool = False) -> Figure:
    """A figure with `body` inches for its axes under a left-aligned title and subtitle."""
    title, subtitle = _wrap(title, _WIDTH - 0.2, _TITLE * 1.1), _wrap(subtitle, _WIDTH - 0.2, _TEXT)
    second = 0.16 + (title.count("\n") + 1) * _TITLE * _LINE  # inches from the top edge to the subtitle
    height = second + (subtitle.count("\n") + 1) * _TEXT * _LINE + 0.08 + body
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, body / height), compress=compress, h_pad=0.06, w_pad=0.06)
    fig = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout=engine)
    style: Style = {"va": "top", "parse_math": False}
    fig.text(0.1 / _WIDTH, 1 - 0.1 / height, title, fontsize=_TITLE, weight="bold", **style)
    fig.text(0.1 / _WIDTH, 1 - second / height, subtitle, fontsize=_TEXT, color=_DARK, **style)
    return fig


def _rows_axes(fig: Figure, names: list[str]) -> Axes:
    ax = fig.subplots()
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first row on top
    ax.set_yticks(range(len(names)), [n.replace("_", " ") for n in names], fontsize=_TEXT)
    for row in range(0, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F5F5F5", zorder=0)
    ax.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)
    return ax


def _note(ax: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    # a distance in points from a place in the axes: columns line up whatever size the layout gives the axes
    defaults: Style = {"xycoords": "axes fraction", "va": "bottom", "fontsize": _TEXT, "parse_math": False}
    ax.annotate(text, at, shift, textcoords="offset points", **(defaults | style))


def _column(ax: Axes, right: int, head: str, values: Iterable[float], form: str, **style: Any) -> None:
    _note(ax, head, (1, 1), (right, 4), ha="right", **(style | {"weight": "bold"}))
    style |= {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
    for row, value in enumerate(values):
        _note(ax, "–" if np.isnan(value) else format(value, form), (1, row), (right, 0), **style)


def _class_map_row(row: ClassMapRow, axes: Sequence[Axes]) -> None:
    has_sd, nothing = not np.isnan(row.sd_map).all(), np.zeros_like(row.mean_map)
    sd_map = row.sd_map if has_sd else nothing
    limit = float(max(row.mean_map.max(), sd_map.max()))
    for ax, heat in zip(axes, (nothing, row.mean_map, sd_map), strict=True):
        _picture(ax, overlay(row.mean_image, heat, limit=limit))
    box: Style = {"bbox": {"fc": "white", "ec": "none", "pad": 3.0}, "ha": "center", "va": "center"}
    if not row.mean_map.any():
        _note(axes[1], "map is zero", (0.5, 0.5), (0, 0), **box)
    if not sd_map.any():
        _note(axes[2], "SD is zero" if has_sd else "SD needs two images", (0.5, 0.5), (0, 0), **box)
    score = "AUROC undefined" if row.auroc is None else f"AUROC {row.auroc:.3f}"
    sizes = [f"{n:,} {one}{'s' * (n != 1)}" for n, one in ((row.images, "image"), (row.patients, "patient"))]
    name = _wrap(row.finding.replace("_", " "), 1.3, 12)
    _note(axes[0], name, (0, 0.55), (-8, 0), ha="right", weight="bold")
    _note(axes[0], "\n".join([score, *sizes]), (0, 0.53), (-8, 0), ha="right", va="top", color=_DARK)
    if limit > 0:
        bar_axes = axes[2].inset_axes((1.04, 0.0, 0.05, 1.0))
        bar = axes[2].figure.colorbar(_scale(limit), cax=bar_axes)
        bar.set_label("Grad-CAM, logit units", fontsize=_SMALL)
        bar_axes.tick_params(labelsize=_SMALL)


def _scale(limit: float) -> ScalarMappable:
    # the heat colours as a reader sees them: over mid grey, by the very arithmetic of the pictures
    seen = overlay(np.full((1, 256), 128, np.uint8), np.linspace(0, 1, 256)[None])[0] / 255
    return ScalarMappable(Normalize(0, limit), ListedColormap(seen))


def _picture(ax: Axes, pixels: Pixels) -> None:
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # fixed limits: grey is never stretched to its own range
    ax.set(xticks=[], yticks=[], frame_on=False)


def _pair(tile: Tile) -> Pixels:
    gap = np.full((tile.image.shape[0], max(1, tile.image.shape[1] // 40), 3), 255, np.uint8)
    return np.hstack([overlay(tile.image, np.zeros_like(tile.map)), gap, overlay(tile.image, tile.map)])


def _sheet(cells: list[Cell], heading: tuple[str, str], columns: int, extra: float = 0.0) -> Figure:
    """Pictures in lines of `columns`, a caption over each and a name in small print under it."""
    assert len(cells) > 0 < columns, f"{len(cells)} images in {columns} columns"
    columns = min(columns, max(2, len(cells)))  # a single picture does not fill the page
    width = _WIDTH / columns - 0.15  # inches
    cells = [(p, _wrap(caption, width, _TEXT), _wrap(name, width, _SMALL)) for p, caption, name in cells]
    texts = [_TEXT * c.count("\n") + _SMALL * n.count("\n") + (30 if n else 19) for _, c, n in cells]
    heights = [width * c[0].shape[0] / c[0].shape[1] + t * _LINE for c, t in zip(cells, texts, strict=True)]
    lines = [max(heights[i : i + columns]) for i in range(0, len(cells), columns)]
    fig = _figure(*heading, sum(lines) + extra, compress=True)
    axes = fig.subplots(len(lines), columns, squeeze=False)
    for ax, (picture, caption, name) in zip(axes.flat, cells, strict=False):
        _picture(ax, picture)
        ax.set_title(caption, fontsize=_TEXT, pad=4, parse_math=False)
        ax.set_xlabel(name, fontsize=_SMALL, color=_MUTED, labelpad=3, parse_math=False)
    for ax in axes.flat[len(cells) :]:
        ax.remove()
    return fig
