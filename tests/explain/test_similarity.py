"""Similarity of maps against scikit-image, scipy and counting by hand."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from cxr.evaluation.bootstrap import replicates
from cxr.explain.classmaps import upsample
from cxr.explain.similarity import compare, floor, spearman, ssim, summary, top_overlap

SIZE = 32


@pytest.fixture(scope="module")
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Signed maps [6, 4, 4] and others that are partly alike."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(6, 4, 4, generator=generator)
    return one, 0.7 * one + 0.5 * torch.randn(6, 4, 4, generator=generator)


def test_ssim_is_that_of_wang_2004_by_scikit_image_on_pictures_over_their_own_maximum(
    maps: tuple[torch.Tensor, torch.Tensor],
) -> None:
    found = ssim(*maps, SIZE)
    for pair, value in enumerate(found):
        a, b = (upsample(part[pair : pair + 1].clamp(min=0), SIZE)[0].astype(np.float64) for part in maps)
        expected = structural_similarity(
            a / a.max(), b / b.max(), data_range=1.0, gaussian_weights=True, use_sample_covariance=False
        )
        assert value == pytest.approx(expected, abs=1e-5)


def test_spearman_is_scipys_on_maps_after_relu(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    expected = [
        spearmanr(a.clamp(min=0).flatten(), b.clamp(min=0).flatten()).statistic for a, b in zip(*maps, strict=True)
    ]
    np.testing.assert_allclose(spearman(*maps), expected, atol=1e-12)


def test_a_map_is_wholly_like_itself_and_like_itself_made_stronger(
    maps: tuple[torch.Tensor, torch.Tensor],
) -> None:
    one, _ = maps
    table = compare(one, 3 * one, SIZE)
    np.testing.assert_allclose(table[["ssim", "spearman", "top_overlap"]], 1.0, atol=1e-6)
    assert table["pair"].tolist() == [0, 1, 2, 3, 4, 5]


def test_evidence_against_a_finding_does_not_count() -> None:
    one = torch.tensor([[[2.0, 1.0], [-1.0, -5.0]]])
    other = torch.tensor([[[2.0, 1.0], [-9.0, -0.1]]])
    table = compare(one, other, SIZE)
    assert table.loc[0, ["ssim", "spearman", "top_overlap"]].tolist() == pytest.approx([1, 1, 1])


def test_the_overlap_is_that_of_the_highest_tenth_counted_by_hand() -> None:
    one, other = torch.zeros(2, 1, 4, 5)
    one[0, 0, :3] = torch.tensor([5.0, 4.0, 3.0])  # the highest two of 20: columns 0 and 1
    other[0, 0, 1:4] = torch.tensor([4.0, 3.0, 2.0])  # columns 1 and 2
    assert top_overlap(one, other).tolist() == pytest.approx([1 / 3])
    assert top_overlap(one, other, share=0.15).tolist() == pytest.approx([2 / 4])


def test_equal_values_at_the_end_of_the_highest_share_all_count_but_never_zeros() -> None:
    flat, spike = torch.ones(1, 4, 5), torch.zeros(1, 4, 5)
    spike[0, 2, 2] = 1.0  # one positive position, though a tenth is two
    assert top_overlap(flat, spike).tolist() == pytest.approx([1 / 20])


def test_independent_maps_overlap_and_correlate_by_chance_only() -> None:
    one, other = torch.rand(2, 20, 60, 60, generator=torch.Generator().manual_seed(1))
    assert top_overlap(one, other).mean() == pytest.approx(0.01 / 0.19, abs=0.01)
    assert abs(spearman(one, other).mean()) < 0.02


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_similarity_with_a_map_that_shows_nothing_is_undefined(value: float) -> None:
    seen = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    nothing = torch.full((1, 2, 2), value)
    for table in (compare(seen, nothing, SIZE), compare(nothing, seen, SIZE), compare(nothing, nothing, SIZE)):
        assert table[["ssim", "spearman", "top_overlap"]].isna().all(axis=None)


def test_a_constant_positive_map_has_no_ranks_but_a_picture() -> None:
    table = compare(torch.ones(1, 2, 2), torch.ones(1, 2, 2), SIZE)
    assert table.loc[0, ["ssim", "top_overlap"]].tolist() == pytest.approx([1, 1])
    assert np.isnan(table.loc[0, "spearman"])


def test_a_pair_at_224_pixels_takes_milliseconds() -> None:
    one, other = torch.rand(2, 20, 7, 7, generator=torch.Generator().manual_seed(2))
    start = time.process_time()
    compare(one, other, 224)
    assert time.process_time() - start < 20 * 0.1  # 7 ms; a slow machine is allowed for


def test_the_floor_pairs_other_images_of_the_same_finding_where_there_are_any() -> None:
    maps = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(3))
    pixels = np.arange(5, dtype=np.uint8)[:, None, None].repeat(SIZE, 1).repeat(SIZE, 2)
    pixels[3] = pixels[0]  # the same image with another target
    targets = torch.tensor([7, 8, 7, 9, 8])
    found = floor(maps, pixels, targets)
    # 0 and 2, 1 and 4 share a target; 3 is alone: next comes 4, of another image
    expected = compare(maps, maps[[2, 4, 0, 4, 1]], SIZE)
    pd.testing.assert_frame_equal(found, expected)


def test_an_image_is_never_its_own_floor() -> None:
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(4))
    pixels = np.zeros((2, SIZE, SIZE), dtype=np.uint8)
    found = floor(maps, pixels, torch.tensor([1, 2]))
    assert found["pair"].tolist() == [0, 1]
    assert found[["ssim", "spearman", "top_overlap"]].isna().all(axis=None)


def test_a_summary_counts_what_is_undefined_and_draws_patients() -> None:
    generator = np.random.default_rng(5)
    patients = generator.integers(100, 112, 60)
    table = pd.DataFrame(
        {"depth": ["fc", "conv1"] * 30, "patient_id": patients, "ssim": generator.random(60)}
    )  # fmt: skip
    table.loc[[0, 2, 5], "ssim"] = np.nan
    found = summary(table, ["depth"], ["ssim"], seed=3).set_index("depth")
    assert found.index.tolist() == ["fc", "conv1"]
    assert found["n"].tolist() == [30, 30]
    assert found["undefined"].tolist() == [2, 1]
    for depth, part in table.groupby("depth"):
        row = found.loc[depth]
        assert row["median"] == part["ssim"].median()
        assert row["mean"] == pytest.approx(part["ssim"].mean())
        assert row["patients"] == part["patient_id"].nunique()
    # by hand: each pair as often as its patient was drawn
    ids = np.unique(patients)
    part = table[(table["depth"] == "fc") & table["ssim"].notna()]
    place = np.searchsorted(ids, part["patient_id"])

    def mean(drawn: np.ndarray) -> np.ndarray:
        return np.array([np.average(part["ssim"], weights=one[place]) for one in drawn.T])

    drawn = replicates({"mean": mean}, len(ids), seed=3)["mean"]
    assert found.loc["fc", ["low", "high"]].tolist() == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist())


def test_a_group_where_nothing_is_defined_has_no_mean() -> None:
    table = pd.DataFrame({"depth": "fc", "patient_id": [1, 2], "ssim": [np.nan, np.nan]})
    row = summary(table, ["depth"], ["ssim"]).iloc[0]
    assert row["undefined"] == row["n"] == 2
    assert row[["median", "mean", "low", "high"]].isna().all()
