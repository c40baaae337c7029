"""Checkpoints: everything that training needs to go on, written whole or not at all.

    <folder>/last-0.pt     tensors and plain values, read with `weights_only=True`: opening one never runs code
    <folder>/last-0.json   what a person wants to know of it, and the digest of its bytes
    <folder>/last-1.pt ... the other slot; each save goes to the older one

A slot is its json: a file without one, or with other bytes than its json names, is a save that did not end.
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import torch

from cxr.errors import InputError, first_line

NAMES = ("last-0", "last-1")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State after `epoch` epochs and `step` steps of the next one.

    Orders and augmentations follow from seed, epoch and step, so there is no generator to keep.
    """

    epoch: int
    step: int  # 0 between epochs
    weights: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    average: dict[str, torch.Tensor]  # moving average of the weights; empty without
    best: dict[str, torch.Tensor]  # weights of the best epoch so far; empty before the first
    running: dict[str, float]  # what the unfinished epoch has summed up so far
    history: list[dict[str, Any]]  # one {"epoch": 1, "time_ms": ..., "metrics": {...}} an epoch
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What the json beside a checkpoint's file says of it."""

    path: Path
    number: int  # grows by one with each save in the folder
    digest: str  # SHA-256 of the file's bytes
    bytes: int
    epoch: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """The newest whole checkpoint, its file, and why newer or other slots were passed over."""

    checkpoint: Checkpoint
    path: Path
    skipped: tuple[str, ...]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write to the slot that does not hold the newest whole checkpoint; the path of its file.

    A folder has one writer. Raises InputError where the disk does not take it; the checkpoint before then stands.
    """
    before = describe(folder)
    path = folder / f"{NAMES[1 if before and before.path.stem == NAMES[0] else 0]}.pt"
    temporary = folder / "checkpoint.unfinished"  # one name: what a kill leaves, the next save takes away
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            digest, size = _write(temporary, checkpoint)
            # The file comes before its json. Killed between the two, this slot holds new bytes under the old
            # number and digest: it is not whole, it is still the older one, and the next save takes it again. The
            # other way round it would be the newest by its number, and the other slot, the only whole one, the
            # older.
            _move(temporary, path)
            about = {
                "digest": digest, "bytes": size, "number": _last_number(folder) + 1,
                "epoch": checkpoint.epoch, "step": checkpoint.step, "metadata": checkpoint.metadata,
                "last_record": checkpoint.history[-1] if checkpoint.history else None,
            }  # fmt: skip
            write_whole(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        stands = f"the one before it stands: {before.path}" if before else "there is none before it"
        raise InputError(f"{path}: the checkpoint could not be written ({error}); {stands}.") from error
    return path


def load(path: Path) -> Checkpoint:
    """Read a file to the CPU. Raises InputError for one that is missing, cut short or another's."""
    try:
        found = Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such checkpoint.") from error
    except Exception as error:  # torch raises many kinds for a broken file
        raise InputError(f"{path}: not a whole checkpoint of this project ({first_line(error)}).") from error
    # saved once where the last epoch is the best: training on must not change the best weights
    taken = {_storage(tensor) for part in (found.weights, found.average) for tensor in part.values()}
    best = {name: part.clone() if _storage(part) in taken else part for name, part in found.best.items()}
    return replace(found, best=best)


def newest(folder: Path) -> Found | None:
    """The newest checkpoint whose bytes have the digest that its json names; None where nothing was ever saved.

    Raises InputError, with each slot's reason, where there are slots but none is whole.
    """
    slots, skipped = _slots(folder)
    for slot in slots:
        try:
            if digest_of(slot.path) != slot.digest:
                raise InputError(f"{slot.path}: its bytes are not those that {slot.path.stem}.json names.")
            return Found(checkpoint=load(slot.path), path=slot.path, skipped=tuple(skipped))
        except OSError as error:
            skipped.append(f"{slot.path}: cannot be read ({error}).")
        except InputError as error:
            skipped.append(str(error))
    if skipped:
        raise InputError(f"{folder}: no checkpoint there is whole. {' '.join(skipped)}")
    return None


def describe(folder: Path) -> Slot | None:
    """The newest slot whose file is as long as it should be; reads no tensors and does not check the digest."""
    for slot in _slots(folder)[0]:
        if slot.path.is_file() and slot.path.stat().st_size == slot.bytes:
            return slot
    return None


def read_slot(about: Path) -> Slot:
    """What the json of a slot says. Raises InputError where it is not one."""
    try:
        said = json.loads(about.read_bytes())
        numbers = {name: int(said[name]) for name in ("number", "bytes", "epoch", "step")}
        return Slot(path=about.with_suffix(".pt"), digest=str(said["digest"]), **numbers)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{about}: not the json of a checkpoint ({error!r}).") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as a slot's json carries it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a small file atomically: under a temporary name, synced to the disk, then renamed."""
    temporary = path.with_name(f"{path.name}.unfinished")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Digesting:
    """A file that knows the digest of what was written to it: reading it again would cost more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.state = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.state.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(path: Path, checkpoint: Checkpoint) -> tuple[str, int]:
    with path.open("wb") as file:
        digesting = _Digesting(file)
        try:
            content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
            torch.save(content, digesting)  # type: ignore[arg-type]  # all that it needs of a file
        except RuntimeError as error:
            if digesting.error:  # torch says a full disk in words of its own
                raise digesting.error from error
            raise
        file.flush()
        os.fsync(file.fileno())
        return digesting.state.hexdigest(), file.tell()


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _slots(folder: Path) -> tuple[list[Slot], list[str]]:
    """The slots of a folder, the newest first, and what is wrong with the json of the others."""
    slots, problems = [], []
    for about in (folder / f"{name}.json" for name in NAMES):
        if about.is_file():
            try:
                slots.append(read_slot(about))
            except InputError as error:
                problems.append(str(error))
    return sorted(slots, key=lambda slot: -slot.number), problems


def _last_number(folder: Path) -> int:
    return max((slot.number for slot in _slots(folder)[0]), default=0)


def _move(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
