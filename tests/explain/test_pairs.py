"""Which pairs of image and finding are mapped, and that a walk maps each of them once, as captum does."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import ResNet

from cxr.data.augment import normalise
from cxr.data.store import Store
from cxr.explain import pairs
from cxr.explain.gradcam import signed_maps
from cxr.findings import CLASSES
from cxr.model import build

CPU = torch.device("cpu")


def drawn(images: int, seed: int = 0) -> pd.DataFrame:
    """A scores table: three images a patient, labels and logits of two findings at random."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"image": [f"{k:03d}.png" for k in range(images)], "patient_id": np.arange(images) // 3})
    for finding in ("Edema", "Mass"):
        table[finding] = rng.integers(0, 2, images).astype(float)
        table[f"logit_{finding}"] = rng.normal(size=images)
    return table


def as_set(table: pd.DataFrame, outcome: str) -> set[tuple[str, str]]:
    own = table[table["outcome"] == outcome]
    return set(zip(own["image"], own["finding"], strict=True))


def test_outcomes_are_those_of_the_threshold() -> None:
    test = drawn(40)
    found = pairs.choose(test, ["Edema", "Mass"], {"Edema": 0.3, "Mass": -0.2}, seed=1)
    for finding, threshold in (("Edema", 0.3), ("Mass", -0.2)):
        called, has = test[f"logit_{finding}"] >= threshold, test[finding] == 1
        for outcome, rows in (
            (pairs.TRUE_POSITIVE, called & has), (pairs.FALSE_NEGATIVE, ~called & has),
            (pairs.FALSE_POSITIVE, called & ~has),
        ):  # fmt: skip
            own = {pair for pair in as_set(found, outcome) if pair[1] == finding}
            assert own == {(image, finding) for image in test.loc[rows, "image"]}
    assert found["place"].is_monotonic_increasing
    assert (test["image"].to_numpy()[found["place"]] == found["image"]).all()
    assert (test["patient_id"].to_numpy()[found["place"]] == found["patient_id"]).all()
    assert [CLASSES[output] for output in found["output"]] == found["finding"].tolist()


def test_without_a_threshold_there_are_positives_alone() -> None:
    test = drawn(20)
    found = pairs.choose(test, ["Edema"], {}, seed=1)
    assert set(found["outcome"]) == {pairs.POSITIVE}
    assert set(found["image"]) == set(test.loc[test["Edema"] == 1, "image"])


def test_an_image_on_the_threshold_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    test = drawn(3).assign(Edema=[1.0, 1.0, 0.0], logit_Edema=[0.5, 0.4, 0.5])
    found = pairs.choose(test, ["Edema"], {"Edema": 0.5}, seed=1)
    assert found["outcome"].tolist() == [pairs.TRUE_POSITIVE, pairs.FALSE_NEGATIVE, pairs.FALSE_POSITIVE]


def test_false_positives_are_few_and_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "FALSE_POSITIVES", 5)
    test = drawn(200)
    one, same, other = (
        as_set(pairs.choose(test, ["Edema"], {"Edema": -1.0}, seed=seed), pairs.FALSE_POSITIVE)
        for seed in (1, 1, 2)
    )
    assert len(one) == 5
    assert one == same != other
    negative = set(test.loc[test["Edema"] == 0, "image"])
    assert {image for image, _ in one} <= negative


def test_a_box_without_a_label_is_mapped_and_no_positive() -> None:
    test = drawn(6).assign(Edema=[1, 0, 0, 0, 0, 0], Mass=[0, 1, 0, 0, 0, 0])
    boxed = [
        ("000.png", "Edema"),
        ("002.png", "Edema"),
        ("002.png", "Edema"),
        ("009.png", "Mass"),
        ("1", "Hernia"),
    ]
    found = pairs.choose(test, ["Edema", "Mass"], {}, boxed=boxed, seed=1)
    assert list(zip(found["image"], found["finding"], found["outcome"], strict=True)) == [
        ("000.png", "Edema", pairs.POSITIVE), ("001.png", "Mass", pairs.POSITIVE),
        ("002.png", "Edema", pairs.OTHER),
    ]  # fmt: skip


def test_a_class_that_nobody_labelled_has_no_pairs() -> None:
    test = drawn(5).assign(Mass=np.nan, logit_Mass=np.nan)
    assert pairs.choose(test, ["Mass"], {"Mass": 0.0}, seed=1).empty


# ---------------------------------------------------------------- the walk


@pytest.fixture(scope="module")
def network() -> ResNet:
    built = build("resnet18", seed=1)
    built(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    return built.eval()


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("batch", [32, 3, 1])
def test_every_pair_is_mapped_once_and_as_captum_maps_it(
    network: ResNet, layer: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_BATCH", batch)
    test = drawn(11)
    pixels = np.random.default_rng(1).integers(0, 256, (11, 64, 64)).astype(np.uint8)
    store = Store(pixels, {f"{10 - row:03d}.png": row for row in range(11)})  # in another order than the table
    wanted = pairs.choose(test, ["Edema", "Mass"], {"Edema": 0.0, "Mass": 0.0}, seed=1)
    seen = list(pairs.walk(network, layer, store, wanted, device=CPU))
    pd.testing.assert_frame_equal(pd.concat([here for here, _ in seen]), wanted)
    found = torch.cat([maps for _, maps in seen])
    images = normalise(torch.from_numpy(pixels[store.rows_of(wanted["image"].tolist())]))
    expected = signed_maps(network, layer, images, torch.tensor(wanted["output"].to_numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_nothing_to_map_is_no_error(network: ResNet, layer: str) -> None:
    store = Store(np.zeros((1, 64, 64), np.uint8), {"000.png": 0})
    nothing = pairs.choose(drawn(1), [], {}, seed=1)
    assert list(pairs.walk(network, layer, store, nothing, device=CPU)) == []


# ---------------------------------------------------------------- the few that dearer tests take


def test_a_sample_is_dealt_evenly_and_takes_a_patient_once_a_finding() -> None:
    test = drawn(60)
    wanted = pairs.choose(test, ["Edema", "Mass"], {"Edema": 0.0, "Mass": 0.0}, seed=1)
    found = pairs.sample(wanted, 10, seed=3)
    assert found["finding"].value_counts().to_dict() == {"Edema": 5, "Mass": 5}
    assert not found.duplicated(["finding", "patient_id"]).any()
    assert set(found["outcome"]) <= {pairs.TRUE_POSITIVE, pairs.FALSE_NEGATIVE}


def test_a_rare_findings_share_goes_to_the_others() -> None:
    test = drawn(60).assign(Mass=[1.0] + [0.0] * 59)
    found = pairs.sample(pairs.choose(test, ["Edema", "Mass"], {}, seed=1), 10, seed=3)
    assert found["finding"].value_counts().to_dict() == {"Edema": 9, "Mass": 1}


def test_a_sample_is_the_seeds_and_not_the_orders() -> None:
    wanted = pairs.choose(drawn(60), ["Edema", "Mass"], {}, seed=1)
    one = pairs.sample(wanted, 8, seed=3)
    pd.testing.assert_frame_equal(one, pairs.sample(wanted.sample(frac=1, random_state=9), 8, seed=3))
    assert set(one["image"]) != set(pairs.sample(wanted, 8, seed=4)["image"])
