"""The registered model: encoded images -> 15 probabilities, and the network itself on request.

The version carries this package's code and one safetensors file, so it loads where `cxr` is not
installed, and no pickle is read on the way:

    model = mlflow.pyfunc.load_model("models:/cxr-resnet50/1")
    model.predict(pd.DataFrame({"image": [Path("chest.png").read_bytes()]}))
    network = model.unwrap_python_model().network("cuda")  # the torchvision ResNet, ready for Grad-CAM
"""

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.data.image import decode
from cxr.errors import InputError
from cxr.findings import CLASSES
from cxr.model import Spec, open_network

WEIGHTS = "weights.safetensors"
# What a request may ask for. An image has at most 64 million pixels besides (cxr.data.image.MAX_PIXELS), which its
# header gives before anything is decoded. The body as a whole is read before this code runs: a proxy bounds it.
MAX_IMAGES = 256
MAX_BYTES = 24_000_000  # of one encoded image, 32 MB as base64; NIH's largest are under 2 MB
_BATCH = 32


class ChestXrayClassifier(PythonModel):
    """MLflow's way into the network: a table with a binary column `image` -> a column a class."""

    def load_context(self, context: Any) -> None:
        """Read the weights that the version carries."""
        self.weights = Path(context.artifacts["weights"])
        self._network, self.spec = open_network(self.weights)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Probabilities (sigmoid of the logits, uncalibrated) for PNG or JPEG bytes, one row an image.

        Raises MlflowException (HTTP 400 in service) that names the row of a broken image, or the limit that the
        request exceeds.
        """
        images = model_input["image"].tolist()
        if len(images) > MAX_IMAGES:
            raise MlflowException.invalid_parameter_value(
                f"{len(images):,} images in one request; at most {MAX_IMAGES} are taken."
            )
        parts = [self._probabilities(images, start) for start in range(0, len(images), _BATCH)]
        table = np.concatenate(parts) if parts else np.empty((0, len(CLASSES)))
        return pd.DataFrame(table, columns=list(CLASSES), index=model_input.index)

    def network(self, device: str = "cpu") -> ResNet:
        """A fresh copy of the network on any device, in eval mode: normalised [N, 3, H, W] -> logits [N, 15].

        torch lets a GPU's convolutions round to TF32 (`torch.backends.cudnn.allow_tf32`); the stages do not.
        """
        return open_network(self.weights, device=device)[0]

    def _probabilities(self, images: list[bytes], start: int) -> np.ndarray:
        pixels = np.stack(
            [self._decode(images[row], row) for row in range(start, min(start + _BATCH, len(images)))]
        )
        with torch.inference_mode():
            logits = self._network(normalise(torch.from_numpy(pixels)))
        probabilities: np.ndarray = logits.double().sigmoid().numpy()
        return probabilities

    def _decode(self, image: bytes, row: int) -> np.ndarray:
        try:
            if not isinstance(image, bytes | bytearray | memoryview):
                raise InputError(f"{type(image).__name__} instead of the bytes of a PNG or JPEG file.")
            if len(image) > MAX_BYTES:
                raise InputError(f"{len(image):,} bytes; at most {MAX_BYTES:,} are read.")
            return decode(bytes(image), self.spec.image_size)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(f"image in row {row}: {error}") from error


def load_network(model_uri: str, *, device: str | torch.device = "cpu") -> tuple[ResNet, Spec]:
    """The network of `models:/cxr-resnet50/1`, `models:/cxr-resnet50@champion` or a run's model, in eval mode.

    Raises InputError for a model that is not this project's, or that cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=scratch)
        except (MlflowException, OSError) as error:
            raise InputError(f"{model_uri}: this model cannot be fetched ({error}).") from error
        weights = Path(folder) / "artifacts" / WEIGHTS
        if not weights.exists():
            raise InputError(f"{model_uri}: it holds no {WEIGHTS}, so it is not a model of this project.")
        return open_network(weights, device=device)
