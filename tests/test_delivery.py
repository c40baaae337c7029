"""Delivery to a real tracking server: in order and once, whatever happens to the server."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from cxr.checkpoint import Checkpoint, newest
from cxr.delivery import Courier, NotDeliveredError, deliver
from cxr.errors import InputError
from cxr.training.logbook import Logbook
from tests.tracking_server import TrackingServer, tracking_server
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
History = list[tuple[int, int, float]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with tracking_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server: TrackingServer) -> MlflowClient:
    return MlflowClient(server.uri)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return client.create_run("0").info.run_id


@pytest.fixture
def book(tmp_path: Path) -> Logbook:
    return Logbook(tmp_path / "book")


@pytest.fixture
def told() -> list[str]:
    return []


def state(epoch: int, numbers: int = 1000) -> Checkpoint:
    return Checkpoint(
        epoch=epoch, step=0, weights={"w": torch.full((numbers,), float(epoch))}, optimiser={}, average={},
        best={}, running={}, history=[], metadata={},
    )  # fmt: skip


def record(book: Logbook, *steps: int) -> None:
    for step in steps:
        book.record({"val/loss": step / 7, "train/lr": 0.1}, step=step, time_ms=1_700_000_000_000 + 1000 * step)


def expected(*steps: int) -> History:
    return [(step, 1_700_000_000_000 + 1000 * step, step / 7) for step in steps]


def arrived(client: MlflowClient, run_id: str, key: str = "val/loss") -> History:
    return [(one.step, one.timestamp, one.value) for one in client.get_metric_history(run_id, key)]


def there(client: MlflowClient, run_id: str) -> dict[str, int]:
    """What lies under checkpoints/ on the server: name -> bytes."""
    return {Path(item.path).name: item.file_size for item in client.list_artifacts(run_id, "checkpoints")}


def fetched(client: MlflowClient, run_id: str, folder: Path) -> Checkpoint:
    """The newest checkpoint of the folder as it is downloaded from the server."""
    folder.mkdir()
    found = newest(Path(client.download_artifacts(run_id, "checkpoints", str(folder))))
    assert found is not None
    assert found.skipped == ()
    return found.checkpoint


# ---------------------------------------------------------------- a server that is there


def test_records_and_the_newest_checkpoint_arrive_while_training_runs(
    client: MlflowClient, run_id: str, book: Logbook, tmp_path: Path, told: list[str]
) -> None:
    record(book, 1, 2)
    with Courier(book.folder, run_id, client=client, tell=told.append) as courier:
        wait_until(lambda: arrived(client, run_id) == expected(1, 2))
        for epoch in (1, 2, 3):
            book.save(state(epoch))
            record(book, epoch + 2)
            courier.finish(30)
            assert fetched(client, run_id, tmp_path / str(epoch)).epoch == epoch
    assert arrived(client, run_id) == expected(1, 2, 3, 4, 5)
    assert [value for _, _, value in arrived(client, run_id, "train/lr")] == [0.1] * 5
    assert sorted(there(client, run_id)) == ["last-0.json", "last-0.pt", "last-1.json", "last-1.pt"]
    assert told == []
    assert {path.name for path in book.folder.iterdir()} >= {"delivered.json", "journal.jsonl", "last-0.pt"}
    assert not (book.folder / "sending").exists()


def test_what_is_sent_again_is_not_doubled(
    client: MlflowClient, run_id: str, book: Logbook, tmp_path: Path
) -> None:
    (tmp_path / "last-0.json").write_text("somebody else's")
    (tmp_path / "last-0.pt").write_text("somebody else's")
    for name in ("last-0.json", "last-0.pt"):
        client.log_artifact(run_id, str(tmp_path / name), "checkpoints")
    record(book, 1, 2, 3)
    odd = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "third": 1 / 3}
    book.record(odd, step=3, time_ms=5)
    book.save(state(1))
    deliver(book.folder, run_id, 30, client=client)
    before = there(client, run_id)
    (book.folder / "delivered.json").unlink()  # as if the answers had been lost
    record(book, 4)
    deliver(book.folder, run_id, 30, client=client)
    assert arrived(client, run_id) == expected(1, 2, 3, 4)
    for key in odd:
        assert len(arrived(client, run_id, key)) == 1
    assert math.isnan(arrived(client, run_id, "nan")[0][2])
    assert there(client, run_id) == before  # it lay there already
    (book.folder / "delivered.json").unlink()
    book.save(state(2))
    deliver(book.folder, run_id, 30, client=client)
    assert fetched(client, run_id, tmp_path / "fetched").epoch == 2
    assert sorted(there(client, run_id)) == ["last-0.json", "last-0.pt", "last-1.json", "last-1.pt"]


def test_the_slot_that_is_good_on_the_server_is_never_touched(
    client: MlflowClient, run_id: str, book: Logbook, server: TrackingServer
) -> None:
    folder = server.artifacts / client.get_run(run_id).info.artifact_uri.split(":/")[1] / "checkpoints"
    seen: list[int] = []
    with Courier(book.folder, run_id, client=client) as courier:
        for epoch in range(1, 6):
            book.save(state(epoch, 5_000_000))
            finishing = threading.Thread(target=courier.finish, args=(60,))
            finishing.start()
            while finishing.is_alive():
                if found := newest(folder):
                    seen.append(found.checkpoint.epoch)
                else:
                    assert not seen
            finishing.join()
            found = newest(folder)
            assert found is not None
            assert found.checkpoint.epoch == epoch
    assert seen == sorted(seen)


# ---------------------------------------------------------------- a server that goes


def test_what_is_written_while_the_server_is_away_arrives_in_order_and_once(
    client: MlflowClient, run_id: str, book: Logbook, server: TrackingServer, told: list[str], tmp_path: Path
) -> None:
    with Courier(book.folder, run_id, client=client, tell=told.append) as courier:
        record(book, 1, 2)
        book.save(state(1))
        courier.finish(30)
        server.kill()
        record(book, 3)
        wait_until(lambda: len(told) == 1)
        for epoch in range(2, 8):  # one takes the other's place
            record(book, epoch + 2)
            book.save(state(epoch))
        server.start()
        courier.finish(60)
        wait_until(lambda: len(told) == 2)
    assert arrived(client, run_id) == expected(*range(1, 10))
    assert told == [
        f"tracking server does not answer; records are kept in {book.folder} and sent when it is back",
        "tracking server is back; 7 records sent",
    ]
    assert fetched(client, run_id, tmp_path / "fetched").epoch == 7
    assert json.loads((book.folder / "delivered.json").read_text())["slot"] == "last-1"  # the second that went


def test_an_upload_that_a_kill_interrupts_is_repeated_and_the_one_before_stays(
    client: MlflowClient, run_id: str, book: Logbook, server: TrackingServer
) -> None:
    folder = server.artifacts / client.get_run(run_id).info.artifact_uri.split(":/")[1] / "checkpoints"
    with Courier(book.folder, run_id, client=client) as courier:
        book.save(state(1))
        courier.finish(30)
        book.save(state(2, 60_000_000))
        wait_until(lambda: any(item.name.startswith(".artifact") for item in folder.iterdir()))
        server.kill()
        assert sorted(item.name for item in folder.iterdir())[1:] == ["last-0.json", "last-0.pt"]
        found = newest(folder)
        assert found is not None
        assert found.checkpoint.epoch == 1
        server.start()
        courier.finish(100)
    found = newest(folder)
    assert found is not None
    assert (found.checkpoint.epoch, found.skipped) == (2, ())


DELIVER = """
import sys
from pathlib import Path
from mlflow import MlflowClient
from cxr.delivery import deliver
deliver(Path(sys.argv[1]), sys.argv[2], 60, client=MlflowClient(sys.argv[3]))
"""


def test_what_never_arrived_is_said_and_a_later_process_sends_it(
    client: MlflowClient, run_id: str, book: Logbook, server: TrackingServer, told: list[str], tmp_path: Path
) -> None:
    record(book, 1, 2)
    book.save(state(3))
    start = time.monotonic()
    nobody = MlflowClient("http://127.0.0.1:9")
    with Courier(book.folder, run_id, client=nobody, tell=told.append) as courier:
        with pytest.raises(NotDeliveredError) as failed:
            courier.finish(3)
        assert 3 <= time.monotonic() - start < 5
    assert time.monotonic() - start < 6
    said = str(failed.value)
    assert said.startswith(
        f"run {run_id}: 2 records and the checkpoint last-0.pt of epoch 3, step 0 did not reach"
    )
    assert "Connection refused" in said
    assert said.endswith(f"Kept in {book.folder}.")
    assert len(told) == 1

    client.set_terminated(run_id, "FAILED")
    command = [sys.executable, "-c", DELIVER, str(book.folder), run_id, server.uri]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert arrived(client, run_id) == expected(1, 2)
    assert fetched(client, run_id, tmp_path / "fetched").epoch == 3


# ---------------------------------------------------------------- servers of another kind


@contextmanager
def answering(answer: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as standing:
        thread = threading.Thread(target=standing.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{standing.server_port}"
        finally:
            standing.shutdown()
            thread.join()


class Answer(BaseHTTPRequestHandler):
    """Answers `status` and `body` to everything; what was put there is in `seen`."""

    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        status, body = self.answer(self.path, self.rfile.read(length))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self, path: str, content: bytes) -> tuple[int, bytes]:
        return self.status, self.body

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "wrong name"}', "wrong name"),
        (401, b"who are you?", "401"),
        (403, b"Invalid Host header", "Invalid Host header"),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}', "no such run"),
        (413, b"<html>too large</html>", "413"),
        (413, b'{"detail": "too large"}', "too large"),
    ],
)
def test_a_refusal_ends_the_sending_and_is_raised_at_the_end(
    book: Logbook, told: list[str], status: int, body: bytes, reason: str
) -> None:
    record(book, 1)
    book.save(state(1))
    handler = type("Refusing", (Answer,), {"status": status, "body": body})
    with (
        answering(handler) as uri,
        Courier(book.folder, "a" * 32, client=MlflowClient(uri), tell=told.append) as courier,
    ):
        wait_until(lambda: len(told) == 2)
        record(book, 2)  # training goes on
        start = time.monotonic()
        with pytest.raises(NotDeliveredError, match=f"2 records and the checkpoint .*{reason}") as failed:
            courier.finish(20)
        assert time.monotonic() - start < 2  # nothing to wait for
    assert failed.value.__cause__ is not None
    assert told[0].startswith(f"the records cannot be sent to the tracking server and stay in {book.folder}: ")
    assert told[1].startswith("the checkpoints cannot be sent")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 507])
def test_an_answer_that_passes_is_waited_out(book: Logbook, told: list[str], status: int) -> None:
    record(book, 1)
    handler = type("Busy", (Answer,), {"status": status})
    with (
        answering(handler) as uri,
        Courier(book.folder, "a" * 32, client=MlflowClient(uri), tell=told.append) as courier,
    ):
        with pytest.raises(NotDeliveredError, match="1 record did not reach"):
            courier.finish(1)
        handler.status = 200
        courier.finish(20)
        wait_until(lambda: len(told) == 2)
    assert told[1] == "tracking server is back; 1 record sent"


def test_records_go_on_when_checkpoints_are_refused(book: Logbook, told: list[str]) -> None:
    class RefusesFiles(Answer):
        def answer(self, path: str, content: bytes) -> tuple[int, bytes]:
            if "/runs/get" in path:
                info = {"run_id": "a" * 32, "experiment_id": "0", "status": "RUNNING",
                        "artifact_uri": "mlflow-artifacts:/0/run/artifacts"}  # fmt: skip
                return 200, json.dumps({"run": {"info": info, "data": {}}}).encode()
            return (413, b"too large") if self.command == "PUT" else (200, b"{}")

    with (
        answering(RefusesFiles) as uri,
        Courier(book.folder, "a" * 32, client=MlflowClient(uri), tell=told.append) as courier,
    ):
        book.save(state(1))
        wait_until(lambda: len(told) == 1)
        record(book, 1, 2)
        wanted = r"the checkpoint last-0\.pt of .* did not .*413 Client Error"
        with pytest.raises(NotDeliveredError, match=wanted) as refused:
            courier.finish(20)
        assert refused.value.only_checkpoints  # all else is there: no reason to hold the model back
        assert json.loads((book.folder / "delivered.json").read_text())["records"] == 2


def test_a_server_that_never_answers_holds_nobody_up(book: Logbook) -> None:
    record(book, 1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as deaf:  # takes connections, and reads nothing
        start = time.monotonic()
        uri = f"http://127.0.0.1:{deaf.server_port}"
        with (
            pytest.raises(NotDeliveredError, match=r"1 record did not .*timed out"),
            Courier(book.folder, "a" * 32, client=MlflowClient(uri)) as courier,
        ):
            courier.finish(1)
        assert time.monotonic() - start < 12
        with pytest.raises(InputError, match="that run is under way"), Courier(book.folder, "a" * 32):
            pass  # the call in flight is still out


# ---------------------------------------------------------------- a store without a server


@pytest.fixture
def local(tracking_store: str) -> tuple[MlflowClient, str]:
    client = MlflowClient(tracking_store)
    return client, client.create_run("0").info.run_id


def test_a_store_without_a_server_gets_everything_too(
    local: tuple[MlflowClient, str], book: Logbook, tmp_path: Path
) -> None:
    client, run_id = local
    for step in range(1, 26):
        book.record({f"metric/{number}": float(step) for number in range(90)}, step=step, time_ms=step)
    book.save(state(1))
    deliver(book.folder, run_id, 60, client=client)
    for number in (0, 89):
        assert arrived(client, run_id, f"metric/{number}") == [(step, step, step) for step in range(1, 26)]
    assert fetched(client, run_id, tmp_path / "fetched").epoch == 1


def test_another_run_gets_everything_from_the_start(local: tuple[MlflowClient, str], book: Logbook) -> None:
    client, first = local
    second = client.create_run("0").info.run_id
    record(book, 1)
    for run_id in (first, second):
        deliver(book.folder, run_id, 30, client=client)
        record(book, 2)
    assert arrived(client, first) == expected(1)
    assert arrived(client, second) == expected(1, 2)


def test_a_line_that_is_being_written_waits_for_its_end(local: tuple[MlflowClient, str], book: Logbook) -> None:
    client, run_id = local
    record(book, 1)
    with (book.folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "time_ms"')
    deliver(book.folder, run_id, 30, client=client)
    assert arrived(client, run_id) == expected(1)
    again = Logbook(book.folder)  # the process was killed there, and another goes on
    record(again, 2)
    deliver(book.folder, run_id, 30, client=client)
    assert arrived(client, run_id) == expected(1, 2)


def test_a_checkpoint_whose_bytes_changed_on_the_disk_is_not_sent(
    local: tuple[MlflowClient, str], book: Logbook
) -> None:
    client, run_id = local
    path = book.save(state(1))
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(NotDeliveredError, match=r"last-0\.pt: its bytes are not those that last-0\.json names"):
        deliver(book.folder, run_id, 30, client=client)
    assert there(client, run_id) == {}


def test_a_file_system_without_hard_links_gets_a_copy(
    local: tuple[MlflowClient, str], book: Logbook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def not_here(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", not_here)
    client, run_id = local
    book.save(state(1))
    deliver(book.folder, run_id, 30, client=client)
    assert fetched(client, run_id, tmp_path / "fetched").epoch == 1


def test_a_folder_on_another_machine_goes_on_with_the_older_slot(
    local: tuple[MlflowClient, str], book: Logbook, tmp_path: Path
) -> None:
    client, run_id = local
    for epoch in (1, 2, 3):  # to last-0, last-1, last-0 there
        book.save(state(epoch))
        deliver(book.folder, run_id, 30, client=client)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(client.download_artifacts(run_id, "checkpoints"), elsewhere / "book")
    found = Logbook(elsewhere / "book").newest()
    assert found is not None
    assert found.checkpoint.epoch == 3
    Logbook(elsewhere / "book").save(state(4))
    deliver(elsewhere / "book", run_id, 30, client=client)
    assert json.loads((elsewhere / "book" / "delivered.json").read_text())["slot"] == "last-1"
    assert fetched(client, run_id, tmp_path / "fetched").epoch == 4


def test_one_courier_a_folder(local: tuple[MlflowClient, str], book: Logbook) -> None:
    client, run_id = local
    with (
        Courier(book.folder, run_id, client=client),
        pytest.raises(InputError, match=rf"{book.folder}: that run is under way in another process"),
        Courier(book.folder, run_id, client=client),
    ):
        pass
    with Courier(book.folder, run_id, client=client) as courier:
        courier.finish(5)
