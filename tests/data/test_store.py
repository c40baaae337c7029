"""The image store: packed once and exactly, never half, never mistaken for another."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr.data import packing, store
from cxr.data.image import Decoded, decode, read
from cxr.data.store import default_root, images_digest, open_or_pack
from cxr.errors import InputError

PROJECT = Path(store.__file__).parents[2]
SIZE = 12

PACK = """
import sys
from pathlib import Path
from cxr.data import store

root, images = Path(sys.argv[1]), Path(sys.argv[2])
files = {path.name: path for path in sorted(images.iterdir())}
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Twenty drawn PNGs of unlike sizes, by name."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        pixels = rng.integers(0, 256, (10 + number, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return {path.name: path for path in sorted(folder.iterdir())}


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def packed(root: Path, files: dict[str, Path], size: int = SIZE) -> store.Store:
    return open_or_pack(root, list(files), files, size=size)


def assert_exact(opened: store.Store, files: dict[str, Path], size: int = SIZE) -> None:
    assert opened.pixels.shape == (len(files), size, size)
    assert opened.pixels.dtype == np.uint8
    for name, path in files.items():
        assert np.array_equal(opened.pixels[opened.rows[name]], decode(path, size)), name


def test_every_row_equals_the_decoded_file(files: dict[str, Path], tmp_path: Path) -> None:
    opened = packed(tmp_path / "deep" / "store", files)
    assert_exact(opened, files)
    assert list(opened.rows) == list(files)
    assert not opened.pixels.flags.writeable


def test_rows_are_in_the_order_of_the_names(files: dict[str, Path], tmp_path: Path) -> None:
    names = list(files)[::-1][:7]
    opened = open_or_pack(tmp_path / "store", names, files, size=SIZE)
    assert opened.rows_of(names).tolist() == list(range(7))
    assert np.array_equal(opened.pixels[2], decode(files[names[2]], SIZE))


def test_rows_of_gives_int64_and_refuses_an_image_that_was_not_packed(
    files: dict[str, Path], tmp_path: Path
) -> None:
    opened = packed(tmp_path / "store", files)
    rows = opened.rows_of(["03.png", "00.png", "03.png"])
    assert (rows.tolist(), rows.dtype) == ([3, 0, 3], np.int64)
    with pytest.raises(KeyError, match=r"other\.png"):
        opened.rows_of(["00.png", "other.png"])


def test_second_opening_decodes_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    first = np.array(packed(tmp_path / "store", files).pixels)
    for path in files.values():  # same sizes, and no longer images
        path.write_bytes(b"x" * path.stat().st_size)
    assert np.array_equal(packed(tmp_path / "store", files).pixels, first)
    assert len(folders(tmp_path / "store")) == 1


def test_another_size_is_another_store(files: dict[str, Path], tmp_path: Path) -> None:
    assert_exact(packed(tmp_path / "store", files, 12), files, 12)
    assert_exact(packed(tmp_path / "store", files, 20), files, 20)
    assert [name.split("-")[0] for name in folders(tmp_path / "store")] == ["12px", "20px"]


def test_changed_file_is_packed_anew(files: dict[str, Path], tmp_path: Path) -> None:
    packed(tmp_path / "store", files)
    before = images_digest(list(files), files)
    Image.new("L", (5, 5), 77).save(files["04.png"])
    assert images_digest(list(files), files) != before
    opened = packed(tmp_path / "store", files)
    assert_exact(opened, files)
    assert (opened.pixels[4] == 77).all()
    assert len(folders(tmp_path / "store")) == 2


def test_fewer_images_are_another_store(files: dict[str, Path], tmp_path: Path) -> None:
    packed(tmp_path / "store", files)
    fewer = dict(list(files.items())[:5])
    assert_exact(packed(tmp_path / "store", fewer), fewer)


def test_same_files_elsewhere_meet_the_same_store(files: dict[str, Path], tmp_path: Path) -> None:
    packed(tmp_path / "store", files)
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = {name: tmp_path / "moved" / name for name in files}
    assert_exact(packed(tmp_path / "store", moved), moved)
    assert len(folders(tmp_path / "store")) == 1


