"""DICOM files against the same pixels written as PNG: rescale, window, MONOCHROME1; what is refused."""

import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGLosslessSV1, generate_uid

from cxr.data import dicom, image
from cxr.errors import InputError

RAMP = (np.add.outer(np.arange(48), np.arange(64)) * 2).astype(np.uint16)  # 0 .. 220


def write(path: Path, pixels: np.ndarray = RAMP, **values: Any) -> Path:
    """A single-frame grey file of 16 stored bits; `values` overrule its attributes, None removes one."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = values.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    attributes = {
        "SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1, "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": pixels.astype("<u2").tobytes(),
    } | values  # fmt: skip
    for name, value in attributes.items():
        if value is not None:
            setattr(file, name, value)
    file["PixelData"].VR = "OW" if "PixelData" in file else None
    file.save_as(path, enforce_file_format=True)
    return path


def as_png(grey: np.ndarray, size: int) -> np.ndarray:
    """What the same grey values give as PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(grey).astype(np.uint8)).save(stream, format="PNG")
    return image.decode(stream.getvalue(), size)


@pytest.mark.parametrize("size", [64, 32])
def test_values_fill_the_grey_range_and_are_scaled_and_padded_as_a_png(tmp_path: Path, size: int) -> None:
    found = dicom.read(write(tmp_path / "a.dcm"), size)
    np.testing.assert_array_equal(found.pixels, as_png(RAMP / 220 * 255, size))
    assert (found.width, found.height) == (64, 48)


def test_monochrome1_is_turned(tmp_path: Path) -> None:
    found = dicom.read(write(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1"), 64)
    expected = as_png(255 - RAMP / 220 * 255, 64).astype(int)
    np.testing.assert_allclose(found.pixels.astype(int), expected, atol=1)  # halves are rounded the other way


def test_the_window_is_taken_after_the_rescale(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.dcm", RescaleSlope="2", RescaleIntercept="-100", WindowCenter=["100", "5"],
        WindowWidth=["101", "2"],
    )  # fmt: skip
    grey = np.clip((RAMP * 2.0 - 100 - 49.5 - 0) / 100, 0, 1) * 255  # PS3.3 C.11.2.1.2: centre - 0.5, width - 1
    np.testing.assert_allclose(dicom.read(path, 64).pixels.astype(int), as_png(grey, 64).astype(int), atol=2)


def test_one_value_everywhere_is_black(tmp_path: Path) -> None:
    assert not dicom.read(write(tmp_path / "a.dcm", np.full((48, 64), 7, np.uint16)), 64).pixels.any()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"PhotometricInterpretation": "RGB"}, "RGB pixels; expected grey ones"),
        ({"NumberOfFrames": 2}, "2 frames; expected one image"),
        ({"Rows": 60_000, "Columns": 60_000}, "at most 64,000,000 are read"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3; expected 1"),
        ({"BitsAllocated": 1}, "BitsAllocated is 1; expected 8 or 16 or 32"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, "the pixels run from .* to inf"),
        ({"PixelData": RAMP.tobytes()[:100]}, "cannot be decoded"),
        ({"BitsAllocated": None}, "cannot be decoded"),
    ],
)
def test_what_is_no_single_grey_image_is_refused(tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "a.dcm", **values)
    with pytest.raises(InputError, match=reason) as raised:
        dicom.read(path, 64)
    assert "\n" not in str(raised.value)


def test_a_compressed_file_without_its_decoder_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm")
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    file.PixelData = pydicom.encaps.encapsulate([bytes(10)])
    file["PixelData"].VR = "OB"
    file.save_as(path)
    with pytest.raises(InputError, match="cannot be decoded"):
        dicom.read(path, 64)


def test_a_deflated_body_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm")
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.save_as(path)
    assert path.stat().st_size < 2_000  # it is deflated
    with pytest.raises(InputError, match="deflated DICOM is not read"):
        dicom.read(path, 64)


def test_threads_read_what_bends_the_standard_without_a_word(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", PixelData=RAMP.astype("<u2").tobytes() + bytes(100))  # more than its size
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: dicom.read(path, 64).pixels, range(40)))
    assert all((one == found[0]).all() for one in found)
    assert [one for one in warnings.filters if "pydicom" not in str(one[3])] == before


def test_a_file_is_known_by_its_magic(tmp_path: Path) -> None:
    assert dicom.is_dicom(write(tmp_path / "noending"))
    (tmp_path / "short").write_bytes(b"DICM")
    assert not dicom.is_dicom(tmp_path / "short")
    assert not dicom.is_dicom(tmp_path / "nowhere")


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match="uv sync --extra dicom"):
        dicom.read(path, 64)
