"""Waiting for another process without guessing how long it takes."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def release(fifo: Path) -> None:
    """Let the one who waits at a blocked file go on, with an empty file."""

    def opened() -> bool:
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody waits there yet
            return False
        return True

    wait_until(opened)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def end(process: subprocess.Popen[str], seconds: float = 20) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process that ends within the time."""
    code = process.wait(seconds)
    return code, process.stdout.read(), process.stderr.read()
