"""The image store: all images of a cohort as one uint8 memory map, packed once, never decoded again.

A store is a folder `<size>px-<key>` that holds `pixels.u8` ([N, size, size], row-major), `index.csv` (a line
a row) and `store.json`. It gets its name only when it is complete. The key is a digest of the image names,
their files' sizes and the geometry, so other files or another size never meet an old store.

Packing goes on in a folder `<size>px-<key>.unfinished`, whose key leaves the files' sizes out: whatever ended
it, a killed process or a corrupt file that was then mended, the next call decodes only what is missing.
"""

import contextlib
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxr.data.image import Geometry, read
from cxr.data.packing import Task, digest, file_state, usable_cores
from cxr.data.unfinished import COLUMNS, alone, disk_bytes, fill, finish, sweep
from cxr.errors import InputError, first_ten

_GEOMETRY = "grey, longer side to size, reduced, bilinear, centred on black, 2"  # changes with cxr/data/image.py
_CHECKED_ROWS = 32  # a hundredth of a second, whatever the store's size


@dataclass(frozen=True)
class Store:
    """A complete store, open for reading."""

    pixels: np.ndarray  # [N, size, size] uint8, a read-only memory map; a bad image's row is zeros
    rows: Mapping[str, int]  # image name -> row
    sizes: Sequence[tuple[int, int]] = ()  # row -> width and height of the file, in its pixels; 0 where bad
    row_digests: Sequence[str] = ()  # row -> 16 hexadecimal digits over its bytes; empty where bad
    bad: Mapping[str, str] = field(default_factory=dict)  # image name -> why it cannot be read

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """Row numbers of images [len(names)] int64; KeyError for one that was not packed."""
        return np.array([self.rows[name] for name in names], dtype=np.int64)

    def digests(self, names: Sequence[str]) -> list[str]:
        """Digests of packed images; KeyError for one that was not packed."""
        return [self.row_digests[self.rows[name]] for name in names]

    def geometry(self, name: str) -> Geometry:
        """Where the original lies in its packed square; KeyError for an image that is bad or was not packed."""
        if name in self.bad:
            raise KeyError(f"{name}: {self.bad[name]}")
        width, height = self.sizes[self.rows[name]]
        return Geometry(width=width, height=height, size=self.pixels.shape[1])

    def __getstate__(self) -> dict[str, Any]:
        """For another process on this machine: it opens the file of pixels anew instead of getting them all."""
        state = dict(vars(self))
        if isinstance(self.pixels, np.memmap):
            state["pixels"] = (str(self.pixels.filename), self.pixels.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["pixels"], tuple):
            path, shape = state["pixels"]
            state = state | {"pixels": np.memmap(path, dtype=np.uint8, mode="r", shape=shape)}
        vars(self).update(state)


def default_root() -> Path:
    """The user's cache folder for packed images and the drawn phantom."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr"


def images_digest(names: Sequence[str], files: Mapping[str, Path]) -> str:
    """16 hexadecimal digits over image names and the byte sizes of their files, -1 for a missing one."""
    return _images_digest(names, [file_state(files.get(name))[0] for name in names])


def open_or_pack(
    root: Path,
    names: Sequence[str],
    files: Mapping[str, Path],
    *,
    size: int,
    dataset: str = "",
    on_bad_image: str = "stop",
    workers: int | None = None,
) -> Store:
    """Open the store of these images at `size` pixels, packing it first where there is none.

    `dataset` is noted for people. `workers` decode, one a usable core unless given. Images that are missing or
    cannot be decoded raise an InputError that names them all, unless `on_bad_image` is "skip": then their rows
    are zeros. What was packed before an error or a sudden end is kept, and the next call goes on from there.

    Of a store that is there already, this is checked: store.json and index.csv tell of these images at this size
    in this order, pixels.u8 has their length, and 32 evenly spread good rows (all where there are no more; the
    first and the last among them) have their digests. Other rows are not looked at. Files that could not be
    read when it was packed are tried again.

    Raises InputError for what fails these checks, for a file that can be read by now, and for a disk that is too
    small.
    """
    if on_bad_image not in ("stop", "skip"):
        raise InputError(f"on_bad_image={on_bad_image}: expected stop or skip.")
    if not names:
        raise InputError(f"store={root}: there are no images to pack.")
    folder = root / _folder_name(images_digest(names, files), size)
    was_there = folder.is_dir()
    if not was_there:
        _pack(folder, names, files, size, dataset, on_bad_image == "skip", workers or usable_cores())
    store = _open(folder, names, size)
    if was_there:
        _refuse_mended(store, folder, files)
    if store.bad and on_bad_image == "stop":
        raise InputError(_told(store.bad, names, files))
    return store


def _hash(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def _images_digest(names: Sequence[str], file_bytes: Sequence[int]) -> str:
    return _hash(*(f"{name} {count}" for name, count in zip(names, file_bytes, strict=True)))


def _folder_name(images: str, size: int) -> str:
    return f"{size}px-{_hash(f'{images} {size} {_GEOMETRY}')}"


def _told(bad: Mapping[str, str], names: Sequence[str], files: Mapping[str, Path]) -> str:
    listed = first_ten([f"{files.get(name, name)}: {bad[name]}" for name in sorted(bad)])
    return (
        f"{len(bad):,} of {len(names):,} images cannot be read: {listed}. on_bad_image=skip goes on without them."
    )


# ---------------------------------------------------------------- packing


def make_root(root: Path, needed: int) -> None:
    """Make the folder of stores, and see that `needed` bytes are free there. Raises InputError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"store={root}: the folder cannot be made ({error}).") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise InputError(f"store={root}: the folder cannot be written to.")
    try:
        sweep(root)
    except OSError as error:
        raise InputError(f"store={root}: the folder cannot be read ({error}).") from error
    free = shutil.disk_usage(root).free
    if free < needed:
        raise InputError(f"store={root}: {needed:,} bytes are needed for the images, {free:,} are free.")


