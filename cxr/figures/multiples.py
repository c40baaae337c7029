"""Small multiples: a panel a class, all of one size, with shared axis labels."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.figures.frame import DARK, GRID, LINE, MUTED, SMALL, TEXT, WIDTH, Style, figure, note, spoken, wrap


def multiples(
    heads: Sequence[tuple[str, str]], *, title: str, subtitle: str, labels: tuple[str, str], columns: int = 5,
    ticks: float = 0.32,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with square axes for each of `heads` (name, what to say below it) and x and y `labels`.

    `ticks` are the inches that the numbers left of a panel take. Below, there is room for a legend of 3 lines.
    """
    assert heads, "no classes to draw"
    columns = min(columns, max(3, len(heads)))  # one panel does not fill the page
    pitch = (WIDTH - 0.35) / columns
    width = pitch - ticks - 0.16
    texts = [(wrap(spoken(name), pitch - 0.12, TEXT * 1.1), wrap(text, pitch, SMALL)) for name, text in heads]
    above = [
        ((name.count("\n") + 1) * TEXT + (text.count("\n") + 1) * SMALL) * LINE + 0.12 for name, text in texts
    ]
    lines = [max(above[i : i + columns]) + width + 0.33 for i in range(0, len(heads), columns)]
    fig = figure(title, subtitle, sum(lines) + 0.95)
    fig.set_layout_engine("none")  # all sizes are known, and names may be wider than panels
    page, axes = fig.get_figheight(), []
    for place, (name, text) in enumerate(texts):
        line, cell = divmod(place, columns)
        left, bottom = 0.35 + cell * pitch + ticks, 0.95 + sum(lines[line + 1 :]) + 0.33
        ax = fig.add_axes((left / WIDTH, bottom / page, width / WIDTH, width / page))
        note(ax, text, (0, 1), (-72 * ticks + 8, 5), fontsize=SMALL, color=DARK)
        below = 6 + (text.count("\n") + 1) * SMALL * 1.3 * bool(text)
        note(ax, name, (0, 1), (-72 * ticks + 8, below), weight="bold")
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(length=0, labelsize=SMALL)
        ax.spines[["top", "right"]].set_visible(False)
        axes.append(ax)
    middle = (0.95 + sum(lines) / 2) / page
    upright = wrap(labels[1], sum(lines), TEXT)
    fig.text(0.06 / WIDTH, middle, upright, fontsize=TEXT, rotation=90, va="center")
    fig.text((0.35 + ticks) / WIDTH, 0.95 / page, labels[0], fontsize=TEXT, va="center")
    return fig, axes


def undefined(ax: Axes, text: str = "undefined") -> None:
    """A panel that has nothing to draw says so."""
    style: Style = {"ha": "center", "va": "center", "style": "italic", "color": MUTED, "parse_math": False}
    style["bbox"] = {"fc": "white", "ec": "none", "pad": 2.0}
    ax.text(0.5, 0.5, text, transform=ax.transAxes, fontsize=TEXT, **style)
