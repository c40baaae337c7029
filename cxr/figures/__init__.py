"""Figures for people who read a run: how common findings are, AUROC and what it hides, Grad-CAM maps.

Every function takes tables or arrays and returns a `Figure` that nothing else holds on to: no pyplot, no
global state, so it draws in any thread and without a display. Input comes from our own code: a wrong
shape fails an assertion. Figures are 990 pixels wide, to stay readable at the 900 that the MLflow UI
gives a picture. Colours are from Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), each with
a second cue (marker, position or text). A caller's text is never mathtext: names may hold a dollar sign.
"""

from cxr.figures.calibration import Reliability, reliability
from cxr.figures.comparisons import beside, differences
from cxr.figures.curves import Curve, precision_recall, roc
from cxr.figures.intervals import MacroRow, auroc
from cxr.figures.maps import ClassMapRow, Tile, class_maps, example_images, overlay, panel
from cxr.figures.repeats import coverage, seeds
from cxr.figures.subgroups import rates, subgroups
from cxr.figures.tables import prevalence, prior_shift, shift

__all__ = [
    "ClassMapRow", "Curve", "MacroRow", "Reliability", "Tile", "auroc", "beside", "class_maps", "coverage",
    "differences", "example_images", "overlay", "panel", "precision_recall", "prevalence", "prior_shift", "rates",
    "reliability", "roc", "seeds", "shift", "subgroups",
]  # fmt: skip
