"""Test scores and text-mined labels held against radiologists' labels of the same images.

NIH's labels are mined from reports and are what a model learns and is tested on. This asks two things: how often
they are what radiologists see on the image, and whether the model ranks images by what radiologists see as well
as by what reports say. The images were not drawn at random from the test set (those of all_findings are its PA
ones of four_findings), so that the rates are of these images.

Source: Majkowska et al., Radiology 2019; Nabulsi et al., Scientific Reports 2021 (see cxr/data/expert_labels.py).
"""

import numpy as np
import pandas as pd

from cxr.data.expert_labels import STUDIES
from cxr.evaluation.bootstrap import REPLICATES, Statistic
from cxr.evaluation.metrics import MIN_PATIENTS
from cxr.evaluation.ranked import Estimates, estimates, few, numbered, ranking, too_few
from cxr.evaluation.thresholds import measured
from cxr.findings import CLASSES, NO_FINDING

REFERENCES = ("expert", "text")  # whose labels an AUROC is measured against
COLUMNS = (
    "study", "finding", "images", "patients", "expert_positives", "expert_positive_patients", "text_positives",
    "agreement", "sensitivity", "ppv", "auroc_expert", "auroc_expert_low", "auroc_expert_high",
    "auroc_text", "auroc_text_low", "auroc_text_high", "difference", "difference_low", "difference_high", "few",
    "note",
)  # fmt: skip
_NORMAL = "the radiologists' label is not Abnormal"


def measure(test: pd.DataFrame, expert: pd.DataFrame, *, seed: int, count: int = REPLICATES) -> pd.DataFrame:
    """One row a study and class, on the test images that the study, NIH and the model all have the class of.

    `test`: rows of a scores table; `expert`: a table of `expert_labels.read`. Columns: `COLUMNS`. agreement is
    the share of images on which the text-mined label is the radiologists'; sensitivity the share of the
    radiologists' positives that the text label has; ppv the share of the text label's positives that the
    radiologists confirm; difference is auroc_expert - auroc_text, on the same images and in the same replicates
    of all test patients. sensitivity and ppv need 10 positive patients, an AUROC 10 on either side; below it they
    are NaN and note says so. A class whose scores the model does not have is compared by labels alone.

    Only what the radiologists named as NIH does is compared (`Airspace opacity`, `Nodule or mass` are wider than
    any of its findings), and Abnormal, turned, with No Finding. That pair is close, not equal: Abnormal is any
    actionable finding, also one outside of the 14; No Finding is that a report has none of the 14.
    """
    test, patients = numbered(test)
    statistics: dict[str, Statistic] = {}
    rows: list[dict[str, object]] = []
    for study in STUDIES:
        labels = expert[expert["study"] == study]
        labels = labels.assign(**{NO_FINDING: 1 - labels["Abnormal"]})[["image", *CLASSES]]
        images = test.merge(labels, on="image", suffixes=("", " by experts"), validate="one_to_one")
        for name in CLASSES:
            asked = images[images[f"{name} by experts"].notna() & images[name].notna()]
            if asked.empty:
                continue
            seen = asked.assign(**{name: asked[f"{name} by experts"]})
            notes = [_NORMAL] if name == NO_FINDING else []
            for reference, table in zip(REFERENCES, (seen, asked), strict=True):
                known = measured(table, name)
                reason = too_few(known)
                notes += [f"{reference}: {reason}"] if reason else []
                if not reason:
                    statistics[f"{study}/{name}/{reference}"] = ranking(known, patients).auroc
            note = "; ".join(notes)
            flag = {"few": few(measured(seen, name)), "note": note}
            rows.append({"study": study, "finding": name, **_agreement(seen, asked, name), **flag})
    found = estimates(statistics, patients, seed=seed, count=count)
    return pd.DataFrame(
        [row | _aurocs(found, f"{row['study']}/{row['finding']}") for row in rows], columns=COLUMNS
    )


def flat(table: pd.DataFrame, prefix: str = "test") -> dict[str, float]:
    """What is defined, as metrics: `test/expert/all_findings/auroc/Edema` against the radiologists' labels,
    `auroc_text` against the text-mined ones of the same images, `auroc_difference`, and `agreement`."""
    columns = {"auroc": "auroc_expert", "auroc_text": "auroc_text", "auroc_difference": "difference",
               "agreement": "agreement"}  # fmt: skip
    return {
        f"{prefix}/expert/{row['study']}/{metric}/{row['finding']}": float(row[column])
        for _, row in table.iterrows()
        for metric, column in columns.items()
        if not np.isnan(row[column])
    }


def _agreement(seen: pd.DataFrame, asked: pd.DataFrame, name: str) -> dict[str, float]:
    """The two labels of a class side by side: `seen` holds the radiologists', `asked` the text-mined."""
    expert, text, patient = seen[name] == 1, asked[name] == 1, asked["patient_id"]
    both = int((expert & text).sum())

    def share(whole: pd.Series) -> float:
        return both / int(whole.sum()) if patient[whole].nunique() >= MIN_PATIENTS else np.nan

    return {
        "images": len(asked),
        "patients": patient.nunique(),
        "expert_positives": int(expert.sum()),
        "expert_positive_patients": patient[expert].nunique(),
        "text_positives": int(text.sum()),
        "agreement": float((expert == text).mean()),
        "sensitivity": share(expert),
        "ppv": share(text),
    }


def _aurocs(found: Estimates, key: str) -> dict[str, float]:
    expert, text = ({f"{key}/{reference}": 1.0} for reference in REFERENCES)
    values = {"auroc_expert": found.of(expert), "auroc_text": found.of(text),
              "difference": found.difference(expert, text)}  # fmt: skip
    return {
        cell: number
        for name, estimate in values.items()
        for cell, number in estimate.named(name, f"{name}_low", f"{name}_high").items()
    }
