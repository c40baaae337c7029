"""Archives against a real server that fails in every way, real kills, and hostile archives."""

import contextlib
import email.utils
import gzip
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from cxr.data import download
from cxr.data.download import Fetched, fetch, transfer, unpacking
from cxr.data.download.archives import BOX_FOLDER, NIH_ARCHIVES, Archive, check_tables, list_digest, read_list
from cxr.errors import InputError
from tests.archive_server import ArchiveServer, Fault, drawn, serving, tar_gz, write_list

PROJECT = Path(__file__).parents[3]
PAGE = b"<!DOCTYPE html><html><title>Log in</title>Who are you?</html>"

FETCH = """
import sys
from pathlib import Path
from cxr.data.download.archives import read_list
from cxr.data.download import fetch

for record in fetch(read_list(Path(sys.argv[1])), Path(sys.argv[2])):
    print(record.name, flush=True)
"""
FETCH_SLOWLY = """
import tarfile, time
real = tarfile.TarFile.extract
def slow(*args, **more):
    time.sleep(0.05)
    return real(*args, **more)
tarfile.TarFile.extract = slow
"""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as running:
        yield running


@pytest.fixture
def archive(server: ArchiveServer) -> Archive:
    """One archive of 60 images, about 250 KB."""
    return server.offer(1, tar_gz(drawn(1, 60)))


@pytest.fixture
def waits() -> list[float]:
    """The pauses that were asked for; none is made."""
    return []


@pytest.fixture
def get(tmp_path: Path, waits: list[float]) -> Callable[..., list[Fetched]]:
    """Fetch archives into `tmp_path/nih` without waiting between tries."""

    def run(*archives: Archive, **more: object) -> list[Fetched]:
        return list(fetch(archives, tmp_path / "nih", pause=waits.append, **more))

    return run


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != download.LOCK)


def assert_whole(folder: Path, archive: Archive, files: dict[str, bytes]) -> None:
    place = folder / archive.folder
    assert {f"images/{path.name}": path.read_bytes() for path in (place / "images").iterdir()} == files
    assert (place / unpacking.MARKER).read_text().split() == [archive.md5, str(len(files))]


