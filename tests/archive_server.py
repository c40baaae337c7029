"""A real HTTP server for tests of downloads: ranges, entity tags, and every way to go wrong on command."""

import contextlib
import hashlib
import io
import re
import socket
import struct
import tarfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.data.download.archives import Archive


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the server does to one request instead of a plain answer."""

    status: int = 0  # answer this, without the archive
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # in place of the archive
    ignore_range: bool = False
    wrong_range: bool = False  # answer 206 with another part than the one asked for
    cut: int | None = None  # end the connection after so many bytes of the body
    reset: bool = False  # ... as a broken line does, not by closing it
    hold: threading.Event | None = None  # ... but first wait for this
    delay: float = 0.0  # seconds before each piece of 16 KiB
    length: bool = True  # say how long the body is
    range_start: str = ""  # of the part that a 206 claims to be, in place of the true one
    endless: bool = False  # send it again and again, until the other side hangs up
    chunked: bool = False  # send it in chunks, without saying how long it is


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    path: str
    range: str | None
    if_range: str | None
    status: int


class ArchiveServer:
    """`contents[path]` are served; `faults[path]` are used up first, one a request."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.etags = True
        self.asked: list[Asked] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.http.handle_error = lambda request, client: None  # clients that are killed are the point here

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def offer(self, number: int, content: bytes) -> Archive:
        """Serve an archive; what a list would say of it."""
        name = f"images_{number:03d}.tar.gz"
        self.contents[f"/{name}"] = content
        return Archive(name, len(content), hashlib.md5(content).hexdigest(), f"{self.url}/{name}")

    def fail(self, archive: Archive, *faults: Fault) -> None:
        self.faults[f"/{archive.name}"].extend(faults)

    def ranges(self, archive: Archive) -> list[str | None]:
        return [asked.range for asked in self.asked if asked.path == f"/{archive.name}"]

    def statuses(self, archive: Archive) -> list[int]:
        return [asked.status for asked in self.asked if asked.path == f"/{archive.name}"]


@contextlib.contextmanager
def serving() -> Iterator[ArchiveServer]:
    server = ArchiveServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


def drawn(first: int, count: int, *, size: int = 64) -> dict[str, bytes]:
    """Noise as PNG files under NIH's kind of name: nobody's X-rays, and they do not compress."""
    files = {}
    for number in range(first, first + count):
        encoded = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)
        Image.fromarray(pixels).save(encoded, format="PNG")
        files[f"images/{number:08d}_000.png"] = encoded.getvalue()
    return files


def tar_gz(files: Mapping[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive as NIH makes them: the folder `images/`, then its files; `extra` members come last."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        top = tarfile.TarInfo("images")
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member, content in extra:
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def write_list(path: Path, *archives: Archive) -> Path:
    """A list file of these archives, in the form that `read_list` reads."""
    lines = [f"{archive.name} {archive.bytes} {archive.md5} {archive.url}" for archive in archives]
    path.write_text("\n".join(["# name bytes md5 url", *lines]) + "\n")
    return path


def _handler(server: ArchiveServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            with server.lock:
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
                waiting = server.faults[self.path]
                fault = waiting.popleft() if waiting else server.always.get(self.path, Fault())
            try:
                self._answer(fault)
            finally:
                with server.lock:
                    server.at_once -= 1

        def _answer(self, fault: Fault) -> None:
            content = server.contents[self.path] if fault.body is None else fault.body
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            wanted = self.headers["Range"]
            unchanged = self.headers["If-Range"] in (None, etag)
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            ranged = wanted is not None and unchanged and not fault.ignore_range
            status = fault.status or (200 if not ranged else 416 if start >= len(content) else 206)
            server.asked.append(Asked(self.path, wanted, self.headers["If-Range"], status))
            headers = dict(fault.headers)
            if status == 206:
                shift = 1 if fault.wrong_range else 0
                headers["Content-Range"] = (
                    f"bytes {fault.range_start or start + shift}-{len(content) - 1}/{len(content)}"
                )
                body = content[start + shift :]
            elif status == 200:
                body = content
            else:
                body = b"sorry" if fault.body is None else content
            if server.etags and status in (200, 206):
                headers["ETag"] = etag
            if fault.chunked:
                headers["Transfer-Encoding"] = "chunked"
            elif fault.length:
                headers["Content-Length"] = str(len(body))
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/octet-stream",
                "Connection": "close",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self._send(body, fault)

        def _send_pieces(self, body: bytes, fault: Fault) -> None:
            for start in range(0, len(body), 1 << 14):
                time.sleep(fault.delay)
                piece = body[start : start + (1 << 14)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)

        def _send(self, body: bytes, fault: Fault) -> None:
            end = len(body) if fault.cut is None else min(fault.cut, len(body))
            while fault.endless:
                self._send_pieces(body, fault)
            self._send_pieces(body[:end], fault)
            if fault.chunked and end == len(body):
                self.wfile.write(b"0\r\n\r\n")
            if fault.hold is not None:
                fault.hold.wait(30)
            if fault.reset:
                time.sleep(0.1)  # a reset throws away what the other side has not read yet
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    return Handler
