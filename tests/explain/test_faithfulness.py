"""Deletion and insertion: networks that read a known quarter of the picture, and imputation by hand."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional

from cxr.data.augment import normalise
from cxr.explain.faithfulness import NOISE, _ranks, curves, impute
from cxr.explain.gradcam import maps_of

SIZE, CELLS, SEED, STEPS, ORDERS = 32, 8, 3, 10, 3
READ = 3  # the class that reads the picture; the others have constant logits, so zero maps
QUARTERS = {"upper left": np.s_[:4, :4], "lower right": np.s_[4:, 4:]}


class Quarter(nn.Module):
    """One class's logit is the mean of the bright cells of one quarter; the map shows the same quarter, or not."""

    def __init__(self, reads: str, shows: str) -> None:
        super().__init__()
        self.layer4 = _Cells(shows)
        self.read = _Cells(reads)
        self.fc = nn.Linear(1, 15)
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.weight[READ] = 4.0
            self.fc.bias.fill_(-3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.read(x).sum(dim=(2, 3)) / 16 + 1e-5 * self.layer4(x).sum(dim=(2, 3))  # [N, 1]
        logits: torch.Tensor = self.fc(seen)
        return logits


class _Cells(nn.Module):
    def __init__(self, quarter: str) -> None:
        super().__init__()
        self.register_buffer("inside", torch.zeros(CELLS, CELLS))
        self.inside[QUARTERS[quarter]] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(x[:, :1], SIZE // CELLS).relu() * self.inside  # [N, 1, 8, 8]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A bright quarter, upper left, and a grey one, lower right, on a dark ground: [4, S, S]."""
    generator = np.random.default_rng(0)
    grey = np.full((4, SIZE, SIZE), 30.0)
    grey[:, : SIZE // 2, : SIZE // 2] = 215.0
    grey[:, SIZE // 2 :, SIZE // 2 :] = 145.0
    return (grey + generator.normal(0, 10, grey.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def honest() -> Quarter:
    return Quarter("upper left", "upper left").eval()


@pytest.fixture(scope="module")
def targets() -> torch.Tensor:
    return torch.tensor([READ, 0, READ, READ])  # the second pair has a zero map


@pytest.fixture(scope="module")
def found(honest: Quarter, pixels: np.ndarray, targets: torch.Tensor) -> tuple[pd.DataFrame, pd.DataFrame]:
    return curves(honest, "layer4", pixels, targets, seed=SEED, steps=STEPS, random_orders=ORDERS)


def probability(network: nn.Module, grey: torch.Tensor, target: int) -> float:
    with torch.inference_mode():
        return float(network(normalise(grey[None]))[0, target].double().sigmoid())


def test_a_map_of_what_the_network_reads_takes_and_gives_the_score_faster_than_random_orders(
    found: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    areas, means = found
    own = areas.dropna()
    assert (own["deletion"] < own["deletion_random"] - 0.2).all()
    assert (own["insertion"] > own["insertion_random"] + 0.1).all()
    by_map, by_chance = (means[means["order"] == order].set_index("share") for order in ("map", "random"))
    assert (by_map["deletion"] <= by_chance["deletion"] + 1e-3).all()
    assert (by_map["insertion"] >= by_chance["insertion"] - 1e-3).all()
    assert by_map.loc[by_map.index > 0.3, "deletion"].max() < 0.1, "the quarter is gone"
    assert by_map.loc[by_map.index > 0.3, "insertion"].min() > 0.9, "the quarter is all there"


def test_a_map_that_speaks_against_what_the_network_reads_is_worse_than_random_orders(pixels: np.ndarray) -> None:
    lying = Quarter(reads="upper left", shows="lower right").eval()
    lying.layer4.inside[QUARTERS["upper left"]] = -1.0
    areas, _ = curves(lying, "layer4", pixels[:1], torch.tensor([READ]), seed=SEED, steps=5)
    assert areas.loc[0, "insertion"] < areas.loc[0, "insertion_random"] - 0.1
    assert areas.loc[0, "deletion"] > areas.loc[0, "deletion_random"] + 0.05


def test_curves_begin_and_end_at_the_whole_and_the_empty_picture(
    found: tuple[pd.DataFrame, pd.DataFrame], honest: Quarter, pixels: np.ndarray, targets: torch.Tensor
) -> None:
    _, means = found
    kept = [0, 2, 3]
    whole = np.mean([probability(honest, torch.tensor(pixels[pair]), READ) for pair in kept])
    grain = NOISE * np.random.default_rng([SEED, 1]).standard_normal(pixels.shape, dtype=np.float32)
    empty = np.mean(
        [probability(honest, torch.tensor(pixels[pair].mean() + grain[pair]).float(), READ) for pair in kept]
    )
    for _, curve in means.groupby("order"):
        first, last = curve.iloc[0], curve.iloc[-1]
        assert (first["share"], last["share"]) == (0.0, 1.0)
        assert [first["deletion"], last["insertion"]] == pytest.approx([whole, whole], abs=1e-6)
        assert [last["deletion"], first["insertion"]] == pytest.approx([empty, empty], abs=1e-6)
    assert whole > 0.9
    assert empty < 0.1


def test_zero_maps_have_no_areas_and_are_not_in_the_mean_curves(
    found: tuple[pd.DataFrame, pd.DataFrame], honest: Quarter, pixels: np.ndarray, targets: torch.Tensor
) -> None:
    areas, means = found
    assert areas.columns.tolist() == ["pair", "deletion", "insertion", "deletion_random", "insertion_random"]
    assert areas["pair"].tolist() == [0, 1, 2, 3]
    assert areas["deletion"].isna().tolist() == [False, True, False, False]
    assert areas.loc[1].isna().sum() == 4
    # the mean curves' areas are the mean areas of the others
    for order, ending in (("map", ""), ("random", "_random")):
        own = means[means["order"] == order]
        for kind in ("deletion", "insertion"):
            area = np.trapezoid(own[kind], own["share"])
            assert area == pytest.approx(areas[f"{kind}{ending}"].mean(), abs=1e-9)


def test_zero_maps_alone_give_no_number(honest: Quarter, pixels: np.ndarray) -> None:
    areas, means = curves(honest, "layer4", pixels[:2], torch.tensor([0, 1]), seed=SEED)
    assert areas["pair"].tolist() == [0, 1]
    assert areas.drop(columns="pair").isna().all(axis=None)
    assert means["order"].unique().tolist() == ["map", "random"]
    assert means[["deletion", "insertion"]].isna().all(axis=None)


def test_areas_are_those_of_a_loop_over_cells_and_pictures(
    found: tuple[pd.DataFrame, pd.DataFrame], honest: Quarter, pixels: np.ndarray, targets: torch.Tensor
) -> None:
    areas, _ = found
    kept = [0, 2, 3]
    grain = NOISE * np.random.default_rng([SEED, 1]).standard_normal(pixels.shape, dtype=np.float32)
    maps = maps_of(honest, "layer4", normalise(torch.tensor(pixels)), targets)
    ranks = _ranks(maps[kept], ORDERS, np.random.default_rng(SEED))
    place, pair = 1, 2
    cells = [(-float(maps[pair, row, column]), row, column) for row in range(CELLS) for column in range(CELLS)]
    orders = [[(row, column) for _, row, column in sorted(cells)]]
    orders += [[divmod(int(cell), CELLS) for cell in np.argsort(ranks[place, 1 + each])] for each in range(ORDERS)]
    whole = torch.tensor(pixels[pair]).float()
    read: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for order in orders:
        heights: dict[str, list[float]] = {"deletion": [], "insertion": []}
        counts = [round(CELLS * CELLS * step / STEPS) for step in range(STEPS + 1)]
        for count in counts:
            first = torch.zeros(SIZE, SIZE, dtype=torch.bool)
            for row, column in order[:count]:
                first[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = True
            for kind, known in (("deletion", ~first), ("insertion", first)):
                picture = impute(whole, known[None], torch.from_numpy(grain[pair]))[0]
                heights[kind].append(probability(honest, picture, READ))
        for kind, height in heights.items():
            pieces = [
                (right - left) / 64 * (height[step] + height[step + 1]) / 2
                for step, (left, right) in enumerate(pairwise(counts))
            ]
            read[kind].append(sum(pieces))
    for kind, own in read.items():
        assert areas.loc[pair, kind] == pytest.approx(own[0], abs=1e-6)
        assert areas.loc[pair, f"{kind}_random"] == pytest.approx(np.mean(own[1:]), abs=1e-6)


def test_the_same_seed_gives_the_same_areas_and_another_seed_other_orders(
    found: tuple[pd.DataFrame, pd.DataFrame], honest: Quarter, pixels: np.ndarray, targets: torch.Tensor
) -> None:
    again, _ = curves(honest, "layer4", pixels, targets, seed=SEED, steps=STEPS, random_orders=ORDERS)
    pd.testing.assert_frame_equal(again, found[0])
    other, _ = curves(honest, "layer4", pixels[:1], targets[:1], seed=SEED + 1, steps=STEPS)
    assert other.loc[0, "deletion_random"] != found[0].loc[0, "deletion_random"]


def test_places_in_the_order_are_those_of_the_signed_map_and_permutations_of_the_cells() -> None:
    maps = torch.tensor([[[0.5, -2.0], [0.0, 3.0]]])
    ranks = _ranks(maps, 50, np.random.default_rng(0))
    assert ranks[0, 0].tolist() == [1, 3, 2, 0]
    assert (np.sort(ranks, axis=2) == np.arange(4)).all()
    assert ranks[0, 1:].mean(axis=0) == pytest.approx(1.5, abs=0.5)


def test_finer_maps_are_averaged_to_at_most_eight_cells_a_side() -> None:
    fine = torch.zeros(1, 14, 14)
    fine[0, 12:, :2] = 1.0  # the lower left of 7 x 7 cells
    ranks = _ranks(fine, 1, np.random.default_rng(0))
    assert ranks.shape == (1, 2, 49)
    assert np.argmin(ranks[0, 0]) == 6 * 7


def test_a_picture_of_few_cells_is_read_at_each_count_once(pixels: np.ndarray) -> None:
    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer4, self.fc = nn.AvgPool2d(SIZE // 2), nn.Linear(3, 15)  # 2 x 2 cells
            nn.init.ones_(self.fc.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(self.layer4(x).mean(dim=(2, 3)))
            return logits

    bright = np.maximum(pixels[:1], 140)
    _, means = curves(Coarse().eval(), "layer4", bright, torch.tensor([READ]), seed=0, steps=10)
    assert means["share"].tolist() == [0, 0.25, 0.5, 0.75, 1] * 2


def test_imputation_is_the_known_pixel_or_the_mean_in_the_smallest_cases() -> None:
    picture, none = torch.tensor([[100.0, 7.0], [8.0, 200.0]]), torch.zeros(2, 2)
    known = torch.tensor([[[1, 0], [0, 0]], [[1, 0], [0, 1]], [[0, 0], [0, 0]]], dtype=torch.bool)
    expected = [[[100, 100], [100, 100]], [[100, 150], [150, 200]], [[78.75, 78.75], [78.75, 78.75]]]
    torch.testing.assert_close(impute(picture, known, none), torch.tensor(expected), rtol=0, atol=0.01)


def solved(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """ROAD's system: an unknown pixel is the mean of its neighbours, those beside it twice the diagonal ones."""
    size, unknown = len(picture), [tuple(place) for place in np.argwhere(~known)]
    row_of = {place: row for row, place in enumerate(unknown)}
    system, right = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
    for row, (y, x) in enumerate(unknown):
        for down in (-1, 0, 1):
            for along in (-1, 0, 1):
                there = (y + down, x + along)
                if (down, along) == (0, 0) or not (0 <= there[0] < size and 0 <= there[1] < size):
                    continue
                weight = 2 if 0 in (down, along) else 1
                system[row, row] += weight
                if there in row_of:
                    system[row, row_of[there]] -= weight
                else:
                    right[row] += weight * picture[there]
    filled = picture.copy()
    filled[~known] = np.linalg.solve(system, right)
    return filled


@pytest.mark.parametrize(("share", "within"), [(0.2, 0.8), (0.6, 2.0)])
def test_imputation_comes_near_the_solution_of_the_linear_system(share: float, within: float) -> None:
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    picture = 4.0 * rows + 3.0 * columns + generator.normal(0, 10, (32, 32))
    gone = np.kron(generator.permutation(64).reshape(8, 8) < 64 * share, np.ones((4, 4))).astype(bool)
    found = impute(torch.tensor(picture).float(), torch.tensor(~gone)[None], torch.zeros(32, 32))[0].numpy()
    assert np.abs(found - solved(picture, ~gone))[gone].mean() < within


@pytest.mark.parametrize("size", [32, 33])
def test_imputation_leaves_known_pixels_and_adds_noise_to_the_others(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (size, size), generator=generator).float()
    known = torch.rand(5, size, size, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])[:, None, None]
    noise = 30 * torch.randn(size, size, generator=generator)
    plain, found = impute(picture, known, torch.zeros(size, size)), impute(picture, known, noise)
    assert (found[known] == picture.expand(5, -1, -1)[known]).all()
    torch.testing.assert_close(found[~known], (plain + noise).clamp(0, 255)[~known])
    for one, there in zip(plain, known, strict=True):
        assert picture[there].min() - 1e-3 <= one.min() <= one.max() <= picture[there].max() + 1e-3


def test_a_flat_picture_is_imputed_flat() -> None:
    known = torch.rand(3, 21, 21, generator=torch.Generator().manual_seed(0)) < 0.2
    found = impute(torch.full((21, 21), 90.0), known, torch.zeros(21, 21))
    torch.testing.assert_close(found, torch.full((3, 21, 21), 90.0))