# ---------------------------------------------------------------- bad images


def spoil(files: dict[str, Path]) -> list[str]:
    """Four images that cannot be read, each in its own way; their names."""
    files["02.png"].write_text("not an image")
    files["07.png"].write_bytes(files["07.png"].read_bytes()[:60])
    files["11.png"].unlink()
    files["11.png"].mkdir()
    files["13.png"].unlink()
    return ["02.png", "07.png", "11.png", "13.png"]


def test_all_bad_images_are_named_with_their_reasons_and_what_to_do(
    files: dict[str, Path], tmp_path: Path
) -> None:
    bad = spoil(files)
    with pytest.raises(InputError) as caught:
        packed(tmp_path / "store", files)
    said = str(caught.value)
    assert said.startswith(f"4 of 20 images cannot be read: {files['02.png']}: not a PNG or JPEG image, ")
    assert all(str(files[name]) in said for name in bad)
    assert f"{files['13.png']}: there is no such file" in said
    assert "on_bad_image=skip goes on without them" in said


def test_only_mended_files_are_decoded_after_a_stop(files: dict[str, Path], tmp_path: Path) -> None:
    bad = spoil(files)
    with pytest.raises(InputError):
        packed(tmp_path / "store", files)
    for name in set(files) - set(bad):
        poison(files[name])
    files["11.png"].rmdir()
    for name in bad:
        Image.new("L", (5, 5), 77).save(files[name])
    opened = packed(tmp_path / "store", files)
    assert opened.bad == {}
    assert (opened.pixels[opened.rows_of(bad)] == 77).all()
    assert opened.pixels.std(axis=(1, 2))[[0, 1, 3, 19]].min() > 0
    assert len(folders(tmp_path / "store")) == 1


def poison(path: Path) -> None:
    """Spoil a file without its size or time telling: it must not be read again."""
    found = path.stat()
    path.write_bytes(b"x" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("stopped_first", [False, True])
def test_skip_completes_the_store_without_them(
    files: dict[str, Path], tmp_path: Path, stopped_first: bool
) -> None:
    bad = spoil(files)
    if stopped_first:
        with pytest.raises(InputError):
            packed(tmp_path / "store", files)
    opened = open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image="skip")
    assert sorted(opened.bad) == bad
    assert opened.bad["02.png"] == "not a PNG or JPEG image"
    assert not opened.pixels[opened.rows_of(bad)].any()
    assert opened.digests(bad) == [""] * 4
    good = {name: path for name, path in files.items() if name not in bad}
    for name, path in good.items():
        assert np.array_equal(opened.pixels[opened.rows[name]], decode(path, SIZE))
    assert len(folders(tmp_path / "store")) == 1
    again = open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image="skip")
    assert again.bad == opened.bad


def test_complete_store_with_bad_images_is_refused_under_stop(files: dict[str, Path], tmp_path: Path) -> None:
    spoil(files)
    open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image="skip")
    (folder,) = (tmp_path / "store").iterdir()
    with pytest.raises(InputError, match=r"^4 of 20 images cannot be read: .* goes on without them\.$"):
        packed(tmp_path / "store", files)
    assert folder.is_dir()


@pytest.mark.parametrize("on_bad_image", ["stop", "skip"])
def test_bad_image_that_can_be_read_by_now_is_not_passed_over_in_silence(
    files: dict[str, Path], tmp_path: Path, on_bad_image: str
) -> None:
    whole = files["05.png"].read_bytes()
    spoil(files)
    files["05.png"].write_bytes(b"x" * len(whole))  # as a network disk may give it once
    for _ in range(2):  # packed, then opened
        opened = open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image="skip")
        assert len(opened.bad) == 5
    (folder,) = (tmp_path / "store").iterdir()
    files["05.png"].write_bytes(whole)
    with pytest.raises(InputError) as caught:
        open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image=on_bad_image)
    assert str(caught.value) == (
        f"{folder}: packed without images that can be read by now: 05.png. Remove the store (stores with "
        f"remove={folder.name}) to have all packed anew."
    )


