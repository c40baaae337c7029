"""Localisation against pixels that are drawn and counted one by one, and intervals against a bootstrap by hand."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from cxr import published
from cxr.data.image import Geometry
from cxr.evaluation.bootstrap import REPLICATES, replicates
from cxr.explain import localisation
from cxr.explain.boxes import Heat, cone, covered, heat, hit, overlaps, within
from cxr.explain.localisation import BASELINES, HEADLINE, MEASURES, METHODS, Boxed
from cxr.findings import FINDINGS

SQUARE = Geometry(width=256, height=256, size=256)
WIDE, TALL = Geometry(width=320, height=190, size=64), Geometry(width=130, height=200, size=64)


def drawn_map(seed: int, shape: tuple[int, int] = (7, 7)) -> np.ndarray:
    """A signed map with several hills."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.6).astype(np.float32)


def pixels(signed: np.ndarray, place: Geometry) -> np.ndarray:
    """The heat at the centre of each pixel of the original, from PyTorch's upsampling of the whole square."""
    fine = 4 * place.size
    square = torch.from_numpy(np.maximum(signed, 0))[None, None].double()
    big = torch.nn.functional.interpolate(square, (fine, fine), mode="bilinear", align_corners=False)[0, 0].numpy()
    x = place.left + (np.arange(place.width) + 0.5) * place.scaled[0] / place.width
    y = place.top + (np.arange(place.height) + 0.5) * place.scaled[1] / place.height
    at = np.meshgrid(4 * y - 0.5, 4 * x - 0.5, indexing="ij")
    drawn: np.ndarray = ndimage.map_coordinates(big, at, order=1, mode="nearest")
    return drawn


def filled(boxes: np.ndarray, place: Geometry) -> np.ndarray:
    """Pixels whose centre lies in any box."""
    x, y = np.arange(place.width) + 0.5, np.arange(place.height) + 0.5
    inside = np.zeros((place.height, place.width), dtype=bool)
    for left, top, wide, tall in boxes:
        inside |= np.outer((y > top) & (y < top + tall), (x > left) & (x < left + wide))
    return inside


def boxed(
    signed: np.ndarray, *corners: Sequence[float], place: Geometry = SQUARE, image: str = "a.png",
    patient: object = 1, finding: str = "Mass", mean_map: np.ndarray | None = None,
) -> Boxed:  # fmt: skip
    return Boxed(
        finding=finding, image=image, patient_id=patient, map=signed, geometry=place,
        mean_map=np.zeros_like(signed) if mean_map is None else mean_map, boxes=np.array(corners, dtype=float),
    )  # fmt: skip


def measured(item: Boxed, method: str = "gradcam") -> pd.Series:
    rows = localisation.measure([item], seed=0).set_index("method")
    return rows.loc[method]


# ---------------------------------------------------------------- heat and boxes


