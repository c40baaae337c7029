"""Whether a model's probabilities come true on test: calibration, validation's maps, the shift of prevalences."""

import mlflow
import pandas as pd

from cxr import figures, tracking
from cxr.evaluation import calibration, prior_shift, recalibration, thresholds
from entrypoints.subject import Subject

RECALIBRATION = "recalibration.json"  # what a version takes over
_MARGIN = "the maps' own uncertainty, from validation's few patients, is not in these intervals"


def log(subject: Subject, val: pd.DataFrame, test: pd.DataFrame) -> tuple[list[str], dict[str, str]]:
    """Log calibration as the model is and, with validation rows, after their Platt maps.

    Where risks are misstated, for the run's description; what could not be evaluated, and why.
    """
    plain = calibration.table(test)
    tracking.log_frame(plain, "calibration")
    subject.log(calibration.flat(plain, "test"))
    known = plain.index[plain["images"] > 0]
    if len(known):
        drawn = {str(name): _reliability(test, str(name), plain) for name in known}
        mlflow.log_figure(figures.reliability(drawn, subtitle=subject.scope), "reliability.png")
    said = _said("as the model gives them", plain)
    if not len(val):
        return said, {"recalibration, prior shift": "there are no validation rows to fit maps on"}
    after, fitted = _after_maps(subject, val, test)
    few = f"no finding has {recalibration.MIN_PATIENTS} positive validation patients with a map that exists"
    return said + after, {} if fitted else {"recalibration, prior shift": few}


def _after_maps(subject: Subject, val: pd.DataFrame, test: pd.DataFrame) -> tuple[list[str], bool]:
    fitted = recalibration.fit(val)
    mlflow.log_dict(recalibration.to_dict(fitted), RECALIBRATION)
    if fitted["platt_slope"].isna().all():
        return [], False
    val, mapped = (recalibration.apply(rows, fitted, "platt") for rows in (val, test))
    after = calibration.table(mapped).loc[fitted["platt_slope"].notna().to_numpy()]
    tracking.log_frame(after, "calibration_platt")
    shifted = prior_shift.table(val, mapped).loc[after.index]
    tracking.log_frame(shifted, "prior_shift")
    subject.log(calibration.flat(after, "test", "_platt") | prior_shift.flat(shifted, "test"))
    mlflow.log_figure(figures.prior_shift(shifted, subtitle=subject.scope), "prior_shift.png")
    return _said(f"after the Platt maps fitted on validation ({_MARGIN})", after), True


def _reliability(test: pd.DataFrame, name: str, table: pd.DataFrame) -> figures.Reliability:
    known = thresholds.measured(test, name)
    bins = calibration.bins(known["logit"].to_numpy(), known["label"].to_numpy())
    intercept, slope, ece = table.loc[[name], ["intercept", "slope", "ece"]].to_numpy(dtype=float)[0]
    return figures.Reliability(bins=bins, intercept=intercept, slope=slope, ece=ece)


def _said(whose: str, table: pd.DataFrame) -> list[str]:
    """How many findings' risks are misstated, and which."""
    judged = table[table["intercept"].notna() & ~table["few"].astype(bool)]
    unjudged = int((table["images"] > 0).sum()) - len(judged)
    sentences = calibration.misstated(judged)
    head = f"**Probabilities {whose}: risks misstated on test for {len(sentences)} of {len(judged)} classes**"
    too_few = f" ({unjudged} have too few patients to say)" if unjudged else ""
    return ["\n".join([f"{head}{too_few}", "", *(f"- {sentence}" for sentence in sentences)])]
