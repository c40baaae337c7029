"""The `mlflow run` that started us: its end is ours, and ours is its.

MLflow's command does not care for the process that it started: a SIGTERM ends it at once and reaches nobody else.
And it calls a run FAILED whose process ended with any code but 0, whatever the run says itself (MLflow 3.17 asks
whether it is ended, and compares a word with numbers).
"""

import os
import select
import threading
import time
from pathlib import Path

import psutil

from cxr.interrupt import signal_main


def follow(*pids: int) -> None:
    """Send ourselves SIGTERM as soon as one of the processes is gone, however it ended.

    Without `pids`: the `mlflow run` that started us and what stands between (bash). A SIGTERM ends these at once
    and reaches nobody else. Nothing is followed where MLFLOW_RUN_ID is not set, or where no ancestor is `mlflow
    run`: the variable may have been set by hand, or come from outside a container. An `mlflow run` that ended in
    the tenth of a second before it is looked at leaves the same picture, and we go on.
    """
    if not pids and "MLFLOW_RUN_ID" not in os.environ:
        return
    try:
        processes = [psutil.Process(pid) for pid in pids] or _ancestors()
    except psutil.NoSuchProcess:
        signal_main()
        return
    if processes:
        threading.Thread(target=_follow, args=(processes,), name="follow", daemon=True).start()


def end() -> None:
    """End the `mlflow run` that started us, so that what we say of our run is the last word on it."""
    ancestors = _ancestors() if "MLFLOW_EXPERIMENT_ID" in os.environ else []
    if ancestors:
        try:
            ancestors[-1].terminate()
            ancestors[-1].wait(2)
        except psutil.Error:  # gone already, or not ours
            pass


def _ancestors() -> list[psutil.Process]:
    """Our ancestors up to the nearest `mlflow run`, it included; empty where there is none."""
    try:
        ancestors = psutil.Process().parents()  # the nearest first
        for place, process in enumerate(ancestors):
            if _is_mlflow_run(process.cmdline()):
                return ancestors[: place + 1]
    except psutil.Error:  # one that ended meanwhile, or another user's
        pass
    return []


def _is_mlflow_run(words: list[str]) -> bool:
    """Whether a command line is `mlflow run`, `python .../bin/mlflow run` or `python -m mlflow run`."""
    names = [Path(word).stem for word in words]
    return "mlflow" in names and "run" in words[names.index("mlflow") + 1 :]


def _follow(processes: list[psutil.Process]) -> None:
    poll = select.poll()
    try:
        for process in processes:
            poll.register(os.pidfd_open(process.pid), select.POLLIN)
        wait = poll.poll
    except ProcessLookupError:
        signal_main()
        return
    except (AttributeError, OSError):  # not Linux; a kernel that is old or guarded
        wait = None
    # asked once the descriptors are open: they are of these very processes, whoever gets the numbers later
    while all(_lives(process) for process in processes):
        wait() if wait else time.sleep(1)
    signal_main()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
