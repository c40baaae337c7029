"""The registered model against the network itself: in this process, in a bare one, and over REST."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from PIL import Image
from torchvision.models import ResNet

from cxr import registry
from cxr.data.image import example_png
from cxr.errors import InputError
from cxr.findings import CLASSES
from cxr.model import Spec, build, save_network
from cxr.serving import WEIGHTS, load_network

SIZE = 64


@dataclass(frozen=True)
class Registered:
    """A store with `models:/tiny/1`, the URI of the logged model behind it, and its network."""

    tracking_uri: str
    model_uri: str
    network: ResNet


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_tracking_database: Path) -> Iterator[Registered]:
    """One registered model for all tests here; they only read."""
    folder = tmp_path_factory.mktemp("serving")
    shutil.copy(empty_tracking_database, folder / "mlflow.db")
    network = build("resnet18", seed=1)
    network(torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)))
    save_network(folder / WEIGHTS, network.state_dict(), Spec(arch="resnet18", image_size=SIZE))
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{folder}/mlflow.db"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.create_experiment("serving", artifact_location=(folder / "artifacts").as_uri())
        with mlflow.start_run(experiment_id=experiment) as run:
            logged = registry.log_model(folder / WEIGHTS, example_png(), step=1, tags={})
        assert registry.ensure_version("tiny", logged, run.info.run_id, {}) == "1"
        registry.set_alias("tiny", "candidate", "1")
        yield Registered(uri, logged, network.eval())
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def model(registered: Registered) -> PyFuncModel:
    return mlflow.pyfunc.load_model("models:/tiny/1")


def noise(images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (images, SIZE, SIZE)).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def probabilities(network: ResNet, pixels: np.ndarray) -> np.ndarray:
    """sigmoid(network(normalise(pixels))), written out: pixels [N, 64, 64] uint8 -> [N, 15]."""
    scaled = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.25)
    with torch.inference_mode():
        logits = torch.cat([network(part[:, None].repeat(1, 3, 1, 1)) for part in scaled.split(7)])
    return 1 / (1 + np.exp(-logits.double().numpy()))


# ---------------------------------------------------------------- predict


@pytest.mark.parametrize("images", [1, 2, 32, 33, 70])
def test_probabilities_are_the_networks_whatever_the_number_of_images(
    registered: Registered, model: PyFuncModel, images: int
) -> None:
    pixels = noise(images, seed=images)
    table = model.predict(pd.DataFrame({"image": [encoded(one) for one in pixels]}))
    assert tuple(table.columns) == CLASSES
    np.testing.assert_allclose(table, probabilities(registered.network, pixels), atol=1e-6)


def test_a_jpeg_is_seen_as_its_decoded_pixels(registered: Registered, model: PyFuncModel) -> None:
    jpeg = encoded(noise(1)[0], "JPEG")
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
    assert (pixels != noise(1)[0]).any()
    table = model.predict(pd.DataFrame({"image": [jpeg]}))
    np.testing.assert_allclose(table, probabilities(registered.network, pixels[None]), atol=1e-6)


def test_an_image_of_another_shape_is_scaled_and_padded_as_in_training(
    registered: Registered, model: PyFuncModel
) -> None:
    wide = np.repeat(np.repeat(noise(1)[0, 16:48], 2, axis=0), 2, axis=1)  # 64 x 128, made of 2 x 2 blocks
    smaller = Image.fromarray(wide).resize((64, 32), Image.Resampling.BILINEAR)
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, 16:48] = np.asarray(smaller)
    table = model.predict(pd.DataFrame({"image": [encoded(wide)]}))
    np.testing.assert_allclose(table, probabilities(registered.network, pixels), atol=1e-6)


def test_the_tables_index_comes_back(model: PyFuncModel) -> None:
    one, other = (encoded(pixels) for pixels in noise(2))
    table = model.predict(pd.DataFrame({"image": [one, other]}, index=["x.png", "y.png"]))
    assert list(table.index) == ["x.png", "y.png"]


def test_an_empty_table_gives_an_empty_table(model: PyFuncModel) -> None:
    table = model.predict(pd.DataFrame({"image": pd.Series([], dtype=object)}))
    assert tuple(table.columns) == CLASSES
    assert len(table) == 0


@pytest.mark.parametrize("broken", [b"", b"not an image", encoded(noise(1)[0])[:-300]])
@pytest.mark.parametrize("row", [0, 33])
def test_broken_bytes_are_refused_by_row(model: PyFuncModel, broken: bytes, row: int) -> None:
    images = [encoded(noise(1)[0])] * 35
    images[row] = broken
    with pytest.raises(MlflowException, match=f"image in row {row}: ") as refused:
        model.predict(pd.DataFrame({"image": images}))
    assert refused.value.get_http_status_code() == 400


def test_a_row_without_bytes_is_refused_by_row(model: PyFuncModel) -> None:
    inner = model.unwrap_python_model()
    for nothing in (None, float("nan"), "chest.png"):
        with pytest.raises(MlflowException, match="image in row 1: "):
            inner.predict(None, pd.DataFrame({"image": [example_png(), nothing]}))


def test_a_table_without_the_image_column_is_refused(model: PyFuncModel) -> None:
    with pytest.raises(MlflowException, match="image"):
        model.predict(pd.DataFrame({"picture": [example_png()]}))


# ---------------------------------------------------------------- the network


def test_the_version_gives_its_network_anew_each_time(registered: Registered, model: PyFuncModel) -> None:
    inner = model.unwrap_python_model()
    first, second = inner.network("cpu"), inner.network("cpu")
    assert first is not second
    assert not first.training
    with torch.no_grad():
        first.fc.bias += 100  # what a caller does to a copy stays with the caller
    pixels = noise(1)
    table = model.predict(pd.DataFrame({"image": [encoded(pixels[0])]}))
    np.testing.assert_allclose(table, probabilities(second, pixels), atol=1e-6)


@pytest.mark.parametrize("form", ["models:/tiny/1", "models:/tiny@candidate", "logged"])
def test_the_network_comes_back_in_eval_mode_with_the_same_weights(registered: Registered, form: str) -> None:
    network, spec = load_network(registered.model_uri if form == "logged" else form)
    assert spec == Spec(arch="resnet18", image_size=SIZE)
    assert not network.training
    expected = registered.network.state_dict()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


SOMEBODY_ELSES = """
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

