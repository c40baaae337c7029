"""Evaluating a file of scores: no model and no images; the same numbers as from the model, or published ones."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run

from cxr.findings import FINDINGS


@pytest.fixture(scope="module")
def published(tables: Path) -> pd.DataFrame:
    """What somebody might publish: probabilities that follow the labels, for all images but No Finding's."""
    from cxr.data import nih

    table = nih.read(tables, split="test").table
    rng = np.random.default_rng(0)
    scores = pd.DataFrame({"Image Index": table["image"]})
    for name in FINDINGS:
        scores[f"prob_{name}"] = 1 / (1 + np.exp(2.5 - 1.5 * table[name] - rng.normal(size=len(table))))
    scores["split"] = np.where(table["patient_id"] % 3 == 0, "val", "test")
    return scores


def evaluated() -> list[Run]:
    return mlflow.search_runs(filter_string="tags.stage = 'evaluate'", output_format="list")


def fetched(run: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def names(run: Run, folder: str | None = None) -> set[str]:
    return {item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)}


def table(run: Run, name: str, index: str = "finding") -> pd.DataFrame:
    return pd.read_csv(fetched(run, f"{name}.csv"), index_col=index)


def test_a_file_with_validation_rows_gets_everything(
    tracking_store: str, call: Callable, tables: Path, published: pd.DataFrame, tmp_path: Path
) -> None:
    published.to_csv(tmp_path / "theirs.csv.gz", index=False)
    done = call("evaluate", data=tables, scores=tmp_path / "theirs.csv.gz")
    assert done.code == 0, done.err
    (run,) = evaluated()
    assert run.info.status == "FINISHED"
    assert {
        "scores.parquet", "table3_auroc.csv", "macro_auroc.csv", "auroc.png", "roc.png", "precision_recall.png",
        "operating_points.csv", "thresholds.json", "calibration.csv", "calibration_platt.csv", "reliability.png",
        "recalibration.json", "prior_shift.csv", "prior_shift.png", "subgroups.csv", "contrasts.csv",
        "not_evaluated.csv", "macro_classes.json",
    } <= names(run)  # fmt: skip
    assert {"subgroups/sex_auroc.png", "subgroups/sex_rates.png"} <= names(run, "subgroups")
    values = run.data.metrics
    ranks = table(run, "table3_auroc")
    for name in ("Effusion", "Mass"):
        assert values[f"test/auroc_low/{name}"] < values[f"test/auroc/{name}"] < values[f"test/auroc_high/{name}"]
        assert values[f"test/auroc_low/{name}"] == pytest.approx(ranks.loc[name, "auroc_low"])
        for metric in (
            "auroc_delong_low", "auroc_t_high", "auroc_one_image", "average_precision_low", "brier", "ece",
            "calibration_slope", "sensitivity/youden", "specificity_low/sensitivity_90",
        ):  # fmt: skip
            assert f"test/{metric}/{name}" in values, metric
    fitted = table(run, "calibration_platt").index
    assert 0 < len(fitted) < 14  # not below 20 positive patients
    for name in fitted:
        assert {f"test/brier_platt/{name}", f"test/prevalence_em/{name}"} <= set(values)
    assert "test/subgroup/sex_F/auroc/Effusion" in values
    assert "test/contrast/sex_F_minus_M/auroc/Effusion" in values
    assert f"(95 % {values['test/auroc_low/macro_14']:.4f} to " in run.data.tags["headline"]
    assert set(pd.read_parquet(fetched(run, "scores.parquet"))["split"]) == {"val", "test"}
    listed = table(run, "not_evaluated", "not evaluated").index
    assert {"race or ethnicity", "use in a clinic", "leakage", "out of distribution"} <= set(listed)
    assert "agreement with radiologists" in listed  # the drawn cohort has none
    assert not {"thresholds", "recalibration, prior shift"} & set(listed)
    assert run.data.tags["not_evaluated"] == "; ".join(listed)
    assert "**Not evaluated in this run:**" in run.data.tags["mlflow.note.content"]

    # the table that the run left, measured again
    assert call("evaluate", data=tables, scores=f"runs:/{run.info.run_id}/scores.parquet").code == 0
    again = evaluated()[0]
    assert again.info.run_id != run.info.run_id
    assert again.data.metrics == pytest.approx(run.data.metrics)
    assert "reusing run" in call("evaluate", data=tables, scores=tmp_path / "theirs.csv.gz").out
    assert len(evaluated()) == 2


