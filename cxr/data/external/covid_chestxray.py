"""covid-chestxray-dataset: images from publications, each with the diagnosis of its patient.

The diagnosis is not a reading of the image: a COVID-19 patient's X-ray may look unremarkable. Two vocabularies
are in use, single words (`COVID-19`, `COVID-19, ARDS`) until August 2020 and paths (`Pneumonia/Viral/COVID-19`)
since.

Source: Cohen et al., 2020, https://arxiv.org/abs/2006.11988; columns:
https://github.com/ieee8023/covid-chestxray-dataset/blob/master/SCHEMA.md
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.data.cohort import Cohort
from cxr.data.external.intake import NO_VIEW, NOTHING_SAID, OTHER_VIEW, check_keys, gather, numbers, sift, worded
from cxr.data.rows import find, read_rows, refuse
from cxr.errors import InputError
from cxr.findings import FINDINGS

# The classes that a diagnosis tells of; what else is to be seen in the image, it does not.
LABELS = ("Pneumonia", "No Finding")
ABSENT = tuple(name for name in FINDINGS if name != "Pneumonia")

# Their words, in lower case -> Pneumonia. A finding is words joined by / or by a comma.
_PNEUMONIAS = (
    *("pneumonia", "viral", "bacterial", "fungal"),  # the inner steps of the paths
    *("covid-19", "covid-19 and ards", "sars", "mers", "mers-cov", "influenza", "h1n1", "varicella", "herpes"),
    *("streptococcus", "klebsiella", "legionella", "mycoplasma", "chlamydophila", "e.coli", "nocardia"),
    *("staphylococcus", "mrsa", "pneumocystis", "aspergillosis", "invasive aspergillosis"),
    *("aspiration", "aspiration pneumonia", "lipoid"),  # not infections, but pneumonias by name in both
    *("mycoplasma bacterial pneumonia", "herpes pneumonia", "swine-origin influenza a (h1n1) viral pneumonia"),
    *("lobar pneumonia", "multilobar pneumonia", "round pneumonia"),
)
# Sick, but neither surely pneumonia nor surely not: Pneumonia is NaN and No Finding is 0.
_UNDECIDED = (
    "ards",  # a way in which lungs fail, often but not always after a pneumonia
    "tuberculosis",  # infects the lung, is reported under its own name
    "spinal tuberculosis",
    "allergic bronchopulmonary aspergillosis",  # an allergy
    # diseases of the interstitium and of other origin that only bear the name
    *("unusual interstitial pneumonia", "accelerated phase usual interstitial pneumonia"),
    *("lymphocytic interstitial pneumonia", "desquamative interstitial pneumonia"),
    *("organizing pneumonia", "cryptogenic organizing pneumonia"),
    *("eosinophilic pneumonia", "chronic eosinophilic pneumonia"),
)
_HEALTHY = "no finding"
_SILENT = ("", "todo", "unknown")
_WORDS = {
    **dict.fromkeys(_PNEUMONIAS, 1.0),
    **dict.fromkeys(_UNDECIDED, np.nan),
    **dict.fromkeys(_SILENT, np.nan),
    _HEALTHY: 0.0,
}

_VIEWS = {
    **{"pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "ap semi erect": "AP", "": ""},
    **dict.fromkeys(("l", "axial", "coronal"), "other"),
}
_COLUMNS = ("patientid", "sex", "age", "finding", "view", "modality", "folder", "filename")


def read_covid_chestxray(path: Path) -> Cohort:
    """The frontal X-rays of a checkout: the folder that holds metadata.csv and images/.

    The set has no split of its own. follow_up is NaN: `offset` is in days since the first symptoms and may be
    negative, it counts no visits.
    """
    file = find(path, "metadata.csv")
    if file is None:
        raise InputError(f"{path}: metadata.csv is not there.")
    raw = read_rows(file, _COLUMNS)
    for column in ("finding", "view", "modality"):
        raw[column] = raw[column].str.lower()  # AP Erect and AP erect, No finding and No Finding
    words = raw["finding"].map(_words)
    refuse(raw, ~words.map(set(_WORDS).issuperset), "finding", file, "made of words that the set is known to use")
    alone = words.map(lambda found: _HEALTHY not in found or len(found) == 1)
    refuse(raw, ~alone, "finding", file, "No Finding alone or a disease")
    table = raw.assign(
        image=raw["folder"] + "/" + raw["filename"],
        patient_id=raw["patientid"],
        age_years=numbers(raw, "age", file, "years such as 57"),
        sex=worded(raw, "sex", {"M": "M", "F": "F", "": ""}, file),
        view=worded(raw, "view", _VIEWS, file),
        follow_up=np.nan,
        split="",
        **_labels(words),
    )
    reasons = {
        "not an X-ray": raw["modality"] != "x-ray",
        OTHER_VIEW: table["view"] == "other",
        NO_VIEW: table["view"] == "",
        NOTHING_SAID: words.map(set(_SILENT).issuperset),
    }
    table, left_out = sift(table, reasons)
    check_keys(table, file)  # after leaving out: volumes are archives of many slices
    return gather([table], dataset="covid-chestxray", folder=path, edition=file.name, left_out=left_out)


def _words(finding: str) -> frozenset[str]:
    return frozenset(word.strip() for word in re.split(r"[,/]", finding))


def _labels(words: pd.Series) -> dict[str, pd.Series]:
    healthy = words.map(lambda found: _HEALTHY in found)
    pneumonia = words.map(lambda found: any(_WORDS[word] == 1 for word in found))
    return {
        "Pneumonia": pneumonia.astype("float64").where(pneumonia | healthy),
        "No Finding": healthy.astype("float64"),
    }
