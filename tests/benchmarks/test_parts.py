"""Each part of the benchmark on a handful of drawn images: what it reports, not how fast it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxr.benchmarks import decoding, memory, reading
from cxr.data import nih, store


@pytest.fixture(scope="module")
def files(phantom_folder: Path) -> dict[str, Path]:
    return dict(list(nih.image_files(phantom_folder).items())[:6])


def test_decoding_reports_every_step_and_ours_against_the_best_pair(files: dict[str, Path]) -> None:
    threads = torch.get_num_threads()
    rows = {row.measure: row for row in decoding.measure(list(files.values()), size=32, rounds=1)}
    assert torch.get_num_threads() == threads
    assert {"decode, Pillow", "decode, torchvision", "scale, Pillow", "scale, torchvision"} <= set(rows)
    ratio = rows["ours over best pair"]
    assert ratio.value == pytest.approx(rows["ours"].value / rows["best pair"].value)
    steps = [name.removeprefix("decode, ") for name in rows if name.startswith("decode, ")]
    scalers = [name.removeprefix("scale, ") for name in rows if name.startswith("scale, ")]
    fastest = (
        max(steps, key=lambda name: rows[f"decode, {name}"].value),
        max(scalers, key=lambda name: rows[f"scale, {name}"].value),
    )
    assert ratio.against == " + ".join(fastest)


def test_reading_reports_both_ratios_over_the_peers(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PEERS_SECONDS", 0.5)
    monkeypatch.setattr(reading, "_STORE_SECONDS", 0.1)
    packed = store.open_or_pack(tmp_path, list(files), files, size=32)
    rows = {
        row.measure: row
        for row in reading.measure(list(files.values()), packed, np.arange(len(files)), size=32, rounds=1)
    }
    for way in ("store, uint8 batches", "store, normalised float batches"):
        ratio = rows[f"{way}, over peers"]
        assert ratio.value == pytest.approx(rows[way].value / rows["peers' pipeline"].value)


def test_the_peers_see_the_same_pictures(files: dict[str, Path]) -> None:
    """Up to their own scaling and normalisation: else the comparison would be with something else."""
    first = next(iter(files.values()))
    tensor = reading.PeersImages([first], 64)[0]
    assert tensor.shape == (3, 64, 64)
    assert tensor.dtype == torch.float32
    grey = tensor[0] * 0.229 + 0.485
    expected = np.asarray(Image.open(first).resize((64, 64), Image.Resampling.BILINEAR)) / 255
    assert np.abs(grey.numpy() - expected).max() < 0.01


def test_memory_reads_every_row_of_growing_stores(tmp_path: Path) -> None:
    names = [f"{row}.png" for row in range(1_500)]
    rows = list(memory.measure(tmp_path, names, size=8))
    assert [row.measure for row in rows if row.unit == "MiB"] == [
        "own memory grown, 1,000 images of 8 px", "own memory grown, 1,500 images of 8 px",
    ]  # fmt: skip
    assert (tmp_path / "pixels.u8").stat().st_size == 1_500 * 64
