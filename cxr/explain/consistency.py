"""Consistency: do networks that should say the same, checkpoints of a run or other seeds, show the same place?

Repeatability (the same recipe, another seed) as Arun et al. 2021 (https://pubs.rsna.org/doi/10.1148/ryai.2021200267)
measure it, by SSIM; they find most methods below what a localisation network reaches.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr.explain.similarity import OTHER_IMAGE, compare, floor, maps_of_pixels


def between(
    networks: Mapping[str, nn.Module], layer: str, pixels: np.ndarray, targets: torch.Tensor
) -> pd.DataFrame:
    """Similarity of the first network's maps with those of each other one, on the same images and targets.

    pixels uint8 [N, S, S], targets [N] -> other (name of the other network), pair, ssim, spearman, top_overlap.
    The last N rows, OTHER_IMAGE, are the first network's maps beside its own of other images: what similarity
    unrelated maps have (`similarity.floor`). Two networks agree on a place only as far as they are above it.

    Cost: a pair passes each network once (and once backwards where Grad-CAM has no closed form).
    """
    names = list(networks)
    assert names, "nothing to compare"
    assert OTHER_IMAGE not in names, names
    first = maps_of_pixels(networks[names[0]], layer, pixels, targets)
    tables = [
        compare(first, maps_of_pixels(networks[name], layer, pixels, targets), pixels.shape[1]).assign(other=name)
        for name in names[1:]
    ]
    tables.append(floor(first, pixels, targets).assign(other=OTHER_IMAGE))
    table = pd.concat(tables, ignore_index=True)
    return table[["other", *table.columns.drop("other")]]
