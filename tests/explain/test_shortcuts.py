"""Regions, attention and masking against counting by hand, and a network that is known to read one corner."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from cxr.data.augment import normalise
from cxr.data.phantom_picture import MARKER_REGION
from cxr.data.store import Store
from cxr.evaluation import ranked
from cxr.evaluation.bootstrap import SEED, interval, rank, replicates
from cxr.evaluation.predict import LOGITS
from cxr.explain.classmaps import upsample
from cxr.explain.shortcuts import (
    REGIONS,
    attention,
    effects,
    flat,
    mask,
    masked_logits,
    mean_attention,
    mean_picture,
    region_mask,
)
from cxr.findings import CLASSES, FINDINGS

SIZE, IMAGES, PATIENTS = 64, 120, 60
SHORTCUT, SOUND, RARE = "Mass", "Edema", "Hernia"
CORNERS = ("upper_left", "upper_right", "lower_left", "lower_right")
CENTRE = np.s_[24:40, 24:40]
TOKEN = np.s_[4:9, 4:9]  # inside the marker's region and clear of the border


class Reading(nn.Module):
    """Linear: one finding's logit is the mean grey of the token's place, every other's that of the centre."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.zeros(15, SIZE, SIZE)
        weights[:, CENTRE[0], CENTRE[1]] = 1 / 16**2
        weights[CLASSES.index(SHORTCUT)] = 0
        weights[CLASSES.index(SHORTCUT), TOKEN[0], TOKEN[1]] = 1 / 5**2
        self.fc = nn.Linear(SIZE * SIZE, 15)
        self.fc.weight.data, self.fc.bias.data = weights.flatten(1), torch.zeros(15)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(x[:, 0].flatten(1))
        return logits


@pytest.fixture(scope="module")
def store() -> Store:
    """A token and a centre of random brightness on a noisy ground."""
    generator = np.random.default_rng(0)
    grey = generator.normal(100, 8, (IMAGES, SIZE, SIZE))
    token, centre = generator.uniform(60, 240, (2, IMAGES, 1, 1))
    grey[:, *TOKEN], grey[:, *CENTRE] = token, centre
    return Store(pixels=grey.clip(0, 255).astype(np.uint8), rows={f"{row}.png": row for row in range(IMAGES)})


@pytest.fixture(scope="module")
def network() -> Reading:
    return Reading().eval()


@pytest.fixture(scope="module")
def masked(network: Reading, store: Store) -> dict[str, np.ndarray]:
    rows = np.arange(IMAGES)
    fill = mean_picture(store, rows)
    return masked_logits(network, store, rows, list(REGIONS), fill, device=torch.device("cpu"), batch_size=50)


@pytest.fixture(scope="module")
def scores(network: Reading, store: Store) -> pd.DataFrame:
    """Labels that follow what the network reads, with some luck; two images a patient, ids not from 0."""
    with torch.inference_mode():
        logits = network(normalise(torch.tensor(store.pixels))).numpy()
    table = pd.DataFrame(logits, columns=list(LOGITS))
    generator = np.random.default_rng(1)
    patients = np.repeat(np.arange(PATIENTS), 2) * 7 + 1000
    table.insert(0, "patient_id", generator.permutation(patients))
    for finding in CLASSES:
        table[finding] = np.nan
    for finding in (SHORTCUT, SOUND):
        read = table[f"logit_{finding}"] + generator.normal(0, 0.3, IMAGES)
        table[finding] = (read > read.median()).astype(float)
    table.loc[:4, SOUND] = np.nan  # not labelled
    table[RARE] = np.where(table["patient_id"].isin(np.unique(patients)[:9]), 1.0, 0.0)
    return table


@pytest.fixture(scope="module")
def found(scores: pd.DataFrame, masked: dict[str, np.ndarray]) -> pd.DataFrame:
    return effects(scores, masked)


# ---------------------------------------------------------------- regions


@pytest.mark.parametrize("size", [64, 128, 224])
@pytest.mark.parametrize("region", ["corners", "upper_left", "outside_thorax"])
def test_regions_cover_the_drawn_marker(region: str, size: int) -> None:
    left, top, width, height = (round(part * size) for part in MARKER_REGION)
    assert region_mask(region, size)[top : top + height, left : left + width].all()


