"""Class-averaged maps against numpy over all maps at once, and end to end against single images."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxr.explain.classmaps import ClassMap, ClassMean, arrays, summary, upsample

SIZE = 12


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


def test_two_parts_add_up_to_the_whole() -> None:
    pixels, maps, patients = drawn(11)
    one, other = ClassMean(SIZE), ClassMean(SIZE)
    one.add(pixels[:4], maps[:4], patients[:4])
    other.add(pixels[4:], maps[4:], patients[4:])
    same((one + other).result(), averaged(11))
    same(one.result(), averaged_of(pixels[:4], maps[:4], patients[:4]))  # neither part is changed


def averaged_of(pixels: np.ndarray, maps: torch.Tensor, patients: np.ndarray) -> ClassMap:
    mean = ClassMean(SIZE)
    mean.add(pixels, maps, patients)
    return mean.result()


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
