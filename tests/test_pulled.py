"""A version pulled from a server into an environment that holds its requirements and nothing else.

No pickle is read on the way, and once downloaded it needs no network.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from cxr import registry
from cxr.data.image import example_png
from cxr.findings import CLASSES
from cxr.model import Spec, build, save_network
from cxr.serving import WEIGHTS
from tests.tracking_server import tracking_server

SIZE = 64
PIXELS = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE)).astype(np.uint8)

# Reads every URI that it is given and prints its scores. An audit hook sees what patches may miss: every class
# that any unpickler looks up, and every address that any library asks for.
PULL = """
import importlib.util, json, pickle, sys
from pathlib import Path

assert importlib.util.find_spec("cxr") is None, "cxr can be imported here: the test would show nothing"
offline, *uris = sys.argv[1:]
import mlflow, pandas, torch

def refused(*_, **__):
    raise AssertionError("a pickle was read")

def watch(event, given):
    if event == "pickle.find_class":
        raise AssertionError(f"a pickle was read: {given}")
    if offline == "offline" and event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"the network was asked: {given}")

# a class still, since others are derived from it
pickle.Unpickler = type("Unpickler", (pickle.Unpickler,), {"__init__": refused})
pickle.load = pickle.loads = torch.load = refused
sys.addaudithook(watch)
table = pandas.DataFrame({"image": [Path(f"{number}.png").read_bytes() for number in range(3)]})
said = {}
for uri in uris:
    model = mlflow.pyfunc.load_model(uri)
    scores = model.predict(table)
    network = model.unwrap_python_model().network("cpu")
    with torch.inference_mode():
        logits = network(torch.zeros(2, 3, 64, 64))
    said[uri] = [list(scores.columns), scores.to_numpy().tolist(), logits.tolist()]
if offline != "offline":
    mlflow.artifacts.download_artifacts(artifact_uri=uris[0], dst_path="pulled")
try:
    pickle._loads(pickle.dumps(Path()))  # the one in Python, which is not patched
except AssertionError:
    print(json.dumps(said))  # the watch is awake
"""


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    drawn = build("resnet18", seed=1)
    drawn(torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)))  # running statistics
    return drawn.eval()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, network: torch.nn.Module) -> Iterator[str]:
    """The URI of a server that has `models:/pulled/1`, which is @candidate."""
    folder = tmp_path_factory.mktemp("served")
    with tracking_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        mlflow.set_tracking_uri(server.uri)
        save_network(folder / WEIGHTS, network.state_dict(), Spec(arch="resnet18", image_size=SIZE))
        with mlflow.start_run(experiment_id="0") as run:
            uri = registry.log_model(folder / WEIGHTS, example_png(), step=1, tags={})
        registry.ensure_version("pulled", uri, run.info.run_id, {})
        registry.set_alias("pulled", "candidate", "1")
        yield server.uri
        mlflow.set_tracking_uri(None)


def uv(*words: str, cwd: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(["uv", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def pull(folder: Path, tracking_uri: str, *words: str) -> dict[str, list[object]]:
    """What the clean environment's Python says; without this project, its variables or its folder."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    own = {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [str(folder / "clean" / "bin" / "python"), "-I", "-c", PULL, *words],
        cwd=folder, env=kept | own, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("uv"), reason="uv is not on the PATH; it makes the environment")
def test_it_loads_where_only_its_requirements_are_and_once_downloaded_without_a_network(
    served: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    for number, pixels in enumerate(PIXELS):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        (tmp_path / f"{number}.png").write_bytes(stream.getvalue())
    wanted = mlflow.artifacts.download_artifacts("models:/pulled/1/requirements.txt", dst_path=str(tmp_path))
    uv("venv", "--quiet", "--python", sys.executable, "clean", cwd=tmp_path)
    uv("pip", "install", "--quiet", "--python", "clean", "-r", wanted, cwd=tmp_path)

    by_server = pull(tmp_path, served, "online", "models:/pulled/1", "models:/pulled@candidate")
    by_folder = pull(tmp_path, "http://127.0.0.1:9", "offline", "pulled")
    shutil.rmtree(tmp_path / "clean")  # six gigabytes, where the cache cannot be linked to

    scaled = torch.from_numpy((PIXELS.astype(np.float32) / 255 - 0.5) / 0.25)
    with torch.inference_mode():
        expected = network(scaled[:, None].repeat(1, 3, 1, 1)).double().sigmoid().numpy()
        logits = network(torch.zeros(2, 3, SIZE, SIZE)).numpy()
    for columns, scores, of_zeros in (by_server | by_folder).values():
        assert columns == list(CLASSES)
        np.testing.assert_allclose(scores, expected, atol=1e-6, rtol=0)
        np.testing.assert_allclose(of_zeros, logits, atol=1e-6 * np.abs(logits).max(), rtol=0)
    assert len(by_server | by_folder) == 3
