"""A real `mlflow server` for tests, that can be killed and come back on the same port and database."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

BIN = Path(sys.executable).parent


class TrackingServer:
    """A SQLite store and artifacts through the server, all below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def artifacts(self) -> Path:
        """Where the server puts what is uploaded: `<experiment>/<run>/artifacts/...`."""
        return self.folder / "artifacts"

    def start(self) -> None:
        """Start it, for the first time or after a kill, unless it runs; returns when it answers."""
        if self._process is not None:
            return
        command = [str(BIN / "mlflow"), "server", "--workers", "1",
                   "--host", "127.0.0.1", "--port", str(self.port),
                   "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                   "--artifacts-destination", str(self.artifacts)]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        self._wait_until_it_answers(self._process)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        log = self.folder / "log"
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"the server did not answer in two minutes: {log.read_text()}")

    def kill(self) -> None:
        """SIGKILL to all its processes, as a machine that loses its power."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    """A server that answers, on a free port; ended with the block."""
    server = TrackingServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
