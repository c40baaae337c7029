"""What tests read from a figure: its texts, where they lie, and its marks."""

import io
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def png(fig: Figure) -> bytes:
    stream = io.BytesIO()
    fig.savefig(stream, format="png")
    return stream.getvalue()


def texts(fig: Figure) -> list[str]:
    png(fig)  # tick labels get their texts when the figure is drawn
    return [t.get_text() for t in _visible(fig)]


def title(fig: Figure) -> str:
    return fig.texts[0].get_text().replace("\n", " ")


def rows(ax: Axes) -> list[str]:
    return [t.get_text().replace("\n", " ") for t in ax.get_yticklabels()]


def marks(ax: Axes, marker: str) -> list[tuple[float, float]]:
    """The points that are drawn with a marker, in data coordinates: (x, y), from top to bottom."""
    lines = [line for line in ax.lines if line.get_marker() == marker and line.get_transform() == ax.transData]
    points = [(float(x), float(y)) for line in lines for x, y in line.get_xydata() if np.isfinite([x, y]).all()]
    return sorted(points, key=lambda point: (point[1], point[0]))


def intervals(ax: Axes) -> list[tuple[float, float, float]]:
    """The horizontal intervals: (y, low, high), from top to bottom."""
    segments = [segment for group in ax.collections for segment in getattr(group, "get_segments", list)()]
    return sorted((float(a[1]), float(a[0]), float(b[0])) for a, b in segments if a[1] == b[1])


def misplaced(fig: Figure) -> list[str]:
    """Texts that are cut off at the edge of the figure, are mathtext, or lie over another text."""
    png(fig)
    boxes = [(t.get_text(), t.get_window_extent()) for t in _visible(fig)]
    page = fig.bbox
    cut = [
        text for text, box in boxes
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1
    ]  # fmt: skip
    # a box holds the room of ascenders, too: only more than 2 pixels are an overlap that is seen
    over = [
        f"{one} / {other}"
        for (one, a), (other, b) in combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
    ]
    return cut + over + [t.get_text() for t in _visible(fig) if t.get_parse_math() and "$" in t.get_text()]


def _visible(fig: Figure) -> list[Text]:
    # matplotlib keeps the labels of ticks outside of the axis, and does not draw them
    outside = set()
    for axis in (axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    return [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in outside]