def test_without_validation_rows_what_needs_them_is_not_evaluated(
    tracking_store: str, call: Callable, tables: Path, published: pd.DataFrame, tmp_path: Path
) -> None:
    published.drop(columns="split").to_parquet(tmp_path / "without.parquet")
    assert call("evaluate", data=tables, scores=tmp_path / "without.parquet").code == 0
    (run,) = evaluated()
    why = table(run, "not_evaluated", "not evaluated")["why"]
    for name in ("thresholds", "recalibration, prior shift"):
        assert "there are no validation rows" in why[name]
    assert "thresholds.json" not in names(run)
    assert not [name for name in run.data.metrics if "youden" in name or "platt" in name]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"scores": "theirs.csv"}, "scores=theirs.csv: give data, the set that its images are of"),
        ({"scores": "theirs.csv", "data": "phantom", "model": "models:/m/1"}, "model=models:/m/1 beside scores="),
        (
            {"scores": "theirs.csv", "data": "phantom", "limit": 3},
            "limit=3 has no effect beside scores=theirs.csv",
        ),
        ({"scores": "theirs.csv", "data": "phantom", "split": "official"}, "split=official has no effect beside"),
    ],
)
def test_what_does_nothing_beside_scores_is_refused(
    tracking_store: str, call: Callable, parameters: dict[str, object], words: str
) -> None:
    done = call("evaluate", **parameters)
    assert done.code == 2
    assert words in done.err


def test_a_bad_file_is_one_error_and_no_finished_run(
    tracking_store: str, call: Callable, tables: Path, published: pd.DataFrame, tmp_path: Path
) -> None:
    published.assign(prob_Edema=published["prob_Edema"].where(published.index > 0)).to_csv(
        tmp_path / "nan.csv", index=False
    )
    for name, words in (("nan.csv", "prob_Edema"), ("none.csv", "none.csv: there is")):
        done = call("evaluate", data=tables, scores=tmp_path / name)
        assert done.code == 1
        assert words in done.err
        assert "Traceback" not in done.err
    assert evaluated() == []


def test_a_set_without_positives_is_undefined_and_said_so(
    tracking_store: str, call: Callable, tables: Path, published: pd.DataFrame, tmp_path: Path
) -> None:
    published.head(1).drop(columns="split").to_csv(tmp_path / "one.csv", index=False)
    done = call("evaluate", data=tables, scores=tmp_path / "one.csv")
    assert done.code == 0, done.err
    (run,) = evaluated()
    assert "undefined" in run.data.tags["headline"]
    assert table(run, "table3_auroc")["auroc"].isna().all()
    assert not [name for name in run.data.metrics if name.startswith("test/auroc")]


def test_published_scores_on_real_metadata(tracking_store: str, call: Callable, real_data: Path) -> None:
    folder = real_data / "predictions" / "jrzech"
    done = call("evaluate", data=real_data / "nih", scores=folder / "preds.csv.gz")
    assert done.code == 0, done.err
    (run,) = evaluated()
    published = pd.read_csv(folder / "aucs.csv", index_col="label")["auc"]
    assert len(published) == 14
    values = run.data.metrics
    for name, auroc in published.items():
        assert values[f"test/auroc/{name}"] == pytest.approx(auroc, abs=1e-9)
        assert values[f"test/auroc_low/{name}"] < auroc < values[f"test/auroc_high/{name}"]
        assert f"test/calibration_slope/{name}" in values
        assert values[f"test/metadata_only/auroc/{name}"] < auroc
    assert values["test/auroc/macro_14"] == pytest.approx(published.mean(), abs=1e-9)
    assert table(run, "table3_auroc")["few"].loc[list(FINDINGS)].eq(True).sum() == 1  # Hernia, of 29 patients
    assert "test/subgroup/view_AP/auroc/Effusion" in values
    assert "test/expert/four_findings/auroc/Pneumothorax" in values
    assert "NIH ChestX-ray14, 22,433 images of 6,187 patients, those of the file" in run.data.tags["headline"]
    assert {"expert_labels_all_findings.png", "metadata_only.png", "reliability.png"} <= names(run)
    assert "out of distribution" in run.data.tags["not_evaluated"]


def test_scores_of_nothing_that_the_set_labels_are_refused(
    tracking_store: str, call: Callable, tables: Path, tmp_path: Path
) -> None:
    from cxr.data import nih

    images = nih.read(tables, split="test").table["image"]
    own = pd.DataFrame({"image": images, "patient_id": range(len(images)), "Hernia": 0})
    (tmp_path / "own").mkdir()
    own.to_csv(tmp_path / "own" / "own.csv", index=False)
    pd.DataFrame({"image": images, "prob_Edema": 0.5}).to_csv(tmp_path / "s.csv", index=False)
    done = call("evaluate", data=f"csv:{tmp_path / 'own' / 'own.csv'}", scores=tmp_path / "s.csv")
    assert done.code == 1
    assert "labelled in Hernia; the scores are of Edema" in " ".join(done.err.split())
    assert evaluated() == []
