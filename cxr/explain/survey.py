"""One walk over all pairs of an image and a finding: class averages, attention, and the maps that have boxes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxr.data.store import Store
from cxr.explain.classmaps import ClassMap, ClassMean
from cxr.explain.localisation import Boxed
from cxr.explain.pairs import FALSE_POSITIVE, OTHER, walk
from cxr.explain.shortcuts import attention as attention_of
from cxr.findings import FINDINGS

_Key = tuple[str, str]  # finding and outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What the maps of a test set come to."""

    positives: dict[str, ClassMap]  # finding -> averages over all its positive images
    outcomes: dict[str, dict[str, ClassMap]]  # finding -> outcome -> averages
    attention: pd.DataFrame  # image, patient_id, finding, region, share; of positive images
    boxed: list[Boxed] = field(default_factory=list)


def take(
    network: nn.Module, layer: str, store: Store, pairs: pd.DataFrame, boxes: pd.DataFrame, *, device: torch.device
) -> Survey:
    """Map all pairs (`pairs.choose`) once. `boxes` as `nih.read_boxes` gives them, or without rows.

    Memory does not grow with the images, but for the boxed ones.
    """
    size = store.pixels.shape[1]
    means: dict[_Key, ClassMean] = {}
    loo = _WithoutPatient(boxes.merge(pairs, on=["image", "finding"]) if len(boxes) else boxes)
    attention: list[pd.DataFrame] = []
    for here, maps in walk(network, layer, store, pairs, device=device):
        pixels = store.pixels[store.rows_of(here["image"].tolist())]
        patients = here["patient_id"].to_numpy()
        for (finding, outcome), rows in here.reset_index(drop=True).groupby(["finding", "outcome"]):
            at = rows.index.to_numpy()
            if outcome != OTHER:
                mean = means.setdefault((str(finding), str(outcome)), ClassMean(size))
                mean.add(pixels[at], maps[torch.tensor(at, device=maps.device)], patients[at])
        small = maps.cpu()
        loo.add(here, small)
        attention.append(_attention(here, small, size))
    positives: dict[str, ClassMean] = {}
    outcomes: dict[str, dict[str, ClassMap]] = {}
    for (finding, outcome), mean in means.items():
        outcomes.setdefault(finding, {})[outcome] = mean.result()
        if outcome != FALSE_POSITIVE:
            positives[finding] = positives[finding] + mean if finding in positives else mean
    return Survey(
        positives={name: positives[name].result() for name in FINDINGS if name in positives},
        outcomes=outcomes,
        attention=pd.concat(attention, ignore_index=True) if attention else pd.DataFrame(),
        boxed=loo.boxed(boxes, store),
    )


def _attention(here: pd.DataFrame, maps: torch.Tensor, size: int) -> pd.DataFrame:
    kept = ~here["outcome"].isin([OTHER, FALSE_POSITIVE]).to_numpy()
    shares = attention_of(maps[torch.from_numpy(kept)], size)
    own = here.loc[kept, ["image", "patient_id", "finding"]].reset_index(drop=True)
    return own.merge(shares, left_index=True, right_on="pair").drop(columns="pair")


class _WithoutPatient:
    """Maps that have boxes, and for each the mean map of its finding over other patients' positive images."""

    def __init__(self, wanted: pd.DataFrame) -> None:
        self._wanted = set(zip(wanted.get("finding", ()), wanted.get("patient_id", ()), strict=True))
        self._pairs = set(zip(wanted.get("finding", ()), wanted.get("image", ()), strict=True))
        self._maps: dict[_Key, tuple[object, np.ndarray]] = {}  # (finding, image) -> patient, map
        self._sums: dict[str, tuple[int, np.ndarray]] = {}  # finding -> positives, sum of their maps after ReLU
        self._own: dict[tuple[str, object], tuple[int, np.ndarray]] = {}  # the same of one patient

    def add(self, here: pd.DataFrame, maps: torch.Tensor) -> None:
        if not self._pairs:
            return
        columns = (here["finding"], here["image"], here["patient_id"], here["outcome"])
        for finding, image, patient, outcome, one in zip(*columns, maps.numpy(), strict=True):
            if (finding, image) in self._pairs:
                self._maps[finding, image] = (patient, one.copy())
            if outcome not in (OTHER, FALSE_POSITIVE):
                heat = np.maximum(one, 0).astype(np.float64)
                self._sums[finding] = _added(self._sums.get(finding), heat)
                if (finding, patient) in self._wanted:
                    self._own[finding, patient] = _added(self._own.get((finding, patient)), heat)

    def boxed(self, boxes: pd.DataFrame, store: Store) -> list[Boxed]:
        corners = ["x", "y", "width", "height"]
        return [
            Boxed(
                finding=finding, image=image, patient_id=self._maps[finding, image][0],
                map=self._maps[finding, image][1], mean_map=self._others(finding, image),
                geometry=store.geometry(image), boxes=own[corners].to_numpy(dtype=np.float64),
            )
            for (finding, image), own in _groups(boxes)
            if (finding, image) in self._maps
        ]  # fmt: skip

    def _others(self, finding: str, image: str) -> np.ndarray:
        patient, one = self._maps[finding, image]
        nothing = (0, np.zeros(one.shape))
        (count, total), (own, part) = self._sums.get(finding, nothing), self._own.get((finding, patient), nothing)
        if count == own:
            return np.full(one.shape, np.nan)
        rest: np.ndarray = np.maximum(total - part, 0) / (count - own)  # rounding may end below 0
        return rest


def _added(before: tuple[int, np.ndarray] | None, heat: np.ndarray) -> tuple[int, np.ndarray]:
    return (1, heat) if before is None else (before[0] + 1, before[1] + heat)


def _groups(boxes: pd.DataFrame) -> Iterable[tuple[_Key, pd.DataFrame]]:
    for (finding, image), own in boxes.groupby(["finding", "image"]) if len(boxes) else ():
        yield (str(finding), str(image)), own
