"""What data comes in through the commands, how it is divided, and what later stages make of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from cxr.data import nih, phantom
from cxr.data.cohort import patient_digest
from cxr.data.split import digest
from cxr.findings import CLASSES

TINY = {"image_size": 64, "epochs": 1, "arch": "resnet18", "batch_size": 8}
MODEL = "models:/cxr-resnet50/1"


@pytest.fixture
def tiny(phantom_folder: Path, tmp_path: Path) -> dict[str, object]:
    return {"data": phantom_folder, "store": tmp_path / "store", "device": "cpu"}


def run_of(stage: str) -> Run:
    (run,) = mlflow.search_runs(filter_string=f"tags.stage = '{stage}'", output_format="list")
    return run


def newest(stage: str) -> Run:
    return mlflow.search_runs(filter_string=f"tags.stage = '{stage}'", output_format="list")[0]


def fetched(run: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


@pytest.fixture(scope="module")
def other_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another drawn cohort: other patients, other pictures."""
    folder = tmp_path_factory.mktemp("other") / "cohort"
    phantom.draw(folder, seed=7, patients=24, size=64)
    return folder


def own_csv(drawn: Path, folder: Path, *, name: str, classes: tuple[str, ...]) -> Path:
    """A drawn cohort as a user's own CSV beside its images, labelled in some classes only."""
    if not (folder / "pictures").exists():
        shutil.copytree(drawn / "images", folder / "pictures")
    table = nih.read(drawn).table
    own = table[["patient_id", "sex", "view", *classes]].assign(image="pictures/" + table["image"])
    own["patient_id"] = "p" + own["patient_id"].astype(str)
    own.to_csv(folder / f"{name}.csv", index=False)
    return folder / f"{name}.csv"


# ---------------------------------------------------------------- unreadable images


