"""Reading shuffled batches: from the store, and the way that most public code reads (the peers' pipeline).

The peers' pipeline opens each PNG with Pillow, converts it to RGB, scales it, turns it into a float tensor and
normalises it, in a DataLoader with as many workers as there are cores.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cxr.benchmarks.table import Row
from cxr.data.augment import normalise
from cxr.data.loader import Pixels, order
from cxr.data.packing import usable_cores
from cxr.data.store import Store

BATCH = 32
_STORE_SECONDS, _PEERS_SECONDS = 1.0, 8.0  # of each round; the peers' workers need some to get going


class PeersImages(Dataset[torch.Tensor]):
    """PNG files -> normalised float tensors [3, size, size], one at a time, on every reading anew."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        from torchvision import transforms

        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(Image.open(self.files[index]).convert("RGB"))
        return image


def measure(files: Sequence[Path], store: Store, rows: np.ndarray, *, size: int, rounds: int = 3) -> Iterator[Row]:
    """Images a second: the store's bytes, the store's normalised floats, the peers' floats; and the two ratios.

    The ways take turns; of each the fastest of `rounds` counts. The peers' first batch, which waits for its
    workers to start, is not timed.
    """
    source = Pixels(store, torch.device("cpu"))
    often = np.resize(rows, 1_000_000)  # more than is read in the time

    def pixels() -> Iterator[torch.Tensor]:
        shuffled = torch.split(order(len(often), seed=0, epoch=1), BATCH)
        return source.batches(often[batch.numpy()] for batch in shuffled)

    def floats() -> Iterator[torch.Tensor]:
        return (normalise(batch) for batch in pixels())

    ways: dict[str, Callable[[], float]] = {
        "store, uint8 batches": lambda: _rate(pixels(), _STORE_SECONDS),
        "store, normalised float batches": lambda: _rate(floats(), _STORE_SECONDS),
        "peers' pipeline": lambda: _rate(_peers(files, size), _PEERS_SECONDS),
    }
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = max(best[name], way())
    for name, value in best.items():
        yield Row(part="read", measure=name, value=value, unit="images/s")
    peers = f"peers' pipeline, {usable_cores()} workers"
    for (name, value), goal in zip(list(best.items())[:2], (1000.0, 20.0), strict=True):
        yield Row(
            part="read", measure=f"{name}, over peers", value=value / best["peers' pipeline"], unit="ratio",
            against=peers, goal=goal,
        )  # fmt: skip


def _peers(files: Sequence[Path], size: int) -> Iterator[torch.Tensor]:
    repeated = [*files] * (1 + 2_000 // len(files))  # longer than it is read
    workers = usable_cores()
    loader = DataLoader(PeersImages(repeated, size), batch_size=BATCH, shuffle=True, num_workers=workers)
    yield from loader


def _rate(stream: Iterator[torch.Tensor], seconds: float) -> float:
    """Images a second over about so many seconds, from the second batch on."""
    count, start = 0, 0.0
    for batch in stream:
        if not start:
            start = time.perf_counter()
            continue
        count += len(batch)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)
