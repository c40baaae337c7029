"""What is said of a finding's maps: the numbers as they are, the alarm first, and never more than was measured."""

import numpy as np
import pandas as pd
import pytest

from cxr.explain.classmaps import ClassMap
from cxr.explain.statements import DOES_NOT_FOLLOW, of_finding

NOTHING = pd.DataFrame()
PLAIN = np.zeros((2, 2), np.float32)
ONE = ClassMap(
    images=34, patients=17, zero_maps=0, mean_image=np.zeros((2, 2), np.uint8), mean_relu=PLAIN, sd_relu=PLAIN,
    mean_signed=PLAIN, sd_signed=PLAIN,
)  # fmt: skip


def located(value: float, *, best: float) -> pd.DataFrame:
    rows = [("gradcam", value), ("shuffled", 0.1), ("centre", best), ("class_mean", 0.2)]
    return pd.DataFrame(
        [{"finding": "Mass", "stratum": "all", "method": method, "measure": "pointing", "images": 20,
          "patients": 12, "value": share, "low": share - 0.1, "high": share + 0.1} for method, share in rows]
    )  # fmt: skip


def difference(low: float, high: float) -> pd.DataFrame:
    rows = [
        {"finding": "Mass", "stratum": "all", "measure": "pointing", "baseline": baseline, "difference": 0.5,
         "low": low if baseline == "centre" else 9.0, "high": high if baseline == "centre" else 9.0}
        for baseline in ("shuffled", "centre", "class_mean")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def effects(*rows: tuple[str, float, float, float, bool]) -> pd.DataFrame:
    columns = ["region", "drop", "low", "high", "alarm"]
    return pd.DataFrame(rows, columns=columns).assign(finding="Mass", few=False)


def said(**tables: pd.DataFrame) -> str:
    given = {"located": NOTHING, "differences": NOTHING, "effects": NOTHING} | tables
    return of_finding("Mass", ONE, **given)


def test_without_boxes_and_stress_it_says_so() -> None:
    assert said() == (
        "**Mass**: 34 images of 17 patients mapped. No boxes, so where the maps point was not measured."
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.6, ", so the map adds to it"),
        (-0.1, 0.2, ", which is not told apart from it"),
        (-0.5, -0.1, ", so the map is worse"),
        (np.nan, np.nan, ", too few patients to tell them apart"),
    ],
)
def test_the_map_is_held_against_the_best_baseline(low: float, high: float, verdict: str) -> None:
    text = said(located=located(0.85, best=0.35), differences=difference(low, high))
    assert (
        "Of 20 boxed images of 12 patients the map's maximum lies in the box in 85% (95 % 75% to 95%); the best "
        f"baseline (the image's centre) in 35%{verdict}."
    ) in text


def test_an_alarm_says_which_region_and_how_much() -> None:
    rows = effects(("corners", 0.151, 0.08, 0.2, True), ("outside_thorax", 0.01, -0.01, 0.02, False))
    text = said(effects=rows)
    assert "SHORTCUT ALARM: its AUROC falls by 0.151 (95 % 0.080 to 0.200) when the corners are masked." in text
    assert "thorax" not in text
    assert "of few patients: the interval is too narrow" in said(effects=rows.assign(few=True))


def test_no_alarm_gives_the_largest_drop_and_what_is_not_excluded() -> None:
    rows = (("corners", 0.001, -0.01, 0.12, False), ("outside_thorax", 0.044, 0.011, 0.086, False))
    expected = "when all outside the thorax is masked; a fall of up to 0.120 is not excluded."
    assert f"No alarm: at worst its AUROC falls by 0.044, {expected}" in said(effects=effects(*rows))


def test_a_rise_is_not_called_a_fall_and_its_interval_not_kept_back() -> None:
    text = said(effects=effects(("upper_left", -0.01, -0.2, 0.19, False)))
    assert "its AUROC rises by 0.010, when the upper left corner is masked; a fall of up to 0.190" in text


def test_too_few_patients_are_no_all_clear() -> None:
    text = said(effects=effects(("corners", np.nan, np.nan, np.nan, False)))
    assert "Too few patients to say what masking does to its AUROC" in text
    assert "No alarm" not in text


def test_another_findings_rows_are_not_its_own() -> None:
    other = effects(("corners", 0.2, 0.1, 0.3, True)).assign(finding="Edema")
    assert "ALARM" not in said(effects=other, located=located(0.9, best=0.1).assign(finding="Edema"))


def test_zero_maps_are_told() -> None:
    one = ClassMap(**{**vars(ONE), "zero_maps": 3, "images": 4, "patients": 1})
    text = of_finding("Pleural_Thickening", one, located=NOTHING, differences=NOTHING, effects=NOTHING)
    assert text.startswith("**Pleural Thickening**: 4 images of 1 patient mapped, 3 of the maps zero.")


def test_maps_that_are_all_zero_point_nowhere() -> None:
    one = ClassMap(**{**vars(ONE), "zero_maps": 34})
    text = of_finding("Mass", one, located=NOTHING, differences=NOTHING, effects=NOTHING)
    assert "34 images of 17 patients mapped, all of them zero: they point nowhere, which counts as a miss." in text


def test_what_does_not_follow_is_named() -> None:
    for words in ("not that it is the evidence a radiologist uses", "a shortcut may lie elsewhere"):
        assert words in " ".join(DOES_NOT_FOLLOW.split())
