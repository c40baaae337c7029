"""What a folder of stores holds, and how it is emptied."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.data import shelf
from cxr.data.shelf import remove, stores
from cxr.data.store import open_or_pack
from cxr.data.unfinished import alone
from cxr.errors import InputError

SIZE = 12


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Ten drawn PNGs, the last one cut short."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "9.png").write_bytes((folder / "9.png").read_bytes()[:50])
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture
def root(files: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a good store, one with a bad image, an unfinished one, a phantom, and other things."""
    root, names = tmp_path / "root", list(files)
    open_or_pack(root, names[:5], files, size=SIZE, dataset="one")
    open_or_pack(root, names, files, size=SIZE, dataset="two", on_bad_image="skip")
    with pytest.raises(InputError):
        open_or_pack(root, names, files, size=SIZE + 1, dataset="three")
    (root / "phantom-0123" / "images").mkdir(parents=True)
    Image.new("L", (9, 9)).save(root / "phantom-0123" / "images" / "a.png")
    (root / "224px-0123456789abcdef").mkdir()  # as an older version left it
    (root / "mine").mkdir()
    (root / "notes.txt").touch()
    return root


def test_stores_lists_what_there_is(root: Path) -> None:
    listed = {info.dataset or info.folder.name: info for info in stores(root)}
    assert set(listed) == {"one", "two", "three", "phantom", "224px-0123456789abcdef"}
    told = {name: (one.kind, one.images, one.size, one.complete, one.bad) for name, one in listed.items()}
    assert told["one"] == ("images", 5, SIZE, True, 0)
    assert told["two"] == ("images", 10, SIZE, True, 1)
    assert told["three"] == ("images", 10, SIZE + 1, False, 1)
    assert told["phantom"] == ("phantom", 1, 0, True, 0)
    assert told["224px-0123456789abcdef"] == ("images", 0, 0, False, 0)
    assert all(one.disk_bytes >= one.images * one.size**2 for one in listed.values())


def test_last_use_is_the_last_opening(root: Path, files: dict[str, Path]) -> None:
    def used() -> float:
        return next(info.last_used for info in stores(root) if info.dataset == "one")

    for path in root.rglob("*"):
        os.utime(path, (1_000, 1_000))
    for path in root.iterdir():
        os.utime(path, (1_000, 1_000))
    assert used() == 1_000
    open_or_pack(root, list(files)[:5], files, size=SIZE)
    assert used() > 1_000_000


def test_nothing_there(tmp_path: Path) -> None:
    assert stores(tmp_path) == stores(tmp_path / "none") == []


def test_removed_stores_are_gone_and_nothing_else_is(root: Path) -> None:
    for info in stores(root):
        remove(info)
    assert sorted(path.name for path in root.iterdir()) == ["mine", "notes.txt"]


def test_removed_store_can_still_be_read_by_those_who_have_it_open(root: Path, files: dict[str, Path]) -> None:
    opened = open_or_pack(root, list(files)[:5], files, size=SIZE)
    before = np.array(opened.pixels)
    for info in stores(root):
        remove(info)
    assert np.array_equal(opened.pixels, before)


def test_store_that_is_half_removed_is_no_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shelf.shutil, "rmtree", killed)
    before = stores(root)
    with pytest.raises(KeyboardInterrupt):
        remove(before[0])
    assert stores(root) == before[1:]


def test_unfinished_store_is_not_removed_while_it_is_packed(root: Path) -> None:
    (info,) = (info for info in stores(root) if info.dataset == "three")
    with alone(info.folder), pytest.raises(InputError, match=f"^{info.folder}: another process is packing"):
        remove(info)
    assert info.folder.is_dir()
    remove(info)
    assert not info.folder.exists()


def test_store_that_is_gone_already_is_told_of(root: Path) -> None:
    info = stores(root)[0]
    remove(info)
    with pytest.raises(InputError, match=f"^{info.folder}: the folder cannot be deleted"):
        remove(info)
