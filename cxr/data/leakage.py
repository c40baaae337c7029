"""What one split knows of another: shared patients, identical pictures, and how much the populations differ.

A model that has seen a test patient, or a test picture under another name, is measured too well; and a test
set of another population than training's is measured for what it is only if that is said.
"""

from collections.abc import Sequence

import pandas as pd

from cxr.data.split import SPLITS, patients_shared
from cxr.findings import CLASSES


def report(table: pd.DataFrame, identical: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a measure: columns train, val, test, and test_over_train where a ratio means something.

    Rows: `patients_shared` and `identical_images` first, counted over all splits in the column `all`: the one
    must be 0, the other is missing as long as no pixels have been compared (see `identical_images`). Then images,
    patients, images a patient (mean, the largest, and the share of the images that the tenth of the patients with
    the most has), age (years), shares of men and of AP views among the images where they are known, and each
    class's prevalence among the images that it is labelled in.
    """
    parts = {split: _measures(table[table["split"] == split]) for split in SPLITS}
    counts = pd.DataFrame({"all": {"patients_shared": patients_shared(table)}})
    counts.loc["identical_images", "all"] = float("nan") if identical is None else len(identical)
    measures = pd.DataFrame(parts)
    measures["test_over_train"] = measures["test"] / measures["train"].where(measures["train"] > 0)
    measures.loc[["images", "patients"], "test_over_train"] = float("nan")
    return pd.concat([counts, measures]).rename_axis("measure")


def identical_images(table: pd.DataFrame, digests: Sequence[str]) -> pd.DataFrame:
    """Images of which another split holds the very same packed pixels.

    `digests`: one a row of the table. Columns: group, split, image, patient_id; a group is one picture.
    """
    rows = table[["split", "image", "patient_id"]].assign(digest=list(digests))
    across = rows.groupby("digest")["split"].transform("nunique") > 1
    found = rows[across].sort_values(["digest", "split", "image"], ignore_index=True)
    found.insert(0, "group", pd.factorize(found["digest"])[0] + 1)
    return found.drop(columns="digest")


def metrics(measures: pd.DataFrame) -> dict[str, float]:
    """The report's two counts as runs carry them, without what is not known."""
    counts = measures.loc[["patients_shared", "identical_images"], "all"].dropna()
    return {f"leakage/{name}": float(value) for name, value in counts.items()}


def _measures(part: pd.DataFrame) -> dict[str, float]:
    nan = float("nan")
    sizes = part.groupby("patient_id").size().sort_values(ascending=False)
    tenth = -(-len(sizes) // 10)
    sexes, views = part.loc[part["sex"] != "", "sex"], part.loc[part["view"] != "", "view"]
    return {
        "images": len(part),
        "patients": len(sizes),
        "images_per_patient_mean": sizes.mean() if len(sizes) else nan,
        "images_per_patient_most": sizes.max() if len(sizes) else nan,
        "images_share_of_top_tenth": sizes.iloc[:tenth].sum() / len(part) if len(part) else nan,
        "age_mean_years": part["age_years"].mean(),
        "age_sd_years": part["age_years"].std(),
        "male_share": (sexes == "M").mean(),
        "ap_view_share": (views == "AP").mean(),
        **{f"prevalence/{name}": part[name].mean() for name in CLASSES},
    }
