"""What all figures share: the page with its heading, rows, columns of numbers, colours and sizes."""

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

Style = dict[str, Any]

WIDTH, DPI, LINE = 9.0, 110, 1.35 / 72  # inches; pixels per inch; inches of line height per point of font
TITLE, TEXT, SMALL = 14.0, 10.0, 9.0  # points
BLUE, PALE, VERMILION, DARK, MUTED = "#0072B2", "#8FC1DE", "#D55E00", "#444444", "#707070"


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


def rows_axes(fig: Figure, names: list[str]) -> Axes:
    """Axes with a named row for each of `names`, the first one on top."""
    ax = fig.subplots()
    ax.set_ylim(len(names) - 0.5, -0.5)  # the first row on top
    ax.set_yticks(range(len(names)), [n.replace("_", " ") for n in names], fontsize=TEXT)
    for row in range(0, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F5F5F5", zorder=0)
    ax.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)
    return ax


def note(ax: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **style: Any) -> None:
    """A text at a place in the axes, shifted by so many points."""
    # a distance in points from a place in the axes: columns line up whatever size the layout gives the axes
    defaults: Style = {"xycoords": "axes fraction", "va": "bottom", "fontsize": TEXT, "parse_math": False}
    ax.annotate(text, at, shift, textcoords="offset points", **(defaults | style))


def column(ax: Axes, right: int, head: str, values: Iterable[float], form: str, **style: Any) -> None:
    """A column of numbers beside the rows, its right edge so many points from the axes; NaN is a dash."""
    note(ax, head, (1, 1), (right, 4), ha="right", **(style | {"weight": "bold"}))
    style |= {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
    for row, value in enumerate(values):
        note(ax, "–" if np.isnan(value) else format(value, form), (1, row), (right, 0), **style)
