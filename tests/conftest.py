"""What tests share: tiny drawn cohorts, a tracking store of their own, and the real files where there are any."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# before torch is imported: its threads shall not spin against whatever else runs here
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests start a hundred processes: where nobody keeps the bytecode, each compiles torch and mlflow anew, for 6 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

ROOT = Path(__file__).parent.parent
# CXR_REAL_DATA names a folder with nih/, external/ and predictions/; without it the real-data cases skip.
REAL_DATA = os.environ.get("CXR_REAL_DATA", "")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files; skips where there is none."""
    if not REAL_DATA:
        pytest.skip("CXR_REAL_DATA is not set: it names the folder with the real NIH files")
    folder = Path(REAL_DATA).absolute()
    assert (folder / "nih").is_dir(), f"CXR_REAL_DATA={REAL_DATA} has no nih/"
    return folder


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn cohort of 24 patients, 64 px, in NIH's layout. Read only."""
    from cxr.data import phantom

    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    phantom.draw(folder, patients=24, size=64)
    return folder


@pytest.fixture(scope="session")
def empty_tracking_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite tracking store without runs: copying it is faster than migrating each time."""
    import mlflow

    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # artifacts go where the database was made
        mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def tracking_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_tracking_database: Path
) -> Iterator[str]:
    """An empty SQLite tracking store, active for the test, and the working directory; its URI."""
    import mlflow

    shutil.copy(empty_tracking_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(uri)
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts Python code in a process that has said "ready"."""
    started: list[subprocess.Popen[str]] = []
    # a test run in the background of a script ignores SIGINT, and so would what it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(code: str) -> subprocess.Popen[str]:
        (tmp_path / "code.py").write_text(code)
        process = subprocess.Popen(
            [sys.executable, tmp_path / "code.py"], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        said = process.stdout.readline()
        assert said == "ready\n", said + process.stderr.read()
        return process

    yield run
    signal.signal(signal.SIGINT, before)
    for process in started:
        with process:
            process.kill()
