"""A stage as a process of its own, as a shell or `mlflow run` starts it: to send it signals, and to watch it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import psutil
from mlflow.entities import Run

from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


class StageProcess:
    """`python -m entrypoints.<stage> --name value ...`, or the same through `mlflow run`, leading a group."""

    def __init__(
        self, stage: str, folder: Path, uri: str, *, through_mlflow: bool = False, in_background: bool = False,
        **parameters: object,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        if through_mlflow:
            words = [f"-P{name}={value}" for name, value in parameters.items()]
            command = [str(BIN / "mlflow"), "run", str(ROOT), "--env-manager", "local", "-e", stage, *words]
        else:
            words = [word for name, value in parameters.items() for word in (f"--{name}", str(value))]
            command = [sys.executable, "-m", f"entrypoints.{stage}", *words]
        self._out, self._err = folder / "out", folder / "err"
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(folder / "cache"),
        }  # fmt: skip
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_ignore_ctrl_c if in_background else None,
            )
        self._seen: dict[int, psutil.Process] = {}

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def family(self) -> list[psutil.Process]:
        """All processes that were ever seen below this one, itself included, and still live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in (mother := psutil.Process(self.process.pid), *mother.children(recursive=True)):
                self._seen[one.pid] = one
        return [one for one in self._seen.values() if _lives(one)]

    def own(self) -> psutil.Process:
        """The process of the stage's own code, below `mlflow run` or not."""
        return next(one for one in self.family() if "entrypoints" in " ".join(one.cmdline()[:3]))

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Until the process has said so; an end before that fails with all it said."""
        wait_until(lambda: text in self.out or self._ended(), seconds)
        assert text in self.out, f"{self.out}\n{self.err}"

    def _ended(self) -> bool:
        self.family()
        return self.process.poll() is not None

    def wait(self, seconds: float = 240) -> int:
        """The exit code."""
        return self.process.wait(seconds)

    def stop(self) -> None:
        """Kill whatever is left."""
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        self.process.wait(30)


def _ignore_ctrl_c() -> None:
    """As a script's shell starts `command &`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def position(folder: Path) -> tuple[int, int]:
    """Epochs and steps of the newest checkpoint in a folder, by its json; (0, 0) where there is none."""
    found = [(0, 0)]
    for about in folder.glob("last-*.json"):
        with contextlib.suppress(ValueError, FileNotFoundError):
            said = json.loads(about.read_text())
            found.append((said["epoch"], said["step"]))
    return max(found)


@dataclass
class Place:
    """A tracking store, a split run on it, and how train is called on both."""

    folder: Path
    uri: str
    data: Path
    split_run: str = ""
    started: list[StageProcess] = field(default_factory=list)

    def train(
        self, *, through_mlflow: bool = False, in_background: bool = False, **parameters: object
    ) -> StageProcess:
        own = (
            {"split_run": self.split_run, "image_size": 64, "batch_size": 4} if "resume" not in parameters else {}
        )
        everywhere = {"data": self.data, "store": self.folder / "store", "register_as": ""}
        place = self.folder / str(len(self.started))
        process = StageProcess(
            "train",
            place,
            self.uri,
            through_mlflow=through_mlflow,
            in_background=in_background,
            **{**everywhere, **own, **parameters},
        )
        self.started.append(process)
        return process

    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri)

    def newest_run(self) -> Run:
        found: list[Run] = self.client().search_runs(["0"], "tags.stage = 'train'", max_results=1)
        return found[0]

    def logbook(self, run_id: str) -> Path:
        return self.folder / "store" / f"training-{run_id}"

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        return [(one.step, one.value) for one in self.client().get_metric_history(run_id, name)]

    def run_id_of(self, process: StageProcess) -> str:
        """The run of a process, which is training by now."""
        process.wait_for("epoch 1")
        return str(self.newest_run().info.run_id)

    def tidy(self) -> None:
        """End what runs, and give back the disk that checkpoints take: hundreds of megabytes a run."""
        for process in self.started:
            process.stop()
        for folder in (
            *self.folder.glob("store/training-*"),
            *self.folder.glob("mlruns/*/*/artifacts/checkpoints"),
        ):
            shutil.rmtree(folder, ignore_errors=True)


def place_on(folder: Path, uri: str, data: Path) -> Place:
    split = StageProcess("split", folder / "split", uri, data=data, store=folder / "store")
    assert split.wait() == 0, split.err
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"], "tags.stage = 'split'")
    return Place(folder, uri, data, run.info.run_id)
