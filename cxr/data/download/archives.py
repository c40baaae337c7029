"""What NIH offers for ChestX-ray14: the twelve image archives and the tables beside them, with their digests.

The archives hold images only. The metadata, the two lists and the boxes lie in a box folder that gives no
stable address for a single file, so a person fetches them by hand and `check_tables` says what is there.

Source: NIH's own download script (addresses) and FAQ (MD5); https://nihcc.app.box.com/v/ChestXray-NIHCC
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cxr.errors import InputError, first_ten

BOX_FOLDER = "https://nihcc.app.box.com/v/ChestXray-NIHCC"

_NAME = re.compile(r"images_([0-9]{3})\.tar\.gz")
# The MD5s are NIH's own, so they decide what is right. The sizes come from a third party: they serve the
# progress bar and the look at the free space, and an archive of another size is not refused for it.
_NIH = (
    (2008470987, "fe8ed0a6961412fddcbb3603c11b3698", "vfk49d74nhbxq3nqjg0900w5nvkorp5c"),
    (3952623504, "ab07a2d7cbe6f65ddd97b4ed7bde10bf", "i28rlmbvmfjbl8p2n3ril0pptcmcu9d1"),
    (3929234850, "2301d03bde4c246388bad3876965d574", "f1t00wrtdk94satdfb9olcolqx20z2jp"),
    (3838903983, "9f1b7f5aae01b13f4bc8e2c44a4b8ef6", "0aowwzs5lhjrceb3qp67ahp0rd1l1etg"),
    (3935496531, "1861f3cd0ef7734df8104f2b0309023b", "v5e3goj22zr6h8tzualxfsqlqaygfbsn"),
    (3986301172, "456b53a8b351afd92a35bc41444c58c8", "asi7ikud9jwnkrnkj99jnpfkjdes7l6l"),
    (4016328426, "1075121ea20a137b87f290d6a4a5965e", "jn1b4mw4n6lnh74ovmcjb8y48h8xj07n"),
    (4018347353, "b61f34cec3aa69f295fbb593cbd9d443", "tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j"),
    (4111327929, "442a3caa61ae9b64e61c561294d1e183", "upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj"),
    (4181556296, "09ec81c4c31e32858ad8cf965c494b74", "l6nilvfa9cg3s28tqv1qc1olm3gnz54p"),
    (4187084020, "499aefc67207a5a97692424cf5dbeed5", "hhq8fkdgvcari67vfhs7ppg2w6ni4jze"),
    (2914187733, "dc9fda1757c2de0032b63347a7d2895c", "ioqwiy20ihqwyr8pf4c24eazhh281pbu"),
)

# SHA-256 of the tables' text with \n as line end and none at the end of the file.
_TABLES = {
    "Data_Entry_2017_v2020.csv": "e580686b38ab82b5ac340138e478bd0c0dd7b61106776db18dd144af6af7ab4b",
    "train_val_list.txt": "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81",
    "test_list.txt": "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc",
    "BBox_List_2017.csv": "ea8069e6ab76ecba3eb366be1888b5ca50ff9367bfbb579c81f32685d7d17a3f",
}
_FIRST_EDITION = {  # read as well, but nobody needs to fetch it
    "Data_Entry_2017.csv": "c02dbb452a6ee92df017436b7ae47bbc5daf0d3e2b609cd16e6f1d68fd078983"
}


@dataclass(frozen=True)
class Archive:
    """One archive: its name, size in bytes (about), MD5 and address."""

    name: str
    bytes: int
    md5: str
    url: str

    @property
    def number(self) -> int:
        """1 for images_001.tar.gz."""
        return int(self.name[7:10])

    @property
    def folder(self) -> str:
        """The folder that it is unpacked into: images_001."""
        return self.name.removesuffix(".tar.gz")


NIH_ARCHIVES: tuple[Archive, ...] = tuple(
    Archive(f"images_{number:03d}.tar.gz", size, md5, f"https://nihcc.box.com/shared/static/{key}.gz")
    for number, (size, md5, key) in enumerate(_NIH, start=1)
)


def read_list(path: Path) -> tuple[Archive, ...]:
    """Read a list of archives, for a mirror: `name bytes md5 url` a line; # begins a comment.

    Raises InputError naming file, line and value for anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of archives ({error}).") from error
    archives = [
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not archives:
        raise InputError(f"{path}: lists no archive. Expected lines `name bytes md5 url`.")
    names = [archive.name for archive in archives]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: listed twice: {first_ten(twice)}.")
    return tuple(archives)


def list_digest(archives: Sequence[Archive]) -> str:
    """16 hexadecimal digits over names and MD5s: what is fetched, wherever it comes from."""
    lines = [f"{archive.name} {archive.md5}" for archive in archives]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_tables(folder: Path) -> list[tuple[str, str]]:
    """The tables that are fetched by hand, each with its state: `official`, `differs` or `missing`.

    Plain and .gz files count alike; line ends do not matter. The first edition of the metadata is listed
    where it is there.
    """
    states = [(name, _state(folder, name, digest)) for name, digest in (_TABLES | _FIRST_EDITION).items()]
    return [(name, state) for name, state in states if state != "missing" or name in _TABLES]


def _parse(line: str, place: str) -> Archive:
    fields = line.split()
    if len(fields) != 4:
        raise InputError(f"{place}: {line.strip()!r} has {len(fields)} fields. Expected `name bytes md5 url`.")
    name, size, md5, url = fields
    checks = {  # what it is, what is given, whether it is right, what was expected
        "name": (name, _NAME.fullmatch(name), "images_001.tar.gz to images_999.tar.gz"),
        "size": (size, re.fullmatch(r"[1-9][0-9]{0,14}", size), "a number of bytes"),
        "MD5": (md5, re.fullmatch(r"[0-9a-fA-F]{32}", md5), "32 hexadecimal digits"),
        "address": (url, _is_web_address(url), "http://... or https://..."),
    }
    for what, (value, right, expected) in checks.items():
        if not right:
            raise InputError(f"{place}: {what} {value!r} cannot be used. Expected {expected}.")
    return Archive(name, int(size), md5.lower(), url)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _state(folder: Path, name: str, digest: str) -> str:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        return "missing"
    return "official" if _text_digest(found[0]) == digest else "differs"


def _text_digest(path: Path) -> str:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error):  # not whole, or not for us to read: in any case not NIH's file
        return ""
    text = content.replace(b"\r\n", b"\n").rstrip(b"\n")
    return hashlib.sha256(text).hexdigest()