class Echo(PythonModel):
    def predict(self, context, model_input: list[str], params=None) -> list[str]:
        return model_input

set_model(Echo())
"""


def test_a_model_of_another_project_is_refused(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(SOMEBODY_ELSES)
    experiment = mlflow.get_experiment_by_name("serving")
    with mlflow.start_run(experiment_id=experiment.experiment_id):
        logged = mlflow.pyfunc.log_model(
            name="echo", python_model=str(tmp_path / "echo.py"), pip_requirements=["mlflow"]
        )
    with pytest.raises(InputError, match=rf"{logged.model_uri}: it holds no {WEIGHTS}"):
        load_network(logged.model_uri)


@pytest.mark.parametrize("uri", ["models:/tiny/99", "models:/nobody/1", "models:/tiny@champion"])
def test_a_version_that_is_not_there_cannot_be_fetched(registered: Registered, uri: str) -> None:
    with pytest.raises(InputError, match=f"{uri}: this model cannot be fetched"):
        load_network(uri)


# ---------------------------------------------------------------- where this project is not installed


ELSEWHERE = """
import importlib.util, json, sys
from pathlib import Path

assert importlib.util.find_spec("cxr") is None, "cxr can be imported here: the test would show nothing"
import mlflow, pandas, torch

model = mlflow.pyfunc.load_model("models:/tiny/1")
images = [Path(name).read_bytes() for name in sys.argv[1:]]
served = model.predict(pandas.DataFrame({"image": images}))
network = model.unwrap_python_model().network("cpu")
with torch.inference_mode():
    logits = network(torch.zeros(1, 3, 64, 64))
import cxr
print(json.dumps({
    "served": served.to_numpy().tolist(), "columns": list(served.columns), "logits": logits.tolist(),
    "kind": f"{type(network).__module__}.{type(network).__name__}", "training": network.training,
    "layer4": len(network.get_submodule("layer4")), "code": cxr.__file__,
}))
"""


def test_a_process_that_has_not_this_project_loads_the_version_and_its_network(
    registered: Registered, tmp_path: Path
) -> None:
    pixels = noise(3)
    for number, one in enumerate(pixels):
        (tmp_path / f"{number}.png").write_bytes(encoded(one))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, "0.png", "1.png", "2.png"],
        cwd=tmp_path, env=environment | {"MLFLOW_TRACKING_URI": registered.tracking_uri},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert tuple(said["columns"]) == CLASSES
    np.testing.assert_allclose(said["served"], probabilities(registered.network, pixels), atol=1e-6)
    assert said["kind"] == "torchvision.models.resnet.ResNet"
    assert (said["training"], said["layer4"]) == (False, 2)
    with torch.inference_mode():
        logits = registered.network(torch.zeros(1, 3, SIZE, SIZE))
    np.testing.assert_allclose(said["logits"], logits.numpy(), atol=1e-6)
    assert not Path(said["code"]).is_relative_to(Path(__file__).parent.parent)


# ---------------------------------------------------------------- over REST


def answer(url: str, body: object = None) -> tuple[int, str]:
    """Status and text of a GET, or of a POST with a JSON body; (0, "") where nobody listens."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture(scope="module")