def test_image_without_a_file_is_bad_too(files: dict[str, Path], tmp_path: Path) -> None:
    names = [*files, "lost.png"]
    with pytest.raises(InputError, match=r"^1 of 21 images cannot be read: lost\.png: there is no such file"):
        open_or_pack(tmp_path / "store", names, files, size=SIZE)
    opened = open_or_pack(tmp_path / "store", names, files, size=SIZE, on_bad_image="skip")
    assert opened.bad == {"lost.png": "there is no such file"}
    assert images_digest(names, files) == images_digest(names, files | {"lost.png": tmp_path / "none"})
    assert images_digest(names, files) != images_digest(list(files), files)


def test_other_words_for_bad_images_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on_bad_image=ignore: expected stop or skip"):
        open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image="ignore")


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"store={tmp_path}: there are no images"):
        open_or_pack(tmp_path, [], {}, size=SIZE)


def test_more_than_ten_broken_images_are_counted(files: dict[str, Path], tmp_path: Path) -> None:
    for path in list(files.values())[:13]:
        path.write_text("not an image")
    with pytest.raises(InputError, match=r"13 of 20 images .*\(13 in all\)"):
        packed(tmp_path / "store", files)


def test_truncated_store_is_refused_with_what_to_do(files: dict[str, Path], tmp_path: Path) -> None:
    packed(tmp_path / "store", files)
    (folder,) = (tmp_path / "store").iterdir()
    os.truncate(folder / "pixels.u8", 100)
    with pytest.raises(InputError) as caught:
        packed(tmp_path / "store", files)
    assert str(caught.value) == f"{folder}: pixels.u8 has 100 bytes, 2,880 expected. Delete the folder."


@pytest.mark.parametrize("row", [0, 19])
def test_pixels_that_were_not_packed_are_refused_with_what_to_do(
    files: dict[str, Path], tmp_path: Path, row: int
) -> None:
    packed(tmp_path / "store", files)
    (folder,) = (tmp_path / "store").iterdir()
    tamper(folder, row)
    with pytest.raises(InputError) as caught:
        packed(tmp_path / "store", files)
    assert str(caught.value) == (f"{folder}: pixels.u8 holds other pixels than were packed. Delete the folder.")


def tamper(folder: Path, row: int) -> None:
    with (folder / "pixels.u8").open("r+b") as file:
        file.seek(row * SIZE * SIZE + 70)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_some_rows_of_a_large_store_are_checked_from_the_first_good_one_to_the_last(
    files: dict[str, Path], tmp_path: Path
) -> None:
    many = {f"{number:03d}.png": files[f"{number % 20:02d}.png"] for number in range(100)}
    many["000.png"] = many["099.png"] = tmp_path / "none.png"
    found = []
    for row in range(100):
        root = tmp_path / f"store{row}"
        if row == 0:
            open_or_pack(root, list(many), many, size=SIZE, on_bad_image="skip")
        else:
            shutil.copytree(tmp_path / "store0", root)
            tamper(next(root.iterdir()), row)
            try:
                open_or_pack(root, list(many), many, size=SIZE, on_bad_image="skip")
            except InputError:
                found.append(row)
    assert (len(found), found[0], found[-1]) == (32, 1, 98)
    assert max(np.diff(found)) <= 4


