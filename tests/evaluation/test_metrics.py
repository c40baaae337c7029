"""AUROC, average precision and their macros: against a count of pairs, scikit-learn and published scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.data import nih
from cxr.evaluation.metrics import (
    MIN_PATIENTS,
    Macro,
    flat,
    labelled,
    macro,
    measurable,
    per_class,
    readable,
)
from cxr.findings import CLASSES, FINDINGS, NO_FINDING


def scores(count: int, *, patients: np.ndarray | None = None, **given: object) -> pd.DataFrame:
    """A scores table of `count` images, one a patient, all classes negative and all logits 0 but those given."""
    columns: dict[str, object] = {
        "image": [f"{row}.png" for row in range(count)],
        "patient_id": np.arange(count) if patients is None else patients,
        "split": "test",
    }
    columns |= {name: np.zeros(count, dtype=np.uint8) for name in CLASSES}
    columns |= {f"logit_{name}": np.zeros(count, dtype=np.float32) for name in CLASSES}
    return pd.DataFrame(columns).assign(**given)


def random_scores(count: int, *, seed: int = 0, images_a_patient: int = 1, levels: int = 7) -> pd.DataFrame:
    """Labels of unlike prevalence and few distinct logits, so that ties abound."""
    rng = np.random.default_rng(seed)
    labels = {name: (rng.random(count) < 0.1 + 0.05 * k).astype(np.uint8) for k, name in enumerate(CLASSES)}
    logits = {
        f"logit_{name}": (np.round(rng.normal(size=count) * levels / 4 + labels[name]) / 2).astype(np.float32)
        for name in CLASSES
    }
    return scores(count, patients=np.arange(count) // images_a_patient, **labels, **logits)


def pairs_won(labels: np.ndarray, values: np.ndarray) -> float:
    """The AUROC by its definition: the share of positive-negative pairs in right order, ties for half."""
    above = values[labels == 1][:, None] - values[labels == 0][None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def steps_under(labels: np.ndarray, values: np.ndarray) -> float:
    """Average precision by its definition: precision at each threshold, weighted by the recall it adds."""
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(values)[::-1]:
        chosen = values >= threshold
        recall = (labels[chosen] == 1).sum() / (labels == 1).sum()
        total += (recall - recall_before) * (labels[chosen] == 1).mean()
        recall_before = recall
    return float(total)


# ---------------------------------------------------------------- one class


@pytest.mark.parametrize("seed", range(4))
def test_auroc_equals_a_count_of_pairs_and_scikit_learn_with_ties(seed: int) -> None:
    drawn = random_scores(150, seed=seed)
    table = per_class(drawn)
    assert table.index.tolist() == list(CLASSES)
    for name in CLASSES:
        labels, logits = drawn[name].to_numpy(), drawn[f"logit_{name}"].to_numpy()
        assert len(np.unique(logits)) < 20
        assert table.loc[name, "auroc"] == pytest.approx(pairs_won(labels, logits), abs=1e-12)
        assert table.loc[name, "auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_average_precision_equals_its_definition_and_scikit_learn_with_ties(seed: int) -> None:
    drawn = random_scores(150, seed=seed)
    table = per_class(drawn)
    for name in CLASSES:
        labels, logits = drawn[name].to_numpy(), drawn[f"logit_{name}"].to_numpy()
        assert table.loc[name, "average_precision"] == pytest.approx(steps_under(labels, logits), abs=1e-12)
        assert table.loc[name, "average_precision"] == pytest.approx(average_precision_score(labels, logits))


def test_auroc_is_one_half_for_equal_scores_and_turns_with_their_sign() -> None:
    drawn = random_scores(100)
    turned = drawn.assign(logit_Mass=-drawn["logit_Mass"], logit_Edema=3.0)
    assert per_class(turned).loc["Mass", "auroc"] == pytest.approx(1 - per_class(drawn).loc["Mass", "auroc"])
    assert per_class(turned).loc["Edema", "auroc"] == 0.5


def test_counts_and_prevalence_equal_a_hand_count() -> None:
    # patient 1 is both positive and negative; patient 3 has three positive images
    drawn = scores(7, patients=np.array([1, 1, 2, 3, 3, 3, 4]), Mass=[1, 0, 0, 1, 1, 1, 0], logit_Mass=range(7))
    row = per_class(drawn).loc["Mass"]
    assert (row["positives"], row["negatives"], row["prevalence"]) == (4, 3, 4 / 7)
    assert (row["positive_patients"], row["negative_patients"]) == (2, 3)
    assert row["auroc"] == pytest.approx(6 / 12)  # of the pairs (0,3,4,5) x (1,2,6): 2 each for 3, 4 and 5


@pytest.mark.parametrize(("label", "side"), [(0, "positive"), (1, "negative")])
def test_class_without_one_side_is_undefined_and_says_why(label: int, side: str) -> None:
    drawn = random_scores(60).assign(Hernia=np.uint8(label))
    row = per_class(drawn).loc["Hernia"]
    assert np.isnan(row["auroc"])
    assert np.isnan(row["average_precision"])
    assert row["note"] == f"undefined: no {side} image"
    assert not row["in_macro"]
    assert row["prevalence"] == label


def test_table_without_rows_is_undefined_throughout() -> None:
    table = per_class(scores(0))
    assert table["auroc"].isna().all()
    assert not table["in_macro"].any()
    assert table["prevalence"].isna().all()  # nothing is known, which is not 0


def sides(positive: int, negative: int, *, images: int = 1) -> pd.Series:
    """Mass's row for so many positive and negative patients of `images` images each."""
    labels = np.repeat([1] * positive + [0] * negative, images)
    patients = np.repeat(np.arange(positive + negative), images)
    drawn = scores(len(labels), patients=patients, Mass=labels, logit_Mass=np.arange(len(labels)) % 3)
    return per_class(drawn).loc["Mass"]