@pytest.mark.parametrize("place", [SQUARE, WIDE, TALL])
@pytest.mark.parametrize("seed", range(4))
def test_detected_boxes_are_those_of_regions_of_pixels(place: Geometry, seed: int) -> None:
    signed = drawn_map(seed)
    surface, drawn = heat(signed, place), pixels(signed, place)
    assert surface.top == pytest.approx(drawn.max(), rel=0.03)
    for part in (60 / 255, 180 / 255):
        threshold = part * surface.top
        regions = ndimage.find_objects(ndimage.label(drawn > threshold)[0])
        want = [(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in regions]
        found = surface.detect(threshold)
        assert len(found) == len(want)
        for box in want:
            assert np.abs(found - np.array(box)).max(axis=1).min() < 3  # a pixel an edge, and the finer square's


@pytest.mark.parametrize("place", [SQUARE, WIDE, TALL])
def test_values_and_shares_are_those_of_pixels(place: Geometry) -> None:
    signed = drawn_map(5)
    surface, drawn = heat(signed, place), pixels(signed, place)
    row, column = place.height // 3, place.width // 2
    found = surface.at(np.array([column + 0.5]), np.array([row + 0.5]))
    np.testing.assert_allclose(found, drawn[row, column], atol=0.01 * surface.top)
    boxes = np.array([[10, 20, 60, 50], [40, 30, 70, 90], [100, 5, 20, 30.0]])  # the first two overlap
    inside = filled(boxes, place)
    assert surface.share_inside(boxes) == pytest.approx(drawn[inside].sum() / drawn.sum(), abs=2e-3)
    assert covered(boxes, place.width, place.height) == pytest.approx(inside.mean())


def test_diagonal_positions_are_one_region_where_the_saddle_between_them_is_above() -> None:
    surface = heat(np.array([[4, 1], [1, 4.0]]), SQUARE)  # saddle: (16 - 1) / (8 - 2) = 2.5
    assert len(surface.detect(2.4)) == 1
    assert len(surface.detect(2.6)) == 2
    assert len(heat(np.array([[1, 4], [4, 1.0]]), SQUARE).detect(2.4)) == 1
    assert len(heat(np.array([[1, 4], [4, 1.0]]), SQUARE).detect(2.6)) == 2


def test_crossings_are_where_a_line_says() -> None:
    surface = heat(np.array([[0, 4, 0, 0.0]] * 4), SQUARE)  # centres at 32, 96, 160, 224
    np.testing.assert_allclose(surface.detect(1), [[48, 0, 96, 256]])


def test_overlaps_are_shares_of_counted_pixels() -> None:
    one, other = np.array([[10, 10, 40, 20], [0, 0, 5, 5.0]]), np.array([[30, 5, 40, 15], [200, 200, 9, 9.0]])
    iou, iobb = overlaps(one, other)
    for d in range(2):
        for b in range(2):
            first, second = filled(one[[d]], SQUARE), filled(other[[b]], SQUARE)
            assert iou[d, b] == pytest.approx((first & second).sum() / (first | second).sum())
            assert iobb[d, b] == pytest.approx((first & second).sum() / first.sum())


def test_a_maximum_at_the_edge_is_at_the_centre_of_its_position() -> None:
    signed = np.zeros((4, 4))
    signed[0, 3] = 1
    np.testing.assert_allclose(heat(signed, SQUARE).peaks(), [[224, 32]])
    signed[3, 0] = 1
    assert len(heat(signed, SQUARE).peaks()) == 2


def test_padding_is_left_out_of_heat_and_of_what_is_permuted() -> None:
    place = Geometry(width=100, height=200, size=64)  # columns 16 to 48 of 64
    signed = np.zeros((4, 4))
    signed[:, 0] = 5  # its centres lie at 8, in padding, and its slope ends at 24
    surface = heat(signed, place)
    assert surface.x[0] == 0
    assert surface.x[-1] == 100
    assert surface.top == pytest.approx(2.5)  # half-way down the slope
    assert set(surface.peaks()[:, 0]) == {0.0}
    inside = within((4, 4), place)
    np.testing.assert_array_equal(inside, [[False, True, True, False]] * 4)
    signed[:, 1] = np.arange(4)
    for one in localisation._shuffles(boxed(signed, [0, 0, 9, 9], place=place), 0):
        np.testing.assert_array_equal(one[~inside], signed[~inside])
        np.testing.assert_array_equal(np.sort(one[inside]), np.sort(signed[inside]))


def test_the_cone_falls_to_nothing_at_half_the_shorter_side() -> None:
    surface = cone(200, 100)
    x = np.array([100, 125, 150, 100, 160.0])
    y = np.array([50, 50, 50, 25, 50.0])
    np.testing.assert_allclose(surface.at(x, y), [1, 0.5, 0, 0.5, 0], atol=0.02)
    np.testing.assert_allclose(surface.peaks(), [[100, 50]])


def test_a_tolerance_reaches_over_a_box_on_each_side() -> None:
    points = np.array([[8, 15], [7, 15], [22, 22], [22, 23], [50, 50.0]])
    box = np.array([[10, 10, 10, 10.0]])
    np.testing.assert_array_equal(hit(points, box, 2), [True, False, True, False, False])


# ---------------------------------------------------------------- measures


def test_a_perfect_map_is_right_in_every_measure() -> None:
    signed = np.full((256, 256), -1.0)
    signed[64:160, 32:200] = 3
    found = measured(boxed(signed, [32, 64, 168, 96]))
    wanted = dict.fromkeys(MEASURES, 1.0) | {"false_positives": 0.0, "zero_maps": 0.0}
    assert found["energy"] == pytest.approx(1, abs=0.01)  # the slope down to 0 takes half a pixel
    assert {name: round(found[name]) for name in MEASURES} == wanted
    assert found["box_share"] == pytest.approx(168 * 96 / 256**2)


def test_iou_and_iobb_are_decided_by_the_better_threshold() -> None:
    """A hill of one position: its box above 180 lies in the drawn one, its box above 60 is far larger."""
    signed = np.zeros((4, 4))
    signed[1, 1] = 1  # at 96, falls to 0 at 32 and 160
    place = (96 - 20, 96 - 20, 40, 40)
    found = measured(boxed(signed, place))
    wide, narrow = (2 * 64 * (1 - t / 255) for t in (60, 180))  # sides of the detected boxes
    iou, iobb = max(narrow**2 / 40**2, 40**2 / wide**2), 1.0
    assert narrow < 40 < wide
    for t in localisation.OVERLAPS:
        assert found[f"iou_{t}"] == float(iou > float(t))
        assert found[f"iobb_{t}"] == float(iobb > float(t))
    assert found["false_positives"] == 0  # the wide one has IoBB 0.19
    assert found["contains_centre"] == 1


def test_false_positives_are_counted_at_both_thresholds() -> None:
    signed = np.zeros((8, 8))
    signed[1, 1], signed[6, 6], signed[1, 6] = 1, 0.9, 0.5  # at 48 and 208; the last reaches 60 alone
    found = measured(boxed(signed, [33, 33, 30, 30]))
    assert found["false_positives"] == 3
    assert found["pointing"] == 1
    assert measured(boxed(signed, [193, 193, 30, 30]))["pointing"] == 0


def test_a_small_detected_box_in_a_large_drawn_one_is_no_false_positive() -> None:
    signed = np.zeros((8, 8))
    signed[1, 1] = 1  # 49 pixels a side: IoU 0.04, IoBB 1
    found = measured(boxed(signed, [0, 0, 256, 256]))
    assert (found["false_positives"], found["iou_0.1"], found["iobb_0.9"]) == (0, 0, 1)


def test_equal_maxima_count_by_the_share_that_lies_in_a_box() -> None:
    signed = np.zeros((8, 8))
    signed[1, 1] = signed[6, 6] = 1
    assert measured(boxed(signed, [33, 33, 30, 30]))["pointing"] == 0.5
    assert measured(boxed(signed, [33, 33, 30, 30], [193, 193, 30, 30]))["pointing"] == 1


def test_pointing_tolerance_follows_the_longer_side() -> None:
    signed = np.zeros((8, 8))
    signed[3, 3] = 1
    large = Geometry(width=1024, height=1024, size=64)  # the maximum at 448; 112 at 256
    narrow = Geometry(width=512, height=1024, size=64)  # at (28 - 16) * 16 = 192 and 448
    for box, place, want in (
        ([462, 440, 30, 30], large, 1), ([464, 440, 30, 30], large, 0),
        ([115, 110, 8, 8], SQUARE, 1), ([116, 110, 8, 8], SQUARE, 0),
        ([206, 440, 30, 30], narrow, 1), ([208, 440, 30, 30], narrow, 0),
    ):  # fmt: skip
        assert measured(boxed(signed, box, place=place))["pointing"] == want


def test_the_centre_of_any_of_several_boxes_is_enough() -> None:
    signed = np.zeros((8, 8))
    signed[1, 1] = 1  # at 48
    hot, cold = [33, 33, 30, 30], [193, 193, 30, 30]
    assert measured(boxed(signed, hot, cold))["contains_centre"] == 1
    assert measured(boxed(signed, cold))["contains_centre"] == 0


@pytest.mark.parametrize("signed", [np.zeros((7, 7)), np.full((7, 7), -2.0)])
def test_a_zero_map_is_a_miss_in_every_measure_and_is_counted(signed: np.ndarray) -> None:
    item = boxed(signed, [0, 0, 256, 256])  # any heat at all would hit
    for method in ("gradcam", "shuffled", "class_mean"):
        assert measured(item, method)[list(MEASURES)].to_dict() == dict.fromkeys(MEASURES, 0.0) | {"zero_maps": 1}
    assert measured(item, "centre")["pointing"] == 1


def test_heat_in_padding_alone_is_a_zero_map() -> None:
    signed = np.zeros((8, 8))
    signed[:, 0] = 1
    place = Geometry(width=64, height=256, size=64)
    assert measured(boxed(signed, [0, 0, 64, 256], place=place))["zero_maps"] == 1


def test_a_box_follows_padding() -> None:
    """The image lies in columns 16 to 48 of the square's 64; the map is hot at column 4 of 8."""
    place = Geometry(width=128, height=256, size=64)
    signed = np.zeros((8, 8))
    signed[2, 4] = 1  # centre: 36 of 64 packed columns -> (36 - 16) * 4 = 80 of 128; row 20 of 64 -> 80 of 256
    assert measured(boxed(signed, [70, 70, 20, 20], place=place))["pointing"] == 1
    assert measured(boxed(signed, [134, 70, 20, 20], place=place))["pointing"] == 0  # without the padding's shift


# ---------------------------------------------------------------- baselines


def test_the_shuffled_maps_points_into_a_box_as_often_as_the_box_is_large() -> None:
    signed = np.zeros((8, 8))
    signed[0, 0] = 1
    half = [0, 0, 128, 256]  # a half of the positions, tolerance included (centres at 112 and 144)
    items = [boxed(signed, half, image=f"{k}.png") for k in range(120)]
    rows = localisation.measure(items, seed=0)
    mean = rows[rows["method"] == "shuffled"]["pointing"].mean()
    assert mean == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(120 * 5))
    assert (rows[rows["method"] == "gradcam"]["pointing"] == 1).all()


