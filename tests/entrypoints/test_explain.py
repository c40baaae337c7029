"""The explain stage on a drawn cohort: what it logs, what it says, whom it compares with, what it does without."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run

from cxr.data import nih, phantom
from cxr.evaluation import thresholds
from cxr.findings import FINDINGS

SMALL = {"image_size": 64, "arch": "resnet18", "batch_size": 8}


def runs(stage: str) -> list[Run]:
    return mlflow.search_runs(
        filter_string=f"tags.stage = '{stage}'", order_by=["attributes.start_time DESC"], output_format="list"
    )


def fetched(run: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def table(run: Run, name: str) -> pd.DataFrame:
    return pd.read_csv(fetched(run, f"{name}.csv"))


def artifacts(run: Run) -> set[str]:
    return {item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id)}


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, empty_tracking_database: Path, phantom_folder: Path
) -> Iterator[dict[str, object]]:
    """Two epochs with one seed and with another on the same split; the values that a stage is called with."""
    from click.testing import CliRunner

    from entrypoints.train import main

    folder = tmp_path_factory.mktemp("explained")
    shutil.copy(empty_tracking_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        words = {
            "data": phantom_folder,
            "store": folder / "store",
            "device": "cpu",
            "seeds": 2,
            "epochs": 3,
            **SMALL,
        }
        arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        done = CliRunner().invoke(main, arguments, prog_name="train", catch_exceptions=False)
        assert done.exit_code == 0, done.output
        first = next(run for run in runs("train") if run.data.params["config.seed"] == "123")
        yield {"data": phantom_folder, "store": folder / "store", "device": "cpu", "model": first.info.run_id}
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def quick(trained: dict[str, object]) -> Run:
    """One quick run at the default layer; tests only read."""
    from click.testing import CliRunner

    from entrypoints.explain import main

    arguments = [word for name, value in trained.items() for word in (f"--{name}", str(value))]
    done = CliRunner().invoke(main, arguments, prog_name="explain", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return runs("explain")[0]


def test_a_quick_run_leaves_maps_boxes_and_every_stress_test(quick: Run) -> None:
    assert quick.data.params["config.stress"] == "quick"
    assert {
        "maps.npz", "outcome_maps.npz", "gradcam_all.png", "gradcam_outcomes.png", "gradcam_boxed.png",
        "class_maps.csv", "outcomes.csv", "localisation.csv", "localisation_differences.csv",
        "localisation_images.csv", "pointing.png", "localisation.png", "attention.csv", "attention.png",
        "masking.csv", "randomisation.csv", "randomisation.png", "randomisation_by_finding.csv",
        "perturbation.csv", "perturbation.png", "captum_measures.csv", "consistency.csv", "consistency.png",
        "attack.csv", "faithfulness.csv", "statement.md",
    } <= artifacts(quick)  # fmt: skip
    metrics = quick.data.metrics
    assert {"explain/seconds/maps", "explain/seconds/stress", "explain/seconds/forward"} <= set(metrics)
    for start in (
        "explain/pointing/",
        "explain/zero_maps/",
        "explain/attention/corners/",
        "explain/perturbation/",
    ):
        assert any(name.startswith(start) for name in metrics), start


def test_outcomes_are_those_of_the_threshold_that_validation_chose(quick: Run) -> None:
    scores = pd.read_parquet(fetched(mlflow.get_run(quick.data.tags["evaluate_run"]), "scores.parquet"))
    chosen = thresholds.table(scores[scores["split"] == "val"])["youden"]
    test = scores[scores["split"] == "test"]
    counted = table(quick, "outcomes").set_index(["finding", "outcome"])["images"].to_dict()
    expected = {}
    for finding in FINDINGS:
        if finding in chosen.index and (test[finding] == 1).any():
            called, has = test[f"logit_{finding}"] >= chosen[finding], test[finding] == 1
            expected |= {
                (finding, "true positive"): (called & has).sum(),
                (finding, "false negative"): (~called & has).sum(),
                (finding, "false positive"): (called & ~has).sum(),
            }
    known = {key: count for key, count in counted.items() if key[0] in chosen.index}
    assert known == {key: count for key, count in expected.items() if count}


def test_arrays_of_outcomes_add_up_to_the_class_mean(quick: Run) -> None:
    whole, apart = np.load(fetched(quick, "maps.npz")), np.load(fetched(quick, "outcome_maps.npz"))
    counts = table(quick, "outcomes").set_index(["finding", "outcome"])["images"]
    for finding in {key.split("/")[0] for key in apart.files}:
        own = [name for name in ("true positive", "false negative", "positive") if (finding, name) in counts.index]
        weights = np.array([counts[finding, name] for name in own], dtype=float)
        parts = np.stack([apart[f"{finding}/{name}/mean_signed"] for name in own]).astype(float)
        expected = np.tensordot(weights / weights.sum(), parts, axes=1)
        found = whole[f"{finding}/mean_signed"]
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(np.abs(found).max()))


def test_every_boxed_test_image_is_measured_with_its_baselines(quick: Run, phantom_folder: Path) -> None:
    boxes = pd.read_csv(phantom_folder / "BBox_List_2017.csv")
    drawn = {(row["Image Index"], row["Finding Label"].replace("Infiltrate", "Infiltration"))
             for _, row in boxes.iterrows()}  # fmt: skip
    rows = table(quick, "localisation_images")
    for method in ("gradcam", "shuffled", "centre", "class_mean"):
        own = rows[rows["method"] == method]
        assert set(zip(own["image"], own["finding"], strict=True)) == drawn


def test_it_compares_with_another_epoch_and_another_seed(quick: Run) -> None:
    others = set(table(quick, "consistency")["other"])
    assert "seed 124" in others
    assert "other image" in others
    assert any(name.startswith("epoch ") for name in others)
    train = mlflow.get_run(quick.data.tags["train_run"])
    assert f"epoch {train.data.tags['best_epoch']}" not in others  # that is the model itself


def test_the_description_says_what_was_measured_and_what_does_not_follow(quick: Run) -> None:
    said = quick.data.tags["mlflow.note.content"]
    assert fetched(quick, "statement.md").read_text() in said
    assert "not X-rays" in said
    assert "What does not follow." in said
    maps = np.load(fetched(quick, "maps.npz"))
    for finding in {name.split("/")[0] for name in maps.files}:
        assert f"**{finding.replace('_', ' ')}**: " in said


def test_small_cohorts_are_no_all_clear(quick: Run) -> None:
    assert table(quick, "masking")["drop"].isna().all()  # six test patients
    assert "Masking says nothing here" in quick.data.tags["mlflow.note.content"]
    assert not any(name.endswith("/alarms") for name in quick.data.metrics)


def test_the_same_call_is_reused_and_another_effort_is_not(
    quick: Run, trained: dict[str, object], call: Callable
) -> None:
    done = call("explain", **trained)
    assert f"reusing run {quick.info.run_id}" in done.out
    done = call("explain", **trained, stress="off", layer="layer4")
    assert done.code == 0, done.err
    off = runs("explain")[0]
    assert off.info.run_id != quick.info.run_id
    assert {"maps.npz", "localisation.csv", "attention.csv"} <= artifacts(off)
    assert not {"masking.csv", "randomisation.csv", "attack.csv", "consistency.csv"} & artifacts(off)
    assert "switched off" in off.data.tags["mlflow.note.content"]
    assert "explain/seconds/stress" not in off.data.metrics


def test_another_set_has_no_boxes_and_no_threshold_and_is_explained_all_the_same(
    trained: dict[str, object], call: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    phantom.draw(folder, seed=9, patients=8, size=64)
    (folder / nih.PHANTOM_NOTE).unlink()
    names = sorted(path.name for path in (folder / "images").iterdir())[:8]
    rows = [f"images/{name},{place // 2},{place % 2}" for place, name in enumerate(names)]
    (folder / "own.csv").write_text("image,patient_id,Effusion\n" + "\n".join(rows) + "\n")
    done = call("explain", **trained | {"data": f"csv:{folder / 'own.csv'}", "store": tmp_path / "store"})
    assert done.code == 0, done.err
    (explain, *_) = runs("explain")
    assert set(table(explain, "class_maps")["finding"]) == {"Effusion"}
    assert not {"localisation.csv", "gradcam_outcomes.png", "gradcam_boxed.png"} & artifacts(explain)
    assert "where the maps point was not measured" in explain.data.tags["mlflow.note.content"]


def test_real_boxes_are_held_against_maps_of_real_images(
    tracking_store: str, call: Callable, real_data: Path, tmp_path: Path
) -> None:
    """All NIH boxes of the real images that are there; one epoch, so what the maps show is not the point."""
    words = {"data": real_data / "nih", "images": "present", "store": tmp_path / "store", "device": "cpu"}
    done = call("main", **words, **SMALL, epochs=1, stress="off")
    assert done.code == 0, done.err
    (explain,) = runs("explain")
    names = {path.name for path in (real_data / "nih" / "images").iterdir()}
    boxes = pd.read_csv(real_data / "nih" / "BBox_List_2017.csv")
    boxes = boxes[boxes["Image Index"].isin(names)]
    boxes["Finding Label"] = boxes["Finding Label"].replace("Infiltrate", "Infiltration")
    rows = table(explain, "localisation_images")
    for method in ("gradcam", "shuffled", "centre", "class_mean"):
        own = rows[rows["method"] == method]
        assert set(zip(own["image"], own["finding"], strict=True)) == set(
            zip(boxes["Image Index"], boxes["Finding Label"], strict=True)
        )
    assert rows["image"].nunique() == 55
    assert "not comparable with published figures" in explain.data.tags["mlflow.note.content"]


def test_maps_that_are_all_zero_end_in_words_and_not_in_an_error(
    trained: dict[str, object], call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose head speaks against everything: no map has a positive value."""
    from cxr import serving

    load = serving.load_network

    def against(*given: object, **named: object) -> object:
        network, spec = load(*given, **named)
        torch.nn.init.constant_(network.fc.weight, -1.0)
        return network, spec

    monkeypatch.setattr(serving, "load_network", against)
    done = call("explain", **trained, layer="layer4", fresh="true")
    assert done.code == 0, done.err
    (explain, *_) = runs("explain")
    summary = table(explain, "class_maps")
    assert (summary["zero_maps"] == summary["images"]).all()
    boxed = table(explain, "localisation")
    hits = boxed[(boxed["method"] == "gradcam") & (boxed["measure"] == "pointing")]
    assert (hits["value"] == 0).all()  # a miss, not a blank
    said = explain.data.tags["mlflow.note.content"]
    assert "no map to compare, all are zero" in said
    assert "no order to follow, all maps are zero" in said
    assert "nan" not in said.lower().split()


def test_a_network_to_compare_with_that_is_gone_is_left_out_and_told(
    trained: dict[str, object], call: Callable, tmp_path: Path
) -> None:
    folder = Path(mlflow.get_run(str(trained["model"])).info.artifact_uri, "checkpoints")
    away = [Path(shutil.move(path, tmp_path)) for path in folder.glob("*.pt")]
    try:
        done = call("explain", **trained, fresh="true")
    finally:
        for path in away:
            shutil.move(path, folder)
    assert done.code == 0, done.err
    assert "is left out of the comparison" in done.out
    assert set(table(runs("explain")[0], "consistency")["other"]) == {"seed 124", "other image"}
