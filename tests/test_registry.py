"""The registry: what a logged model carries, versions made once, and URIs that are not there."""

import base64
import json
import re
import shutil
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException

from cxr import registry
from cxr.data.image import example_png
from cxr.errors import InputError
from cxr.evaluation.promotion import Standing
from cxr.findings import CLASSES
from cxr.model import Spec, build, open_network, save_network
from cxr.registry import ensure_version, holder, resolve, standing

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_tracking_database: Path) -> Iterator[Path]:
    """A folder with a weights file and a tracking store that is active for all tests here."""
    place = tmp_path_factory.mktemp("registry")
    shutil.copy(empty_tracking_database, place / "mlflow.db")
    weights = build("resnet18", seed=1).state_dict()
    save_network(place / "weights.safetensors", weights, Spec(arch="resnet18", image_size=64))
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{place}/mlflow.db"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.create_experiment("registry", artifact_location=(place / "artifacts").as_uri())
        patch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        yield place
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def logged(folder: Path) -> tuple[str, str]:
    """URI and run of a logged model."""
    with mlflow.start_run() as run:
        tags = {"arch": "resnet18", "scope": "phantom"}
        uri = registry.log_model(folder / "weights.safetensors", example_png(), step=3, tags=tags)
    return uri, run.info.run_id