def test_skip_loses_exactly_the_unreadable_rows_in_every_stage_and_says_so(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    table = nih.read(own_cohort).table
    bad = [table.loc[table["split"] == part, "image"].iloc[2] for part in ("train_val", "test")]
    for name in bad:
        (own_cohort / "images" / name).write_bytes(b"\x89PNG and no more")
    words = tiny | TINY | {"data": own_cohort, "on_bad_image": "skip"}
    done = call("main", **words, stress="off")
    assert done.code == 0, done.err
    assert "2 unreadable images left out of the split" in done.out
    train, evaluate, split = run_of("train"), run_of("evaluate"), run_of("split")
    assert train.data.metrics["split/bad_images"] == 2
    assert sorted(pd.read_csv(fetched(train, "bad_images.csv"))["image"]) == sorted(bad)
    whole = pd.read_parquet(fetched(split, "cohort.parquet"))
    kept = whole[~whole["image"].isin(bad)]
    assert train.data.tags["split_digest"] == evaluate.data.tags["split_digest"] == digest(kept)
    assert split.data.tags["split_digest"] == digest(whole)
    scores = pd.read_parquet(fetched(evaluate, "scores.parquet"))
    assert set(scores["image"]) == set(kept.loc[kept["split"] != "train", "image"])
    version = mlflow.MlflowClient().get_model_version("cxr-resnet50", "1")
    assert version.tags["split_digest"] == digest(kept)


# ---------------------------------------------------------------- what splits share


def test_the_same_picture_in_two_splits_is_reported_by_training(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    table = nih.read(own_cohort).table
    train_val, test = (table.loc[table["split"] == part, "image"].iloc[0] for part in ("train_val", "test"))
    shutil.copy(own_cohort / "images" / train_val, own_cohort / "images" / test)
    done = call("train", **tiny | TINY | {"data": own_cohort})
    assert "2 images stand in more than one split with the very same pixels" in done.out
    train = run_of("train")
    assert train.data.metrics["leakage/identical_images"] == 2
    assert train.data.metrics["leakage/patients_shared"] == 0
    assert set(pd.read_csv(fetched(train, "identical_images.csv"))["image"]) == {train_val, test}


def test_the_split_leaves_its_leakage_report_and_figure(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("split", **tiny)
    split = run_of("split")
    report = pd.read_csv(fetched(split, "leakage.csv"), index_col="measure")
    table = pd.read_parquet(fetched(split, "cohort.parquet"))
    test = table[table["split"] == "test"]
    assert report.loc["patients_shared", "all"] == 0
    assert report.loc["prevalence/Effusion", "test"] == pytest.approx(test["Effusion"].mean(), abs=5e-5)
    assert fetched(split, "shift.png").stat().st_size > 10_000
    assert split.data.metrics["split/boxes"] == len(pd.read_parquet(fetched(split, "boxes.parquet"))) > 0


def test_training_leaves_digests_of_the_patients_that_it_saw_and_no_numbers(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("train", **tiny | TINY)
    table = pd.read_parquet(fetched(run_of("split"), "cohort.parquet"))
    seen = table.loc[table["split"] != "test", "patient_id"].unique()
    expected = {patient_digest("phantom", patient) for patient in seen}
    assert set(fetched(run_of("train"), "seen_patients.txt").read_text().split()) == expected


def test_a_run_of_an_earlier_version_is_named_as_such(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("train", **tiny | TINY)
    client = mlflow.MlflowClient()
    client.delete_tag(run_of("train").info.run_id, "classes")
    done = call("evaluate", store=tiny["store"], model=MODEL)
    assert done.code == 1
    assert "made by an earlier version of this project (it has no tag classes)" in " ".join(done.err.split())


# ---------------------------------------------------------------- other divisions


def test_a_list_that_is_not_nihs_is_refused_unless_it_is_asked_for(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    (own_cohort / "PHANTOM.txt").unlink()
    done = call("split", **tiny | {"data": own_cohort})
    assert done.code == 1
    assert "is not NIH's official list" in " ".join(done.err.split())
    assert call("split", **tiny | {"data": own_cohort}, split="custom").code == 0
    assert run_of("split").data.tags["scope"] == "custom"


def test_a_random_split_says_in_every_stage_that_it_does_not_compare(
    tracking_store: str, call: Callable, tiny: dict[str, object], real_data: Path
) -> None:
    """On NIH's real metadata and images: the scope is of what NIH publishes."""
    words = tiny | TINY | {"data": real_data / "nih", "images": "present", "split": "random-patient"}
    done = call("main", **words, stress="off")
    assert done.code == 0, done.err
    table = pd.read_parquet(fetched(run_of("split"), "cohort.parquet"))
    patients = table.groupby("split")["patient_id"].nunique().to_dict()
    assert sum(patients.values()) == 187
    for stage in ("split", "train", "evaluate"):
        assert run_of(stage).data.tags["scope"] == "random-patient"
    assert "not comparable with figures on the official test list" in run_of("evaluate").data.tags["headline"]
    assert mlflow.MlflowClient().get_model_version("cxr-resnet50", "1").tags["scope"] == "random-patient"


@pytest.mark.parametrize(
    ("stage", "parameters", "words"),
    [
        ("train", {"split": "custom", "split_run": "abc"}, "split=custom has no effect beside split_run=abc"),
        ("evaluate", {"split": "test", "model": MODEL}, f"split=test has no effect beside model={MODEL}"),
        ("explain", {"uncertain": "ones", "model": MODEL}, f"uncertain=ones has no effect beside model={MODEL}"),
        ("train", {"images": "present", "split_run": "abc"}, "images=present has no effect beside split_run=abc"),
        ("register", {"register_as": "b", "model": "models:/a/1"}, "register_as=b has no effect beside model="),
    ],
)
def test_a_way_to_split_that_would_be_ignored_is_refused(
    call: Callable, stage: str, parameters: dict[str, object], words: str
) -> None:
    done = call(stage, **parameters)
    assert done.code == 2
    assert words in " ".join(done.err.split())


# ---------------------------------------------------------------- other sets


def test_a_model_is_measured_on_a_users_own_set_on_the_classes_that_both_know(
    tracking_store: str, call: Callable, tiny: dict[str, object], other_phantom: Path, tmp_path: Path
) -> None:
    known = ("Effusion", "Infiltration", "No Finding")
    place = own_csv(other_phantom, tmp_path / "hospital", name="hospital-b", classes=known)
    call("train", **tiny | TINY)
    done = call("evaluate", store=tiny["store"], data=f"csv:{place}", model=MODEL)
    assert done.code == 0, done.err
    evaluate = run_of("evaluate")
    assert (evaluate.data.tags["dataset"], evaluate.data.tags["scope"]) == ("hospital-b", "external")
    assert evaluate.data.tags["classes"] == "|".join(known)
    assert {name.rsplit("/", 1)[1] for name in evaluate.data.metrics if "/average_precision/" in name} == set(
        known
    )
    assert "12 that the set or the model does not know" in evaluate.data.tags["headline"]
    scores = pd.read_parquet(fetched(evaluate, "scores.parquet"))
    assert len(scores) == len(nih.read(other_phantom).table)
    assert scores["Mass"].isna().all()
    assert np.isfinite(scores["logit_Mass"]).all()
    absent = pd.read_csv(fetched(evaluate, "not_evaluated.csv"), index_col="not evaluated")["why"]
    assert "no evaluate run of models:/cxr-resnet50/1 on its own test images" in absent["out of distribution"]
    assert call("evaluate", **tiny, model=MODEL).code == 0
    home = newest("evaluate").data
    assert call("evaluate", store=tiny["store"], data=f"csv:{place}", model=MODEL, fresh="true").code == 0
    beside = pd.read_csv(fetched(newest("evaluate"), "out_of_distribution.csv"), index_col="finding")
    assert set(beside.index) <= set(known)
    for name, row in beside.iterrows():
        assert row["home"] == pytest.approx(home.metrics[f"test/auroc/{name}"])
        assert row["here"] == pytest.approx(evaluate.data.metrics[f"test/auroc/{name}"])
        assert newest("evaluate").data.metrics[f"test/home_auroc/{name}"] == pytest.approx(row["home"])
    assert len(beside)
    assert call("explain", store=tiny["store"], data=f"csv:{place}", model=MODEL, stress="off").code == 0
    maps = pd.read_csv(fetched(run_of("explain"), "class_maps.csv"))
    assert set(maps["finding"]) <= set(known)


def test_a_users_own_set_can_be_divided_and_trained_on(
    tracking_store: str, call: Callable, tiny: dict[str, object], other_phantom: Path, tmp_path: Path
) -> None:
    place = own_csv(other_phantom, tmp_path / "hospital", name="hospital-b", classes=("Effusion", "Infiltration"))
    words = tiny | TINY | {"data": f"csv:{place}"}
    done = call("train", **words)
    assert done.code == 1  # every image is a test image unless something else is said
    assert "split=random-patient" in " ".join(done.err.split())
    done = call("main", **words, split="random-patient", stress="off")
    assert done.code == 0, done.err
    train = run_of("train")
    assert train.data.tags["classes"] == "Effusion|Infiltration"
    assert np.isfinite(train.data.metrics["train/loss"])
    # elsewhere, the classes that it never learned have no number
    done = call("evaluate", **tiny, model=MODEL, fresh="true")
    assert done.code == 0, done.err
    other = mlflow.search_runs(
        filter_string="tags.stage = 'evaluate' and tags.dataset = 'phantom'", output_format="list"
    )[0]
    assert other.data.tags["classes"] == "Effusion|Infiltration"


def test_a_registered_model_is_evaluated_on_covid_chestxray(
    tracking_store: str, call: Callable, tiny: dict[str, object], real_data: Path
) -> None:
    call("train", **tiny | TINY)
    place = f"covid-chestxray:{real_data}/external/covid-chestxray"
    done = call("evaluate", store=tiny["store"], data=place, model=MODEL)
    assert done.code == 0, done.err
    evaluate = run_of("evaluate")
    table = pd.read_csv(fetched(evaluate, "table3_auroc.csv"), index_col="finding")
    assert table.loc["Pneumonia", ["positives", "negatives"]].tolist() == [42, 3]
    assert table.loc["No Finding", "positives"] == 3
    assert table["auroc"].notna().sum() == 2
    assert set(evaluate.data.tags["classes"].split("|")) == {"Pneumonia", "No Finding"}
    assert set(CLASSES) <= set(pd.read_parquet(fetched(evaluate, "scores.parquet")).columns)


def test_pictures_that_a_model_has_seen_are_known_again_under_another_name(
    tracking_store: str, call: Callable, tiny: dict[str, object], other_phantom: Path, tmp_path: Path
) -> None:
    train = own_csv(other_phantom, tmp_path / "site", name="train-site", classes=("Effusion", "Infiltration"))
    test = own_csv(other_phantom, tmp_path / "site", name="test-site", classes=("Effusion", "Infiltration"))
    call("train", **tiny | TINY | {"data": f"csv:{train}"}, split="random-patient")
    done = call("evaluate", store=tiny["store"], data=f"csv:{test}", model=MODEL)
    assert done.code == 1
    assert "of the very pictures that test-site would be tested with" in " ".join(done.err.split())


def test_a_split_run_takes_no_other_sets_pictures(
    tracking_store: str, call: Callable, tiny: dict[str, object], other_phantom: Path, tmp_path: Path
) -> None:
    one = own_csv(other_phantom, tmp_path / "site", name="site-a", classes=("Effusion", "Infiltration"))
    two = own_csv(other_phantom, tmp_path / "site", name="site-b", classes=("Effusion", "Infiltration"))
    call("split", **tiny | {"data": f"csv:{one}"}, split="random-patient")
    split_run = run_of("split").info.run_id
    done = call("train", **tiny | TINY | {"data": f"csv:{two}"}, split_run=split_run)
    assert done.code == 1
    assert f"that is site-b, but split run {split_run} is of site-a" in " ".join(done.err.split())


def test_nothing_to_measure_is_said_before_anything_is_scored(
    tracking_store: str, call: Callable, tiny: dict[str, object], other_phantom: Path, tmp_path: Path
) -> None:
    train = own_csv(other_phantom, tmp_path / "a", name="site-a", classes=("Effusion",))
    test = own_csv(other_phantom, tmp_path / "b", name="site-b", classes=("Hernia",))
    call("train", **tiny | TINY | {"data": f"csv:{train}"}, split="random-patient")
    shutil.rmtree(tmp_path / "b" / "pictures")
    drawn = tmp_path / "drawn"
    phantom.draw(drawn, seed=8, patients=24, size=64)
    test = own_csv(drawn, tmp_path / "b", name="site-b", classes=("Hernia",))
    done = call("evaluate", store=tiny["store"], data=f"csv:{test}", model=MODEL)
    assert done.code == 1
    assert "labelled in Hernia; the scores are of Effusion" in " ".join(done.err.split())
    assert mlflow.search_runs(filter_string="tags.stage = 'evaluate'", output_format="list") == []


def test_a_split_is_made_anew_when_pictures_or_boxes_changed(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    words = tiny | {"data": own_cohort}
    call("split", **words)
    assert "reusing run" in call("split", **words).out
    boxes = own_cohort / "BBox_List_2017.csv"
    boxes.write_text("\n".join(boxes.read_text().splitlines()[:-1]))
    assert "reusing run" not in call("split", **words).out
    first = sorted((own_cohort / "images").iterdir())[0]
    first.write_bytes(first.read_bytes() + b"\0")
    assert "reusing run" not in call("split", **words).out
    boxes.write_text("no boxes")
    assert call("split", **words).code == 1


def test_no_validation_image_that_can_be_read_is_refused(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    words = tiny | {"data": own_cohort}
    call("split", **words)
    table = pd.read_parquet(fetched(run_of("split"), "cohort.parquet"))
    for name in table.loc[table["split"] == "val", "image"]:
        path = own_cohort / "images" / name
        path.write_bytes(b"x" * path.stat().st_size)  # the same size: the same split
    done = call("train", **words | TINY, on_bad_image="skip")
    assert done.code == 1
    assert "has no val images" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("chexpert:{}/nowhere", "there is no such folder"),
        ("csv:{}/nowhere.csv", "there is no such file"),
        ("chexprt:{}", "chexprt is not a kind of data. Known are chexpert, mimic-cxr-jpg"),
        ("{}/own.csv", "give data=csv:"),
    ],
)
def test_a_place_that_is_not_there_is_named(
    tracking_store: str, call: Callable, tmp_path: Path, data: str, words: str
) -> None:
    done = call("split", data=data.format(tmp_path))
    assert done.code == 1
    assert words in " ".join(done.err.split())
    assert "Traceback" not in done.err
