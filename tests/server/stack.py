"""What docker/compose.yaml starts, without containers: PostgreSQL, the tracking server by its script, nginx."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

DOCKER = Path(__file__).parent.parent.parent / "docker"
BIN = Path(sys.executable).parent
ADMIN_PASSWORD = "of-the-admin-in-tests"
_DATABASE_PASSWORD = "of-the-database-in-tests"


def tool(name: str) -> Path | None:
    """A program of PostgreSQL's or nginx: Debian keeps them off the PATH of users."""
    places = [
        *os.environ["PATH"].split(":"),
        "/usr/sbin",
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))),
    ]
    found = shutil.which(name, path=":".join(reversed(places)))
    return Path(found) if found else None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Stack:
    """All of it below one folder, each part on a port of its own; each can be killed and come back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres_port, self.tracking_port, self.proxy_port = free_port(), free_port(), free_port()
        self.uri = f"http://127.0.0.1:{self.proxy_port}"
        self.artifacts = folder / "artifacts"
        self.artifacts.mkdir()
        for name, word in (("database", _DATABASE_PASSWORD), ("admin", ADMIN_PASSWORD), ("key", "k" * 32)):
            (folder / name).write_text(word)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------ PostgreSQL

    def make_database(self) -> None:
        data = self.folder / "postgres"
        data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(data, "postgres", "postgres")
        words = [
            "--username=mlflow",
            "--auth=scram-sha-256",
            f"--pwfile={self.folder}/database",
            "--no-instructions",
        ]
        subprocess.run([*self._as_postgres(), str(tool("initdb")), f"--pgdata={data}", *words], check=True,
                       capture_output=True, cwd="/")  # fmt: skip
        self.start_postgres()
        for database in ("mlflow", "mlflow_auth"):
            self.sql("postgres", f"CREATE DATABASE {database}")

    def start_postgres(self) -> None:
        self._start("postgres", [
            *self._as_postgres(), str(tool("postgres")), "-D", str(self.folder / "postgres"),
            "-p", str(self.postgres_port), "-c", "listen_addresses=127.0.0.1",
            "-c", f"unix_socket_directories={self.folder}/postgres",
        ], {})  # fmt: skip
        for _ in range(300):
            if (
                subprocess.run(
                    [str(tool("pg_isready"))], env=self.postgres_environment, capture_output=True
                ).returncode
                == 0
            ):
                return
            time.sleep(0.1)
        raise AssertionError(self.log("postgres"))

    def sql(self, database: str, command: str) -> str:
        words = ["--no-psqlrc", "--tuples-only", "--no-align", f"--dbname={database}", f"--command={command}"]
        done = subprocess.run(
            [str(tool("psql")), *words],
            env=self.postgres_environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    @property
    def postgres_environment(self) -> dict[str, str]:
        """What compose.yaml gives to its tools."""
        place = tool("pg_dump")
        assert place
        return {
            "PATH": f"{place.parent}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1", "PGPORT": str(self.postgres_port),
            "PGUSER": "mlflow", "PGPASSWORD": _DATABASE_PASSWORD, "ARTIFACTS": str(self.artifacts),
            "PGPASSFILE_FROM": str(self.folder / "database"),
        }  # fmt: skip

    @staticmethod
    def _as_postgres() -> list[str]:
        return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root

    # ------------------------------------------------------------ the tracking server and the proxy

    def start_tracking(self) -> None:
        self._start("tracking", [str(DOCKER / "serve-tracking")], {
            "POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(self.postgres_port),
            "POSTGRES_PASSWORD_FILE": str(self.folder / "database"),
            "ADMIN_PASSWORD_FILE": str(self.folder / "admin"),
            "SECRET_KEY_FILE": str(self.folder / "key"), "AUTH_CONFIG": str(self.folder / "basic_auth.ini"),
            "HOST": "127.0.0.1", "PORT": str(self.tracking_port), "WORKERS": "2", "ARTIFACTS": str(self.artifacts),
            "ALLOWED_HOSTS": f"127.0.0.1:{self.proxy_port},127.0.0.1:{self.tracking_port}",
            "ALLOWED_ORIGINS": self.uri,
        })  # fmt: skip
        for _ in range(600):
            assert self._processes["tracking"].poll() is None, self.log("tracking")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.tracking_port}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise AssertionError(self.log("tracking"))

    def start_proxy(self, *, model: str = "127.0.0.1:1") -> None:
        values = {
            "PROXY_PORT": f"127.0.0.1:{self.proxy_port}",
            "TRACKING": f"127.0.0.1:{self.tracking_port}", "MODEL": model,
            "RESOLVER": "127.0.0.1", "MAX_UPLOAD": "1g", "MAX_INVOCATION": "32m",
        }  # fmt: skip
        text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], (DOCKER / "proxy.conf.template").read_text())
        (self.folder / "server.conf").write_text(text)
        places = "".join(
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"daemon off; {user} pid {self.folder}/nginx.pid; events {{}} http {{ {places} "
            f"log_format calls '$msec $request_time $request_method $uri'; "
            f"access_log {self.folder}/access.log calls; include {self.folder}/server.conf; }}"
        )
        self._start("proxy", [
            str(tool("nginx")), "-p", str(self.folder), "-e", str(self.folder / "proxy.log"), "-c",
            str(self.folder / "nginx.conf"),
        ], {})  # fmt: skip
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.proxy_port), timeout=1).close()
                return
            time.sleep(0.1)
        raise AssertionError(self.log("proxy"))

    def calls(self, start: float, end: float) -> list[tuple[float, str]]:
        """Calls that ended between two times (seconds since 1970), as the proxy noted them: seconds and what."""
        lines = [line.split(" ", 2) for line in (self.folder / "access.log").read_text().splitlines()]
        return [(float(took), what) for at, took, what in lines if start <= float(at) <= end]

    def as_user(self, name: str, password: str) -> dict[str, str]:
        """The environment of a client."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        return kept | {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password,
        }  # fmt: skip

    def account(self, name: str, may: str) -> str:
        """Make an account by the script; its password."""
        done = subprocess.run(
            [sys.executable, str(DOCKER / "account"), name, may], env=self.as_user("admin", ADMIN_PASSWORD),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.endswith(f"{name} may {may}\n"), done
        return done.stdout.partition(f"password of {name}: ")[2].partition("\n")[0]

    def tool_run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run docker/backup or docker/restore."""
        return subprocess.run(
            [str(DOCKER / name), *words],
            env=self.postgres_environment,
            capture_output=True,
            text=True,
            check=False,
        )

    # ------------------------------------------------------------ processes

    def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        with (self.folder / f"{name}.log").open("a") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=kept | path | dict(environment),
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a part with all its processes; by SIGKILL as a machine that loses its power."""
        process = self._processes.pop(name)
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        if how == signal.SIGKILL:
            for one in family:
                with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                    one.send_signal(how)
        else:
            # PostgreSQL would wait for its clients at SIGTERM; the one that `runuser` started must be asked itself
            chief = family[1] if name == "postgres" and os.geteuid() == 0 else process
            chief.send_signal(signal.SIGINT if name == "postgres" else how)
        process.wait(30)
        psutil.wait_procs(family[1:], timeout=30)

    def stop(self) -> None:
        for name in list(self._processes):
            self.end(name)


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    """The whole of it, answering; ended with the block."""
    # not below pytest's folder, which the user postgres may not enter
    folder = Path(tempfile.mkdtemp(prefix="cxr-stack-"))
    folder.chmod(0o755)
    made = Stack(folder)
    try:
        made.make_database()
        made.start_tracking()
        made.start_proxy()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
