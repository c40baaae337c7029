"""How long a person waits for a command: until its first training step is done, for help, for a usage error."""

import os
import pty
import re
import subprocess
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cxr.benchmarks.table import Row

_ROOT = Path(__file__).parent.parent.parent
_STEP_DONE = re.compile(rb"epoch 1/\d+:[^\r]*?\b[1-9]\d*/\d+ \[")  # the progress bar, once it has left 0


def measure(train: Sequence[str], values: Sequence[str], *, tries: int = 3) -> Iterator[Row]:
    """Seconds from the start of the process, the fastest of `tries`.

    `train` is the command, `values` its parameters. A first run, which is not timed, packs the images and makes
    the tracking store, in a folder of its own. Each run after it has another seed, so that it makes its split
    anew and finds nothing but the images, packed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        waits = [_until_first_step([*train, *values, "--seed", str(seed)], place) for seed in range(tries + 1)]
        helps = [_until_end([*train, "--help"], place, code=0) for _ in range(tries)]
        errors = [_until_end([*train, "--epochs", "none"], place, code=2) for _ in range(tries)]
    yield Row(
        part="start", measure="train, first step done", value=min(waits[1:]), unit="s",
        against="images packed, split made anew", goal=15.0,
    )  # fmt: skip
    yield Row(part="start", measure="train, help", value=min(helps), unit="s", goal=2.0)
    yield Row(part="start", measure="train, usage error", value=min(errors), unit="s", goal=2.0)


def _until_first_step(command: Sequence[str], place: Path) -> float:
    """Seconds until the progress bar, as a person sees it on a terminal, has left 0; waits for the end."""
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 100))
    start, waited, shown = time.perf_counter(), 0.0, b""
    try:
        with subprocess.Popen(
            command, cwd=place, env=_environment(place), stdin=subprocess.DEVNULL, stdout=its_end, stderr=its_end
        ) as process:
            os.close(its_end)
            try:
                while piece := _read(terminal):
                    shown += piece
                    if not waited and _STEP_DONE.search(shown):
                        waited = time.perf_counter() - start
            except BaseException:
                process.terminate()
                raise
    finally:
        os.close(terminal)
    if process.returncode or not waited:
        said = shown.decode(errors="replace")[-1000:]
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}, first step not seen: {said}")
    return waited


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # nobody writes to it any more
        return b""


def _until_end(command: Sequence[str], place: Path, *, code: int) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=_environment(place), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}, expected {code}: {done.stderr}")
    return seconds


def _environment(place: Path) -> dict[str, str]:
    """Ours without what ties it to a tracking server or a run, and with the way to this project's code."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = os.pathsep.join(filter(None, [str(_ROOT), kept.get("PYTHONPATH", "")]))
    return kept | {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db", "PYTHONPATH": path}
