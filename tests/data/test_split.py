"""The patient-wise split: nobody is in two parts, rare findings are in both, the seed decides the rest."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.data import nih, split
from cxr.data.split import carve, class_counts, demographics, digest, metrics, patients_shared
from cxr.errors import InputError
from cxr.findings import CLASSES, NO_FINDING


def rows(*given: tuple[str, int, str, str], age: float = 50.0, sex: str = "M", view: str = "PA") -> pd.DataFrame:
    """A cohort table of (image, patient, split, findings joined by |)."""
    table = pd.DataFrame(
        [(image, patient, age, sex, view, 0, part) for image, patient, part, _ in given],
        columns=["image", "patient_id", "age_years", "sex", "view", "follow_up", "split"],
    )
    for name in CLASSES:
        table[name] = np.array([name in labels.split("|") for *_, labels in given], dtype=np.uint8)
    return table


def drawn(patients: int, *, seed: int = 0, test_share: float = 0.25) -> pd.DataFrame:
    """Patients of one to four images with findings as unequally frequent as NIH's."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.2, 4 / patients, len(CLASSES) - 1)
    given = []
    for patient in range(patients):
        part = "test" if rng.random() < test_share else "train_val"
        for visit in range(rng.integers(1, 5)):
            found = [name for name, share in zip(CLASSES, shares, strict=False) if rng.random() < share]
            given.append((f"{patient:05d}_{visit}.png", patient, part, "|".join(found) or NO_FINDING))
    return rows(*given)


TINY = rows(
    ("a.png", 1, "train", "Mass|Edema"),
    ("b.png", 1, "train", "No Finding"),
    ("c.png", 2, "train", "Mass"),
    ("d.png", 3, "val", "Edema"),
    ("e.png", 4, "test", "Mass"),
    ("f.png", 4, "test", "Mass|Hernia"),
    ("g.png", 5, "test", "No Finding"),
    ("h.png", 5, "test", "No Finding"),
)


# ---------------------------------------------------------------- carving


def test_official_test_rows_stay_and_only_train_val_is_carved() -> None:
    table = drawn(200)
    carved = carve(table, val_fraction=0.2, seed=3)
    was_test = table["split"] == "test"
    assert (carved["split"] == "test").equals(was_test)
    assert set(carved.loc[~was_test, "split"]) == {"train", "val"}
    unchanged = [name for name in table.columns if name != "split"]
    pd.testing.assert_frame_equal(carved[unchanged], table[unchanged])


def test_carving_leaves_the_given_table_alone() -> None:
    table = drawn(60)
    before = table.copy()
    carve(table, val_fraction=0.2, seed=3)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.125, 0.25, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_validation_holds_the_fraction_of_patients_and_shares_none(fraction: float, seed: int) -> None:
    table = drawn(400, seed=seed)
    carved = carve(table, val_fraction=fraction, seed=seed)
    patients = {part: set(carved.loc[carved["split"] == part, "patient_id"]) for part in split.SPLITS}
    assert len(patients["val"]) == round(fraction * len(patients["train"] | patients["val"]))
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]
    assert patients_shared(carved) == 0


def test_seed_decides_the_split_and_nothing_else_does() -> None:
    table = drawn(200)
    shuffled = table.sample(frac=1, random_state=1)
    digests = [digest(carve(table, val_fraction=0.1, seed=seed)) for seed in (0, 0, 1, 2)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digest(carve(shuffled, val_fraction=0.1, seed=0)) == digests[0]


@pytest.mark.parametrize("seed", range(8))
def test_every_class_with_two_patients_is_in_train_and_in_val(seed: int) -> None:
    table = drawn(300, seed=seed)
    train_val = table[table["split"] == "train_val"]
    by_patient = train_val.groupby("patient_id")[list(CLASSES)].max().sum()
    counts = class_counts(carve(table, val_fraction=0.1, seed=seed))
    several = [name for name in CLASSES if by_patient[name] >= 2]
    assert len(several) >= 12
    assert min(by_patient[several]) <= 10  # a tenth of them is one patient
    assert (counts.loc[several, ["train", "val"]] > 0).all(axis=None)


def test_finding_of_two_patients_goes_one_to_train_and_one_to_val() -> None:
    healthy = [(f"{patient}.png", patient, "train_val", NO_FINDING) for patient in range(3, 40)]
    rare = [("1.png", 1, "train_val", "Hernia"), ("2.png", 2, "train_val", "Hernia")]
    table = rows(*rare, *healthy, ("t.png", 99, "test", "Mass"))
    for seed in range(20):
        hernia = carve(table, val_fraction=0.1, seed=seed).query("Hernia == 1")
        assert sorted(hernia["split"]) == ["train", "val"]


def test_finding_of_a_single_patient_stays_in_train() -> None:
    healthy = [(f"{patient}.png", patient, "train_val", NO_FINDING) for patient in range(2, 10)]
    table = rows(("1.png", 1, "train_val", "Hernia"), *healthy, ("t.png", 99, "test", "Mass"))
    for seed in range(20):
        assert carve(table, val_fraction=0.5, seed=seed).query("Hernia == 1")["split"].tolist() == ["train"]


@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_two_patients_are_one_for_train_and_one_for_val(fraction: float) -> None:
    pair = [("a.png", 1, "train_val", "Mass"), ("b.png", 2, "train_val", "Edema")]
    carved = carve(rows(*pair, ("t.png", 3, "test", "Mass")), val_fraction=fraction, seed=0)
    assert sorted(carved["split"]) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            [("a.png", 1, "train_val", "Mass"), ("b.png", 1, "train_val", "Mass"), ("t.png", 2, "test", "Mass")],
            "1 ",
        ),
        ([("t.png", 2, "test", "Mass")], "0 train_val patients and 1 test images"),
        (
            [("a.png", 1, "train_val", "Mass"), ("b.png", 2, "train_val", "Mass")],
            "2 train_val patients and 0 test images",
        ),
    ],
    ids=["one patient", "no train_val", "no test"],
)
def test_too_few_patients_are_refused_with_their_number(given: list[tuple[str, int, str, str]], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}.*at least 2 and 1 are needed"):
        carve(rows(*given), val_fraction=0.1, seed=0)


