"""Overlays beside a table: what is no overlay is never removed, and an interruption leaves the older ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxr.errors import InputError
from cxr.findings import FINDINGS
from cxr.model import build
from cxr.overlays import Overlays, left_by
from cxr.prediction import Batch

OLD = "000007_before.Mass.png"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table's path; beside it is an overlay of an earlier call."""
    (tmp_path / "out_maps").mkdir()
    (tmp_path / "out_maps" / OLD).write_bytes(b"earlier")
    return tmp_path / "out.csv"


def names(table: Path) -> list[str]:
    return sorted(path.name for path in (table.parent / "out_maps").iterdir())


def add_to(overlays: Overlays) -> None:
    """Three files: the first and the last are good, and their highest finding is the second that was learned."""
    logits = np.full((3, 15), -9.0)
    logits[:, 2], logits[:, 1], logits[1] = 5.0, 1.0, np.nan
    batch = Batch(
        names=["ward/a.png", "b.png", "c" * 200 + ".dcm"], logits=logits, reasons=["", "broken", ""],
        pixels=np.full((3, 64, 64), 90, np.uint8),
    )  # fmt: skip
    overlays.add(build("resnet18", seed=0).eval(), batch, [FINDINGS[1]], torch.device("cpu"), first=10)


def test_good_files_have_an_overlay_of_their_highest_learned_finding(table: Path) -> None:
    with Overlays(table, overwrite=True, inputs=[]) as overlays:
        add_to(overlays)
        assert names(table) == [OLD]
    assert names(table) == [f"000011_a.{FINDINGS[1]}.png", f"000013_{'c' * 50}.{FINDINGS[1]}.png"]
    with Image.open(table.parent / "out_maps" / names(table)[0]) as picture:
        assert picture.size[0] > 2 * picture.size[1] == 2 * 64
    assert left_by(table) == set((table.parent / "out_maps").iterdir())
    assert [path.name for path in table.parent.iterdir()] == ["out_maps"]


def test_what_is_interrupted_leaves_the_older_ones(table: Path) -> None:
    def interrupted() -> None:
        with Overlays(table, overwrite=True, inputs=[]) as overlays:
            add_to(overlays)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(table) == [OLD]
    assert [path.name for path in table.parent.iterdir()] == ["out_maps"]


def test_what_a_killed_call_left_is_known_and_goes(table: Path) -> None:
    left = table.parent / ".out_maps.unfinished" / "000001_a.Hernia.png"
    left.parent.mkdir()
    left.write_bytes(b"")
    assert left in left_by(table)
    with Overlays(table, overwrite=True, inputs=[]):
        pass
    assert (names(table), left.exists()) == ([], False)


@pytest.mark.parametrize(
    "kept", ["ward1.png", "7_a.Mass.png", "000001_a.Pox.png", "000001_a.Mass.jpg", "deep/a.png"]
)
def test_a_folder_with_anything_else_is_refused_whole(table: Path, kept: str) -> None:
    mine = table.parent / "out_maps" / kept
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match=rf"{kept.partition('/')[0]} in it is no overlay.*Nothing was removed"):
        Overlays(table, overwrite=True, inputs=[])
    assert mine.read_bytes() == b"mine"
    assert OLD in names(table)


def test_an_overlay_that_is_to_be_read_is_not_replaced(table: Path) -> None:
    (table.parent / "link").symlink_to("out_maps")
    with pytest.raises(InputError, match=f"{OLD} in it is no overlay, or is an input"):
        Overlays(table, overwrite=True, inputs=[table.parent / "odd\0.png", table.parent / "link" / OLD])


def test_a_folder_that_is_there_stays_unless_told(table: Path) -> None:
    with pytest.raises(InputError, match="is there already; overwrite=true"):
        Overlays(table, overwrite=False, inputs=[])
    (table.parent / "x_maps").write_text("mine")
    with pytest.raises(InputError, match="is no folder"):
        Overlays(table.with_name("x.csv"), overwrite=True, inputs=[])


def test_a_place_that_cannot_be_written_is_said_by_name(table: Path) -> None:
    with pytest.raises(InputError, match=r"out_maps\.unfinished cannot be written"):
        Overlays(table.parent / "nowhere" / "out.csv", overwrite=False, inputs=[]).__enter__()
    overlays = Overlays(table, overwrite=True, inputs=[])
    overlays._growing = Path("/dev/full")  # no folder
    with pytest.raises(InputError, match=r"000011_a.* cannot be written \(Not a directory"):
        add_to(overlays)
