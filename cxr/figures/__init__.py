"""Figures for people who read a run: prevalence, AUROC and what it hides, Grad-CAM maps and their tests.

Every function takes tables or arrays and returns a `Figure` that nothing else holds on to: no pyplot, no
global state, so it draws in any thread and without a display. Input comes from our own code: a wrong
shape fails an assertion. Figures are 990 pixels wide, to stay readable at the 900 that the MLflow UI
gives a picture. Colours are from Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), each with
a second cue (marker, position or text). A caller's text is never mathtext: names may hold a dollar sign.
"""

from cxr.figures.calibration import Reliability, reliability
from cxr.figures.comparisons import beside, differences
from cxr.figures.curves import Curve, precision_recall, roc
from cxr.figures.faithfulness import faithfulness
from cxr.figures.intervals import MacroRow, auroc
from cxr.figures.localisation import box_accuracy, pointing
from cxr.figures.maps import ClassMapRow, Group, OutcomeRow, class_grid, class_maps, outcomes
from cxr.figures.pictures import Tile, example_images, overlay, panel
from cxr.figures.repeats import coverage, seeds
from cxr.figures.shortcuts import attention, masking
from cxr.figures.stress import randomisation, similarities
from cxr.figures.subgroups import rates, subgroups
from cxr.figures.tables import prevalence, prior_shift, shift

__all__ = [
    "ClassMapRow", "Curve", "Group", "MacroRow", "OutcomeRow", "Reliability", "Tile", "attention", "auroc",
    "beside", "box_accuracy", "class_grid", "class_maps", "coverage", "differences", "example_images",
    "faithfulness", "masking", "outcomes", "overlay", "panel", "pointing", "precision_recall", "prevalence",
    "prior_shift", "randomisation", "rates", "reliability", "roc", "seeds", "shift", "similarities", "subgroups",
]  # fmt: skip
