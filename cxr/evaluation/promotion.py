"""Which of two models becomes champion: a pure decision, with its reason in words.

Validation decides, never test. It is optimistic for both, since each one's `best` epoch was chosen there.
A person may overrule it (`promote`), and then that is what is written down.
"""

from dataclasses import dataclass, replace

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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Validation macro_14 of a candidate minus that of a champion, with its 95 % interval (NaN where none is)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a version becomes (or stays) champion, why, against which version, and by how much."""

    promoted: bool
    reason: str
    against: str = ""  # the version that was champion; empty where there was none
    difference: Difference | None = None  # where scores were compared


def without_scores(candidate: Standing, champion: Standing | None) -> tuple[bool, str] | None:
    """Whether the candidate becomes champion, and why, where no scores need comparing; None where they do.

    Two values are compared only on the same split; a version trained on NIH's official lists takes the place of
    one trained on a sample of them, never the reverse. A place that is taken without a comparison is taken only
    by a version that is better than chance (`above_chance`).
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


def above_chance(macro: pd.Series) -> tuple[bool, str]:
    """Whether the row `macro_14` of `intervals.table`, on validation, lies above 0.5 with its whole interval."""
    if pd.isna(macro["auroc_low"]):
        return False, "no finding has the 10 positive and 10 negative validation patients that a number needs"
    better = bool(macro["auroc_low"] > 0.5)
    return better, (
        f"its validation macro_14 {macro['auroc']:.4f} (95 % of the patient bootstrap: {macro['auroc_low']:.4f} "
        f"to {macro['auroc_high']:.4f}) is {'above chance' if better else 'not clearly above chance (0.5)'}"
    )


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


def overruled(decision: Decision, promote: str, candidate: str) -> Decision:
    """The decision as a person wants it: promote is auto (as it is), always or never."""
    if promote == "auto":
        return decision
    words = f"by hand (promote={promote})"
    if decision.against == candidate:
        return replace(decision, promoted=True, reason=f"{words}; {decision.reason}")
    if promote == "always" and decision.against:
        back = int(candidate) < int(decision.against)
        words += f", {'rolled back from' if back else 'in the place of'} version {decision.against}"
    verdict = "would make it champion" if decision.promoted else "would not make it champion"
    return replace(decision, promoted=promote == "always", reason=f"{words}; auto {verdict}: {decision.reason}")