def test_packing_leaves_the_warning_filters_as_they_were(files: dict[str, Path], tmp_path: Path) -> None:
    before = list(warnings.filters)
    for turn in range(5):  # filters are global: threads that each set and restore them leave others behind
        packed(tmp_path / f"store{turn}", files)
        assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("store.json", None),
        ("store.json", b"{"),
        ("store.json", b"[]"),
        ("store.json", b"\xff\xfe"),
        ("store.json", b'{"images": 20, "size": 13}'),
        ("store.json", b'{"images": true, "size": 12}'),
        ("store.json", b'{"images": 1e999, "size": 12}'),
        ("store.json", b'{"images": 20, "size": 12, "dataset": ["a"]}'),
        ("store.json", b"[" * 100_000),
        ("index.csv", None),
        ("index.csv", b""),
        ("index.csv", b"name,row\n"),
        ("index.csv", b"image,width,height,digest,reason\n00.png,x,2,3,4\n"),
        ("index.csv", b"image,width,height,digest,reason\n00.png,1\n"),
        ("index.csv", b"image,width,height,digest,reason\n00.png,1,1,ab,\n"),
        ("pixels.u8", None),
        ("pixels.u8", b""),
    ],
)
def test_spoilt_store_is_refused_with_what_to_do(
    files: dict[str, Path], tmp_path: Path, name: str, content: bytes | None
) -> None:
    packed(tmp_path / "store", files)
    (folder,) = (tmp_path / "store").iterdir()
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^{folder}: .*{name}.*Delete the folder\.$"):
        packed(tmp_path / "store", files)


def test_index_tells_sizes_and_digests(files: dict[str, Path], tmp_path: Path) -> None:
    opened = packed(tmp_path / "store", files)
    place = opened.geometry("03.png")
    assert (place.width, place.height, place.size) == (30, 13, SIZE)
    assert place.to_square((0, 0, 30, 13)) == (0, 3, 12, 5)
    expected = hashlib.blake2b(opened.pixels[3].tobytes(), digest_size=8).hexdigest()
    assert opened.digests(["03.png", "00.png"])[0] == expected
    with pytest.raises(KeyError):
        opened.digests(["none.png"])


def test_bad_image_has_no_geometry(files: dict[str, Path], tmp_path: Path) -> None:
    spoil(files)
    opened = open_or_pack(tmp_path / "store", list(files), files, size=SIZE, on_bad_image="skip")
    with pytest.raises(KeyError, match=r"02\.png: not a PNG"):
        opened.geometry("02.png")


def test_names_of_every_kind_come_back(files: dict[str, Path], tmp_path: Path) -> None:
    odd = [
        "CheXpert/train/p1/s1/view1.jpg",
        "a, b.png",
        'say "aah".png',
        "Röntgen/肺.png",
        "two\nlines\r.png",
        " ",
    ]
    odd.append(os.fsdecode(b"caf\xe9.png"))  # no UTF-8
    named = dict(zip(odd, files.values(), strict=False))
    for _ in range(2):  # packed, then opened
        opened = packed(tmp_path / "store", named)
        assert list(opened.rows) == odd
        assert_exact(opened, named)


def test_folder_holds_what_it_says_and_no_more(files: dict[str, Path], tmp_path: Path) -> None:
    open_or_pack(tmp_path / "store", list(files), files, size=SIZE, dataset="drawn")
    (folder,) = (tmp_path / "store").iterdir()
    assert folders(folder) == ["index.csv", "pixels.u8", "store.json"]
    about = json.loads((folder / "store.json").read_text())
    assert (about["dataset"], about["images"], about["size"]) == ("drawn", 20, SIZE)
    index = pd.read_csv(folder / "index.csv", dtype={"digest": str})
    assert index.columns.tolist() == ["image", "width", "height", "digest", "reason"]
    assert index["image"].tolist() == list(files)
    assert index["height"].tolist() == list(range(10, 30))


def test_opening_notes_when_the_store_was_used_and_decodes_on_a_read_only_disk(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(tmp_path / "store", files)
    (about,) = (tmp_path / "store").glob("*/store.json")
    os.utime(about, (0, 0))
    packed(tmp_path / "store", files)
    assert time.time() - about.stat().st_mtime < 60

    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store.os, "utime", refuse)
    assert_exact(packed(tmp_path / "store", files), files)


# ---------------------------------------------------------------- a root that does not do


