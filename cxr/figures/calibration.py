"""Reliability diagrams: how often findings are there, against the probability that the model gave."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cxr.figures.frame import BLUE, DARK, Style, legend
from cxr.figures.multiples import multiples, undefined

_UNDER, _OVER = "#E3EFF6", "#FBE9DD"  # light tints of blue and vermilion


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """One class: `bins` with a row a bin, and the calibration in three numbers (NaN = undefined).

    `bins` columns: `mean_probability`, `observed` (shares, NaN = an empty bin), `images`, and optionally `low`,
    `high`, the 95 % interval of `observed`. A perfect model has
    intercept 0, slope 1 and expected calibration error (ECE) 0.
    """

    bins: pd.DataFrame
    intercept: float = np.nan
    slope: float = np.nan
    ece: float = np.nan

    @property
    def text(self) -> str:
        """The numbers that are known, in two lines."""
        ece = "" if np.isnan(self.ece) else f"ECE {self.ece:.2g}\n"
        if np.isnan(self.slope):
            return ece.strip()
        # a true minus sign, and no "-0.00"
        return ece + f"slope {self.slope:.2f}, intercept {round(self.intercept, 2) + 0.0:.2f}".replace("-", "−")


def reliability(curves: Mapping[str, Reliability], *, subtitle: str) -> Figure:
    """Observed share against mean probability in bins, a panel a class with limits of its own.

    Limits are square, from 0 to a little above the highest point, as rare findings have small probabilities.
    """
    labels = (
        "mean probability that the model gave (axes differ between panels)",
        "share of images that have the finding",
    )
    title = "Calibration by finding: do the probabilities come true?"
    fig, axes = multiples(
        [(name, one.text) for name, one in curves.items()],
        title=title,
        subtitle=subtitle,
        labels=labels,
        columns=4,
    )
    intervals = any("low" in one.bins for one in curves.values())
    for ax, one in zip(axes, curves.values(), strict=True):
        bins = one.bins[one.bins[["mean_probability", "observed"]].notna().all(axis=1)]
        top = _limit(bins)
        ax.set(xlim=(0, top), ylim=(0, top))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %" if share else "0"))
        if bins.empty:
            undefined(ax)
            continue
        above: Style = {"color": _UNDER, "linewidth": 0, "zorder": 0}
        ax.fill([0, 0, top], [0, top, top], label="above the diagonal: risk understated", **above)
        below = above | {"color": _OVER}
        ax.fill([0, top, top], [0, 0, top], label="below the diagonal: risk overstated", **below)
        dashes: Style = {"color": DARK, "linewidth": 1, "linestyle": (0, (4, 3))}
        ax.plot([0, top], [0, top], label="diagonal: probabilities come true", **dashes)
        _bins(ax, bins, "about a 15th of the images" + ", 95 % interval" * intervals)
    legend(fig, 2)
    return fig


def _limit(bins: pd.DataFrame) -> float:
    if bins.empty:
        return 1.0
    points = max(float(bins[["mean_probability", "observed"]].to_numpy().max()), 1e-4)
    # a long interval of one small bin runs out of the panel rather than press all points into a corner
    ends = min(float(bins["high"].max()), 1.5 * points) if "high" in bins else points
    return float(1.08 * np.nanmax([points, ends]))


def _bins(ax: Axes, bins: pd.DataFrame, label: str) -> None:
    x = bins["mean_probability"]
    if "low" in bins:
        kept = bins[bins[["low", "high"]].notna().all(axis=1)]
        ax.vlines(kept["mean_probability"], kept["low"], kept["high"], color=BLUE, linewidth=1.2, alpha=0.7)
    ax.plot(x, bins["observed"], color=BLUE, linewidth=1)
    area = 10 + 250 * bins["images"] / bins["images"].sum()
    style: Style = {"color": BLUE, "edgecolor": "white", "linewidth": 0.6, "zorder": 3, "clip_on": False}
    ax.scatter(x, bins["observed"], s=area, label=label, **style)
