"""One encoded image -> one square of grey uint8 pixels: the only way that pixels enter.

Packing a store and serving a model call the same function, so a model sees in service exactly what
it saw in training.
"""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cxr.errors import InputError

MAX_PIXELS = 64_000_000  # 8,000 x 8,000; the largest NIH original was 3,827 x 4,715 before NIH's resize
_FORMATS = ("PNG", "JPEG")


def decode(source: Path | bytes, size: int) -> np.ndarray:
    """Decode a PNG or JPEG to grey, scale its longer side to `size`, pad the shorter one with black.

    Colour becomes luma (ITU-R 601), alpha is dropped, 16-bit pixels are scaled from full range.
    Returns uint8 [size, size]. Raises InputError for what is not an image, is cut short, or has more
    than 64 million pixels.
    """
    name = str(source) if isinstance(source, Path) else f"{len(source):,} bytes"
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=_FORMATS) as file:
            _refuse_bomb(file.size, name)
            grey = _grey(file)
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a PNG or JPEG image.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: the image cannot be decoded ({error}).") from error
    return _square(grey, size)


def example_png() -> bytes:
    """A drawn grey ramp of 64 x 64 pixels, as PNG: an example that is nobody's X-ray."""
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(ramp).save(encoded, format="PNG")
    return encoded.getvalue()


def _refuse_bomb(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{name}: {size[0]:,} x {size[1]:,} pixels; at most {MAX_PIXELS:,} are read.")


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((np.minimum(wide, 65_535) + 128) // 257).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette with transparency does not convert to grey directly
    return image.convert("L")


def _square(grey: Image.Image, size: int) -> np.ndarray:
    scale = size / max(grey.size)
    width, height = (max(round(side * scale), 1) for side in grey.size)
    scaled = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR))  # antialiased when shrinking
    if scaled.shape == (size, size):
        return scaled
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = scaled
    return square
