"""Store rows -> batches: every row once, in a known order, normalised by the one formula."""

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr.data import loader, nih
from cxr.data.augment import MEAN, STD, normalise
from cxr.data.loader import Pixels, ahead, batches, generator, order
from cxr.data.store import Store, open_or_pack
from tests.waiting import wait_until

CPU = torch.device("cpu")
RESIDENT = pytest.mark.parametrize("resident", [False, True])


def numbered(count: int, size: int = 3) -> Store:
    """A store whose row r is r everywhere."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, size, size)).copy()
    return Store(pixels, {f"{row}.png": row for row in range(count)})


def packed(phantom_folder: Path, root: Path) -> Store:
    files = nih.image_files(phantom_folder)
    return open_or_pack(root, list(files), files, size=32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# ---------------------------------------------------------------- pixels


@RESIDENT
def test_pixels_come_as_the_store_has_them_batch_by_batch(resident: bool) -> None:
    rows = [np.array([7, 3, 3]), np.array([99]), np.array([0, 50])]
    drawn = list(Pixels(numbered(100, 5), CPU, resident=resident).batches(iter(rows)))
    for batch, pixels in zip(rows, drawn, strict=True):
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, torch.from_numpy(batch).to(torch.uint8)[:, None, None].expand(-1, 5, 5))


@pytest.mark.parametrize("chunk", [1, 7, 1000])  # rows that travel at once: each, some, all
def test_pixels_that_are_there_already_are_the_packed_ones(
    phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(loader, "_CHUNK", chunk)
    store = packed(phantom_folder, tmp_path)
    rows = np.random.default_rng(0).permutation(len(store.pixels))
    (there,) = Pixels(store, CPU, resident=True).batches([rows])
    (read,) = Pixels(store, CPU).batches([rows])
    assert torch.equal(there, read)
    np.testing.assert_array_equal(there.numpy(), store.pixels[rows])


@RESIDENT
def test_a_batch_may_be_changed_without_touching_the_store(resident: bool) -> None:
    store = numbered(4)
    pixels = Pixels(store, CPU, resident=resident)
    for batch in pixels.batches([np.arange(4)]):
        batch.zero_()
    (again,) = pixels.batches([np.arange(4)])
    assert again[:, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@RESIDENT
def test_pixels_on_a_gpu_are_those_on_the_cpu(phantom_folder: Path, tmp_path: Path, resident: bool) -> None:
    store = packed(phantom_folder, tmp_path)
    rows = np.array_split(np.random.default_rng(0).permutation(len(store.pixels)), 9)
    drawn = Pixels(store, torch.device("cuda"), resident=resident).batches(rows)
    for batch, pixels in zip(rows, drawn, strict=True):
        assert pixels.device.type == "cuda"
        np.testing.assert_array_equal(pixels.cpu().numpy(), store.pixels[batch])


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 64, [3])])
@RESIDENT
def test_every_row_comes_once_and_the_last_batch_may_be_smaller(
    count: int, batch_size: int, sizes: list[int], resident: bool
) -> None:
    pixels = Pixels(numbered(20), CPU, resident=resident)
    drawn = list(batches(pixels, np.arange(count), batch_size=batch_size))
    assert [len(positions) for positions, _ in drawn] == sizes
    assert [images.shape for _, images in drawn] == [(size, 3, 3, 3) for size in sizes]
    assert sorted(torch.cat([positions for positions, _ in drawn]).tolist()) == list(range(count))


def test_no_rows_are_no_batches() -> None:
    assert list(Pixels(numbered(3), CPU).batches([])) == []


def test_batches_come_in_the_order_of_the_rows() -> None:
    drawn = batches(Pixels(numbered(100), CPU), np.array([7, 3, 50, 1, 99]), batch_size=4)
    assert [int(position) for positions, _ in drawn for position in positions] == [0, 1, 2, 3, 4]


@RESIDENT
def test_positions_lead_to_the_images_labels(resident: bool) -> None:
    rows = np.array([60, 2, 2, 31, 77, 0, 15])  # a store's rows in a table's order, one of them twice
    for positions, images in batches(Pixels(numbered(100), CPU, resident=resident), rows, batch_size=3):
        assert positions.dtype == torch.int64
        grey = (images[:, 0, 0, 0] * STD + MEAN) * 255
        assert torch.allclose(grey, torch.from_numpy(rows)[positions].float(), atol=1e-3)


@RESIDENT
def test_batches_of_a_packed_store_equal_its_normalised_pixels(
    phantom_folder: Path, tmp_path: Path, resident: bool
) -> None:
    store = packed(phantom_folder, tmp_path)
    rows = store.rows_of(list(store.rows)[::-2])
    for positions, images in batches(Pixels(store, CPU, resident=resident), rows, batch_size=5):
        expected = normalise(torch.from_numpy(np.array(store.pixels[rows[positions.numpy()]])))
        assert torch.equal(images, expected)


def test_a_pickled_store_gives_the_same_batches(phantom_folder: Path, tmp_path: Path) -> None:
    store = packed(phantom_folder, tmp_path)
    rows = [np.arange(len(store.pixels))]
    (here,) = Pixels(store, CPU).batches(rows)
    (there,) = Pixels(pickle.loads(pickle.dumps(store)), CPU).batches(rows)
    assert torch.equal(here, there)


# ---------------------------------------------------------------- the order of an epoch


def test_an_epochs_order_is_a_permutation_that_seed_and_epoch_decide_and_nothing_else() -> None:
    orders = {}
    for seed in (0, 1):
        for epoch in (1, 2, 3):
            torch.manual_seed(10 * seed + epoch)
            orders[seed, epoch] = order(40, seed=seed, epoch=epoch).tolist()
            assert sorted(orders[seed, epoch]) == list(range(40))
    assert len({tuple(drawn) for drawn in orders.values()}) == 6
    torch.manual_seed(99)
    for (seed, epoch), drawn in reversed(orders.items()):  # in whatever order they are asked for
        assert order(40, seed=seed, epoch=epoch).tolist() == drawn


def test_generators_of_neighbours_have_nothing_in_common() -> None:
    numbers = [(5, 1), (5, 2), (6, 1), (1, 5), (5, 1, 0), (5, 1, 1), (5, 11)]
    drawn = [torch.randint(0, 1000, (200,), generator=generator(*one)) for one in numbers]
    for place, one in enumerate(drawn):
        assert torch.equal(one, torch.randint(0, 1000, (200,), generator=generator(*numbers[place])))
        assert all((one == other).float().mean() < 0.05 for other in drawn[:place])


def test_drawing_an_order_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    order(40, seed=3, epoch=4)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- reading ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def assert_ends() -> None:
    """Threads that read ahead end soon; one that waits for room looks around ten times a second."""
    for thread in readers():
        thread.join(timeout=20)
    assert readers() == []


class Made:
    """Items 0, 1, 2 ... as tensors, counting how many were made; what `fails` names is raised instead."""

    def __init__(self, count: int, *, fails: int | None = None, error: BaseException | None = None) -> None:
        self.count, self.fails, self.error = count, fails, error
        self.made = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(self.count):
            if number == self.fails:
                raise self.error or OSError("the disk is gone")
            self.made += 1
            yield torch.tensor(number)


@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("items", [0, 1, 2, 20])
def test_reading_ahead_gives_the_same_items_in_order(count: int, items: int) -> None:
    assert [int(item) for item in ahead(Made(items), count)] == list(range(items))
    assert_ends()


def test_items_are_made_in_another_thread_and_handed_over_as_they_are() -> None:
    made: list[tuple[torch.Tensor, int]] = []

    def make() -> Iterator[torch.Tensor]:
        for number in range(5):
            made.append((torch.tensor(number), threading.get_ident()))
            yield made[-1][0]

    drawn = list(ahead(make(), 2))
    assert all(one is other for one, (other, _) in zip(drawn, made, strict=True))
    assert threading.get_ident() not in {thread for _, thread in made}


@pytest.mark.parametrize("fails", [0, 1, 7])
@pytest.mark.parametrize("error", [OSError("the disk is gone"), MemoryError("no room"), KeyboardInterrupt()])
def test_what_making_an_item_raises_is_raised_in_its_place(fails: int, error: BaseException) -> None:
    drawn: list[torch.Tensor] = []
    with pytest.raises(type(error)) as raised:
        drawn.extend(ahead(Made(10, fails=fails, error=error), 3))
    assert raised.value is error
    assert [int(item) for item in drawn] == list(range(fails))
    assert_ends()


@pytest.mark.parametrize("count", [1, 3])
def test_so_much_is_made_ahead_and_no_more(count: int) -> None:
    items = Made(1000)
    stream = ahead(items, count)
    for taken in (1, 2, 3):
        next(stream)
        expected = taken + count + 1  # one more is made and waits for its place
        wait_until(lambda expected=expected: items.made >= expected)
        time.sleep(0.05)
        assert items.made == expected
    stream.close()
    assert_ends()
    assert items.made <= 3 + count + 2


@pytest.mark.parametrize("taken", [1, 4])
def test_the_thread_ends_where_the_iterator_is_closed_early(taken: int) -> None:
    stream = ahead(Made(1000), 3)
    for _ in range(taken):
        next(stream)
    assert len(readers()) == 1
    stream.close()
    assert_ends()


def test_the_thread_ends_where_the_one_who_reads_breaks_off_or_fails() -> None:
    for _ in ahead(Made(1000), 3):
        break
    assert_ends()
    with pytest.raises(ZeroDivisionError):
        [1 // int(item) for item in ahead(Made(1000), 3)]
    assert_ends()


def test_nothing_starts_before_the_first_item_is_asked_for() -> None:
    items = Made(3)
    ahead(items, 3).close()
    assert (readers(), items.made) == ([], 0)
