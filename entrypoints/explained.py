"""What the explain stage explains: a network, the test images with its scores, and what is known of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from cxr.data.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """A network and the scored test images whose maps are measured."""

    network: "nn.Module"
    layer: str
    store: "Store"
    test: "pd.DataFrame"  # scores table of the test images; NaN for classes unknown to model or set
    val_images: int
    findings: list[str]  # with a positive test image, in the order of FINDINGS
    auroc: Mapping[str, float]  # NaN where undefined
    carried: frozenset[str]  # findings with enough patients to be ranked by AUROC
    thresholds: Mapping[str, float]  # logits, chosen on validation (Youden); empty where there is none
    boxes: "pd.DataFrame"  # as `nih.read_boxes` gives them; no rows where there is none
    drawn_boxes: str  # what a box is
    official: bool  # NIH's own test list, so that published figures are of the same boxes
    scope: str  # what these images are, in a sentence
    device: "torch.device"
    seed: int
    others: Mapping[str, "nn.Module"] = field(default_factory=dict)  # checkpoints and seeds to compare with
    measured: dict[str, float] = field(default_factory=dict)  # the run's metrics: they go to the server together
