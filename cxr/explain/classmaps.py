"""Class-averaged maps: mean and standard deviation over all images of a class.

`mean_relu` is the paper's average (ReLU per image, then the mean over images); `mean_signed` keeps the
evidence against the class. Maps are scaled up to the image first (bilinear, align_corners=False), so
that the standard deviation is that of the pictures a reader sees, and are never scaled per image: a
map twice as strong counts twice as much. Sums run in float64; memory does not grow with the images.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """What all images of one class average to. Maps [H, W] float32 in logit units."""

    images: int
    patients: int
    zero_maps: int  # images whose map has no positive value: they stay in the mean
    mean_image: np.ndarray  # [H, W] uint8
    mean_relu: np.ndarray
    sd_relu: np.ndarray  # NaN where images < 2
    mean_signed: np.ndarray
    sd_signed: np.ndarray


class ClassMean:
    """Running sums over the images of one class; two of them add up to that of both."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.patients: set[object] = set()
        self.images = 0
        self.zero_maps = 0
        self.pixels = np.zeros((size, size))  # float64, like the sums below
        self.sums: dict[
            str, torch.Tensor
        ] = {}  # relu, signed -> [2, S, S] of x and of x squared, where the maps are

    def add(self, pixels: np.ndarray, maps: torch.Tensor, patients: np.ndarray) -> None:
        """Add images: pixels [N, H, W] uint8, signed maps [N, h, w], patients [N]."""
        self.images += len(maps)
        self.zero_maps += int((maps.flatten(1).amax(dim=1) <= 0).sum())
        self.patients.update(patients.tolist())
        self.pixels += pixels.sum(axis=0, dtype=np.float64)
        for name, part in (("relu", maps.clamp(min=0)), ("signed", maps)):
            large = enlarge(part, self.size).double()
            moments = torch.stack([large.sum(dim=0), large.square().sum(dim=0)])
            self.sums[name] = moments + self.sums.get(name, 0)

    def __add__(self, other: "ClassMean") -> "ClassMean":
        both = ClassMean(self.size)
        both.patients = self.patients | other.patients
        both.images, both.zero_maps = self.images + other.images, self.zero_maps + other.zero_maps
        both.pixels = self.pixels + other.pixels
        both.sums = {name: self.sums[name] + other.sums[name] for name in self.sums}
        return both

    def result(self) -> ClassMap:
        """The averages so far; needs at least one image."""
        assert self.images, "no image was added"
        mean_relu, sd_relu = self._moments("relu")
        mean_signed, sd_signed = self._moments("signed")
        return ClassMap(
            images=self.images,
            patients=len(self.patients),
            zero_maps=self.zero_maps,
            mean_image=np.round(self.pixels / self.images).astype(np.uint8),
            mean_relu=mean_relu,
            sd_relu=sd_relu,
            mean_signed=mean_signed,
            sd_signed=sd_signed,
        )

    def _moments(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        total, squares = self.sums[name].cpu().numpy()
        mean = total / self.images
        if self.images < 2:
            return mean.astype(np.float32), np.full_like(mean, np.nan, dtype=np.float32)
        variance = np.maximum(squares - self.images * mean**2, 0.0) / (self.images - 1)
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def enlarge(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Maps [N, h, w] -> [N, size, size], bilinear, align_corners=False."""
    large = functional.interpolate(maps.unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False)
    return large.squeeze(1)


def upsample(maps: torch.Tensor, size: int) -> np.ndarray:
    """`enlarge`, as an array."""
    large: np.ndarray = enlarge(maps, size).cpu().numpy()
    return large


def summary(maps: dict[str, ClassMap]) -> pd.DataFrame:
    """One row a finding: images, patients, zero maps, and where the mean map is strongest."""
    rows = [
        {
            "images": one.images,
            "patients": one.patients,
            "zero_maps": one.zero_maps,
            "peak_of_mean_relu": float(one.mean_relu.max()),
        }
        for one in maps.values()
    ]
    return pd.DataFrame(rows, index=pd.Index(list(maps), name="finding"))


def arrays(maps: dict[str, ClassMap]) -> dict[str, np.ndarray]:
    """All arrays by `<finding>/<mean_relu | sd_relu | mean_signed | sd_signed | mean_image>`, for an .npz."""
    names = ("mean_relu", "sd_relu", "mean_signed", "sd_signed", "mean_image")
    return {f"{finding}/{name}": getattr(one, name) for finding, one in maps.items() for name in names}
