"""The process that started us, as a process that can end: ours ends with it, and it with ours."""

import subprocess
import time
from collections.abc import Callable

import pytest

from cxr.launcher import _is_mlflow_run
from tests.waiting import end

FOLLOW = """
import os, sys, time
if {polling}:
    del os.pidfd_open
from cxr import interrupt, launcher
interrupt.install()
try:
    launcher.follow({pid})
    print("ready", flush=True)
    time.sleep(20)
except KeyboardInterrupt:
    print("followed")
"""


@pytest.mark.parametrize("polling", [False, True], ids=["descriptor", "polling"])
def test_a_process_that_is_followed_takes_us_with_it(start: Callable, polling: bool) -> None:
    other = subprocess.Popen(["sleep", "60"])
    process = start(FOLLOW.format(polling=polling, pid=other.pid))
    time.sleep(0.2)
    assert process.poll() is None
    other.kill()  # and stays a zombie, which nobody has waited for
    assert end(process, 5) == (0, "followed\n", "")
    other.wait()


def test_to_follow_one_that_is_gone_already_is_an_interrupt(start: Callable) -> None:
    other = subprocess.Popen(["true"])
    other.wait()
    process = start("print('ready', flush=True)" + FOLLOW.format(polling=False, pid=other.pid))
    assert end(process, 5)[1].endswith("followed\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mlflow", "run", "."], True),
        (["/usr/bin/python3", "/opt/bin/mlflow", "run", ".", "-e", "train"], True),
        (["python", "-m", "mlflow", "run", "."], True),
        (["mlflow", "--env-file", ".env", "run", "."], True),
        (["uv", "run", "mlflow", "ui"], False),
        (["bash", "-c", "mlflow run ."], False),
        (["mlflow", "server"], False),
        ([], False),
    ],
)
def test_a_command_line_is_known_as_mlflow_run(words: list[str], expected: bool) -> None:
    assert _is_mlflow_run(words) == expected


@pytest.mark.parametrize("run_id", ["", "0123"])
def test_without_mlflow_run_nothing_is_followed(start: Callable, run_id: str) -> None:
    process = start(f"""
import os, threading
from cxr import launcher
if {run_id!r}:
    os.environ["MLFLOW_RUN_ID"] = {run_id!r}
launcher.follow()
print("ready")
print(threading.active_count())
""")
    assert end(process) == (0, "1\n", "")
