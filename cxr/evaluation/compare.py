"""Which of two models stands better: a pure decision over what their versions say of themselves."""

from dataclasses import dataclass

# by cohort.SCOPES: drawings, anything that does not compare with published figures, NIH's official split
_RANK = {"phantom": 0, "sample": 1, "custom": 1, "random-patient": 1, "external": 1, "official": 2}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A version as the decision sees it: its data's scope, its split, and its validation macro_14."""

    version: str
    scope: str  # one of cohort.SCOPES
    measured_on: str  # set, labels, pictures and division: equal where two values compare
    val_macro_14: float | None


def takes_over(candidate: Standing, champion: Standing | None) -> tuple[bool, str]:
    """Whether the candidate becomes champion, and the reason in a sentence.

    Validation decides, never test. Two values are compared only on the same split; a version trained
    on NIH's official lists takes the place of one trained on a sample of them, never the reverse.
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
        return False, "a validation macro_14 is undefined: not comparable"
    better = candidate.val_macro_14 > champion.val_macro_14
    return better, (
        f"its validation macro_14 {candidate.val_macro_14:.4f} is {'above' if better else 'not above'} "
        f"{champion.val_macro_14:.4f} of champion version {champion.version}"
    )
