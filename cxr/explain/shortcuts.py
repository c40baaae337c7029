"""Does a finding's score come from where no lung and no heart is? Shares of attention, and masking.

A map in a corner is a hint, and its absence clears nothing. What counts is masking: the same network, the same
images, one region replaced in all of them, and how far each AUROC falls. That networks know a hospital by a metal
token in the corner of its films: Zech et al., PLOS Medicine 2018 (https://doi.org/10.1371/journal.pmed.1002683).

Regions are fractions of the packed square, the same in all images. They were set by the 984 boxes of NIH's
BBox_List_2017.csv: of a box's area, 0.6 % on average lies in `corners`, 0.4 % in `border`, 1.1 % in
`outside_thorax` (Effusion 2.4 %, Pneumothorax 3.0 %); 2, 1 and 3 boxes lie there by more than half. What was not
square was padded with black, and the regions then hold padding first.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from cxr.data.augment import normalise
from cxr.data.loader import Pixels
from cxr.data.store import Store
from cxr.evaluation import ranked
from cxr.evaluation.bootstrap import SEED, Statistic, rate
from cxr.evaluation.predict import LOGITS
from cxr.evaluation.thresholds import measured
from cxr.findings import FINDINGS

ALARM = 0.02  # a drop of AUROC that is surely above this is called a shortcut
CORNER = 0.18  # side of each corner's square; the drawn marker ends at 0.14 and 0.16
BORDER = 0.05  # width of the frame
THORAX = (0.05, 0.05, 0.90, 0.85)  # x, y, width, height of what holds lungs and heart on a frontal film


class Rectangle(NamedTuple):
    """Fractions of the image's sides, from the upper left."""

    x: float
    y: float
    width: float
    height: float


def _around(x: float, y: float, width: float, height: float) -> tuple[Rectangle, ...]:
    right, below = x + width, y + height
    return (Rectangle(0, 0, 1, y), Rectangle(0, below, 1, 1 - below),
            Rectangle(0, 0, x, 1), Rectangle(right, 0, 1 - right, 1))  # fmt: skip


_FAR = 1 - CORNER
_CORNERS = {
    "upper_left": Rectangle(0, 0, CORNER, CORNER),
    "upper_right": Rectangle(_FAR, 0, CORNER, CORNER),
    "lower_left": Rectangle(0, _FAR, CORNER, CORNER),
    "lower_right": Rectangle(_FAR, _FAR, CORNER, CORNER),
}
# Left and right are the picture's. A region is the union of its rectangles.
REGIONS: Mapping[str, tuple[Rectangle, ...]] = {
    "corners": tuple(_CORNERS.values()),
    "border": _around(BORDER, BORDER, 1 - 2 * BORDER, 1 - 2 * BORDER),
    "outside_thorax": (*_around(*THORAX), *_CORNERS.values()),
    **{name: (corner,) for name, corner in _CORNERS.items()},
}


def region_mask(name: str, size: int) -> np.ndarray:
    """A region of `REGIONS` in a square image: bool [size, size], edges rounded to whole pixels."""
    inside = np.zeros((size, size), dtype=bool)
    for x, y, width, height in REGIONS[name]:
        rows = slice(round(y * size), round((y + height) * size))
        inside[rows, round(x * size) : round((x + width) * size)] = True
    return inside