def test_root_that_is_a_file_is_refused_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for root in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(InputError, match=f"store={root}: the folder cannot be made"):
            packed(root, files)


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder in which this process may not write, even where root runs the tests."""
    was_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:  # tmp_path's parents are closed to others
        folder = Path(name) / "root"
        folder.mkdir()
        (folder / "a.png").touch()
        folder.chmod(0o555)
        Path(name).chmod(0o755)
        if was_root:
            os.seteuid(65_534)
        try:
            yield folder
        finally:
            if was_root:
                os.seteuid(0)


def test_root_without_permission_is_refused_by_name(read_only_folder: Path) -> None:
    with pytest.raises(InputError, match=f"store={read_only_folder}: nothing can be written there"):
        packed(read_only_folder, {"a.png": read_only_folder / "a.png"})


def test_disk_that_is_too_small_is_refused_with_both_numbers(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_879))
    with pytest.raises(InputError, match=r"2,880 bytes are needed for the images, 2,879 are free"):
        packed(tmp_path / "store", files)
    assert folders(tmp_path / "store") == []


def test_default_root_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "cxr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_root() == tmp_path / "home" / ".cache" / "cxr"


# ---------------------------------------------------------------- several at once, and sudden ends


def test_threads_at_once_all_get_the_store(files: dict[str, Path], tmp_path: Path) -> None:
    opened: list[store.Store] = []
    threads = [threading.Thread(target=lambda: opened.append(packed(tmp_path / "store", files))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 3
    for one in opened:
        assert_exact(one, files)
    assert len(folders(tmp_path / "store")) == 1


@contextmanager
def running(script: str, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process that packs; it is gone afterwards, whatever happened."""
    command = [sys.executable, "-c", PACK + script, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_two_processes_at_once_both_get_the_store(files: dict[str, Path], tmp_path: Path) -> None:
    script = f"""
input("ready\\n")
opened = store.open_or_pack(root, list(files), files, size={SIZE})
print(int(opened.pixels.sum(dtype="int64")))
"""
    places = (tmp_path / "store", tmp_path / "images")
    with running(script, *places) as one, running(script, *places) as other:
        for process in (one, other):
            assert line_from(process) == "ready\n"
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        sums = [int(process.communicate(timeout=60)[0]) for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0)
    opened = packed(tmp_path / "store", files)
    assert_exact(opened, files)
    assert sums == [int(opened.pixels.sum(dtype=np.int64))] * 2
    assert len(folders(tmp_path / "store")) == 1


def test_a_pickled_store_is_small_and_opens_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "pixels.u8"
    large = np.memmap(
        path, dtype=np.uint8, mode="w+", shape=(4_000, 128, 128)
    )  # 66 MB, of which little is on disk
    large[::1000] = np.random.default_rng(0).integers(0, 256, (4, 128, 128), dtype=np.uint8)
    large.flush()
    names = [f"{row}.png" for row in range(len(large))]
    read_only = np.memmap(path, dtype=np.uint8, mode="r", shape=large.shape)
    opened = store.Store(
        read_only, {name: row for row, name in enumerate(names)}, sizes=[(3, 4)] * len(names),
        row_digests=["0" * 16] * len(names), bad={"7.png": "no image"},
    )  # fmt: skip
    pickled = pickle.dumps(opened)
    assert len(pickled) < 1_000_000
    again = pickle.loads(pickled)
    assert isinstance(again.pixels, np.memmap)
    assert not again.pixels.flags.writeable
    assert np.array_equal(again.pixels, large)
    for name in ("rows", "sizes", "row_digests", "bad"):
        assert getattr(again, name) == getattr(opened, name)
    assert isinstance(opened.pixels, np.memmap)  # as it was


def test_a_pickled_store_is_found_from_another_folder_and_pickled_on(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = packed(Path("store"), files)
    pickled = pickle.dumps(opened)
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(pickle.loads(pickled)))
    assert_exact(again, files)
    assert again.rows_of(["03.png"]).tolist() == [3]
    assert again.digests(list(files)) == opened.digests(list(files))
    assert again.geometry("04.png") == opened.geometry("04.png")


def test_a_store_in_memory_is_pickled_whole() -> None:
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    again = pickle.loads(pickle.dumps(store.Store(pixels, {"a.png": 2})))
    assert np.array_equal(again.pixels, pixels)
    assert again.rows == {"a.png": 2}


def test_a_pickled_store_whose_file_is_gone_says_so(files: dict[str, Path], tmp_path: Path) -> None:
    pickled = pickle.dumps(packed(tmp_path / "store", files))
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=r"pixels\.u8"):
        pickle.loads(pickled)


