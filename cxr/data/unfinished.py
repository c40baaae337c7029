"""Packing that outlives interruptions: a folder that keeps pixels and a journal until the store is complete.

    <name>.unfinished/journal.jsonl     one line a chunk of rows that are done
    <name>.unfinished/store/            what becomes the store, by one rename

A row counts as done when its file is as it was, and the bytes in the pixel file have the digest that the journal
noted. So a journal that outran the pixels in a power failure does no harm, and no chunk waits for the disk.
"""

import csv
import errno
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from cxr.data.packing import Packed, Task, digest, file_state, pack_all
from cxr.errors import InputError

COLUMNS = ["image", "width", "height", "digest", "reason"]  # of index.csv
# What processes that were killed leave behind: older versions' packing, drawing, removing, a benchmark. Whoever
# gave a folder another name did so for a purpose, so no other name is touched.
_ABANDONED = re.compile(
    r"[0-9]+px-[0-9a-f]{16}\.unfinished-[0-9a-f]{8}|\.phantom-[0-9a-f]{8}\.[0-9a-f]{8}|\.removed-[0-9a-f]{8}"
    r"|\.benchmark-[a-z0-9_]{8}"
)
_ABANDONED_SECONDS = 24 * 3600
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on an unfinished folder; the kernel lets go of it when the process dies.

    Where another process holds it, waits and says so once, or raises InputError for `wait` false.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise InputError(f"{folder}: another process is packing images there.") from error
        _log.warning("another process is packing these images into %s: waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()  # one who waits for it notices, and makes a new one
        lock.release()


def fill(
    folder: Path, tasks: Sequence[Task], size: int, about: Mapping[str, object], workers: int
) -> list[Packed]:
    """Pack what is not packed yet; what became of all rows, in their order. OSError where the disk fails."""
    (folder / "store").mkdir(parents=True, exist_ok=True)  # with the user's own rights, so that a team may share
    (folder / "store" / "store.json").write_text(json.dumps(about, indent=1) + "\n")
    pixels, journal = folder / "store" / "pixels.u8", folder / "journal.jsonl"
    _reserve(pixels, len(tasks) * size * size)
    done = _still_packed(pixels, read_journal(folder), size, tasks)
    left = [task for task in tasks if task.row not in done]
    bar = tqdm(total=len(tasks), initial=len(done), desc="pack images", unit="image", disable=None)
    with bar, closing(pack_all(pixels, size, left, workers)) as chunks:
        for packed in chunks:
            with journal.open("a") as file:
                file.write(f"\n{json.dumps(packed)}")  # on a new line: the last one may be torn
            done |= {one.row: one for one in packed}
            bar.update(len(packed))
    return [done[task.row] for task in tasks]


def finish(folder: Path, final: Path, names: Sequence[str], packed: Sequence[Packed]) -> None:
    """Turn a filled folder into the store `final`, on disk as a whole or not at all."""
    store = folder / "store"
    with (store / "index.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        lines.writerows((names[one.row], one.width, one.height, one.digest, one.reason) for one in packed)
    for place in (*store.iterdir(), store):
        _sync(place)
    store.rename(final)
    _sync(final.parent)
    shutil.rmtree(folder)


def read_journal(folder: Path) -> dict[int, Packed]:
    """The last that the journal says of each row; lines that a sudden end tore are passed over."""
    journal = folder / "journal.jsonl"
    said: dict[int, Packed] = {}
    for line in journal.read_bytes().split(b"\n") if journal.is_file() else ():
        try:
            said |= {fields[0]: Packed(*fields) for fields in json.loads(line)}
        except (ValueError, TypeError, LookupError, RecursionError):
            continue  # its rows are packed again
    return said


def sweep(root: Path) -> None:
    """Remove the folders that killed processes left among the stores more than a day ago; links stay."""
    for left in root.iterdir():
        if not _ABANDONED.fullmatch(left.name):
            continue
        with suppress(FileNotFoundError):  # another process sweeps as well
            found = left.lstat()
            if stat.S_ISDIR(found.st_mode) and time.time() - found.st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take on the disk; 0 where there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process may be at work there
                total += Path(place, name).lstat().st_blocks * 512
    return total


def _still_packed(pixels: Path, said: Mapping[int, Packed], size: int, tasks: Sequence[Task]) -> dict[int, Packed]:
    row_bytes = size * size
    with pixels.open("rb", buffering=0) as file:

        def holds(task: Task, packed: Packed) -> bool:
            if packed.reason or (packed.file_bytes, packed.mtime_ns) != file_state(task.path):
                return False  # bad images are tried again, changed files too
            return packed.digest == digest(os.pread(file.fileno(), row_bytes, task.row * row_bytes))

        return {task.row: said[task.row] for task in tasks if task.row in said and holds(task, said[task.row])}


def _reserve(path: Path, count: int) -> None:
    """Make a file of `count` bytes and take its space now, so that a full disk is not met hours later."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(descriptor, 0, count)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        os.ftruncate(descriptor, count)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
