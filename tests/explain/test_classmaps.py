"""Class-averaged maps against numpy over all maps at once, and end to end against single images."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional
from torchvision.models import ResNet

from cxr.data.store import Store
from cxr.explain import classmaps
from cxr.explain.classmaps import ClassMap, ClassMean, arrays, class_map, summary, upsample
from cxr.explain.gradcam import signed_maps
from cxr.model import build

SIZE = 12
CPU = torch.device("cpu")


def drawn(images: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Pixels, signed maps of 3 x 3 with a mean far from zero, and patients with two images each."""
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.normal(0.5, 2.0, (images, 3, 3)).astype(np.float32))
    return rng.integers(0, 256, (images, SIZE, SIZE)).astype(np.uint8), maps, np.arange(images) // 2


def averaged(images: int, *, batch: int = 100) -> ClassMap:
    pixels, maps, patients = drawn(images)
    mean = ClassMean(SIZE)
    for start in range(0, images, batch):
        part = slice(start, start + batch)
        mean.add(pixels[part], maps[part], patients[part])
    return mean.result()


def same(one: ClassMap, other: ClassMap) -> None:
    for field in fields(ClassMap):
        np.testing.assert_allclose(getattr(one, field.name), getattr(other, field.name), rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- scaling up


def test_maps_are_scaled_up_bilinearly_between_pixel_centres() -> None:
    (large,) = upsample(torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), 4)
    np.testing.assert_allclose(large, np.tile([0.0, 1.0, 3.0, 4.0], (4, 1)))  # align_corners would give 4/3
    assert large.dtype == np.float32


def test_every_map_is_scaled_by_itself_and_keeps_its_strength() -> None:
    maps = torch.stack([torch.full((3, 3), 2.0), torch.full((3, 3), -0.5)])
    np.testing.assert_allclose(upsample(maps, 5), np.stack([np.full((5, 5), 2.0), np.full((5, 5), -0.5)]))


# ---------------------------------------------------------------- mean and standard deviation


