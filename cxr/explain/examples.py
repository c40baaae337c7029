"""Single images and their maps: which ones are shown is decided by rule, never by hand."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr.data.loader import Pixels, batches
from cxr.data.store import Store
from cxr.explain.classmaps import upsample
from cxr.explain.gradcam import maps_of
from cxr.findings import CLASSES


@dataclass(frozen=True, kw_only=True)
class Example:
    """One positive image of a finding, why it is shown, its probability, and its map after ReLU."""

    finding: str
    rule: str
    image: str
    probability: float
    pixels: np.ndarray  # [S, S] uint8
    map: np.ndarray  # [S, S] float32 >= 0, logit units


def choose(scores: pd.DataFrame, finding: str, threshold: float = -np.inf) -> dict[str, pd.Series]:
    """The positive images of a finding with the highest, the median and the lowest logit, each once.

    Rule -> row of the scores table; ties go to the image whose name comes first. The lowest one is the worst miss
    where it lies below the threshold.
    """
    positive = scores[scores[finding] == 1]
    ordered = positive.sort_values([f"logit_{finding}", "image"], ascending=[False, True])
    places = {"highest score": 0, "median score": (len(ordered) - 1) // 2, "lowest score": len(ordered) - 1}
    rules: dict[int, str] = {}
    for rule, place in places.items() if len(ordered) else ():
        missed = rule == "lowest score" and ordered.iloc[place][f"logit_{finding}"] < threshold
        rules.setdefault(place, "worst miss" if missed else rule)
    return {rule: ordered.iloc[place] for place, rule in rules.items()}


def explain(
    network: nn.Module, layer: str, store: Store, scores: pd.DataFrame, finding: str, *, device: torch.device,
    threshold: float = -np.inf,
) -> list[Example]:  # fmt: skip
    """The chosen images of a finding with their Grad-CAM maps; none where it has no positive image."""
    chosen = choose(scores, finding, threshold)
    if not chosen:
        return []
    rows = store.rows_of([row["image"] for row in chosen.values()])
    shown: list[Example] = []
    for positions, images in batches(Pixels(store, device), rows, batch_size=len(rows)):
        targets = torch.full((len(positions),), CLASSES.index(finding))
        maps = upsample(maps_of(network, layer, images, targets).clamp(min=0), store.pixels.shape[1])
        for (rule, row), place, heat in zip(chosen.items(), rows, maps, strict=True):
            probability = float(1.0 / (1.0 + np.exp(-float(row[f"logit_{finding}"]))))
            shown.append(
                Example(
                    finding=finding, rule=rule, image=str(row["image"]), probability=probability,
                    pixels=store.pixels[place], map=heat,
                )
            )  # fmt: skip
    return shown