def test_interrupted_packing_keeps_what_is_no_store_yet(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, size: int) -> Decoded:
        if path.name == "05.png":
            raise KeyboardInterrupt
        return read(path, size)

    monkeypatch.setattr(packing, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "store", files)
    (left,) = folders(tmp_path / "store")
    assert left.endswith(".unfinished")
    monkeypatch.undo()
    assert_exact(packed(tmp_path / "store", files), files)
    assert len(folders(tmp_path / "store")) == 1


def test_files_that_change_while_they_are_packed_are_noticed(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_change(path: Path, size: int) -> Decoded:
        if path.name == "05.png":
            Image.new("L", (5, 5), 77).save(files["10.png"])
        return read(path, size)

    monkeypatch.setattr(packing, "read", and_change)
    with pytest.raises(InputError, match="image files changed while they were packed"):
        packed(tmp_path / "store", files)
    monkeypatch.undo()
    assert_exact(packed(tmp_path / "store", files), files)


ABANDONED = [
    "64px-0123456789abcdef.unfinished-01234567",
    ".phantom-01234567.89abcdef",
    ".removed-01234567",
    ".benchmark-a_1bcdef",
]
STRANGERS = [
    "64px-0123456789abcdef.unfinished",  # to be gone on with
    "64px-0123456789abcdef.unfinished-mine",
    "thesis.unfinished-chapters",
    "my.unfinished-01234567",
    ".phantom-study",
    ".phantom-01234567.89abcdef.kept",
    ".removed-from-the-cohort",
    ".benchmark-results-2024",
]


def test_what_killed_processes_left_is_removed_after_a_day_and_not_before(tmp_path: Path) -> None:
    yesterday = time.time() - 90_000
    for name in ABANDONED:
        (tmp_path / name / "images").mkdir(parents=True)
    store.make_root(tmp_path, 0)
    assert folders(tmp_path) == sorted(ABANDONED)
    for name in ABANDONED:
        os.utime(tmp_path / name, (yesterday, yesterday))
    store.make_root(tmp_path, 0)
    assert folders(tmp_path) == []


def test_folders_of_others_are_never_removed_whatever_their_names_resemble(tmp_path: Path) -> None:
    yesterday = time.time() - 90_000
    for name in STRANGERS:
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (yesterday, yesterday))
    (tmp_path / ".removed-89abcdef").write_text("a file")
    os.utime(tmp_path / ".removed-89abcdef", (yesterday, yesterday))
    store.make_root(tmp_path, 0)
    assert folders(tmp_path) == sorted([*STRANGERS, ".removed-89abcdef"])


def test_links_among_what_was_left_are_neither_followed_nor_removed(tmp_path: Path) -> None:
    root, theirs = tmp_path / "root", tmp_path / "theirs"
    for folder in (root / ABANDONED[0], theirs):
        folder.mkdir(parents=True)
    (theirs / "a.png").touch()
    (root / ABANDONED[0] / "link").symlink_to(theirs)
    (root / ABANDONED[2]).symlink_to(theirs)
    yesterday = time.time() - 90_000
    for path in (root / ABANDONED[0], root / ABANDONED[2]):
        os.utime(path, (yesterday, yesterday), follow_symlinks=False)
    store.make_root(root, 0)
    assert folders(root) == [ABANDONED[2]]
    assert folders(theirs) == ["a.png"]
