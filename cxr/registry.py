"""The model registry: versions of the trained network, their tags and aliases."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from cxr.errors import InputError
from cxr.evaluation.promotion import Standing
from cxr.findings import CLASSES


@dataclass(frozen=True)
class Aliases:
    """The newest version that went through all stages, and the best one."""

    candidate: str
    champion: str


ALIASES = Aliases("candidate", "champion")
PHANTOM_ALIASES = Aliases("candidate-phantom", "champion-phantom")

# Longer than another caller takes from its last look at an alias to its own move of it (two calls to the server).
SETTLE = 1.0

# What a version needs to load and predict, beside the code and weights that it carries.
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "torch", "torchvision", "tqdm")
# The train run's tags that its version carries, so that a version says what it is without its run.
VERSION_TAGS = (
    "arch", "recipe", "image_size", "dataset", "edition", "scope", "data_digest", "images_digest", "split_digest",
    "split_run", "git_commit", "best_by", "best_epoch", "val_macro_14", "val_macro_14_classes", "weights_digest",
    "classes", "changed", "loss", "pretrained", "seed",
)  # fmt: skip
# The split's digest is of image names and parts: other labels or pictures may go by the same names.
_MEASURED_ON = ("dataset", "data_digest", "images_digest", "split_digest")
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("binary", "image")]),
    outputs=Schema([ColSpec("double", name) for name in CLASSES]),
)


def log_model(weights: Path, example: bytes, *, step: int, tags: dict[str, str]) -> str:
    """Log a weights file as an MLflow model of the active run; `example` is an encoded image. Its URI."""
    with _no_bytecode():
        logged = mlflow.pyfunc.log_model(name="model", tags=tags, step=step, **_contents(weights, example))
    uri: str = logged.model_uri
    return uri


def save_model(folder: Path, weights: Path, example: bytes) -> None:
    """The same in a folder, which no server knows of."""
    with _no_bytecode():
        mlflow.pyfunc.save_model(path=str(folder), **_contents(weights, example))


def _contents(weights: Path, example: bytes) -> dict[str, Any]:
    package = Path(__file__).parent
    return {
        "python_model": str(package / "pyfunc_model.py"),
        "artifacts": {"weights": str(weights)},
        "code_paths": [str(package)],
        "signature": _SIGNATURE,
        "input_example": pd.DataFrame({"image": [example]}),
        # the local label of a wheel (+cu130) is in no registry
        "pip_requirements": [f"{name}=={version(name).split('+')[0]}" for name in _REQUIREMENTS],
        # no uv project: else a uv.lock in the working directory would travel along, with the registry
        # hosts it names, and outrank these pins
        "uv_project_path": str(package),
    }


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow runs the code where it has copied it to: bytecode would be left there, and travel along."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def ensure_version(name: str, model_uri: str, run_id: str, tags: dict[str, str]) -> str:
    """The version of `name` that this train run created, created now if there is none."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if found:
        return str(min(int(version.version) for version in found))
    return str(mlflow.register_model(model_uri, name, tags=tags).version)


def resolve(uri: str) -> ModelVersion:
    """The version behind `models:/<name>/<version>` or `models:/<name>@<alias>`.

    Raises InputError for another form, or where there is no such model, version or alias.
    """
    name, slash, number = uri.removeprefix("models:/").partition("/")
    client = mlflow.MlflowClient()
    try:
        if slash:
            return client.get_model_version(name, number)
        name, at, alias = name.partition("@")
        if at:
            return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise  # a server that went away, a right that is missing
        raise InputError(f"model={uri}: {error.message}") from error
    raise InputError(f"model={uri}: expected models:/NAME/VERSION or models:/NAME@ALIAS.")


def holder(name: str, alias: str) -> ModelVersion | None:
    """The version that carries an alias, if any does."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise


def set_alias(name: str, alias: str, version: str) -> None:
    """Move an alias to a version."""
    mlflow.MlflowClient().set_registered_model_alias(name, alias, version)


def describe(name: str, version: str, text: str) -> None:
    """Set a version's description."""
    mlflow.MlflowClient().update_model_version(name, version, text)


def move_alias(name: str, alias: str, version: str, *, seen: ModelVersion | None) -> bool:
    """Move an alias that `seen` carried when it was decided to; whether it was still so, and has stayed moved.

    Aliases are last-writer-wins and MLflow has no compare-and-set. So the alias is read once more before it is
    moved, and again after SETTLE seconds: whoever looked before our move has made its own by then, and is seen.
    """
    if not carries(name, alias, seen):
        return False
    set_alias(name, alias, version)
    time.sleep(SETTLE)
    now = holder(name, alias)
    return now is not None and str(now.version) == version


def carries(name: str, alias: str, seen: ModelVersion | None) -> bool:
    """Whether an alias is still where it was seen (None: nowhere)."""
    now = holder(name, alias)
    return (now and str(now.version)) == (seen and str(seen.version))


def set_tags(version: ModelVersion, tags: Mapping[str, str | None]) -> None:
    """Set tags of a version; None removes one, since it is no longer true."""
    client = mlflow.MlflowClient()
    there = client.get_model_version(version.name, str(version.version)).tags
    for key, value in tags.items():
        if value is not None and there.get(key) != value:
            client.set_model_version_tag(version.name, str(version.version), key, value)
        elif value is None and key in there:
            client.delete_model_version_tag(version.name, str(version.version), key)


def standing(version: ModelVersion) -> Standing:
    """What the promotion decision needs to know of a version, from its tags."""
    if "scope" not in version.tags or "split_digest" not in version.tags:
        raise InputError(
            f"models:/{version.name}/{version.version}: that version was not made by this project's train stage, "
            "so no other can be compared with it. Give register_as another name."
        )
    macro = version.tags.get("val_macro_14", "")
    return Standing(
        version=str(version.version),
        scope=version.tags["scope"],
        measured_on=" ".join(version.tags.get(key, "") for key in _MEASURED_ON),
        val_macro_14=float(macro) if macro else None,
    )
