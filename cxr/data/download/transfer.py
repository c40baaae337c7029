"""One archive over HTTP: resumed where it broke off, tried again within bounds, believed only after its MD5.

Bytes go to `<archive>.part`, which a killed process leaves and the next one continues (Range requests). The
archive gets its name once its MD5 is NIH's.
"""

import email.utils
import hashlib
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3

from cxr.data.download.archives import Archive
from cxr.data.download.unpacking import Stopped
from cxr.errors import InputError

TRIES = 8  # in a row, without anything new to speak of
_NEW = 1 << 20  # bytes that count as progress: a line that breaks each few minutes is a slow line, not a dead one
_LONGEST_PAUSE = 60.0  # seconds between two tries, unless the server asks for more
_LONGEST_RETRY_AFTER = 900.0  # seconds; a server that asks for more is left alone
_TIMEOUTS = (15.0, 60.0)  # seconds until connected, and without a byte
_LARGEST_RATIO, _SLACK = 2, 64 << 20  # of what is received at most: the listed sizes are not NIH's own
_CHUNK = 1 << 16
_BLOCK = 1 << 20

_LOG = logging.getLogger(__name__)  # a line that broke is no error, but a person who waits wants to know


class _Broken(Exception):  # noqa: N818
    """This try brought no whole archive; another may. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _Wrong(Exception):  # noqa: N818
    """What came is not the archive."""


class Transfer:
    """An archive on its way into a folder; `attempts`, `received` and `resumed_from` say how it went."""

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        *,
        advance: Callable[[int], None],
        stop: threading.Event,
        pause: Callable[[float], object],
    ) -> None:
        self.archive, self.target = archive, folder / archive.name
        self._part = folder / f"{archive.name}.part"
        self._etag = folder / f"{archive.name}.part.etag"
        self._advance, self._stop, self._pause = advance, stop, pause
        self.resumed_from = self._size()
        self.attempts = 0  # requests made
        self.received = 0  # bytes

    def bring(self) -> None:
        """Make the archive lie under its name, with its MD5.

        What turns out to be something else is fetched once more from the beginning, then refused. Raises
        InputError; Stopped once `stop` is set.
        """
        self._refuse_links()
        for last in (False, True):
            try:
                if last or not self._part.exists() or self._size() != self.archive.bytes:
                    self._receive()
                self._keep_if_right()
                return
            except _Wrong as wrong:
                if last:
                    raise InputError(
                        f"{self.archive.name}: {wrong} That was the second try from {self.archive.url}."
                    ) from wrong
                self._wait(1.0)

    def _refuse_links(self) -> None:
        for path in (self._part, self._etag):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise InputError(
                    f"{self.archive.name}: {path} is a link or no plain file, and is not written to. Remove it."
                )

    def _receive(self) -> None:
        """Ask for what is still to come until it is there, or nothing new comes any more."""
        failures, before = 0, self._size()
        while True:
            try:
                self._request()
                return
            except _Broken as broken:
                failures += 1
                if self._size() >= before + _NEW:
                    failures, before = 0, self._size()
                if failures >= TRIES:
                    raise InputError(
                        f"{self.archive.name}: given up after {TRIES} tries in a row: {broken}. "
                        f"{self._size():,} bytes are kept; call again to go on from there."
                    ) from broken
                seconds = max(min(2.0**failures, _LONGEST_PAUSE), broken.after)
                _LOG.warning("%s: %s; next try in %.0f s", self.archive.name, broken, seconds)
                self._wait(seconds)

    def _request(self) -> None:
        offset = self._size()
        headers = {"Accept-Encoding": "identity"}  # the archive as it lies there; it is compressed already
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._etag.exists():  # the server then sends all of it if it is not the same file any more
                headers["If-Range"] = self._etag.read_text(encoding="latin-1")
        self.attempts += 1
        try:
            with (
                requests.Session() as session,
                session.get(self.archive.url, headers=headers, stream=True, timeout=_TIMEOUTS) as response,
            ):
                if response.status_code == 416 and offset:
                    return  # nothing comes after what is there: whether it is right is seen next
                self._refuse_status(response, offset)
                self._write(response, offset)
                if "Content-Length" not in response.headers:
                    self._refuse_early_end()
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,  # what reading the raw stream raises
        ) as error:
            # requests wraps what happened in a line that says the address twice
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise _Broken(f"{self.archive.url}: {reason}") from error
        except requests.RequestException as error:
            raise InputError(f"{self.archive.name}: {self.archive.url}: {error}") from error

    def _refuse_status(self, response: requests.Response, offset: int) -> None:
        status = response.status_code
        answer = f"{self.archive.url} answered {status} {response.reason}"
        if status in (408, 429) or status >= 500:
            after = _retry_after(response.headers.get("Retry-After", "")) if status in (429, 503) else 0.0
            if after > _LONGEST_RETRY_AFTER:
                raise InputError(
                    f"{self.archive.name}: {answer} and asks to wait {after:,.0f} seconds. Call again later."
                )
            raise _Broken(answer, after)
        if status not in (200, 206):
            raise InputError(f"{self.archive.name}: {answer}. Expected the archive.")
        starts = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        if status == 206 and (starts is None or int(starts[1]) != offset):
            self._discard()
            raise _Broken(f"{answer} with another part than the one asked for")

    def _write(self, response: requests.Response, offset: int) -> None:
        chunks = response.raw.stream(_CHUNK, decode_content=False)
        first = next(chunks, b"")
        goes_on = response.status_code == 206
        if not goes_on:
            self._refuse_page(first, response.headers.get("Content-Type", ""))  # before a part is given up for it
            self._advance(-offset)
        room = _LARGEST_RATIO * self.archive.bytes + _SLACK - (offset if goes_on else 0)
        with self._part.open("ab" if goes_on else "wb") as file:
            if not goes_on:
                self._note_etag(response.headers.get("ETag", ""))
            for chunk in itertools.chain([first], chunks):
                if self._stop.is_set():
                    raise Stopped
                room -= len(chunk)
                if room < 0:
                    self._refuse_endless()
                file.write(chunk)
                file.flush()  # a kill shall not lose it
                self.received += len(chunk)
                self._advance(len(chunk))

    def _refuse_endless(self) -> None:
        limit, size = _LARGEST_RATIO * self.archive.bytes + _SLACK, self._size()
        self._discard()
        raise InputError(
            f"{self.archive.name}: {self.archive.url} sends more than {limit:,} bytes, about "
            f"{self.archive.bytes:,} expected. The {size:,} that came are removed."
        )

    def _refuse_early_end(self) -> None:
        """A body of no stated length ends where the line breaks: what is too short is whole by its MD5 alone."""
        size = self._size()
        if size < self.archive.bytes and md5(self._part, self._stop) != self.archive.md5:
            raise _Broken(f"{self.archive.url} ended after {size:,} bytes, about {self.archive.bytes:,} expected")

    def _refuse_page(self, beginning: bytes, content_type: str) -> None:
        if content_type.startswith("text/html") or is_page(beginning):
            raise _Wrong(
                f"a web page came back in place of the archive (MD5 {self.archive.md5} expected); "
                f"it begins {beginning[:60].decode('utf-8', errors='replace')!r}."
            )

    def _note_etag(self, etag: str) -> None:
        self._etag.unlink(missing_ok=True)
        if etag.startswith('"'):  # only strong ones promise the same bytes
            self._etag.write_text(etag, encoding="latin-1")

    def _keep_if_right(self) -> None:
        found = md5(self._part, self._stop)
        if found != self.archive.md5:
            size = self._size()
            self._discard()
            raise _Wrong(
                f"its MD5 is {found}, expected {self.archive.md5} ({size:,} bytes came, about "
                f"{self.archive.bytes:,} expected)."
            )
        _flush(self._part)
        self._part.rename(self.target)
        _flush(self.target.parent)
        self._etag.unlink(missing_ok=True)

    def _discard(self) -> None:
        self._advance(-self._size())
        self._part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _wait(self, seconds: float) -> None:
        self._pause(seconds)
        if self._stop.is_set():
            raise Stopped


def md5(path: Path, stop: threading.Event) -> str:
    """MD5 of a file, 32 hexadecimal digits. Raises Stopped once `stop` is set."""
    state = hashlib.md5(usedforsecurity=False)  # against broken transfers; NIH gives no other digest
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if stop.is_set():
                raise Stopped
            state.update(block)
    return state.hexdigest()


def is_page(beginning: bytes) -> bool:
    """Whether a file's first bytes are those of a web page, such as a login that came instead."""
    return beginning.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retry_after(value: str) -> float:
    """Seconds, from a number of them or a date (RFC 9110, section 10.2.3); 0 for anything else."""
    if re.fullmatch(r"[0-9]+", value.strip()):
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0
