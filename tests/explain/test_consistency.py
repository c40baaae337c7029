"""Consistency between networks: itself, a near copy, another seed, and what unrelated maps have in common."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.explain.consistency import between
from cxr.explain.similarity import MEASURES, OTHER_IMAGE, compare, floor, maps_of_pixels
from cxr.model import build

COUNT, SIZE = 6, 64
TARGETS = torch.tensor([3, 3, 8, 8, 8, 3])


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8)


@pytest.fixture(scope="module")
def networks(pixels: np.ndarray) -> dict[str, ResNet]:
    """A network, itself, a checkpoint a little later, and another seed."""
    first, seed = (build("resnet18", seed=number) for number in (1, 2))
    with torch.no_grad():
        for network in (first, seed):
            network(normalise(torch.tensor(pixels)))
            network.eval()
    later = copy.deepcopy(first)
    generator = torch.Generator().manual_seed(3)
    for tensor in later.parameters():
        tensor.data += 0.02 * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
    return {"best": first, "same": copy.deepcopy(first), "later": later, "seed 2": seed}


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_a_copy_agrees_wholly_a_later_checkpoint_much_and_another_seed_less(
    networks: dict[str, ResNet], pixels: np.ndarray, layer: str
) -> None:
    table = between(networks, layer, pixels, TARGETS)
    assert table.columns.tolist() == ["other", "pair", *MEASURES]
    assert table["other"].unique().tolist() == ["same", "later", "seed 2", OTHER_IMAGE]
    assert table["pair"].tolist() == [*range(COUNT)] * 4
    of = dict(list(table.groupby("other")))
    known = of["same"].dropna()
    assert len(known)
    np.testing.assert_allclose(known[list(MEASURES)], 1.0, atol=1e-6)
    assert of["later"]["ssim"].mean() > of["seed 2"]["ssim"].mean() + 0.1


def test_rows_are_comparisons_with_the_first_network_and_of_its_own_maps(
    networks: dict[str, ResNet], pixels: np.ndarray
) -> None:
    table = between({"a": networks["best"], "b": networks["seed 2"]}, "layer3", pixels, TARGETS)
    a, b = (maps_of_pixels(networks[name], "layer3", pixels, TARGETS) for name in ("best", "seed 2"))
    expected = pd.concat([compare(a, b, SIZE), floor(a, pixels, TARGETS)], ignore_index=True)
    pd.testing.assert_frame_equal(table[expected.columns], expected)


def test_one_network_alone_has_the_floor_only(networks: dict[str, ResNet], pixels: np.ndarray) -> None:
    table = between({"best": networks["best"]}, "layer4", pixels, TARGETS)
    assert table["other"].unique().tolist() == [OTHER_IMAGE]