def start(folder: Path, list_file: Path, before: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", before + FETCH, str(list_file), str(folder)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---------------------------------------------------------------- plain


def test_an_archive_is_fetched_verified_and_unpacked(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    (record,) = get(archive)
    assert record == Fetched(
        name="images_001.tar.gz", bytes=archive.bytes, received=archive.bytes, seconds=record.seconds,
        resumed_from=0, attempts=1, md5=archive.md5, images=60, already_there=False,
    )  # fmt: skip
    assert names(tmp_path / "nih") == ["images_001", "images_001.tar.gz"]
    assert (tmp_path / "nih/images_001.tar.gz").read_bytes() == server.contents["/images_001.tar.gz"]
    assert_whole(tmp_path / "nih", archive, drawn(1, 60))


def test_a_second_call_asks_the_server_for_nothing(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    get(archive)
    (tmp_path / "nih/images_001.tar.gz").unlink()
    (record,) = get(archive)
    assert record.already_there
    assert (record.images, record.received, record.attempts) == (60, 0, 0)
    assert len(server.asked) == 1


def test_an_archive_that_lies_there_is_verified_and_only_unpacked(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    (tmp_path / "nih").mkdir()
    (tmp_path / "nih" / archive.name).write_bytes(server.contents[f"/{archive.name}"])
    (record,) = get(archive)
    assert record.already_there
    assert server.asked == []
    assert_whole(tmp_path / "nih", archive, drawn(1, 60))


def test_another_file_of_the_archives_name_is_refused_and_kept(
    archive: Archive, get: Callable, tmp_path: Path
) -> None:
    (tmp_path / "nih").mkdir()
    theirs = tmp_path / "nih" / archive.name
    theirs.write_bytes(b"something else")
    found = hashlib.md5(b"something else").hexdigest()
    with pytest.raises(InputError, match=rf"{archive.name}.*MD5 {found}, expected {archive.md5}.*Delete it"):
        get(archive)
    assert theirs.read_bytes() == b"something else"


def test_archives_come_in_parallel_and_no_more_than_asked_for(
    server: ArchiveServer, get: Callable, tmp_path: Path
) -> None:
    archives = [server.offer(number, tar_gz(drawn(number * 100, 10))) for number in range(1, 7)]
    for one in archives:
        server.fail(one, Fault(delay=0.1))
    records = get(*archives, parallel=3)
    assert server.most_at_once == 3
    assert {record.name for record in records} == {one.name for one in archives}
    for one in archives:
        assert_whole(tmp_path / "nih", one, drawn(one.number * 100, 10))


def test_archives_are_removed_once_unpacked_when_not_to_be_kept(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    get(archive, keep_archives=False)
    assert names(tmp_path / "nih") == ["images_001"]
    left = server.contents[f"/{archive.name}"]  # by a call that was killed before removing it
    (tmp_path / "nih" / archive.name).write_bytes(left)
    (record,) = get(archive, keep_archives=False)
    assert record.already_there
    assert names(tmp_path / "nih") == ["images_001"]
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_bears_an_archives_name_and_is_not_the_archive_stays_with_a_warning(
    archive: Archive, get: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    get(archive, keep_archives=False)
    theirs = tmp_path / "nih" / archive.name
    theirs.write_bytes(b"theirs") if kind == "file" else theirs.mkdir()
    (record,) = get(archive, keep_archives=False)
    assert record.already_there
    assert f"{theirs} is not NIH's archive (MD5 {archive.md5}) and is left there" in caplog.text
    assert theirs.is_dir() if kind == "folder" else theirs.read_bytes() == b"theirs"


# ---------------------------------------------------------------- lines and servers that fail


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed early"])
def test_a_dropped_connection_is_resumed_where_it_broke(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, waits: list[float], reset: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    server.fail(archive, Fault(cut=131_072, reset=reset), Fault(cut=65_536, reset=reset))
    (record,) = get(archive)
    assert server.ranges(archive) == [None, "bytes=131072-", "bytes=196608-"]
    assert server.statuses(archive) == [200, 206, 206]
    assert [asked.if_range is not None for asked in server.asked] == [False, True, True]
    assert (record.attempts, record.received, record.resumed_from) == (3, archive.bytes, 0)
    assert waits == [2.0, 4.0]
    assert "next try in 4 s" in caplog.text
    assert_whole(tmp_path / "nih", archive, drawn(1, 60))
    assert names(tmp_path / "nih") == ["images_001", "images_001.tar.gz"]


def test_a_body_in_chunks_is_resumed_too(server: ArchiveServer, archive: Archive, get: Callable) -> None:
    server.fail(archive, Fault(cut=131_072, chunked=True), Fault(chunked=True))
    (record,) = get(archive)
    assert server.ranges(archive) == [None, "bytes=131072-"]
    assert record.received == archive.bytes


def test_a_body_of_no_stated_length_that_ends_early_is_resumed(
    server: ArchiveServer, archive: Archive, get: Callable, waits: list[float]
) -> None:
    server.fail(archive, Fault(cut=131_072, length=False), Fault(cut=65_536, length=False))
    (record,) = get(archive)
    assert server.ranges(archive) == [None, "bytes=131072-", "bytes=196608-"]
    assert record.received == archive.bytes
    assert waits == [2, 4]


def test_a_body_of_no_stated_length_is_whole_when_its_md5_is_right_whatever_size_is_listed(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.always[f"/{archive.name}"] = Fault(length=False, ignore_range=True)
    (record,) = get(Archive(archive.name, archive.bytes + 5, archive.md5, archive.url))
    assert (record.attempts, record.received) == (1, archive.bytes)


@pytest.mark.parametrize("name", [".part", ".part.etag"])
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nowhere"])
def test_nothing_is_written_through_a_link(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, name: str, there: bool
) -> None:
    (tmp_path / "nih").mkdir()
    theirs = tmp_path / "theirs"
    if there:
        theirs.write_bytes(b"theirs")
    link = tmp_path / "nih" / f"{archive.name}{name}"
    link.symlink_to(theirs)
    with pytest.raises(InputError, match=rf"images_001.tar.gz: {link} is a link or no plain file"):
        get(archive)
    assert link.is_symlink()
    assert theirs.read_bytes() == b"theirs" if there else not theirs.exists()
    assert server.asked == []


def test_an_archive_that_is_called_an_encoding_is_not_decoded(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.always[f"/{archive.name}"] = Fault(headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})
    assert get(archive)[0].received == archive.bytes


def test_the_bar_begins_at_what_is_there_and_ends_full(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []

    def bar(**options: object) -> tqdm:
        bars.append(tqdm(**options | {"disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr(download, "tqdm", bar)
    (tmp_path / "nih").mkdir()
    (tmp_path / "nih" / f"{archive.name}.part").write_bytes(b"x" * 1000)
    whole = server.offer(2, tar_gz(drawn(200, 3)))
    (tmp_path / "nih" / whole.name).write_bytes(server.contents[f"/{whole.name}"])
    server.fail(archive, Fault(cut=65_536), Fault(ignore_range=True, cut=131_072))
    get(archive, whole)
    assert (bars[0].initial, bars[0].total) == (whole.bytes + 1000, archive.bytes + whole.bytes)
    assert bars[0].n == bars[0].total  # though the part was wrong and all came again
    get(archive, whole)
    assert bars[1].initial == bars[1].n == bars[1].total


def test_without_an_entity_tag_ranges_are_used_all_the_same(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.etags = False
    server.fail(archive, Fault(cut=65_536))
    get(archive)
    assert [(asked.range, asked.if_range) for asked in server.asked] == [(None, None), ("bytes=65536-", None)]


def test_a_file_that_changed_on_the_server_meanwhile_is_fetched_from_the_beginning(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.fail(archive, Fault(body=os.urandom(archive.bytes), cut=65_536))  # the file as it was before
    (record,) = get(archive)
    assert server.statuses(archive) == [200, 200]
    assert record.received == 65_536 + archive.bytes


def test_a_server_that_ignores_ranges_sends_it_all_again(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.fail(archive, Fault(cut=131_072), Fault(ignore_range=True))
    (record,) = get(archive)
    assert server.statuses(archive) == [200, 200]
    assert (record.attempts, record.received) == (2, 131_072 + archive.bytes)


def test_a_server_that_ignores_ranges_and_always_breaks_is_not_asked_for_ever(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, waits: list[float]
) -> None:
    server.always[f"/{archive.name}"] = Fault(cut=131_072, ignore_range=True)
    with pytest.raises(InputError, match=r"images_001.tar.gz: given up after 8 tries .* 131,072 bytes are kept"):
        get(archive)
    assert len(server.asked) == transfer.TRIES
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    assert size(tmp_path / "nih/images_001.tar.gz.part") == 131_072


def test_a_line_that_breaks_often_but_goes_on_is_not_given_up(
    server: ArchiveServer, archive: Archive, get: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_NEW", 16_384)
    server.always[f"/{archive.name}"] = Fault(cut=16_384)
    (record,) = get(archive)
    assert record.attempts > transfer.TRIES
    assert record.received == archive.bytes


def test_another_part_than_the_one_asked_for_is_not_appended(
    server: ArchiveServer, archive: Archive, get: Callable, waits: list[float]
) -> None:
    server.fail(archive, Fault(cut=65_536), Fault(wrong_range=True))
    get(archive)
    assert server.ranges(archive) == [None, "bytes=65536-", None]
    assert waits == [2, 4]  # a broken try, seen before anything was written


@pytest.mark.parametrize("complete", [True, False], ids=["a complete part", "a part that is too long"])
def test_after_416_the_part_is_held_against_the_md5(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, complete: bool
) -> None:
    listed = Archive(archive.name, archive.bytes + 5, archive.md5, archive.url)  # sizes are not NIH's own
    (tmp_path / "nih").mkdir()
    part = tmp_path / "nih" / f"{archive.name}.part"
    part.write_bytes(server.contents[f"/{archive.name}"] + (b"" if complete else b"!"))
    (record,) = get(listed)
    assert server.statuses(archive) == ([416] if complete else [416, 200])
    assert record.received == (0 if complete else archive.bytes)


def test_a_complete_part_needs_no_request(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    (tmp_path / "nih").mkdir()
    (tmp_path / "nih" / f"{archive.name}.part").write_bytes(server.contents[f"/{archive.name}"])
    (record,) = get(archive)
    assert server.asked == []
    assert record.resumed_from == archive.bytes


def test_server_errors_are_tried_again(
    server: ArchiveServer, archive: Archive, get: Callable, waits: list[float]
) -> None:
    server.fail(archive, Fault(status=500), Fault(status=502), Fault(status=408))
    (record,) = get(archive)
    assert record.attempts == 4
    assert waits == [2, 4, 8]


def test_other_scripts_digits_in_headers_are_no_numbers(
    server: ArchiveServer, archive: Archive, get: Callable, waits: list[float]
) -> None:
    assert transfer._retry_after("\u0661\u0667") == 0
    assert transfer._retry_after(" 17 ") == 17
    server.fail(archive, Fault(cut=65_536), Fault(wrong_range=True, range_start="9" * 5_000))
    get(archive)
    assert waits == [2, 4]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(
    server: ArchiveServer, archive: Archive, get: Callable, waits: list[float], status: int
) -> None:
    date = email.utils.formatdate(time.time() + 120, usegmt=True)
    for after in ("17", date, "soon", "1"):
        server.fail(archive, Fault(status=status, headers={"Retry-After": after}))
    get(archive)
    assert waits[0] == 17
    assert 110 < waits[1] <= 120
    assert waits[2:] == [8, 16]  # what cannot be read, and less than our own pause


def test_a_server_that_asks_to_come_back_much_later_is_left_alone(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.fail(archive, Fault(status=429, headers={"Retry-After": "7200"}))
    with pytest.raises(InputError, match=r"answered 429 .* asks to wait 7,200 seconds"):
        get(archive)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204])
def test_other_answers_fail_at_once(server: ArchiveServer, archive: Archive, get: Callable, status: int) -> None:
    server.fail(archive, Fault(status=status, body=b""))
    with pytest.raises(InputError, match=rf"images_001.tar.gz: {archive.url} answered {status}"):
        get(archive)
    assert len(server.asked) == 1


def test_nobody_at_the_address(get: Callable, waits: list[float]) -> None:
    with pytest.raises(InputError, match=r"given up after 8 tries in a row: http://127.0.0.1:9/a"):
        get(Archive("images_001.tar.gz", 10, "0" * 32, "http://127.0.0.1:9/a"))


def test_redirects_are_followed_ranges_and_all(server: ArchiveServer, archive: Archive, get: Callable) -> None:
    moved = Archive(archive.name, archive.bytes, archive.md5, f"{server.url}/static")
    server.contents["/static"] = b""
    server.always["/static"] = Fault(status=302, headers={"Location": archive.url})
    server.fail(archive, Fault(cut=65_536))
    get(moved)
    assert server.ranges(archive) == [None, "bytes=65536-"]


# ---------------------------------------------------------------- what is not the archive


def test_a_tampered_archive_is_fetched_again_then_accepted_if_right(
    server: ArchiveServer, archive: Archive, get: Callable
) -> None:
    server.fail(archive, Fault(body=os.urandom(archive.bytes)))
    (record,) = get(archive)
    assert record.attempts == 2
    assert server.ranges(archive) == [None, None]


@pytest.mark.parametrize("length", [True, False], ids=["another size", "cut short without a word"])
def test_what_has_another_md5_twice_is_refused_and_thrown_away(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, length: bool
) -> None:
    wrong = server.contents[f"/{archive.name}"][:-1000]
    server.always[f"/{archive.name}"] = Fault(body=wrong, length=length)
    found = hashlib.md5(wrong).hexdigest()
    with pytest.raises(InputError, match=rf"images_001.tar.gz: its MD5 is {found}, expected {archive.md5}"):
        get(archive)
    assert server.statuses(archive) == ([200, 200] if length else [200, 416, 200, 416])
    assert names(tmp_path / "nih") == []


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_an_end_does_not_fill_the_disk(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    chunked: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(transfer, "_SLACK", 1 << 18)
    limit = 2 * archive.bytes + (1 << 18)
    server.always[f"/{archive.name}"] = Fault(endless=True, length=False, chunked=chunked)
    words = rf"images_001.tar.gz: .* sends more than {limit:,} bytes, about {archive.bytes:,} expected"
    with pytest.raises(InputError, match=words):
        get(archive)
    assert len(server.asked) == 1
    assert names(tmp_path / "nih") == []


def test_a_rest_without_an_end_counts_what_was_there(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_SLACK", 0)
    server.fail(archive, Fault(cut=131_072), Fault(endless=True, length=False))
    with pytest.raises(
        InputError, match=rf"more than {2 * archive.bytes:,} bytes, .* The \S+ that came"
    ) as caught:
        get(archive)
    came = int(str(caught.value).split(" The ")[1].split()[0].replace(",", ""))
    assert came <= 2 * archive.bytes
    assert names(tmp_path / "nih") == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_login_page_is_said_to_be_one_and_costs_no_part(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, kind: str
) -> None:
    page = Fault(body=PAGE, headers={"Content-Type": kind}, ignore_range=True)
    server.fail(archive, Fault(cut=131_072), page, page)
    with pytest.raises(InputError, match=rf"a web page came back .*{archive.md5}.*begins '<!DOCTYPE html>"):
        get(archive)
    part = tmp_path / "nih" / f"{archive.name}.part"
    assert part.read_bytes() == server.contents[f"/{archive.name}"][:131_072]
    (record,) = get(archive)
    assert record.resumed_from == 131_072
    assert record.received == archive.bytes - 131_072


def test_one_archives_failure_does_not_stop_the_others(
    server: ArchiveServer, get: Callable, tmp_path: Path
) -> None:
    archives = [server.offer(number, tar_gz(drawn(number * 100, 5))) for number in (1, 2, 3, 4)]
    server.always["/images_001.tar.gz"] = Fault(status=404)
    server.always["/images_003.tar.gz"] = Fault(body=b"tampered")
    with pytest.raises(InputError, match=r"(?s)2 of 4 archives could not.*images_001.*404.*images_003.*MD5"):
        get(*archives, parallel=2)
    server.always.clear()
    records = {record.name: record.already_there for record in get(*archives)}
    assert [number for number in (1, 2, 3, 4) if records[f"images_{number:03d}.tar.gz"]] == [2, 4]


# ---------------------------------------------------------------- kills, and two at once


def test_after_a_kill_in_mid_body_the_next_call_goes_on(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    released = threading.Event()
    server.fail(archive, Fault(cut=200_000, hold=released))
    process = start(tmp_path / "nih", write_list(tmp_path / "list.txt", archive))
    part = tmp_path / "nih" / f"{archive.name}.part"
    try:
        wait_for(lambda: size(part) >= 131_072, process)
    finally:
        process.kill()
        process.communicate()
        released.set()
    assert names(tmp_path / "nih") == [part.name, f"{part.name}.etag"]
    left = size(part)
    assert 131_072 <= left < archive.bytes
    (record,) = get(archive)
    assert server.ranges(archive) == [None, f"bytes={left}-"]
    assert server.statuses(archive) == [200, 206]
    assert (record.resumed_from, record.received) == (left, archive.bytes - left)
    assert (tmp_path / "nih" / archive.name).read_bytes() == server.contents[f"/{archive.name}"]
    assert names(tmp_path / "nih") == ["images_001", "images_001.tar.gz"]


def test_after_a_kill_in_mid_unpacking_no_half_folder_has_a_name(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    process = start(tmp_path / "nih", write_list(tmp_path / "list.txt", archive), before=FETCH_SLOWLY)
    unfinished = tmp_path / "nih/.images_001.unfinished/images"
    try:
        wait_for(lambda: unfinished.is_dir() and len(list(unfinished.iterdir())) >= 5, process)
    finally:
        process.kill()
        process.communicate()
    assert names(tmp_path / "nih") == [".images_001.unfinished", "images_001.tar.gz"]
    get(archive)
    assert len(server.asked) == 1
    assert names(tmp_path / "nih") == ["images_001", "images_001.tar.gz"]
    assert_whole(tmp_path / "nih", archive, drawn(1, 60))


def test_an_interrupt_ends_quickly_and_keeps_the_part(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    released = threading.Event()
    server.fail(archive, Fault(cut=131_072, hold=released))
    process = start(tmp_path / "nih", write_list(tmp_path / "list.txt", archive))
    part = tmp_path / "nih" / f"{archive.name}.part"
    try:
        wait_for(lambda: size(part) >= 131_072, process)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - started < 6  # though the server says nothing and keeps the line open
        assert "KeyboardInterrupt" in err
    finally:
        process.kill()
        process.communicate()
        released.set()
    assert size(part) == 131_072
    assert get(archive)[0].resumed_from == 131_072


def test_a_second_process_is_refused_while_the_first_one_works(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    released = threading.Event()
    server.fail(archive, Fault(hold=released, cut=65_536))
    process = start(tmp_path / "nih", write_list(tmp_path / "list.txt", archive))
    try:
        wait_for(lambda: size(tmp_path / "nih" / f"{archive.name}.part") > 0, process)
        with pytest.raises(InputError, match=r"nih: another process is downloading into this folder"):
            get(archive)
        released.set()
        wait_for(lambda: len(server.asked) > 1, process)
        out, err = process.communicate(timeout=30)
        assert out.split() == [archive.name], err
    finally:
        released.set()
        process.kill()
        process.communicate()
    assert get(archive)[0].already_there


def test_leaving_early_ends_the_threads_and_frees_the_folder(
    server: ArchiveServer, get: Callable, tmp_path: Path
) -> None:
    quick, slow = (server.offer(number, tar_gz(drawn(number * 100, 60))) for number in (1, 2))
    server.fail(slow, Fault(delay=0.2))
    with contextlib.closing(fetch([quick, slow], tmp_path / "nih")) as records:
        assert next(records).name == quick.name
    assert [thread.name for thread in threading.enumerate() if "(serve)" in thread.name] == []
    assert {record.name for record in get(quick, slow)} == {quick.name, slow.name}


# ---------------------------------------------------------------- disk


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nih").mkdir()
    (tmp_path / "nih" / f"{archive.name}.part").write_bytes(b"x" * 1000)
    needed = 2 * archive.bytes - 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(InputError, match=rf"about {needed:,} bytes are needed .*, {needed - 1:,} are free"):
        get(archive)
    assert server.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed))
    assert get(archive)


def test_without_keeping_archives_only_those_in_flight_need_space(
    server: ArchiveServer, get: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = [server.offer(number, tar_gz(drawn(number * 100, number))) for number in (1, 2, 3)]
    unpacked = sum(one.bytes for one in archives)
    free = unpacked + archives[2].bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(InputError, match=rf"{2 * unpacked:,} bytes are needed"):
        get(*archives, parallel=1)
    assert len(get(*archives, parallel=1, keep_archives=False)) == 3


def test_a_disk_that_fills_up_is_said_and_the_next_call_goes_on(
    archive: Archive, get: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", full)
        with pytest.raises(InputError, match=r"images_001.tar.gz: cannot be read or written .*No space left"):
            get(archive)
    assert names(tmp_path / "nih") == ["images_001.tar.gz"]
    assert get(archive)[0].already_there


def test_a_folder_that_cannot_be_made(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data=.*file/nih: the folder cannot be made"):
        list(fetch([archive], tmp_path / "file/nih"))


# ---------------------------------------------------------------- what lies there already


def test_a_folder_that_somebody_else_unpacked_is_neither_believed_nor_touched(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    theirs = tmp_path / "nih/images_001/images/00000001_000.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    other = server.offer(2, tar_gz(drawn(200, 5)))
    with pytest.raises(InputError, match=r"1 of 2 .*images_001 is there already and was not unpacked by this"):
        get(archive, other)
    assert theirs.read_bytes() == b"theirs"
    assert server.ranges(archive) == []
    assert_whole(tmp_path / "nih", other, drawn(200, 5))


def test_an_empty_folder_is_filled(archive: Archive, get: Callable, tmp_path: Path) -> None:
    (tmp_path / "nih/images_001").mkdir(parents=True)
    get(archive)
    assert_whole(tmp_path / "nih", archive, drawn(1, 60))


def test_a_folder_with_images_missing_or_of_another_archive_is_refused(
    server: ArchiveServer, archive: Archive, get: Callable, tmp_path: Path
) -> None:
    get(archive)
    with pytest.raises(InputError, match=rf"from another archive \(MD5 {archive.md5}, expected 0000"):
        get(Archive(archive.name, archive.bytes, "0" * 32, archive.url))
    next((tmp_path / "nih/images_001/images").iterdir()).unlink()
    with pytest.raises(InputError, match=r"images_001 holds 59 of the 60 images .* Remove the folder"):
        get(archive)
    shutil.rmtree(tmp_path / "nih/images_001")
    get(archive)
    assert_whole(tmp_path / "nih", archive, drawn(1, 60))


def test_emptied_images_count_as_missing(archive: Archive, get: Callable, tmp_path: Path) -> None:
    get(archive)
    images = sorted((tmp_path / "nih/images_001/images").iterdir())
    images[3].write_bytes(b"")
    images[4].unlink()
    images[4].symlink_to("nowhere")
    with pytest.raises(InputError, match=r"images_001 holds 58 of the 60 images .* Remove the folder"):
        get(archive)


def test_images_that_are_empty_in_the_archive_are_not_missed_later(server: ArchiveServer, get: Callable) -> None:
    odd = server.offer(1, tar_gz(drawn(1, 3), member("images/2.png")))
    assert [get(odd)[0].images for _ in range(2)] == [3, 3]


def test_only_what_unpacking_left_is_swept(archive: Archive, get: Callable, tmp_path: Path) -> None:
    folder, theirs = tmp_path / "nih", tmp_path / "theirs"
    kept = [".images_mine.unfinished", ".images_0001.unfinished", ".images_001.unfinished.bak"]
    for name in [*kept, ".images_002.unfinished"]:
        (folder / name).mkdir(parents=True)
    theirs.mkdir()
    (theirs / "a.png").touch()
    (folder / ".images_003.unfinished").symlink_to(theirs)
    get(archive)
    assert names(folder) == sorted([*kept, ".images_003.unfinished", archive.folder, archive.name])
    assert list(theirs.iterdir()) == [theirs / "a.png"]


# ---------------------------------------------------------------- hostile archives


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


HOSTILE = {
    "absolute": (member("/tmp/images/00000001_000.png"), "'/tmp/images/00000001_000.png' (regular file)"),
    "absolute images": (member("/images/1.png"), "'/images/1.png' (regular file)"),
    "upwards": (member("../escaped.png"), "'../escaped.png' (regular file)"),
    "upwards within": (member("images/../../escaped.png"), "'images/../../escaped.png' (regular file)"),
    "symlink": (member("images/1.png", tarfile.SYMTYPE, "/etc/passwd"), "'images/1.png' (symbolic link)"),
    "symlinked folder": (member("images", tarfile.SYMTYPE, "/tmp"), "'images' (symbolic link)"),
    "hard link out": (member("images/1.png", tarfile.LNKTYPE, "/etc/passwd"), "'images/1.png' (hard link)"),
    "hard link in": (member("images/1.png", tarfile.LNKTYPE, "images/00000001_000.png"), "(hard link)"),
    "fifo": (member("images/1.png", tarfile.FIFOTYPE), "'images/1.png' (named pipe)"),
    "device": (member("images/1.png", tarfile.CHRTYPE), "'images/1.png' (device)"),
    "block device": (member("images/1.png", tarfile.BLKTYPE), "'images/1.png' (device)"),
    "sparse": (member("images/1.png", tarfile.GNUTYPE_SPARSE), "'images/1.png' (sparse file)"),
    "unknown kind": (member("images/1.png", b"~"), "refused"),
    "folder": (member("images/more", tarfile.DIRTYPE), "'images/more' (folder)"),
    "deeper": (member("images/more/1.png"), "'images/more/1.png' (regular file)"),
    "beside": (member("1.png"), "'1.png' (regular file)"),
    "another spelling": (member("images/1.PNG"), "'images/1.PNG' (regular file)"),
    "newline": (member("images/1.png\n"), "(regular file)"),
    "twice": (member("images/00000001_000.png"), "'images/00000001_000.png' is there twice"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_anything_but_images_is_refused_and_leaves_nothing(
    server: ArchiveServer, get: Callable, tmp_path: Path, kind: str
) -> None:
    extra, words = HOSTILE[kind]
    hostile = server.offer(1, tar_gz(drawn(1, 3), extra))
    with pytest.raises(InputError) as refused:
        get(hostile)
    assert "images_001.tar.gz: member " in str(refused.value) or kind == "unknown kind"
    assert words in str(refused.value)
    assert names(tmp_path / "nih") == ["images_001.tar.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nih"]


def test_notes_and_hidden_files_in_an_archive_are_passed_over(
    server: ArchiveServer, get: Callable, tmp_path: Path
) -> None:
    for number, name in enumerate(("README.txt", "images/._00000001_000.png", "./.DS_Store", "images/run.sh"), 1):
        get(server.offer(number, tar_gz(drawn(number, 3), member(name))))
        place = tmp_path / "nih" / f"images_{number:03d}"
        assert sorted(path.name for path in place.iterdir()) == [".md5", "images"]
        assert sorted(path.suffix for path in (place / "images").iterdir()) == [".png"] * 3


def test_unpacking_stops_when_asked_to(server: ArchiveServer, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / archive.name).write_bytes(server.contents[f"/{archive.name}"])
    stop = threading.Event()
    stop.set()
    with pytest.raises(unpacking.Stopped):
        unpacking.unpack(archive, tmp_path, stop)
    assert names(tmp_path) == [archive.name]


def test_members_may_be_named_with_a_leading_dot(server: ArchiveServer, get: Callable, tmp_path: Path) -> None:
    files = drawn(1, 3)
    dotted = server.offer(1, tar_gz({f"./{name}": content for name, content in files.items()}))
    get(dotted)
    assert_whole(tmp_path / "nih", dotted, files)


def test_rights_of_members_are_not_taken_over(server: ArchiveServer, get: Callable, tmp_path: Path) -> None:
    info, content = member("images/2.png", content=b"x")
    info.mode = 0o6777
    get(server.offer(1, tar_gz({}, (info, content))))
    assert (tmp_path / "nih/images_001/images/2.png").stat().st_mode & 0o7133 == 0


@pytest.mark.parametrize("kind", ["one large file", "a long header", "many files"])
def test_a_bomb_is_stopped_while_it_goes_off(
    server: ArchiveServer, get: Callable, tmp_path: Path, kind: str
) -> None:
    if kind == "one large file":
        packed = tar_gz({"images/1.png": bytes(8_000_000)})
    elif kind == "a long header":
        info, _ = member("images/1.png")
        info.pax_headers = {"comment": "a" * 8_000_000}
        packed = tar_gz({}, (info, b""))
    else:
        packed = tar_gz({f"images/{number}.png": b"" for number in range(8_000)})
    hostile = server.offer(1, packed)
    with pytest.raises(InputError, match=rf"more than {3 * len(packed) + 1_048_576:,} bytes come out of it"):
        get(hostile)
    assert names(tmp_path / "nih") == ["images_001.tar.gz"]


def broken_archives() -> dict[str, bytes]:
    whole = tar_gz(drawn(1, 20))
    return {
        "not gzip": b"hello" * 100,
        "empty": b"",
        "cut gzip": whole[: len(whole) // 2],
        "not tar": gzip.compress(b"hello" * 1000),
        "cut tar": gzip.compress(gzip.decompress(whole)[:20_000]),
        "bad deflate": whole[:5000] + b"\xff" * 200 + whole[5200:],
        "no image": tar_gz({}),
    }


@pytest.mark.parametrize("kind", broken_archives())
def test_an_archive_that_is_right_but_no_archive(
    server: ArchiveServer, get: Callable, tmp_path: Path, kind: str
) -> None:
    broken = server.offer(1, broken_archives()[kind])
    with pytest.raises(InputError, match=r"images_001.tar.gz: (cannot be unpacked|holds no image)"):
        get(broken)
    assert names(tmp_path / "nih") == ["images_001.tar.gz"]


# ---------------------------------------------------------------- lists and tables


def test_the_built_in_archives_are_nihs(real_data: Path) -> None:
    assert read_list(real_data / "nih_official_downloads.txt") == NIH_ARCHIVES
    assert [archive.number for archive in NIH_ARCHIVES] == list(range(1, 13))


BAD_LISTS = {
    "images_001.tar.gz 10 " + "0" * 32: r"list.txt, line 2: .* has 3 fields",
    "../images_001.tar.gz 10 " + "0" * 32 + " http://h/a": r"line 2: name '../images_001.tar.gz'",
    "images_1.tar.gz 10 " + "0" * 32 + " http://h/a": r"name 'images_1.tar.gz' cannot be used",
    "images_\u0660\u0660\u0661.tar.gz 10 " + "0" * 32 + " http://h/a": r"name .* cannot be used",
    "images_001.tar.gz ten " + "0" * 32 + " http://h/a": r"size 'ten' .* Expected a number of bytes",
    "images_001.tar.gz 0 " + "0" * 32 + " http://h/a": r"size '0'",
    "images_001.tar.gz -5 " + "0" * 32 + " http://h/a": r"size '-5'",
    "images_001.tar.gz 10 xyz http://h/a": r"MD5 'xyz' .* Expected 32 hexadecimal digits",
    "images_001.tar.gz 10 " + "0" * 32 + " file:///etc/passwd": r"address 'file:///etc/passwd'",
    "images_001.tar.gz 10 " + "0" * 32 + " http://": r"address 'http://'",
    "images_001.tar.gz 10 " + "0" * 32 + " http://[h/a": r"address 'http://\[h/a'",
    "images_001.tar.gz 10 " + "0" * 32 + " http://h:99999999/a": r"address",
    "": r"list.txt: lists no archive",
}  # fmt: skip


@pytest.mark.parametrize("line", BAD_LISTS)
def test_a_malformed_list_names_file_line_and_value(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# name bytes md5 url\n{line}\n")
    with pytest.raises(InputError, match=BAD_LISTS[line]):
        read_list(path)


def test_a_list_is_read_with_comments_empty_lines_and_capitals(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(
        b"\xef\xbb\xbf# a mirror\r\n\r\nimages_002.tar.gz  7\t" + b"AB" * 16 + b" https://h:8/a?b=c\r\n"
    )
    assert read_list(path) == (Archive("images_002.tar.gz", 7, "ab" * 16, "https://h:8/a?b=c"),)
    assert list_digest(read_list(path)) == list_digest([Archive("images_002.tar.gz", 9, "ab" * 16, "http://x/")])


def test_other_faults_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    line = f"images_001.tar.gz 10 {'0' * 32} http://h/a\n"
    path.write_text(2 * line)
    with pytest.raises(InputError, match=r"list.txt: listed twice: images_001.tar.gz"):
        read_list(path)
    path.write_bytes(b"\xff\xfe")
    for unreadable in (path, tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read as a list of archives"):
            read_list(unreadable)


def test_tables_that_are_missing_or_differ(tmp_path: Path) -> None:
    wanted = ["Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt", "BBox_List_2017.csv"]
    assert check_tables(tmp_path) == [(name, "missing") for name in wanted]
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n")
    (tmp_path / "BBox_List_2017.csv.gz").write_bytes(b"no gzip")
    (tmp_path / "Data_Entry_2017.csv.gz").write_bytes(gzip.compress(b"a")[:-3])
    states = ["missing", "missing", "differs", "differs", "differs"]
    assert check_tables(tmp_path) == list(zip([*wanted, "Data_Entry_2017.csv"], states, strict=True))
    assert BOX_FOLDER.startswith("https://nihcc.app.box.com/")


def test_nihs_own_tables_are_official_whatever_their_line_ends(real_data: Path, tmp_path: Path) -> None:
    assert {state for _, state in check_tables(real_data / "nih")} == {"official"}
    assert len(check_tables(real_data / "nih")) == 5
    content = (real_data / "nih/test_list.txt").read_bytes()
    (tmp_path / "test_list.txt").write_bytes(content.replace(b"\n", b"\r\n") + b"\r\n")
    with gzip.open(real_data / "nih/Data_Entry_2017.csv.gz") as file:
        (tmp_path / "Data_Entry_2017.csv").write_bytes(file.read().replace(b"\r\n", b"\n"))
    states = dict(check_tables(tmp_path))
    assert states["test_list.txt"] == states["Data_Entry_2017.csv"] == "official"
    lines = io.BytesIO(content).readlines()
    (tmp_path / "test_list.txt").write_bytes(b"".join(lines[:-1]))
    assert dict(check_tables(tmp_path))["test_list.txt"] == "differs"