def attention(maps: torch.Tensor, size: int) -> pd.DataFrame:
    """Where the evidence for the finding lies: pair, region, share (of the map's positive part), area.

    Signed maps [N, h, w] on any device -> a row a pair and region, of the map after ReLU, scaled up to `size`
    pixels (bilinear, align_corners=False). `area` is the region's share of the image: what an even map would give.
    A zero map has share NaN.
    """
    masks = np.stack([region_mask(name, size) for name in REGIONS])  # [R, size, size]
    heat = maps.cpu().double().clamp(min=0)
    # scaling up is linear, so what each cell adds to a region is summed once, and no map is scaled up
    weights = _cell_weights(np.concatenate([masks, np.ones_like(masks[:1])]), *heat.shape[1:])
    sums = np.einsum("nhw,rhw->nr", heat.numpy(), weights)  # [N, R + 1]
    inside, total = sums[:, :-1], sums[:, -1:]
    shares = np.divide(inside, total, out=np.full_like(inside, np.nan), where=total > 0)
    return pd.DataFrame(
        {
            "pair": np.repeat(np.arange(len(maps)), len(REGIONS)),
            "region": list(REGIONS) * len(maps),
            "share": shares.ravel(),
            "area": np.tile(masks.mean(axis=(1, 2)), len(maps)),
        }
    )


def _cell_weights(regions: np.ndarray, height: int, width: int) -> np.ndarray:
    """What each cell of a map [height, width], scaled up, adds to regions [R, S, S]: [R, height, width]."""
    size = regions.shape[1]
    down, across = (
        functional.interpolate(torch.eye(side, dtype=torch.float64)[None], size=size, mode="linear")[0].numpy()
        for side in (height, width)
    )  # [height, S], [width, S]
    weights: np.ndarray = down @ regions.astype(np.float64) @ across.T
    return weights


def mean_attention(shares: pd.DataFrame, *, seed: int = SEED) -> pd.DataFrame:
    """Means of `attention` over the images of a finding, with 95 % patient-bootstrap intervals.

    `shares`: columns image, patient_id, finding, region, share, area. Columns of the result: finding, region,
    images, patients, zero_maps (images that have no share, and are not in the mean), share, low, high, area.
    """
    table, patients = ranked.numbered(shares)
    statistics: dict[str, Statistic] = {}
    rows: dict[str, dict[str, object]] = {}
    for (finding, region), own in table.groupby(["finding", "region"], sort=False):
        known = own.dropna(subset=["share"])
        code = known["patient_id"].to_numpy()
        name = f"{region}/{finding}"
        statistics[name] = rate(
            np.bincount(code, weights=known["share"].to_numpy(), minlength=patients),
            np.bincount(code, minlength=patients),
        )
        rows[name] = {
            "finding": finding, "region": region, "images": len(own), "patients": own["patient_id"].nunique(),
            "zero_maps": len(own) - len(known), "area": float(own["area"].iloc[0]),
        }  # fmt: skip
    found = ranked.estimates(statistics, patients, seed=seed)
    columns = ("finding", "region", "images", "patients", "zero_maps", "share", "low", "high", "area")
    return pd.DataFrame(
        [row | found.of({name: 1}).named("share", "low", "high") for name, row in rows.items()],
        columns=list(columns),
    )


