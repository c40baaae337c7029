"""Single examples: the rule decides which images are shown, never the order of rows."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.models import ResNet

from cxr.data.store import Store
from cxr.explain.examples import choose, explain
from cxr.explain.gradcam import signed_maps
from cxr.findings import CLASSES
from cxr.model import build

CPU = torch.device("cpu")


def scores(*given: tuple[str, int, float]) -> pd.DataFrame:
    """A scores table of (image, Edema, logit of Edema)."""
    return pd.DataFrame(given, columns=["image", "Edema", "logit_Edema"])


def names(table: pd.DataFrame) -> dict[str, str]:
    return {rule: row["image"] for rule, row in choose(table, "Edema").items()}


FIVE = scores(
    ("a", 1, 0.0), ("b", 1, 2.0), ("x", 0, 9.0), ("c", 1, -1.0), ("d", 1, 1.0), ("e", 1, -3.0), ("y", 0, -9.0)
)


def test_the_highest_the_median_and_the_lowest_positive_are_chosen() -> None:
    assert names(FIVE) == {"highest score": "b", "median score": "a", "lowest score": "e"}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    assert names(FIVE.sample(frac=1, random_state=seed)) == names(FIVE)


def test_of_an_even_number_the_upper_median_is_taken() -> None:
    four = scores(("a", 1, 4.0), ("b", 1, 3.0), ("c", 1, 2.0), ("d", 1, 1.0))
    assert names(four) == {"highest score": "a", "median score": "b", "lowest score": "d"}


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_image_whose_name_comes_first(seed: int) -> None:
    tied = scores(*((name, 1, 0.5) for name in "edcba")).sample(frac=1, random_state=seed)
    assert names(tied) == {"highest score": "a", "median score": "c", "lowest score": "e"}


def test_one_positive_is_shown_once() -> None:
    assert names(scores(("a", 1, -4.0), ("x", 0, 3.0))) == {"highest score": "a"}


def test_two_positives_are_shown_once_each() -> None:
    assert names(scores(("a", 1, -4.0), ("b", 1, 3.0))) == {"highest score": "b", "lowest score": "a"}


def test_three_positives_are_all_shown() -> None:
    three = scores(("a", 1, -4.0), ("b", 1, 3.0), ("c", 1, 0.0))
    assert names(three) == {"highest score": "b", "median score": "c", "lowest score": "a"}


def test_without_a_positive_nothing_is_chosen() -> None:
    assert choose(scores(("x", 0, 3.0)), "Edema") == {}


# ---------------------------------------------------------------- with their maps


@pytest.fixture(scope="module")
def network() -> ResNet:
    built = build("resnet18", seed=1)
    built(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    return built.eval()


@pytest.fixture(scope="module")
def store() -> Store:
    pixels = np.random.default_rng(1).integers(0, 256, (7, 64, 64)).astype(np.uint8)
    return Store(pixels, {name: row for row, name in enumerate("yedcbax")})


def test_every_example_carries_its_own_picture_probability_and_map(network: ResNet, store: Store) -> None:
    shown = explain(network, "layer3", store, FIVE, "Edema", device=CPU)
    assert [(one.rule, one.image, one.finding) for one in shown] == [
        ("highest score", "b", "Edema"), ("median score", "a", "Edema"), ("lowest score", "e", "Edema"),
    ]  # fmt: skip
    np.testing.assert_allclose(
        [one.probability for one in shown], [1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(3))], rtol=1e-12
    )
    for one in shown:
        pixels = store.pixels[store.rows[one.image]]
        np.testing.assert_array_equal(one.pixels, pixels)
        image = torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.25).repeat(1, 3, 1, 1)
        small = signed_maps(network, "layer3", image, torch.tensor([CLASSES.index("Edema")])).relu()
        large = torch.nn.functional.interpolate(small[:, None], size=(64, 64), mode="bilinear")[0, 0]
        np.testing.assert_allclose(one.map, large.numpy(), rtol=1e-4, atol=1e-5 * float(large.max()))


def test_a_finding_without_a_positive_shows_nothing(network: ResNet, store: Store) -> None:
    assert explain(network, "layer3", store, FIVE.assign(Edema=0), "Edema", device=CPU) == []
