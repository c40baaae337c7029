"""Rows and the processes that fill them: exact, bounded, and gone when nobody wants them any more."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from cxr.data import packing
from cxr.data.image import decode
from cxr.data.packing import Task, digest, file_state, pack_all, pack_rows, usable_cores
from tests.waiting import release, wait_until

PROJECT = Path(packing.__file__).parents[2]
SIZE = 12
COUNT = 160  # five chunks

PACK = f"""
import os, sys
from pathlib import Path
from cxr import interrupt
from cxr.data.packing import Task, pack_all
from cxr.errors import InputError

interrupt.install()
folder = Path(sys.argv[1])
tasks = [Task(row, path) for row, path in enumerate(sorted((folder / "images").iterdir()))]
try:
    for packed in pack_all(folder / "pixels.u8", {SIZE}, tasks, 2):
        print(len(packed), flush=True)
except InputError as error:
    print(error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Many drawn PNGs in images/, and a pixel file for them."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (10 + number % 7, 15), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:03d}.png")
    (tmp_path / "pixels.u8").write_bytes(b"\xee" * COUNT * SIZE * SIZE)
    return tmp_path


def tasks_of(folder: Path) -> list[Task]:
    return [Task(row, path) for row, path in enumerate(sorted((folder / "images").iterdir()))]


def rows_in(folder: Path) -> np.ndarray:
    return np.fromfile(folder / "pixels.u8", dtype=np.uint8).reshape(-1, SIZE, SIZE)


