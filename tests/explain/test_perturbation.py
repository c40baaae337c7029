"""Small changes of pictures, and captum's measures, against Pillow, scipy and formulas written out."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.explain.classmaps import upsample
from cxr.explain.perturbation import PERTURBATIONS, RADIUS, captum_measures, perturb, rotate_maps
from cxr.explain.similarity import MEASURES, compare, maps_of_pixels
from cxr.model import build

COUNT, SIZE = 5, 64
TARGETS = torch.tensor([0, 4, 4, 13, 2])


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Smooth pictures with a blob each."""
    generator = np.random.default_rng(0)
    ground = ndimage.gaussian_filter(generator.normal(0, 400, (COUNT, SIZE, SIZE)), (0, 4, 4))
    place = np.arange(SIZE)
    y, x = generator.uniform(12, SIZE - 12, (2, COUNT, 1, 1))
    blobs = np.exp(-((place[:, None] - y) ** 2 + (place - x) ** 2) / 80)
    return (90 + ground + 130 * blobs).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network(pixels: np.ndarray) -> ResNet:
    """A ResNet-18 whose batch norm has seen data; at layer4 all speaks for an output, and against output 2."""
    built = build("resnet18", seed=1)
    with torch.no_grad():
        for _ in range(3):
            built(normalise(torch.tensor(pixels)))
        built.fc.weight.abs_()
        built.fc.weight[2] *= -1
    return built.eval()


@pytest.fixture(scope="module")
def table(network: ResNet, pixels: np.ndarray) -> pd.DataFrame:
    return perturb(network, "layer3", pixels, TARGETS, seed=7)


def changed(name: str, pixels: np.ndarray) -> np.ndarray:
    found = PERTURBATIONS[name](torch.tensor(pixels), torch.Generator().manual_seed(7))
    assert found.dtype == torch.uint8
    assert found.shape == pixels.shape
    return found.numpy()


def test_noise_has_two_percent_of_the_grey_range_as_its_sd() -> None:
    grey = np.full((3, 128, 128), 128, dtype=np.uint8)
    noise = changed("noise", grey).astype(float) - 128
    assert noise.std() == pytest.approx(5.1, rel=0.03)
    assert abs(noise.mean()) < 0.1
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05  # each picture its own


@pytest.mark.parametrize(("name", "expected"), [("brighter", [0, 105, 255]), ("darker", [0, 95, 238])])
def test_brightness_is_a_factor_and_ends_at_white(name: str, expected: list[int]) -> None:
    assert changed(name, np.array([[[0, 100, 250]]], dtype=np.uint8)).ravel().tolist() == expected


def test_jpeg_is_that_of_pillow_at_quality_75(pixels: np.ndarray) -> None:
    for picture, found in zip(pixels, changed("jpeg", pixels), strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=75)
        apart = np.abs(np.array(Image.open(file)).astype(int) - found)
        # libjpeg computes in whole numbers and so rounds a few steps the other way; another table is 0.5 apart
        assert apart.mean() < 0.2
        assert np.abs(found - picture.astype(int)).mean() > 0.5


@pytest.mark.parametrize("degrees", [2, -2])
def test_a_picture_turns_counter_clockwise_about_its_centre_for_positive_degrees(
    pixels: np.ndarray, degrees: int
) -> None:
    found = changed(f"rotated {degrees:+d}", pixels)
    expected = ndimage.rotate(pixels.astype(float), degrees, axes=(2, 1), reshape=False, order=1)
    # scipy's positive angle, too, as a point right of the centre shows
    dot = np.zeros((1, 41, 41))
    dot[0, 20, 40] = 1
    row, _ = np.argwhere(ndimage.rotate(dot, 30, axes=(2, 1), reshape=False, order=1)[0] > 0.2)[0]
    assert row < 20, "counter-clockwise is up on the right"
    inside = np.s_[:, 3:-3, 3:-3]
    assert np.abs(found[inside] - expected[inside]).max() < 1.0


