"""Serving: what a request to `mlflow models serve` costs, against decoding and the bare forward pass here.

Server and clients share this machine, as they would not in service, and the pictures are noise of 1,024 px, which
is the worst that a PNG decoder can get.
"""

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from cxr.benchmarks.table import Row
from cxr.data.augment import normalise
from cxr.data.image import decode

_PIXELS = 1024  # a side, as NIH's
_CLIENTS = 4
_READY = 180  # seconds that the server may take to start


def measure(
    model: Path, network: nn.Module, *, arch: str, size: int, requests: int = 40, batch: int = 8
) -> Iterator[Row]:
    """Milliseconds of a request with one image; images a second of larger and of concurrent ones.

    `model` is a folder that MLflow serves, `network` the same network here, in eval mode. Raises RuntimeError
    where the server does not start.
    """
    encoded = _picture()
    what = f"{arch}, {size} px, PNG of {_PIXELS} px"
    one, several = _body(encoded, 1), _body(encoded, batch)
    black = np.zeros((batch, size, size), np.uint8)
    with _served(model) as port:
        forward, bare, single = _turns(
            requests,
            lambda: _forward(network, black[:1]),
            lambda: _forward(network, decode(encoded, size)[None]),
            lambda: _ask(port, one),
        )
        many, batched = _turns(
            max(5, requests // batch), lambda: _forward(network, black), lambda: _ask(port, several)
        )
        with ThreadPoolExecutor(_CLIENTS) as pool:
            start = time.perf_counter()
            list(pool.map(lambda _: _ask(port, one), range(requests)))
            concurrent = requests / (time.perf_counter() - start)

    def row(measure: str, value: float, unit: str, against: str = "") -> Row:
        return Row(part="serving", measure=measure, value=value, unit=unit, against=against)

    yield row("forward pass of one image", 1e3 * float(np.median(forward)), "ms", what)
    yield row("decoding and forward pass", 1e3 * float(np.median(bare)), "ms", "in this process")
    yield row("a request with one image, median", 1e3 * float(np.median(single)), "ms", f"{requests} requests")
    yield row("a request with one image, 95 % within", 1e3 * float(np.quantile(single, 0.95)), "ms")
    yield row("a request over decoding and forward pass", float(np.median(single) / np.median(bare)), "ratio")
    yield row(f"requests of {batch} images", batch / float(np.median(batched)), "images/s",
              f"{batch / float(np.median(many)):.3g} by the forward pass alone")  # fmt: skip
    yield row(f"{_CLIENTS} clients at once, one image each", concurrent, "images/s",
              f"{1 / float(np.median(forward)):.3g} by the forward pass alone")  # fmt: skip


def _picture() -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (_PIXELS, _PIXELS), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def _body(encoded: bytes, images: int) -> bytes:
    rows = [[base64.b64encode(encoded).decode()]] * images
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()


@torch.inference_mode()
def _forward(network: nn.Module, pixels: np.ndarray) -> torch.Tensor:
    logits: torch.Tensor = network(normalise(torch.tensor(pixels)))
    return logits


def _ask(port: int, body: bytes) -> None:
    call = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    call.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = call.getresponse()
    text = answer.read()
    call.close()
    if answer.status != 200:
        raise RuntimeError(f"the model server answers {answer.status}: {text[:300]!r}")


def _turns(times: int, *ways: Callable[[], object]) -> np.ndarray:
    """Seconds [ways, times] of calls that take turns, after two rounds that are not timed."""
    taken = np.empty((len(ways), times + 2))
    for turn in range(times + 2):
        for number, way in enumerate(ways):
            start = time.perf_counter()
            way()
            taken[number, turn] = time.perf_counter() - start
    return taken[:, 2:]


@contextmanager
def _served(model: Path) -> Iterator[int]:
    """The port of `mlflow models serve`, as the README starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local",
               "--port", str(port)]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    server = subprocess.Popen(
        command, cwd=model.parent, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        _wait(server, port)
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _READY
    while time.monotonic() < deadline and server.poll() is None:
        call = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            call.request("GET", "/ping")
            if call.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.3)
        finally:
            call.close()
    raise RuntimeError(f"`mlflow models serve` did not answer within {_READY} s")