def test_regions_are_those_of_their_fractions_counted_by_hand() -> None:
    rows, columns = np.mgrid[:100, :100]
    far_rows, far_columns = np.minimum(rows, 99 - rows), np.minimum(columns, 99 - columns)
    corners = (far_rows < 18) & (far_columns < 18)
    expected = {
        "corners": corners,
        "border": (far_rows < 5) | (far_columns < 5),
        "outside_thorax": corners | (far_columns < 5) | (rows < 5) | (rows >= 90),
        "upper_left": corners & (rows < 50) & (columns < 50),
        "upper_right": corners & (rows < 50) & (columns >= 50),
        "lower_left": corners & (rows >= 50) & (columns < 50),
        "lower_right": corners & (rows >= 50) & (columns >= 50),
    }
    assert list(REGIONS) == list(expected)
    for name, inside in expected.items():
        assert (region_mask(name, 100) == inside).all(), name


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("shape", [(7, 7), (4, 4), (3, 5)])
def test_shares_are_sums_over_the_scaled_up_map_after_relu(shape: tuple[int, int]) -> None:
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    table = attention(maps, SIZE)
    assert table.columns.tolist() == ["pair", "region", "share", "area"]
    assert table["pair"].tolist() == [pair for pair in range(3) for _ in REGIONS]
    heat = upsample(maps.clamp(min=0), SIZE).astype(np.float64)
    for row in table.itertuples():
        inside = region_mask(row.region, SIZE)
        assert row.share == pytest.approx(heat[row.pair][inside].sum() / heat[row.pair].sum(), abs=1e-6)
        assert row.area == inside.mean()


def test_an_even_map_has_each_regions_area_however_strong_it_is() -> None:
    table = attention(torch.tensor([1e-6, 3.0, 1e6])[:, None, None].expand(3, 7, 7), SIZE)
    np.testing.assert_allclose(table["share"], table["area"], rtol=1e-9)


def test_a_map_of_one_corner_lies_in_that_corner() -> None:
    maps = torch.zeros(1, 16, 16)
    maps[0, 0, 15] = 1.0
    shares = attention(maps, SIZE).set_index("region")["share"]
    assert shares[["upper_right", "corners", "outside_thorax"]].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert shares[["upper_left", "lower_left", "lower_right"]].tolist() == [0.0, 0.0, 0.0]


def test_a_zero_map_has_no_share_and_no_maps_give_no_rows() -> None:
    table = attention(torch.stack([-torch.ones(4, 4), torch.zeros(4, 4)]), SIZE)
    assert table["share"].isna().all()
    assert table["area"].notna().all()
    assert attention(torch.zeros(0, 4, 4), SIZE).empty


def test_mean_attention_is_that_of_images_with_intervals_over_patients() -> None:
    table = pd.DataFrame(
        [
            ("a.png", 9, "Edema", "corners", 0.1, 0.13),
            ("b.png", 9, "Edema", "corners", 0.3, 0.13),
            ("c.png", 4, "Edema", "corners", 0.8, 0.13),
            ("d.png", 5, "Edema", "corners", np.nan, 0.13),
            ("d.png", 5, "Mass", "border", np.nan, 0.19),
        ],
        columns=["image", "patient_id", "finding", "region", "share", "area"],
    )
    edema, mass = mean_attention(table).to_dict("records")
    sizes = ("finding", "region", "images", "patients", "zero_maps", "area")
    assert [edema[name] for name in sizes] == ["Edema", "corners", 4, 3, 1, 0.13]
    assert [mass[name] for name in sizes] == ["Mass", "border", 1, 1, 1, 0.19]
    assert edema["share"] == pytest.approx((0.1 + 0.3 + 0.8) / 3)
    assert np.isnan([mass["share"], mass["low"], mass["high"]]).all()
    # patients in the order of their ids: 4, 5, 9; in 1 of 27 replicates only patient 5 is drawn: below 5 %
    drawn = replicates({"4": lambda d: d[0], "9": lambda d: d[2]}, 3, seed=SEED)
    with np.errstate(invalid="ignore"):
        means = (0.8 * drawn["4"] + 0.4 * drawn["9"]) / (drawn["4"] + 2 * drawn["9"])
    low, high, _ = interval(means)
    assert (edema["low"], edema["high"]) == pytest.approx((low, high))


