"""What a model's test AUROC is held against: radiologists' labels, metadata alone, its own test images elsewhere.

Each control logs its table, metrics and figures, and returns why there is nothing to log, or an empty string.
"""

from collections.abc import Callable

import mlflow
import pandas as pd

from cxr import figures, tracking
from cxr.evaluation import experts, intervals, metadata_only
from cxr.evaluation.bootstrap import SEED
from cxr.findings import CLASSES
from entrypoints.subject import Subject

_ENDS = ("", "_low", "_high")


def _experts(subject: Subject, test: pd.DataFrame) -> str:
    if subject.experts is None:
        return "no radiologists' labels come with this set"
    table = experts.measure(test, subject.experts, seed=SEED)
    if table.empty:
        return "none of the test images has radiologists' labels"
    tracking.log_frame(table, "expert_labels")
    subject.log(experts.flat(table))
    for study, rows in table.groupby("study"):
        shown = rows[rows["auroc_expert"].notna() & rows["auroc_text"].notna()].set_index("finding")
        if len(shown):
            drawn = _renamed(shown, first="auroc_expert", second="auroc_text")
            drawn["radiologists' positives"] = shown["expert_positives"]
            title = f"The same scores and images by two sets of labels ({str(study).replace('_', ' ')})"
            names = ("radiologists", "text-mined")
            left_out = (
                f" {len(rows) - len(shown)} classes with too few patients are left out."
                if len(shown) < len(rows)
                else ""
            )
            scope = f"{subject.scope} {int(rows['images'].max()):,} images with both labels.{left_out}"
            _beside(scope, drawn, names, title, f"expert_labels_{study}.png")
    few = table["auroc_expert"].isna().all()
    return "no finding has 10 patients a side by radiologists' labels" if few else ""


def _metadata_only(subject: Subject, test: pd.DataFrame) -> str:
    if subject.fit_rows is None or subject.fit_rows.empty:
        return "there are no other patients of this set to fit it on"
    if test[["age_years", "sex", "view"]].replace("", None).isna().all(axis=None):
        return "age, sex and view are unknown for every test image"
    table = metadata_only.compare(test, metadata_only.predict(subject.fit_rows, test), seed=SEED)
    tracking.log_frame(table, "metadata_only")
    subject.log(metadata_only.flat(table))
    shown = table[table["auroc"].notna()].rename(columns=lambda name: name.replace("metadata_auroc", "metadata"))
    if shown.empty:
        return "no finding has 10 positive and 10 negative patients"
    drawn = _renamed(shown, first="auroc", second="metadata")
    names = ("this model", "age, sex and view alone")
    fitted = f"{len(subject.fit_rows):,} images of {subject.fit_rows['patient_id'].nunique():,} other patients"
    mlflow.set_tag("metadata_only_fitted_on", fitted)
    scope = f"{subject.scope} Age, sex and view: logistic regression, fitted on {fitted}."
    _beside(scope, drawn, names, "How much does the picture add?", "metadata_only.png")
    return ""


def _elsewhere(subject: Subject, test: pd.DataFrame) -> str:
    if subject.home is None:
        return subject.no_home
    here = intervals.table(test, seed=SEED)
    both = here.join(subject.home.rename(columns=lambda name: name.replace("auroc", "home")))
    both = both.loc[[name for name in CLASSES if both.loc[name, ["auroc", "home"]].notna().all()]]
    if both.empty:
        return "no finding can be measured both here and there"
    shown = both[[f"{where}{end}" for where in ("auroc", "home") for end in _ENDS]]
    tracking.log_frame(shown.rename(columns=lambda name: name.replace("auroc", "here")), "out_of_distribution")
    both = _renamed(shown, first="auroc", second="home")
    subject.log({f"test/home_auroc/{name}": float(value) for name, value in both["second"].items()})
    title = "The same model here and at home: pictures, patients and labels differ"
    _beside(subject.scope, both, ("here", "on its own test images"), title, "out_of_distribution.png")
    return ""


ALL: dict[str, Callable[[Subject, pd.DataFrame], str]] = {
    "agreement with radiologists": _experts,
    "a model of age, sex and view alone": _metadata_only,
    "out of distribution": _elsewhere,
}


def _renamed(table: pd.DataFrame, *, first: str, second: str) -> pd.DataFrame:
    """Two values and their intervals as the figure takes them."""
    names = {f"{column}{end}": f"{name}{end}"
             for name, column in (("first", first), ("second", second)) for end in _ENDS}  # fmt: skip
    return table[list(names)].rename(columns=names)


def _beside(scope: str, table: pd.DataFrame, names: tuple[str, str], title: str, file: str) -> None:
    mlflow.log_figure(figures.beside(table, names=names, title=title, subtitle=scope), file)
