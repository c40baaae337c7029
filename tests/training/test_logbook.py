"""The logbook: records survive kills and full disks, whole, in order and once."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cxr.checkpoint import Checkpoint
from cxr.errors import InputError
from cxr.training.logbook import Logbook, read

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def content(folder: Path) -> list[tuple[int, int, dict[str, float]]]:
    return [(record.step, record.time_ms, record.metrics) for record in read(folder)]


def test_records_come_back_in_order_with_their_steps_and_times(tmp_path: Path) -> None:
    book = Logbook(tmp_path / "new" / "folder")
    book.record({"val/loss": 0.5, "train/lr": 1}, step=1, time_ms=1_000)
    book.record({"val/loss": 0.1 + 0.2}, step=2, time_ms=2_000)
    expected = [(1, 1_000, {"val/loss": 0.5, "train/lr": 1.0}), (2, 2_000, {"val/loss": 0.1 + 0.2})]
    assert content(book.folder) == expected
    again = Logbook(book.folder)
    assert again.records() == book.records() == read(book.folder)
    assert again.recorded_steps() == [1, 2]
    assert read(book.folder, book.records()[0].end) == book.records()[1:]
    assert [record.end for record in book.records()][-1] == (book.folder / "journal.jsonl").stat().st_size


def test_numbers_that_json_has_not_survive(tmp_path: Path) -> None:
    Logbook(tmp_path).record({"nan": math.nan, "inf": math.inf, "minus": -math.inf}, step=1, time_ms=1)
    ((_, _, metrics),) = content(tmp_path)
    assert math.isnan(metrics["nan"])
    assert (metrics["inf"], metrics["minus"]) == (math.inf, -math.inf)


@pytest.mark.parametrize("torn", [b'{"step": 3, "ti', b"{", b"\0\0\0\0\n", b'{"step": 3}\n', b"[1]\n"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    Logbook(tmp_path).record({"a": 1.0}, step=1, time_ms=1)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(torn)
    assert len(read(tmp_path, torn_end=True)) == 1
    book = Logbook(tmp_path)
    book.record({"a": 2.0}, step=2, time_ms=2)
    assert content(tmp_path) == [(1, 1, {"a": 1.0}), (2, 2, {"a": 2.0})]


def test_a_line_in_the_middle_that_is_no_record_is_an_error_with_its_place(tmp_path: Path) -> None:
    Logbook(tmp_path).record({"a": 1.0}, step=1, time_ms=1)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"nonsense\n" + journal.read_bytes())
    with pytest.raises(InputError, match=r"journal\.jsonl: the line at byte 0 is not a record"):
        Logbook(tmp_path)


def test_a_metric_has_one_value_a_step(tmp_path: Path) -> None:
    book = Logbook(tmp_path)
    book.record({"a": 1.0}, step=1, time_ms=1)
    book.record({"a": 3.0}, step=1, time_ms=3)
    book.record({"a": 3.0, "b": 4.0}, step=1, time_ms=4)
    assert content(tmp_path) == [(1, 1, {"a": 1.0}), (1, 4, {"b": 4.0})]
    assert book.recorded_steps() == [1]


def test_epochs_that_only_the_checkpoint_has_are_caught_up_once(tmp_path: Path) -> None:
    history = [{"epoch": number, "time_ms": 10 * number, "metrics": {"a": float(number)}} for number in (1, 2, 3)]
    book = Logbook(tmp_path)
    book.record({"a": 1.0}, step=1, time_ms=10)
    book.catch_up(history)
    book.catch_up(history)
    Logbook(tmp_path).catch_up(history)
    assert content(tmp_path) == [(1, 10, {"a": 1.0}), (2, 20, {"a": 2.0}), (3, 30, {"a": 3.0})]


def test_checkpoints_lie_beside_the_journal(tmp_path: Path) -> None:
    book = Logbook(tmp_path)
    assert book.newest() is None
    state = Checkpoint(
        epoch=1, step=0, weights={"w": torch.ones(2)}, optimiser={}, average={}, best={}, running={}, history=[],
        metadata={},
    )  # fmt: skip
    assert book.save(state) == tmp_path / "last-0.pt"
    found = book.newest()
    assert found is not None
    assert found.checkpoint.epoch == 1


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cxr.errors import InputError
from cxr.training.logbook import Logbook, read
book = Logbook(Path(sys.argv[1]))
book.record({"a": 1.0}, step=1, time_ms=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (book.records()[-1].end + 10, resource.RLIM_INFINITY))
try:
    book.record({"a": 2.0}, step=2, time_ms=2)
except InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
book.record({"a": 2.0}, step=2, time_ms=2)
print([record.step for record in read(book.folder)] == book.recorded_steps() == [1, 2])
"""


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, right = done.stdout.splitlines()
    assert said == (
        f"{tmp_path}/journal.jsonl: the record of step 2 could not be written ([Errno 27] File too large)."
    )
    assert right == "True"


RECORD_FOR_EVER = """
import itertools, sys
from pathlib import Path
from cxr.training.logbook import Logbook
book = Logbook(Path(sys.argv[1]))
for step in itertools.count(max(book.recorded_steps(), default=0) + 1):
    book.record({f"metric/{number}": step / 7 for number in range(200)}, step=step, time_ms=step)
    print(step, flush=True)
"""


def test_kills_tear_no_record_that_was_reported(tmp_path: Path) -> None:
    last = 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", RECORD_FOR_EVER, str(tmp_path)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        reported = [int(child.stdout.readline()) for _ in range(5)]
        child.kill()
        reported += [int(line) for line in child.stdout.read().splitlines()]
        child.wait(timeout=30)
        child.stdout.close()
        assert reported[0] == last + 1
        steps = Logbook(tmp_path).recorded_steps()
        assert steps == list(range(1, len(steps) + 1))
        last = steps[-1]
        assert last >= reported[-1]