def block(path: Path) -> None:
    """Put something in a file's place that whoever opens it waits for, without end."""
    path.unlink()
    os.mkfifo(path)


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def packer(folder: Path, script: str = PACK) -> Iterator[subprocess.Popen[str]]:
    """A Python process that packs, in a process group of its own; it is gone afterwards."""
    command, pipe = [sys.executable, "-c", script, str(folder)], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def workers_below(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if not gone(child) and "spawn_main" in " ".join(child.cmdline())]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The two worker processes, once they are there."""
    wait_until(lambda: len(workers_below(psutil.Process(process.pid))) == 2)
    return workers_below(psutil.Process(process.pid))


# ---------------------------------------------------------------- rows


def test_rows_hold_the_decoded_files_and_others_are_left_alone(folder: Path) -> None:
    tasks = tasks_of(folder)[3:50:4]
    packed = pack_rows(folder / "pixels.u8", SIZE, tasks)
    rows = rows_in(folder)
    for task, one in zip(tasks, packed, strict=True):
        assert task.path is not None
        pixels = decode(task.path, SIZE)
        found = task.path.stat()
        assert np.array_equal(rows[task.row], pixels)
        expected = (
            task.row,
            found.st_size,
            found.st_mtime_ns,
            15,
            10 + task.row % 7,
            digest(pixels.tobytes()),
            "",
        )
        assert one == expected
    others = sorted(set(range(COUNT)) - {task.row for task in tasks})
    assert (rows[others] == 0xEE).all()


def test_bad_rows_are_zeros_with_a_reason_that_names_no_folder(folder: Path) -> None:
    images = folder / "images"
    (images / "000.png").write_text("text")
    (images / "001.png").write_bytes((images / "001.png").read_bytes()[:70])
    (images / "002.png").unlink()
    (images / "003.png").unlink()
    (images / "003.png").mkdir()
    (images / "004.png").write_bytes(b"")
    tasks = [
        *(Task(row, images / f"{row:03d}.png") for row in range(5)),
        Task(5, None),
        Task(6, images / "006.png"),
    ]
    packed = pack_rows(folder / "pixels.u8", SIZE, tasks)
    rows = rows_in(folder)
    assert not rows[:6].any()
    assert rows[6].any()
    reasons = [one.reason for one in packed]
    assert reasons[0] == reasons[4] == "not a PNG or JPEG image"
    assert reasons[1].startswith("the image cannot be decoded (")
    assert reasons[2] == reasons[5] == "there is no such file"
    assert reasons[3] == "the image cannot be decoded (Is a directory)"
    assert reasons[6] == ""
    assert [one.file_bytes for one in packed[2:6:3]] == [-1, -1]
    assert not any(str(folder) in reason for reason in reasons)
    assert all((one.width, one.height, one.digest) == (0, 0, "") for one in packed[:6])


def test_file_state_of_nothing() -> None:
    assert file_state(None) == file_state(Path("/none/such")) == (-1, 0)


def test_usable_cores_heed_the_affinity_mask() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    code = "import os; from cxr.data.packing import *; os.sched_setaffinity(0, {%d}); print(usable_cores())"
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", code % one], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_workers_need_neither_pandas_nor_torch() -> None:
    code = "import sys, cxr.data.packing; print([m for m in ('pandas', 'torch', 'tqdm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_all_rows_are_packed_once_whoever_packs_them(folder: Path, workers: int) -> None:
    tasks = tasks_of(folder)
    packed = [one for chunk in pack_all(folder / "pixels.u8", SIZE, tasks, workers) for one in chunk]
    assert sorted(one.row for one in packed) == list(range(COUNT))
    for one in packed:
        pixels = decode(folder / "images" / f"{one.row:03d}.png", SIZE)
        assert np.array_equal(rows_in(folder)[one.row], pixels)
        assert one.digest == digest(pixels.tobytes())
    assert workers_below(psutil.Process()) == []


def test_few_images_start_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ProcessPoolExecutor", None)
    tasks = tasks_of(folder)[:64]
    assert sum(len(chunk) for chunk in pack_all(folder / "pixels.u8", SIZE, tasks, 8)) == 64


def test_nothing_to_pack() -> None:
    assert list(pack_all(Path("none"), SIZE, [], 2)) == []


def test_rows_that_cannot_be_written_raise(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(pack_all(folder / "none" / "pixels.u8", SIZE, tasks_of(folder), 2))


def test_closing_ends_workers_at_once_even_those_that_wait(folder: Path) -> None:
    block(folder / "images" / "040.png")
    block(folder / "images" / "070.png")
    with closing(pack_all(folder / "pixels.u8", SIZE, tasks_of(folder), 2)) as chunks:
        assert len(next(chunks)) == 32
        assert len(workers_below(psutil.Process())) == 2
    assert workers_below(psutil.Process()) == []


def test_environment_and_main_module_are_as_they_were(folder: Path) -> None:
    main, before = sys.modules["__main__"], dict(os.environ)
    list(pack_all(folder / "pixels.u8", SIZE, tasks_of(folder), 2))
    assert sys.modules["__main__"] is main
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_script_without_a_guard_runs_once(folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\nprint('begun', flush=True)\n{PACK}")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.count("begun") == 1
    assert sum(map(int, done.stdout.split()[1:])) == COUNT
    assert done.stderr == ""


def test_workers_die_with_a_killed_parent(folder: Path) -> None:
    block(folder / "images" / "010.png")
    block(folder / "images" / "040.png")
    with packer(folder) as process:
        children = [*workers_of(process), *psutil.Process(process.pid).children()]
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: all(gone(child) for child in children), 10)


def test_workers_die_with_a_parent_that_is_killed_while_they_start(folder: Path) -> None:
    with packer(folder) as process:
        wait_until(lambda: len(psutil.Process(process.pid).children()) > 1)
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: all(gone(child) for child in children), 10)


def test_ctrl_c_ends_all_with_one_traceback(folder: Path) -> None:
    block(folder / "images" / "010.png")
    block(folder / "images" / "040.png")
    with packer(folder) as process:
        children = workers_of(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        errors = process.communicate(timeout=30)[1]
        assert all(gone(child) for child in children)
    assert process.returncode != 0
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_ctrl_c_while_workers_start_ends_all_with_one_traceback(folder: Path) -> None:
    with packer(folder) as process:
        wait_until(lambda: len(psutil.Process(process.pid).children()) > 1)
        children = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
        wait_until(lambda: all(gone(child) for child in children), 10)  # multiprocessing's own helper, too
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_workers_do_not_hear_ctrl_c(folder: Path) -> None:
    fifos = [folder / "images" / "010.png", folder / "images" / "040.png"]
    for fifo in fifos:
        block(fifo)
    with packer(folder) as process:
        for child in workers_of(process):
            child.send_signal(signal.SIGINT)
        for fifo in fifos:
            release(fifo)
        said, errors = process.communicate(timeout=30)
    assert sum(map(int, said.split())) == COUNT
    assert errors == ""


def test_killed_worker_is_told_of(folder: Path) -> None:
    block(folder / "images" / "010.png")
    block(folder / "images" / "040.png")
    with packer(folder) as process:
        children = workers_of(process)
        children[0].kill()
        said = process.communicate(timeout=30)[0]
        assert process.returncode == 0
        wait_until(lambda: all(gone(child) for child in children), 10)
    assert "One of 2 packing processes was killed, most likely for lack of memory" in said
    assert "the next call goes on from there" in said


def test_what_is_under_way_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_CHUNK", 4)
    asked = 0

    def counted() -> Iterator[list[Task]]:
        nonlocal asked
        tasks = tasks_of(folder)
        for start in range(0, COUNT, 4):
            asked += 4
            yield tasks[start : start + 4]

    received = 0
    for chunk in packing._in_processes(folder / "pixels.u8", SIZE, counted(), 2):
        assert asked - received <= 4 * 2 * 2
        received += len(chunk)
    assert received == COUNT