# ---------------------------------------------------------------- masking


def test_the_mean_picture_is_that_of_the_given_rows(store: Store) -> None:
    rows = np.array([3, 7, 8])
    expected = np.rint(np.mean([store.pixels[row].astype(float) for row in rows], axis=0))
    found = mean_picture(store, rows)
    assert found.dtype == np.uint8
    assert (found == expected).all()


def test_the_mean_picture_of_more_rows_than_are_read_at_once_is_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 4, 4)).astype(np.uint8)
    found = mean_picture(Store(pixels=pixels, rows={}), np.arange(2500))
    assert (found == np.rint(pixels.mean(axis=0))).all()


def test_masking_replaces_the_region_and_leaves_the_rest_and_what_was_given() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 16, 16), generator=generator, dtype=torch.uint8)
    fill = torch.randint(0, 256, (16, 16), generator=generator, dtype=torch.uint8)
    region, before = torch.rand(16, 16, generator=generator) < 0.3, pixels.clone()
    found = mask(pixels, region, fill)
    assert found.dtype == torch.uint8
    assert torch.equal(pixels, before)
    for row in range(16):
        for column in range(16):
            expected = fill[row, column].expand(4) if region[row, column] else before[:, row, column]
            assert torch.equal(found[:, row, column], expected)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_masked_logits_are_those_of_each_image_masked_alone(
    network: Reading, store: Store, batch_size: int
) -> None:
    rows, fill = np.array([5, 2, 90, 17, 18, 19, 20, 21, 2, 0, 119]), mean_picture(store, np.arange(IMAGES))
    found = masked_logits(
        network, store, rows, ["corners", "border"], fill, device=torch.device("cpu"), batch_size=batch_size
    )
    assert list(found) == ["corners", "border"]
    for region, logits in found.items():
        assert logits.dtype == np.float32
        for place, row in enumerate(rows):
            picture = store.pixels[row].copy()
            picture[region_mask(region, SIZE)] = fill[region_mask(region, SIZE)]
            with torch.inference_mode():
                expected = network(normalise(torch.tensor(picture[None])))[0]
            np.testing.assert_allclose(logits[place], expected, atol=1e-5)


def test_no_rows_give_no_logits(network: Reading, store: Store) -> None:
    fill = np.zeros((SIZE, SIZE), dtype=np.uint8)
    found = masked_logits(network, store, np.array([], dtype=int), ["border"], fill, device=torch.device("cpu"))
    assert found["border"].shape == (0, 15)


# ---------------------------------------------------------------- the alarm


def test_the_alarm_is_for_the_finding_that_is_read_in_the_corner_and_for_no_other(found: pd.DataFrame) -> None:
    alarms = found[found["alarm"]]
    assert set(alarms["finding"]) == {SHORTCUT}
    assert sorted(alarms["region"]) == ["corners", "outside_thorax", "upper_left"]
    assert alarms["masked_auroc"].tolist() == [0.5, 0.5, 0.5], "nothing is left to rank by"
    quiet = found[(found["finding"] == SOUND) | found["region"].isin(["border", "upper_right", "lower_left"])]
    assert quiet["drop"].dropna().tolist() == [0.0] * 10


def test_rows_are_by_region_and_finding_with_their_sizes(found: pd.DataFrame, scores: pd.DataFrame) -> None:
    assert found.columns.tolist() == [
        "finding", "region", "images", "positive_patients", "auroc", "masked_auroc", "drop", "low", "high",
        "few", "alarm", "note",
    ]  # fmt: skip
    assert found["finding"].tolist() == list(FINDINGS) * len(REGIONS)
    assert found["region"].tolist() == [name for name in REGIONS for _ in FINDINGS]
    assert found["alarm"].dtype == bool
    sound = found[found["finding"] == SOUND].iloc[0]
    assert sound["images"] == IMAGES - 5
    assert sound["positive_patients"] == scores.loc[scores[SOUND] == 1, "patient_id"].nunique()


