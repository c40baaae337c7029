"""Predict as a person calls it, on a version that the whole chain has made."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from PIL import Image

from cxr import tracking
from cxr.evaluation import recalibration
from cxr.findings import CLASSES, FINDINGS
from entrypoints.predict import _meaning
from tests.data.test_dicom import write as write_dicom
from tests.waiting import wait_until

MODEL = "models:/cxr-resnet50/1"


@pytest.fixture(autouse=True)
def at_the_chain(whole_chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{whole_chain}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{whole_chain}/mlflow.db")
    yield
    mlflow.set_tracking_uri(None)


def newest() -> Any:
    (run,) = mlflow.search_runs(
        ["0"],
        "tags.stage = 'predict'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return run


def test_scores_are_those_of_the_evaluate_run(
    phantom_folder: Path, call: Callable[..., Any], tmp_path: Path
) -> None:
    done = call("predict", model=MODEL, input=phantom_folder / "images", threshold="youden")
    assert done.code == 0, done.err
    assert "files, 0 of them broken" in done.out
    rows = pd.read_csv(tmp_path / "predictions.csv").set_index("image")
    evaluated = mlflow.MlflowClient().get_model_version("cxr-resnet50", "1").tags["evaluate_run"]
    scores = tracking.frame(evaluated, "scores.parquet").set_index("image")
    learned = [name for name in CLASSES if scores[f"logit_{name}"].notna().any()]
    assert len(learned) > 5
    for name in learned:
        expected = recalibration.probability(scores[f"logit_{name}"].to_numpy())
        np.testing.assert_allclose(rows.loc[scores.index, name], expected, atol=1e-6)
    assert rows[[name for name in CLASSES if name not in learned]].isna().all(axis=None)
    assert {f"{name}_positive" for name in FINDINGS} & set(rows.columns)


def test_a_run_keeps_counts_and_no_names(call: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "patients"
    folder.mkdir()
    Image.new("L", (40, 40), 9).save(folder / "Miller_Jane.png")
    write_dicom(folder / "IM1")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    done = call("predict", model="models:/cxr-resnet50@candidate-phantom", input=folder, output="out.parquet",
                explain="true")  # fmt: skip
    assert done.code == 0, done.err
    rows = pd.read_parquet(tmp_path / "out.parquet").set_index("image")
    assert rows["reason"].astype(bool).to_dict() == {"IM1": False, "Miller_Jane.png": False, "cut.jpg": True}
    run = newest()
    assert run.info.status == "FINISHED"
    assert (run.data.metrics["predict/images"], run.data.metrics["predict/broken"]) == (3, 1)
    assert (run.data.tags["registered_model"], run.data.tags["version"]) == ("cxr-resnet50", "1")
    assert "Miller" not in str(run.to_dictionary())
    assert [item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id)] == ["config.json"]
    maps = sorted(path.name for path in (tmp_path / "out_maps").iterdir())
    assert [name.split(".")[0] for name in maps] == ["000001_IM1", "000002_Miller_Jane"]
    assert all(name.split(".")[-2] in FINDINGS for name in maps)
    with Image.open(tmp_path / "out_maps" / maps[0]) as overlay:
        assert overlay.size[0] > 2 * overlay.size[1] == 2 * 64


@pytest.mark.parametrize(
    ("parameters", "reason", "code"),
    [
        ({"model": "models:/nobody/1"}, "nobody", 1),
        ({"model": "models:/cxr-resnet50/77"}, "77", 1),
        ({"model": "models:/cxr-resnet50@champion"}, "champion", 1),
        ({"model": "cxr"}, "expected models:/NAME/VERSION", 2),
        ({"model": MODEL, "input": ""}, "expected a folder", 2),
        ({"model": MODEL, "input": "nowhere"}, "no such file or folder", 1),
        ({"model": MODEL, "output": "out.txt"}, "ends in .csv or .parquet", 1),
        ({"model": MODEL, "calibrated": "true"}, "calibrated=true", 1),
        ({"model": MODEL, "threshold": "best"}, "'best' is not one of", 2),
    ],
)
def test_what_cannot_be_is_one_message(
    call: Callable[..., Any], tmp_path: Path, parameters: dict[str, str], reason: str, code: int
) -> None:
    Image.new("L", (40, 40), 9).save(tmp_path / "a.png")
    done = call("predict", **({"input": tmp_path} | parameters))
    assert done.code == code
    assert reason in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "predictions.csv").exists()


def test_classes_without_a_map_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    none = dict.fromkeys(recalibration.COLUMNS) | {"positive_patients": 3, "note": "too few"}
    maps = {"Edema": none | {"platt_slope": 0.5, "platt_intercept": 0.0}, "Hernia": none, "Mass": none}
    tagged = [ModelVersionTag("recalibration", json.dumps(maps))]
    meaning = _meaning(ModelVersion("m", "1", 0, tags=tagged), MODEL, calibrated=True, threshold="none")
    assert meaning.maps is not None
    assert "no map for Hernia, Mass: not calibrated" in capsys.readouterr().err


def test_a_table_that_is_there_stays_unless_told(call: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("L", (40, 40), 9).save(tmp_path / "a.png")
    (tmp_path / "predictions.csv").write_text("mine")
    done = call("predict", model=MODEL, input=tmp_path)
    assert (done.code, "overwrite=true replaces it" in " ".join(done.err.split())) == (1, True)
    assert (tmp_path / "predictions.csv").read_text() == "mine"
    assert call("predict", model=MODEL, input=tmp_path, overwrite="true").code == 0
    assert "a.png" in (tmp_path / "predictions.csv").read_text()


def test_odd_names_cost_no_row_and_overlays_are_no_input(call: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"a" * 246 + b".png", b"plain.png"):
        Image.new("L", (40, 40), 9).save(folder / os.fsdecode(name))
    for overwrite in ("false", "true"):  # the second call finds the first one's overlays in its input
        done = call("predict", model=MODEL, input=folder, output=folder / "out.csv", explain="true",
                    overwrite=overwrite)  # fmt: skip
        assert done.code == 0, done.err
        rows = pd.read_csv(folder / "out.csv")
        assert rows["image"].tolist() == ["a" * 246 + ".png", "caf\\xe9.png", "plain.png"]
        assert rows["reason"].isna().all()
        assert len(list((folder / "out_maps").iterdir())) == 3
    done = call("predict", model=MODEL, input=folder, output=folder / "out.csv", explain="true")
    assert done.code == 1


def test_x_rays_in_a_folder_named_as_that_of_the_overlays_stay_and_are_read(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "ward_maps").mkdir()
    Image.new("L", (40, 40), 9).save(tmp_path / "ward_maps" / "jane.png")
    Image.new("L", (40, 40), 9).save(tmp_path / "joe.png")
    given: dict[str, object] = {"model": MODEL, "input": tmp_path, "output": tmp_path / "ward.csv"}
    done = call("predict", **given, explain="true", overwrite="true")
    assert (done.code, "jane.png in it is no overlay" in " ".join(done.err.split())) == (1, True)
    assert call("predict", **given).code == 0
    assert pd.read_csv(tmp_path / "ward.csv")["image"].tolist() == ["joe.png", "ward_maps/jane.png"]


def test_a_signal_in_its_midst_leaves_no_half_table(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    Image.new("L", (600, 600), 9).save(folder / "0.png")
    for number in range(1, 4000):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    words = ["--model", MODEL, "--input", str(folder), "--output", str(tmp_path / "out.csv")]
    process = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.predict", *words], cwd=Path(__file__).parent.parent.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        wait_until(lambda: (tmp_path / ".out.csv.unfinished").exists(), 90)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130, process.stderr and process.stderr.read()
    assert not list(tmp_path.glob("*out.csv*"))
    assert newest().info.status == "KILLED"
