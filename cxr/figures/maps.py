"""Figures of pictures: Grad-CAM maps over images, their class averages, contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from cxr.figures.frame import DARK, LINE, MUTED, SMALL, TEXT, WIDTH, Style, figure, note, wrap

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.floating[Any]]
Cell = tuple[Pixels, str, str]  # picture, caption, name

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


def panel(tiles: Sequence[Tile], *, title: str, subtitle: str, columns: int = 3) -> Figure:
    """Single images, each beside its own Grad-CAM overlay, `columns` pairs a line.

    Every overlay has its own scale, from 0 to that map's maximum: colours of two tiles do not compare.
    """
    cells = [(_pair(t), t.caption, t.name + ("" if t.map.any() else " (map is zero)")) for t in tiles]
    fig = _sheet(cells, (title, subtitle), columns, extra=0.55)
    bar = fig.colorbar(_scale(1.0), ax=fig.axes, location="bottom", shrink=0.3, aspect=28, pad=0.02)
    bar.set_ticks([0, 1], labels=["0", "tile's maximum"], fontsize=SMALL)
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


def _class_map_row(row: ClassMapRow, axes: Sequence[Axes]) -> None:
    has_sd, nothing = not np.isnan(row.sd_map).all(), np.zeros_like(row.mean_map)
    sd_map = row.sd_map if has_sd else nothing
    limit = float(max(row.mean_map.max(), sd_map.max()))
    for ax, heat in zip(axes, (nothing, row.mean_map, sd_map), strict=True):
        _picture(ax, overlay(row.mean_image, heat, limit=limit))
    box: Style = {"bbox": {"fc": "white", "ec": "none", "pad": 3.0}, "ha": "center", "va": "center"}
    if not row.mean_map.any():
        note(axes[1], "map is zero", (0.5, 0.5), (0, 0), **box)
    if not sd_map.any():
        note(axes[2], "SD is zero" if has_sd else "SD needs two images", (0.5, 0.5), (0, 0), **box)
    score = "AUROC undefined" if row.auroc is None else f"AUROC {row.auroc:.3f}"
    sizes = [f"{n:,} {one}{'s' * (n != 1)}" for n, one in ((row.images, "image"), (row.patients, "patient"))]
    name = wrap(row.finding.replace("_", " "), 1.3, 12)
    note(axes[0], name, (0, 0.55), (-8, 0), ha="right", weight="bold")
    note(axes[0], "\n".join([score, *sizes]), (0, 0.53), (-8, 0), ha="right", va="top", color=DARK)
    if limit > 0:
        bar_axes = axes[2].inset_axes((1.04, 0.0, 0.05, 1.0))
        bar = axes[2].figure.colorbar(_scale(limit), cax=bar_axes)
        bar.set_label("Grad-CAM, logit units", fontsize=SMALL)
        bar_axes.tick_params(labelsize=SMALL)


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
    width = WIDTH / columns - 0.15  # inches
    cells = [(p, wrap(caption, width, TEXT), wrap(name, width, SMALL)) for p, caption, name in cells]
    texts = [TEXT * c.count("\n") + SMALL * n.count("\n") + (30 if n else 19) for _, c, n in cells]
    heights = [width * c[0].shape[0] / c[0].shape[1] + t * LINE for c, t in zip(cells, texts, strict=True)]
    lines = [max(heights[i : i + columns]) for i in range(0, len(cells), columns)]
    fig = figure(*heading, sum(lines) + extra, compress=True)
    axes = fig.subplots(len(lines), columns, squeeze=False)
    for ax, (picture, caption, name) in zip(axes.flat, cells, strict=False):
        _picture(ax, picture)
        ax.set_title(caption, fontsize=TEXT, pad=4, parse_math=False)
        ax.set_xlabel(name, fontsize=SMALL, color=MUTED, labelpad=3, parse_math=False)
    for ax in axes.flat[len(cells) :]:
        ax.remove()
    return fig
