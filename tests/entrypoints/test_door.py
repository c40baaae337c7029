"""Commands that are interrupted, in processes of their own: by whom, how often, and through which `mlflow run`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent

# A command that counts half steps until it is interrupted, and then takes its time to write down where it was.
STAND_IN = """
import os, sys, time
from pathlib import Path

import click

from cxr import interrupt
from entrypoints.door import enter

begun = ended = 0


def step():
    global begun, ended
    begun += 1
    if not Path("pid").exists():
        Path("pid.part").write_text(str(os.getpid()))
        Path("pid.part").rename("pid")
    time.sleep(0.02)
    ended += 1


def stuck():
    interrupt._state.grace = 1
    step()
    time.sleep(100)


def train(one_step):
    try:
        while True:
            with interrupt.held():
                one_step()
    except KeyboardInterrupt:
        time.sleep(0.4)
        Path("checkpoint").write_text(f"{begun} {ended}")
        raise


@click.command()
@click.argument("how", default="steps")
def main(how):
    if how == "steps":
        train(step)
    elif how == "error":
        from cxr.errors import TrainingError
        raise TrainingError("The loss is nan.")
    from cxr import tracking
    stage = tracking.Stage(name="train", config={}, data_digest="")
    if how == "start":
        import mlflow
        mlflow.start_run(os.environ.pop("MLFLOW_RUN_ID"))  # and no further
        train(step)
    with tracking.run(stage, title="train", adopt=True):
        train(stuck if how == "stuck" else step)


if __name__ == "__main__":
    try:
        enter(main, "stand_in")
    except SystemExit as end:
        Path("code").write_text(str(end.code))
        raise
"""
# The shape of `mlflow run`: waits for a shell; SIGINT becomes a SIGTERM to the shell alone; SIGTERM just ends it.
MLFLOW = """
import subprocess, sys
shell = subprocess.Popen(["bash", "-c", sys.argv[2]])
try:
    shell.wait()
except KeyboardInterrupt:
    shell.terminate()
    shell.wait()
"""
BETWEEN = {
    "no shell": f"{sys.executable} -m stand_in",  # bash makes way for the one command
    "a shell": f"true && {sys.executable} -m stand_in; exit $?",
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in a process group of its own and waits until the stand-in works."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "mlflow").write_text(MLFLOW)
    started: list[subprocess.Popen[str]] = []
    # a test run in the background of a script ignores SIGINT, and so would what it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*command: str, wait: bool = True, **variables: str) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        process = subprocess.Popen(
            [sys.executable, *command], cwd=tmp_path, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": path, **variables},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        if wait:
            wait_until(lambda: (tmp_path / "pid").exists() or process.poll() is not None, 60)
        return process

    yield run
    signal.signal(signal.SIGINT, before)
    for process in started:
        with process, suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def of_group(group: int) -> list[str]:
    """Command lines of the processes of a group that are still there."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(process.cmdline()))
    return left


def ended_cleanly(process: subprocess.Popen[str], folder: Path) -> None:
    wait_until(lambda: not of_group(process.pid), 40)
    begun, ended = (folder / "checkpoint").read_text().split()
    assert begun == ended
    assert (folder / "code").read_text() == "130"


@pytest.mark.parametrize("second", [None, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stops_at_a_safe_point_and_a_second_signal_does_not_break_it(
    start: Callable, tmp_path: Path, first: signal.Signals, second: signal.Signals | None
) -> None:
    process = start("-m", "stand_in")
    process.send_signal(first)
    if second:
        time.sleep(0.2)  # the checkpoint is being written
        process.send_signal(second)
    assert process.wait(10) == 130
    ended_cleanly(process, tmp_path)
    assert process.stderr.read().strip() == "Interrupted."


def test_a_reader_that_the_same_key_has_ended_does_not_matter(start: Callable, tmp_path: Path) -> None:
    process = start("-m", "stand_in")
    process.stderr.close()  # as of `| tee log`
    process.send_signal(signal.SIGINT)
    ended_cleanly(process, tmp_path)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize(
    ("to_group", "sent"),
    [
        (False, signal.SIGTERM),
        (False, signal.SIGINT),
        (False, signal.SIGKILL),
        (True, signal.SIGTERM),
        (True, signal.SIGINT),
    ],
)
def test_what_ends_mlflow_run_stops_the_command_cleanly(
    start: Callable, tracking_store: str, tmp_path: Path, to_group: bool, sent: signal.Signals, between: str
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    process = start("mlflow", "run", BETWEEN[between], MLFLOW_RUN_ID=opened)
    assert len(of_group(process.pid)) == (3 if between == "a shell" else 2)
    if to_group:
        os.killpg(process.pid, sent)
    else:
        process.send_signal(sent)
    ended_cleanly(process, tmp_path)
    assert mlflow.get_run(opened).info.status == "KILLED"


def test_a_shell_between_that_ends_alone_stops_the_command_cleanly(
    start: Callable, tracking_store: str, tmp_path: Path
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    process = start("mlflow", "run", BETWEEN["a shell"], MLFLOW_RUN_ID=opened)
    psutil.Process(int((tmp_path / "pid").read_text())).parent().kill()
    ended_cleanly(process, tmp_path)
    assert mlflow.get_run(opened).info.status == "KILLED"


def test_training_that_cannot_go_on_is_a_message(start: Callable) -> None:
    process = start("-m", "stand_in", "error", wait=False)
    assert process.wait(30) == 1
    assert process.stderr.read().strip() == "Error: The loss is nan."


@pytest.mark.parametrize("how", ["run", "start", "stuck"])
def test_an_adopted_run_ends_killed_wherever_it_was(
    start: Callable, tracking_store: str, tmp_path: Path, how: str
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    process = start("-m", "stand_in", how, MLFLOW_RUN_ID=opened)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    run = mlflow.get_run(opened)
    assert run.info.status == "KILLED"
    assert "interrupted" in run.data.tags["failure"]
    assert (tmp_path / "checkpoint").exists() == (how != "stuck")


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        ("python -m stand_in steps", signal.SIGTERM),
        ("true && python -m stand_in run; exit $?", signal.SIGINT),
    ],
)
def test_mlflow_run_itself(
    start: Callable, tracking_store: str, tmp_path: Path, command: str, sent: signal.Signals
) -> None:
    (tmp_path / "MLproject").write_text(f"name: stand-in\nentry_points:\n  main:\n    command: '{command}'\n")
    process = start("-m", "mlflow", "run", ".", "--env-manager", "local")
    process.send_signal(sent)
    ended_cleanly(process, tmp_path)
    (run,) = mlflow.search_runs(output_format="list")
    assert (run.info.status, run.data.tags["failure"]) == ("KILLED", "interrupted")