def test_mean_and_sd_are_numpys_over_all_maps_at_once() -> None:
    _, maps, _ = drawn(23)
    large = functional.interpolate(maps[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0].double().numpy()
    relu = functional.interpolate(maps.relu()[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0].double().numpy()
    found = averaged(23)
    np.testing.assert_allclose(found.mean_signed, large.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.sd_signed, large.std(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(found.mean_relu, relu.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.sd_relu, relu.std(axis=0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 22])
def test_the_batch_size_does_not_matter(batch: int) -> None:
    same(averaged(23, batch=batch), averaged(23))


def test_by_hand_evidence_against_stays_in_the_signed_mean_only() -> None:
    maps = torch.tensor([3.0, -1.0])[:, None, None].expand(2, 2, 2)
    mean = ClassMean(4)
    mean.add(np.zeros((2, 4, 4), np.uint8), maps, np.array([1, 2]))
    found = mean.result()
    np.testing.assert_allclose(found.mean_relu, 1.5)  # (3 + 0) / 2
    np.testing.assert_allclose(found.mean_signed, 1.0)  # (3 - 1) / 2
    np.testing.assert_allclose(found.sd_relu, 3 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(found.sd_signed, 4 / np.sqrt(2), rtol=1e-6)


def test_a_map_twice_as_strong_counts_twice_as_much() -> None:
    one = torch.zeros(1, 2, 2)
    one[0, 0, 0] = 1.0
    mean = ClassMean(2)
    mean.add(np.zeros((2, 2, 2), np.uint8), torch.cat([one, 2 * one.flip(1)]), np.array([1, 2]))
    np.testing.assert_allclose(mean.result().mean_relu, [[0.5, 0.0], [1.0, 0.0]])


def test_zero_maps_are_counted_and_stay_in_the_mean() -> None:
    maps = torch.stack([torch.full((2, 2), 6.0), torch.zeros(2, 2), torch.full((2, 2), -3.0)])
    mean = ClassMean(4)
    mean.add(np.zeros((3, 4, 4), np.uint8), maps, np.array([1, 2, 3]))
    found = mean.result()
    assert (found.images, found.zero_maps) == (3, 2)
    np.testing.assert_allclose(found.mean_relu, 2.0)
    np.testing.assert_allclose(found.mean_signed, 1.0)


def test_one_positive_value_makes_a_map_not_a_zero_map() -> None:
    maps = torch.full((1, 3, 3), -1.0)
    maps[0, 2, 1] = 1e-6
    mean = ClassMean(4)
    mean.add(np.zeros((1, 4, 4), np.uint8), maps, np.array([1]))
    assert mean.result().zero_maps == 0


def test_one_image_has_a_mean_and_no_sd() -> None:
    found = averaged(1)
    _, maps, _ = drawn(1)
    np.testing.assert_array_equal(found.mean_signed, upsample(maps, SIZE)[0])
    assert np.isnan(found.sd_relu).all()
    assert np.isnan(found.sd_signed).all()


def test_maps_that_are_all_alike_have_an_sd_of_zero() -> None:
    mean = ClassMean(4)
    for _ in range(7):
        mean.add(np.zeros((3, 4, 4), np.uint8), torch.full((3, 2, 2), 1234.567), np.array([1, 2, 3]))
    assert mean.result().sd_signed.max() < 1e-3  # never NaN: rounding must not make a variance negative


def test_a_patient_is_counted_once_over_all_batches() -> None:
    found = averaged(9, batch=3)  # two images a patient, the last has one; batches cut patients in two
    assert (found.images, found.patients) == (9, 5)


def test_the_mean_image_is_the_rounded_mean_of_the_pixels() -> None:
    pixels, _, _ = drawn(23)
    found = averaged(23, batch=5).mean_image
    np.testing.assert_array_equal(found, np.round(pixels.astype(np.float64).mean(axis=0)))
    assert found.dtype == np.uint8


def test_without_an_image_there_is_no_result() -> None:
    with pytest.raises(AssertionError, match="no image"):
        ClassMean(4).result()


def test_maps_are_float32() -> None:
    found = averaged(3)
    for name in ("mean_relu", "sd_relu", "mean_signed", "sd_signed"):
        assert getattr(found, name).dtype == np.float32
        assert getattr(found, name).shape == (SIZE, SIZE)


# ---------------------------------------------------------------- from network and store


@pytest.fixture(scope="module")
def network() -> ResNet:
    built = build("resnet18", seed=1)
    built(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    return built.eval()


@pytest.fixture(scope="module")
def store() -> Store:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 64, 64)).astype(np.uint8)
    return Store(pixels, {f"{row}.png": row for row in range(9)})


IMAGES = pd.DataFrame(
    {"image": ["7.png", "0.png", "4.png", "3.png", "8.png"], "patient_id": [5, 6, 5, 5, 7]},
    index=[40, 3, 11, 8, 2],  # as rows of a filtered table come
)


@pytest.mark.parametrize("batch", [32, 2])
def test_a_class_map_is_the_mean_over_single_images(
    network: ResNet, store: Store, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(classmaps, "_BATCH", batch)
    found = class_map(network, "layer3", store, IMAGES, 6, device=CPU)
    rows = [store.rows[name] for name in IMAGES["image"]]
    singles = []
    for row in rows:
        image = torch.from_numpy((store.pixels[row].astype(np.float32) / 255 - 0.5) / 0.25)
        singles.append(signed_maps(network, "layer3", image.repeat(1, 3, 1, 1), torch.tensor([6]))[0])
    signed = functional.interpolate(torch.stack(singles)[:, None], size=(64, 64), mode="bilinear")[:, 0].numpy()
    close = {"rtol": 1e-4, "atol": 1e-5 * float(np.abs(signed).max())}
    np.testing.assert_allclose(found.mean_signed, signed.mean(axis=0), **close)
    np.testing.assert_allclose(found.sd_signed, signed.std(axis=0, ddof=1), **close)
    np.testing.assert_array_equal(found.mean_image, np.round(store.pixels[rows].mean(axis=0)).astype(np.uint8))
    assert (found.images, found.patients) == (5, 3)
    assert found.zero_maps == sum(bool((single <= 0).all()) for single in singles)


def test_the_output_decides_what_is_mapped(network: ResNet, store: Store) -> None:
    one, other = (class_map(network, "layer4", store, IMAGES, output, device=CPU) for output in (0, 1))
    assert not np.allclose(one.mean_signed, other.mean_signed)
    np.testing.assert_array_equal(one.mean_image, other.mean_image)


# ---------------------------------------------------------------- what runs carry

MAPS = {"Edema": averaged(4), "Hernia": averaged(1)}


def test_the_summary_has_one_row_a_finding() -> None:
    table = summary(MAPS)
    assert list(table.index) == ["Edema", "Hernia"]
    assert table.index.name == "finding"
    assert table.loc["Edema"].to_dict() == {
        "images": 4, "patients": 2, "zero_maps": MAPS["Edema"].zero_maps,
        "peak_of_mean_relu": MAPS["Edema"].mean_relu.max(),
    }  # fmt: skip


def test_arrays_hold_every_map_by_finding_and_kind() -> None:
    named = arrays(MAPS)
    kinds = ("mean_relu", "sd_relu", "mean_signed", "sd_signed", "mean_image")
    assert set(named) == {f"{finding}/{kind}" for finding in MAPS for kind in kinds}
    for name, values in named.items():
        finding, kind = name.split("/")
        np.testing.assert_array_equal(values, getattr(MAPS[finding], kind))
