"""Cascading randomisation: networks whose maps do and do not depend on their weights."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from cxr.data.augment import normalise
from cxr.explain.randomisation import DEPTHS, PARTS, _drawn_anew, _estimate_statistics, cascade, unchanged
from cxr.explain.similarity import MEASURES, OTHER_IMAGE, compare, maps_of_pixels
from cxr.model import build

COUNT, SIZE = 8, 64
TARGETS = torch.arange(COUNT) % 3


class Edges(ResNet):
    """An edge detector that calls itself a network: its maps come from the image alone."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=15)
        self.edges = nn.Conv2d(3, 2, 3, stride=8, padding=1, bias=False)
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.edges.weight.data = torch.stack([sobel, sobel.T])[:, None].repeat(1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strength = self.edges(x).abs().mean(dim=(1, 2, 3))
        return strength[:, None].expand(-1, 15)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Blobs at random places on a noisy ground."""
    generator = np.random.default_rng(0)
    place = np.arange(SIZE)
    y, x = generator.uniform(8, SIZE - 8, (2, COUNT, 1, 1))
    blobs = np.exp(-((place[:, None] - y) ** 2 + (place - x) ** 2) / 60)
    return (60 + 140 * blobs + generator.normal(0, 8, (COUNT, SIZE, SIZE))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network(pixels: np.ndarray) -> ResNet:
    built = build("resnet18", seed=1)
    with torch.no_grad():
        for _ in range(3):
            built(normalise(torch.tensor(pixels)))
    return built.eval()


@pytest.fixture(scope="module")
def table(network: ResNet, pixels: np.ndarray) -> pd.DataFrame:
    return cascade(network, "layer3", pixels, TARGETS, seed=5)


def test_every_pair_is_compared_at_every_depth_from_the_head_down(table: pd.DataFrame) -> None:
    assert DEPTHS == ("fc", "layer4", "layer3", "layer2", "layer1", "conv1")
    assert table.columns.tolist() == ["depth", "pair", *MEASURES]
    assert table["depth"].unique().tolist() == [*DEPTHS, OTHER_IMAGE]
    assert table["pair"].tolist() == [*range(COUNT)] * 7


def test_the_parts_are_all_of_the_network(network: ResNet) -> None:
    named = {part for parts in PARTS.values() for part in parts}
    assert named == {name for name, part in network.named_children() if list(part.parameters())}


def test_the_network_given_stays_as_it_is(network: ResNet, pixels: np.ndarray) -> None:
    before = copy.deepcopy(network.state_dict())
    drawn = torch.random.get_rng_state()
    cascade(network, "layer4", pixels[:4], TARGETS[:4], seed=5)
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_a_depth_has_new_weights_above_and_the_learned_ones_below(network: ResNet, pixels: np.ndarray) -> None:
    """The table's rows at depth layer4, from a network put together by hand."""
    other = copy.deepcopy(network)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        fresh = resnet18(num_classes=15)
    other.fc, other.layer4 = fresh.fc, fresh.layer4.train()
    for module in other.layer4.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the last and only batch's statistics
    with torch.no_grad():
        other(normalise(torch.tensor(pixels)))
    other.eval()
    before, after = (maps_of_pixels(one, "layer3", pixels, TARGETS) for one in (network, other))
    expected = compare(before, after, SIZE)
    found = cascade(network, "layer3", pixels, TARGETS, seed=5).query("depth == 'layer4'")
    np.testing.assert_allclose(found[list(MEASURES)], expected[list(MEASURES)], atol=1e-4)


def test_a_seed_names_the_random_network(network: ResNet, pixels: np.ndarray, table: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(cascade(network, "layer3", pixels, TARGETS, seed=5), table)
    assert not cascade(network, "layer3", pixels, TARGETS, seed=6)["ssim"].equals(table["ssim"])


def test_new_weights_are_those_that_torchvision_would_draw() -> None:
    expected = build("resnet50", seed=8)
    drawn = _drawn_anew(expected, 8)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(drawn.state_dict()[name], tensor), name


def test_batch_norm_behind_random_weights_has_the_statistics_of_the_images(pixels: np.ndarray) -> None:
    network = build("resnet18", seed=2)
    network.bn1.running_mean.fill_(1e3)  # as if another stem had been trained
    many = np.tile(pixels, (5, 1, 1))[:36]
    _estimate_statistics(network.eval(), ["conv1", "bn1"], many)
    with torch.no_grad():
        out = network.conv1(normalise(torch.tensor(many)))  # [36, 64, 32, 32]: two even batches
    torch.testing.assert_close(network.bn1.running_mean, out.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    halves = torch.stack([half.transpose(0, 1).flatten(1).var(dim=1) for half in out.chunk(2)])
    torch.testing.assert_close(network.bn1.running_var, halves.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not network.bn1.training


def test_a_map_of_the_image_alone_is_flagged(pixels: np.ndarray) -> None:
    found = unchanged(cascade(Edges().eval(), "edges", pixels, TARGETS, seed=5))
    assert found.loc[0, ["n", "spearman", "unchanged", "above_floor"]].tolist() == [COUNT, 1.0, True, True]


def test_the_maps_of_a_network_are_not_flagged(table: pd.DataFrame) -> None:
    found = unchanged(table)
    assert found["unchanged"].tolist() == [False]
    assert found.loc[0, "spearman"] < 0.5


def test_the_flag_is_the_median_at_full_depth_of_each_finding() -> None:
    table = pd.DataFrame(
        {
            "depth": ["fc", "conv1", "conv1", "conv1", OTHER_IMAGE] * 2,
            "finding": ["Mass"] * 5 + ["Nodule"] * 5,
            "spearman": [0.0, 0.5, 0.6, np.nan, 0.9, 1.0, 0.4, 0.45, 0.9, 0.9],
            "ssim": [0.9, 0.2, 0.3, np.nan, 0.3, 0.1, 0.5, 0.6, 0.7, 0.5],
        }
    )
    found = unchanged(table, ["finding"])
    assert found["finding"].tolist() == ["Mass", "Nodule"]
    assert found["undefined"].tolist() == [1, 0]
    assert found["spearman"].tolist() == pytest.approx([0.55, 0.45])
    assert found["unchanged"].tolist() == [True, False]
    assert found["ssim"].tolist() == pytest.approx([0.25, 0.6])
    assert found["above_floor"].tolist() == [False, True]


def test_maps_that_are_always_zero_have_no_flag() -> None:
    nothing = pd.DataFrame({"depth": ["conv1", OTHER_IMAGE], "spearman": np.nan, "ssim": np.nan})
    found = unchanged(nothing)
    assert found.loc[0, "undefined"] == 1
    assert found[["unchanged", "above_floor"]].isna().all(axis=None)
