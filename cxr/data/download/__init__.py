"""NIH's image archives -> a folder in the layout that `cohort` reads: fetched in parallel, verified, unpacked.

A call may be killed at any time: the next one goes on where it ended. What is under its own name in the
folder (`images_001.tar.gz`, `images_001/`) is whole; parts are named `*.part`.
"""

import contextlib
import heapq
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from cxr.data.download import unpacking
from cxr.data.download.archives import Archive
from cxr.data.download.transfer import Transfer, is_page, md5
from cxr.errors import InputError

LOCK = ".download.lock"  # stays in the folder; held by the process that works there

_UNPACKED_RATIO = 1.0  # PNG files do not shrink in a .tar.gz: unpacked they take about the archive's size
_LAST_WORDS = 2.0  # seconds that threads have to end when the call is interrupted
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One archive that is verified and unpacked."""

    name: str
    bytes: int  # the archive's size
    received: int  # bytes that came over the network in this call
    seconds: float  # for fetching, verifying and unpacking
    resumed_from: int  # bytes that an earlier call had left
    attempts: int  # requests made
    md5: str
    images: int
    already_there: bool  # nothing had to be fetched


def fetch(
    archives: Sequence[Archive],
    folder: Path,
    *,
    parallel: int = 4,
    keep_archives: bool = True,
    pause: Callable[[float], object] | None = None,
) -> Generator[Fetched, None, None]:
    """Fetch and unpack archives, `parallel` at a time; yields one record an archive, as they are done.

    An archive that fails does not stop the others; the InputError that names every failure comes last. Without
    `keep_archives`, a file of an archive's name that is not the archive stays, with a warning.
    Raises InputError as well for a disk that is too small and for a folder that another process works on.
    `pause` waits between two tries, in place of a plain wait.

    Close the generator (`contextlib.closing`) when leaving it early: that ends its threads.
    """
    assert parallel >= 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"data={folder}: the folder cannot be made ({error}).") from error
    with _only_process(folder):
        unpacking.sweep(folder)
        there, failures = _look(archives, folder)
        if not keep_archives:
            for archive in archives:
                if archive.name in there:
                    _remove_kept(archive, folder / archive.name)
        yield from there.values()
        missing = [archive for archive in archives if archive.name not in there.keys() | failures.keys()]
        _require_space(missing, folder, at_once=len(missing) if keep_archives else parallel)
        stop = threading.Event()
        with _progress(archives, there, folder) as advance:

            def one(archive: Archive) -> Fetched:
                return _one(archive, folder, advance=advance, stop=stop, pause=pause or stop.wait)

            for archive, outcome in _in_parallel(one, missing, parallel, stop):
                if isinstance(outcome, Fetched):
                    if not keep_archives:
                        (folder / archive.name).unlink()
                    yield outcome
                else:
                    failures[archive.name] = _reason(archive, outcome)
    if failures:
        said = "\n".join(failures[name] for name in sorted(failures))
        raise InputError(f"{len(failures)} of {len(archives)} archives could not be fetched. {said}")


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process that holds it; refuse where another one does."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"data={folder}: another process is downloading into this folder. Wait until it ends."
        ) from error
    except OSError as error:
        raise InputError(f"data={folder}: nothing can be written there ({error}).") from error
    try:
        yield
    finally:
        lock.release()


def _look(archives: Sequence[Archive], folder: Path) -> tuple[dict[str, Fetched], dict[str, str]]:
    """What is unpacked already, and the folders that are in the way: both by archive name."""
    there: dict[str, Fetched] = {}
    failures: dict[str, str] = {}
    for archive in archives:
        try:
            images = unpacking.unpacked(archive, folder)
        except InputError as error:
            failures[archive.name] = str(error)
            continue
        if images is not None:
            there[archive.name] = Fetched(
                name=archive.name, bytes=archive.bytes, received=0, seconds=0.0, resumed_from=0, attempts=0,
                md5=archive.md5, images=images, already_there=True,
            )  # fmt: skip
    return there, failures


def _remove_kept(archive: Archive, path: Path) -> None:
    """Remove an archive that an earlier call kept, or did not come to remove; anything else there is not ours."""
    if not path.exists():
        return
    if path.is_file() and md5(path, threading.Event()) == archive.md5:
        path.unlink()
    else:
        _LOG.warning("%s is not NIH's archive (MD5 %s) and is left there", path, archive.md5)


def _require_space(archives: Sequence[Archive], folder: Path, *, at_once: int) -> None:
    """`at_once`: how many archives lie in the folder at the same time, at most."""
    unpack = int(sum(archive.bytes for archive in archives) * _UNPACKED_RATIO)
    to_come = sum(heapq.nlargest(at_once, (archive.bytes - _there(archive, folder) for archive in archives)))
    free = shutil.disk_usage(folder).free
    if free < to_come + unpack:
        raise InputError(
            f"data={folder}: about {to_come + unpack:,} bytes are needed ({to_come:,} for archives still to come, "
            f"{unpack:,} for the images in them), {free:,} are free."
        )


def _there(archive: Archive, folder: Path) -> int:
    """Bytes of an archive that lie in the folder, whole or as a part."""
    if (folder / archive.name).exists():
        return archive.bytes
    part = folder / f"{archive.name}.part"
    return min(part.stat().st_size, archive.bytes) if part.exists() else 0


@contextlib.contextmanager
def _progress(
    archives: Sequence[Archive], unpacked: dict[str, Fetched], folder: Path
) -> Iterator[Callable[[int], None]]:
    """One bar over the bytes of all archives, beginning with what is there; threads may advance it."""
    total = sum(archive.bytes for archive in archives)
    there = sum(archive.bytes if archive.name in unpacked else _there(archive, folder) for archive in archives)
    one_at_a_time = threading.Lock()
    with tqdm(total=total, initial=there, unit="B", unit_scale=True, desc="fetch archives", disable=None) as bar:

        def advance(count: int) -> None:
            with one_at_a_time:
                bar.update(count)

        yield advance


def _one(
    archive: Archive,
    folder: Path,
    *,
    advance: Callable[[int], None],
    stop: threading.Event,
    pause: Callable[[float], object],
) -> Fetched:
    started = time.monotonic()
    transfer = Transfer(archive, folder, advance=advance, stop=stop, pause=pause)
    lies_there = transfer.target.exists()
    if lies_there:
        _refuse_other(archive, transfer.target, stop)
    else:
        transfer.bring()
    size = transfer.target.stat().st_size
    images = unpacking.unpack(archive, folder, stop)
    return Fetched(
        name=archive.name, bytes=size, received=transfer.received, seconds=time.monotonic() - started,
        resumed_from=0 if lies_there else transfer.resumed_from, attempts=transfer.attempts, md5=archive.md5,
        images=images, already_there=transfer.attempts == 0,
    )  # fmt: skip


def _refuse_other(archive: Archive, path: Path, stop: threading.Event) -> None:
    """A file of that name that somebody put there is used if it is the archive, and never deleted if not."""
    found = md5(path, stop)
    if found != archive.md5:
        with path.open("rb") as file:
            page = " It is a web page." if is_page(file.read(200)) else ""
        raise InputError(
            f"{archive.name}: {path} has the MD5 {found}, expected {archive.md5}.{page} Delete it to have "
            f"the archive fetched, or rename it to {path.name}.part if it only broke off."
        )


def _in_parallel(
    work: Callable[[Archive], Fetched], archives: Sequence[Archive], parallel: int, stop: threading.Event
) -> Iterator[tuple[Archive, Fetched | Exception]]:
    """Yield (archive, its record or what went wrong) as they end; `stop` is set when this is left.

    Daemon threads: an interrupted process must not wait for a server that says nothing any more.
    """
    waiting: queue.SimpleQueue[Archive] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[Archive, Fetched | Exception]] = queue.SimpleQueue()
    for archive in archives:
        waiting.put(archive)

    def serve() -> None:
        while not stop.is_set():
            try:
                archive = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((archive, work(archive)))
            except Exception as error:  # raised or reported by whoever reads the queue
                ended.put((archive, error))

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(parallel, len(archives)))]
    try:
        for thread in threads:
            thread.start()
        for _ in archives:
            yield ended.get()
    finally:
        stop.set()
        until = time.monotonic() + _LAST_WORDS
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))


def _reason(archive: Archive, error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):  # a full disk, a right that is missing
        return f"{archive.name}: cannot be read or written ({error}); call again to go on from there."
    raise error