def _pack(
    folder: Path,
    names: Sequence[str],
    files: Mapping[str, Path],
    size: int,
    dataset: str,
    skip: bool,
    workers: int,
) -> None:
    root = folder.parent
    unfinished = root / f"{_folder_name(_hash(*names), size)}.unfinished"
    make_root(root, len(names) * size * size - disk_bytes(unfinished))
    about = {"dataset": dataset, "geometry": _GEOMETRY, "images": len(names), "size": size}
    tasks = [Task(row, files.get(name)) for row, name in enumerate(names)]
    try:
        with alone(unfinished):
            if folder.is_dir():  # another process packed it while this one waited
                return
            packed = fill(unfinished, tasks, size, about, workers)
            bad = {names[one.row]: one.reason for one in packed if one.reason}
            if bad and not skip:
                raise InputError(f"{_told(bad, names, files)} All others are packed and kept for the next try.")
            if folder.name != _folder_name(_images_digest(names, [one.file_bytes for one in packed]), size):
                raise InputError(f"store={root}: image files changed while they were packed. Try again.")
            finish(unfinished, folder, names, packed)
    except OSError as error:
        raise InputError(
            f"store={root}: nothing can be written there ({error}). What is packed is kept for the next try."
        ) from error


# ---------------------------------------------------------------- opening


def _open(folder: Path, names: Sequence[str], size: int) -> Store:
    about, index = read_about(folder), read_index(folder)
    told = about.get("images"), about.get("size"), [line[0] for line in index]
    if told != (len(names), size, list(names)):
        raise _spoilt(folder, "store.json or index.csv tells of other images")
    expected, found = len(names) * size * size, file_state(folder / "pixels.u8")[0]
    if found != expected:
        raise _spoilt(folder, f"pixels.u8 has {max(found, 0):,} bytes, {expected:,} expected")
    with contextlib.suppress(OSError):  # somebody else's store, or a read-only disk
        os.utime(folder / "store.json")  # when it was last used
    return Store(
        _checked_pixels(folder, index, size),
        rows={name: row for row, name in enumerate(names)},
        sizes=[(width, height) for _, width, height, _, _ in index],
        row_digests=[line[3] for line in index],
        bad={name: reason for name, _, _, _, reason in index if reason},
    )


def _checked_pixels(folder: Path, index: Sequence[tuple[str, int, int, str, str]], size: int) -> np.ndarray:
    """The pixel file as a memory map [N, size, size], once some of its good rows have their digests."""
    good = [(row, line[3]) for row, line in enumerate(index) if not line[4]]
    places = np.linspace(0, len(good) - 1, min(len(good), _CHECKED_ROWS)).astype(int)
    try:
        pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=(len(index), size, size))
    except OSError as error:
        raise _spoilt(folder, f"pixels.u8 cannot be read ({error})") from error
    for row, expected in (good[place] for place in places):
        if digest(pixels[row].tobytes()) != expected:
            raise _spoilt(folder, "pixels.u8 holds other pixels than were packed")
    return pixels


def _refuse_mended(store: Store, folder: Path, files: Mapping[str, Path]) -> None:
    """A disk that failed for a moment must not cost rows for ever: a mended file is not passed over in silence."""
    mended = [name for name in sorted(store.bad) if _is_readable(files.get(name), store.pixels.shape[1])]
    if mended:
        raise InputError(
            f"{folder}: packed without images that can be read by now: {first_ten(mended)}. Remove the store "
            f"(stores with remove={folder.name}) to have all packed anew."
        )


def _is_readable(path: Path | None, size: int) -> bool:
    try:
        if path is None or not path.is_file():
            return False
        read(path, size)
    except (InputError, OSError):  # as it was when it was packed
        return False
    return True


def _spoilt(folder: Path, what: str) -> InputError:
    return InputError(f"{folder}: {what}. Delete the folder.")


def read_about(folder: Path) -> dict[str, Any]:
    """What store.json says: dataset, geometry, images, size. Raises InputError."""
    try:
        about = json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _spoilt(folder, f"store.json cannot be read ({error})") from error
    if not isinstance(about, dict):
        raise _spoilt(folder, "store.json holds no object")
    counts = about.get("images"), about.get("size")
    if not all(type(count) is int and count >= 0 for count in counts):  # True is an int as well
        raise _spoilt(folder, "store.json says no numbers of images and pixels")
    if not isinstance(about.get("dataset", ""), str):
        raise _spoilt(folder, "store.json has a dataset that is no name")
    return about


def read_index(folder: Path) -> list[tuple[str, int, int, str, str]]:
    """The lines of index.csv, one a row: image, width, height, digest, reason. Raises InputError."""
    try:
        with (folder / "index.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = csv.reader(file, strict=True)
            if (header := next(lines, [])) != COLUMNS:
                raise ValueError(f"columns {header}, expected {COLUMNS}")
            return [
                (name, int(width), int(height), digest, reason) for name, width, height, digest, reason in lines
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise _spoilt(folder, f"index.csv cannot be read ({error})") from error
