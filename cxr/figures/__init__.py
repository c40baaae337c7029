"""Figures for people who read a run: how common findings are, AUROC, Grad-CAM maps, contact sheets.

Every function takes tables or arrays and returns a `Figure` that nothing else holds on to: no pyplot, no
global state, so it draws in any thread and without a display. Input comes from our own code: a wrong
shape fails an assertion. Figures are 990 pixels wide, to stay readable at the 900 that the MLflow UI
gives a picture. Colours are from Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), each with
a second cue (marker, position or text). A caller's text is never mathtext: names may hold a dollar sign.
"""

from cxr.figures.maps import ClassMapRow, Tile, class_maps, example_images, overlay, panel
from cxr.figures.tables import auroc, prevalence, shift

__all__ = [
    "ClassMapRow", "Tile", "auroc", "class_maps", "example_images", "overlay", "panel", "prevalence", "shift",
]  # fmt: skip
