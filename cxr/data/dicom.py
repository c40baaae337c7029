"""A DICOM file -> the grey pixels that a reader sees: rescaled, windowed, MONOCHROME1 turned.

Needs pydicom, which nothing else here does: the extra `dicom`. DICOM PS3.3 C.7.6.3 and C.11 say what is done.
"""

import warnings
from pathlib import Path

import numpy as np

from cxr.data.image import Decoded, from_grey, refuse_bomb
from cxr.errors import InputError

_MAGIC = b"DICM"  # at byte 128
_DEFLATED = "1.2.840.10008.1.2.1.99"  # its whole body is one zlib stream: no header tells how large it becomes


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10), whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == _MAGIC
    except OSError:
        return False


def read(path: Path, size: int) -> Decoded:
    """Decode a single-frame grey DICOM image, scale its longer side to `size` and pad it, as `image.read` does.

    Modality LUT or rescale, then the first VOI LUT or window, then the values' own range to 0..255. Raises
    InputError for what is no such image, needs a decoder that is not there, or has more than 64 million pixels.
    Safe in threads.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise InputError(f"{path}: DICOM needs pydicom, which is not installed: uv sync --extra dicom.") from error
    # of values that bend the standard, and are read all the same; catch_warnings is not for threads
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    try:
        if pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
            raise InputError(f"{path}: deflated DICOM is not read; expected another transfer syntax.")
        file = pydicom.dcmread(path)
        _refuse_others(file, path)
        with np.errstate(all="ignore"):  # what comes of absurd slopes is looked at below
            seen = np.asarray(
                apply_voi_lut(apply_modality_lut(file.pixel_array, file), file, index=0), dtype=np.float64
            )
    except InputError:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever a broken file leads them to
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: the DICOM image cannot be decoded ({first[:200]}).") from error
    low, high = float(seen.min()), float(seen.max())
    if not np.isfinite(high - low):  # a NaN anywhere makes both NaN
        raise InputError(f"{path}: after its rescale or window the pixels run from {low} to {high}.")
    grey = (seen - low) * (255 / (high - low)) if high > low else np.zeros_like(seen)
    if file.PhotometricInterpretation == "MONOCHROME1":  # its lowest value is white
        grey = 255 - grey
    return from_grey(np.rint(grey).astype(np.uint8), size)


def _refuse_others(file: object, path: Path) -> None:
    def value(name: str, default: object) -> object:
        return getattr(file, name, default)

    if value("PixelData", None) is None:
        raise InputError(f"{path}: a DICOM file without an image.")
    if value("PhotometricInterpretation", "") not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"{path}: {value('PhotometricInterpretation', 'no')} pixels; expected grey ones.")
    for name, expected in (("SamplesPerPixel", (1,)), ("BitsAllocated", (8, 16, 32))):
        found = value(name, None)
        if found is not None and int(str(found)) not in expected:
            raise InputError(f"{path}: {name} is {found}; expected {' or '.join(map(str, expected))}.")
    if int(str(value("NumberOfFrames", 1) or 1)) != 1:
        raise InputError(f"{path}: {value('NumberOfFrames', 1)} frames; expected one image.")
    refuse_bomb(int(str(value("Columns", 0))), int(str(value("Rows", 0))), str(path))