@pytest.mark.parametrize("degrees", [2.0, -2.0])
def test_a_map_turns_as_its_picture_does_and_has_no_black_corners(degrees: float) -> None:
    maps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.2
    positive = maps.clamp(min=0).numpy()
    expected = ndimage.rotate(positive, degrees, axes=(2, 1), reshape=False, order=1, mode="nearest")
    found = rotate_maps(maps, degrees).numpy()
    inside = np.s_[:, 2:-2, 2:-2]
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    assert rotate_maps(torch.ones(1, 7, 7), degrees).numpy() == pytest.approx(1.0)


def test_jpeg_of_a_side_that_blocks_do_not_fill_goes_on_at_the_edge(pixels: np.ndarray) -> None:
    odd = changed("jpeg", pixels[:, :60, :60])
    padded = changed("jpeg", np.pad(pixels[:, :60, :60], ((0, 0), (0, 4), (0, 4)), mode="edge"))
    assert (odd == padded[:, :60, :60]).all()


def test_every_pair_is_compared_under_every_change(table: pd.DataFrame) -> None:
    assert table.columns.tolist() == [
        "perturbation", "pair", *MEASURES, "logit", "logit_change", "probability_change"
    ]  # fmt: skip
    assert table["perturbation"].unique().tolist() == [
        "noise", "rotated +2", "rotated -2", "brighter", "darker", "jpeg"
    ]  # fmt: skip
    assert table["pair"].tolist() == [*range(COUNT)] * 6


@pytest.mark.parametrize("name", ["brighter", "rotated +2", "jpeg"])
def test_rows_are_what_the_network_says_of_the_changed_picture(
    network: ResNet, pixels: np.ndarray, table: pd.DataFrame, name: str
) -> None:
    rows = table[table["perturbation"] == name]
    other = changed(name, pixels)
    with torch.no_grad():
        before, after = (network(normalise(torch.tensor(part))) for part in (pixels, other))
    logit, new = (logits[range(COUNT), TARGETS].numpy() for logits in (before, after))
    np.testing.assert_allclose(rows["logit"], logit, atol=1e-4)
    np.testing.assert_allclose(rows["logit_change"], new - logit, atol=1e-4)
    chance, new_chance = (1 / (1 + np.exp(-value)) for value in (logit, new))
    np.testing.assert_allclose(rows["probability_change"], new_chance - chance, atol=1e-4)
    maps, others = (maps_of_pixels(network, "layer3", part, TARGETS) for part in (pixels, other))
    maps = rotate_maps(maps, 2.0) if name == "rotated +2" else maps
    np.testing.assert_allclose(rows[list(MEASURES)], compare(maps, others, SIZE)[list(MEASURES)], atol=1e-4)


def test_the_closed_form_gives_the_same_logits(network: ResNet, pixels: np.ndarray, table: pd.DataFrame) -> None:
    found = perturb(network, "layer4", pixels, TARGETS, seed=7)
    for column in ("logit", "logit_change", "probability_change"):
        np.testing.assert_allclose(found[column], table[column], atol=1e-4)


def test_batches_do_not_change_pairs(network: ResNet, pixels: np.ndarray) -> None:
    many = np.tile(pixels, (7, 1, 1))  # 35 pairs, two batches
    found = perturb(network, "layer4", many, TARGETS.repeat(7), seed=7)
    assert found["pair"].tolist() == [*range(35)] * 6
    rows = found[found["perturbation"] == "jpeg"]
    np.testing.assert_allclose(rows[rows["pair"] >= 30]["logit"], rows[rows["pair"] < 5]["logit"], atol=1e-4)


