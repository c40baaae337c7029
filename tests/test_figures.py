"""Figures: what they say, in which order, and the arithmetic of the overlay."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.figures import (
    ClassMapRow,
    Tile,
    class_maps,
    example_images,
    overlay,
    panel,
    prevalence,
    prior_shift,
    shift,
)
from cxr.findings import CLASSES, NO_FINDING
from tests.figures_drawn import marks, misplaced, png, texts, title

SIDE = 16
GREY = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8) * 8
ZERO = np.zeros((SIDE, SIDE))
RAMP = np.tile(np.linspace(0.0, 2.0, SIDE), (SIDE, 1))
NOTHING = np.full((SIDE, SIDE), np.nan)


def picture(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def counts_table(names: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    n = np.arange(len(names))
    table = pd.DataFrame({"train": 1000 * n, "val": 10 * n, "test": 700 + n}, index=list(names))
    table.attrs["images"] = {"train": 76543, "val": 9981, "test": 25596}
    return table


def map_row() -> ClassMapRow:
    return ClassMapRow(finding="Pleural_Thickening", auroc=0.709, images=1143, patients=412,
                       mean_image=GREY, mean_map=RAMP, sd_map=RAMP[:, ::-1] * 1.5)  # fmt: skip


def draw_maps(*rows: ClassMapRow) -> Figure:
    return class_maps(rows, title="Where the model looks", subtitle="test split")


# overlay


def test_overlay_is_rgb_bytes_of_the_images_size() -> None:
    got = overlay(GREY[:5], RAMP[:5])
    assert (got.shape, got.dtype) == ((5, SIDE, 3), np.uint8)


@pytest.mark.parametrize(("heat", "limit"), [(ZERO, None), (ZERO, 3.0), (RAMP, 0.0)])
def test_no_heat_or_no_scale_returns_the_grey_picture(heat: np.ndarray, limit: float | None) -> None:
    np.testing.assert_array_equal(overlay(GREY, heat, limit=limit), np.repeat(GREY[..., None], 3, axis=2))


def test_zero_heat_leaves_its_own_pixels_untouched() -> None:
    got = overlay(GREY, RAMP)
    np.testing.assert_array_equal(got[:, 0], np.repeat(GREY[:, :1], 3, axis=1))
    assert (got[:, 1:] != GREY[:, 1:, None]).any()


def test_the_limit_gets_the_top_colour_at_full_weight_and_higher_heat_no_more() -> None:
    top = 255 * np.array(colormaps["plasma"](1.0)[:3])
    want = np.rint(0.7 * 100 + 0.3 * top)
    got = overlay(np.full((1, 2), 100, np.uint8), np.array([[0.5, 5.0]]), limit=0.5, alpha=0.3)
    np.testing.assert_array_equal(got[0], [want, want])


def test_half_the_limit_gets_half_the_weight_of_the_middle_colour() -> None:
    want = np.rint(0.8 * 200 + 0.2 * 255 * np.array(colormaps["plasma"](0.5)[:3]))
    got = overlay(np.full((1, 1), 200, np.uint8), np.array([[2.0]], np.float32), limit=4.0, alpha=0.4)
    np.testing.assert_array_equal(got[0, 0], want)


def test_the_default_limit_is_the_maximum() -> None:
    np.testing.assert_array_equal(overlay(GREY, RAMP), overlay(GREY, RAMP, limit=2.0))


@pytest.mark.parametrize(
    ("image", "heat"),
    [
        (GREY, ZERO[:3]),
        (GREY.astype(float), ZERO),
        (GREY[..., None], ZERO[..., None]),
        (GREY, NOTHING),
        (GREY, -RAMP),
    ],
    ids=["shape", "dtype", "channels", "nan", "negative"],
)
def test_overlay_refuses_what_cannot_be_laid_over(image: np.ndarray, heat: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        overlay(image, heat)


# prevalence


def test_prevalence_says_counts_and_totals() -> None:
    said = texts(prevalence(counts_table(), subtitle="official split"))
    assert {"official split", "Pleural Thickening", "14,000", "140", "714"} <= set(said)
    assert {"train (76,543 images)", "validation (9,981 images)", "test (25,596 images)"} <= set(said)


def test_prevalence_plots_percent_of_each_splits_images_most_common_first() -> None:
    fig = prevalence(counts_table(CLASSES[:3]), subtitle="s")
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Effusion", "Cardiomegaly", "Atelectasis"]
    lines = {str(line.get_label()).split()[0]: line for line in ax.get_lines()}
    np.testing.assert_allclose(lines["train"].get_xdata(), 100 * np.array([2000, 1000, 0]) / 76543)
    np.testing.assert_allclose(lines["test"].get_xdata(), 100 * np.array([702, 701, 700]) / 25596)
    assert ax.get_xlim()[0] < 0 < 100 * 10 / 9981 < ax.get_xlim()[1]  # a count of 0 is inside of the axis


def test_a_split_without_images_or_positives_is_drawn_without_a_warning() -> None:
    table = counts_table(("Hernia",)) * 0
    table.attrs["images"] = {"train": 40, "val": 5, "test": 0}
    said = texts(prevalence(table, subtitle="s"))
    assert "How common each finding is in train and validation" in said
    assert not any(text.startswith("test") for text in said)


def test_prevalence_of_test_images_alone_speaks_of_them_alone() -> None:
    table = counts_table()
    table.attrs["images"] = {"train": 0, "val": 0, "test": 25596}
    said = texts(prevalence(table, subtitle="s"))
    assert "How common each finding is in the test images" in said
    assert "test (25,596 images)" in said
    assert not any(text.startswith(("train", "validation")) for text in said)


def test_prevalence_refuses_unknown_classes() -> None:
    with pytest.raises(AssertionError, match="Broken rib"):
        prevalence(counts_table(("Broken rib",)), subtitle="s")


# class maps, panel, example images


def test_class_maps_say_what_a_row_is() -> None:
    said = texts(draw_maps(map_row()))
    assert {"Pleural\nThickening", "AUROC 0.709\n1,143 images\n412 patients", "Grad-CAM, logit units"} <= set(said)
    assert {"mean image", "mean map", "SD of the maps", "Where the model looks"} <= set(said)


def test_mean_and_sd_of_a_row_share_the_limit_of_its_colour_bar() -> None:
    low = replace(map_row(), mean_map=RAMP / 10, sd_map=RAMP / 20)
    fig = draw_maps(map_row(), low)
    for row, axes, limit in ((map_row(), fig.axes[:3], 3.0), (low, fig.axes[3:6], 0.2)):
        np.testing.assert_array_equal(picture(axes[0]), overlay(GREY, ZERO))
        np.testing.assert_array_equal(picture(axes[1]), overlay(GREY, row.mean_map, limit=limit))
        np.testing.assert_array_equal(picture(axes[2]), overlay(GREY, row.sd_map, limit=limit))
        assert axes[2].child_axes[0].get_ylim() == pytest.approx((0, limit))


def test_one_image_has_no_sd_and_zero_maps_say_so() -> None:
    alone = replace(map_row(), sd_map=NOTHING, images=1, patients=1, auroc=None)
    said = texts(draw_maps(alone))
    assert {"SD needs two images", "AUROC undefined\n1 image\n1 patient"} <= set(said)
    assert "map is zero" not in said
    flat = replace(map_row(), mean_map=ZERO, sd_map=ZERO)
    assert {"map is zero", "SD is zero"} <= set(texts(draw_maps(flat)))
    assert "Grad-CAM, logit units" not in texts(draw_maps(flat))  # there is no scale to show
    assert {"map is zero", "SD needs two images"} <= set(texts(draw_maps(replace(flat, sd_map=NOTHING))))


def test_panel_shows_each_image_beside_its_own_overlay() -> None:
    tiles = [
        Tile(GREY, RAMP, "Mass: p = 0.91, $5", "a_$1.png"),
        Tile(GREY, RAMP / 9, "Pleural_Thickening: p = 0.1", "b_2.png"),
        Tile(GREY, ZERO, "Mass: p = 0.5", "c.png"),
    ]
    fig = panel(tiles, title="Single images", subtitle="s", columns=2)
    said = texts(fig)
    assert {"Mass: p = 0.91, $5", "each map's own maximum"} <= set(said)
    assert {"a_$1.png", "b_2.png", "c.png (map is zero)"} <= set(said)
    assert "Pleural Thickening: p = 0.1" in said  # a finding's name is spoken, a file's is not
    for ax, tile in zip(fig.axes, tiles, strict=False):
        np.testing.assert_array_equal(picture(ax)[:, :SIDE], overlay(GREY, ZERO))
        np.testing.assert_array_equal(picture(ax)[:, -SIDE:], overlay(GREY, tile.map))


def test_example_images_keep_their_grey_levels() -> None:
    fig = example_images([GREY, GREY // 2, GREY], ["Mass", "Edema", "a " * 60], title="Three", subtitle="s")
    assert {"Three", "Mass", "Edema"} <= set(texts(fig))
    assert len(fig.axes) == 3
    np.testing.assert_array_equal(picture(fig.axes[1]), GREY // 2)
    assert {ax.images[0].get_clim() for ax in fig.axes} == {(0, 255)}


def test_sheets_refuse_nothing_and_uneven_lists() -> None:
    with pytest.raises(AssertionError):
        panel([], title="t", subtitle="s")
    with pytest.raises(ValueError, match="shorter"):
        example_images([GREY, GREY], ["one"], title="t", subtitle="s")


def test_figures_are_png_about_as_wide_as_the_page_that_shows_them() -> None:
    figures = [
        prevalence(counts_table(), subtitle="long " * 80),
        prior_shift(priors(), subtitle="s"),
        draw_maps(map_row()),
        panel([Tile(GREY, RAMP, "c", "n")], title="long title " * 20, subtitle="s"),
        example_images([GREY], ["c"], title="t", subtitle="s"),
    ]
    for fig in figures:
        data = png(fig)
        assert data.startswith(b"\x89PNG")
        assert 900 <= int.from_bytes(data[16:20]) <= 1200


# ---------------------------------------------------------------- shift


def measures(**ratios: float) -> pd.DataFrame:
    table = pd.DataFrame({"train": 0.1, "test": {f"prevalence/{k}": 0.1 * v for k, v in ratios.items()}})
    table["test_over_train"] = table["test"] / table["train"]
    table.loc["patients_shared", "all"] = 0
    return table


def test_shift_names_the_widest_and_orders_by_ratio() -> None:
    fig = shift(measures(Edema=1.1, Pneumothorax=3.4, **{NO_FINDING: 0.66}), subtitle="all")
    said = texts(fig)
    assert "Pneumothorax is 3.4 times as common in the test images as in training" in said
    (ax,) = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Pneumothorax", "Edema", NO_FINDING]
    assert {"34.0 %", "10.0 %"} <= set(said)
    low, high = ax.get_xlim()
    assert low * high == pytest.approx(1)  # twice and half lie equally far from 1
    assert high > 3.4


def test_shift_tells_the_far_from_the_near_by_shape_as_well_as_colour() -> None:
    (ax,) = shift(measures(Edema=1.4, Mass=2.0, Hernia=0.6), subtitle="").axes
    points = {
        line.get_marker(): line.get_xdata()
        for line in ax.lines
        if len(line.get_xdata()) and line.get_label()[0] != "_"
    }
    assert list(points["o"]) == pytest.approx([1.4])
    assert sorted(points["D"]) == pytest.approx([0.6, 2.0])


def test_shift_without_any_ratio_still_draws() -> None:
    empty = measures(Edema=np.nan)
    assert png(shift(empty, subtitle="x"))


# ---------------------------------------------------------------- prior shift


def priors() -> pd.DataFrame:
    shares = {"Edema": [0.02, 0.08, 0.06], "Mass": [0.05, 0.1, 0.01], "Hernia": [0.0, 0.004, 0.003],
              "Nodule": [np.nan] * 3}  # fmt: skip
    columns = ["validation_prevalence", "test_prevalence", "em_prevalence"]
    return pd.DataFrame.from_dict(shares, orient="index", columns=columns)


def test_prior_shift_draws_percents_most_common_in_test_first_and_counts_where_the_estimate_is_nearer() -> None:
    fig = prior_shift(priors(), subtitle="s")
    assert title(fig) == "Test prevalence: the estimate without labels comes nearer than validation's for 1 of 2"
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Mass", "Edema", "Hernia", "Nodule"]
    np.testing.assert_allclose(marks(ax, "D"), [(10, 0), (8, 1), (0.4, 2)])
    np.testing.assert_allclose(marks(ax, "o"), [(5, 0), (2, 1)])  # 0 % has no place on a logarithmic axis
    assert {"8.00", "0.00", "not known"} <= set(texts(fig))
    assert misplaced(fig) == []


def test_prior_shift_without_anything_to_compare_says_so() -> None:
    assert "nothing to compare" in title(prior_shift(priors().iloc[3:], subtitle="s"))