def test_shuffles_depend_on_seed_and_image_and_not_on_the_order() -> None:
    items = [boxed(drawn_map(k), [20, 30, 90, 80], image=f"{k}.png") for k in range(6)]
    first = localisation.measure(items, seed=0).set_index(["image", "method"])
    again = localisation.measure(items[::-1], seed=0).set_index(["image", "method"]).loc[first.index]
    pd.testing.assert_frame_equal(first, again)
    other = localisation.measure(items, seed=1).set_index(["image", "method"])
    changed = (first[list(MEASURES)] != other[list(MEASURES)]).any(axis=1).groupby("method").any()
    assert changed.to_dict() == {"gradcam": False, "shuffled": True, "centre": False, "class_mean": False}


def test_the_centre_does_not_look_at_the_map_and_the_class_mean_at_its_own() -> None:
    box, other = [20, 30, 90, 80], drawn_map(3)
    one, two = boxed(drawn_map(1), box, mean_map=other), boxed(drawn_map(2), box, mean_map=other)
    for method in ("centre", "class_mean"):
        pd.testing.assert_series_equal(measured(one, method), measured(two, method))
    names = list(MEASURES)
    pd.testing.assert_series_equal(
        measured(one, "class_mean")[names], measured(boxed(other, box))[names], check_names=False
    )


