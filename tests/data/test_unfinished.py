"""Packing that is cut off at any moment: nothing is lost, nothing is believed that is not so."""

import filecmp
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.data import store, unfinished
from cxr.data.store import open_or_pack
from cxr.data.unfinished import alone, read_journal
from cxr.errors import InputError
from tests.waiting import release, wait_until

PROJECT = Path(store.__file__).parents[2]
SIZE = 12
COUNT = 160  # five chunks of 32

PACK = f"""
import sys
from pathlib import Path
from cxr.data import store
from cxr.errors import InputError

root, images = Path(sys.argv[1]), Path(sys.argv[2])
files = {{path.name: path for path in sorted(images.iterdir())}}
fill = store.fill

def told(*arguments):
    print("packs", flush=True)
    return fill(*arguments)

store.fill = told
try:
    opened = store.open_or_pack(root, list(files), files, size={SIZE}, workers=2, on_bad_image="skip")
    print(int(opened.pixels.sum(dtype="int64")))
except InputError as error:
    print(error)
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of drawn PNGs."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (10 + number % 7, 15), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def reference(images: Path, tmp_path: Path) -> Path:
    """The folder of stores as it is after packing without interruption."""
    packed(tmp_path / "reference", images)
    return tmp_path / "reference"


def packed(root: Path, images: Path, on_bad_image: str = "stop") -> store.Store:
    files = {path.name: path for path in sorted(images.iterdir())}
    return open_or_pack(root, list(files), files, size=SIZE, workers=2, on_bad_image=on_bad_image)


def assert_same_folders(one: Path, other: Path) -> None:
    names = {path.relative_to(one) for path in one.rglob("*")}
    assert names == {path.relative_to(other) for path in other.rglob("*")}
    for name in names:
        assert (one / name).is_dir() or filecmp.cmp(one / name, other / name, shallow=False), name


@contextmanager
def packer(root: Path, images: Path, script: str = PACK) -> Iterator[subprocess.Popen[str]]:
    """A Python process that packs, in a process group of its own; it is gone afterwards."""
    command, pipe = [sys.executable, "-c", script, str(root), str(images)], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def blocked(*paths: Path) -> Iterator[None]:
    """In the files' place, meanwhile, what one who opens it waits for without end."""
    for path in paths:
        path.rename(path.parent.parent / path.name)
        os.mkfifo(path)
    try:
        yield
    finally:
        for path in paths:
            path.unlink()
            (path.parent.parent / path.name).rename(path)


