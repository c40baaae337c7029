"""What all figures share: the page with its heading, rows, columns of numbers, marks, colours and sizes."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

Style = dict[str, Any]
Numbers = npt.NDArray[np.float64]

WIDTH, DPI, LINE = 9.0, 110, 1.35 / 72  # inches; pixels per inch; inches of line height per point of font
TITLE, TEXT, SMALL = 14.0, 10.0, 9.0  # points
BLUE, PALE, VERMILION, DARK, MUTED = "#0072B2", "#8FC1DE", "#D55E00", "#444444", "#707070"
GREEN, PURPLE, GRID = "#009E73", "#CC79A7", "#E4E4E4"
NAMES = 1.75  # inches for the names of rows


def wrap(text: str, inches: float, size: float) -> str:
    """Text broken into lines that fit so many inches at a font size in points."""
    # 0.54 em is a little over the mean width of a letter in matplotlib's default font
    letters = max(8, int(inches * 72 / (0.54 * size)))
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def figure(title: str, subtitle: str, body: float, *, compress: bool = False) -> Figure:
    """A figure with `body` inches for its axes under a left-aligned title and subtitle."""
    title, subtitle = wrap(title, WIDTH - 0.2, TITLE * 1.1), wrap(subtitle, WIDTH - 0.2, TEXT)
    second = 0.16 + (title.count("\n") + 1) * TITLE * LINE  # inches from the top edge to the subtitle
    height = second + (subtitle.count("\n") + 1) * TEXT * LINE + 0.08 + body
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, body / height), compress=compress, h_pad=0.06, w_pad=0.06)
    fig = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout=engine)
    style: Style = {"va": "top", "parse_math": False}
    fig.text(0.1 / WIDTH, 1 - 0.1 / height, title, fontsize=TITLE, weight="bold", **style)
    fig.text(0.1 / WIDTH, 1 - second / height, subtitle, fontsize=TEXT, color=DARK, **style)
    return fig


def spoken(name: object) -> str:
    """A name of a finding, a macro average or a level as a row says it, such as `Pleural Thickening`."""
    return str(name).replace("_", " ")


def capital(text: str) -> str:
    """A text as a sentence begins."""
    return text[:1].upper() + text[1:]


def is_macro(name: object) -> bool:
    """Whether a row is a macro average (`macro_14`), which stands apart from the findings."""
    return str(name).startswith("macro")


def rows_height(names: Sequence[str], each: float = 0.34) -> float:
    """Inches for rows of these names: `each` inches a row, or more where a name takes several lines."""
    lines = max((wrap(name, NAMES, TEXT).count("\n") + 1 for name in names), default=1)
    return len(names) * max(each, lines * TEXT * LINE + 0.04)


def rows_axes(fig: Figure, names: Sequence[str], foot: Sequence[str] = ()) -> Axes:
    """Axes with a named row for each of `names`, the first one on top, and for `foot` below a line."""
    ax: Axes = fig.subplots()
    dress(ax, names, foot)
    return ax


def dress(ax: Axes, names: Sequence[str], foot: Sequence[str] = ()) -> None:
    """The rows of `rows_axes` in axes that are there."""
    everything = [wrap(spoken(name), NAMES, TEXT) for name in (*names, *foot)]
    ax.set_ylim(len(everything) - 0.5, -0.5)  # the first row on top
    ax.set_yticks(range(len(everything)), everything, fontsize=TEXT, parse_math=False)
    for row in range(0, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F5F5F5", zorder=0)
    for label in ax.get_yticklabels()[len(names) :]:
        label.set_fontweight("bold")
    if foot and names:
        ax.axhline(len(names) - 0.5, color=DARK, linewidth=0.9)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)


def note(ax: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """A text at a place in the axes, shifted by so many points."""
    # a distance in points from a place in the axes: columns line up whatever size the layout gives the axes
    defaults: Style = {"xycoords": "axes fraction", "va": "bottom", "fontsize": TEXT, "parse_math": False}
    ax.annotate(text, at, shift, textcoords="offset points", **(defaults | style))


def column(ax: Axes, right: int, head: str, values: Iterable[float], form: str, **style: Any) -> None:
    """A column of numbers beside the rows, its right edge so many points from the axes; NaN is a dash."""
    words(
        ax,
        right,
        head,
        ["–" if np.isnan(value) else format(value, form).replace("-", "−") for value in values],
        **style,
    )


def words(ax: Axes, right: int, head: str, texts: Iterable[str], **style: Any) -> None:
    """A column of texts beside the rows, its right edge so many points from the axes."""
    note(ax, head, (1, 1), (right, 4), ha="right", **(style | {"weight": "bold"}))
    style |= {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
    for row, text in enumerate(texts):
        note(ax, text, (1, row), (right, 0), **style)


def brackets(low: Iterable[float], high: Iterable[float], form: str = ".3f") -> list[str]:
    """Intervals as texts, such as `[0.812, 0.871]`; a dash where there is none."""
    pairs = zip(low, high, strict=True)
    texts = ("–" if np.isnan(a) or np.isnan(b) else f"[{a:{form}}, {b:{form}}]" for a, b in pairs)
    return [text.replace("-", "−") for text in texts]


def whiskers(
    ax: Axes, at: npt.ArrayLike, value: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike, *,
    color: str, marker: str, label: str, size: float = 7.0, hollow: bool = False, pale: str = "",
) -> None:  # fmt: skip
    """Points with their intervals in rows `at`, hollow ones in `pale` and dashed; NaN is not drawn."""
    at, value, low, high = (np.asarray(x, dtype=np.float64) for x in (at, value, low, high))
    drawn = np.isfinite(low) & np.isfinite(high)
    line: Style = {"color": pale or color, "linewidth": 1.8, "linestyle": (0, (2, 1.2)) if pale else "-"}
    ax.hlines(at[drawn], low[drawn], high[drawn], zorder=2, **line)
    face = "white" if hollow else color
    style: Style = {"markersize": size, "markeredgecolor": color, "markeredgewidth": 1.4, "zorder": 3}
    # the legend shows a piece of the interval's line behind the marker
    known = np.isfinite(value)
    if known.any():  # an empty line has its place at the corner of the figure, and the layout makes room for it
        ax.plot(value[known], at[known], marker, markerfacecolor=face, clip_on=False, **style)
    ax.plot([], [], marker=marker, markerfacecolor=face, label=label, **(line | style))


def auroc_axis(ax: Axes, values: Iterable[npt.ArrayLike], *, near: bool = False) -> None:
    """An AUROC axis that holds all values and chance; `near`: as close to the values as they allow."""
    known = np.concatenate([np.ravel(np.asarray(x, dtype=np.float64)) for x in values])
    known = known[np.isfinite(known)]
    least, most = (known.min(), known.max()) if len(known) else (0.5, 1.0)
    low = np.floor(20 * least - 0.2) / 20
    high = min(1.0, np.ceil(20 * most + 0.2) / 20) if near else 1.0
    ax.set_xlim(max(0.0, low if near else min(0.48, low)), high)
    ax.set_xlabel("AUROC (1 = every image with the finding scores above every image without)", fontsize=TEXT)
    if ax.get_xlim()[0] <= 0.5:
        ax.axvline(0.5, color="black", linewidth=1.2)
        note(ax, "chance", (0.5, 1), (0, 3), xycoords=ax.get_xaxis_transform(), ha="center")


def free(ax: Axes) -> float:
    """Where words may begin in a row, as a share of the axes' width: right of chance where that is at the left."""
    low, high = ax.get_xlim()
    chance = (0.5 - low) / (high - low)
    return chance + 0.02 if 0 <= chance < 0.25 else 0.02


def mute(ax: Axes, row: int, text: str = "undefined", *, whole: bool = True) -> None:
    """A row without a value says so, in grey, and so is its name if the `whole` row has none."""
    place: Style = {"xycoords": ax.get_yaxis_transform(), "va": "center", "style": "italic", "color": MUTED}
    place["bbox"] = {"fc": "white", "ec": "none", "alpha": 0.85, "pad": 1.0}
    note(ax, text, (free(ax), row), (0, 0), fontsize=SMALL if "\n" in text else TEXT, zorder=4, **place)
    if whole:
        ax.get_yticklabels()[row].set_color(MUTED)


def legend(fig: Figure, columns: int = 3) -> None:
    """What the marks mean, under the axes; each label once."""
    found: dict[str, Artist] = {}
    for ax in fig.axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip((wrap(label, WIDTH / columns - 0.6, SMALL) for label in labels), handles, strict=True))
    style: Style = {"ncols": columns, "frameon": False, "fontsize": SMALL}
    drawn = fig.legend(list(found.values()), list(found), loc="outside lower left", **style)
    for text in drawn.get_texts():
        text.set_parse_math(False)