# ---------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Two findings of 17 patients, one of them with a third of the images; boxes of all sizes."""
    rng = np.random.default_rng(0)
    items = []
    for k in range(48):
        side = rng.uniform(20, 120)
        corners = [*rng.uniform(0, 256 - side, 2), side, side]
        name = {"image": f"{k}.png", "finding": ("Mass", "Edema")[k % 2], "patient": f"p{max(k - 14, 0) // 2}"}
        items.append(boxed(drawn_map(k) if k else np.zeros((7, 7)), corners, **name))
    return localisation.measure(items, seed=0)


@pytest.fixture(scope="module")
def tables(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return localisation.table(rows), localisation.differences(rows)


def test_intervals_are_those_of_patients_drawn_by_hand(
    rows: pd.DataFrame, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    patients = sorted(rows["patient_id"].unique())
    drawn: list[np.ndarray] = []

    def caught(weights: np.ndarray) -> np.ndarray:
        drawn.append(weights)
        return weights[0]

    replicates({"once": caught}, len(patients), seed=0)
    # the replicates' order does not matter to a percentile
    weights = np.concatenate(drawn, axis=1)  # [patients, replicates]
    assert weights.shape == (len(patients), REPLICATES)
    own = rows.pivot_table(index="image", columns="method", values="energy")
    of = rows.drop_duplicates("image").set_index("image")["patient_id"].loc[own.index]
    times = weights[[patients.index(p) for p in of]]  # [images, replicates]
    means = {name: own[name].to_numpy() @ times / times.sum(axis=0) for name in METHODS}
    key = {"finding": "all", "stratum": "all", "measure": "energy"}
    for name in METHODS:
        row = chosen(tables[0], **key, method=name)
        assert row["value"] == pytest.approx(own[name].mean())
        assert (row["low"], row["high"]) == pytest.approx(ends_of(means[name]), nan_ok=True)
        assert (row["images"], row["patients"]) == (48, len(patients))
    for name in BASELINES:
        row = chosen(tables[1], **key, baseline=name)
        assert row["difference"] == pytest.approx((own["gradcam"] - own[name]).mean())
        assert (row["low"], row["high"]) == pytest.approx(ends_of(means["gradcam"] - means[name]), nan_ok=True)


def ends_of(means: np.ndarray) -> tuple[float, float]:
    """None where all patients agree: that replicates agree, too, proves nothing."""
    low, high = np.quantile(means, [0.025, 0.975])
    return (low, high) if low < high else (np.nan, np.nan)


def chosen(table: pd.DataFrame, **values: str) -> pd.Series:
    for name, value in values.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_tables_hold_every_finding_and_the_strata_of_all(
    rows: pd.DataFrame, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    groups = [("Edema", "all"), ("Mass", "all"), *(("all", name) for name in ("all", "small", "medium", "large"))]
    for one in tables:
        assert list(dict.fromkeys(zip(one["finding"], one["stratum"], strict=True))) == groups
    assert len(tables[0]) == len(groups) * len(METHODS) * len(MEASURES)
    mass = chosen(tables[0], finding="Mass", stratum="all", method="centre", measure="iobb_0.1")
    own = rows[(rows["finding"] == "Mass") & (rows["method"] == "centre")]
    assert mass["value"] == pytest.approx(own["iobb_0.1"].mean())
    small = chosen(tables[0], finding="all", stratum="small", method="gradcam", measure="pointing")
    own = rows[(rows["box_share"] <= 0.0252) & (rows["method"] == "gradcam")]
    assert (small["images"], small["patients"]) == (len(own), own["patient_id"].nunique())
    assert small["value"] == pytest.approx(own["pointing"].mean())
    zero = chosen(tables[0], finding="Mass", stratum="all", method="gradcam", measure="zero_maps")
    assert zero["value"] == pytest.approx(1 / 24)


def test_metrics_are_the_headline_of_the_tables(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    metrics = localisation.flat(*tables)
    row = chosen(tables[0], finding="Mass", stratum="all", method="gradcam", measure="pointing")
    names = [f"explain/pointing/Mass{end}" for end in ("", "/low", "/high")]
    assert [metrics[name] for name in names] == [row["value"], row["low"], row["high"]]
    for one in HEADLINE:
        row = chosen(tables[0], finding="all", stratum="all", method="shuffled", measure=one)
        assert metrics[f"explain/{one}_shuffled/all"] == row["value"]
        assert f"explain/{one}/Edema" in metrics
    row = chosen(tables[1], finding="Mass", stratum="all", baseline="shuffled", measure="pointing")
    assert metrics["explain/pointing_minus_shuffled/Mass"] == row["difference"]
    assert metrics["explain/zero_maps/Mass"] == pytest.approx(1 / 24)


def test_metrics_of_all_findings_are_fewer_than_400_and_finite(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table, apart = (one[one["finding"].isin(["Mass", "all"])] for one in tables)
    for name in FINDINGS:
        if name != "Mass":
            table = pd.concat([table, tables[0][tables[0]["finding"] == "Mass"].assign(finding=name)])
            apart = pd.concat([apart, tables[1][tables[1]["finding"] == "Mass"].assign(finding=name)])
    metrics = localisation.flat(table, apart)
    assert {name.split("/")[2] for name in metrics} == {*FINDINGS, "all"}
    assert 300 < len(metrics) < 400
    gone = localisation.flat(table.assign(low=np.nan, high=np.nan), apart)
    assert np.isfinite(list(gone.values())).all()
    assert "explain/pointing/Mass/low" not in gone


@pytest.mark.parametrize(("patients", "has_interval"), [(1, False), (9, False), (10, True)])
def test_fewer_than_ten_patients_have_values_and_no_interval(patients: int, has_interval: bool) -> None:
    items = [boxed(drawn_map(k), [20, 30, 90, 80], image=f"{k}.png", patient=f"p{k}") for k in range(patients)]
    rows = localisation.measure(items, seed=0)
    for table in (localisation.table(rows), localisation.differences(rows)):
        energy = table[table["measure"] == "energy"].iloc[0]
        assert np.isfinite([energy["low"], energy["high"]]).all() == has_interval
        assert has_interval or table[["low", "high"]].isna().all(axis=None)
        assert table.filter(["value", "difference"]).notna().all(axis=None)
    assert set(table["stratum"]) == {"all", "large"}


def test_patients_who_all_miss_have_no_interval_of_nothing() -> None:
    items = [boxed(np.zeros((7, 7)), [20, 30, 90, 80], image=f"{k}.png", patient=f"p{k}") for k in range(19)]
    row = chosen(localisation.table(localisation.measure(items, seed=0)), finding="Mass", stratum="all",
                 method="gradcam", measure="pointing")  # fmt: skip
    assert (row["value"], np.isnan(row["low"]), np.isnan(row["high"])) == (0, True, True)


def test_without_another_patient_there_is_no_class_mean_and_its_share_is_of_the_others() -> None:
    other = np.full((7, 7), np.nan)
    items = [boxed(drawn_map(k), [20, 30, 90, 80], image=f"{k}.png", patient=f"p{k}",
                   mean_map=other if k % 2 else drawn_map(9)) for k in range(4)]  # fmt: skip
    rows = localisation.measure(items, seed=0)
    own = rows[rows["method"] == "class_mean"]
    assert own["energy"].isna().tolist() == [False, True, False, True]
    row = chosen(localisation.table(rows), finding="Mass", stratum="all", method="class_mean", measure="energy")
    assert row["value"] == pytest.approx(own["energy"].dropna().mean())


def test_a_speck_between_pixels_is_no_detected_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saddle may rise above a threshold by a hundredth of a pixel; nobody who draws pixels would see it."""
    found = np.array([[10.0, 20.0, 30.0, 40.0], [111.97, 175.98, 0.06, 0.06], [50.2, 60.2, 0.6, 0.6]])
    monkeypatch.setattr(Heat, "detect", lambda surface, threshold: found)
    assert measured(boxed(drawn_map(1), [100, 170, 30, 30]))["iobb_0.1"] == 0
    assert measured(boxed(drawn_map(1), [50, 60, 30, 30]))["iobb_0.9"] == 1  # holds the centre of a pixel


def test_strata_are_terciles_of_nihs_boxes() -> None:
    """The median Nodule box is small, the median heart is large."""
    assert [localisation.stratum(s) for s in (0.0046, 0.0252, 0.0253, 0.0781, 0.171, 1)] == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip


def test_wangs_table_names_measures_and_findings_of_ours() -> None:
    theirs = published.WANG_2017_LOCALISATION
    assert set(theirs) <= set(MEASURES)
    assert all(tuple(own) == FINDINGS[:8] for own in theirs.values())
    assert theirs["iobb_0.1"]["Cardiomegaly"] == 0.993
    for kind in ("iou", "iobb"):  # a stricter demand is met less often
        names = sorted(name for name in theirs if name.startswith(f"{kind}_"))
        for loose, strict in pairwise(names):
            assert all(theirs[loose][finding] >= theirs[strict][finding] for finding in theirs[loose])
