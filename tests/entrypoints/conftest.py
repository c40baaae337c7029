"""Calling a command as a program does, without a process of its own."""

import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from entrypoints.door import enter
from tests.stage_process import Place, place_on


@dataclass(frozen=True)
class Called:
    """What a person sees of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def own_cohort(phantom_folder: Path, tmp_path: Path) -> Path:
    """A copy of the drawn cohort that a test may spoil."""
    return Path(shutil.copytree(phantom_folder, tmp_path / "cohort"))


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn metadata of 300 patients, and no image. Read only."""
    from cxr.data import phantom

    folder = tmp_path_factory.mktemp("tables") / "cohort"
    phantom.draw(folder, patients=300, size=64)
    shutil.rmtree(folder / "images")
    return folder


@pytest.fixture(scope="session")
def whole_chain(
    tmp_path_factory: pytest.TempPathFactory, empty_tracking_database: Path, phantom_folder: Path
) -> Path:
    """One call of `main` on the drawn cohort: the folder with its mlflow.db and its store. Read only."""
    import mlflow
    from click.testing import CliRunner

    from entrypoints.main import main

    folder = tmp_path_factory.mktemp("chain")
    shutil.copy(empty_tracking_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        words = {"data": phantom_folder, "store": folder / "store", "image_size": 64, "epochs": 2,
                 "arch": "resnet18", "batch_size": 8}  # fmt: skip
        arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        done = CliRunner().invoke(main, arguments, prog_name="main", catch_exceptions=False)
        mlflow.set_tracking_uri(None)
    assert done.exit_code == 0, done.output
    assert "models:/cxr-resnet50/1" in done.output
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Called]]:
    """`call("train", epochs=1)` runs the command as `python -m entrypoints.train --epochs 1` would."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(stage: str, **parameters: object) -> Called:
        words = [word for name, value in parameters.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", [stage, *words])
        with pytest.raises(SystemExit) as end:
            enter(importlib.import_module(f"entrypoints.{stage}").main, stage)
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Called(end.value.code, captured.out, captured.err)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
    os.environ.pop("MLFLOW_RUN_ID", None)


@pytest.fixture(scope="module")
def shelf(
    tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path, empty_tracking_database: Path
) -> Iterator[Place]:
    """Without a server: a SQLite store."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copy(empty_tracking_database, folder / "mlflow.db")
    place = place_on(folder, f"sqlite:///{folder}/mlflow.db", phantom_folder)
    yield place
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test on the shelf."""
    yield
    if "shelf" in request.fixturenames:
        request.getfixturevalue("shelf").tidy()
