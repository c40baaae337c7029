"""The control: how well age, sex and view alone rank the test images, and what the picture adds to that.

Metadata tell who is ill without a look at the image (AP views are of patients in bed), and a network can read
them off the image. A model that ranks no better than they do has learned nothing about the finding.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import SplineTransformer

from cxr.errors import first_ten
from cxr.evaluation.bootstrap import REPLICATES, Statistic
from cxr.evaluation.ranked import MACRO, estimates, few, macro_note, mean, numbered, ranking, too_few
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES, FINDINGS

LEVELS = {"sex": ("F", "M"), "view": ("PA", "AP")}
KNOTS = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)  # years; fixed, so that no set's ages decide them
# Inverse strength of the ridge penalty. It weighs as much as a handful of images: nothing among 86,524, and enough
# to keep coefficients finite where a rare class is separated by chance.
PENALTY = 1.0
MODELS = ("image", "metadata")
COLUMNS = ("auroc", "auroc_low", "auroc_high", "metadata_auroc", "metadata_low", "metadata_high",
           "difference", "difference_low", "difference_high", "few", "note")  # fmt: skip


def features(cohort: pd.DataFrame) -> np.ndarray:
    """Age, sex and view of cohort rows as numbers from 0 to 1; [rows, 15].

    Age is a cubic spline (8 columns that sum to 1, constant beyond the knots); an unknown age is 0 in them and
    1 in a column of its own, which is imputation by what fits best. Sex and view have a column for each level and
    one for unknown.
    """
    age = cohort["age_years"].to_numpy(dtype=np.float64)
    known = ~np.isnan(age)
    spline = SplineTransformer(degree=3, knots=np.array(KNOTS)[:, None], extrapolation="constant")
    spline.fit(np.array(KNOTS)[:, None])
    columns = [
        np.where(known[:, None], spline.transform(np.where(known, age, 0.0)[:, None]), 0.0),
        ~known[:, None],
    ]
    for name, levels in LEVELS.items():
        held = np.stack([(cohort[name] == level).to_numpy() for level in levels], axis=1)
        columns += [held, ~held.any(axis=1, keepdims=True)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def predict(fit_rows: pd.DataFrame, test_rows: pd.DataFrame, *, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Logits of a logistic regression on age, sex and view, one a class, fitted on `fit_rows` of a cohort alone.

    Columns: image (of `test_rows`, in their order), then logit_<class>: NaN where the class does not have both
    outcomes in `fit_rows`. An image that is not labelled in a class does not enter its fit.
    """
    # few profiles of age, sex and view are unlike: each is fitted once, weighted by its images
    profiles, of_row = np.unique(features(fit_rows), axis=0, return_inverse=True)
    asked = features(test_rows)
    logits: dict[str, np.ndarray] = {}
    for name in classes:
        labels = fit_rows[name].to_numpy(dtype=np.float64)
        weights = [np.bincount(of_row[labels == label], minlength=len(profiles)) for label in (0, 1)]
        if not all(side.any() for side in weights):
            logits[f"logit_{name}"] = np.full(len(test_rows), np.nan)
            continue
        model = LogisticRegression(C=PENALTY, solver="newton-cholesky", max_iter=100)
        outcomes = np.repeat([0, 1], len(profiles))
        model.fit(np.vstack([profiles, profiles]), outcomes, sample_weight=np.concatenate(weights))
        logits[f"logit_{name}"] = model.decision_function(asked)
    return pd.DataFrame({"image": test_rows["image"].to_numpy(), **logits})


def compare(
    test: pd.DataFrame, metadata_logits: pd.DataFrame, *, seed: int, count: int = REPLICATES
) -> pd.DataFrame:
    """Test rows of a scores table and what `predict` made of the same images -> one row a class, and macro_14.

    Index: finding. Columns: auroc and metadata_auroc with _low and _high (95 %, patient bootstrap), difference
    (auroc - metadata_auroc, in the same replicates), few (under 30 effective positive patients: intervals are too
    narrow), note. NaN where the classes lack 10 positive or negative
    patients, or either the model or the metadata their logit. macro_14 is the mean over the findings that are
    left: those of the model's macro_14 as long as `fit_rows` has both outcomes of them all.
    ValueError for a test image that has no metadata logits.
    """
    absent = ~test["image"].isin(metadata_logits["image"])
    if absent.any():
        names = test.loc[absent, "image"].tolist()
        raise ValueError(f"test images without metadata logits: {first_ten(names)}")
    test, patients = numbered(test)
    labels = test.drop(columns=[f"logit_{name}" for name in CLASSES])
    other = labels.merge(metadata_logits, on="image", validate="one_to_one")
    statistics: dict[str, Statistic] = {}
    notes: dict[str, str] = {}
    flagged: dict[str, bool] = {}
    for name in CLASSES:
        known = [measured(table, name) for table in (test, other)]
        flagged[name] = few(known[0])
        notes[name] = next((reason for rows in known if (reason := too_few(rows))), "")
        if not notes[name]:
            for model, rows in zip(MODELS, known, strict=True):
                statistics[f"{model}/{name}"] = ranking(rows, patients).auroc
    found = estimates(statistics, patients, seed=seed, count=count)
    carried = [name for name in FINDINGS if not notes[name]]
    notes[MACRO] = macro_note(carried, [name for name in FINDINGS if notes[name]])
    table: dict[str, dict[str, object]] = {}
    for name, note in notes.items():
        names = carried if name == MACRO else [name]
        image, metadata = (mean([f"{model}/{one}" for one in names]) for model in MODELS)
        table[name] = {
            **found.of(image).named("auroc", "auroc_low", "auroc_high"),
            **found.of(metadata).named("metadata_auroc", "metadata_low", "metadata_high"),
            **found.difference(image, metadata).named("difference", "difference_low", "difference_high"),
            "few": flagged.get(name, any(flagged[one] for one in carried)),
            "note": note,
        }
    return pd.DataFrame.from_dict(table, orient="index", columns=list(COLUMNS)).rename_axis("finding")


def flat(table: pd.DataFrame, prefix: str = "test") -> dict[str, float]:
    """What is defined, as metrics: `test/metadata_only/auroc/Edema` is that of the metadata alone, and
    `test/metadata_only/difference/Edema` what the picture adds."""
    columns = {"auroc": "metadata_auroc", "difference": "difference"}
    return {
        f"{prefix}/metadata_only/{metric}/{name}": float(value)
        for metric, column in columns.items()
        for name, value in table[column].dropna().items()
    }
