"""Scores files: what they may hold, what is refused and how; published scores reproduce published AUROCs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxr.data import nih
from cxr.errors import InputError
from cxr.evaluation import metrics, scores_file
from cxr.findings import CLASSES, FINDINGS


@pytest.fixture(scope="module")
def cohort(phantom_folder: Path) -> pd.DataFrame:
    return nih.read(phantom_folder, split="test").table


@pytest.fixture
def table(cohort: pd.DataFrame) -> pd.DataFrame:
    """Probabilities of two findings for ten images, not in the cohort's order."""
    some = cohort["image"].sample(10, random_state=0).tolist()
    rng = np.random.default_rng(0)
    return pd.DataFrame({"Image Index": some, "prob_Edema": rng.random(10), "prob_Hernia": rng.random(10)})


Write = Callable[[pd.DataFrame, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(frame: pd.DataFrame, name: str = "scores.csv") -> Path:
        path = tmp_path / name
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
        return path

    return written


@pytest.mark.parametrize("name", ["scores.csv", "scores.csv.gz", "scores.parquet"])
def test_probabilities_become_logits_beside_the_cohorts_labels(
    table: pd.DataFrame, cohort: pd.DataFrame, write: Write, name: str
) -> None:
    scores = scores_file.read(write(table, name), cohort)
    assert scores["image"].tolist() == table["Image Index"].tolist()
    assert set(scores["split"]) == {"test"}
    known = cohort.set_index("image").loc[scores["image"]]
    assert scores["patient_id"].tolist() == known["patient_id"].tolist()
    assert scores[list(CLASSES)].to_numpy().tolist() == known[list(CLASSES)].to_numpy().tolist()
    assert expit(scores["logit_Edema"]).to_numpy() == pytest.approx(table["prob_Edema"].to_numpy(), abs=1e-15)
    assert scores[[f"logit_{name}" for name in CLASSES if name not in ("Edema", "Hernia")]].isna().all(axis=None)


def test_logits_stay_what_they_are_and_spellings_are_known(
    table: pd.DataFrame, cohort: pd.DataFrame, write: Write
) -> None:
    values = np.linspace(-900, 900, 10)
    path = write(pd.DataFrame({"image": table["Image Index"], "logit_Pleural Thickening": values}), "s.parquet")
    assert scores_file.read(path, cohort)["logit_Pleural_Thickening"].tolist() == values.tolist()


def test_certain_probabilities_are_finite_and_keep_their_place(
    table: pd.DataFrame, cohort: pd.DataFrame, write: Write
) -> None:
    values = [0.0, 1e-300, 0.1, 0.5, 0.9, 0.99, 0.999, 1 - 1e-15, 1.0, 1.0]
    logits = scores_file.read(write(table.assign(prob_Edema=values), "s.parquet"), cohort)["logit_Edema"]
    assert np.isfinite(logits).all()
    assert (np.diff(logits)[:-1] > 0).all()
    assert logits.iloc[-1] == logits.iloc[-2]


def test_rounded_probabilities_keep_a_slope(cohort: pd.DataFrame, write: Write) -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(-4, 2, size=len(cohort))
    for decimals in (2, 3):
        frame = pd.DataFrame({"image": cohort["image"], "prob_Edema": expit(exact).round(decimals)})
        assert (frame["prob_Edema"] == 0).any()
        path = write(frame, f"{decimals}.csv")
        read = scores_file.read(path, cohort)
        logits = read["logit_Edema"]
        smallest = frame["prob_Edema"][frame["prob_Edema"] > 0].min()
        assert expit(logits.min()) == pytest.approx(smallest / 2)
        assert read.attrs["certain"] == frame["prob_Edema"].isin([0, 1]).sum()


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_no_rows_are_refused(table: pd.DataFrame, cohort: pd.DataFrame, write: Write, name: str) -> None:
    with pytest.raises(InputError, match="no rows"):
        scores_file.read(write(table.iloc[:0], name), cohort)


def test_an_index_of_images_is_their_column(table: pd.DataFrame, cohort: pd.DataFrame, write: Write) -> None:
    path = write(table.set_index("Image Index"), "s.parquet")
    assert len(scores_file.read(path, cohort)) == len(table)


def test_an_empty_column_is_a_class_that_was_not_scored(
    table: pd.DataFrame, cohort: pd.DataFrame, write: Write
) -> None:
    for name in ("s.csv", "s.parquet"):
        scores = scores_file.read(write(table.assign(prob_Edema=np.nan), name), cohort)
        assert scores["logit_Edema"].isna().all()
        assert scores["logit_Hernia"].notna().all()


def test_a_split_column_supplies_validation_rows(cohort: pd.DataFrame, write: Write) -> None:
    part = np.where(cohort["patient_id"] % 2 == 0, "val", "test")
    frame = pd.DataFrame({"image": cohort["image"], "split": part, "logit_Edema": 0.0})
    assert scores_file.read(write(frame, "s.csv"), cohort)["split"].tolist() == part.tolist()


def test_a_table_that_a_run_left_is_a_scores_file(cohort: pd.DataFrame, write: Write) -> None:
    logits = pd.DataFrame(0.5, index=cohort.index, columns=[f"logit_{name}" for name in CLASSES])
    left = pd.concat([cohort[["image", "patient_id", "split", *CLASSES]].assign(split="test"), logits], axis=1)
    read = scores_file.read(write(left, "scores.parquet"), cohort)
    pd.testing.assert_frame_equal(read, left, check_dtype=False)


def spoil(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    first = table["Image Index"].iloc[0]
    match kind:
        case "nan":
            return table.assign(prob_Edema=[np.nan, *table["prob_Edema"][1:]])
        case "above 1":
            return table.assign(prob_Edema=[1.5, *table["prob_Edema"][1:]])
        case "word":
            return table.assign(prob_Edema=["high", *table["prob_Edema"][1:].astype(str)])
        case "infinite":
            return table.rename(columns={"prob_Edema": "logit_Edema"}).assign(logit_Edema=np.inf)
        case "twice":
            return pd.concat([table, table[table["Image Index"] == first]])
        case "unknown":
            return table.assign(**{"Image Index": [f"x-{first}", *table["Image Index"][1:]]})
        case "typo":
            return table.rename(columns={"prob_Edema": "prob_Edma"})
        case "both":
            return table.assign(logit_Edema=0.0)
        case "no scores":
            return table[["Image Index"]].assign(note="x")
        case "no image":
            return table.drop(columns="Image Index")
        case "split":
            return table.assign(split="train")
        case "no test":
            return table.assign(split="val")
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "prob_Edema: 1 values are no probability: {first}:"),
        ("above 1", "prob_Edema: 1 values are no probability: {first}: '1.5'"),
        ("word", "prob_Edema: 1 values are no probability: {first}: 'high'"),
        ("infinite", "logit_Edema: 10 values are no number from -1,000,000 to 1,000,000: {first}: 'inf'"),
        ("twice", "Image Index: 2 images come twice: {first}, {first}"),
        ("unknown", "1 images are not among the cohort's"),
        ("typo", "columns ['prob_Edma'] name no class. Known are Atelectasis"),
        ("both", "expected one column for Edema, found ['prob_Edema', 'logit_Edema']"),
        ("no scores", "no column of scores, such as prob_Atelectasis, logit_Atelectasis; it has ['Image Index'"),
        ("no image", "expected a column image or Image Index, found ['prob_Edema'"),
        ("split", "split: 10 values are none of val, test: {first}: 'train'"),
        ("no test", "no row has split=test"),
    ],
)
def test_what_is_wrong_is_named(
    table: pd.DataFrame, cohort: pd.DataFrame, write: Write, kind: str, words: str
) -> None:
    path = write(spoil(table, kind), "scores.csv")
    with pytest.raises(InputError) as error:
        scores_file.read(path, cohort)
    assert str(path) in str(error.value)
    assert words.format(first=table["Image Index"].iloc[0]) in str(error.value)


