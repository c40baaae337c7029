"""One verified archive -> `<folder>/images_001/images/*.png`, whole or not at all.

An archive comes from outside, so only what NIH's archives hold is taken: regular .png files directly under
`images/`. Another small file in it (a note, what some systems add) is passed over; anything else is refused by
name, and the amount is bounded while it is being decompressed.
"""

import gzip
import io
import os
import re
import shutil
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from cxr.data.download.archives import Archive
from cxr.errors import InputError

MARKER = ".md5"  # in an unpacked folder: the archive's MD5 and the number of images, a line each

# PNG files do not shrink in a .tar.gz: what comes out is about what went in.
_LARGEST_RATIO, _SLACK = 3, 1 << 20
_IMAGE = re.compile(r"images/\w[\w.-]*\.png", re.ASCII)
_UNFINISHED = ".unfinished"
_LEFT = re.compile(rf"\.images_[0-9]{{3}}{re.escape(_UNFINISHED)}")


class Stopped(Exception):  # noqa: N818  not an error: somebody asked for it
    """The call that this work was done for has ended."""


def unpacked(archive: Archive, folder: Path) -> int | None:
    """How many images of an archive lie unpacked in the folder; None where it is not unpacked yet.

    Raises InputError for a folder of that name which is not what this archive gives: it is somebody's, and
    is neither believed nor replaced.
    """
    place = folder / archive.folder
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    try:
        md5, count = (place / MARKER).read_text(encoding="ascii").split()
        expected = int(count)
    except (OSError, ValueError):
        raise InputError(
            f"{archive.name}: {place} is there already and was not unpacked by this command. "
            "Move it away, or leave this archive out."
        ) from None
    if md5 != archive.md5:
        raise InputError(
            f"{archive.name}: {place} was unpacked from another archive (MD5 {md5}, expected {archive.md5}). "
            "Move it away."
        )
    found = sum(map(_has_content, (place / "images").glob("*.png")))
    if found < expected:
        raise InputError(
            f"{archive.name}: {place} holds {found:,} of the {expected:,} images that were unpacked there. "
            "Remove the folder to have it unpacked again."
        )
    return expected


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:  # a link to nowhere
        return False


def unpack(archive: Archive, folder: Path, stop: threading.Event) -> int:
    """Unpack `<folder>/<archive>` and put it in place in one step; the number of images.

    Raises InputError naming archive and member for anything but images, and for more than three times the
    archive's size; Stopped once `stop` is set. Nothing is left behind then.
    """
    unfinished = folder / f".{archive.folder}{_UNFINISHED}"
    unfinished.mkdir()
    try:
        count = _extract(folder / archive.name, unfinished, stop)
        (unfinished / MARKER).write_text(f"{archive.md5}\n{count}\n", encoding="ascii")
        # one flush for thousands of small files: the name must not outlive a power cut without its content
        os.sync()
        unfinished.rename(folder / archive.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def sweep(folder: Path) -> None:
    """Remove what killed calls were unpacking. For the only process that works on the folder."""
    for left in folder.iterdir():
        if _LEFT.fullmatch(left.name) and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def _extract(path: Path, target: Path, stop: threading.Event) -> int:
    (target / "images").mkdir()
    names: dict[str, int] = {}  # and the bytes in them
    with _reading(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if stop.is_set():
                raise Stopped
            name = _checked(member, path)
            if not name or member.isdir():
                continue
            if name in names:
                raise InputError(f"{path.name}: member {member.name!r} is there twice.")
            tar.extract(member, target, set_attrs=False, filter="data")  # rights: what the user's umask says
            names[name] = member.size
    count = sum(size > 0 for size in names.values())  # as `unpacked` counts them
    if not count:
        raise InputError(f"{path.name}: holds no image. Expected images/NNNNNNNN_NNN.png.")
    return count


def _checked(member: tarfile.TarInfo, path: Path) -> str:
    """The member's name without `./`; empty for a file to pass over. InputError for what does not belong there."""
    name = member.name if member.name.startswith("/") else str(PurePosixPath(member.name))
    if member.isdir() and name in (".", "images"):
        return name
    if member.isreg() and not member.issparse() and _IMAGE.fullmatch(name):
        return name
    if member.isreg() and not member.issparse() and _is_stray(name):
        return ""
    kind = next((word for word, is_one in _KINDS if is_one(member)), "regular file")
    raise InputError(
        f"{path.name}: member {member.name!r} ({kind}) is refused. Expected regular files images/*.png."
    )


def _is_stray(name: str) -> bool:
    """A note, or a hidden file that some systems add; an image elsewhere is neither, so that none gets lost."""
    parts = name.split("/")
    plain = all(re.fullmatch(r"[\w .-]+", part, re.ASCII) and part != ".." for part in parts)
    return plain and (parts[-1].startswith(".") or not parts[-1].lower().endswith(".png"))


_KINDS = (
    ("symbolic link", tarfile.TarInfo.issym),
    ("hard link", tarfile.TarInfo.islnk),
    ("folder", tarfile.TarInfo.isdir),
    ("named pipe", tarfile.TarInfo.isfifo),
    ("device", tarfile.TarInfo.isdev),
    ("sparse file", tarfile.TarInfo.issparse),
)


@contextmanager
def _reading(path: Path) -> Iterator["_Bounded"]:
    limit = _LARGEST_RATIO * path.stat().st_size + _SLACK
    try:
        with gzip.open(path, "rb") as stream:
            assert isinstance(stream, gzip.GzipFile)
            yield _Bounded(stream, limit, path.name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path.name}: cannot be unpacked ({error}).") from error


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes: whatever an archive claims, it comes through here."""

    def __init__(self, stream: gzip.GzipFile, limit: int, name: str) -> None:
        self._stream, self._limit, self._left, self._name = stream, limit, limit, name

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise InputError(
                f"{self._name}: more than {self._limit:,} bytes come out of it, {_LARGEST_RATIO} times its size. "
                "It is refused: NIH's archives unpack to about their own size."
            )
        return content
