"""Figures of localisation: what they draw, how they tell the map from its baselines, and what is missing."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from cxr import published
from cxr.figures.frame import BLUE, MUTED, VERMILION
from cxr.figures.localisation import box_accuracy, pointing
from cxr.findings import FINDINGS
from tests.figures_drawn import intervals, marks, misplaced, rows, texts, title

WANG = "Wang 2017 (theirs: all 984 boxes, ImageNet start)"
MEASURES = ("pointing", "iobb_0.1", "iobb_0.25", "iobb_0.5")
BASELINES = {"shuffled": 0.1, "centre": 0.3, "class_mean": 0.2}


def located(values: dict[str, float], *, half: float = 0.05, images: int = 40) -> pd.DataFrame:
    """Grad-CAM as given and three baselines, of every measure; a stratum that is not to be drawn."""
    found = [
        (finding, stratum, method, measure, value)
        for finding, own in values.items()
        for stratum in ("all", "small")
        for method, value in {"gradcam": own if stratum == "all" else 0.01, **BASELINES}.items()
        for measure in MEASURES
    ]
    table = pd.DataFrame(found, columns=["finding", "stratum", "method", "measure", "value"])
    return table.assign(low=table["value"] - half, high=table["value"] + half, images=images, patients=images // 2)


def colours(ax: Axes) -> dict[str, list[float]]:
    """Colour -> the x of the map's marks, filled or hollow, circles or squares."""
    found: dict[str, list[float]] = {}
    for line in ax.lines:
        if line.get_marker() in ("o", "s") and len(line.get_xdata()):
            found.setdefault(to_hex(line.get_markeredgecolor()).upper(), []).extend(map(float, line.get_xdata()))
    return found


def bars(ax: Axes) -> list[float]:
    return [
        p.get_width() for p in ax.patches if isinstance(p, Rectangle) and p.get_height() == pytest.approx(0.62)
    ]


def test_pointing_tells_above_below_and_undecided_apart() -> None:
    table = located({"Mass": 0.5, "Edema": 0.32, "Nodule": 0.1, "all": 0.4})
    fig = pointing(table, subtitle="s")
    (ax,) = fig.axes
    assert title(fig) == "Pointing: the map beats every baseline for 1 of 3 findings"
    assert rows(ax) == ["Mass", "Edema", "Nodule", "all findings"]
    assert colours(ax) == {BLUE: [0.5, 0.4], MUTED.upper(): [0.32], VERMILION: [0.1]}
    np.testing.assert_allclose(intervals(ax)[0], (0, 0.45, 0.55))
    assert misplaced(fig) == []


def test_pointing_draws_each_baseline_and_a_bar_up_to_the_best() -> None:
    table = located({"Mass": 0.5, "Edema": 0.32})
    table.loc[(table["finding"] == "Edema") & (table["method"] == "shuffled"), "value"] = 0.6
    fig = pointing(table, subtitle="s")
    (ax,) = fig.axes
    np.testing.assert_allclose(marks(ax, "x"), [(0.1, 0), (0.6, 1)])
    np.testing.assert_allclose(marks(ax, "+"), [(0.3, 0), (0.3, 1)])
    np.testing.assert_allclose(marks(ax, "^"), [(0.2, 0), (0.2, 1)])
    np.testing.assert_allclose(bars(ax), [0.3, 0.6])
    assert {"50", "32", "[45, 55]", "30", "60", "40", "20"} <= set(texts(fig))
    assert "baseline: the same map, shuffled" in texts(fig)
    assert misplaced(fig) == []


def test_pointing_without_intervals_or_values_says_so() -> None:
    table = located({"Mass": 0.9, "Edema": np.nan}).assign(low=np.nan, high=np.nan)
    fig = pointing(table, subtitle="s")
    (ax,) = fig.axes
    assert rows(ax) == ["Mass", "Edema"]
    assert colours(ax) == {MUTED.upper(): [0.9]}  # without an interval nothing is told apart
    assert title(fig) == "Pointing: the map does not surely beat every baseline for Mass"
    assert "undefined" in texts(fig)
    assert misplaced(fig) == []
    assert title(pointing(located({"Edema": np.nan}), subtitle="s")) == "Pointing: undefined for all"


def test_box_accuracy_has_a_panel_a_demand_and_keeps_the_order_of_the_first() -> None:
    table = located({"Mass": 0.5, "Edema": 0.6})
    table.loc[(table["measure"] == "iobb_0.5") & (table["method"] == "gradcam"), "value"] = [0.9, 0, 0.05, 0]
    fig = box_accuracy(table, subtitle="s")
    assert title(fig) == "Boxes found (IoBB > 0.1): the map beats every baseline for 2 of 2 findings"
    assert rows(fig.axes[0]) == ["Edema", "Mass"]
    np.testing.assert_allclose(marks(fig.axes[0], "o"), [(0.6, 0), (0.5, 1)])
    np.testing.assert_allclose(sorted(marks(fig.axes[2], "o"), key=lambda p: p[1]), [(0.05, 0), (0.9, 1)])
    assert {"IoBB > 0.1", "IoBB > 0.25", "IoBB > 0.5"} <= set(texts(fig))
    assert WANG not in texts(fig)
    assert misplaced(fig) == []


def test_box_accuracy_quotes_wang_for_findings_they_have() -> None:
    table = located({"Cardiomegaly": 0.9, "Nodule": 0.3, "Hernia": 0.2, "all": 0.5})
    fig = box_accuracy(table, published=published.WANG_2017_LOCALISATION, subtitle="s")
    np.testing.assert_allclose(marks(fig.axes[0], "D"), [(0.993, 0.24), (0.165, 1.24)])
    np.testing.assert_allclose(marks(fig.axes[1], "D"), [(0.979, 0.24), (0.051, 1.24)])
    np.testing.assert_allclose(marks(fig.axes[2], "D"), [(0.877, 0.24), (0.013, 1.24)])
    assert WANG in texts(fig)
    assert misplaced(fig) == []


def test_both_fit_fourteen_findings_and_values_at_the_ends() -> None:
    values = {name: k / 13 for k, name in enumerate(FINDINGS)}
    table = located({**values, "all": 0.5}, images=12_345)
    table[["low", "high"]] = table[["low", "high"]].clip(0, 1)
    assert misplaced(pointing(table, subtitle="s")) == []
    assert misplaced(box_accuracy(table, published=published.WANG_2017_LOCALISATION, subtitle="s")) == []


def test_a_finding_with_a_method_twice_and_a_measure_that_is_missing_are_refused() -> None:
    table = located({"Mass": 0.5})
    with pytest.raises(AssertionError, match="twice"):
        pointing(pd.concat([table, table]), subtitle="s")
    with pytest.raises(AssertionError, match=r"no iobb_0\.25"):
        box_accuracy(table[table["measure"] != "iobb_0.25"], subtitle="s")