def test_a_patient_in_both_parts_is_refused(cohort: pd.DataFrame, write: Write) -> None:
    several = cohort.groupby("patient_id").filter(lambda rows: len(rows) > 1)
    rows = several[several["patient_id"] == several["patient_id"].iloc[0]].head(2)
    frame = pd.DataFrame({"image": rows["image"], "split": ["val", "test"], "logit_Edema": 0.0})
    with pytest.raises(
        InputError, match=f"1 patients have images in val and in test: {rows['patient_id'].iloc[0]}"
    ):
        scores_file.read(write(frame, "s.csv"), cohort)


def test_files_that_are_none_are_refused(tmp_path: Path, cohort: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        scores_file.read(tmp_path / "scores.csv", cohort)
    for name, words in (("s.xlsx", "ends in .csv, .csv.gz, .parquet"), ("s.parquet", "cannot be read as Parquet"),
                        ("s.csv.gz", "cannot be read as CSV")):  # fmt: skip
        (tmp_path / name).write_bytes(b"nothing of that kind")
        with pytest.raises(InputError, match=words):
            scores_file.read(tmp_path / name, cohort)


def test_published_scores_reproduce_the_published_aurocs(real_data: Path) -> None:
    folder = real_data / "predictions" / "jrzech"
    scores = scores_file.read(folder / "preds.csv.gz", nih.read(real_data / "nih", split="test").table)
    assert len(scores) == 22_433
    table = metrics.per_class(scores)
    published = pd.read_csv(folder / "aucs.csv", index_col="label")["auc"]
    assert set(published.index) == set(FINDINGS)
    assert (table["auroc"][published.index] - published).abs().max() < 1e-9
    assert np.isnan(table.loc["No Finding", "auroc"])
