"""Patient-wise split: NIH's official test list is kept, validation is carved from train_val by patient.

The carving goes from the rarest class to the commonest and deals each class's patients, so that every
class with two patients or more is in both parts: the idea of iterative stratification (Sechidis et
al., ECML 2011), at the level of patients.
"""

import hashlib

import numpy as np
import pandas as pd

from cxr.errors import InputError
from cxr.findings import CLASSES

SPLITS = ("train", "val", "test")


def carve(table: pd.DataFrame, *, val_fraction: float, seed: int) -> pd.DataFrame:
    """Turn `train_val` rows into `train` and `val`; test rows stay as they are.

    `val_fraction` is the share of train_val's patients (not images) that goes to validation.
    Raises InputError where a split would be empty, or where a patient would be in two.
    """
    train_val = table[table["split"] == "train_val"]
    patients = train_val.groupby("patient_id")[list(CLASSES)].max()
    if len(patients) < 2 or not (table["split"] == "test").any():
        raise InputError(
            f"{len(patients)} train_val and {(table['split'] == 'test').sum()} test patients are left: at "
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


def patients_shared(table: pd.DataFrame) -> int:
    """Number of patients with images in more than one split: the proof that nothing leaks is 0."""
    pairs = table[["patient_id", "split"]].drop_duplicates()
    return int(pairs["patient_id"].duplicated().sum())


def digest(table: pd.DataFrame) -> str:
    """16 hexadecimal digits that name a split: which image is in which part, whatever the row order."""
    lines = sorted(f"{image} {split}" for image, split in zip(table["image"], table["split"], strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Positive images of each class in each split (the paper's Table 2); attrs["images"]: all images."""
    counts = table.groupby("split")[list(CLASSES)].sum().T.reindex(columns=SPLITS, fill_value=0)
    counts = counts.astype(int)
    counts.attrs["images"] = {split: int((table["split"] == split).sum()) for split in SPLITS}
    return counts


def metrics(table: pd.DataFrame) -> dict[str, float]:
    """The split's numbers as runs carry them: `train/images`, `test/prevalence/Edema` ..."""
    counts = class_counts(table)
    named: dict[str, float] = {"split/patients_shared": patients_shared(table)}
    for split in SPLITS:
        images = counts.attrs["images"][split]
        named[f"{split}/images"] = images
        named[f"{split}/patients"] = table.loc[table["split"] == split, "patient_id"].nunique()
        for name in CLASSES:
            positives = int(counts[split][name])
            named[f"{split}/positives/{name}"] = positives
            named[f"{split}/prevalence/{name}"] = positives / max(images, 1)
    return named


def demographics(table: pd.DataFrame) -> pd.DataFrame:
    """Images, patients, age and sex of each split and of all (the paper's Table 1), by image."""
    parts = {split: table[table["split"] == split] for split in SPLITS} | {"all": table}
    return pd.DataFrame(
        {
            name: {
                "images": len(part),
                "patients": part["patient_id"].nunique(),
                "images_per_patient": len(part) / max(part["patient_id"].nunique(), 1),
                "age_mean_years": part["age_years"].mean(),
                "age_sd_years": part["age_years"].std(),
                "male_percent": 100.0 * (part["sex"] == "M").mean(),
                "ap_view_percent": 100.0 * (part["view"] == "AP").mean(),
            }
            for name, part in parts.items()
        }
    )


def _val_patients(patients: pd.DataFrame, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Patient numbers for validation; `patients` holds one 0/1 row of classes a patient."""
    size = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
    val = np.zeros(len(patients), dtype=bool)
    dealt = np.zeros(len(patients), dtype=bool)
    positive = patients.to_numpy(dtype=bool)  # [patients, 15]
    for column in np.argsort(positive.sum(axis=0), kind="stable"):
        members = positive[:, column]
        if members.sum() < 2:
            continue
        wanted = min(max(round(fraction * members.sum()), 1), members.sum() - 1)
        free = rng.permutation(np.flatnonzero(members & ~dealt))
        # what rarer classes already brought counts; never more than the whole of validation
        take = min(max(wanted - val[members].sum(), 0), size - val.sum())
        val[free[:take]] = True
        dealt[free] = True
    rest = rng.permutation(np.flatnonzero(~val & ~positive.any(axis=1)))
    val[rest[: size - val.sum()]] = True
    return patients.index.to_numpy()[val]
