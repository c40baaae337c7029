"""Store rows -> batches on the device, normalised there as whole batches."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cxr.data.augment import normalise
from cxr.data.store import Store

_AHEAD = 3  # batches that are read while the device works: more only take memory
_CHUNK = 4096  # rows that travel at once when the whole store does


class Pixels:
    """A store's rows on their way to a device: read from the memory map, or all there already.

    `resident` sends the whole store to the device once. Otherwise a GPU's batches are read ahead by a thread
    and travel from pinned memory while the GPU computes; on the CPU reading takes a thousandth of a step.
    """

    def __init__(self, store: Store, device: torch.device, *, resident: bool = False) -> None:
        self.device = device
        self._packed = store.pixels
        self._there = _send(store.pixels, device) if resident else None

    def batches(self, rows: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        """Yield the pixels [B, H, W] uint8 on the device of each array of row numbers [B]."""
        if self._there is not None:
            for batch in rows:
                yield self._there.index_select(0, torch.from_numpy(batch).to(self.device, non_blocking=True))
        elif self.device.type == "cuda":
            for pixels in ahead((self._read(batch).pin_memory() for batch in rows), _AHEAD):
                yield pixels.to(self.device, non_blocking=True)
        else:
            for batch in rows:
                yield self._read(batch)

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self._packed[rows])  # a copy


def batches(pixels: Pixels, rows: np.ndarray, *, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (position in `rows` [B] int64, images [B, 3, H, W] float32 on the device), each row once, in order.

    The last batch may be smaller.
    """
    positions = torch.split(torch.arange(len(rows)), batch_size)
    stream = pixels.batches(rows[batch.numpy()] for batch in positions)
    for batch, there in zip(positions, stream, strict=True):
        yield batch, normalise(there)


def generator(seed: int, *numbers: int) -> torch.Generator:
    """A generator of its own for each (seed, epoch) or (seed, epoch, step): neighbours have nothing in common.

    What is drawn depends on nothing else, so that training goes on from any place as if it had never stopped.
    """
    # as entropy, (seed, epoch) and (seed, epoch, 0) would be one: numpy fills up with zeros
    (drawn,) = np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(drawn >> np.uint64(1)))  # torch takes 63 bits


def order(count: int, *, seed: int, epoch: int) -> torch.Tensor:
    """The order [count] of images in an epoch (from 1)."""
    return torch.randperm(count, generator=generator(seed, epoch))


def ahead(items: Iterable[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """The same items in the same order, up to `count` of them ready and one more being made by a thread.

    What making an item raises is raised here, in its place. The thread ends when the iterator is closed.
    """
    ready: queue.Queue[torch.Tensor | BaseException] = queue.Queue(count)
    closed = threading.Event()

    def put(item: torch.Tensor | BaseException) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def make() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(StopIteration())
        except BaseException as error:
            put(error)

    threading.Thread(target=make, name="read ahead", daemon=True).start()
    try:
        while not isinstance(item := ready.get(), StopIteration):
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()


def _send(packed: np.ndarray, device: torch.device) -> torch.Tensor:
    there = torch.empty(packed.shape, dtype=torch.uint8, device=device)  # [N, H, W]
    for start in range(0, len(packed), _CHUNK):
        there[start : start + _CHUNK] = torch.from_numpy(packed[start : start + _CHUNK].copy())
    return there
