"""Comparing two evaluate runs: paired, named, refused on other images; and promotion by it."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from cxr.data import nih, phantom
from cxr.findings import CLASSES

Score = Callable[..., Run]


@pytest.fixture
def score(tracking_store: str, call: Callable, tables: Path, tmp_path: Path) -> Score:
    """An evaluate run of drawn scores with so much noise, of all images or all but the first."""

    def evaluated(noise: float, *, skip: int = 0) -> Run:
        table = nih.read(tables, split="test").table.iloc[skip:]
        rng = np.random.default_rng(1)
        scores = pd.DataFrame({"image": table["image"]})
        for name in CLASSES:
            scores[f"logit_{name}"] = table[name] + noise * rng.normal(size=len(table))
        path = tmp_path / f"noise-{noise}-{skip}.parquet"
        scores.to_parquet(path)
        assert call("evaluate", data=tables, scores=path).code == 0
        return newest("evaluate")

    return evaluated


def newest(stage: str) -> Run:
    return mlflow.search_runs(filter_string=f"tags.stage = '{stage}'", output_format="list")[0]


def names_of_artifacts(run: Run) -> set[str]:
    return {item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id)}


def test_two_runs_are_compared_by_finding_and_on_the_macro_and_other_images_refused(
    score: Score, call: Callable
) -> None:
    better, worse = score(0.5), score(3.0)
    done = call("compare", runs=f"{better.info.run_id}, {worse.info.run_id}")
    assert done.code == 0, done.err
    run = newest("compare")
    assert {"comparison.csv", "comparison.json", "comparison.png"} <= names_of_artifacts(run)
    values = run.data.metrics
    for name in ("Effusion", "macro_14"):
        measured = better.data.metrics[f"test/auroc/{name}"] - worse.data.metrics[f"test/auroc/{name}"]
        assert values[f"compare/auroc_difference/{name}"] == pytest.approx(measured, abs=1e-12)
        assert 0 < values[f"compare/auroc_difference_low/{name}"] < measured
    assert values["compare/p_holm/Effusion"] >= values["compare/p/Effusion"]
    assert "macro AUROC" in done.out
    assert "Effusion" in done.out
    assert "says nothing about real X-rays" in run.data.tags["headline"]
    assert "not shown to be none" in run.data.tags["mlflow.note.content"]

    part = score(0.5, skip=1)
    done = call("compare", runs=f"{better.info.run_id},{part.info.run_id}")
    assert done.code == 1
    assert "were not measured on the same images: 1 of" in " ".join(done.err.split())
    assert len(mlflow.search_runs(filter_string="tags.stage = 'compare'", output_format="list")) == 1


def finished(stage: str) -> str:
    """The id of a finished run that says it is of a stage."""
    client = mlflow.MlflowClient()
    run_id = client.create_run("0", tags={"stage": stage}).info.run_id
    client.set_terminated(run_id)
    return str(run_id)


def test_a_run_is_not_compared_with_itself(tracking_store: str, call: Callable) -> None:
    run_id = finished("evaluate")
    done = call("compare", runs=f"{run_id},{run_id}")
    assert done.code == 1
    assert "Expected two models" in " ".join(done.err.split())


@pytest.mark.parametrize("runs", ["", "one", "one,two,three"])
def test_two_are_needed(tracking_store: str, call: Callable, runs: str) -> None:
    done = call("compare", runs=runs)
    assert done.code == 2
    assert "expected two runs or model URIs" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("0123abc", "there is no such run"),
        ("models:/nothing/1", "nothing"),
        ("models:/nothing", "expected models:/"),
    ],
)
def test_what_is_not_there_is_named(tracking_store: str, call: Callable, reference: str, words: str) -> None:
    done = call("compare", runs=f"{reference},{reference}")
    assert done.code == 1
    assert words in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_a_run_of_another_stage_is_named(tracking_store: str, call: Callable) -> None:
    done = call("compare", runs=f"{finished('split')},{finished('explain')}")
    assert done.code == 1
    assert "that run is of split; expected evaluate, train or main" in " ".join(done.err.split())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn cohort of enough patients for a validation macro."""
    folder = tmp_path_factory.mktemp("promoted") / "cohort"
    phantom.draw(folder, patients=130, size=64)
    return folder


def test_versions_are_compared_and_the_champion_moves_only_for_a_clearly_better_one(
    tracking_store: str, call: Callable, drawn: Path, tmp_path: Path
) -> None:
    own = {"data": drawn, "store": tmp_path / "store", "device": "cpu"}
    training = {"image_size": 64, "epochs": 1, "arch": "resnet18", "batch_size": 8}
    assert call("split", **own, val_fraction=0.5).code == 0
    split = {"split_run": newest("split").info.run_id}
    for epochs in (1, 2):
        assert call("train", **own, **training | {"epochs": epochs}, **split).code == 0
    # after one epoch it may not be better than chance
    assert call("register", **own, model="models:/cxr-resnet50/1", promote="always").code == 0
    assert newest("register").data.tags["decision"].startswith("version 1 is champion-phantom: by hand")

    done = call("compare", runs="models:/cxr-resnet50/1,models:/cxr-resnet50/2")
    assert done.code == 1
    assert "has not been evaluated on its own split. `mlflow run . -e evaluate" in " ".join(done.err.split())

    assert call("register", **own, model="models:/cxr-resnet50/2").code == 0
    run = newest("register")
    low = run.data.metrics["promotion/val/auroc_difference_low/macro_14"]
    champion = mlflow.MlflowClient().get_model_version_by_alias("cxr-resnet50", "champion-phantom")
    assert str(champion.version) == ("2" if low > 0 else "1")
    assert (
        f"differs by {run.data.metrics['promotion/val/auroc_difference/macro_14']:+.4f} (95 % of the patient"
        in (run.data.tags["decision"])
    )
    assert {"promotion_val.csv", "promotion_test.csv"} <= names_of_artifacts(run)

    assert call("compare", runs="models:/cxr-resnet50/1, models:/cxr-resnet50@candidate-phantom").code == 0
    assert newest("compare").info.run_name == "compare version 1 with candidate-phantom"
