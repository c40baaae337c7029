"""What a folder of stores holds, and how it is emptied."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from cxr.data import shelf
from cxr.data.shelf import remove, stores
from cxr.data.store import open_or_pack
from cxr.data.unfinished import alone
from cxr.errors import InputError

SIZE = 12
STRANGERS = ["mine", "phantom-89abcdef", "phantom-study-CT"]


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
    (root / "phantom-01234567" / "images").mkdir(parents=True)
    Image.new("L", (9, 9)).save(root / "phantom-01234567" / "images" / "a.png")
    (root / "phantom-01234567" / "PHANTOM.txt").touch()
    for name in STRANGERS:
        (root / name).mkdir()
    (root / "224px-0123456789abcdef").mkdir()  # as an older version left it
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


def test_last_use_of_a_phantom_is_that_of_its_note(root: Path) -> None:
    phantom = root / "phantom-01234567"
    os.utime(phantom / "PHANTOM.txt", (2_000, 2_000))
    os.utime(phantom, (1_000, 1_000))
    (info,) = (info for info in stores(root) if info.kind == "phantom")
    assert info.last_used == 2_000


def test_nothing_there(tmp_path: Path) -> None:
    assert stores(tmp_path) == stores(tmp_path / "none") == []


def test_removed_stores_are_gone_and_nothing_else_is(root: Path) -> None:
    for info in stores(root):
        remove(info)
    assert sorted(path.name for path in root.iterdir()) == [*STRANGERS[:1], "notes.txt", *STRANGERS[1:]]


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


def test_unfinished_training_is_listed_and_not_removed_while_it_is_under_way(root: Path) -> None:
    folder = root / f"training-{7:032x}"
    folder.mkdir()
    (folder / "last-0.pt").write_bytes(bytes(1000))
    (info,) = (info for info in stores(root) if info.kind == "training")
    assert (info.folder, info.images, info.complete) == (folder, 0, True)
    assert info.disk_bytes >= 1000
    with FileLock(folder / ".courier.lock"), pytest.raises(InputError, match="that training is under way"):
        remove(info)
    assert folder.is_dir()
    remove(info)
    assert not folder.exists()


def test_store_that_is_gone_already_is_told_of(root: Path) -> None:
    info = stores(root)[0]
    remove(info)
    with pytest.raises(InputError, match=f"^{info.folder}: the folder cannot be deleted"):
        remove(info)


@pytest.mark.parametrize("suffix", ["", ".unfinished"])
def test_link_to_a_store_is_refused_before_anything_is_renamed(root: Path, tmp_path: Path, suffix: str) -> None:
    link = root / f"9px-0123456789abcdef{suffix}"
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    before = sorted(path.name for path in root.iterdir())
    (info,) = (info for info in stores(root) if info.folder == link)
    with pytest.raises(InputError) as caught:
        remove(info)
    assert str(caught.value) == f"{link}: it is a link to {tmp_path}/elsewhere. Remove it by hand."
    assert sorted(path.name for path in root.iterdir()) == before


JUNK = [
    b"", b"null", b"[]", b"7", b'"a"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"images": "abc", "size": 12}', b'{"images": 1e999, "size": 12}', b'{"images": NaN, "size": 12}',
    b'{"images": null, "size": 12}', b'{"images": 5, "size": [12]}', b'{"images": -5, "size": 12}',
    b'{"images": 5, "size": 12.5}', b'{"images": 5, "size": 12, "dataset": {"a": 1}}', b"9" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("dataset", ["one", "three"], ids=["complete", "unfinished"])
def test_store_that_says_nonsense_is_listed_as_incomplete_and_can_be_removed(
    root: Path, dataset: str, junk: bytes
) -> None:
    (before,) = (info for info in stores(root) if info.dataset == dataset)
    about = before.folder / ("store/store.json" if dataset == "three" else "store.json")
    about.write_bytes(junk)
    (info,) = (info for info in stores(root) if info.folder == before.folder)
    assert (info.dataset, info.images, info.size, info.complete) == ("", 0, 0, False)
    remove(info)
    assert not info.folder.exists()


def test_dataset_that_no_terminal_can_print_is_spelt_out(root: Path) -> None:
    (info,) = (info for info in stores(root) if info.dataset == "one")
    (info.folder / "store.json").write_text('{"images": 5, "size": 12, "dataset": "\\u001b[2J\\ud800"}')
    (info,) = (one for one in stores(root) if one.folder == info.folder)
    assert (info.dataset, info.complete) == (r"'\x1b[2J\ud800'", True)


@pytest.mark.parametrize("dataset", ["one", "three"], ids=["complete", "unfinished"])
def test_links_in_circles_inside_a_store_do_no_harm(root: Path, dataset: str) -> None:
    (info,) = (info for info in stores(root) if info.dataset == dataset)
    (info.folder / "loop").symlink_to("loop")
    (info.folder / "self").symlink_to(".")
    for name in ("index.csv", "journal.jsonl"):
        (info.folder / name).unlink(missing_ok=True)
        (info.folder / name).symlink_to(name)
    (again,) = (one for one in stores(root) if one.folder == info.folder)
    assert not again.complete
    remove(again)
    assert not again.folder.exists()


def test_journal_of_deep_nesting_does_no_harm(root: Path) -> None:
    (info,) = (info for info in stores(root) if info.dataset == "three")
    with (info.folder / "journal.jsonl").open("ab") as file:
        file.write(b"\n" + b"[" * 100_000)
    assert info.bad == next(one.bad for one in stores(root) if one.folder == info.folder) == 1


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user whom rights bind, even where root runs the tests."""
    was_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:  # tmp_path's parents are closed to others
        Path(name).chmod(0o777)
        if was_root:
            os.seteuid(65_534)
        try:
            yield Path(name)
        finally:
            if was_root:
                os.seteuid(0)


@pytest.mark.parametrize("suffix", ["", ".unfinished"])
def test_unreadable_store_is_listed_as_incomplete_and_can_be_removed(unprivileged: Path, suffix: str) -> None:
    folder = unprivileged / f"9px-0123456789abcdef{suffix}"
    (folder / "store" / "more").mkdir(parents=True)
    (folder / "store" / "more" / "pixels.u8").touch()
    for place in (folder / "store" / "more", folder / "store", folder):
        place.chmod(0)
    (info,) = stores(unprivileged)
    assert (info.folder, info.complete, info.images) == (folder, False, 0)
    remove(info)
    assert list(unprivileged.iterdir()) == []


def test_folder_that_cannot_be_looked_into_is_told_of(unprivileged: Path) -> None:
    (unprivileged / "root").mkdir(0)
    with pytest.raises(InputError, match=f"^store={unprivileged}/root: the folder cannot be read"):
        stores(unprivileged / "root")
