"""The image store: all images of a cohort as one uint8 memory map, packed once, never decoded again.

A store is a folder `<size>px-<key>` that holds `pixels.u8` ([N, size, size], row-major) and `names.txt`
(one image name a row). It gets its name only when it is complete. The key is a digest of the image
names, their files' sizes and the geometry, so other files or another size never meet an old store.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cxr.data.image import decode
from cxr.errors import InputError, first_ten

_GEOMETRY = "grey, longer side to size, bilinear, centred on black, 1"  # changes with cxr/data/image.py

_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Store:
    """A complete store, open for reading."""

    pixels: np.ndarray  # [N, size, size] uint8, a read-only memory map
    rows: Mapping[str, int]  # image name -> row

    def rows_of(self, names: Sequence[str]) -> np.ndarray:
        """Row numbers of images [len(names)] int64; KeyError for one that was not packed."""
        return np.array([self.rows[name] for name in names], dtype=np.int64)


def default_root() -> Path:
    """The user's cache folder for packed images and the drawn phantom."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr"


def images_digest(names: Sequence[str], files: Mapping[str, Path]) -> str:
    """16 hexadecimal digits over image names and the byte sizes of their files."""
    lines = [f"{name} {files[name].stat().st_size}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def open_or_pack(root: Path, names: Sequence[str], files: Mapping[str, Path], *, size: int) -> Store:
    """Open the store of these images at `size` pixels, packing it first where there is none.

    Raises InputError naming every file that cannot be decoded, or a disk that is too small; nothing is
    left behind then.
    """
    key = hashlib.sha256(f"{images_digest(names, files)} {size} {_GEOMETRY}".encode()).hexdigest()[:16]
    folder = root / f"{size}px-{key}"
    if not folder.is_dir():
        _pack(folder, names, files, size)
    return _open(folder, size)


def _open(folder: Path, size: int) -> Store:
    names = (folder / "names.txt").read_text().split("\n")
    expected = len(names) * size * size
    found = (folder / "pixels.u8").stat().st_size
    if found != expected:
        raise InputError(f"{folder}: pixels.u8 has {found:,} bytes, {expected:,} expected. Delete the folder.")
    pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=(len(names), size, size))
    return Store(pixels, {name: row for row, name in enumerate(names)})


def _pack(folder: Path, names: Sequence[str], files: Mapping[str, Path], size: int) -> None:
    make_root(folder.parent, len(names) * size * size)
    unfinished = folder.with_name(f"{folder.name}.unfinished-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir()  # with the user's own rights, so that a team may share a store
    except OSError as error:
        raise InputError(f"store={folder.parent}: nothing can be written there ({error}).") from error
    try:
        shape = (len(names), size, size)
        pixels = np.memmap(unfinished / "pixels.u8", dtype=np.uint8, mode="w+", shape=shape)
        _fill(pixels, [files[name] for name in names], size)
        pixels.flush()
        (unfinished / "names.txt").write_text("\n".join(names))
        _put_in_place(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def make_root(root: Path, needed: int) -> None:
    """Make the folder of stores, and see that `needed` bytes are free there. Raises InputError."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"store={root}: the folder cannot be made ({error}).") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise InputError(f"store={root}: the folder cannot be written to.")
    for left in [*root.glob("*.unfinished-*"), *root.glob(".phantom-*")]:  # of processes that were killed
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise InputError(f"store={root}: {needed:,} bytes are needed for the images, {free:,} are free.")


def _fill(pixels: np.ndarray, paths: Sequence[Path], size: int) -> None:
    broken: list[str] = []

    def one(row: int) -> None:
        try:
            pixels[row] = decode(paths[row], size)
        except InputError as error:
            broken.append(str(error))

    # threads: Pillow lets go of the interpreter lock while it decodes and scales
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(one, range(len(paths)))
        for _ in tqdm(done, total=len(paths), desc="pack images", unit="image", disable=None):
            pass
    if broken:
        raise InputError(f"{len(broken):,} of {len(paths):,} images cannot be read: {first_ten(sorted(broken))}")


def _put_in_place(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else: another process packed the same images first
            raise
