"""A tracking server that refuses, or a database that cannot be opened: one message, without a password."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest

# What `mlflow server --app-name basic-auth` of MLflow 3.17 answers, as it was measured
REFUSALS = {
    401: "You are not authenticated. Please see https://www.mlflow.org/docs/latest/auth/index.html#authenticating-to-"
    "mlflow on how to authenticate.",
    403: "Permission denied",
}


@pytest.fixture
def refusing() -> Iterator[Callable[[int], str]]:
    """Starts a server that answers /health and refuses everything else with a status; its URI."""
    started = []

    def start(status: int) -> str:
        class Refusing(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                healthy = self.path == "/health"
                self.send_response(200 if healthy else status)
                self.end_headers()
                self.wfile.write(b"OK" if healthy else REFUSALS[status].encode())

            do_POST = do_GET  # noqa: N815  # http.server's name

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Refusing)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def use(uri: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)

    yield use
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    ("status", "user", "words"),
    [
        (403, "reader", "refuses model-versions/get to reader: Permission denied. That call changed nothing"),
        (
            401,
            "reader",
            "does not accept the password of reader: expected one of its users in MLFLOW",
        ),
        (401, "", "asks who you are: expected one of its users in MLFLOW_TRACKING_USERNAME, and the password in"),
    ],
)
def test_a_server_that_refuses_is_named_with_what_it_refuses_and_to_whom(
    call: Callable, tracked: Callable, refusing: Callable, monkeypatch: pytest.MonkeyPatch, status: int, user: str,
    words: str,
) -> None:  # fmt: skip
    if user:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret-of-reader")
    uri = refusing(status)
    tracked(uri)
    done = call("register", model="models:/cxr-resnet50/1")
    assert done.code == 1
    assert f"Error: {uri} {words}" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert "secret-of-reader" not in done.err


@pytest.mark.parametrize(
    ("uri", "shown", "words"),
    [
        ("mysql+mysqldb://me:secret@nowhere/db", "mysql+mysqldb://me:***@nowhere/db", "No module named 'MySQLdb'"),
        (
            "mssql+pymssql://me:sec@ret@nowhere/db",
            "mssql+pymssql://me:***@nowhere/db",
            "No module named 'pymssql'",
        ),
        ("postgresql+nodriver://me:secret@nowhere/db", "postgresql+nodriver://me:***@nowhere/db", "nodriver"),
    ],
)
def test_a_database_without_its_driver_is_named_without_its_password(
    call: Callable, tracked: Callable, uri: str, shown: str, words: str
) -> None:
    tracked(uri)
    done = call("register", model="models:/cxr-resnet50/1")
    assert done.code == 1
    said = " ".join(done.err.split())
    assert f"Error: MLFLOW_TRACKING_URI={shown}: this database cannot be used" in said
    assert words in said
    assert "Traceback" not in done.err
    assert "sec" not in said


def test_a_database_that_is_none_is_named(call: Callable, tracked: Callable, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, and it was never one " * 100)
    tracked(f"sqlite:///{tmp_path}/mlflow.db")
    done = call("register", model="models:/cxr-resnet50/1")
    assert done.code == 1
    assert f"Error: MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/mlflow.db: this database cannot be used" in done.err
    assert "not a database" in done.err
    assert "Traceback" not in done.err


def test_a_server_that_is_away_is_named_without_its_password(call: Callable, tracked: Callable) -> None:
    tracked("http://me:secret@127.0.0.1:9")
    done = call("register", model="models:/cxr-resnet50/1")
    assert done.code == 1
    said = " ".join(done.err.split())
    assert "MLFLOW_TRACKING_URI=http://me:***@127.0.0.1:9: no tracking server answers there" in said
    assert "secret" not in said
