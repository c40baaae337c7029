"""Decoding and scaling on one core: ours, and every decoder and scaler that a peer might use.

Ours is timed whole, from the file's bytes to the packed square. The others are timed apart, so that their best
pair is a bound: it pays nothing for passing the picture from one library to the other.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cxr.benchmarks.table import Row, interleaved
from cxr.data.image import decode

_Step = Callable[[Any], np.ndarray]


def measure(files: Sequence[Path], *, size: int, rounds: int = 5) -> Iterator[Row]:
    """Images a second on one core, for each step and for ours, and ours against the best pair."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _measure([path.read_bytes() for path in files], size, rounds)
    finally:
        torch.set_num_threads(threads)


def _measure(encoded: Sequence[bytes], size: int, rounds: int) -> Iterator[Row]:
    decoders, scalers = _decoders(), _scalers(size)
    ours = {"ours": lambda raw: decode(raw, size)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of a buffer that it only reads
        decoding = interleaved(ours | decoders, encoded, rounds)
        pictures = [np.asarray(Image.open(io.BytesIO(raw)).convert("L")) for raw in encoded]
        scaling = interleaved(scalers, pictures, rounds)
    count = len(encoded)
    for name in decoders:
        yield Row(part="decode", measure=f"decode, {name}", value=count / decoding[name], unit="images/s/core")
    for name in scalers:
        yield Row(part="decode", measure=f"scale, {name}", value=count / scaling[name], unit="images/s/core")
    decoder, scaler = min(decoders, key=decoding.__getitem__), min(scalers, key=scaling.__getitem__)
    best = decoding[decoder] + scaling[scaler]
    pair = f"{decoder} + {scaler}"
    yield Row(part="decode", measure="best pair", value=count / best, unit="images/s/core", against=pair)
    yield Row(part="decode", measure="ours", value=count / decoding["ours"], unit="images/s/core")
    yield Row(
        part="decode", measure="ours over best pair", value=best / decoding["ours"], unit="ratio", against=pair,
        goal=0.85,
    )  # fmt: skip


def _decoders() -> dict[str, _Step]:
    from torchvision.io import ImageReadMode, decode_image

    def by_torchvision(raw: bytes) -> np.ndarray:
        pixels = decode_image(torch.frombuffer(raw, dtype=torch.uint8), ImageReadMode.GRAY)
        return pixels[0].numpy()  # type: ignore[no-any-return]

    found: dict[str, _Step] = {
        "Pillow": lambda raw: np.asarray(Image.open(io.BytesIO(raw)).convert("L")),
        "torchvision": by_torchvision,
    }
    try:
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda raw: np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_GRAYSCALE))
    except ImportError:
        pass
    try:
        import imagecodecs

        found["imagecodecs"] = lambda raw: np.asarray(imagecodecs.png_decode(raw))
    except ImportError:
        pass
    return found


def _scalers(size: int) -> dict[str, _Step]:
    from torchvision.transforms.v2 import functional

    def by_torchvision(picture: np.ndarray) -> np.ndarray:
        scaled = functional.resize(torch.from_numpy(picture)[None], [size, size], antialias=True)
        return scaled[0].numpy()  # type: ignore[no-any-return]

    bilinear = Image.Resampling.BILINEAR
    found: dict[str, _Step] = {
        "Pillow": lambda picture: np.asarray(Image.fromarray(picture).resize((size, size), bilinear)),
        "Pillow with reducing_gap": lambda picture: np.asarray(
            Image.fromarray(picture).resize((size, size), bilinear, reducing_gap=1.1)
        ),
        "torchvision": by_torchvision,
    }
    try:
        import cv2

        found["OpenCV"] = lambda picture: np.asarray(
            cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        )
    except ImportError:
        pass
    return found
