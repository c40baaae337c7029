"""Figures of AUROC with intervals: what they draw, what they say of rows without a value, and in which order."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from cxr.figures import MacroRow, auroc, beside, differences, rates, subgroups
from cxr.findings import NO_FINDING
from tests.figures_drawn import intervals, marks, misplaced, png, rows, texts, title

LONG = "Enlarged $cardiomediastinum$ of any size, with a very long name"
MEAN = MacroRow(label="macro, 14 findings", value=0.639, low=0.6, high=0.68, note="mean of 4 (without $others$)")


def auroc_table() -> pd.DataFrame:
    names = ["Hernia", "Nodule", "Pleural_Thickening", "Cardiomegaly", "Mass", NO_FINDING]
    scores = np.array([np.nan, 0.642, 0.35, 0.852, np.nan, 0.71])
    positives, patients = [0, 1623, 1143, 1069, 0, 9861], [0, 500, 400, 301, 0, 2000]
    table = pd.DataFrame({"auroc": scores, "auroc_low": scores - 0.02, "auroc_high": scores + 0.03,
                          "positives": positives, "positive_patients": patients}, index=names)  # fmt: skip
    notes = ["undefined: no positive image", "", "", "", "", ""]
    return table.assign(few=False, in_macro=[False, True, True, True, False, False], note=notes)


def draw(table: pd.DataFrame, *macro: MacroRow) -> Figure:
    return auroc(table, macro=macro or [MEAN], subtitle="109 images")


def test_auroc_is_sorted_with_undefined_last_and_says_its_values() -> None:
    fig = draw(auroc_table())
    said = texts(fig)
    assert rows(fig.axes[0])[:6] == ["Cardiomegaly", NO_FINDING, "Nodule", "Pleural Thickening", "Hernia", "Mass"]
    assert {"0.852", "0.710", "0.642", "0.350", "1,069", "301", "chance", "109 images"} <= set(said)
    assert {"[0.832, 0.882]", "[0.600, 0.680]", "undefined: no positive image", "undefined"} <= set(said)
    assert title(fig) == "AUROC by finding: Cardiomegaly 0.852 to Pleural Thickening 0.350"
    assert not any("paper" in s or "nan" in s for s in said)
    assert misplaced(fig) == []


def test_auroc_draws_points_and_intervals_where_the_values_are() -> None:
    (ax,) = draw(auroc_table()).axes
    np.testing.assert_allclose(marks(ax, "o"), [(0.852, 0), (0.642, 2), (0.35, 3)])
    np.testing.assert_allclose(marks(ax, "s"), [(0.71, 1)])  # not in the macro average
    np.testing.assert_allclose(marks(ax, "D"), [(0.639, 6)])
    np.testing.assert_allclose(intervals(ax)[0], (0, 0.832, 0.882))
    np.testing.assert_allclose(intervals(ax)[-1], (6, 0.6, 0.68))
    assert ax.get_xlim()[0] < 0.33
    assert ax.yaxis_inverted()  # so the first row is on top


def test_macro_rows_come_last_with_their_scope_and_say_what_is_undefined() -> None:
    fig = draw(auroc_table(), MEAN, MacroRow(label="macro, 15 classes", value=None, note="nothing is left"))
    assert rows(fig.axes[0])[6:] == ["macro, 14 findings", "", "macro, 15 classes", ""]
    assert {"0.639", "mean of 4 (without $others$)", "nothing is left", "undefined"} <= set(texts(fig))
    assert misplaced(fig) == []


def test_few_patients_are_told_apart_and_stay_out_of_the_title() -> None:
    table = auroc_table()
    table.loc["Cardiomegaly", "few"] = True
    fig = draw(table)
    assert any("fewer than 30 effective positive patients" in text.replace("\n", " ") for text in texts(fig))
    assert title(fig) == f"AUROC where patients suffice: {NO_FINDING} 0.710 to Pleural Thickening 0.350"
    hollow = [
        line for line in fig.axes[0].lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert [list(line.get_xdata()) for line in hollow] == [[0.852]]
    assert "each from few patients" in title(draw(table.assign(few=True)))


def test_the_papers_points_are_there_only_with_its_column() -> None:
    fig = draw(
        auroc_table().assign(paper=[0.786, 0.642, 0.709, 0.852, 0.706, np.nan]), MacroRow(label="m", value=0.5)
    )
    assert {"Ahmed 2025 (the paper)", "paper", "0.706"} <= set(texts(fig))
    (points,) = (line for line in fig.axes[0].lines if line.get_label() == "Ahmed 2025 (the paper)")
    np.testing.assert_array_equal(points.get_xdata(), [0.852, np.nan, 0.642, 0.709, 0.786, 0.706])


def test_nothing_defined_and_no_intervals() -> None:
    nothing = dict.fromkeys(("auroc", "auroc_low", "auroc_high"), np.nan)
    assert title(draw(auroc_table().assign(**nothing))) == "AUROC by finding: undefined for all"
    (ax,) = draw(auroc_table().assign(auroc_low=np.nan, auroc_high=np.nan)).axes
    assert len(intervals(ax)) == 1  # that of the macro average


@pytest.mark.parametrize("score", [0.0, 0.35, 1.0])
def test_a_single_class_and_extreme_values(score: float) -> None:
    fig = draw(auroc_table().iloc[[3]].assign(auroc=score), MacroRow(label="macro", value=score))
    assert title(fig) == f"AUROC by finding: Cardiomegaly {score:.3f}"
    assert fig.axes[0].get_xlim()[0] <= score <= fig.axes[0].get_xlim()[1]
    assert misplaced(fig) == []


def test_auroc_refuses_what_is_no_class() -> None:
    with pytest.raises(AssertionError, match="Broken rib"):
        draw(auroc_table().rename(index={"Mass": "Broken rib"}))


# ---------------------------------------------------------------- differences


def difference_table() -> pd.DataFrame:
    names = ["Edema", "Mass", "Hernia", "Nodule", LONG, "macro_14"]
    difference = np.array([0.05, -0.04, 0.03, 0.01, np.nan, 0.02])
    return pd.DataFrame({"first": 0.7 + difference, "second": 0.7, "difference": difference,
                         "difference_low": difference - 0.01, "difference_high": difference + 0.01,
                         "p_holm": [0.0001, 0.01, 0.01, np.nan, np.nan, 0.2],
                         "few": [False, False, True, False, False, np.nan]}, index=names)  # fmt: skip


def test_differences_are_first_minus_second_and_only_decided_ones_are_filled() -> None:
    fig = differences(difference_table(), names=("ResNet-50", "from $random$ weights"), subtitle="s")
    (ax,) = fig.axes
    assert title(fig) == "ResNet-50 better for 1; from $random$ weights better for 1; undecided for 1 of 3"
    assert rows(ax) == ["Edema", "Hernia", "Nodule", "Mass", rows(ax)[4], "macro 14"]
    np.testing.assert_allclose(marks(ax, "o"), [(0.05, 0)])
    np.testing.assert_allclose(marks(ax, "D"), [(-0.04, 3)])
    np.testing.assert_allclose(marks(ax, "s"), [(0.03, 1), (0.02, 5)])  # few, undecided
    np.testing.assert_allclose(marks(ax, "^"), [(0.01, 2)])  # not tested
    np.testing.assert_allclose(intervals(ax)[0], (0, 0.04, 0.06))
    said = texts(fig)
    assert {"+0.050", "[−0.050, −0.030]", "<0.001", "0.010", "undefined", "ResNet-50\nbetter\u00a0→"} <= set(said)
    assert misplaced(fig) == []


def test_differences_refuse_the_wrong_sign() -> None:
    table = difference_table()
    with pytest.raises(AssertionError, match="first minus second"):
        differences(table.assign(difference=-table["difference"]), names=("a", "b"), subtitle="s")


def test_no_difference_is_defined() -> None:
    table = difference_table().iloc[[4]].drop(columns="few")
    assert title(differences(table, names=("a", "b"), subtitle="s")) == "a and b: no difference is defined"
    untested = differences(difference_table().assign(p_holm=np.nan), names=("a", "b"), subtitle="s")
    assert title(untested) == "a minus b: differences of AUROC, not tested"


# ---------------------------------------------------------------- beside


def test_beside_pairs_two_aurocs_and_shows_counts_under_their_names() -> None:
    table = pd.DataFrame({"first": [0.7, 0.8, np.nan, 0.75], "second": [0.6, np.nan, np.nan, 0.65]},
                         index=["Edema", LONG, "Mass", "macro_14"])  # fmt: skip
    for which in ("first", "second"):
        table[f"{which}_low"], table[f"{which}_high"] = table[which] - 0.1, table[which] + 0.1
    table["positive_images"] = [1234, 5, 0, np.nan]
    fig = beside(table, names=("picture", "age, sex and view"), title="What the picture adds", subtitle="s")
    (ax,) = fig.axes
    assert rows(ax)[1:] == ["Edema", "Mass", "macro 14"]
    np.testing.assert_allclose(marks(ax, "o"), [(0.8, -0.17), (0.7, 0.83), (0.75, 2.83)])
    np.testing.assert_allclose(marks(ax, "D"), [(0.6, 1.17), (0.65, 3.17)])
    assert {"What the picture adds", "1,234", "undefined", "picture, 95 % interval"} <= set(texts(fig))
    assert misplaced(fig) == []


# ---------------------------------------------------------------- subgroups and rates


def level_table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = ["Edema", LONG, "macro_14"]
    table = pd.DataFrame([(f, level) for f in names for level in ("women", "$men$")], columns=["finding", "level"])
    for measure in ("auroc", "tpr", "fpr"):
        table[measure] = rng.uniform(0.3, 0.8, len(table))
        table[f"{measure}_low"], table[f"{measure}_high"] = table[measure] - 0.1, table[measure] + 0.1
    return table.assign(positive_patients=20, images=[90, 1234] * 3, patients=[40, 55] * 3)


def test_subgroups_have_a_mark_a_level_and_a_legend_with_counts() -> None:
    table = level_table()
    fig = subgroups(table, attribute="sex", subtitle="s")
    (ax,) = fig.axes
    np.testing.assert_allclose([x for x, _ in marks(ax, "o")], table.loc[table["level"] == "women", "auroc"])
    np.testing.assert_allclose([x for x, _ in marks(ax, "D")], table.loc[table["level"] == "$men$", "auroc"])
    assert {"women: 90 images, 40 patients", "$men$: 1,234 images, 55 patients"} <= set(texts(fig))
    women, men = table["auroc"].iloc[-2:]
    assert title(fig) == f"AUROC by sex; macro average: women {women:.3f}, $men$ {men:.3f}"
    assert not any("too few" in text for text in texts(fig))
    assert misplaced(fig) == []


def test_cells_without_a_value_or_a_row_stand_under_too_few() -> None:
    table = level_table().drop(index=1)
    table.loc[2, "auroc"] = np.nan
    fig = subgroups(table, attribute="sex", subtitle="s")
    (ax,) = fig.axes
    aside = [line for line in ax.lines if line.get_color() == "#707070" and line.get_marker() in ("o", "D")]
    assert {(line.get_marker(), round(float(line.get_ydata()[0]))) for line in aside} == {("o", 1), ("D", 0)}
    assert texts(fig).count("too few\npatients") == 1


def test_many_levels_are_summed_up_and_more_than_five_are_refused() -> None:
    six = pd.concat([level_table().iloc[[0, 4]].assign(level=name) for name in "abcdef"])
    five = six[six["level"] != "f"]
    value = five["auroc"].iloc[1]
    assert title(subgroups(five, attribute="age", subtitle="s")).endswith(f"{value:.3f} to {value:.3f}")
    with pytest.raises(AssertionError, match="levels"):
        subgroups(six, attribute="age", subtitle="s")
    with pytest.raises(AssertionError, match="twice"):
        subgroups(pd.concat([five, five]), attribute="age", subtitle="s")


def test_rates_are_two_panels_in_percent() -> None:
    table = level_table()
    fig = rates(table, attribute="sex", subtitle="s")
    for ax, measure in zip(fig.axes, ("tpr", "fpr"), strict=True):
        np.testing.assert_allclose([x for x, _ in marks(ax, "o")], table.loc[table["level"] == "women", measure])
    assert {"100 %", "false alarms: share of the images without it"} <= set(texts(fig))
    assert misplaced(fig) == []
    assert png(rates(table.assign(fpr=np.nan, tpr=np.nan), attribute="sex", subtitle="s"))
