"""What a folder of stores holds, for those who want their disk back."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cxr.data.packing import file_state
from cxr.data.store import read_about, read_index
from cxr.data.unfinished import alone, disk_bytes, read_journal
from cxr.errors import InputError

_STORE = re.compile(r"[0-9]+px-[0-9a-f]{16}(\.unfinished)?")
_PHANTOM = re.compile(r"phantom-[0-9a-f]{8}")
_TRAINING = re.compile(r"training-[0-9a-f]{32}")  # of a run that did not finish, or is under way
_LOCK = ".courier.lock"  # in there, while a process works on it
_NOTE = "PHANTOM.txt"  # in a drawn cohort


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """One folder below a folder of stores."""

    folder: Path
    kind: str  # images, phantom: a drawn cohort, or training: records and checkpoints not delivered yet
    dataset: str
    images: int
    size: int  # pixels; 0 for a phantom
    disk_bytes: int
    last_used: float  # seconds since 1970
    complete: bool
    bad: int  # images that could not be read


def stores(root: Path) -> list[StoreInfo]:
    """All stores below a folder, complete or not, drawn phantoms and unfinished training; nothing else there.

    A store that cannot be read or says nonsense is listed as incomplete. Raises InputError for a folder that
    cannot be looked into.
    """
    try:
        found = sorted(root.iterdir()) if root.is_dir() else []
        kinds = (_is_store, _is_phantom, _is_training)
        ours = [folder for folder in found if any(is_one(folder) for is_one in kinds)]
        return [_info(folder) for folder in ours if folder.is_dir()]
    except OSError as error:
        raise InputError(f"store={root}: the folder cannot be read ({error}).") from error


def remove(info: StoreInfo) -> None:
    """Delete a listed folder.

    Raises InputError for one that is being packed or trained from, is a link, or cannot be deleted.
    """
    folder = info.folder
    if folder.is_symlink():
        raise InputError(f"{folder}: it is a link to {folder.readlink()}. Remove it by hand.")
    try:
        with _nobody_in(folder):
            # first out of sight, so that half of it is never taken for a store
            out_of_sight = folder.rename(folder.with_name(f".removed-{secrets.token_hex(4)}"))
            _let_delete(out_of_sight)
            shutil.rmtree(out_of_sight)
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be deleted ({error}).") from error


def _nobody_in(folder: Path) -> contextlib.AbstractContextManager[object]:
    if _is_training(folder):
        try:
            return FileLock(folder / _LOCK).acquire(timeout=0)
        except Timeout as error:
            raise InputError(f"{folder}: that training is under way.") from error
    return alone(folder, wait=False) if folder.suffix == ".unfinished" else contextlib.nullcontext()


def _is_training(folder: Path) -> bool:
    return bool(_TRAINING.fullmatch(folder.name))


def _is_store(folder: Path) -> bool:
    return bool(_STORE.fullmatch(folder.name))


def _is_phantom(folder: Path) -> bool:
    return bool(_PHANTOM.fullmatch(folder.name)) and file_state(folder / _NOTE)[0] >= 0


def _let_delete(folder: Path) -> None:
    """Give the owner back the rights that deleting needs, on the folder and those in it."""
    with contextlib.suppress(PermissionError):  # somebody else's: deleting says so
        folder.chmod(0o700)
        for place, names, _ in os.walk(folder):
            for name in names:
                if not (below := Path(place, name)).is_symlink():
                    below.chmod(0o700)


def _info(folder: Path) -> StoreInfo:
    if _is_training(folder):
        return _described(folder, "training", {"dataset": "training"}, complete=True, bad=0)
    if _is_phantom(folder):
        about = {"dataset": "phantom", "images": sum(1 for _ in folder.glob("images/*.png"))}
        return _described(folder, "phantom", about, complete=True, bad=0)
    with contextlib.suppress(InputError, OSError):
        if folder.suffix == ".unfinished":
            bad = sum(bool(one.reason) for one in read_journal(folder).values())
            return _described(folder, "images", read_about(folder / "store"), complete=False, bad=bad)
        bad = sum(bool(line[4]) for line in read_index(folder))
        return _described(folder, "images", read_about(folder), complete=True, bad=bad)
    return _described(folder, "images", {}, complete=False, bad=0)  # spoilt, or of an older version


def _described(folder: Path, kind: str, about: Mapping[str, Any], *, complete: bool, bad: int) -> StoreInfo:
    touched = [folder, folder / "store.json", folder / "journal.jsonl", folder / _NOTE]
    dataset = about.get("dataset", "")
    return StoreInfo(
        folder=folder,
        kind=kind,
        dataset=dataset if dataset.isprintable() else ascii(dataset),
        images=about.get("images", 0),
        size=about.get("size", 0),
        disk_bytes=disk_bytes(folder),
        last_used=max(file_state(path)[1] for path in touched) / 1e9,
        complete=complete,
        bad=bad,
    )
