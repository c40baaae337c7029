"""ROC and precision-recall curves, a panel a class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.figures.frame import BLUE, GREEN, MUTED, PURPLE, VERMILION, Style, legend
from cxr.figures.multiples import multiples, undefined

Floats = npt.NDArray[np.floating[Any]]

_POINTS = (("D", VERMILION), ("s", GREEN), ("^", PURPLE))


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The two curves of one class: scikit-learn's arrays, empty where the class is undefined.

    `points` are operating points by name, such as {"90 % sensitivity on validation": (fpr, tpr)}.
    """

    fpr: Floats  # [k]
    tpr: Floats  # [k]
    precision: Floats  # [m]
    recall: Floats  # [m], rising or falling
    auroc: float  # NaN = undefined
    average_precision: float
    prevalence: float  # of the images that are labelled in the class
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.fpr.shape == self.tpr.shape, f"fpr {self.fpr.shape}, tpr {self.tpr.shape}"
        assert self.precision.shape == self.recall.shape, f"{self.precision.shape}, {self.recall.shape}"

    @property
    def defined(self) -> bool:
        """Whether there is a curve to draw."""
        return bool(np.isfinite(self.auroc)) and len(self.fpr) > 0


def roc(curves: Mapping[str, Curve], *, subtitle: str) -> Figure:
    """ROC curves, highest AUROC first, with the line of chance and the operating points."""
    curves = _ordered(curves)
    heads = [(name, f"AUROC {one.auroc:.3f}" if one.defined else "") for name, one in curves.items()]
    labels = ("false alarms: share of the images without the finding", "found: share of the images with it")
    title = "ROC curves by finding, highest AUROC first"
    fig, axes = multiples(heads, title=title, subtitle=subtitle, labels=labels)
    looks = _looks(curves)
    for ax, one in zip(axes, curves.values(), strict=True):
        _unit_square(ax, one)
        if one.defined:
            ax.plot(one.fpr, one.tpr, color=BLUE, linewidth=1.8, label="this model")
            ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="chance")
            for name, (fpr, tpr) in one.points.items():
                ax.plot(fpr, tpr, label=name, **looks[name])
    legend(fig)
    return fig


def precision_recall(curves: Mapping[str, Curve], *, subtitle: str) -> Figure:
    """Precision against recall in the order of `roc`; chance is the prevalence.

    An operating point's precision follows from its fpr, tpr and the prevalence.
    """
    curves = _ordered(curves)
    heads = [
        (name, f"AP {one.average_precision:.3f}, chance {one.prevalence:.3f}" if one.defined else "")
        for name, one in curves.items()
    ]
    labels = (
        "recall: share of the images with the finding that are found",
        "precision: share of alarms that are true",
    )
    title = "Precision and recall by finding, highest AUROC first (AP: average precision)"
    fig, axes = multiples(heads, title=title, subtitle=subtitle, labels=labels)
    looks = _looks(curves)
    for ax, one in zip(axes, curves.values(), strict=True):
        _unit_square(ax, one)
        if not one.defined:
            continue
        # average precision is the area under steps that hold each precision back to the recall before
        steps = "steps-pre" if one.recall[0] <= one.recall[-1] else "steps-post"
        ax.plot(one.recall, one.precision, color=BLUE, linewidth=1.6, drawstyle=steps, label="this model")
        rare: Style = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (4, 3)), "zorder": 1}
        ax.axhline(one.prevalence, label="chance: the share of images with the finding", **rare)
        for name, (fpr, tpr) in one.points.items():
            true, false = tpr * one.prevalence, fpr * (1 - one.prevalence)
            if true + false > 0:
                ax.plot(tpr, true / (true + false), label=name, **looks[name])
    legend(fig)
    return fig


def _ordered(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    return dict(sorted(curves.items(), key=lambda item: -item[1].auroc if item[1].defined else np.inf))


def _looks(curves: Mapping[str, Curve]) -> dict[str, Style]:
    names = dict.fromkeys(name for one in curves.values() for name in one.points)
    assert len(names) <= len(_POINTS), f"more operating points than marks: {list(names)}"
    ring: Style = {"markersize": 7, "markeredgecolor": "white", "linestyle": "none", "zorder": 4, "clip_on": False}
    return {
        name: ring | {"marker": marker, "color": color}
        for name, (marker, color) in zip(names, _POINTS, strict=False)
    }


def _unit_square(ax: Axes, one: Curve) -> None:
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    if not one.defined:
        undefined(ax)
