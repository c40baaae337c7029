"""Subgroups: levels and counts by hand, AUROC and rates by scikit-learn, and contrasts that stay paired."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxr.evaluation import subgroups
from cxr.evaluation.bootstrap import replicates
from cxr.evaluation.subgroups import LEVELS, flat, levels, measure
from cxr.findings import CLASSES, FINDINGS, NO_FINDING

COUNT = 60  # replicates
METRIC_NAME = re.compile(r"[A-Za-z0-9_\-. /]+")  # mlflow.utils.validation, apart from the colon


def drawn(patients: int = 160, *, seed: int = 0) -> pd.DataFrame:
    """Test rows of patients with 1 to 30 images, both sexes and views, of ages below 80; all findings alike."""
    rng = np.random.default_rng(seed)
    images = rng.choice([1, 3, 10, 25], size=patients)
    of = np.repeat(np.arange(patients), images)
    count = len(of)
    labels = {name: (rng.random(count) < 0.3).astype(np.uint8) for name in CLASSES}
    return pd.DataFrame(
        {
            "image": [f"{row}.png" for row in range(count)],
            "patient_id": 1000 - of,  # ids that are no places, and not in the order of the rows
            "split": "test",
            **labels,
            **{f"logit_{n}": (rng.normal(size=count) + labels[n]).round(1).astype(np.float32) for n in CLASSES},
            "age_years": np.repeat(rng.choice([8.0, 30.0, 50.0, 70.0], size=patients), images),
            "sex": np.repeat(rng.choice(["F", "M"], size=patients), images),
            "view": rng.choice(["PA", "AP"], size=count),
            "follow_up": np.concatenate([np.arange(n) for n in images]),
        }
    )


def thresholds(value: float = 0.5, names: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    return pd.DataFrame({"youden": value}, index=pd.Index(names, name="finding"))


def cell(found: subgroups.Subgroups, attribute: str, level: str, finding: str) -> pd.Series:
    cells = found.cells.set_index(["attribute", "level", "finding"])
    return cells.loc[(attribute, level, finding)]


def contrast(found: subgroups.Subgroups, name: str, finding: str) -> pd.Series:
    return found.contrasts.set_index(["contrast", "finding"]).loc[(name, finding)]


# ---------------------------------------------------------------- levels and counts


def test_levels_are_half_open_bands_and_unknown_ones_are_empty() -> None:
    table = pd.DataFrame(
        {
            "image": [f"{row}.png" for row in range(8)],
            "patient_id": [1, 1, 2, 3, 3, 3, 3, 3],
            "age_years": [0, 17.99, 18, 39.9, 40, 60, 80, np.nan],
            "sex": ["F", "M", "", "F", "F", "F", "F", "F"],
            "view": ["PA", "AP", "", "PA", "PA", "PA", "PA", "PA"],
            "follow_up": [0, 1, np.nan, 0, 2, 3, 0, 7],
        }
    )
    found = levels(table)
    assert found["age"].tolist() == ["0-17", "0-17", "18-39", "18-39", "40-59", "60-79", "80+", ""]
    assert found["sex"].tolist()[:3] == ["F", "M", ""]
    assert found["view"].tolist()[:3] == ["PA", "AP", ""]
    assert found["visit"].tolist() == ["first", "later", "", "first", "later", "later", "first", "later"]
    assert found["images"].tolist() == ["2-5", "2-5", "1", *["2-5"] * 5]


def test_numbers_of_images_of_a_patient_fall_into_their_bands() -> None:
    sizes = [1, 2, 5, 6, 20, 21, 184]
    of = np.repeat(np.arange(len(sizes)), sizes)
    table = pd.DataFrame({"image": of, "patient_id": of, "age_years": 1, "sex": "F", "view": "PA", "follow_up": 0})
    bands = levels(table).groupby(of)["images"].first()
    assert bands.tolist() == ["1", "2-5", "2-5", "6-20", "6-20", "21+", "21+"]


def test_cells_count_images_and_patients_of_their_level() -> None:
    test = drawn().astype({"Mass": float})
    test.loc[test.index % 5 == 0, "Mass"] = np.nan
    found = measure(test, thresholds(), seed=0, count=COUNT)
    women = test[test["sex"] == "F"]
    row, labelled = cell(found, "sex", "F", "Mass"), women.dropna(subset="Mass")
    assert row["images"] == len(labelled) < len(women)
    assert row["patients"] == labelled["patient_id"].nunique()
    assert row["positives"] == labelled["Mass"].sum()
    assert row["positive_patients"] == labelled.loc[labelled["Mass"] == 1, "patient_id"].nunique()
    assert row["negative_patients"] == labelled.loc[labelled["Mass"] == 0, "patient_id"].nunique()
    assert row["prevalence"] == pytest.approx(labelled["Mass"].mean())
    macro = cell(found, "sex", "F", "macro_14")
    assert (macro["images"], macro["patients"]) == (len(women), women["patient_id"].nunique())
    assert pd.isna(macro["positives"])


def test_tables_hold_every_level_and_finding_in_their_order() -> None:
    found = measure(drawn(), thresholds(), seed=0, count=COUNT)
    pairs = [(attribute, level) for attribute, names in LEVELS.items() for level in names]
    assert list(found.cells[["attribute", "level"]].drop_duplicates().itertuples(index=False, name=None)) == pairs
    rows = [*CLASSES, "macro_14"]
    assert found.cells["finding"].tolist() == rows * len(pairs)
    assert found.contrasts["contrast"].drop_duplicates().tolist() == [
        "F minus M", "0-17 minus 40-59", "18-39 minus 40-59",
        "60-79 minus 40-59", "80+ minus 40-59", "AP minus PA", "later minus first",
        "2-5 minus 1", "6-20 minus 1", "21+ minus 1",
    ]  # fmt: skip
    assert found.contrasts["finding"].tolist() == rows * 10


def test_unknown_values_are_in_no_cell_and_counted() -> None:
    test = drawn()
    test.loc[:99, "age_years"] = np.nan
    test.loc[:49, "sex"] = ""
    found = measure(test, None, seed=0, count=COUNT)
    assert found.unknown == {"sex": 50, "age": 100, "view": 0, "visit": 0, "images": 0}
    macros = found.cells[found.cells["finding"] == "macro_14"].groupby("attribute")["images"].sum()
    assert (macros["sex"], macros["age"], macros["view"]) == (len(test) - 50, len(test) - 100, len(test))


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("attribute", "level"), [("sex", "M"), ("view", "AP"), ("age", "18-39"), ("images", "21+")]
)
def test_values_are_those_of_the_level_alone(attribute: str, level: str) -> None:
    test = drawn()
    found = measure(test, thresholds(0.7), seed=0, count=COUNT)
    part = test[levels(test)[attribute] == level]
    for name in ("Mass", NO_FINDING):
        row, labels, logits = cell(found, attribute, level, name), part[name], part[f"logit_{name}"].astype(float)
        assert row["auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
        assert row["tpr"] == pytest.approx((logits[labels == 1] >= 0.7).mean())
        assert row["fpr"] == pytest.approx((logits[labels == 0] >= 0.7).mean())
        assert row["note"] == ""
        for kind in ("auroc", "tpr", "fpr"):
            assert row[f"{kind}_low"] < row[kind] < row[f"{kind}_high"]


def test_a_score_at_the_threshold_is_called() -> None:
    test = drawn().assign(logit_Mass=np.float32(0.1))
    found = measure(test, thresholds(float(np.float32(0.1))), seed=0, count=COUNT)
    assert (cell(found, "sex", "F", "Mass")["tpr"], cell(found, "sex", "F", "Mass")["fpr"]) == (1, 1)


def test_intervals_are_of_replicates_of_the_whole_tests_patients() -> None:
    test = drawn()
    found = measure(test, None, seed=3, count=COUNT)
    ids = np.sort(test["patient_id"].unique())
    times = replicates(
        {str(patient): lambda drawn, at=at: drawn[at] for at, patient in enumerate(ids)},
        len(ids),
        seed=3,
        count=COUNT,
    )
    part = test[test["view"] == "AP"]
    values = []
    for _, weights in times.iterrows():
        rows = part.loc[part.index.repeat(part["patient_id"].astype(str).map(weights).astype(int))]
        values.append(roc_auc_score(rows["Edema"], rows["logit_Edema"]))
    row = cell(found, "view", "AP", "Edema")
    assert [row["auroc_low"], row["auroc_high"]] == pytest.approx(list(np.quantile(values, [0.025, 0.975])))


def test_without_thresholds_there_are_no_rates_and_it_is_said() -> None:
    found = measure(drawn(), None, seed=0, count=COUNT)
    assert found.cells[["tpr", "tpr_low", "tpr_high", "fpr", "fpr_low", "fpr_high"]].isna().all(axis=None)
    assert found.contrasts["tpr_difference"].isna().all()
    assert cell(found, "sex", "F", "Mass")["note"] == "no youden threshold of validation: no TPR, no FPR"
    some = measure(drawn(), thresholds(names=("Edema",)), seed=0, count=COUNT)
    assert np.isnan(cell(some, "sex", "F", "Mass")["tpr"])
    assert cell(some, "sex", "F", "Edema")["tpr"] > 0
    assert np.isnan(cell(some, "sex", "F", "macro_14")["tpr"])


# ---------------------------------------------------------------- what cannot be measured


def test_a_level_with_too_few_patients_is_undefined_and_says_why() -> None:
    test = drawn()
    women = test["sex"] == "F"
    test.loc[women, "Mass"] = 0
    four = test.loc[women, "patient_id"].unique()[:4]
    test.loc[women & test["patient_id"].isin(four), "Mass"] = 1
    found = measure(test, thresholds(), seed=0, count=COUNT)
    row = cell(found, "sex", "F", "Mass")
    assert row["note"] == "4 positive patients, 10 needed"
    assert row[["auroc", "auroc_low", "tpr", "fpr"]].isna().all()
    assert cell(found, "sex", "M", "Mass")["auroc"] > 0.5
    assert contrast(found, "F minus M", "Mass")[["auroc_difference", "low", "high", "tpr_difference"]].isna().all()


def test_the_macro_is_over_the_same_findings_in_every_level() -> None:
    test = drawn()
    test.loc[test["sex"] == "F", "Mass"] = 0
    found = measure(test, thresholds(), seed=0, count=COUNT)
    thirteen = [name for name in FINDINGS if name != "Mass"]
    for level in ("F", "M"):
        row = cell(found, "sex", level, "macro_14")
        assert row["auroc"] == pytest.approx(np.mean([cell(found, "sex", level, n)["auroc"] for n in thirteen]))
        assert row["tpr"] == pytest.approx(np.mean([cell(found, "sex", level, n)["tpr"] for n in thirteen]))
        assert row["note"] == "mean of 13 (without Mass)"
    difference = contrast(found, "F minus M", "macro_14")["auroc_difference"]
    assert difference == pytest.approx(
        np.mean([contrast(found, "F minus M", n)["auroc_difference"] for n in thirteen])
    )
    assert cell(found, "view", "PA", "macro_14")["note"] == "mean of 14"


def test_a_level_that_can_measure_little_has_no_macro_and_takes_none_from_the_others() -> None:
    test = drawn()
    young = test["age_years"] == 8
    test.loc[young, list(FINDINGS[3:])] = 0  # three of 14 are left
    found = measure(test, thresholds(), seed=0, count=COUNT)
    row = cell(found, "age", "0-17", "macro_14")
    assert np.isnan(row["auroc"])
    assert row["note"] == "no macro: fewer than half of the findings can be measured here"
    assert cell(found, "age", "40-59", "macro_14")["note"] == "mean of 14"
    assert cell(found, "age", "80+", "Edema")["note"] == "not labelled here, or unknown to the model"
    assert cell(found, "age", "0-17", FINDINGS[0])["auroc"] > 0.5


def test_a_class_that_the_model_does_not_know_is_left_out() -> None:
    test = drawn().assign(**{f"logit_{NO_FINDING}": np.nan, "logit_Mass": np.nan})
    found = measure(test, thresholds(), seed=0, count=COUNT)
    assert NO_FINDING not in set(found.cells["finding"]) | set(found.contrasts["finding"])
    assert cell(found, "sex", "F", "Mass")["note"] == "not labelled here, or unknown to the model"
    assert cell(found, "sex", "F", "macro_14")["note"] == "mean of 13 (without Mass)"


def test_a_test_set_that_can_measure_nothing_has_tables_all_the_same() -> None:
    found = measure(drawn(6), thresholds(), seed=0, count=COUNT)
    assert found.cells["auroc"].isna().all()
    assert cell(found, "sex", "F", "macro_14")["note"] == "no macro: no finding can be measured in all levels"
    assert flat(found) == {}


# ---------------------------------------------------------------- contrasts


def test_contrasts_are_differences_and_groups_with_equal_scores_do_not_differ() -> None:
    half = drawn(120).assign(sex="F")
    other = half.assign(sex="M", patient_id=half["patient_id"] + 5000, image=half["image"] + "2")
    found = measure(pd.concat([half, other], ignore_index=True), thresholds(), seed=0, count=200)
    for finding in (*CLASSES, "macro_14"):
        row = contrast(found, "F minus M", finding)
        assert row[["auroc_difference", "tpr_difference", "fpr_difference"]].tolist() == pytest.approx([0] * 3)
        assert row["low"] < 0 < row["high"]
        assert row["tpr_low"] < 0 < row["tpr_high"]


def test_levels_that_share_patients_stay_paired() -> None:
    # each patient has the same image, labels and scores in both views: in no replicate do they differ
    one = drawn(120).assign(view="PA", follow_up=0)
    both = pd.concat([one, one.assign(view="AP", image=one["image"] + "2")], ignore_index=True)
    row = contrast(measure(both, thresholds(), seed=0, count=COUNT), "AP minus PA", "Edema")
    names = ["auroc_difference", "low", "high", "tpr_difference", "tpr_low", "tpr_high", "fpr_low", "fpr_high"]
    assert row[names].tolist() == pytest.approx([0] * len(names), abs=1e-12)


def test_a_group_in_which_scores_are_worthless_differs() -> None:
    test = drawn(200)
    noise = np.random.default_rng(1).normal(size=len(test)).astype(np.float32)
    test["logit_Edema"] = test["logit_Edema"].where(test["sex"] == "M", noise)
    row = contrast(measure(test, thresholds(), seed=0, count=COUNT), "F minus M", "Edema")
    assert row["low"] < row["auroc_difference"] < row["high"] < 0


# ---------------------------------------------------------------- metrics


def test_metrics_are_what_is_defined_under_names_that_mlflow_takes() -> None:
    found = measure(drawn(300), thresholds(), seed=0, count=COUNT)
    metrics = flat(found, "test")
    assert all(METRIC_NAME.fullmatch(name) for name in metrics)
    assert not any(np.isnan(value) for value in metrics.values())
    assert metrics["test/subgroup/sex_F/auroc/Edema"] == cell(found, "sex", "F", "Edema")["auroc"]
    assert metrics["test/subgroup/images_21_and_over/fpr/No Finding"] > 0
    difference = contrast(found, "F minus M", "macro_14")["auroc_difference"]
    assert metrics["test/contrast/sex_F_minus_M/auroc/macro_14"] == difference
    assert "test/contrast/images_21_and_over_minus_1/tpr/Edema" in metrics
    assert not any("80_and_over" in name for name in metrics)  # nobody is that old