def test_aurocs_and_the_interval_of_the_drop_are_those_computed_by_hand(
    scores: pd.DataFrame, masked: dict[str, np.ndarray]
) -> None:
    # half of the shortcut's way back, so that the drop is neither nothing nor all
    mixed = {"corners": 0.8 * masked["corners"] + 0.2 * scores[list(LOGITS)].to_numpy()}
    mixed["corners"] += np.random.default_rng(2).normal(0, 0.3, mixed["corners"].shape).astype(np.float32)
    shuffled = scores.sample(frac=1, random_state=0)
    order = shuffled.index.to_numpy()
    table = effects(shuffled, {"corners": mixed["corners"][order]}).set_index("finding")
    _, patients = np.unique(scores["patient_id"], return_inverse=True)
    for finding in (SHORTCUT, SOUND):
        known = scores[finding].notna().to_numpy()
        labels = scores.loc[known, finding].to_numpy().astype(int)
        logits = scores.loc[known, f"logit_{finding}"].to_numpy()
        behind = mixed["corners"][known, CLASSES.index(finding)]
        row = table.loc[finding]
        assert row["auroc"] == pytest.approx(roc_auc_score(labels, logits))
        assert row["masked_auroc"] == pytest.approx(roc_auc_score(labels, behind))
        both = {
            name: rank(labels, values, patients[known], PATIENTS).auroc
            for name, values in (("before", logits), ("behind", behind))
        }
        expected = ranked.estimates(both, PATIENTS, seed=SEED).difference({"before": 1}, {"behind": 1})
        assert (row["drop"], row["low"], row["high"]) == pytest.approx(tuple(expected))
        assert row["low"] < row["drop"] < row["high"]
        assert row["alarm"] == (expected.low > 0.02)


def test_a_drop_that_is_surely_there_but_small_is_no_alarm(scores: pd.DataFrame) -> None:
    logits = scores[list(LOGITS)].to_numpy(dtype=np.float32).copy()
    mass = CLASSES.index(SHORTCUT)
    positive = np.flatnonzero(scores[SHORTCUT] == 1)
    # every positive image is passed by the few negative ones that were right below it
    logits[positive, mass] -= 0.06
    row = effects(scores, {"border": logits}).set_index("finding").loc[SHORTCUT]
    assert 0 < row["low"] < 0.02 < row["auroc"]
    assert not row["alarm"]


def test_fewer_than_ten_positive_patients_give_no_number_but_a_note(found: pd.DataFrame) -> None:
    rare = found[found["finding"] == RARE]
    assert rare["positive_patients"].tolist() == [9] * len(REGIONS)
    assert rare[["auroc", "masked_auroc", "drop", "low", "high"]].isna().all(axis=None)
    assert set(rare["note"]) == {"9 positive patients, 10 needed"}
    assert rare["few"].all()
    assert not rare["alarm"].any()
    assert found.loc[found["finding"] == "Nodule", "note"].str.contains("not labelled").all()
    assert (found.loc[found["finding"] == SHORTCUT, "note"] == "").all()


def test_a_masked_logit_that_is_not_finite_is_refused(scores: pd.DataFrame) -> None:
    logits = scores[list(LOGITS)].to_numpy(dtype=np.float32).copy()
    logits[60, CLASSES.index(SHORTCUT)] = np.nan
    with pytest.raises(ValueError, match=f"logit_{SHORTCUT}: 1 of 120"):
        effects(scores, {"corners": logits})


def test_metrics_are_named_by_region_and_finding_and_only_numbers_are_there(found: pd.DataFrame) -> None:
    metrics = flat(found)
    expected = {
        f"explain/masking/{region}/{finding}/{kind}"
        for region in REGIONS for finding in (SHORTCUT, SOUND) for kind in ("drop", "low", "high")
    } | {f"explain/masking/{region}/alarms" for region in REGIONS}  # fmt: skip
    assert set(metrics) == expected
    assert metrics["explain/masking/corners/alarms"] == 1.0
    assert metrics["explain/masking/border/alarms"] == 0.0
    row = found[(found["region"] == "corners") & (found["finding"] == SHORTCUT)].iloc[0]
    kinds = ("drop", "low", "high")
    assert [metrics[f"explain/masking/corners/{SHORTCUT}/{kind}"] for kind in kinds] == row[list(kinds)].tolist()


def test_a_region_in_which_nothing_was_measured_has_no_count_of_alarms(found: pd.DataFrame) -> None:
    assert flat(found[found["finding"] == RARE]) == {}
