"""What a folder of stores holds, for those who want their disk back."""

import contextlib
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr.data.packing import file_state
from cxr.data.store import disk_bytes, read_about, read_index
from cxr.data.unfinished import alone, read_journal
from cxr.errors import InputError

_NAME = re.compile(r"\d+px-[0-9a-f]{16}(\.unfinished)?|phantom-.+")


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """One folder below a folder of stores."""

    folder: Path
    kind: str  # images, or phantom: a drawn cohort
    dataset: str
    images: int
    size: int  # pixels; 0 for a phantom
    disk_bytes: int
    last_used: float  # seconds since 1970
    complete: bool
    bad: int  # images that could not be read


def stores(root: Path) -> list[StoreInfo]:
    """All stores below a folder, complete or not, and the drawn phantoms; nothing else there is listed."""
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [_info(folder) for folder in found if folder.is_dir() and _NAME.fullmatch(folder.name)]


def remove(info: StoreInfo) -> None:
    """Delete a listed folder. Raises InputError for one that is being packed or cannot be deleted."""
    unfinished = info.folder.suffix == ".unfinished"
    try:
        with alone(info.folder, wait=False) if unfinished else contextlib.nullcontext():
            # first out of sight, so that half of it is never taken for a store
            out_of_sight = info.folder.rename(info.folder.with_name(f".removed-{secrets.token_hex(4)}"))
            shutil.rmtree(out_of_sight)
    except OSError as error:
        raise InputError(f"{info.folder}: the folder cannot be deleted ({error}).") from error


def _info(folder: Path) -> StoreInfo:
    if folder.name.startswith("phantom-"):
        about = {"dataset": "phantom", "images": sum(1 for _ in folder.glob("images/*.png"))}
        return _described(folder, "phantom", about, complete=True, bad=0)
    if folder.suffix == ".unfinished":
        bad = sum(bool(one.reason) for one in read_journal(folder).values())
        with contextlib.suppress(InputError):
            return _described(folder, "images", read_about(folder / "store"), complete=False, bad=bad)
    with contextlib.suppress(InputError):
        bad = sum(bool(line[4]) for line in read_index(folder))
        return _described(folder, "images", read_about(folder), complete=True, bad=bad)
    return _described(folder, "images", {}, complete=False, bad=0)  # spoilt, or of an older version


def _described(folder: Path, kind: str, about: Mapping[str, Any], *, complete: bool, bad: int) -> StoreInfo:
    touched = [folder, folder / "store.json", folder / "journal.jsonl"]
    return StoreInfo(
        folder=folder,
        kind=kind,
        dataset=str(about.get("dataset", "")),
        images=int(about.get("images", 0)),
        size=int(about.get("size", 0)),
        disk_bytes=disk_bytes(folder),
        last_used=max(file_state(path)[1] for path in touched) / 1e9,
        complete=complete,
        bad=bad,
    )
