"""Memory and speed of reading as the set grows: stores of 1,000, 10,000 ... images of synthetic pixels."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

from cxr.benchmarks.table import Row
from cxr.data.augment import normalise
from cxr.data.loader import Pixels, order
from cxr.data.store import Store

BATCH = 32


def measure(folder: Path, names: Sequence[str], *, size: int) -> Iterator[Row]:
    """Read shuffled epochs from stores of ever more of the names, in `folder`: bare pixels, then floats.

    For each: images a second, from the page cache, and by how much the process's own memory grew at its highest,
    in MiB (pages of the memory map are not its own: the system takes them back when it needs them).
    """
    sizes = sorted({min(count, len(names)) for count in (1_000, 10_000, 100_000, len(names))})
    pixels = _synthetic(folder / "pixels.u8", len(names), size)
    for count in sizes:
        store = Store(pixels[:count], {name: row for row, name in enumerate(names[:count])})
        source, shuffled = Pixels(store, torch.device("cpu")), torch.split(order(count, seed=0, epoch=1), BATCH)
        label = f"{count:,} images of {size} px"
        rate, _ = _epoch(source.batches(batch.numpy() for batch in shuffled))
        yield Row(part="memory", measure=f"uint8 batches, {label}", value=rate, unit="images/s")
        rate, grown = _epoch(normalise(pixels) for pixels in source.batches(batch.numpy() for batch in shuffled))
        yield Row(part="memory", measure=f"normalised batches, {label}", value=rate, unit="images/s")
        yield Row(part="memory", measure=f"own memory grown, {label}", value=grown / 2**20, unit="MiB")


def _epoch(stream: Iterator[torch.Tensor]) -> tuple[float, int]:
    """Images a second, and the bytes by which the process's own memory grew at its highest."""
    before = top = _own_bytes()
    count, start = 0, time.perf_counter()
    for step, batch in enumerate(stream):
        count += len(batch)
        if step % 50 == 0:
            top = max(top, _own_bytes())
    return count / (time.perf_counter() - start), max(top, _own_bytes()) - before


def _synthetic(path: Path, count: int, size: int) -> np.ndarray:
    """Noise, the same few blocks over and over: what is in a pixel does not change what reading it costs."""
    block = np.random.default_rng(0).integers(0, 256, (256, size, size), dtype=np.uint8)
    with path.open("wb") as file:
        for first in range(0, count, len(block)):
            file.write(block[: min(len(block), count - first)].data)
    return np.memmap(path, dtype=np.uint8, mode="r", shape=(count, size, size))


def _own_bytes() -> int:
    used = psutil.Process().memory_info()
    return int(used.rss - getattr(used, "shared", 0))
