"""Figures of stress tests and shortcuts: what they draw, their verdicts, and what they say of what is missing."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from cxr.figures.frame import VERMILION
from cxr.figures.shortcuts import attention, masking
from cxr.figures.stress import FLOOR, randomisation, similarities
from cxr.findings import FINDINGS
from tests.figures_drawn import intervals, marks, misplaced, rows, texts, title

DEPTHS = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"]
LONG = "Enlarged $cardiomediastinum$ of any size, with a very long name"


def alike(names: list[str], ssim: list[float], spearman: list[float]) -> pd.DataFrame:
    table = pd.DataFrame({"ssim": ssim, "spearman": spearman}, index=names)
    for name in ("ssim", "spearman"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.05
    return table


# ---------------------------------------------------------------- randomisation


def randomised() -> pd.DataFrame:
    table = alike(DEPTHS, [0.6, 0.3, 0.25, 0.2, 0.19, 0.18], [0.3, 0.1, 0.02, -0.3, 0.03, -0.02])
    return table.assign(n=40)


def test_randomisation_starts_from_the_trained_networks_own_map_and_keeps_the_order_of_depths() -> None:
    fig = randomisation(randomised(), subtitle="one draw")
    (ax,) = fig.axes
    ssim = next(line for line in ax.lines if len(line.get_xdata()) == 7)
    np.testing.assert_allclose(ssim.get_ydata(), [1, 0.6, 0.3, 0.25, 0.2, 0.19, 0.18])
    np.testing.assert_allclose([y for _, y in marks(ax, "D")], sorted(randomised()["spearman"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["trained", "fc", *(f"+ {d}" for d in DEPTHS[1:])]
    assert ax.get_ylim() == pytest.approx((-0.4, 1))  # a correlation may lie below 0
    assert misplaced(fig) == []


def test_randomisation_says_what_a_good_result_is_and_where_this_one_ends() -> None:
    fig = randomisation(randomised(), subtitle="s")
    want = "A good map fades as the network is made random: here to SSIM 0.18, Spearman −0.02"
    assert title(fig).replace("\u00a0", " ") == want
    said = " ".join(texts(fig)).replace("\n", " ")
    assert "bad: the map is the same without what was learned" in said
    assert "(40 maps a step)" in said
    assert "(39 to 40 maps a step)" in " ".join(
        texts(randomisation(randomised().assign(n=[40, 39] * 3), subtitle=""))
    )


def test_randomisation_draws_the_floor_as_lines_and_measures_the_end_by_it() -> None:
    floor = alike([FLOOR], [0.43], [0.05]).assign(n=40)
    fig = randomisation(pd.concat([floor, randomised()]), subtitle="s")
    (ax,) = fig.axes
    level = [y[0] for line in ax.lines if len(y := list(line.get_ydata())) == 2 and y[0] == y[1] != 0]
    assert level == pytest.approx([0.43, 0.05])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["trained", "fc", *(f"+ {d}" for d in DEPTHS[1:])]
    want = "here to SSIM 0.18 (different images 0.43), Spearman −0.02 (different images 0.05)"
    assert title(fig).replace("\u00a0", " ").endswith(want)
    said = " ".join(texts(fig)).replace("\n", " ")
    assert "good: no more alike than maps of two images" in said
    assert "as alike as maps of two different images" in said
    assert misplaced(fig) == []


def test_the_end_of_randomisation_is_the_last_step_even_where_it_is_undefined() -> None:
    table = randomised()
    table.loc["conv1", ["ssim", "spearman"]] = [np.nan, 0.4]
    assert title(randomisation(table, subtitle="s")).endswith("SSIM\u00a0undefined, Spearman\u00a00.40")


def test_randomisation_shows_undefined_depths_and_one_alone() -> None:
    nothing = randomised().drop(columns="n").mul(np.nan).assign(n=0)
    fig = randomisation(nothing, subtitle="s")
    assert texts(fig).count("undefined") == 6
    assert title(fig).endswith("undefined at the last step")
    assert misplaced(randomisation(randomised().iloc[:1], subtitle="s")) == []


# ---------------------------------------------------------------- similarities


def test_similarities_put_the_floor_last_and_carry_it_through_the_rows() -> None:
    table = alike([FLOOR, "noise", "rotation by 2 degrees"], [0.4, 0.95, 0.8], [0.2, 0.9, np.nan])
    fig = similarities(table.assign(probability_change=[np.nan, 0.01, 0.02]), title="t", subtitle="s")
    (ax,) = fig.axes
    assert rows(ax) == ["noise", "rotation by 2 degrees", FLOOR]
    np.testing.assert_allclose(marks(ax, "o"), [(0.95, -0.17), (0.8, 0.83), (0.4, 1.83)])
    np.testing.assert_allclose(marks(ax, "D"), [(0.9, 0.17), (0.2, 2.17)])
    assert intervals(ax)[0] == pytest.approx((-0.17, 0.9, 1.0))
    upright = [x[0] for line in ax.lines if len(set(x := list(line.get_xdata()))) == 1 and len(x) == 2]
    assert upright == pytest.approx([0.4, 0.2])
    assert {"0.95", "0.010", "0.020", "change of\nprobability", "–"} <= set(texts(fig))
    assert misplaced(fig) == []


def test_similarities_without_floor_and_change_and_with_nothing_defined() -> None:
    fig = similarities(alike([LONG, "seed 1"], [np.nan, 0.5], [np.nan, -0.5]), title="t", subtitle="s")
    said = texts(fig)
    assert "undefined" in said
    assert not any("probability" in text or "different images" in text for text in said)
    assert fig.axes[0].get_xlim() == pytest.approx((-0.6, 1))
    assert misplaced(fig) == []


# ---------------------------------------------------------------- masking


def masked(names: tuple[str, ...], **drops: tuple[float, ...]) -> pd.DataFrame:
    regions = ("corners", "border", "outside the thorax")
    found = [(name, region, drops.get(name, (0.001, 0.002, 0.0))[at]) for name in names
             for at, region in enumerate(regions)]  # fmt: skip
    table = pd.DataFrame(found, columns=["finding", "region", "drop"])
    table = table.assign(low=table["drop"] - 0.01, high=table["drop"] + 0.01, few=False)
    return table.assign(alarm=table["low"] > 0.02)


def vermilion(ax: Axes, marker: str) -> list[tuple[float, float]]:
    lines = [one for one in ax.lines if one.get_marker() == marker and len(one.get_xdata())]
    lines = [one for one in lines if to_hex(one.get_markeredgecolor()).upper() == VERMILION]
    return [(float(x), float(y)) for one in lines for x, y in one.get_xydata()]


def test_masking_puts_alarms_on_top_in_vermilion_and_names_the_worst_in_the_title() -> None:
    table = masked(("Mass", "Edema", "Hernia"), Edema=(0.12, 0.08, 0.0), Hernia=(0.025, 0.0, 0.0))
    fig = masking(table, subtitle="s")
    (ax,) = fig.axes
    assert title(fig) == "Shortcut alarm: Edema loses 0.12 of AUROC (masked: corners)"
    assert rows(ax) == ["Edema", "Hernia", "Mass"]  # Hernia's drop is larger than Mass's, and no alarm
    np.testing.assert_allclose(vermilion(ax, "o"), [(0.12, -0.2)])
    np.testing.assert_allclose(vermilion(ax, "s"), [(0.08, 0)])
    assert vermilion(ax, "^") == []
    np.testing.assert_allclose(marks(ax, "^"), [(0, 0.2), (0, 1.2), (0, 2.2)])
    bold = [(t.get_text(), t.get_fontweight()) for t in ax.get_yticklabels()]
    assert bold == [("Edema", "bold"), ("Hernia", "normal"), ("Mass", "normal")]
    assert {"corners: −0.120\nborder: −0.080", "none", "alarm line: 0.02", "no loss"} <= set(texts(fig))
    assert any(text.replace("\n", " ") == "ALARM: the whole interval lies above 0.02" for text in texts(fig))
    assert misplaced(fig) == []


def test_the_alarms_line_is_drawn_at_its_place() -> None:
    (ax,) = masking(masked(("Mass",)), subtitle="s").axes
    upright = {float(x[0]) for line in ax.lines if len(set(x := list(line.get_xdata()))) == 1}
    assert {0.0, 0.02} <= upright
    assert ax.get_xlim()[0] < 0 < 0.02 < ax.get_xlim()[1]


def test_an_alarm_is_the_tables_and_not_read_from_the_drop() -> None:
    """Whoever made the table may have reasons, such as too few patients, that the figure does not know."""
    fig = masking(masked(("Edema",), Edema=(0.3, 0.0, 0.0)).assign(alarm=False), subtitle="s")
    assert title(fig).startswith("No alarm")
    assert vermilion(fig.axes[0], "o") == []


def test_other_findings_with_alarms_are_counted() -> None:
    drops = {name: (0.1 + at / 100, 0.0, 0.0) for at, name in enumerate(FINDINGS[:3])}
    for number, words in ((2, "; 1 more finding raises the alarm"), (3, "; 2 more findings raise the alarm")):
        fig = masking(masked(FINDINGS[:number], **drops), subtitle="s")
        assert title(fig).endswith(words)


def test_an_alarm_of_few_patients_leads_only_where_it_is_alone_and_says_so() -> None:
    table = masked(("Hernia", "Edema"), Hernia=(0.3, 0.0, 0.0), Edema=(0.1, 0.0, 0.0))
    few = table.assign(few=table["finding"] == "Hernia")
    assert title(masking(few, subtitle="s")).startswith("Shortcut alarm: Edema loses 0.10 of AUROC")
    alone = few[few["finding"] == "Hernia"]
    assert title(masking(alone, subtitle="s")).startswith("Shortcut alarm from few patients: Hernia loses 0.30")


def test_no_alarm_is_claimed_of_measured_findings_only() -> None:
    table = masked(("Mass", "Edema", "Hernia"))
    assert title(masking(table, subtitle="s")).startswith("No alarm: no finding surely loses")
    table.loc[table["finding"] == "Mass", ["drop", "low", "high"]] = np.nan
    told = title(masking(table, subtitle="s"))
    assert told.startswith("No alarm: none of the 2 findings measured surely loses")


def test_masking_shows_few_patients_and_what_has_no_value() -> None:
    table = masked(("Mass", "Edema", "Hernia"))
    table.loc[table["finding"] == "Mass", ["drop", "low", "high"]] = np.nan
    border = (table["finding"] == "Edema") & (table["region"] == "border")
    table.loc[border, ["drop", "low", "high"]] = np.nan
    fig = masking(table.assign(few=table["finding"] == "Hernia"), subtitle="s")
    (ax,) = fig.axes
    assert rows(ax)[-1] == "Mass"
    assert {"undefined", "not measured", "none; no value: border", "none"} <= {
        t.replace("\n", " ") for t in texts(fig)
    }
    hollow = [y for one in ax.lines if one.get_markerfacecolor() == "white" for y in one.get_ydata()]
    assert {round(y) for y in hollow} == {rows(ax).index("Hernia")}
    assert any("fewer than 30 effective positive patients" in t.replace("\n", " ") for t in texts(fig))
    assert misplaced(fig) == []
    gone = table.assign(drop=np.nan, low=np.nan, high=np.nan)
    assert title(masking(gone, subtitle="s")) == "Shortcuts: nothing could be measured"


def test_masking_fits_fourteen_findings_and_long_names_with_every_alarm() -> None:
    every = (0.3, 0.25, 0.2)
    for names in (FINDINGS, (LONG, "Edema"), ("Edema",)):
        assert misplaced(masking(masked(names, **dict.fromkeys(names, every)), subtitle="s")) == []


def test_masking_refuses_a_region_twice_and_a_fourth() -> None:
    table = masked(("Mass",))
    with pytest.raises(AssertionError, match="twice"):
        masking(pd.concat([table, table]), subtitle="s")
    with pytest.raises(AssertionError, match="regions"):
        masking(pd.concat([table, table.iloc[:1].assign(region="clavicles")]), subtitle="s")


# ---------------------------------------------------------------- attention


AREA = {"corners": 0.1, "outside_thorax": 0.5}


def test_attention_is_drawn_against_the_regions_share_of_the_image() -> None:
    table = pd.DataFrame({"corners": [0.3, 0.05], "outside_thorax": [0.6, np.nan]}, index=["Edema", "Mass"])
    fig = attention(table, area=AREA, subtitle="s")
    assert title(fig) == "Edema gives 30 % of its attention to 10 % of the image (corners)"
    corners, outside = fig.axes
    np.testing.assert_allclose(marks(corners, "D"), [(0.3, 0)])
    np.testing.assert_allclose(marks(corners, "o"), [(0.05, 1)])
    np.testing.assert_allclose(marks(outside, "D"), [(0.6, 0)])
    assert corners.get_xlim() == outside.get_xlim()
    assert [next(iter(ax.lines)).get_xdata()[0] for ax in fig.axes] == [0.1, 0.5]
    assert {"outside thorax", "line: 10 % of the image", "line: 50 % of the image", "undefined"} <= set(texts(fig))
    assert misplaced(fig) == []


def test_attention_says_that_nothing_stands_out_or_is_defined() -> None:
    table = pd.DataFrame({"corners": [0.1, 0.05]}, index=["Edema", LONG])
    fig = attention(table, area=AREA, subtitle="s")
    assert title(fig) == "No finding gives a region more attention than its share of the image"
    assert misplaced(fig) == []
    assert "undefined for all" in title(attention(table * np.nan, area=AREA, subtitle="s"))