def poison(path: Path) -> None:
    """Spoil a file without its size or time telling: it must not be read again."""
    found = path.stat()
    path.write_bytes(b"x" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def folder_in(root: Path) -> Path:
    (folder,) = root.glob("*.unfinished")
    return folder


def done_in(root: Path) -> int:
    return sum(len(read_journal(folder)) for folder in root.glob("*.unfinished"))


def interrupt(root: Path, images: Path, at: tuple[int, int], how: int) -> list[str]:
    """Pack until two workers wait at two images, then send a signal to all; the names that the journal holds."""
    with blocked(*(images / f"{number:03d}.png" for number in at)), packer(root, images) as process:
        done = COUNT - 32 * len({number // 32 for number in at}) if how else 0
        wait_until(
            lambda: done_in(root) >= min(done, 32 * (min(at) // 32)) and bool(list(root.glob("*.unfinished")))
        )
        os.killpg(process.pid, how)
        process.communicate(timeout=30)
        assert process.returncode != 0
    return [f"{row:03d}.png" for row in read_journal(folder_in(root))]


# ---------------------------------------------------------------- sudden ends


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [(3, 40), (70, 100), (130, 159)], ids=["early", "half way", "late"])
def test_packing_goes_on_where_it_was_ended(
    images: Path, reference: Path, tmp_path: Path, at: tuple[int, int], how: signal.Signals
) -> None:
    done = interrupt(tmp_path / "store", images, at, how)
    assert len(done) >= 32 * (min(at) // 32)
    for name in done:
        poison(images / name)
    packed(tmp_path / "store", images)
    assert_same_folders(tmp_path / "store", reference)


@pytest.mark.parametrize("seed", range(6))
def test_kill_at_any_moment_and_again(images: Path, reference: Path, tmp_path: Path, seed: int) -> None:
    root = tmp_path / "store"
    for wanted in random.Random(seed).choices(range(COUNT), k=3):
        with packer(root, images) as process:

            def far_enough(wanted: int = wanted, process: subprocess.Popen[str] = process) -> bool:
                return done_in(root) >= wanted or process.poll() is not None

            wait_until(far_enough)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    packed(root, images)
    for left in root.glob(".*.lock"):  # of the killed; empty, and the next packer's
        left.unlink()
    assert_same_folders(root, reference)


def test_killed_before_the_rename_or_after_it(images: Path, reference: Path, tmp_path: Path) -> None:
    for number, place in enumerate(("store.rename(final)", "shutil.rmtree(folder)")):
        code = Path(unfinished.__file__).read_text()
        assert place in code
        killed = f"__import__('os').kill(__import__('os').getpid(), 9); {place}"
        patch = f"""
import cxr.data.unfinished as changed
code = open(changed.__file__).read().replace({place!r}, {killed!r})
exec(compile(code, changed.__file__, "exec"), changed.__dict__)
"""
        root = tmp_path / f"store{number}"
        with packer(root, images, patch + PACK) as process:
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
        packed(root, images)
        assert_same_folders(next(root.glob("*px-????????????????")), next(reference.iterdir()))


def test_changed_file_is_packed_again_and_no_other(images: Path, tmp_path: Path) -> None:
    done = interrupt(tmp_path / "store", images, (130, 159), signal.SIGKILL)
    assert "007.png" in done
    for name in done:
        poison(images / name)
    Image.new("L", (5, 5), 77).save(images / "007.png")
    opened = packed(tmp_path / "store", images)
    assert (opened.pixels[7] == 77).all()


# ---------------------------------------------------------------- what is not believed


def test_pixels_that_are_not_what_was_written_are_packed_again(
    images: Path, reference: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    interrupt(root, images, (130, 159), signal.SIGKILL)
    with (folder_in(root) / "store" / "pixels.u8").open("r+b") as file:
        file.seek(40 * SIZE * SIZE)
        file.write(bytes(SIZE * SIZE * 3))  # as a power failure leaves them
        file.seek(2 * SIZE * SIZE + 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    packed(root, images)
    assert_same_folders(root, reference)


@pytest.mark.parametrize("length", [None, 0, 1_000, 1_000_000])
def test_pixel_file_of_another_length_or_none(
    images: Path, reference: Path, tmp_path: Path, length: int | None
) -> None:
    root = tmp_path / "store"
    interrupt(root, images, (130, 159), signal.SIGKILL)
    pixels = folder_in(root) / "store" / "pixels.u8"
    pixels.unlink() if length is None else os.truncate(pixels, length)
    packed(root, images)
    assert_same_folders(root, reference)


def test_torn_journal_costs_its_torn_line_only(images: Path, reference: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    interrupt(root, images, (130, 159), signal.SIGKILL)
    journal = folder_in(root) / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - 30)
    kept = read_journal(folder_in(root))
    assert len(kept) == COUNT - 64
    with blocked(images / "159.png"), packer(root, images) as process:  # goes on behind the torn line
        wait_until(lambda: done_in(root) > len(kept))
        process.kill()
    assert set(kept) < set(read_journal(folder_in(root)))
    for row in read_journal(folder_in(root)):
        poison(images / f"{row:03d}.png")
    packed(root, images)
    assert_same_folders(root, reference)


def test_rubbish_in_a_journal_is_passed_over(tmp_path: Path) -> None:
    good = [3, 10, 20, 30, 40, "ab", ""]
    lines = [
        b"",
        b"\0\0\0",
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b"[[]]",
        b"[[1, 2]]",
        b"[[[1], 2, 3, 4, 5, 6, 7]]",
        b"null",
    ]
    (tmp_path / "journal.jsonl").write_bytes(b"\n".join([*lines, json.dumps([good]).encode(), b'[[4, 10, 20, "']))
    assert read_journal(tmp_path) == {3: tuple(good)}


# ---------------------------------------------------------------- several at once


def test_one_packs_and_the_other_waits_and_opens(images: Path, tmp_path: Path) -> None:
    root, fifo = tmp_path / "store", images / "100.png"
    with blocked(fifo), packer(root, images) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "packs\n"
        with packer(root, images) as other:
            assert other.stderr is not None
            assert "another process is packing these images" in other.stderr.readline()
            release(fifo)
            told = [process.communicate(timeout=60)[0].split() for process in (one, other)]
            assert (one.returncode, other.returncode) == (0, 0)
    assert len(told[1]) == 1  # it did not pack
    assert told[0][-1] == told[1][-1]
    assert len(list(root.iterdir())) == 1


def test_one_that_waits_goes_on_when_the_other_is_killed(images: Path, reference: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    fifo = images / "159.png"
    with blocked(fifo), packer(root, images) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "packs\n"
        with packer(root, images) as other:
            assert other.stderr is not None
            assert "waiting for it" in other.stderr.readline()
            one.kill()
            assert other.stdout is not None
            assert other.stdout.readline() == "packs\n"
            other.kill()
    packed(root, images)
    for left in root.glob(".*.lock"):
        left.unlink()
    assert_same_folders(root, reference)


def test_lock_can_be_asked_for_without_waiting(tmp_path: Path) -> None:
    folder = tmp_path / "a.unfinished"
    code = f"""
from pathlib import Path
from cxr.data.unfinished import alone
with alone(Path({str(folder)!r})):
    print("held", flush=True)
    input()
"""
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is packing"), alone(folder, wait=False):
            pass
        process.kill()
    with alone(folder, wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- full disks


def test_disk_that_cannot_hold_the_pixels_is_noticed_before_decoding(images: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
    with packer(tmp_path / "store", images, limit + PACK) as process:
        said = process.communicate(timeout=60)[0]
    assert f"store={tmp_path}/store: nothing can be written there ([Errno 27] File too large)" in said
    assert done_in(tmp_path / "store") == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 kB; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "cxr", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_disk_that_fills_up_meanwhile_ends_in_words_and_packing_goes_on(
    images: Path, reference: Path, small_disk: Path
) -> None:
    unforeseen = """
import os, shutil
from types import SimpleNamespace
del os.posix_fallocate
shutil.disk_usage = lambda place: SimpleNamespace(free=10**9)
"""
    with packer(small_disk / "store", images, unforeseen + PACK) as process:
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0
    assert "nothing can be written there ([Errno 28] No space left on device). What is packed is kept" in said
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    packed(small_disk / "store", images)
    assert_same_folders(small_disk / "store", reference)
