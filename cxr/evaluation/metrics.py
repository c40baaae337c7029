"""Scores table -> AUROC and average precision per class, and their macro averages.

A class is measured on the images that are labelled in it and scored, and undefined where none of them is positive
or none negative. A column of scores that is NaN belongs to a class that the model does not know. A macro average
is the unweighted mean over the classes that at least 10 positive and 10 negative patients carry; the classes that
it left out are always named beside it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr.findings import CLASSES, FINDINGS

MIN_PATIENTS = 10  # below it one patient more or less moves an AUROC by whole percents
COLUMNS = ("auroc", "average_precision", "prevalence", "positives", "negatives", "positive_patients",
           "negative_patients", "in_macro", "note")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Macro:
    """A mean AUROC, None where no class can carry it, and the classes that it is the mean of."""

    value: float | None
    classes: tuple[str, ...]
    left_out: tuple[str, ...]  # labelled, but by too few patients
    absent: tuple[str, ...] = ()  # not labelled in the set, or unknown to the model

    @property
    def note(self) -> str:
        """The scope in words, such as `mean of 13 (without Hernia: fewer than 10 patients a side)`."""
        return self._note(", ".join(self.left_out))

    @property
    def brief(self) -> str:
        """The same for a figure: more than four classes are counted, since the figure's rows name them."""
        return self.note if len(self.left_out) <= 4 else self._note(f"{len(self.left_out)} classes")

    def _note(self, left_out: str) -> str:
        if not self.left_out and not self.absent:
            return f"mean of all {len(self.classes)}"
        reasons = [f"{left_out}: fewer than {MIN_PATIENTS} patients a side"] if self.left_out else []
        reasons += [f"{len(self.absent)} that the set or the model does not know"] if self.absent else []
        mean = f"mean of {len(self.classes)}" if self.classes else "no finding is left"
        return f"{mean} (without {'; '.join(reasons)})"

    def line(self, low: float = np.nan, high: float = np.nan) -> str:
        """Value, its 95 % interval where there is one, and scope in one line."""
        value = "undefined" if self.value is None else f"{self.value:.4f}"
        interval = "" if np.isnan(low) else f" (95 % {low:.4f} to {high:.4f})"
        return f"test macro AUROC {value}{interval}, {self.brief}"


def per_class(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a class, in the order of the outputs, for the rows of a scores table that are labelled in it.

    Columns: auroc (ties counted half), average_precision, prevalence, positives, negatives (images),
    positive_patients, negative_patients (patients with at least one such image), in_macro, note.
    auroc and average_precision are NaN, and note says why, where a class is undefined.
    """
    return pd.DataFrame([_one_class(scores, name) for name in CLASSES], index=pd.Index(CLASSES, name="finding"))


def macro(table: pd.DataFrame, classes: tuple[str, ...]) -> Macro:
    """The macro AUROC of a `per_class` table over those of `classes` that enough patients carry."""
    carried = tuple(name for name in classes if table.loc[name, "in_macro"])
    value = float(table.loc[list(carried), "auroc"].mean()) if carried else None
    absent = tuple(name for name in classes if not _labelled(table, name))
    left_out = tuple(name for name in classes if name not in carried and name not in absent)
    return Macro(value=value, classes=carried, left_out=left_out, absent=absent)


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `per_class` table whose class some image is labelled in."""
    return table[[_labelled(table, name) for name in table.index]]


def flat(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Metrics as runs carry them: `<prefix>/auroc/Edema`, `<prefix>/auroc/macro_14` ...

    Undefined ones are absent. `<prefix>/macro_14_classes` counts the classes in the mean.
    """
    defined = table.dropna(subset=["auroc"])
    named = {
        f"{prefix}/{metric}/{name}": float(value)
        for metric in ("auroc", "average_precision")
        for name, value in defined[metric].items()
    }
    for label, classes in (("macro_14", FINDINGS), ("macro_15", CLASSES)):
        mean = macro(table, classes)
        named[f"{prefix}/{label}_classes"] = len(mean.classes)
        if mean.value is not None:
            named[f"{prefix}/auroc/{label}"] = mean.value
    return named


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `per_class` table rounded for reading, highest AUROC first; undefined is said, not left blank."""
    shown = table.sort_values("auroc", ascending=False)
    for name in ("auroc", "average_precision", "prevalence"):
        shown[name] = shown[name].map(lambda value: "undefined" if np.isnan(value) else f"{value:.3f}")
    return shown.drop(columns=["negatives", "negative_patients", "in_macro"])


def measurable(labels: pd.DataFrame) -> tuple[str, ...]:
    """The classes that enough patients of a cohort or scores table carry to enter a macro average."""
    return tuple(name for name in CLASSES if min(_patients(labels, name)) >= MIN_PATIENTS)


def _labelled(table: pd.DataFrame, name: str) -> bool:
    return bool(table.loc[name, ["positives", "negatives"]].sum() > 0)


def _one_class(scores: pd.DataFrame, name: str) -> dict[str, object]:
    scores = scores[scores[name].notna() & scores[f"logit_{name}"].notna()]
    labels = scores[name].to_numpy()
    logits = scores[f"logit_{name}"].to_numpy(dtype=np.float64)
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    positive_patients, negative_patients = _patients(scores, name)
    defined = positives > 0 and negatives > 0
    carried = min(positive_patients, negative_patients) >= MIN_PATIENTS
    if scores.empty:
        note = "undefined: not labelled in this set, or unknown to the model"
    elif not defined:
        note = f"undefined: no {'positive' if positives == 0 else 'negative'} image"
    elif not carried:
        side = "positive" if positive_patients <= negative_patients else "negative"
        few = min(positive_patients, negative_patients)
        note = f"not in the macro: {few} {side} patients, {MIN_PATIENTS} needed"
    else:
        note = ""
    return {
        "auroc": float(roc_auc_score(labels, logits)) if defined else np.nan,
        "average_precision": float(average_precision_score(labels, logits)) if defined else np.nan,
        "prevalence": positives / len(labels) if len(labels) else np.nan,
        "positives": positives,
        "negatives": negatives,
        "positive_patients": positive_patients,
        "negative_patients": negative_patients,
        "in_macro": defined and carried,
        "note": note,
    }


def _patients(table: pd.DataFrame, name: str) -> tuple[int, int]:
    """Patients with at least one positive image, and with at least one negative one."""
    positive = table.loc[table[name] == 1, "patient_id"].nunique()
    return positive, table.loc[table[name] == 0, "patient_id"].nunique()
