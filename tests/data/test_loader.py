"""Store rows -> batches: every row once, in a known order, normalised by the one formula."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr.data import nih
from cxr.data.augment import MEAN, STD, normalise
from cxr.data.loader import batches
from cxr.data.store import Store, open_or_pack

CPU = torch.device("cpu")


def numbered(count: int, size: int = 3) -> Store:
    """A store whose row r is r everywhere."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, size, size)).copy()
    return Store(pixels, {f"{row}.png": row for row in range(count)})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def order(seed: int | None, rows: np.ndarray, batch_size: int = 4) -> list[int]:
    shuffle = None if seed is None else seeded(seed)
    drawn = batches(numbered(100), rows, batch_size=batch_size, device=CPU, shuffle=shuffle)
    return [int(position) for positions, _ in drawn for position in positions]


# ---------------------------------------------------------------- normalise


def test_normalise_equals_its_formula_on_every_grey() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    expected = (pixels.astype(np.float64) / 255 - 0.5) / 0.25
    images = normalise(torch.from_numpy(pixels))
    assert (images.shape, images.dtype) == ((1, 3, 16, 16), torch.float32)
    for channel in range(3):
        np.testing.assert_allclose(images[:, channel].numpy(), expected, rtol=0, atol=1e-6)
    assert (images.min(), images.max()) == (-2, 2)
    assert (MEAN, STD) == (0.5, 0.25)


def test_normalise_keeps_images_apart_and_leaves_its_input_alone() -> None:
    pixels = torch.randint(0, 256, (5, 4, 6), dtype=torch.uint8, generator=seeded(0))
    before = pixels.clone()
    images = normalise(pixels)
    assert torch.equal(pixels, before)
    assert images.shape == (5, 3, 4, 6)
    for row in range(5):
        assert torch.equal(images[row], normalise(pixels[row : row + 1])[0])


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 64, [3])])
@pytest.mark.parametrize("seed", [None, 0])
def test_every_row_comes_once_and_the_last_batch_may_be_smaller(
    count: int, batch_size: int, sizes: list[int], seed: int | None
) -> None:
    shuffle = None if seed is None else seeded(seed)
    drawn = list(batches(numbered(20), np.arange(count), batch_size=batch_size, device=CPU, shuffle=shuffle))
    assert [len(positions) for positions, _ in drawn] == sizes
    assert [images.shape for _, images in drawn] == [(size, 3, 3, 3) for size in sizes]
    assert sorted(torch.cat([positions for positions, _ in drawn]).tolist()) == list(range(count))


def test_order_is_that_of_the_rows_without_a_generator() -> None:
    assert order(None, np.array([7, 3, 50, 1, 99])) == [0, 1, 2, 3, 4]


def test_order_is_drawn_from_the_generator_and_from_nothing_else() -> None:
    rows = np.arange(40)
    torch.manual_seed(1)
    first = order(0, rows)
    torch.manual_seed(2)
    assert order(0, rows) == first
    assert order(0, rows, batch_size=7) == first
    assert order(1, rows) != first
    assert first != sorted(first)


def test_generator_moves_on_so_that_epochs_differ() -> None:
    shuffle = seeded(0)
    epochs = [
        [
            int(p)
            for positions, _ in batches(numbered(40), np.arange(40), batch_size=8, device=CPU, shuffle=shuffle)
            for p in positions
        ]
        for _ in range(2)
    ]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])


@pytest.mark.parametrize("seed", [None, 3])
def test_positions_lead_to_the_images_labels(seed: int | None) -> None:
    rows = np.array([60, 2, 2, 31, 77, 0, 15])  # a store's rows in a table's order, one of them twice
    shuffle = None if seed is None else seeded(seed)
    for positions, images in batches(numbered(100), rows, batch_size=3, device=CPU, shuffle=shuffle):
        assert positions.dtype == torch.int64
        grey = (images[:, 0, 0, 0] * STD + MEAN) * 255
        assert torch.allclose(grey, torch.from_numpy(rows)[positions].float(), atol=1e-3)


def test_batches_of_a_packed_store_equal_its_normalised_pixels(phantom_folder: Path, tmp_path: Path) -> None:
    files = nih.image_files(phantom_folder)
    store = open_or_pack(tmp_path, list(files), files, size=32)
    rows = store.rows_of(list(files)[::-2])
    for positions, images in batches(store, rows, batch_size=5, device=CPU, shuffle=seeded(0)):
        expected = normalise(torch.from_numpy(np.array(store.pixels[rows[positions.numpy()]])))
        assert torch.equal(images, expected)
