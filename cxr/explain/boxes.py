"""The heat of a map over its original image, and the boxes that are detected on it.

Bilinear upsampling leaves a surface of few patches: between the centres of the map's positions it is bilinear. So
nothing is drawn pixel by pixel. Sums, superlevel regions and their bounding boxes follow from the values at the
patches' corners, exactly, at any size of the original and in a thousandth of the time.

All places are in pixels of the original file: pixel i covers i to i + 1. A box is x, y, width, height.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr.data.image import Geometry

_CONE = 64  # patches a side of the cone at the image's centre: within 1 % of a true one


@dataclass(frozen=True, kw_only=True, eq=False)
class Heat:
    """A surface that is bilinear between the lines `x` and `y`, which begin and end at the image's edges."""

    x: np.ndarray  # [m] increasing, from 0 to the image's width
    y: np.ndarray  # [n] increasing, from 0 to its height
    values: np.ndarray  # [n, m] at the lines' crossings, none below 0

    @property
    def top(self) -> float:
        """The largest value, 0 for a zero map."""
        return float(self.values.max())

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values [k] at places x [k], y [k]; outside of the image those of its edge."""
        found: np.ndarray = ((_hats(self.y, y) @ self.values) * _hats(self.x, x)).sum(axis=1)
        return found

    def peaks(self) -> np.ndarray:
        """Where the heat is largest, [k, 2] of x, y; more than one where several positions are equal.

        A surface is constant over the outer half of a position at the edge. Its maximum is then the position's
        centre, as everywhere else; the image's edge itself counts where padding hides the centre.
        """
        inner = self.values[1:-1, 1:-1]
        if inner.size and inner.max() == self.top:
            rows, columns = np.nonzero(inner == self.top)
            rows, columns = rows + 1, columns + 1
        else:
            rows, columns = np.nonzero(self.values == self.top)
        return np.stack([self.x[columns], self.y[rows]], axis=1)

    def share_inside(self, boxes: np.ndarray) -> float:
        """The share of all heat that lies in the union of boxes [k, 4]; NaN for a zero map."""
        x, y = _cuts(boxes, 0, self.x[-1]), _cuts(boxes, 1, self.y[-1])
        parts = np.diff(_integrals(self.y, y), axis=0) @ self.values @ np.diff(_integrals(self.x, x), axis=0).T
        inside = _inside((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, boxes)
        total = float(parts.sum())
        return float(parts[inside].sum()) / total if total > 0 else np.nan

    def detect(self, threshold: float) -> np.ndarray:
        """The bounding boxes [k, 4] of the connected regions whose heat lies above a threshold."""
        above = self.values > threshold
        if not above.any():
            return np.empty((0, 4))
        count, region = connected_components(_links(self.values, above, threshold), directed=False)
        region = region.reshape(above.shape)[above]
        low_x, high_x = (ends[above] for ends in _reach(self.values, self.x, threshold))
        low_y, high_y = (ends.T[above] for ends in _reach(self.values.T, self.y, threshold))
        corners = np.tile([np.inf, np.inf, -np.inf, -np.inf], (count, 1))
        np.minimum.at(corners, (region, 0), low_x)
        np.minimum.at(corners, (region, 1), low_y)
        np.maximum.at(corners, (region, 2), high_x)
        np.maximum.at(corners, (region, 3), high_y)
        corners = corners[np.unique(region)]  # the rest are crossings that are not above
        return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


def heat(signed: np.ndarray, geometry: Geometry) -> Heat:
    """ReLU of a map [h, w] of the packed square, as its bilinear upsampling over the original alone.

    The upsampling is PyTorch's with `align_corners=False`. Padding is cut off.
    """
    height, width = signed.shape
    x, across = _lines(width, geometry.left, geometry.scaled[0], geometry.size, geometry.width)
    y, down = _lines(height, geometry.top, geometry.scaled[1], geometry.size, geometry.height)
    values = np.maximum(signed.astype(np.float64), 0)
    values = _hats(np.arange(height), down) @ values @ _hats(np.arange(width), across).T
    return Heat(x=x, y=y, values=values)


def within(shape: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """Which positions of a map have their centre in the image and not in padding: [h, w] bool."""
    inside = []
    for count, start, length in zip(shape, (geometry.top, geometry.left), geometry.scaled[::-1], strict=True):
        centres = (np.arange(count) + 0.5) * geometry.size / count
        inside.append((centres > start) & (centres < start + length))
    return np.logical_and.outer(*inside)


@lru_cache(maxsize=8)
def cone(width: int, height: int) -> Heat:
    """Heat that falls linearly from the image's centre to 0 at half of the shorter side."""
    x, y = np.linspace(0, width, _CONE + 1), np.linspace(0, height, _CONE + 1)
    far = np.hypot(*np.meshgrid(x - width / 2, y - height / 2))
    return Heat(x=x, y=y, values=np.maximum(1 - far / (min(width, height) / 2), 0))


