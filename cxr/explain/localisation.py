"""Whether maps lie where a radiologist drew a box, beside what three baselines reach on the same images.

Heat is a map after ReLU, bilinear over the original (`boxes.heat`), and scaled by image to 0..255: 0 stays 0, the
largest value is 255. Detected boxes are the bounding boxes of the connected regions above 60 and of those above
180, of both thresholds together. They are held against all boxes of the image's finding.

Measures of one image and finding:
- `pointing`: 1 where the heat's maximum lies in a box that is larger by 15 pixels at 1,024, in proportion to the
  longer side, on each side; of equal maxima the share that does.
- `contains_centre`: 1 where a region above 180 contains the centre of a box.
- `energy`: the share of all heat that lies in the boxes' union.
- `iou_T`, `iobb_T`: 1 where any detected box has IoU, or IoBB, above T with any drawn box.
- `false_positives`: detected boxes, of both thresholds, without IoBB above 0.1 with any drawn box.
- `zero_maps`: 1 where there is no heat at all. Such a map is a miss in every measure and detects nothing.

Sources: pointing game: Zhang et al., ECCV 2016 (https://arxiv.org/abs/1608.00507); energy: Wang et al., Score-CAM,
2020 (https://arxiv.org/abs/1910.01279); boxes, IoU and IoBB: Wang et al., CVPR 2017, section 4.2
(https://arxiv.org/abs/1705.02315), whose way of joining the two thresholds we do not know: any box is ours.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from cxr.data.image import Geometry
from cxr.evaluation import ranked
from cxr.evaluation.bootstrap import SEED, Statistic, rate
from cxr.evaluation.metrics import MIN_PATIENTS
from cxr.evaluation.ranked import Estimate, Estimates
from cxr.explain.boxes import Heat, cone, covered, heat, hit, overlaps, within

GRADCAM = "gradcam"
BASELINES = ("shuffled", "centre", "class_mean")
METHODS = (GRADCAM, *BASELINES)
OVERLAPS = ("0.1", "0.25", "0.3", "0.4", "0.5", "0.6", "0.7", "0.75", "0.9")  # T of IoU and of IoBB
MEASURES = (
    "pointing", "contains_centre", "energy", *(f"iou_{t}" for t in OVERLAPS), *(f"iobb_{t}" for t in OVERLAPS),
    "false_positives", "zero_maps",
)  # fmt: skip
HEADLINE = ("pointing", "energy", "contains_centre", "iou_0.1", "iobb_0.1", "iobb_0.25")
ALL = "all"  # findings, or strata, together

# Boxes' share of the image: terciles of NIH's 984 (0.08 to 56 %), fixed, so that strata of runs compare.
STRATA = {"small": 0.0252, "medium": 0.0781, "large": np.inf}  # stratum -> share up to which it reaches

_HEAT = (60, 180)  # thresholds of the scaled heat, of 255
_TOLERANCE = 15 / 1024  # of the longer side
_SHUFFLES = 5
_FALSE_POSITIVE = 0.1  # IoBB up to which a detected box is one
_T = np.array([float(t) for t in OVERLAPS])


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxed:
    """The map of an image for a finding that has boxes there."""

    finding: str
    image: str
    patient_id: object
    map: np.ndarray  # [h, w] signed, at the layer's resolution, of the packed square image
    mean_map: (
        np.ndarray
    )  # [h, w] mean of max(map, 0) over the finding's other test patients; NaN where none has it
    geometry: Geometry
    boxes: np.ndarray  # [n, 4] x, y, width, height in pixels of the original


@dataclass(frozen=True, kw_only=True, eq=False)
class _Detected:
    """Heat, and the boxes of both thresholds on it."""

    heat: Heat
    boxes: np.ndarray  # [d, 4]


def measure(items: Iterable[Boxed], *, seed: int) -> pd.DataFrame:
    """Every measure of every map and baseline: a row an image, finding and method.

    Columns: finding, image, patient_id, box_share, stratum, method and `MEASURES`. Baselines: `shuffled` (the
    map's positions within the image permuted, mean of 5; drawn from the seed and the names of finding and image:
    the order of items does not matter), `centre` (heat falls linearly from the image's centre to 0 at half of the
    shorter side), `class_mean` (the finding's mean map without the patient; NaN where nobody else has it).
    """
    rows: list[dict[str, object]] = []
    for item in items:
        place = item.geometry
        share = covered(item.boxes, place.width, place.height)
        about = {"finding": item.finding, "image": item.image, "patient_id": item.patient_id}
        about |= {"box_share": share, "stratum": stratum(share)}
        shuffled = [_one(_detect(heat(one, place)), item) for one in _shuffles(item, seed)]
        alone = bool(np.isnan(item.mean_map).any())
        found = {
            GRADCAM: _one(_detect(heat(item.map, place)), item),
            "shuffled": np.mean(shuffled, axis=0),
            "centre": _one(_centre(place.width, place.height), item),
            "class_mean": np.full(len(MEASURES), np.nan)
            if alone
            else _one(_detect(heat(item.mean_map, place)), item),
        }
        rows += [about | {"method": name} | dict(zip(MEASURES, found[name], strict=True)) for name in METHODS]
    columns = ["finding", "image", "patient_id", "box_share", "stratum", "method", *MEASURES]
    return pd.DataFrame(rows, columns=columns)


def stratum(share: float) -> str:
    """The stratum of boxes that cover a share of their image."""
    return next(name for name, most in STRATA.items() if share <= most)


def table(rows: pd.DataFrame, *, seed: int = SEED) -> pd.DataFrame:
    """Means of what `measure` gives, with their 95 % intervals by patient.

    Columns: finding, stratum, method, measure, images (pairs of image and finding), patients, value, low, high.
    A finding has one stratum, `all`; the finding `all` has every stratum that occurs. Means are over pairs. There
    is no interval of fewer than 10 patients, nor where all agree: of 19 that all miss, every replicate misses, and
    up to 15 % may hit all the same. The class mean is undefined where no other patient has a map of the finding.
    """
    groups = _groups(rows)
    found = _estimates(rows, groups, seed)
    return pd.DataFrame(
        [
            {"finding": finding, "stratum": name, "method": method, "measure": one,
             "images": len(pairs), "patients": pairs["patient_id"].nunique()}
            | _sure(found.of({_key(finding, name, method, one): 1}), pairs).named("value", "low", "high")
            for (finding, name), pairs in groups.items()
            for method in METHODS
            for one in MEASURES
        ],
        columns=["finding", "stratum", "method", "measure", "images", "patients", "value", "low", "high"],
    )  # fmt: skip


def differences(rows: pd.DataFrame, *, seed: int = SEED) -> pd.DataFrame:
    """Grad-CAM less each baseline, paired in the replicates of `table`.

    Columns: finding, stratum, baseline, measure, difference, low, high. Of `false_positives` and `zero_maps`
    fewer are better.
    """
    groups = _groups(rows)
    found = _estimates(rows, groups, seed)
    return pd.DataFrame(
        [
            {"finding": finding, "stratum": name, "baseline": method, "measure": one}
            | _sure(
                found.difference(
                    {_key(finding, name, GRADCAM, one): 1}, {_key(finding, name, method, one): 1}
                ),
                pairs,
            ).named("difference", "low", "high")
            for (finding, name), pairs in groups.items()
            for method in BASELINES
            for one in MEASURES
        ],
        columns=["finding", "stratum", "baseline", "measure", "difference", "low", "high"],
    )  # fmt: skip


def flat(table: pd.DataFrame, differences: pd.DataFrame) -> dict[str, float]:
    """The headline as metrics, without strata and without what is undefined; at most 24 a finding.

    `explain/pointing/Mass` and the other headline measures, `explain/pointing_shuffled/Mass` the same of the
    shuffled map, of pointing of every baseline; `/low` and `/high` of pointing, energy and IoBB above 0.1;
    `explain/pointing_minus_shuffled/Mass` with its ends; `explain/zero_maps/Mass`.
    """
    metrics: dict[str, float] = {}
    for row in table[table["stratum"] == ALL].to_dict("records"):
        one, method = row["measure"], row["method"]
        if method == GRADCAM and one in (*HEADLINE, "zero_maps"):
            name = f"explain/{one}/{row['finding']}"
            metrics[name] = row["value"]
            if one in ("pointing", "energy", "iobb_0.1"):
                metrics |= {f"{name}/low": row["low"], f"{name}/high": row["high"]}
        elif one == "pointing" or (method == "shuffled" and one in HEADLINE):
            metrics[f"explain/{one}_{method}/{row['finding']}"] = row["value"]
    kept = differences[(differences["stratum"] == ALL) & (differences["measure"] == "pointing")]
    for row in kept[kept["baseline"] == "shuffled"].to_dict("records"):
        name = f"explain/pointing_minus_shuffled/{row['finding']}"
        metrics |= {name: row["difference"], f"{name}/low": row["low"], f"{name}/high": row["high"]}
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}


def _detect(surface: Heat) -> _Detected:
    """The boxes of both thresholds, none on a zero map.

    A region between the centres of the original's pixels is none: between four positions of a map a saddle can
    rise above a threshold by less than a pixel, and such a speck would lie wholly inside any drawn box.
    """
    if surface.top == 0:
        return _Detected(heat=surface, boxes=np.empty((0, 4)))
    found = np.concatenate([surface.detect(surface.top * threshold / 255) for threshold in _HEAT])
    start, end = found[:, :2], found[:, :2] + found[:, 2:]
    seen = (np.floor(end - 0.5) >= np.ceil(start - 0.5)).all(axis=1)
    return _Detected(heat=surface, boxes=found[seen] if seen.any() else found)


@lru_cache(maxsize=8)
def _centre(width: int, height: int) -> _Detected:
    return _detect(cone(width, height))


def _shuffles(item: Boxed, seed: int) -> Sequence[np.ndarray]:
    digest = hashlib.sha256(f"{item.finding}/{item.image}".encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    # a position in padding stays there: moved into the image, its heat would be counted as the map's
    inside = within((item.map.shape[0], item.map.shape[1]), item.geometry)
    drawn = []
    for _ in range(_SHUFFLES):
        one = item.map.copy()
        one[inside] = generator.permutation(one[inside])
        drawn.append(one)
    return drawn


def _one(found: _Detected, item: Boxed) -> np.ndarray:
    """`MEASURES` of heat on an image."""
    surface, drawn = found.heat, item.boxes
    if surface.top == 0:
        return np.array([0.0] * (len(MEASURES) - 1) + [1.0])
    tolerance = _TOLERANCE * max(item.geometry.width, item.geometry.height)
    centres = drawn[:, :2] + drawn[:, 2:] / 2
    hot = surface.at(centres[:, 0], centres[:, 1]) > surface.top * _HEAT[1] / 255
    iou, iobb = overlaps(found.boxes, drawn)  # [detected, drawn]
    return np.concatenate(
        [
            [hit(surface.peaks(), drawn, tolerance).mean(), hot.any(), surface.share_inside(drawn)],
            iou.max() > _T,
            iobb.max() > _T,
            [(iobb.max(axis=1) <= _FALSE_POSITIVE).sum(), 0],
        ]
    ).astype(np.float64)


def _groups(rows: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """(finding, stratum) -> its pairs, in the order of `table`: a row of Grad-CAM each."""
    pairs = rows[rows["method"] == GRADCAM]
    groups = {(str(name), ALL): own for name, own in pairs.groupby("finding", sort=False)}
    groups = {key: groups[key] for key in sorted(groups)}
    groups[ALL, ALL] = pairs
    return groups | {(ALL, name): own for name in STRATA if len(own := pairs[pairs["stratum"] == name])}


def _estimates(rows: pd.DataFrame, groups: dict[tuple[str, str], pd.DataFrame], seed: int) -> Estimates:
    known, patients = ranked.numbered(rows)
    by_method = {name: known[known["method"] == name].set_index(["finding", "image"]) for name in METHODS}
    statistics: dict[str, Statistic] = {}
    for (finding, name), pairs in groups.items():
        at = pd.MultiIndex.from_frame(pairs[["finding", "image"]])
        for method in METHODS:
            own = by_method[method].loc[at]
            codes = own["patient_id"].to_numpy()
            whole = np.bincount(codes, weights=own["pointing"].notna(), minlength=patients)
            for one in MEASURES:
                part = np.bincount(codes, weights=own[one].fillna(0).to_numpy(), minlength=patients)
                statistics[_key(finding, name, method, one)] = rate(part, whole)
    return ranked.estimates(statistics, patients, seed=seed)


def _sure(found: Estimate, pairs: pd.DataFrame) -> Estimate:
    """An estimate, without its interval where few patients are behind it, or where all agree."""
    sure = pairs["patient_id"].nunique() >= MIN_PATIENTS and found.low < found.high
    return found if sure else Estimate(found.value, np.nan, np.nan)


def _key(finding: str, stratum: str, method: str, measure: str) -> str:
    return f"{finding}/{stratum}/{method}/{measure}"
