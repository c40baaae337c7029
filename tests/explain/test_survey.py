"""The walk over a test set: averages against single images, counts, and mean maps without a patient."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.data.store import Store
from cxr.explain import pairs, survey
from cxr.explain.classmaps import ClassMap
from cxr.explain.gradcam import signed_maps
from cxr.findings import CLASSES
from cxr.model import build

CPU = torch.device("cpu")
SIZE, COUNT = 64, 14
FINDINGS = ["Mass", "Edema"]  # in the order of the classes
BOXES = pd.DataFrame(
    [("000.png", "Edema", 3.0, 4.0, 20.0, 10.0), ("000.png", "Edema", 30.0, 40.0, 9.0, 9.0),
     ("005.png", "Mass", 1.0, 2.0, 8.0, 8.0), ("003.png", "Mass", 0.0, 0.0, 64.0, 64.0)],
    columns=["image", "finding", "x", "y", "width", "height"],
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> ResNet:
    built = build("resnet18", seed=1)
    built(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    return built.eval()


@pytest.fixture(scope="module")
def store() -> Store:
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, SIZE, SIZE)).astype(np.uint8)
    return Store(pixels, {f"{row:03d}.png": row for row in range(COUNT)}, sizes=[(SIZE, SIZE)] * COUNT)


@pytest.fixture(scope="module")
def test_rows() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"image": [f"{k:03d}.png" for k in range(COUNT)], "patient_id": np.arange(COUNT) // 2})
    for finding in FINDINGS:
        table[finding] = rng.integers(0, 2, COUNT)
        table[f"logit_{finding}"] = rng.normal(size=COUNT)
    table.loc[[0, 1, 5], ["Edema", "Mass"]] = 1
    table.loc[3, "Mass"] = 0  # has a box, and not the label
    return table


def single_maps(network: ResNet, store: Store, names: list[str], finding: str, layer: str) -> np.ndarray:
    """Signed maps [n, h, w], an image at a time, by captum."""
    targets = torch.tensor([CLASSES.index(finding)])
    images = [normalise(torch.from_numpy(store.pixels[store.rows[name]][None].copy())) for name in names]
    return np.concatenate([signed_maps(network, layer, image, targets).numpy() for image in images])


def large(maps: np.ndarray) -> np.ndarray:
    return functional.interpolate(torch.from_numpy(maps)[:, None], size=(SIZE, SIZE), mode="bilinear")[
        :, 0
    ].numpy()


def assert_averages(found: ClassMap, store: Store, names: list[str], maps: np.ndarray) -> None:
    signed, heat = large(maps), large(np.maximum(maps, 0))
    close = {"rtol": 1e-4, "atol": 1e-5 * float(np.abs(signed).max())}
    np.testing.assert_allclose(found.mean_signed, signed.mean(axis=0), **close)
    np.testing.assert_allclose(found.mean_relu, heat.mean(axis=0), **close)
    if len(names) > 1:
        np.testing.assert_allclose(found.sd_signed, signed.std(axis=0, ddof=1), **close)
    pixels = store.pixels[[store.rows[name] for name in names]]
    np.testing.assert_array_equal(found.mean_image, np.round(pixels.mean(axis=0)).astype(np.uint8))
    assert found.images == len(names)
    assert found.zero_maps == sum(bool((one <= 0).all()) for one in maps)


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("thresholds", [{}, {"Edema": 0.2, "Mass": -0.1}])
def test_averages_are_those_of_single_images_whatever_the_thresholds(
    network: ResNet, store: Store, test_rows: pd.DataFrame, layer: str, thresholds: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pairs, "_BATCH", 4)
    wanted = pairs.choose(test_rows, FINDINGS, thresholds, boxed=[("003.png", "Mass")], seed=1)
    found = survey.take(network, layer, store, wanted, BOXES, device=CPU)
    assert list(found.positives) == FINDINGS
    for finding in FINDINGS:
        names = test_rows.loc[test_rows[finding] == 1, "image"].tolist()
        maps = single_maps(network, store, names, finding, layer)
        assert_averages(found.positives[finding], store, names, maps)
        assert found.positives[finding].patients == len({int(name[:3]) // 2 for name in names})
        by_outcome = wanted[wanted["finding"] == finding].groupby("outcome")["image"].agg(list)
        by_outcome = by_outcome.drop(pairs.OTHER, errors="ignore")
        assert set(found.outcomes[finding]) == set(by_outcome.index)
        for outcome, own in by_outcome.items():
            own_maps = single_maps(network, store, own, finding, layer)
            assert_averages(found.outcomes[finding][str(outcome)], store, own, own_maps)


def test_a_boxed_pair_has_its_map_and_the_mean_over_other_patients(
    network: ResNet, store: Store, test_rows: pd.DataFrame
) -> None:
    thresholds = {"Edema": 0.2, "Mass": -0.1}
    boxed = list(zip(BOXES["image"], BOXES["finding"], strict=True))
    wanted = pairs.choose(test_rows, FINDINGS, thresholds, boxed=boxed, seed=1)
    found = survey.take(network, "layer3", store, wanted, BOXES, device=CPU)
    by_pair = {(one.finding, one.image): one for one in found.boxed}
    assert set(by_pair) == {("Edema", "000.png"), ("Mass", "005.png"), ("Mass", "003.png")}
    assert by_pair["Edema", "000.png"].boxes.tolist() == [[3, 4, 20, 10], [30, 40, 9, 9]]
    for (finding, image), one in by_pair.items():
        (own,) = single_maps(network, store, [image], finding, "layer3")
        np.testing.assert_allclose(one.map, own, rtol=1e-4, atol=1e-5 * float(np.abs(own).max()))
        patient = int(image[:3]) // 2
        assert one.patient_id == patient
        assert one.geometry == store.geometry(image)
        others = test_rows[(test_rows[finding] == 1) & (test_rows["patient_id"] != patient)]["image"].tolist()
        expected = np.maximum(single_maps(network, store, others, finding, "layer3"), 0).mean(axis=0)
        np.testing.assert_allclose(one.mean_map, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_where_nobody_else_has_the_finding_there_is_no_mean_map(network: ResNet, store: Store) -> None:
    rows = pd.DataFrame({"image": ["000.png", "001.png"], "patient_id": [4, 4], "Edema": [1, 1],
                         "logit_Edema": [0.0, 1.0]})  # fmt: skip
    wanted = pairs.choose(rows, ["Edema"], {}, seed=1)
    (one,) = survey.take(network, "layer4", store, wanted, BOXES, device=CPU).boxed
    assert one.image == "000.png"
    assert np.isnan(one.mean_map).all()


def test_attention_is_of_positive_images_alone(network: ResNet, store: Store, test_rows: pd.DataFrame) -> None:
    wanted = pairs.choose(test_rows, FINDINGS, {"Edema": -9.0}, boxed=[("003.png", "Mass")], seed=1)
    found = survey.take(network, "layer4", store, wanted, BOXES, device=CPU).attention
    for finding in FINDINGS:
        own = found[found["finding"] == finding]
        assert set(own["image"]) == set(test_rows.loc[test_rows[finding] == 1, "image"])
        assert not own.duplicated(["image", "region"]).any()
    assert found["share"].dropna().between(0, 1).all()


def test_without_boxes_and_pairs_there_is_nothing(network: ResNet, store: Store, test_rows: pd.DataFrame) -> None:
    nothing = survey.take(network, "layer4", store, pairs.choose(test_rows, [], {}, seed=1), BOXES[:0], device=CPU)
    assert (nothing.positives, nothing.outcomes, nothing.boxed) == ({}, {}, [])
    assert nothing.attention.empty
