"""Single pictures: a Grad-CAM map laid over its image, images beside their maps, contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle

from cxr.figures.frame import GREEN, LINE, MUTED, SMALL, TEXT, WIDTH, Style, figure, legend, spoken, wrap

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]  # left, top, width and height in pixels; 0 is the picture's edge
Cell = tuple[Pixels, str, str]  # picture, caption, name

_HEAT_MAP = colormaps["plasma"]  # perceptually uniform; its low end is a colour, not black, so grey shows


@dataclass(frozen=True, eq=False)
class Tile:
    """One grey image [H, W], its map [H, W] >= 0, what to say of it, its file name, and boxes drawn on it."""

    image: Pixels
    map: Heat
    caption: str
    name: str
    boxes: Sequence[Box] = ()


def panel(tiles: Sequence[Tile], *, title: str, subtitle: str, columns: int = 3, box_note: str = "") -> Figure:
    """Single images, each beside its own Grad-CAM overlay, `columns` pairs a line.

    Every overlay has its own scale, from 0 to that map's maximum: colours of two tiles do not compare. A tile's
    boxes are outlined on both pictures; `box_note` says at the foot what the outline is.
    """
    cells = [(_pair(t), spoken(t.caption), t.name + ("" if t.map.any() else " (map is zero)")) for t in tiles]
    outlined = any(len(tile.boxes) for tile in tiles)
    fig = sheet(cells, (title, subtitle), columns, extra=0.55 + 0.3 * outlined)
    axes = fig.axes
    for ax, tile in zip(axes, tiles, strict=False):
        for left in (0, tile.image.shape[1] + _gap(tile)):
            _outline(ax, tile, left)
    scale_bar(fig, "each map's own maximum")
    if outlined:
        mark: Style = {"markersize": 9, "mfc": "none", "mec": GREEN, "mew": 1.6}
        axes[0].plot([], [], "s", label=box_note or "outline: box", **mark)
        legend(fig, 1)
    return fig


def example_images(images: Sequence[Pixels], captions: Sequence[str], *, title: str, subtitle: str) -> Figure:
    """A contact sheet of grey uint8 images [H, W], up to four a line, each under its caption."""
    assert all((i.ndim, i.dtype.name) == (2, "uint8") for i in images), "a grey image is uint8 [H, W]"
    return sheet([(i, c, "") for i, c in zip(images, captions, strict=True)], (title, subtitle), columns=4)


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


def write(path: Path, tile: Tile) -> None:
    """An image beside its own overlay as a PNG file, pixel by pixel; its scale is the map's own maximum."""
    imsave(path, _pair(tile))


def scale(limit: float) -> ScalarMappable:
    """The heat colours as a reader sees them, from 0 to `limit`."""
    # over mid grey, by the very arithmetic of the pictures
    seen = overlay(np.full((1, 256), 128, np.uint8), np.linspace(0, 1, 256)[None])[0] / 255
    return ScalarMappable(Normalize(0, limit), ListedColormap(seen))


def scale_bar(fig: Figure, most: str) -> None:
    """A colour bar under all pictures that have scales of their own; `most` names their upper end."""
    bar = fig.colorbar(scale(1.0), ax=fig.axes, location="bottom", shrink=0.3, aspect=28, pad=0.02)
    bar.set_ticks([0, 1], labels=["0", most], fontsize=SMALL)


def picture(ax: Axes, pixels: Pixels) -> None:
    """Pixels in axes without ticks: grey [H, W] or RGB [H, W, 3]."""
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # fixed limits: grey is never stretched to its own range
    ax.set(xticks=[], yticks=[], frame_on=False)


def sheet(
    cells: Sequence[Cell], heading: tuple[str, str], columns: int, *, extra: float = 0.0, weight: str = "normal"
) -> Figure:
    """Pictures in lines of `columns`, each under a caption of that font weight and over a name in small print."""
    assert len(cells) > 0 < columns, f"{len(cells)} images in {columns} columns"
    columns = min(columns, max(2, len(cells)))  # a single picture does not fill the page
    width = WIDTH / columns - 0.15  # inches
    wide = TEXT * (1.1 if weight == "bold" else 1.0)
    cells = [(p, wrap(caption, width, wide), wrap(name, width, SMALL)) for p, caption, name in cells]
    texts = [TEXT * c.count("\n") + SMALL * n.count("\n") + (30 if n else 19) for _, c, n in cells]
    heights = [width * c[0].shape[0] / c[0].shape[1] + t * LINE for c, t in zip(cells, texts, strict=True)]
    lines = [max(heights[i : i + columns]) for i in range(0, len(cells), columns)]
    fig = figure(*heading, sum(lines) + extra, compress=True)
    axes = fig.subplots(len(lines), columns, squeeze=False)
    for ax, (pixels, caption, name) in zip(axes.flat, cells, strict=False):
        picture(ax, pixels)
        ax.set_title(caption, fontsize=TEXT, pad=4, weight=weight, parse_math=False)
        ax.set_xlabel(name, fontsize=SMALL, color=MUTED, labelpad=3, parse_math=False)
    for ax in axes.flat[len(cells) :]:
        ax.remove()
    return fig


def _pair(tile: Tile) -> Pixels:
    gap = np.full((tile.image.shape[0], _gap(tile), 3), 255, np.uint8)
    return np.hstack([overlay(tile.image, np.zeros_like(tile.map)), gap, overlay(tile.image, tile.map)])


def _gap(tile: Tile) -> int:
    return max(1, int(tile.image.shape[1]) // 40)


def _outline(ax: Axes, tile: Tile, left: int) -> None:
    """The tile's boxes on the picture that begins at that column; what lies outside of the image is cut off."""
    height, width = tile.image.shape
    for x, y, w, h in tile.boxes:
        (x0, x1), (y0, y1) = np.clip([x, x + w], 0, width), np.clip([y, y + h], 0, height)
        # a pixel's middle is a whole number in imshow, and so its edge is half a one
        corner = (left + x0 - 0.5, y0 - 0.5)
        for color, line in (("white", 3.0), (GREEN, 1.4)):  # cased, to be seen on grey and on any heat
            ax.add_patch(Rectangle(corner, x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line))
