"""Cascading randomisation: does a map depend on what the network has learned?

Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (https://arxiv.org/abs/1810.03292): the weights are
drawn anew part by part, from the head down to the stem, and the maps of the same images and classes are compared
with those of the network as it was. A map that stays the same shows the image, not the network.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import nn
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.explain.similarity import BATCH, OTHER_IMAGE, compare, floor, maps_of_pixels

# depth -> the parts that are drawn anew at it, beside those of all depths before it
PARTS = {
    "fc": ("fc",), "layer4": ("layer4",), "layer3": ("layer3",), "layer2": ("layer2",), "layer1": ("layer1",),
    "conv1": ("conv1", "bn1"),
}  # fmt: skip
DEPTHS = tuple(PARTS)
FULL = DEPTHS[-1]  # nothing of what was learned is left
SAME = 0.5


def cascade(network: ResNet, layer: str, pixels: np.ndarray, targets: torch.Tensor, *, seed: int) -> pd.DataFrame:
    """Similarity of each pair's map with that of the network randomised down to each depth.

    pixels uint8 [N, S, S], targets [N] -> depth, pair, ssim, spearman, top_overlap; the depths in the order of
    DEPTHS, and last OTHER_IMAGE, what maps of unrelated images have in common (`similarity.floor`). The network
    stays as it is. One draw of weights: another seed is another random network. All batches together need two
    pairs, or images so large that `layer4` has several positions.

    Cost: an image and target passes 7 times for its maps (and 7 times backwards where there is no closed form)
    and 5 times for batch norm.
    """
    before = maps_of_pixels(network, layer, pixels, targets)
    random = deepcopy(network).eval()
    fresh = _drawn_anew(network, seed)
    tables, redrawn = [], list[str]()
    for depth, parts in PARTS.items():
        redrawn += parts
        for part in parts:
            random.get_submodule(part).load_state_dict(fresh.get_submodule(part).state_dict(), strict=True)
        _estimate_statistics(random, redrawn, pixels)
        after = maps_of_pixels(random, layer, pixels, targets)
        tables.append(compare(before, after, pixels.shape[1]).assign(depth=depth))
    tables.append(floor(before, pixels, targets).assign(depth=OTHER_IMAGE))
    table = pd.concat(tables, ignore_index=True)
    return table[["depth", *table.columns.drop("depth")]]


def unchanged(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Whether maps outlive everything that was learned, of a `cascade` table, for each group of `by` or for all.

    One row a group: `by`, n, undefined (pairs without a rank correlation at full depth), spearman (their
    median), ssim and floor_ssim (means at full depth and of other images), unchanged, above_floor.

    unchanged: the median rank correlation with a network of random weights is at least 0.5. Then more than a
    quarter of the variance of the ranks is there without any learning; independent maps have 0. above_floor is
    the criterion of Arun et al. 2021 (https://pubs.rsna.org/doi/10.1148/ryai.2021200267): the mean SSIM has not
    fallen below that of maps of different images. It is the stricter one: a random network sees the image, too.
    Both are missing (pandas' NA) where no pair has a value: a map that is always zero is not shown to be learned.
    """
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    rows = []
    for group, part in groups:
        full, other = part[part["depth"] == FULL], part[part["depth"] == OTHER_IMAGE]
        rank, ssim, least = full["spearman"].median(), full["ssim"].mean(), other["ssim"].mean()
        rows.append(
            dict(zip(by, group, strict=True))
            | {"n": len(full), "undefined": int(full["spearman"].isna().sum())}
            | {"spearman": rank, "ssim": ssim, "floor_ssim": least}
            | {"unchanged": pd.NA if np.isnan(rank) else bool(rank >= SAME)}
            | {"above_floor": pd.NA if np.isnan(ssim - least) else bool(ssim >= least)}
        )
    return pd.DataFrame(rows).astype({"unchanged": "boolean", "above_floor": "boolean"})


def _drawn_anew(network: ResNet, seed: int) -> ResNet:
    """A network of the same shape with torchvision's own random weights."""
    blocks = [network.get_submodule(name) for name in ("layer1", "layer2", "layer3", "layer4")]
    assert all(isinstance(block, nn.Sequential) for block in blocks), "not built as torchvision builds a ResNet"
    lengths = [len(list(block.children())) for block in blocks]
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        return ResNet(type(network.layer1[0]), lengths, num_classes=network.fc.out_features)


def _estimate_statistics(network: ResNet, parts: Sequence[str], pixels: np.ndarray) -> None:
    """Set the running statistics of batch norm in the random parts to those of the images.

    The running statistics of a trained network belong to its own activations. Behind random weights they would
    scale by numbers that fit nothing, the maps would change because of them, and the test would be passed too
    easily. Momentum None is the plain mean over the batches.
    """
    norms = [
        module for part in parts for module in network.get_submodule(part).modules()
        if isinstance(module, nn.BatchNorm2d)
    ]  # fmt: skip
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    device = next(network.parameters()).device
    with torch.inference_mode():
        # batches of even sizes: a last batch of one image has no variance at a single position
        for batch in np.array_split(pixels, -(-len(pixels) // BATCH)):
            network(normalise(torch.tensor(batch, device=device)))
    network.eval()