def served(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve`, in a process group that ends with the tests."""
    tmp_path = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny/1", "--env-manager", "local",
        "--host", "127.0.0.1", "-p", str(port),
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": registered.tracking_uri, "PATH": path}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 180
            while answer(f"http://127.0.0.1:{port}/ping")[0] != 200:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def test_base64_over_rest_gives_the_same_probabilities(registered: Registered, served: str) -> None:
    pixels = noise(2)
    rows = [[base64.b64encode(encoded(one)).decode()] for one in pixels]
    status, text = answer(f"{served}/invocations", {"dataframe_split": {"columns": ["image"], "data": rows}})
    assert status == 200, text
    table = pd.DataFrame(json.loads(text)["predictions"])
    assert tuple(table.columns) == CLASSES
    np.testing.assert_allclose(table, probabilities(registered.network, pixels), atol=1e-6)

    broken = [rows[0], [base64.b64encode(b"not an image").decode()]]
    status, text = answer(f"{served}/invocations", {"dataframe_split": {"columns": ["image"], "data": broken}})
    assert status == 400
    assert "image in row 1: " in text


# ---------------------------------------------------------------- what comes in from strangers

REQUESTS = int(os.environ.get("CXR_FUZZ", "300"))


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header says so many pixels, with these chunks for the rest."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*one) for one in chunks) + chunk(b"IEND", b"")


def split(*images: object) -> bytes:
    """A request's body; bytes travel as base64."""
    data = [[base64.b64encode(one).decode() if isinstance(one, bytes) else one] for one in images]
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": data}}).encode()


def bodies(count: int) -> Iterator[tuple[bytes, str]]:
    """Bodies that are not images, of some twenty kinds in turn, with their content type."""
    rng = np.random.default_rng(0)
    good, photo = encoded(noise(1)[0]), encoded(noise(1)[0], "JPEG")
    zeros = zlib.compress(bytes(40_000_000), 9)
    while True:
        kinds: list[bytes] = [
            split(good[: int(rng.integers(0, len(good)))]),
            split(photo[: int(rng.integers(0, len(photo) // 2))]),
            split(rng.bytes(int(rng.integers(0, 3000)))),
            split(png(8_001, 8_000, (b"IDAT", zlib.compress(bytes(100))))),
            split(png(2**31 - 1, 2**31 - 1, (b"IDAT", b""))),
            split(png(5_000, 8_000, (b"IDAT", zeros[: len(zeros) // 2]))),  # 40 million pixels from 20 kB
            split(png(64, 64, (b"zTXt", b"comment\0\0" + zlib.compress(bytes(80_000_000), 9)))),
            split(png(64, 64, (b"iCCP", b"profile\0\0" + zeros), (b"IDAT", b"x"))),
            split(png(0, 0)),
            split("not base64!"), split("A"), split(""), split(None), split(7), split([1, 2]), split({"a": 1}),
            split(good, b"cut"),
            split(*[b"x"] * 257),
            json.dumps({"dataframe_split": {"columns": ["picture"], "data": [["QQ=="]]}}).encode(),
            json.dumps({"dataframe_split": {"columns": [], "data": []}}).encode(),
            json.dumps({"dataframe_records": [{"image": "QQ=="}, {}]}).encode(),
            json.dumps({"inputs": {"image": "QQ=="}}).encode(), json.dumps({"instances": [1, 2]}).encode(),
            json.dumps(["image"]).encode(), b"{}", b"", b"null", b"{", rng.bytes(50), b"[" * 5_000,
        ]  # fmt: skip
        for body in kinds:
            yield body, "application/json"
            count -= 1
            if not count:
                return
        for kind in ("text/csv", "application/x-parquet", "image/png", "", "application/json; charset=latin-7"):
            yield good, kind


def post(url: str, body: bytes, kind: str) -> tuple[int, str]:
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": kind})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_what_is_no_image_is_refused_and_the_server_lives_on(registered: Registered, served: str) -> None:
    pixels = noise(1)
    with ThreadPoolExecutor(8) as pool:
        sent = list(bodies(REQUESTS))
        answers = list(pool.map(lambda one: post(served, *one), sent))
    for (body, _), (status, text) in zip(sent, answers, strict=True):
        # JSON that is nested thousands deep ends in MLflow's own parser, before any code of the model
        assert "Traceback" not in text, (body[:100], text[:500])
        assert "stack_trace" not in text, (body[:100], text[:500])
        assert status in ((500,) if body.startswith(b"[[") else (400, 415, 200)), (status, body[:100], text[:300])
        if status == 200:  # an image that is cut behind its last row, a request without rows
            assert len(json.loads(text)["predictions"]) in (0, 1), body[:100]
    fine = [post(served, split(encoded(pixels[0])), "application/json") for _ in range(3)]
    for status, text in fine:
        assert status == 200, text
        table = pd.DataFrame(json.loads(text)["predictions"])
        np.testing.assert_allclose(table, probabilities(registered.network, pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (split(b"not an image"), "image in row 0: 12 bytes: not a PNG or JPEG image."),
        (split(png(8_001, 8_000)), "8,001 x 8,000 pixels; at most 64,000,000 are read."),
        (split(*[b"x"] * 257), "257 images in one request; at most 256 are taken."),
        (split(bytes(24_000_001)), "24,000,001 bytes; at most 24,000,000 are read."),
    ],
    ids=["no image", "pixels", "images", "bytes"],
)
def test_a_refusal_gives_our_reason_and_no_stack_trace(served: str, body: bytes, reason: str) -> None:
    status, text = post(served, body, "application/json")
    assert (status, reason in json.loads(text)["message"]) == (400, True), text[:500]
    assert "Traceback" not in text
    assert "stack_trace" not in text