def test_ten_patients_on_each_side_are_enough() -> None:
    assert MIN_PATIENTS == 10
    row = sides(10, 10)
    assert row["in_macro"]
    assert row["note"] == ""


@pytest.mark.parametrize(
    ("positive", "negative", "few"),
    [(9, 30, "9 positive"), (30, 9, "9 negative"), (9, 3, "3 negative"), (2, 5, "2 positive")],
)
def test_too_few_patients_keep_a_class_out_of_the_macro_and_it_says_so(
    positive: int, negative: int, few: str
) -> None:
    row = sides(positive, negative)
    assert not row["in_macro"]
    assert row["note"] == f"not in the macro: {few} patients, 10 needed"
    assert 0 <= row["auroc"] <= 1


def test_patients_count_and_images_do_not() -> None:
    few_positive, few_negative = sides(9, 40, images=50), sides(40, 9, images=50)
    assert (few_positive["positives"], few_positive["positive_patients"]) == (450, 9)
    assert (few_negative["negatives"], few_negative["negative_patients"]) == (450, 9)
    assert not few_positive["in_macro"]
    assert not few_negative["in_macro"]


def test_patient_with_both_kinds_of_image_counts_on_both_sides() -> None:
    drawn = scores(20, patients=np.arange(20) // 2, Mass=np.arange(20) % 2, logit_Mass=np.arange(20) % 3)
    row = per_class(drawn).loc["Mass"]
    assert (row["positive_patients"], row["negative_patients"], row["in_macro"]) == (10, 10, True)


def test_measurable_classes_are_those_of_the_macro() -> None:
    drawn = random_scores(80).assign(Hernia=0, Mass=1)
    drawn.loc[0:8, "Hernia"] = 1
    table = per_class(drawn)
    assert measurable(drawn) == tuple(name for name in CLASSES if table.loc[name, "in_macro"])
    assert {"Hernia", "Mass"} & set(measurable(drawn)) == set()
    assert measurable(drawn.drop(columns=[f"logit_{name}" for name in CLASSES])) == measurable(drawn)


# ---------------------------------------------------------------- macros


def test_macro_is_the_plain_mean_over_its_classes() -> None:
    table = per_class(random_scores(300))
    assert table["in_macro"].all()
    fourteen, fifteen = macro(table, FINDINGS), macro(table, CLASSES)
    assert fourteen.value == pytest.approx(np.mean([table.loc[name, "auroc"] for name in FINDINGS]), abs=1e-12)
    assert fifteen.value == pytest.approx((14 * fourteen.value + table.loc[NO_FINDING, "auroc"]) / 15, abs=1e-12)
    assert (fourteen.classes, fourteen.left_out) == (FINDINGS, ())
    assert (fifteen.classes, fifteen.left_out) == (CLASSES, ())
    assert (fourteen.note, fifteen.note) == ("mean of all 14", "mean of all 15")


def test_macro_leaves_out_what_too_few_patients_carry_and_names_it() -> None:
    drawn = random_scores(300).assign(Hernia=0, Mass=0)
    drawn.loc[:8, "Mass"] = 1
    table = per_class(drawn)
    mean = macro(table, FINDINGS)
    kept = [name for name in FINDINGS if name not in ("Hernia", "Mass")]
    assert 0 <= table.loc["Mass", "auroc"] <= 1  # defined, and still not in the mean
    assert mean.value == pytest.approx(table.loc[kept, "auroc"].mean(), abs=1e-12)
    assert (mean.classes, mean.left_out) == (tuple(kept), ("Mass", "Hernia"))
    assert mean.note == "mean of 12 (without Mass, Hernia: fewer than 10 patients a side)"
    assert mean.line() == f"test macro AUROC {mean.value:.4f}, {mean.note}"
    assert mean.line(0.1, 0.2) == f"test macro AUROC {mean.value:.4f} (95 % 0.1000 to 0.2000), {mean.note}"


def test_macro_note_names_all_that_it_leaves_out_and_a_figure_counts_them_where_they_are_many() -> None:
    four = Macro(value=0.5, classes=FINDINGS[4:], left_out=FINDINGS[:4])
    five = Macro(value=0.5, classes=FINDINGS[5:], left_out=FINDINGS[:5])
    assert (
        four.brief
        == four.note
        == (
            "mean of 10 (without Atelectasis, Cardiomegaly, Effusion, Infiltration: fewer than 10 patients a side)"
        )
    )
    assert five.brief == "mean of 9 (without 5 classes: fewer than 10 patients a side)"
    assert all(name in five.note for name in FINDINGS[:5])


def test_macro_of_nothing_is_undefined_and_not_zero() -> None:
    mean = macro(per_class(random_scores(5)), FINDINGS)
    assert (mean.value, mean.classes, mean.left_out) == (None, (), FINDINGS)
    assert mean.line().startswith("test macro AUROC undefined, no finding is left (without 14 classes: fewer")


# ---------------------------------------------------------------- as metrics, as a table to read


def test_flat_names_every_defined_value_and_no_other() -> None:
    drawn = random_scores(300).assign(Hernia=0)
    table = per_class(drawn)
    named = flat(table, "test")
    defined = [name for name in CLASSES if name != "Hernia"]
    assert set(named) == {
        *(f"test/auroc/{name}" for name in defined),
        *(f"test/average_precision/{name}" for name in defined),
        "test/auroc/macro_14",
        "test/auroc/macro_15",
        "test/macro_14_classes",
        "test/macro_15_classes",
    }
    assert named["test/auroc/Edema"] == table.loc["Edema", "auroc"]
    assert named["test/average_precision/No Finding"] == table.loc[NO_FINDING, "average_precision"]
    assert named["test/auroc/macro_14"] == macro(table, FINDINGS).value
    assert named["test/auroc/macro_15"] == macro(table, CLASSES).value
    assert (named["test/macro_14_classes"], named["test/macro_15_classes"]) == (13, 14)
    assert np.isfinite(list(named.values())).all()


def test_flat_has_no_macro_where_no_class_carries_one() -> None:
    assert flat(per_class(scores(5)), "val") == {"val/macro_14_classes": 0, "val/macro_15_classes": 0}


def test_readable_table_is_sorted_rounded_and_says_undefined() -> None:
    drawn = random_scores(300).assign(Hernia=0, logit_Mass=0.0)
    drawn["logit_Edema"] = drawn["Edema"].astype(float)
    table = per_class(drawn)
    before = table.copy()
    shown = readable(table)
    assert shown.columns.tolist() == [
        "auroc",
        "average_precision",
        "prevalence",
        "positives",
        "positive_patients",
        "note",
    ]
    assert (shown.index[0], shown.index[-1]) == ("Edema", "Hernia")
    assert shown["auroc"].tolist()[:-1] == sorted(shown["auroc"].tolist()[:-1], reverse=True)
    assert shown.loc["Edema", "auroc"] == "1.000"
    assert shown.loc["Mass", "auroc"] == "0.500"
    assert shown.loc["Hernia", ["auroc", "average_precision", "prevalence"]].tolist() == [
        "undefined",
        "undefined",
        "0.000",
    ]
    assert shown.loc["Hernia", "note"] == "undefined: no positive image"
    pd.testing.assert_frame_equal(table, before)


# ---------------------------------------------------------------- published scores


def test_published_scores_reproduce_their_14_published_aurocs(real_data: Path) -> None:
    folder = real_data / "predictions/jrzech"
    published = pd.read_csv(folder / "aucs.csv").set_index("label")["auc"]
    # an AUROC needs only the order of the scores, so probabilities stand in for logits
    probabilities = pd.read_csv(folder / "preds.csv.gz").rename(columns={"Image Index": "image"})
    probabilities.columns = probabilities.columns.str.replace("prob_", "logit_")
    labels = nih.read(real_data / "nih").table
    joined = labels.merge(probabilities, on="image", validate="one_to_one")
    assert len(joined) == len(probabilities) == 22_433
    table = per_class(joined.assign(**{f"logit_{NO_FINDING}": 0.0}))
    assert set(published.index) == set(FINDINGS)
    for name in FINDINGS:
        assert table.loc[name, "auroc"] == pytest.approx(published[name], abs=1e-9), name
    assert macro(table, FINDINGS).value == pytest.approx(published.mean(), abs=1e-9)
    assert macro(table, FINDINGS).note == "mean of all 14"


# ---------------------------------------------------------------- sets that do not label everything


def test_a_class_is_measured_on_the_images_that_are_labelled_in_it() -> None:
    table = random_scores(300)
    holes = table.astype({"Edema": float})
    holes.loc[holes.index % 3 == 0, "Edema"] = np.nan
    expected = per_class(table[table.index % 3 != 0]).loc["Edema"]
    pd.testing.assert_series_equal(per_class(holes).loc["Edema"], expected)
    assert per_class(holes).loc["Mass", "auroc"] == per_class(table).loc["Mass", "auroc"]


def test_classes_that_a_set_does_not_know_are_told_apart_from_those_with_too_few_patients() -> None:
    table = random_scores(300).assign(Mass=np.nan, Nodule=np.nan, Hernia=np.uint8(0))
    table.loc[:3, "Hernia"] = 1
    found = per_class(table)
    assert found.loc["Mass", "note"] == "undefined: not labelled in this set, or unknown to the model"
    mean = macro(found, FINDINGS)
    assert (mean.absent, mean.left_out) == (("Mass", "Nodule"), ("Hernia",))
    assert mean.note == (
        "mean of 11 (without Hernia: fewer than 10 patients a side; 2 that the set or the model does not know)"
    )
    assert set(labelled(found).index) == set(CLASSES) - {"Mass", "Nodule"}
    assert not {name for name in flat(found, "test") if name.endswith(("/Mass", "/Nodule"))}
