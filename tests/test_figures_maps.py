"""Figures of maps beside the paper's: all findings at one look, outcomes apart, boxes on single images."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxr.figures.frame import GREEN
from cxr.figures.maps import ClassMapRow, Group, OutcomeRow, class_grid, class_maps, outcomes
from cxr.figures.pictures import Tile, overlay, panel
from cxr.findings import FINDINGS
from tests.figures_drawn import misplaced, png, texts

SIDE = 40
GREY = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8) * 3
ZERO = np.zeros((SIDE, SIDE))
RAMP = np.tile(np.linspace(0.0, 2.0, SIDE), (SIDE, 1))
LONG = "Enlarged_$cardiomediastinum$_of_any_size"


def picture(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def row(finding: str = "Mass", zero_maps: int = 0) -> ClassMapRow:
    return ClassMapRow(finding=finding, auroc=0.709, images=1143, patients=412, mean_image=GREY, mean_map=RAMP,
                       sd_map=RAMP, zero_maps=zero_maps)  # fmt: skip


def grid(*rows: ClassMapRow) -> Figure:
    return class_grid(rows, title="All findings", subtitle="test split")


# ---------------------------------------------------------------- all findings


def test_the_grid_lays_each_mean_map_over_its_own_mean_image_by_its_own_scale() -> None:
    rows = [row(), replace(row("Edema"), mean_map=RAMP[:, ::-1] / 100, mean_image=GREY // 2)]
    for ax, one in zip(grid(*rows).axes, rows, strict=False):
        np.testing.assert_array_equal(picture(ax), overlay(one.mean_image, one.mean_map))


def test_the_grid_says_sizes_zero_maps_and_that_colours_do_not_compare() -> None:
    said = texts(grid(row("Pleural_Thickening", zero_maps=12), replace(row("Edema", 1), auroc=None, images=1)))
    assert {"Pleural Thickening", "Edema", "0", "picture's maximum"} <= set(said)
    assert "AUROC 0.709\n1,143 images\n412 patients\n12 zero maps\nmaximum 2 logits" in said
    assert "AUROC undefined\n1 image\n412 patients\n1 zero map\nmaximum 2 logits" in said
    assert any("Each picture has its own scale" in text for text in said)


def test_zero_maps_are_told_only_where_there_are_some() -> None:
    assert not any("zero" in text for text in texts(grid(row())))
    assert any("mean map is zero" in text for text in texts(grid(replace(row(), mean_map=ZERO))))
    counted = texts(class_maps([row(zero_maps=3)], title="t", subtitle="s"))
    assert "AUROC 0.709\n1,143 images\n412 patients\n3 zero maps" in counted


def test_the_grid_fits_fourteen_findings_or_one_and_long_names() -> None:
    for names in (FINDINGS, FINDINGS[:1], (LONG, "Mass")):
        fig = grid(*(row(name, zero_maps=2) for name in names))
        assert misplaced(fig) == []
        assert len([ax for ax in fig.axes if ax.images]) == len(names)


# ---------------------------------------------------------------- outcomes


def group(images: int, heat: np.ndarray) -> Group:
    return Group(images=images, patients=min(images, 9), mean_image=GREY, mean_map=heat)


def draw(*rows: OutcomeRow) -> Figure:
    return outcomes(rows, title="Apart", subtitle="s")


def outcome_row(**groups: Group) -> OutcomeRow:
    return OutcomeRow(finding="Pleural_Thickening", groups={k.replace("_", " "): one for k, one in groups.items()})


def test_outcomes_of_a_line_share_the_limit_of_its_colour_bar() -> None:
    heats = (RAMP, RAMP / 4, RAMP[:, ::-1] * 3)
    found, missed, false = (group(5, heat) for heat in heats)
    low = outcome_row(true_positive=group(5, RAMP / 10))
    fig = draw(outcome_row(false_positive=false, true_positive=found, false_negative=missed), low)
    for ax, heat in zip(fig.axes[:3], heats, strict=True):
        np.testing.assert_array_equal(picture(ax), overlay(GREY, heat, limit=6.0))
    np.testing.assert_array_equal(picture(fig.axes[3]), overlay(GREY, RAMP / 10))
    assert [ax.child_axes[0].get_ylim()[1] for ax in (fig.axes[2], fig.axes[5])] == pytest.approx([6.0, 0.2])


def test_outcomes_say_their_counts_and_what_is_not_there() -> None:
    fig = draw(outcome_row(true_positive=group(1234, RAMP), false_positive=group(1, ZERO)))
    said = [ax.get_xlabel() for ax in fig.axes]
    assert said == ["found\n1,234 images\n9 patients", "missed\n", "false alarm\n1 image\n1 patient"]
    assert fig.axes[0].get_title(loc="left") == "Pleural Thickening"
    assert [[t.get_text() for t in ax.texts] for ax in fig.axes] == [[], ["no image"], ["map is zero"]]
    told = " ".join(texts(fig))
    assert "Found: true positives; missed: false negatives; false alarm: false positives." in told
    assert misplaced(fig) == []


def test_outcomes_fit_fourteen_findings_or_one_long_names_and_small_scales() -> None:
    for names in (FINDINGS, (LONG,)):
        groups = {"true positive": group(11234, RAMP * 0.003), "false positive": group(3, RAMP / 1000)}
        fig = draw(*(OutcomeRow(finding=name, groups=groups) for name in names))
        assert misplaced(fig) == []
        assert [ax.get_title(loc="left").replace("\n", " ") for ax in fig.axes[::3]] == [
            name.replace("_", " ") for name in names
        ]


def test_a_finding_without_any_image_has_no_scale() -> None:
    fig = draw(outcome_row())
    assert texts(fig).count("no image") == 3
    assert not any(ax.child_axes for ax in fig.axes)


def test_outcomes_refuse_an_outcome_that_has_no_column() -> None:
    with pytest.raises(AssertionError, match="outcomes are"):
        draw(outcome_row(positive=group(1, RAMP)))


# ---------------------------------------------------------------- boxes


def outlines(ax: Axes) -> list[tuple[float, float, float, float]]:
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    green = [patch for patch in found if to_hex(patch.get_edgecolor()).upper() == GREEN]
    assert len(found) == 2 * len(green)  # each in a white casing
    return [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in green]


def test_a_box_lies_on_the_grey_picture_and_on_the_overlay() -> None:
    boxed, plain = Tile(GREY, RAMP, "Mass", "a.png", [(4.0, 6.5, 20.0, 10.0)]), Tile(GREY, RAMP, "Mass", "b.png")
    fig = panel([boxed, plain], title="t", subtitle="s", box_note="outline: box drawn by a $radiologist$")
    gap = picture(fig.axes[0]).shape[1] - 2 * SIDE
    assert outlines(fig.axes[0]) == [(3.5, 6.0, 20.0, 10.0), (3.5 + SIDE + gap, 6.0, 20.0, 10.0)]
    assert outlines(fig.axes[1]) == []
    assert "outline: box drawn by a $radiologist$" in texts(fig)
    assert misplaced(fig) == []


def test_a_box_is_cut_off_at_the_image_and_never_reaches_the_other_picture() -> None:
    fig = panel([Tile(GREY, RAMP, "Mass", "a.png", [(-5.0, 30.0, 90.0, 20.0)])], title="t", subtitle="s")
    assert outlines(fig.axes[0])[0] == (-0.5, 29.5, SIDE, 10.0)


def test_a_panel_without_boxes_says_nothing_of_outlines() -> None:
    fig = panel([Tile(GREY, RAMP, "Mass", "a.png")], title="t", subtitle="s", box_note="outline: box")
    assert not any("outline" in text for text in texts(fig))
    assert png(fig)
