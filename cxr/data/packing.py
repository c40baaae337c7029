"""Decode image files into the rows of a pixel file, in worker processes that end with their parent.

Workers import this module, so it imports neither pandas nor torch.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from cxr.data.image import read
from cxr.errors import InputError
from cxr.interrupt import held

_CHUNK = 32  # images between two journal lines, 1/4 s of work: what an interruption costs each worker
_FEW = 64  # images that are decoded before workers would have started
_THREADS = "OPENBLAS_NUM_THREADS"  # numpy's; a worker multiplies no matrices


class Task(NamedTuple):
    """A row to fill, and the file that fills it."""

    row: int
    path: Path | None  # None where no file is known


class Packed(NamedTuple):
    """What became of a row."""

    row: int
    file_bytes: int  # -1 where there is no file
    mtime_ns: int
    width: int  # of the file, in its pixels; 0 for a bad image
    height: int
    digest: str  # of the row's bytes; empty for a bad image, whose row is zeros
    reason: str  # why the image is bad; empty for a good one


def digest(row: bytes | memoryview) -> str:
    """16 hexadecimal digits over the bytes of a packed row."""
    return hashlib.blake2b(row, digest_size=8).hexdigest()


def file_state(path: Path | None) -> tuple[int, int]:
    """Byte size and modification time (ns) of a file; (-1, 0) where there is none."""
    try:
        found = path.stat() if path else None
    except OSError:
        found = None
    return (found.st_size, found.st_mtime_ns) if found else (-1, 0)


def usable_cores() -> int:
    """Cores that this process may use: under an affinity mask or a container's quota fewer than there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, period = limit.read_text().split() if limit.is_file() else ("max", "1")
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


# ---------------------------------------------------------------- rows


def pack_rows(pixels: Path, size: int, tasks: Sequence[Task]) -> list[Packed]:
    """Decode files and write each into its row of `pixels` ([N, size, size] uint8). OSError if that fails."""
    descriptor = os.open(pixels, os.O_WRONLY)
    try:
        return [_pack_row(descriptor, size, task) for task in tasks]
    finally:
        os.close(descriptor)


def _pack_row(descriptor: int, size: int, task: Task) -> Packed:
    file_bytes, mtime_ns = file_state(task.path)  # before it is read: a change meanwhile is noticed next time
    try:
        if task.path is None or file_bytes < 0:
            raise InputError("there is no such file.")
        decoded = read(task.path, size)
    except InputError as error:
        _write(descriptor, memoryview(bytes(size * size)), task.row)
        reason = str(error).removeprefix(f"{task.path}: ").removesuffix(".")
        return Packed(task.row, file_bytes, mtime_ns, 0, 0, "", reason)
    pixels = decoded.pixels.reshape(-1).data
    _write(descriptor, pixels, task.row)
    return Packed(task.row, file_bytes, mtime_ns, decoded.width, decoded.height, digest(pixels), "")


def _write(descriptor: int, pixels: memoryview, row: int) -> None:
    # not through a memory map: there a full disk would be a fatal signal instead of an OSError
    at = row * pixels.nbytes
    while pixels:
        written = os.pwrite(descriptor, pixels, at)
        pixels, at = pixels[written:], at + written


# ---------------------------------------------------------------- processes


def pack_all(pixels: Path, size: int, tasks: Sequence[Task], workers: int) -> Generator[list[Packed]]:
    """Pack all rows, yielding them as they are done, in any order. Close the generator to stop the workers.

    Raises InputError where a worker was killed, OSError where rows cannot be written.
    """
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    if workers == 1 or len(tasks) <= _FEW:
        return (pack_rows(pixels, size, chunk) for chunk in chunks)
    return _in_processes(pixels, size, chunks, min(workers, len(chunks)))


def _in_processes(
    pixels: Path, size: int, chunks: Iterable[Sequence[Task]], workers: int
) -> Generator[list[Packed]]:
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (told,))
    running: set[Future[list[Packed]]] = set()
    try:
        for chunk in chunks:
            with held(), _plain_start():  # a worker whose start is broken off would say so at length
                running.add(pool.submit(pack_rows, pixels, size, chunk))
            if len(running) >= 2 * workers:  # so many are under way, however many images there are
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(running))
        pool.shutdown()
    except BrokenProcessPool as error:
        raise InputError(
            f"One of {workers} packing processes was killed, most likely for lack of memory. What is packed is "
            "kept: the next call goes on from there."
        ) from error
    finally:
        tell.close()  # workers that are still there end now, whatever they wait for
        pool.shutdown(cancel_futures=True)
        told.close()


@contextmanager
def _plain_start() -> Iterator[None]:
    """What a worker inherits: no main module, which an unguarded script would run again; one thread; no Ctrl-C."""
    main, threads = sys.modules["__main__"], os.environ.get(_THREADS)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        sys.modules["__main__"], os.environ[_THREADS] = ModuleType("__main__"), "1"
        yield
    finally:
        sys.modules["__main__"] = main
        os.environ.pop(_THREADS)
        os.environ |= {} if threads is None else {_THREADS: threads}
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(told: Connection) -> None:
    warnings.simplefilter("ignore")  # of large images: they are refused with a reason
    threading.Thread(target=_end_when_told, args=(told,), daemon=True).start()


def _end_when_told(told: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel, told])  # both ends of life are the closing of a pipe, on every platform
    os._exit(1)
