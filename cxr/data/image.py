"""One encoded image -> one square of grey uint8 pixels: the only way that pixels enter.

Packing a store and serving a model call the same function, so a model sees in service exactly what
it saw in training.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from cxr.errors import InputError

MAX_PIXELS = 64_000_000  # 8,000 x 8,000; the largest NIH original was 3,827 x 4,715 before NIH's resize
_FORMATS = ("PNG", "JPEG")
_BUFFER_BYTES = 1 << 20  # most of NIH's files in one read

# Whole-number box averaging first, antialiased bilinear after: 0.46 ms instead of 1.1 for 1,024 -> 224 pixels.
# A larger gap averages less and costs more (2.0: 0.69 ms). At 1.0, 1,024 -> 512 would be box averaging alone.
_REDUCING_GAP = 1.1


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where an image of width x height pixels lies in the packed square of size x size pixels."""

    width: int  # of the original file, in its pixels
    height: int
    size: int

    @property
    def scaled(self) -> tuple[int, int]:
        """Width and height of the scaled image, in packed pixels; the longer one is `size`."""
        scale = self.size / max(self.width, self.height)
        return max(round(self.width * scale), 1), max(round(self.height * scale), 1)

    @property
    def left(self) -> int:
        """Black columns on the left, in packed pixels."""
        return (self.size - self.scaled[0]) // 2

    @property
    def top(self) -> int:
        """Black rows at the top, in packed pixels."""
        return (self.size - self.scaled[1]) // 2

    def to_square(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A box (x, y, width, height) in original pixels -> the same box in packed pixels."""
        x, y, width, height = box
        across, down = self.scaled[0] / self.width, self.scaled[1] / self.height
        return self.left + x * across, self.top + y * down, width * across, height * down


@dataclass(frozen=True)
class Decoded:
    """A decoded image, and the size that its file had."""

    pixels: np.ndarray  # [size, size] uint8
    width: int  # of the file, in its pixels
    height: int


def read(source: Path | bytes, size: int) -> Decoded:
    """Decode a PNG or JPEG to grey, scale its longer side to `size` pixels, pad the shorter one with black.

    Colour becomes luma (ITU-R 601), alpha is dropped, 16-bit pixels are scaled from full range. Raises
    InputError for what is not an image, is cut short, or has more than 64 million pixels.
    """
    name = str(source) if isinstance(source, Path) else f"{len(source):,} bytes"
    try:
        with _open(source) as encoded, Image.open(encoded, formats=_FORMATS) as file:
            refuse_bomb(*file.size, name)
            file.load()
            grey = file if file.mode == "L" else _grey(file)  # without a copy, nearly always
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a PNG or JPEG image.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        said = getattr(error, "strerror", None) or error  # without the file's name, which stands before it
        raise InputError(f"{name}: the image cannot be decoded ({said}).") from error
    return Decoded(_square(grey, size), *grey.size)


def from_grey(pixels: np.ndarray, size: int) -> Decoded:
    """What `read` makes of pixels that are decoded and grey already: uint8 [H, W]."""
    height, width = pixels.shape
    return Decoded(_square(Image.fromarray(pixels), size), width, height)


def decode(source: Path | bytes, size: int) -> np.ndarray:
    """The pixels alone of what `read` reads, uint8 [size, size]. Raises InputError as `read` does."""
    return read(source, size).pixels


def example_png() -> bytes:
    """A drawn grey ramp of 64 x 64 pixels, as PNG: an example that is nobody's X-ray."""
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(ramp).save(encoded, format="PNG")
    return encoded.getvalue()


def _open(source: Path | bytes) -> BinaryIO:
    return source.open("rb", _BUFFER_BYTES) if isinstance(source, Path) else io.BytesIO(source)


def refuse_bomb(width: int, height: int, name: str) -> None:
    """Raise InputError for more pixels than are read, as a file's header gives them: nothing is decoded yet."""
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are read.")


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, in either byte order, or in 32
        wide = np.clip(np.asarray(image), 0, 65_535).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette with transparency does not convert to grey directly
    return image.convert("L")


def _square(grey: Image.Image, size: int) -> np.ndarray:
    place = Geometry(width=grey.width, height=grey.height, size=size)
    width, height = place.scaled
    scaled = np.asarray(grey.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP))
    if scaled.shape == (size, size):
        return scaled
    square = np.zeros((size, size), dtype=np.uint8)
    square[place.top : place.top + height, place.left : place.left + width] = scaled
    return square