def overlaps(detected: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and IoBB [d, b] of detected boxes [d, 4] with drawn ones [b, 4].

    IoBB is the intersection over the area of the detected box (Wang et al., CVPR 2017, section 4.2).
    """
    one, other = detected[:, None], boxes[None]
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    own, drawn = np.prod(one[..., 2:], axis=-1), np.prod(other[..., 2:], axis=-1)
    return common / (own + drawn - common), common / own


def covered(boxes: np.ndarray, width: int, height: int) -> float:
    """The share of an image that the union of boxes [k, 4] covers."""
    x, y = _cuts(boxes, 0, width), _cuts(boxes, 1, height)
    inside = _inside((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2, boxes)
    return float(np.multiply.outer(np.diff(y), np.diff(x))[inside].sum()) / (width * height)


def hit(points: np.ndarray, boxes: np.ndarray, tolerance: float) -> np.ndarray:
    """Which points [k, 2] lie in at least one of boxes [b, 4] that is larger by a tolerance on each side."""
    from_corner = points[:, None] - boxes[None, :, :2]
    inside = (from_corner >= -tolerance) & (from_corner <= boxes[None, :, 2:] + tolerance)
    found: np.ndarray = inside.all(axis=-1).any(axis=1)
    return found


def _lines(count: int, start: int, length: int, size: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of a map's positions, and the image's edges around them: in pixels of the original; in positions."""
    centres = ((np.arange(count) + 0.5) * size / count - start) * pixels / length
    shown = np.flatnonzero((centres > 0) & (centres < pixels))
    edges = np.array([start, start + length]) * count / size - 0.5
    places = np.concatenate([edges[:1], shown, edges[1:]])
    return np.concatenate([[0.0], centres[shown], [float(pixels)]]), places


def _hats(lines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Weights [k, m] of the values at lines [m] in the linear interpolation at places [k], constant outside."""
    weights = np.zeros((len(places), len(lines)))
    if len(lines) == 1:
        return weights + 1
    places = np.clip(places, lines[0], lines[-1])
    left = np.clip(np.searchsorted(lines, places, side="right") - 1, 0, len(lines) - 2)
    part = (places - lines[left]) / (lines[left + 1] - lines[left])
    rows = np.arange(len(places))
    weights[rows, left], weights[rows, left + 1] = 1 - part, part
    return weights


def _integrals(lines: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Weights [k, m] of the values at lines [m] in the integral from the first line to places [k] between them."""
    left = np.clip(np.searchsorted(lines, places, side="right") - 1, 0, len(lines) - 2)
    steps = np.diff(lines)
    rows, part = np.arange(len(places)), places - lines[left]
    whole = np.where(np.arange(len(steps)) < left[:, None], steps / 2, 0)  # [k, m - 1]
    weights = np.zeros((len(places), len(lines)))
    weights[:, :-1] += whole
    weights[:, 1:] += whole
    square = part**2 / (2 * steps[left])
    weights[rows, left] += part - square
    weights[rows, left + 1] += square
    return weights


def _cuts(boxes: np.ndarray, axis: int, end: float) -> np.ndarray:
    """The image's two edges and between them those of boxes, along an axis."""
    edges = np.concatenate([[0, end], boxes[:, axis], boxes[:, axis] + boxes[:, axis + 2]])
    return np.unique(np.clip(edges, 0, end))


def _inside(x: np.ndarray, y: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which places of a grid lie in any box: [len(y), len(x)] bool."""
    left, top, wide, tall = (boxes[:, column, None] for column in range(4))
    across, down = (x > left) & (x < left + wide), (y > top) & (y < top + tall)  # [k, m], [k, n]
    found: np.ndarray = (down[:, :, None] & across[:, None]).any(axis=0)
    return found


def _links(values: np.ndarray, above: np.ndarray, threshold: float) -> coo_array:
    """Which crossings above a threshold are joined by a path above it within a patch.

    Neighbours are. Diagonal ones are where the patch's saddle is above as well: (a d - b c) / (a + d - b - c).
    """
    index = np.arange(values.size).reshape(values.shape)
    joined = [
        (index[:, :-1], index[:, 1:], above[:, :-1] & above[:, 1:]),
        (index[:-1], index[1:], above[:-1] & above[1:]),
    ]
    for flip in (slice(None), slice(None, None, -1)):
        v, up, at = values[:, flip], above[:, flip], index[:, flip]
        a, b, c, d = v[:-1, :-1], v[:-1, 1:], v[1:, :-1], v[1:, 1:]
        lone = up[:-1, :-1] & up[1:, 1:] & ~up[:-1, 1:] & ~up[1:, :-1]  # so a + d > b + c
        joined.append((at[:-1, :-1], at[1:, 1:], lone & (a * d - b * c > threshold * (a + d - b - c))))
    first, second = (np.concatenate([ends[side][ends[2]] for ends in joined]) for side in (0, 1))
    return coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(values.size, values.size))


def _reach(values: np.ndarray, lines: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """How far to the left and right of each crossing above a threshold the heat along its row stays above it.

    The extremes of a region lie on the lines: across a patch, along a fixed x, heat is linear in y.
    """
    step, rise = np.diff(lines), np.diff(values, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = lines[:-1] + step * (threshold - values[:, :-1]) / rise  # [n, m - 1]
    above = values > threshold
    low, high = np.tile(lines, (len(values), 1)), np.tile(lines, (len(values), 1))
    low[:, 1:] = np.where(above[:, 1:] & ~above[:, :-1], cross, lines[1:])
    high[:, :-1] = np.where(above[:, :-1] & ~above[:, 1:], cross, lines[:-1])
    return low, high
