"""Patient-wise split: the set's own test images are kept, validation is carved from train_val by patient.

The carving goes from the rarest class to the commonest, first with one patient of each, then with each
class's share, so that every class that can be is in both parts: the idea of iterative stratification
(Sechidis et al., ECML 2011), at the level of patients.
"""

import hashlib

import numpy as np
import pandas as pd

from cxr.errors import InputError
from cxr.findings import CLASSES

SPLITS = ("train", "val", "test")
TEST_SHARE = 0.2  # of the patients, in a random split: 70 / 10 / 20 with the default val_fraction, as CheXNet's


def random_patients(table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Each patient to test with one chance in five, to train_val otherwise, whatever lists there are.

    The way of Rajpurkar et al., CheXNet, 2017 (https://arxiv.org/abs/1711.05225): for comparison with figures
    that were measured so. They do not compare with figures on NIH's official list, which are lower.
    """
    patients = np.sort(table["patient_id"].unique())
    chosen = np.random.default_rng(seed).permutation(patients)[: round(TEST_SHARE * len(patients))]
    return table.assign(split=np.where(table["patient_id"].isin(chosen), "test", "train_val"))


def carve(table: pd.DataFrame, *, val_fraction: float, seed: int) -> pd.DataFrame:
    """Turn `train_val` rows into `train` and `val`; test rows stay as they are.

    `val_fraction` is the share of train_val's patients (not images) that goes to validation.
    Raises InputError where a split would be empty, or where a patient would be in two.
    """
    train_val = table[table["split"] == "train_val"]
    patients = _strata(train_val)
    if len(patients) < 2 or not (table["split"] == "test").any():
        raise InputError(
            f"{len(patients)} train_val patients and {(table['split'] == 'test').sum()} test images are left: at "
            "least 2 and 1 are needed for train, val and test. Raise limit, or take more images."
        )
    chosen = _val_patients(patients, val_fraction, np.random.default_rng(seed))
    split = table["split"].where(table["split"] == "test", "train")
    split = split.mask(table["patient_id"].isin(chosen) & (split == "train"), "val")
    carved = table.assign(split=split)
    shared = patients_shared(carved)
    if shared:
        raise InputError(f"{shared} patients are in more than one split: test and train_val share patients.")
    return carved


def _strata(rows: pd.DataFrame) -> pd.DataFrame:
    """One 0/1 row a patient: who has a positive image of each class, and who a negative one where a class is
    labelled in some images only (else everybody without a positive one has)."""
    labels = rows[list(CLASSES)]
    partly = [name for name in CLASSES if labels[name].isna().any() and labels[name].notna().any()]
    strata = pd.concat([labels == 1, (labels[partly] == 0).add_prefix("not ")], axis=1)
    return strata.groupby(rows["patient_id"]).max()


def patients_shared(table: pd.DataFrame) -> int:
    """Number of patients with images in more than one split: the proof that nothing leaks is 0."""
    pairs = table[["patient_id", "split"]].drop_duplicates()
    return int(pairs["patient_id"].duplicated().sum())


def digest(table: pd.DataFrame) -> str:
    """16 hexadecimal digits that name a split: which image is in which part, whatever the row order."""
    lines = sorted(f"{image} {split}" for image, split in zip(table["image"], table["split"], strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Positive images of each class in each split (the paper's Table 2).

    A class that the set says nothing about has no row. attrs["images"]: all images of each split;
    attrs["labelled"]: those that are labelled in the class, a table like this one.
    """
    labelled = [name for name in CLASSES if table[name].notna().any()]
    by_split = table.groupby("split")[labelled]
    counts = by_split.sum().T.reindex(columns=SPLITS, fill_value=0).astype(int)
    counts.attrs["labelled"] = by_split.count().T.reindex(columns=SPLITS, fill_value=0)
    counts.attrs["images"] = {split: int((table["split"] == split).sum()) for split in SPLITS}
    return counts


def metrics(table: pd.DataFrame) -> dict[str, float]:
    """The split's numbers as runs carry them: `split/train/images`, `split/test/prevalence/Edema` ..."""
    counts = class_counts(table)
    named: dict[str, float] = {"split/patients_shared": patients_shared(table)}
    for split in SPLITS:
        images = counts.attrs["images"][split]
        named[f"split/{split}/images"] = images
        named[f"split/{split}/patients"] = table.loc[table["split"] == split, "patient_id"].nunique()
        for name in counts.index:
            positives = int(counts.loc[name, split])
            named[f"split/{split}/positives/{name}"] = positives
            labelled = int(counts.attrs["labelled"].loc[name, split])
            named[f"split/{split}/prevalence/{name}"] = positives / max(labelled, 1)
    return named


def demographics(table: pd.DataFrame) -> pd.DataFrame:
    """Images, patients, age and sex of each split and of all (the paper's Table 1), by image.

    Shares are of the images where sex or view is known; ages in years.
    """
    parts = {split: table[table["split"] == split] for split in SPLITS} | {"all": table}
    return pd.DataFrame({name: _people(part) for name, part in parts.items()})


def _people(part: pd.DataFrame) -> dict[str, float]:
    patients = part["patient_id"].nunique()
    return {
        "images": len(part),
        "patients": patients,
        "images_per_patient": len(part) / max(patients, 1),
        "age_mean_years": part["age_years"].mean(),
        "age_sd_years": part["age_years"].std(),
        "male_percent": 100.0 * (part.loc[part["sex"] != "", "sex"] == "M").mean(),
        "ap_view_percent": 100.0 * (part.loc[part["view"] != "", "view"] == "AP").mean(),
    }


def _val_patients(patients: pd.DataFrame, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Patients for validation; `patients` holds one 0/1 row of strata a patient."""
    size = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
    positive = patients.to_numpy(dtype=np.int64)  # [patients, strata]
    total = positive.sum(axis=0)
    most = total - 1  # train keeps one patient of every class
    share = np.maximum(np.round(fraction * total), 1).astype(np.int64)
    in_val = np.zeros(len(patients), dtype=bool)

    def deal(members: np.ndarray, wanted: int, limit: np.ndarray) -> None:
        """Move up to `wanted` of the members to validation, none that brings a class over its limit."""
        for row in rng.permutation(np.flatnonzero(members & ~in_val)):
            if wanted <= 0 or in_val.sum() >= size:
                return
            if (positive[in_val].sum(axis=0) + positive[row] <= limit)[positive[row] == 1].all():
                in_val[row] = True
                wanted -= 1

    for goal, limit in ((np.ones_like(total), most), (share, np.minimum(share, most))):
        for column in np.argsort(total, kind="stable"):
            missing = int(goal[column] - positive[in_val, column].sum())
            deal(positive[:, column] == 1, missing, limit)
    everyone = np.ones(len(patients), dtype=bool)
    deal(everyone, int(size - in_val.sum()), most)
    deal(everyone, int(not in_val.any()), total)  # where each patient is the last of some class
    return patients.index.to_numpy()[in_val]