def test_a_seed_names_the_noise_and_no_global_generator_is_used(
    network: ResNet, pixels: np.ndarray, table: pd.DataFrame
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    pd.testing.assert_frame_equal(perturb(network, "layer3", pixels, TARGETS, seed=7), table)
    captum = captum_measures(network, "layer4", pixels, TARGETS, seed=7, samples=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    pd.testing.assert_frame_equal(captum_measures(network, "layer4", pixels, TARGETS, seed=7, samples=2), captum)


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_captums_measures_are_the_papers_formulas(network: ResNet, pixels: np.ndarray, layer: str) -> None:
    """Yeh et al. 2019, definitions 2.1 and 4.1, one sample after the other."""
    samples, few = 4, 3
    found = captum_measures(network, layer, pixels[:few], TARGETS[:few], seed=11, samples=samples)
    generator = torch.Generator().manual_seed(11)
    noise = RADIUS * (2 * torch.rand(few * samples, SIZE, SIZE, generator=generator) - 1)
    corners = torch.randint(0, SIZE - 16 + 1, (few * samples, 2), generator=generator)

    def map_of(grey: torch.Tensor, pair: int) -> torch.Tensor:
        return maps_of_pixels(network, layer, grey[None].numpy(), TARGETS[pair : pair + 1]).clamp(min=0)[0]

    def logit_of(grey: torch.Tensor, pair: int) -> float:
        with torch.no_grad():
            return float(network(normalise(grey[None]))[0, TARGETS[pair]])

    assert found["sensitivity_max"].notna().any()
    for pair in range(few):
        grey = torch.tensor(pixels[pair]).float()
        heat = map_of(grey, pair)
        large = upsample(heat[None], SIZE)[0]
        changes, sums, drops = [], [], []
        for sample in range(pair * samples, (pair + 1) * samples):
            other = map_of((grey + noise[sample]).clamp(0, 255), pair)
            changes.append(float((other - heat).norm() / heat.norm()))  # NaN where the map is zero
            row, column = corners[sample].tolist()
            square = np.s_[row : row + 16, column : column + 16]
            covered = grey.clone()
            covered[square] = grey.mean()
            sums.append(large[square].sum())
            drops.append(logit_of(grey, pair) - logit_of(covered, pair))
        sums, drops = np.array(sums, dtype=float), np.array(drops)
        factor = (sums @ drops) / (sums @ sums) if sums.any() else 0.0
        row = found.loc[pair]
        if not (heat > 0).any():
            assert row[["sensitivity_max", "infidelity", "infidelity_shuffled", "infidelity_none"]].isna().all()
            continue
        assert row["sensitivity_max"] == pytest.approx(max(changes), rel=1e-3, nan_ok=True)
        assert row["infidelity"] == pytest.approx(np.mean((factor * sums - drops) ** 2), rel=1e-2, abs=1e-6)
        assert row["infidelity_flat"] == pytest.approx(np.var(drops), rel=1e-2, abs=1e-6)
        assert row["infidelity_none"] == pytest.approx(np.mean(drops**2), rel=1e-2, abs=1e-6)


def test_a_zero_map_has_neither(network: ResNet, pixels: np.ndarray) -> None:
    found = captum_measures(network, "layer4", pixels, TARGETS, seed=0, samples=3)
    assert found["pair"].tolist() == [0, 1, 2, 3, 4]
    for name in ("sensitivity_max", "infidelity", "infidelity_shuffled", "infidelity_flat", "infidelity_none"):
        assert found[name].isna().tolist() == [False, False, False, False, True]


def test_more_samples_than_a_batch_holds_are_taken_in_parts(network: ResNet) -> None:
    small = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    found = captum_measures(network, "layer4", small, TARGETS[:2], seed=0, samples=40)
    assert found["pair"].tolist() == [0, 1]
    assert (found["infidelity"] <= found["infidelity_none"] * (1 + 1e-4)).all()
    assert (found["infidelity_flat"] <= found["infidelity_none"]).all()


class Light(nn.Module):
    """Its logit is the mean grey, so its map is the picture: it says exactly where the logit comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Conv2d(3, 1, 1)
        self.grey.weight.data.fill_(1 / 3)
        self.grey.bias.data.fill_(2.0)  # black is -2 after `normalise`

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.grey(x).mean(dim=(2, 3)).expand(-1, 15)


def test_a_map_that_is_right_has_a_far_lower_infidelity_than_a_flat_one() -> None:
    pixels = np.zeros((2, SIZE, SIZE), dtype=np.uint8)
    pixels[0, 10:20, 30:40] = 200
    pixels[1, 40:50, 20:34] = 120
    found = captum_measures(Light().eval(), "grey", pixels, TARGETS[:2], seed=0, samples=30)
    assert (found["infidelity"] < 0.1 * found["infidelity_flat"]).all()
    assert (found["infidelity"] < 0.1 * found["infidelity_shuffled"]).all()
