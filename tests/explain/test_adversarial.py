"""The attack on maps: what it may change, what it must keep, and that it goes farther than noise."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.explain.adversarial import TOLERANCE, _moved, attack, differentiable_maps, pictures
from cxr.explain.gradcam import has_closed_form, maps_of
from cxr.explain.similarity import MEASURES
from cxr.model import build

COUNT, SIZE, EPS, STEPS = 3, 64, 2, 5
LAYERS = ("layer3", "layer4")


class Weighted(nn.Module):
    """Not a ResNet: two channels of cell means, and a linear layer over all cells."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.ReLU())
        self.fc = nn.Linear(2, 15)
        with torch.no_grad():
            self.layer4[0].weight.fill_(1 / 192)
            self.layer4[0].bias.fill_(1.0)
            self.fc.weight.fill_(strength)
            self.fc.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.layer4(x).sum(dim=(2, 3)))
        return logits


class Attacked(NamedTuple):
    table: pd.DataFrame
    attacked: np.ndarray
    noisy: np.ndarray


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Blobs on a noisy ground, with some pixels at either end of the range."""
    generator = np.random.default_rng(0)
    place = np.arange(SIZE)
    y, x = generator.uniform(8, SIZE - 8, (2, COUNT, 1, 1))
    blobs = np.exp(-((place[:, None] - y) ** 2 + (place - x) ** 2) / 60)
    return (60 + 180 * blobs + generator.normal(0, 30, (COUNT, SIZE, SIZE))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network(pixels: np.ndarray) -> ResNet:
    built = build("resnet18", seed=1)
    with torch.no_grad():
        for _ in range(3):
            built(normalise(torch.tensor(pixels)))
    return built.eval()


@pytest.fixture(scope="module")
def targets(network: ResNet, pixels: np.ndarray) -> torch.Tensor:
    """Classes whose maps at the last block are not zero maps."""
    with torch.no_grad():
        return network(normalise(torch.tensor(pixels))).argmax(dim=1)


@pytest.fixture(scope="module")
def thresholds(network: ResNet, pixels: np.ndarray, targets: torch.Tensor) -> np.ndarray:
    """Half the way to the logit that noise leads to, twice, and none."""
    _, noisy = pictures(network, "layer4", pixels, targets, eps=EPS, steps=1, seed=4)
    before, after = (logits_of(network, shown, targets) for shown in (pixels, noisy))
    return (before + after) / 2 + np.array([0, 0, np.nan])


@pytest.fixture(scope="module")
def results(
    network: ResNet, pixels: np.ndarray, targets: torch.Tensor, thresholds: np.ndarray
) -> dict[str, Attacked]:
    found = {}
    for layer in LAYERS:
        given = (network, layer, pixels, targets)
        table = attack(*given, eps=EPS, steps=STEPS, seed=4, thresholds=thresholds)
        found[layer] = Attacked(table, *pictures(*given, eps=EPS, steps=STEPS, seed=4, thresholds=thresholds))
    return found


def logits_of(network: nn.Module, pixels: np.ndarray, targets: torch.Tensor) -> np.ndarray:
    """One picture at a time."""
    with torch.inference_mode():
        return np.array(
            [
                float(network(normalise(torch.tensor(picture[None])))[0, target])
                for picture, target in zip(pixels, targets.tolist(), strict=True)
            ]
        )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("layer", LAYERS)
def test_pictures_stay_within_eps_in_whole_grey_levels(
    results: dict[str, Attacked], pixels: np.ndarray, layer: str
) -> None:
    _, attacked, noisy = results[layer]
    for changed in (attacked, noisy):
        assert changed.dtype == np.uint8
        apart = changed.astype(int) - pixels
        assert abs(apart).max() == EPS
        assert (abs(apart) > 0).mean() > 0.3
    # noise takes the whole of eps wherever the range lets it
    inside = (pixels >= EPS) & (pixels <= 255 - EPS)
    assert set(np.unique((noisy.astype(int) - pixels)[inside])) == {-EPS, EPS}
    assert (pixels.min(), pixels.max()) == (0, 255), "the range's ends are not tried"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_prediction_is_kept_within_tolerance_and_on_its_side_of_the_threshold(
    results: dict[str, Attacked], network: ResNet, pixels: np.ndarray, targets: torch.Tensor,
    thresholds: np.ndarray, layer: str,
) -> None:  # fmt: skip
    table, attacked, noisy = results[layer]
    before = logits_of(network, pixels, targets)
    for kind, changed in (("attack", attacked), ("noise", noisy)):
        own, after = table[table["kind"] == kind], logits_of(network, changed, targets)
        np.testing.assert_allclose(own["probability"], sigmoid(before), atol=1e-5)
        np.testing.assert_allclose(own["probability_change"], sigmoid(after) - sigmoid(before), atol=1e-5)
        near = abs(sigmoid(after) - sigmoid(before)) <= TOLERANCE
        same_side = np.isnan(thresholds) | ((after >= thresholds) == (before >= thresholds))
        assert own["kept"].tolist() == (near & same_side).tolist()
    assert table.loc[table["kind"] == "attack", "kept"].all()


def test_a_threshold_is_what_noise_may_cross_and_the_attack_may_not(results: dict[str, Attacked]) -> None:
    for layer in LAYERS:
        table = results[layer].table
        assert table.loc[table["kind"] == "attack", "kept"].tolist() == [True, True, True]
        assert table.loc[table["kind"] == "noise", "kept"].tolist() == [False, False, True]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_attack_moves_the_map_more_than_as_much_noise(results: dict[str, Attacked], layer: str) -> None:
    table = results[layer].table
    assert table.columns.tolist() == [
        "pair", "kind", *MEASURES, "probability", "probability_change", "kept", "moved"
    ]  # fmt: skip
    assert table["kind"].tolist() == ["attack"] * COUNT + ["noise"] * COUNT
    assert table["pair"].tolist() == [*range(COUNT)] * 2
    ssim = table.pivot_table(index="pair", columns="kind", values="ssim", dropna=False).dropna()
    assert len(ssim) >= 2
    assert (ssim["attack"] < ssim["noise"]).all()
    assert ssim["attack"].mean() < ssim["noise"].mean() - 0.1


def test_nothing_of_the_network_changes(network: ResNet, pixels: np.ndarray, targets: torch.Tensor) -> None:
    network.conv1.weight.requires_grad_(False)
    network.fc.weight.grad = torch.full_like(network.fc.weight, 3.0)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        for layer in LAYERS:
            attack(network, layer, pixels[:1], targets[:1], steps=1, seed=0)
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        assert [name for name, own in network.named_parameters() if not own.requires_grad] == ["conv1.weight"]
        assert [name for name, own in network.named_parameters() if own.grad is not None] == ["fc.weight"]
        assert (network.fc.weight.grad == 3.0).all()
        assert not any(part.training for part in network.modules())
        assert not any(part._forward_hooks for part in network.modules())
    finally:
        network.conv1.weight.requires_grad_(True)
        network.fc.weight.grad = None


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(
    network: ResNet, pixels: np.ndarray, targets: torch.Tensor
) -> None:
    given, eps = (network, "layer4", pixels[:1], targets[:1]), {"eps": EPS, "steps": 1}
    first, again, other = (pictures(*given, **eps, seed=seed) for seed in (4, 4, 5))
    for one, same, another in zip(first, again, other, strict=True):
        assert (one == same).all()
        assert (one != another).any()


@pytest.mark.parametrize("layer", ["layer2", "layer3", "layer4"])
def test_differentiable_maps_are_those_of_gradcam(
    network: ResNet, pixels: np.ndarray, targets: torch.Tensor, layer: str
) -> None:
    images = normalise(torch.tensor(pixels)).contiguous()
    maps, logits = differentiable_maps(network, layer, images.clone().requires_grad_(), targets)
    expected = maps_of(network, layer, images, targets)
    assert (maps.detach() - expected).abs().max() < 1e-5 * expected.abs().max()
    np.testing.assert_allclose(logits.detach(), logits_of(network, pixels, targets), rtol=1e-4, atol=1e-5)


def test_differentiable_maps_of_another_network_are_those_of_captum(pixels: np.ndarray) -> None:
    toy, images = Weighted(0.1).eval(), normalise(torch.tensor(pixels)).contiguous()
    assert not has_closed_form(toy, "layer4")
    chosen = torch.tensor([0, 3, 14])
    maps, _ = differentiable_maps(toy, "layer4", images.clone().requires_grad_(), chosen)
    torch.testing.assert_close(maps.detach(), maps_of(toy, "layer4", images, chosen))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_slope_of_a_map_is_that_of_finite_differences(
    pixels: np.ndarray, targets: torch.Tensor, network: ResNet, layer: str
) -> None:
    exact = build("resnet18", seed=0)
    exact.load_state_dict(network.state_dict())
    exact = exact.double().eval()
    images = normalise(torch.tensor(pixels[:1])).double().contiguous()
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(images.shape, generator=generator, dtype=torch.float64)

    def total(step: float) -> tuple[torch.Tensor, torch.Tensor]:
        moved = (images + step * way).requires_grad_()
        maps, _ = differentiable_maps(exact, layer, moved, targets[:1])
        mixed = torch.linspace(-1, 2, maps.numel(), dtype=torch.float64) @ maps.flatten()
        return mixed, moved

    mixed, moved = total(0.0)
    (slope,) = torch.autograd.grad(mixed, moved)
    step = 1e-7
    differences = (total(step)[0] - total(-step)[0]).item() / (2 * step)
    assert (slope * way).sum().item() == pytest.approx(differences, rel=1e-3)


def test_where_no_change_keeps_the_prediction_the_original_is_taken(pixels: np.ndarray) -> None:
    steep, first = Weighted(100.0).eval(), torch.zeros(COUNT, dtype=torch.int64)  # 1 grey level in 1 pixel counts
    with torch.no_grad():
        steep.fc.bias -= float(logits_of(steep, pixels[:1], first[:1])[0])
    attacked, noisy = pictures(steep, "layer4", pixels[:1], first[:1], eps=EPS, steps=3, seed=0)
    assert (attacked == pixels[:1]).all()
    assert (noisy != pixels[:1]).any()
    table = attack(steep, "layer4", pixels[:1], first[:1], steps=3, seed=0).set_index("kind")
    assert table.loc["attack", "kept"]
    assert table.loc["attack", ["probability_change", "moved"]].tolist() == [0.0, 0.0]
    assert table.loc["attack", list(MEASURES)].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert not table.loc["noise", "kept"]


def test_how_far_the_maximum_moved_is_in_sides_of_the_picture() -> None:
    one, other, zero = torch.zeros(3, 4, 4)
    one[0, 0] = 1.0
    other[2, 3] = 1.0
    distance = _moved(torch.stack([one, one, one]), torch.stack([other, one, zero - 1]))
    np.testing.assert_allclose(distance, [np.hypot(2 / 4, 3 / 4), 0.0, np.nan])


def test_a_network_in_training_mode_is_refused(network: ResNet, pixels: np.ndarray, targets: torch.Tensor) -> None:
    network.train()
    try:
        with pytest.raises(AssertionError, match="eval mode"):
            pictures(network, "layer4", pixels, targets, eps=EPS, steps=1, seed=0)
    finally:
        network.eval()
