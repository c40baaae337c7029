"""Whether the score follows what the map marks: tiles taken away and put back, in its order and at random."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.figures.frame import BLUE, DARK, GRID, MUTED, SMALL, TEXT, capital, figure, legend, note
from cxr.figures.stress import plain


def faithfulness(curves: pd.DataFrame, *, subtitle: str, gains: pd.DataFrame | None = None) -> Figure:
    """The mean probability as tiles are taken away or put back, in the order of the map and at random.

    `curves`: a row a share and order, columns `share` (of the tiles, 0 to 1), `order` (`map` or `random`),
    `deletion`, `insertion` (mean probability, 0 to 1; NaN is not drawn). Petsiuk et al., BMVC 2018. `gains`: a row
    a `measure` (`deletion_gain`, `insertion_gain`: the area between the curves, positive = better than random)
    with `mean`, `low`, `high` (95 %); without it the figure gives the areas and no verdict.
    """
    assert set(curves["order"]) == {"map", "random"}, f"orders: {sorted(set(curves['order']))}"
    fig = figure(_faithful(curves, gains), subtitle, 3.9)
    pairs = fig.subplots(1, 2, sharey=True)
    top = float(np.nanmax(curves[["deletion", "insertion"]].to_numpy(dtype=float), initial=0.05))
    for ax, name, done, good in (
        (pairs[0], "deletion", "taken away", "good: the map's order falls below random"),
        (pairs[1], "insertion", "put back", "good: the map's order rises above random"),
    ):
        for order, color, line, label in (
            ("map", BLUE, "-", "what the map marks most comes first"),
            ("random", MUTED, (0, (4, 2)), "tiles in random order"),
        ):
            own = curves[curves["order"] == order].sort_values("share")
            ax.plot(own["share"], own[name], color=color, linestyle=line, linewidth=2.2, label=label)
        ax.set(xlim=(0, 1), ylim=(0, min(1.0, 1.1 * top)))
        ax.set_xticks(np.linspace(0, 1, 5), ["0", "25", "50", "75", "100"])
        ax.set_xlabel(f"% of the tiles that are {done}", fontsize=TEXT)
        note(ax, f"{name}: tiles {done}", (0, 1), (0, 20), weight="bold")
        note(ax, good, (0, 1), (0, 5), color=DARK, fontsize=SMALL)
        if curves[name].isna().all():
            note(ax, "undefined", (0.5, 0.5), (0, 0), ha="center", style="italic", color=MUTED)
        plain(ax)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
    pairs[0].set_ylabel("mean probability of the finding", fontsize=TEXT)
    legend(fig, 2)
    return fig


def _faithful(curves: pd.DataFrame, gains: pd.DataFrame | None) -> str:
    question = "Does what the map marks count more than random tiles?"
    answers = [f"{name}: {_answer(curves, gains, name)}" for name in ("deletion", "insertion")]
    return f"{question} {capital('; '.join(answers))}"


def _answer(curves: pd.DataFrame, gains: pd.DataFrame | None, name: str) -> str:
    """A yes or no where the interval of the gain allows one; without an interval, the gain alone."""
    if gains is None:
        gain = _gain(curves, name) * (-1 if name == "deletion" else 1)
        return "undefined" if np.isnan(gain) else f"gain {gain:+.3f}".replace("-", "−")
    own = gains.set_index("measure").loc[f"{name}_gain"]
    if np.isnan(own["mean"]):
        return "undefined"
    if np.isnan(own["low"]):
        return "not known"
    return "yes" if own["low"] > 0 else "no, less" if own["high"] < 0 else "not surely"


def _gain(curves: pd.DataFrame, name: str) -> float:
    """The area under the map's curve less that under the random one; NaN where a value is missing."""
    areas = []
    for order in ("map", "random"):
        own = curves[curves["order"] == order].sort_values("share")
        areas.append(float(np.trapezoid(own[name], own["share"])))
    return areas[0] - areas[1]