def test_patient_in_test_and_train_val_is_refused() -> None:
    table = rows(
        ("a.png", 1, "train_val", "Mass"),
        ("b.png", 2, "train_val", "Edema"),
        ("c.png", 3, "train_val", "Edema"),
        ("t.png", 1, "test", "Mass"),
    )
    with pytest.raises(InputError, match="1 patients are in more than one split"):
        carve(table, val_fraction=0.1, seed=0)


# ---------------------------------------------------------------- what is said of a split


def test_shared_patients_are_counted_once_for_each_further_split() -> None:
    assert patients_shared(TINY) == 0
    assert patients_shared(TINY.assign(patient_id=[1, 1, 2, 2, 4, 4, 5, 5])) == 1
    assert patients_shared(TINY.assign(patient_id=[1, 1, 2, 2, 1, 4, 5, 5])) == 2


def test_digest_depends_on_who_is_where_and_on_nothing_else() -> None:
    assert digest(TINY) == digest(TINY.sample(frac=1, random_state=0).assign(age_years=1.0))
    moved = TINY.assign(split=["val", *TINY["split"][1:]])
    renamed = TINY.assign(image=["z.png", *TINY["image"][1:]])
    assert len({digest(TINY), digest(moved), digest(renamed)}) == 3
    assert len(digest(TINY)) == 16


def test_class_counts_equal_a_hand_count() -> None:
    counts = class_counts(TINY)
    assert counts.index.tolist() == list(CLASSES)
    assert counts.columns.tolist() == ["train", "val", "test"]
    expected = {"Mass": [2, 0, 2], "Edema": [1, 1, 0], "Hernia": [0, 0, 1], "No Finding": [1, 0, 2]}
    for name in CLASSES:
        assert counts.loc[name].tolist() == expected.get(name, [0, 0, 0])
    assert counts.attrs["images"] == {"train": 3, "val": 1, "test": 4}


def test_class_counts_of_an_empty_split_are_zero() -> None:
    counts = class_counts(TINY[TINY["split"] != "val"])
    assert counts["val"].tolist() == [0] * 15
    assert counts.attrs["images"]["val"] == 0


def test_metrics_equal_a_hand_count() -> None:
    named = metrics(TINY)
    assert len(named) == 1 + 3 * (2 + 2 * 15)
    assert named["split/patients_shared"] == 0
    assert [named[f"split/{part}/images"] for part in split.SPLITS] == [3, 1, 4]
    assert [named[f"split/{part}/patients"] for part in split.SPLITS] == [2, 1, 2]
    assert [named[f"split/{part}/positives/Mass"] for part in split.SPLITS] == [2, 0, 2]
    assert [named[f"split/{part}/prevalence/Mass"] for part in split.SPLITS] == [2 / 3, 0, 0.5]
    assert named["split/test/prevalence/No Finding"] == 0.5


def test_demographics_equal_a_hand_count() -> None:
    table = TINY.assign(
        age_years=[20.0, 22.0, 30.0, 40.0, 60.0, np.nan, 70.0, 80.0],
        sex=["M", "M", "F", "M", "F", "F", "M", "M"],
        view=["AP", "PA", "PA", "AP", "AP", "AP", "AP", "PA"],
    )
    shown = demographics(table)
    assert shown.columns.tolist() == ["train", "val", "test", "all"]
    train, test, whole = shown["train"], shown["test"], shown["all"]
    assert train[["images", "patients", "images_per_patient", "age_mean_years"]].tolist() == [3, 2, 1.5, 24]
    assert train["age_sd_years"] == pytest.approx(np.sqrt((16 + 4 + 36) / 2))
    assert train["male_percent"] == pytest.approx(200 / 3)
    assert train["ap_view_percent"] == pytest.approx(100 / 3)
    assert test[["images", "patients", "age_mean_years", "age_sd_years"]].tolist() == [4, 2, 70, 10]
    assert test[["male_percent", "ap_view_percent"]].tolist() == [50, 75]
    assert whole[["images", "patients", "images_per_patient", "age_mean_years"]].tolist() == [8, 5, 1.6, 46]
    assert whole["male_percent"] == 62.5
    assert np.isnan(shown["val"]["age_sd_years"])  # of one image


