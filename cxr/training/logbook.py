"""A training run's folder: its records and checkpoints on disk, safe before anyone is told of them.

    <folder>/journal.jsonl             one line a record: {"step": 3, "time_ms": 1700000000000, "metrics": {...}}
    <folder>/last-0.pt, last-0.json    checkpoints, see cxr.checkpoint

Training writes here and nowhere else; who sends it on (cxr.delivery) reads, and may be another process. Values
that JSON has no number for stand as Python writes them: NaN, Infinity, -Infinity.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr import checkpoint
from cxr.checkpoint import Checkpoint, Found
from cxr.errors import InputError

JOURNAL = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Metrics of one step (an epoch's record: its number), and when they were measured."""

    step: int
    time_ms: int  # since 1970
    metrics: dict[str, float]
    end: int  # where its line ends in the journal, in bytes


class Logbook:
    """Writes the folder; one writer at a time. A line that a kill tore is cut off when the journal is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL
        self._records = read(folder, torn_end=True)
        with self._path.open("ab") as file:
            file.truncate(self._records[-1].end if self._records else 0)
            os.fsync(file.fileno())

    def records(self) -> list[Record]:
        return list(self._records)

    def recorded_steps(self) -> list[int]:
        """Steps with a record, in the order of the journal."""
        return list(dict.fromkeys(record.step for record in self._records))

    def record(self, metrics: Mapping[str, float], *, step: int, time_ms: int) -> None:
        """Append a record, on the disk when this returns.

        A metric has one value a step: one that stands already is passed over, as after going on from an older
        checkpoint, when an epoch runs again. Raises InputError where the disk does not take it.
        """
        there = {name for record in self._records if record.step == step for name in record.metrics}
        fresh = {name: float(value) for name, value in metrics.items() if name not in there}
        if not fresh:
            return
        line = json.dumps({"step": step, "time_ms": time_ms, "metrics": fresh}).encode() + b"\n"
        end = self._records[-1].end if self._records else 0
        try:
            with self._path.open("ab", buffering=0) as file:
                try:
                    left = memoryview(line)
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), end)  # half a line would spoil the next one
                    raise
        except OSError as error:
            raise InputError(f"{self._path}: the record of step {step} could not be written ({error}).") from error
        self._records.append(Record(step=step, time_ms=time_ms, metrics=fresh, end=end + len(line)))

    def catch_up(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Record the epochs of a checkpoint's history that a kill kept from the journal."""
        steps = set(self.recorded_steps())
        for epoch in history:
            if epoch["epoch"] not in steps:
                self.record(epoch["metrics"], step=epoch["epoch"], time_ms=epoch["time_ms"])

    def save(self, state: Checkpoint) -> Path:
        return checkpoint.save(self.folder, state)

    def newest(self) -> Found | None:
        return checkpoint.newest(self.folder)


def read(folder: Path, start: int = 0, *, torn_end: bool = False) -> list[Record]:
    """The records whose lines begin at byte `start` or later; a last line without an end is not one yet.

    `torn_end` passes over a whole last line that is no record, too: a power failure can leave one. Raises
    InputError, naming the byte, for any other line that is no record.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read().split(b"\n")[:-1]
    records: list[Record] = []
    for index, line in enumerate(lines):
        end = start + len(line) + 1
        try:
            said = json.loads(line)
            records.append(Record(**said, end=end))
        except (ValueError, TypeError) as error:
            if torn_end and index == len(lines) - 1:
                break
            raise InputError(f"{path}: the line at byte {start} is not a record ({error}).") from error
        start = end
    return records
