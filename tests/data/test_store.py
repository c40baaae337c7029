"""The image store: packed once and exactly, never half, never mistaken for another."""

import os
import signal
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
import pytest
from PIL import Image

from cxr.data import store
from cxr.data.image import decode
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


def test_all_broken_images_are_named_and_nothing_is_left(files: dict[str, Path], tmp_path: Path) -> None:
    files["02.png"].write_text("not an image")
    files["07.png"].write_bytes(files["07.png"].read_bytes()[:60])
    files["11.png"].unlink()
    files["11.png"].mkdir()
    with pytest.raises(InputError) as caught:
        packed(tmp_path / "store", files)
    assert str(caught.value).startswith("3 of 20 images cannot be read: ")
    for name in ("02.png", "07.png", "11.png"):
        assert str(files[name]) in str(caught.value)
    assert folders(tmp_path / "store") == []


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


def test_packing_leaves_the_warning_filters_as_they_were(files: dict[str, Path], tmp_path: Path) -> None:
    before = list(warnings.filters)
    for turn in range(5):  # filters are global: threads that each set and restore them leave others behind
        packed(tmp_path / f"store{turn}", files)
        assert list(warnings.filters) == before


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


def test_two_threads_that_finish_together_both_get_the_store(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_complete, put_in_place = threading.Barrier(2, timeout=60), store._put_in_place

    def together(unfinished: Path, folder: Path) -> None:
        both_complete.wait()
        put_in_place(unfinished, folder)

    monkeypatch.setattr(store, "_put_in_place", together)
    opened: list[store.Store] = []
    threads = [threading.Thread(target=lambda: opened.append(packed(tmp_path / "store", files))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 2
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


def test_killed_packing_leaves_nothing_that_looks_like_a_store(files: dict[str, Path], tmp_path: Path) -> None:
    script = f"""
import itertools, os, time

count, decode = itertools.count(), store.decode

def decode_eight_then_wait(path, size):
    if next(count) >= 8:
        os.write(1, b"half way\\n")
        time.sleep(60)
    return decode(path, size)

store.decode = decode_eight_then_wait
store.open_or_pack(root, list(files), files, size={SIZE})
"""
    root = tmp_path / "store"
    with running(script, root, tmp_path / "images") as process:
        assert line_from(process) == "half way\n"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    (left,) = folders(root)
    assert ".unfinished-" in left
    assert_exact(packed(root, files), files)
    assert left.split(".")[0] in folders(root)


def test_interrupted_packing_leaves_nothing(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, size: int) -> np.ndarray:
        if path.name == "05.png":
            raise KeyboardInterrupt
        return decode(path, size)

    monkeypatch.setattr(store, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "store", files)
    assert folders(tmp_path / "store") == []


def test_what_killed_processes_left_is_removed_after_a_day_and_not_before(tmp_path: Path) -> None:
    for name in ("64px-a.unfinished-1", ".phantom-a.1", "64px-b.unfinished-2"):
        (tmp_path / name).mkdir()
    yesterday = time.time() - 90_000
    for name in ("64px-a.unfinished-1", ".phantom-a.1"):
        os.utime(tmp_path / name, (yesterday, yesterday))
    store.make_root(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["64px-b.unfinished-2"]
