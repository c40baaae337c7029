"""Which of two models becomes champion: a pure decision, with its reason in words.

Validation decides, never test. It is optimistic for both, since each one's `best` epoch was chosen there.
"""

from dataclasses import dataclass

import pandas as pd

# by cohort.SCOPES: drawings, anything that does not compare with published figures, NIH's official split
_RANK = {"phantom": 0, "sample": 1, "custom": 1, "random-patient": 1, "external": 1, "official": 2}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A version as the decision sees it: its data's scope, its split, and its validation macro_14."""

    version: str
    scope: str  # one of cohort.SCOPES
    measured_on: str  # set, labels, pictures and division: equal where two values compare
    val_macro_14: float | None


def without_scores(candidate: Standing, champion: Standing | None) -> tuple[bool, str] | None:
    """Whether the candidate becomes champion, and why, where no scores need comparing; None where they do.

    Two values are compared only on the same split; a version trained on NIH's official lists takes the place of
    one trained on a sample of them, never the reverse.
    """
    if champion is None:
        return True, "there was no champion"
    if champion.version == candidate.version:
        return True, "it is the champion already"
    if _RANK[candidate.scope] != _RANK[champion.scope]:
        better = _RANK[candidate.scope] > _RANK[champion.scope]
        return better, f"it was trained on {candidate.scope} data, the champion on {champion.scope} data"
    if candidate.val_macro_14 is not None and champion.val_macro_14 is None:
        return True, f"the validation macro_14 of champion version {champion.version} was undefined"
    if candidate.measured_on != champion.measured_on:
        return False, f"its split differs from that of champion version {champion.version}: not comparable"
    if candidate.val_macro_14 is None or champion.val_macro_14 is None:
        return False, (
            "no finding has 10 positive and 10 negative validation patients in both: their validation macro_14 "
            "cannot be compared"
        )
    return None


def by_scores(champion: Standing, macro: pd.Series) -> tuple[bool, str]:
    """The decision by the row `macro_14` of `comparison.table`, candidate against champion, on validation.

    The candidate must be better by more than other patients would have made: the lower end of the 95 % interval
    of the difference lies above 0.
    """
    better = bool(macro["difference_low"] > 0)
    if pd.isna(macro["difference_low"]):
        interval = "no interval, too few patients"
    else:
        interval = (
            f"95 % of the patient bootstrap: {macro['difference_low']:+.4f} to {macro['difference_high']:+.4f}"
        )
    return better, (
        f"its validation macro_14 {macro['first']:.4f} differs by {macro['difference']:+.4f} ({interval}) from "
        f"{macro['second']:.4f} of champion version {champion.version}"
        f"{'' if better else ', which is not clearly above 0'}"
    )
