"""How alike two maps of one image are: structure, ranks, and the place of the strongest tenth.

All measures compare maps after ReLU, the evidence for a finding that a reader is shown, so signed maps may be
given. A map without a positive value is a zero map: nothing is shown, and its similarity is NaN, never 0 or 1.
Maps of unrelated images are not dissimilar to 0: blank areas agree, and all lungs are in the same place. So the
similarity of maps of different images (`floor`) stands beside every other one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch import nn

from cxr.data.augment import normalise
from cxr.evaluation.bootstrap import SEED, Statistic, rate
from cxr.evaluation.metrics import MIN_PATIENTS
from cxr.evaluation.ranked import estimates, numbered
from cxr.explain.classmaps import upsample
from cxr.explain.gradcam import maps_of

MEASURES = ("ssim", "spearman", "top_overlap")
TOP = 0.1
OTHER_IMAGE = "other image"
BATCH = 32


def maps_of_pixels(network: nn.Module, layer: str, pixels: np.ndarray, targets: torch.Tensor) -> torch.Tensor:
    """Signed Grad-CAM maps of packed images: uint8 [N, S, S], targets [N] -> [N, h, w] float32 on the CPU.

    One forward pass a pair, and one backward pass where Grad-CAM has no closed form.
    """
    assert len(pixels) == len(targets) > 0, (len(pixels), len(targets))
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(pixels), BATCH):
        images = normalise(torch.tensor(pixels[start : start + BATCH], device=device))
        parts.append(maps_of(network, layer, images, targets[start : start + BATCH]))
    return torch.cat(parts)


def compare(one: torch.Tensor, other: torch.Tensor, size: int) -> pd.DataFrame:
    """All measures of maps [N, h, w] and [N, h, w]: pair (0 to N - 1), ssim, spearman, top_overlap.

    Spearman is taken on the maps as they are, the other two on maps scaled up to `size` pixels.
    """
    large, other_large = (_pictures(maps, size) for maps in (one, other))
    return pd.DataFrame(
        {
            "pair": np.arange(len(one)),
            "ssim": _ssim(large, other_large),
            "spearman": spearman(one, other),
            "top_overlap": top_overlap(torch.from_numpy(large), torch.from_numpy(other_large)),
        }
    )


def ssim(one: torch.Tensor, other: torch.Tensor, size: int) -> np.ndarray:
    """Structural similarity of maps [N, h, w] as pictures of `size` x `size` pixels, at least 11; [N].

    ReLU, scaled up (bilinear, align_corners=False), and each divided by its own largest value: so the shapes of
    two pictures are compared, not their strengths, and a map twice as strong is the same picture. Gaussian
    window of SD 1.5 pixels, Wang et al., IEEE Trans. Image Process. 13 (2004) 600-612, by scikit-image, as Arun
    et al. 2021 (https://pubs.rsna.org/doi/10.1148/ryai.2021200267) measure it. NaN where a map is zero.
    """
    return _ssim(_pictures(one, size), _pictures(other, size))


def spearman(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Rank correlation of maps [N, h, w] after ReLU, at the network's own resolution; ties share their rank; [N].

    Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292) rank Grad-CAM after its ReLU, too. Without it, cells
    that speak against a finding would be ranked, which no picture shows. Scaled-up maps would only count each
    cell many times. NaN where a map is constant, which a zero map is.
    """
    assert one.shape == other.shape, (one.shape, other.shape)
    ranks = [rankdata(maps.clamp(min=0).flatten(1).numpy(), axis=1) for maps in (one, other)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)  # [N, h * w]
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    correlation: np.ndarray = (a * b).sum(axis=1) / np.where(spread > 0, spread, np.nan)
    return correlation


def top_overlap(one: torch.Tensor, other: torch.Tensor, share: float = TOP) -> np.ndarray:
    """Intersection over union of the strongest positions of maps [N, h, w], at the resolution given; [N].

    A position counts when it is positive and at least as high as the one that ends the highest `share`; equal
    values all count, so that the order of positions does not matter. Two independent tenths would overlap by
    0.053. NaN where a map is zero.
    """
    assert one.shape == other.shape, (one.shape, other.shape)
    tops = [_top(maps.clamp(min=0).flatten(1).numpy(), share) for maps in (one, other)]
    both = (tops[0] & tops[1]).sum(axis=1)
    either = (tops[0] | tops[1]).sum(axis=1)
    defined = tops[0].any(axis=1) & tops[1].any(axis=1)
    overlap: np.ndarray = both / np.where(defined, either, np.nan)
    return overlap


def floor(maps: torch.Tensor, pixels: np.ndarray, targets: torch.Tensor) -> pd.DataFrame:
    """What similarity unrelated maps have: each map [N, h, w] beside the next one of another image.

    Columns as `compare`'s. The next pair in a circle that has the same target and other pixels [N, S, S]; where
    there is none, the next with other pixels; NaN where all pixels are the same. No pass through a network.
    """
    partner = np.array(_partners([row.tobytes() for row in pixels], targets.tolist()))
    table = compare(maps, maps[torch.from_numpy(np.maximum(partner, 0))], pixels.shape[1])
    table.loc[partner < 0, list(MEASURES)] = np.nan
    return table


def summary(
    table: pd.DataFrame, by: Sequence[str], measures: Sequence[str] = MEASURES, *, seed: int = SEED
) -> pd.DataFrame:
    """One row a group and measure: n, patients, undefined, median, and the mean with its 95 % interval.

    `table` has the columns of `by`, patient_id, and the measures; groups keep the order in which they come. n
    counts all pairs, undefined those that are NaN (as of zero maps); median, mean, low and high are of the
    others. Intervals are percentiles over patients drawn with replacement, the same for all groups; none below 10
    patients.
    """
    assert len(by), "a summary needs a column to group by"
    table, patients = numbered(table)
    statistics: dict[str, Statistic] = {}
    rows: list[dict[str, object]] = []
    for group, part in table.groupby(list(by), sort=False):
        for measure in measures:
            known = part[part[measure].notna()]
            counts = np.bincount(known["patient_id"], minlength=patients)
            sums = np.bincount(known["patient_id"], weights=known[measure], minlength=patients)
            statistics[str(len(rows))] = rate(sums, counts)
            rows.append(
                dict(zip(by, group, strict=True))
                | {"measure": measure, "n": len(part), "patients": part["patient_id"].nunique()}
                | {"undefined": len(part) - len(known), "median": known[measure].median()}
                | {"known_patients": known["patient_id"].nunique()}
            )
    found = estimates(statistics, patients, seed=seed)
    means = [found.of({name: 1.0}).named("mean", "low", "high") for name in statistics]
    summed = pd.DataFrame([row | mean for row, mean in zip(rows, means, strict=True)])
    few = summed["known_patients"] < MIN_PATIENTS
    summed.loc[few, ["low", "high"]] = np.nan
    return summed.drop(columns="known_patients")


def _pictures(maps: torch.Tensor, size: int) -> np.ndarray:
    """ReLU, then scaled up, then over its own largest value: [N, size, size], zero where the map is."""
    large = upsample(maps.clamp(min=0), size)
    largest = large.max(axis=(1, 2), keepdims=True)
    scaled: np.ndarray = large / np.where(largest > 0, largest, 1)
    return scaled


def _ssim(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    assert one.shape == other.shape, (one.shape, other.shape)
    values = np.full(len(one), np.nan)
    for pair, (a, b) in enumerate(zip(one, other, strict=True)):
        if a.any() and b.any():
            values[pair] = structural_similarity(  # type: ignore[no-untyped-call]
                a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
    return values


def _top(values: np.ndarray, share: float) -> np.ndarray:
    """Which positions [N, P] are positive and among the highest `share`, ties included."""
    positions = values.shape[1]
    last = positions - max(round(share * positions), 1)
    lowest = np.partition(values, last, axis=1)[:, last : last + 1]
    top: np.ndarray = (values >= (1 - 1e-5) * lowest) & (values > 0)  # scaling up rounds equal values apart
    return top


def _partners(images: Sequence[bytes], targets: Sequence[int]) -> list[int]:
    """For each pair the next one of another image, of the same target if there is one; -1 for none."""
    count = len(images)
    found = []
    for pair in range(count):
        following = [(pair + step) % count for step in range(1, count)]
        others = [other for other in following if images[other] != images[pair]]
        same = [other for other in others if targets[other] == targets[pair]]
        found.append((same or others or [-1])[0])
    return found