@pytest.fixture(scope="module")
def files(logged: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the logged model holds."""
    place = tmp_path_factory.mktemp("fetched")
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=logged[0], dst_path=str(place)))


# ---------------------------------------------------------------- what a logged model carries


def test_requirements_are_exact_pins_of_what_this_project_pins(files: Path) -> None:
    pins = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    wanted = (files / "requirements.txt").read_text().split()
    assert {"mlflow", "pillow", "safetensors", "torch", "torchvision"} <= {pin.split("==")[0] for pin in wanted}
    assert set(wanted) <= pins
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+", pin) for pin in wanted)


def test_every_package_that_the_carried_code_needs_to_predict_is_required(files: Path) -> None:
    required = {
        pin.split("==")[0].replace("pillow", "PIL") for pin in (files / "requirements.txt").read_text().split()
    }
    imports = set()
    for name in ("serving", "pyfunc_model", "model", "data/image", "data/augment", "errors", "findings"):
        code = (files / "code" / "cxr" / f"{name}.py").read_text()
        imports |= set(re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE))
    assert imports - set(sys.stdlib_module_names) - {"cxr"} <= required


def test_neither_a_wheels_local_label_nor_a_uv_lock_reaches_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.version
    monkeypatch.setattr(registry, "version", lambda name: real(name).split("+")[0] + "+cu130")
    for name in ("uv.lock", "pyproject.toml", ".python-version"):  # as in the root of a checkout
        (tmp_path / name).write_text("version = 1")
    monkeypatch.chdir(tmp_path)
    with mlflow.start_run():
        uri = registry.log_model(folder / "weights.safetensors", example_png(), step=1, tags={})
    fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path / "fetched")))
    names = {path.name for path in fetched.rglob("*")}
    assert "requirements.txt" in names
    assert not names & {"uv.lock", "pyproject.toml", ".python-version"}
    for name in ("requirements.txt", "conda.yaml"):
        text = (fetched / name).read_text()
        assert "torch==" in text
        assert "+cu130" not in text


def test_no_file_of_it_is_a_pickle(files: Path) -> None:
    names = [path.name for path in files.rglob("*") if path.is_file()]
    assert "weights.safetensors" in names
    assert not [name for name in names if Path(name).suffix in (".pkl", ".pickle", ".pt", ".pth", ".pyc")]


def test_it_carries_this_packages_code_and_weights_as_they_are(files: Path, folder: Path) -> None:
    ours = {
        path.relative_to(ROOT)
        for path in (ROOT / "cxr").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {path.relative_to(files / "code") for path in (files / "code").rglob("*") if path.is_file()} == ours
    for path in ours:
        assert (files / "code" / path).read_bytes() == (ROOT / path).read_bytes()
    carried, spec = open_network(files / "artifacts" / "weights.safetensors")
    expected = open_network(folder / "weights.safetensors")[0].state_dict()
    assert spec == Spec(arch="resnet18", image_size=64)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in carried.state_dict().items())


def test_it_says_what_goes_in_and_what_comes_out(logged: tuple[str, str]) -> None:
    info = mlflow.models.get_model_info(logged[0])
    assert [(column.name, column.type.name) for column in info.signature.inputs] == [("image", "binary")]
    assert [column.name for column in info.signature.outputs] == list(CLASSES)
    assert {column.type.name for column in info.signature.outputs} == {"double"}


def test_its_example_is_the_encoded_image_as_a_request_carries_it(files: Path) -> None:
    said = json.loads((files / "serving_input_example.json").read_text())
    assert said["dataframe_split"]["columns"] == ["image"]
    assert base64.b64decode(said["dataframe_split"]["data"][0][0]) == example_png()


def test_the_logged_model_belongs_to_the_run_its_step_and_its_tags(logged: tuple[str, str]) -> None:
    uri, run_id = logged
    model = mlflow.get_logged_model(uri.removeprefix("models:/"))
    assert model.source_run_id == run_id
    assert {"arch": "resnet18", "scope": "phantom"}.items() <= model.tags.items()
    (output,) = mlflow.get_run(run_id).outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 3)


# ---------------------------------------------------------------- versions


def test_a_version_is_made_once_for_a_train_run(logged: tuple[str, str]) -> None:
    uri, run_id = logged
    assert ensure_version("once", uri, run_id, {"scope": "phantom"}) == "1"
    assert ensure_version("once", uri, run_id, {"scope": "phantom"}) == "1"
    (version,) = mlflow.MlflowClient().search_model_versions("name = 'once'")
    assert version.run_id == run_id
    assert version.tags == {"scope": "phantom"}


def test_another_run_or_another_name_makes_another_version(folder: Path, logged: tuple[str, str]) -> None:
    with mlflow.start_run() as second:
        uri = registry.log_model(folder / "weights.safetensors", example_png(), step=1, tags={})
    assert ensure_version("two", *logged, {}) == "1"
    assert ensure_version("two", uri, second.info.run_id, {}) == "2"
    assert ensure_version("two", *logged, {}) == "1"
    assert ensure_version("other", uri, second.info.run_id, {}) == "1"


def test_of_two_versions_of_one_run_the_first_is_taken(logged: tuple[str, str]) -> None:
    for _ in range(2):
        mlflow.register_model(logged[0], "twice")
    assert ensure_version("twice", *logged, {}) == "1"


# ---------------------------------------------------------------- looking up


@pytest.fixture(scope="module")
def known(logged: tuple[str, str]) -> str:
    """`models:/known/1`, which carries the alias candidate."""
    ensure_version("known", *logged, {"scope": "sample"})
    registry.set_alias("known", "candidate", "1")
    return "known"


@pytest.mark.parametrize("uri", ["models:/known/1", "models:/known@candidate"])
def test_a_version_is_found_by_number_and_by_alias(known: str, uri: str) -> None:
    found = resolve(uri)
    assert (found.name, int(found.version), found.tags) == ("known", 1, {"scope": "sample"})


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("models:/nobody/1", "name=nobody, version=1"),
        ("models:/known/7", "name=known, version=7"),
        ("models:/known@champion", "alias champion"),
        ("models:/nobody@candidate", "nobody"),
        ("models:/known/one", "one"),
        ("models:/known/", "version"),
        ("models:/known/1/2", "1/2"),
        ("models:/known@", "alias"),
        ("models:/known", "expected models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("models:/", "expected models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("", "expected models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("models:/m-0123456789abcdef", "expected models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("runs:/0123/model", "runs:"),
    ],
)
def test_what_is_not_there_or_not_a_version_is_refused_by_name(known: str, uri: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        resolve(uri)
    assert str(refused.value).startswith(f"model={uri}: ")
    assert named in str(refused.value)


def test_an_alias_has_a_holder_or_none(known: str) -> None:
    found = holder("known", "candidate")
    assert found is not None
    assert int(found.version) == 1
    assert holder("known", "champion") is None
    assert holder("nobody", "candidate") is None


def test_an_alias_moves(folder: Path, logged: tuple[str, str]) -> None:
    for version in ("1", "2"):
        mlflow.register_model(logged[0], "moving")
        registry.set_alias("moving", "candidate", version)
        assert int(resolve("models:/moving@candidate").version) == int(version)
    assert mlflow.MlflowClient().get_model_version("moving", "1").aliases == []


@pytest.fixture(scope="module")
def three(logged: tuple[str, str]) -> str:
    """A model with three versions."""
    for _ in range(3):
        mlflow.register_model(logged[0], "three")
    return "three"


def number(found: ModelVersion | None) -> int | None:
    return int(found.version) if found else None


@pytest.mark.parametrize("seen", [None, "1"])
def test_an_alias_moves_from_where_it_was_seen(
    three: str, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SETTLE", 0.01)
    alias = f"from-{seen}"
    if seen:
        registry.set_alias(three, alias, seen)
    assert registry.move_alias(three, alias, "2", seen=holder(three, alias))
    assert number(holder(three, alias)) == 2


@pytest.mark.parametrize("seen", [None, "1"])
def test_an_alias_that_somebody_else_moved_first_stays_there(three: str, seen: str | None) -> None:
    alias = f"first-{seen}"
    if seen:
        registry.set_alias(three, alias, seen)
    before = holder(three, alias)
    registry.set_alias(three, alias, "3")
    assert not registry.move_alias(three, alias, "2", seen=before)
    assert not registry.carries(three, alias, before)
    assert number(holder(three, alias)) == 3


def test_an_alias_that_somebody_else_moves_right_after_is_noticed(
    three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.set_alias(three, "after", "1")
    other = threading.Timer(0.2, registry.set_alias, (three, "after", "3"))  # it had looked before our move
    other.start()
    assert not registry.move_alias(three, "after", "2", seen=holder(three, "after"))
    other.join()
    assert number(holder(three, "after")) == 3


def test_tags_are_set_and_those_that_are_no_longer_true_removed(three: str) -> None:
    version = resolve("models:/three/1")
    registry.set_tags(version, {"kept": "a", "gone": "b", "same": "c"})
    registry.set_tags(version, {"kept": "d", "gone": None, "same": "c", "never": None})
    assert resolve("models:/three/1").tags == {"kept": "d", "same": "c"}


def test_a_right_that_is_missing_is_not_taken_for_a_model_that_is(
    known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RestException({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version", refused)
    with pytest.raises(MlflowException, match="Permission denied"):
        resolve("models:/known/1")


def test_a_server_that_fails_is_not_taken_for_an_alias_without_holder(
    known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MlflowException("the database is away")

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", fails)
    with pytest.raises(MlflowException, match="database is away"):
        holder("known", "candidate")


def test_the_description_is_set(known: str) -> None:
    registry.describe("known", "1", "Drawn phantom.")
    assert resolve("models:/known/1").description == "Drawn phantom."


@pytest.mark.parametrize(
    ("tag", "value"), [({"val_macro_14": "0.81"}, 0.81), ({"val_macro_14": ""}, None), ({}, None)]
)
def test_standing_is_read_from_the_tags(logged: tuple[str, str], tag: dict[str, str], value: float | None) -> None:
    digests = {"dataset": "nih", "data_digest": "d", "images_digest": "i", "split_digest": "abc"}
    tags = {"scope": "official"} | digests | tag
    version = mlflow.register_model(logged[0], "standing", tags=tags)
    assert standing(version) == Standing(
        version=str(version.version), scope="official", measured_on="nih d i abc", val_macro_14=value
    )


def test_the_phantoms_aliases_are_not_those_of_x_rays() -> None:
    names = [*vars(registry.ALIASES).values(), *vars(registry.PHANTOM_ALIASES).values()]
    assert len(set(names)) == 4