# ---------------------------------------------------------------- NIH's own table


@pytest.fixture(scope="module")
def whole(real_data: Path) -> pd.DataFrame:
    return nih.read(real_data / "nih").table


@pytest.fixture(scope="module")
def carved(whole: pd.DataFrame) -> pd.DataFrame:
    return carve(whole, val_fraction=0.1, seed=42)


def test_whole_of_nih_is_carved_in_seconds_and_no_patient_is_shared(whole: pd.DataFrame) -> None:
    start = time.perf_counter()
    named = metrics(carve(whole, val_fraction=0.1, seed=0))
    assert time.perf_counter() - start < 20
    assert named["split/patients_shared"] == 0
    assert (named["split/test/images"], named["split/test/patients"]) == (25_596, 2_797)
    assert named["split/train/images"] + named["split/val/images"] == 86_524
    assert (named["split/train/patients"], named["split/val/patients"]) == (28_008 - 2_801, 2_801)


def test_each_class_of_nih_gives_validation_a_tenth_of_its_patients(carved: pd.DataFrame) -> None:
    rest = carved[carved["split"] != "test"]
    patients = rest.groupby(["split", "patient_id"])[list(CLASSES)].max().groupby("split").sum()
    shares = patients.loc["val"] / patients.sum()
    assert shares.between(0.085, 0.115).all(), shares


def test_prevalence_in_validation_is_near_that_in_train_for_every_class(carved: pd.DataFrame) -> None:
    named = metrics(carved)
    for name in CLASSES:
        train, val = named[f"split/train/prevalence/{name}"], named[f"split/val/prevalence/{name}"]
        # a patient's images go together, so shares of images agree less closely than those of patients
        assert val == pytest.approx(train, rel=0.35), name
        assert abs(val - train) < 0.015, name


# ---------------------------------------------------------------- other divisions


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_split_is_seventy_ten_twenty_by_patient(seed: int) -> None:
    table = drawn(1000, seed=seed).assign(split="")
    divided = carve(split.random_patients(table, seed=seed), val_fraction=0.1 / (1 - split.TEST_SHARE), seed=seed)
    patients = divided.groupby("split")["patient_id"].nunique().to_dict()
    everyone = table["patient_id"].nunique()
    assert patients == {"train": everyone - 300, "val": 100, "test": 200}
    assert patients_shared(divided) == 0


def test_random_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    table = drawn(100)
    once = split.random_patients(table, seed=4)
    mixed = split.random_patients(table.sample(frac=1, random_state=1), seed=4)
    assert digest(mixed) == digest(once)
    assert digest(split.random_patients(table, seed=5)) != digest(once)


def test_classes_that_a_set_does_not_label_have_no_counts_and_do_not_spoil_the_carving() -> None:
    table = drawn(60).assign(Hernia=np.nan).astype({"Mass": float})
    table.loc[table["image"] < "00030", "Mass"] = np.nan
    carved = carve(table, val_fraction=0.2, seed=1)
    assert "Hernia" not in class_counts(carved).index
    named = metrics(carved)
    assert not any(name.endswith("/Hernia") for name in named)
    train = carved[carved["split"] == "train"]
    assert named["split/train/prevalence/Mass"] == pytest.approx(train["Mass"].mean())


def test_partly_labelled_class_keeps_positive_and_negative_patients_in_both_parts() -> None:
    table = drawn(300, seed=5).astype({"Effusion": float})
    table["Effusion"] = np.nan
    few = table.loc[table["split"] == "train_val", "patient_id"].unique()[:40]
    for at, patient in enumerate(few):
        table.loc[table["patient_id"] == patient, "Effusion"] = float(at % 2)
    for seed in range(10):
        carved = carve(table, val_fraction=0.1, seed=seed)
        for part in ("train", "val"):
            assert set(carved.loc[carved["split"] == part, "Effusion"].dropna()) == {0.0, 1.0}, (seed, part)


def test_shares_of_sex_and_view_are_of_the_images_where_they_are_known() -> None:
    table = TINY.assign(sex=["M", "", "F", "M", "", "M", "", ""], view=["", "", "AP", "PA", "PA", "PA", "", ""])
    people = demographics(table)
    assert people.loc["male_percent", "train"] == pytest.approx(50)
    assert people.loc["ap_view_percent", "train"] == pytest.approx(100)
    assert people.loc["male_percent", "all"] == pytest.approx(75)
