"""Store rows -> batches on the device, normalised there as whole batches."""

from collections.abc import Iterator

import numpy as np
import torch

from cxr.data.augment import normalise
from cxr.data.store import Store


def batches(
    store: Store,
    rows: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    shuffle: torch.Generator | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (position in `rows` [B] int64, images [B, 3, H, W] float32 on the device).

    Every row comes once: in order, or in an order drawn from `shuffle`. The last batch may be smaller.
    """
    for positions, pixels in _read(store, rows, batch_size, shuffle):
        yield positions, normalise(pixels.to(device))


def pixel_batches(
    store: Store, rows: np.ndarray, *, batch_size: int, shuffle: torch.Generator | None = None
) -> Iterator[torch.Tensor]:
    """Yield the bare pixels [B, H, W] uint8 of the same batches."""
    for _, pixels in _read(store, rows, batch_size, shuffle):
        yield pixels


def _read(
    store: Store, rows: np.ndarray, batch_size: int, shuffle: torch.Generator | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    order = torch.arange(len(rows)) if shuffle is None else torch.randperm(len(rows), generator=shuffle)
    for positions in torch.split(order, batch_size):
        yield positions, torch.from_numpy(store.pixels[rows[positions.numpy()]])  # [B, H, W] uint8, a copy