def mean_picture(store: Store, rows: np.ndarray) -> np.ndarray:
    """The mean of store rows: uint8 [S, S]. What is put where a region was."""
    total = np.zeros(store.pixels.shape[1:])
    for part in np.array_split(rows, max(1, len(rows) // 1000)):
        total += store.pixels[part].sum(axis=0, dtype=np.float64)
    return np.rint(total / len(rows)).astype(np.uint8)


def mask(pixels: torch.Tensor, region: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Images [N, S, S] uint8 with `fill` [S, S] uint8 where `region` [S, S] is true; the given ones stay.

    The fill is the mean picture rather than black: black is itself a sign (of padding, of an image without
    markers), and a hole in the picture may lower an AUROC though nothing was to be read there. The mean is the
    same in all images, so it can tell none of them from another; a marker that many carry leaves a faint, equal
    trace in it.
    """
    return torch.where(region, fill, pixels)


def masked_logits(
    network: nn.Module, store: Store, rows: np.ndarray, regions: Sequence[str], fill: np.ndarray, *,
    device: torch.device, batch_size: int = 64,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Logits [len(rows), 15] float32 of store rows with each region masked, by the region's name.

    One forward pass an image and region; images are read once. The network must be in eval mode, in float32.
    """
    assert not network.training, "masking needs the network in eval mode"
    size = store.pixels.shape[1]
    inside = {name: torch.from_numpy(region_mask(name, size)).to(device) for name in regions}
    instead = torch.from_numpy(fill).to(device)
    logits = {name: np.empty((len(rows), len(LOGITS)), dtype=np.float32) for name in regions}
    starts = range(0, len(rows), batch_size)
    batches = Pixels(store, device).batches(rows[start : start + batch_size] for start in starts)
    with torch.inference_mode():
        for start, pixels in zip(starts, batches, strict=True):
            for name, region in inside.items():
                found = network(normalise(mask(pixels, region, instead)))
                logits[name][start : start + len(pixels)] = found.float().cpu().numpy()
    return logits


def effects(scores: pd.DataFrame, masked: Mapping[str, np.ndarray], *, seed: int = SEED) -> pd.DataFrame:
    """How far masking a region lowers each finding's AUROC, by region (in their order) and finding.

    `scores`: rows of a scores table; `masked`: logits [len(scores), 15] of the same images. Columns: finding,
    region, images, positive_patients, auroc, masked_auroc, drop (auroc - masked_auroc; negative where masking
    helps), low, high (95 %, patient bootstrap, both AUROCs in the same replicates), few (under 30 effective
    positive patients: the interval is too narrow), alarm (low > 0.02), note. A finding with fewer than 10
    positive or negative patients has no number, and its note says so. ValueError for a logit that is not finite.
    """
    table, patients = ranked.numbered(scores.reset_index(drop=True))
    statistics: dict[str, Statistic] = {}
    rows: list[tuple[str, str, dict[str, object]]] = []
    for region, logits in masked.items():
        assert logits.shape == (len(table), len(LOGITS)), (region, logits.shape, len(table))
        behind = table.assign(**dict(zip(LOGITS, logits.T, strict=True)))
        for finding in FINDINGS:
            known = measured(table, finding)
            name, why = f"{region}/{finding}", ranked.too_few(known)
            rows.append((name, finding, {
                "finding": finding, "region": region, "images": len(known),
                "positive_patients": ranked.sizes(known)["positive_patients"],
                "few": ranked.few(known) if not why else True, "note": why,
            }))  # fmt: skip
            if not why:
                statistics.setdefault(finding, ranked.ranking(known, patients).auroc)
                statistics[name] = ranked.ranking(measured(behind, finding), patients).auroc
    found = ranked.estimates(statistics, patients, seed=seed)
    for name, finding, row in rows:
        before, behind_it = found.of({finding: 1}), found.of({name: 1})
        drop = found.difference({finding: 1}, {name: 1})
        row |= {"auroc": before.value, "masked_auroc": behind_it.value} | drop.named("drop", "low", "high")
        row["alarm"] = drop.low > ALARM
    columns = ("finding", "region", "images", "positive_patients", "auroc", "masked_auroc", "drop", "low", "high",
               "few", "alarm", "note")  # fmt: skip
    return pd.DataFrame([row for _, _, row in rows], columns=list(columns))


def flat(effects: pd.DataFrame) -> dict[str, float]:
    """`explain/masking/corners/Edema/drop`, /low and /high where defined; `explain/masking/corners/alarms`.

    A region in which no finding has a number has no count of alarms either.
    """
    metrics: dict[str, float] = {}
    for row in effects.to_dict("records"):
        place = f"explain/masking/{row['region']}/{row['finding']}"
        metrics |= {f"{place}/{kind}": float(row[kind]) for kind in ("drop", "low", "high")}
    alarms = effects[effects["drop"].notna()].groupby("region", sort=False)["alarm"].sum()
    metrics |= {f"explain/masking/{region}/alarms": float(count) for region, count in alarms.items()}
    return {name: value for name, value in metrics.items() if not np.isnan(value)}
