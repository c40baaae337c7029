"""Deletion and insertion: does the score follow what the map shows, more than it follows a random order?

The map's cells are removed from the picture, the strongest first (deletion), or are all that is left of it, the
strongest first (insertion); the probability of the finding is read at each share, and the area under it compared
with that of random orders. A faithful map has a small deletion and a large insertion area. Petsiuk et al., BMVC
2018 (https://arxiv.org/abs/1806.07421).

What is removed is imputed from what is left, with a little noise, as ROAD does (Rong et al., ICML 2022,
https://arxiv.org/abs/2202.00449): a blurred picture would leave a large heart where it was, and black or grey
holes show their shape, so that the score would answer to the hole. ROAD's linear system, in which each unknown
pixel is the mean of its eight neighbours, is relaxed on a pyramid instead of solved, whole batches at a time: on
drawings of 128 px that is within 3 grey levels of the solution in the mean where a tenth is gone, and within 9
where eight tenths are. What remains: a smooth patch is still no tissue, and at high shares no picture is like
those that the network was trained on. So only the difference from random orders, which share this, is to be read;
it is not wholly fair either, as a map's cells lie together and leave a larger hole than scattered ones do.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from cxr.data.augment import normalise
from cxr.explain.similarity import BATCH, maps_of_pixels

TILES = 8  # cells a side at most; finer maps are averaged, since small scattered holes impute to what was there
SWEEPS = 8  # of each level of the pyramid
NOISE = 2.55  # SD in grey levels: ROAD's 0.01 of the range


def curves(
    network: nn.Module, layer: str, pixels: np.ndarray, targets: torch.Tensor, *,
    seed: int, steps: int = 10, random_orders: int = 3,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Areas under deletion and insertion of each (image, class) pair, and the mean curves.

    pixels [N, S, S] uint8, targets [N]. Areas: pair, deletion, insertion, deletion_random, insertion_random (mean
    over `random_orders` orders), in units of probability; NaN where the map has no positive value: no order.
    Mean curves over the other pairs: share (of the cells), order (map or random), deletion, insertion.

    The order is that of the signed map, so that cells without evidence come before those with evidence against the
    class. Forward passes a pair: 2 + 2 (steps - 1) (1 + random_orders), beside those of its map; fewer where there
    are fewer cells than steps.
    """
    assert steps >= 1, steps
    assert random_orders >= 1, random_orders
    maps = maps_of_pixels(network, layer, pixels, targets)
    shown = np.flatnonzero((maps.flatten(1).amax(dim=1) > 0).numpy())
    ranks = _ranks(maps[torch.from_numpy(shown)], random_orders, np.random.default_rng(seed))  # [n, 1 + R, T]
    counts = np.unique(np.rint(np.linspace(0, ranks.shape[2], steps + 1))).astype(int)
    shares = counts / ranks.shape[2]
    noise = NOISE * np.random.default_rng([seed, 1]).standard_normal(pixels.shape, dtype=np.float32)
    read = np.empty((len(shown), 2, 1 + random_orders, len(counts)))  # probabilities
    for place, pair in enumerate(shown):
        read[place] = _read(network, pixels[pair], noise[pair], int(targets[pair]), ranks[place], counts)
    return _areas(read, shares, shown, len(pixels)), _means(read, shares)


def _ranks(maps: torch.Tensor, random_orders: int, generator: np.random.Generator) -> np.ndarray:
    """Signed maps [n, h, h] -> each cell's place, from 0 for the first to go: [n, 1 + R, T], the map's first."""
    side = maps.shape[1] // -(-maps.shape[1] // TILES)
    cells = functional.adaptive_avg_pool2d(maps.unsqueeze(1), side).flatten(1).numpy()  # [n, T]
    by_map = np.argsort(np.argsort(-cells, axis=1, kind="stable"), axis=1)
    numbers = np.arange(side * side)
    drawn = np.tile(numbers, (len(maps), random_orders, 1))
    return np.concatenate([by_map[:, None], generator.permuted(drawn, axis=2)], axis=1)


