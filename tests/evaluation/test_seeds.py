"""Mean and SD over seeds, by hand-worked numbers."""

import math

import pytest

from cxr.evaluation import seeds

RUNS = [
    {"test/auroc/macro_14": 0.80, "test/auroc/Edema": 0.9, "test/macro_14_classes": 14.0, "val/loss": 1.0},
    {"test/auroc/macro_14": 0.82, "test/auroc/Edema": 0.7, "test/macro_14_classes": 14.0, "val/loss": 2.0},
    {"test/auroc/macro_14": 0.84, "test/auroc/Mass": 0.6, "test/macro_14_classes": 14.0, "val/loss": 3.0},
]


def test_mean_and_sd_are_those_of_a_sample() -> None:
    table = seeds.across(RUNS)
    assert table.index.tolist() == ["macro_14", "Edema", "Mass"]  # the highest mean first, nothing but AUROC
    macro = table.loc["macro_14"]
    assert macro[["mean", "sd", "lowest", "highest"]].tolist() == pytest.approx([0.82, 0.02, 0.80, 0.84])
    assert table.loc["Edema", "sd"] == pytest.approx(0.2 / math.sqrt(2))
    assert table["seeds"].tolist() == [3, 2, 1]
    assert math.isnan(table.loc["Mass", "sd"])  # one value has none


def test_metrics_leave_out_what_is_undefined() -> None:
    flat = seeds.flat(seeds.across(RUNS))
    assert flat["seeds/auroc_mean/macro_14"] == pytest.approx(0.82)
    assert flat["seeds/auroc_sd/macro_14"] == pytest.approx(0.02)
    assert "seeds/auroc_sd/Mass" not in flat
    assert "seeds/auroc_mean/Mass" in flat


def test_the_line_says_what_the_sd_is_of() -> None:
    assert seeds.line(seeds.across(RUNS)) == (
        "test macro AUROC 0.8200, SD 0.0200 between 3 seeds (0.8000 to 0.8400)"
    )
    assert "no finding has enough patients" in seeds.line(seeds.across([{"test/auroc/Mass": 0.5}] * 2))