def _read(
    network: nn.Module, picture: np.ndarray, noise: np.ndarray, target: int, ranks: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Probabilities of one picture: deletion and insertion by order and count of cells, [2, 1 + R, C].

    picture [S, S] uint8, noise [S, S], ranks [1 + R, T], counts [C] from 0 to T.
    """
    device = next(network.parameters()).device
    grey, grain = torch.tensor(picture, device=device).float(), torch.from_numpy(noise).to(device)
    gone = ranks[:, None] < counts[1:-1, None]  # [1 + R, C - 2, T], what comes first in the order
    whole = np.array([[True], [False]]).repeat(ranks.shape[1], axis=1)  # everything and nothing
    left = np.concatenate([whole, ~gone.reshape(-1, gone.shape[2]), gone.reshape(-1, gone.shape[2])])  # [M, T]
    probabilities = []
    for start in range(0, len(left), BATCH):
        cells = torch.from_numpy(left[start : start + BATCH]).to(device)
        pictures = impute(grey, _pixels(cells, len(grey)), grain)
        with torch.inference_mode():
            logits = network(normalise(pictures))[:, target]
        probabilities.append(logits.double().sigmoid().cpu().numpy())
    everything, nothing, *between = np.concatenate(probabilities)
    inner = np.array(between).reshape(2, *gone.shape[:2])
    read = np.empty((2, len(ranks), len(counts)))
    read[:, :, 1:-1] = inner
    read[0, :, 0] = read[1, :, -1] = everything
    read[0, :, -1] = read[1, :, 0] = nothing
    return read


def _pixels(cells: torch.Tensor, size: int) -> torch.Tensor:
    """Cells [M, T] bool of a square grid -> the pixels [M, size, size] bool that they cover."""
    side = round(cells.shape[1] ** 0.5)
    grid = cells.view(len(cells), 1, side, side).float()
    return functional.interpolate(grid, size=(size, size), mode="nearest").squeeze(1) > 0.5


def impute(picture: torch.Tensor, known: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A picture with what is not known averaged from what is, and noise there: float32 [M, S, S] in 0..255.

    picture [S, S] in grey levels, known [M, S, S] bool, noise [S, S]. Where nothing is known it is the picture's
    mean grey.
    """
    weights = known.unsqueeze(1).float()
    pictures = torch.where(known, picture, 0.0).unsqueeze(1)
    near = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 2.0], [1.0, 2.0, 1.0]], device=picture.device).view(
        1, 1, 3, 3
    )
    filled = _filled(pictures, weights, near, float(picture.mean())).squeeze(1)
    return torch.where(known, picture, (filled + noise).clamp(0, 255))


def _filled(weighted: torch.Tensor, weights: torch.Tensor, near: torch.Tensor, otherwise: float) -> torch.Tensor:
    """Averages [M, 1, S, S] where there is weight; elsewhere near the mean of the neighbours, weighted by `near`.

    weighted and weights [M, 1, S, S], the former already times the latter, which run from 0 to 1. What is unknown
    starts from the solution of a picture half the size.
    """
    known = weights > 0
    average = torch.where(known, weighted / weights.clamp(min=1e-12), otherwise)
    if weights.shape[2] == 1:
        return average
    half, half_weights = (functional.avg_pool2d(part, 2, ceil_mode=True) for part in (weighted, weights))
    smaller = _filled(half, half_weights, near, otherwise)
    start = functional.interpolate(smaller, size=weights.shape[2:], mode="bilinear", align_corners=False)
    filled = torch.where(known, average, start)
    neighbours = functional.conv2d(torch.ones_like(weights[:1]), near, padding=1)  # fewer at the edges
    for _ in range(SWEEPS):
        filled = torch.where(known, average, functional.conv2d(filled, near, padding=1) / neighbours)
    return filled


def _areas(read: np.ndarray, shares: np.ndarray, shown: np.ndarray, pairs: int) -> pd.DataFrame:
    areas = np.full((pairs, 4), np.nan)
    under = np.trapezoid(read, shares, axis=3)  # [n, 2, 1 + R]
    areas[shown] = np.concatenate([under[:, :, 0], under[:, :, 1:].mean(axis=2)], axis=1)
    columns = ["deletion", "insertion", "deletion_random", "insertion_random"]
    table = pd.DataFrame(areas, columns=columns)
    table.insert(0, "pair", np.arange(pairs))
    return table


def _means(read: np.ndarray, shares: np.ndarray) -> pd.DataFrame:
    rows = []
    for order, part in (("map", read[:, :, :1]), ("random", read[:, :, 1:])):
        deletion, insertion = part.mean(axis=(0, 2)) if len(read) else np.full((2, len(shares)), np.nan)
        rows.append(pd.DataFrame({"share": shares, "order": order, "deletion": deletion, "insertion": insertion}))
    return pd.concat(rows, ignore_index=True)
