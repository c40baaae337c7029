"""The figure of deletion and insertion: what it draws, and when it says that a map beats chance."""

import numpy as np
import pandas as pd
import pytest

from cxr.figures.faithfulness import faithfulness
from tests.figures_drawn import misplaced, title


def curves(deletion: float, insertion: float) -> pd.DataFrame:
    """The map's curves lie above the random ones by so much between the ends."""
    share, between = np.linspace(0, 1, 5), np.array([0, 1, 1, 1, 0])
    random = pd.DataFrame({"share": share, "order": "random", "deletion": 0.8 - 0.6 * share,
                           "insertion": 0.2 + 0.6 * share})  # fmt: skip
    ours = random.assign(order="map", deletion=random["deletion"] + deletion * between)
    return pd.concat([random, ours.assign(insertion=random["insertion"] + insertion * between)]).sample(
        frac=1, random_state=0
    )


QUESTION = "Does what the map marks count more than random tiles?"


@pytest.mark.parametrize(
    ("deletion", "insertion", "verdict"),
    [
        ((0.1, 0.05, 0.2), (0.1, 0.01, 0.2), "Deletion: yes; insertion: yes"),
        ((0.1, -0.05, 0.2), (-0.1, -0.2, -0.01), "Deletion: not surely; insertion: no, less"),
        ((-0.1, -0.2, 0.05), (np.nan, np.nan, np.nan), "Deletion: not surely; insertion: undefined"),
        ((0.1, np.nan, np.nan), (0.0, 0.0, 0.0), "Deletion: not known; insertion: not surely"),
    ],
)
def test_faithfulness_says_yes_only_where_the_whole_interval_of_the_gain_does(
    deletion: tuple[float, ...], insertion: tuple[float, ...], verdict: str
) -> None:
    gains = pd.DataFrame([deletion, insertion], columns=["mean", "low", "high"])
    gains.insert(0, "measure", ["deletion_gain", "insertion_gain"])
    fig = faithfulness(curves(0.1, 0.1), subtitle="s", gains=gains[::-1])
    assert title(fig) == f"{QUESTION} {verdict}"
    assert misplaced(fig) == []


@pytest.mark.parametrize(
    ("deletion", "insertion", "told"),
    [
        (-0.1, 0.1, "Deletion: gain +0.075; insertion: gain +0.075"),  # 3 of 4 steps of 0.1, by trapezes
        (0.1, np.nan, "Deletion: gain −0.075; insertion: undefined"),
    ],
)
def test_without_intervals_faithfulness_gives_the_gains_and_no_verdict(
    deletion: float, insertion: float, told: str
) -> None:
    fig = faithfulness(curves(deletion, insertion), subtitle="s")
    assert title(fig) == f"{QUESTION} {told}"
    assert misplaced(fig) == []


def test_faithfulness_says_where_nothing_is_defined() -> None:
    fig = faithfulness(curves(0.1, 0.1).assign(insertion=np.nan), subtitle="s")
    assert ["undefined" in [t.get_text() for t in ax.texts] for ax in fig.axes] == [False, True]


def test_faithfulness_draws_both_orders_by_share_on_one_scale() -> None:
    left, right = faithfulness(curves(-0.1, 0.1), subtitle="s").axes
    ours, random = left.lines[:2]
    np.testing.assert_allclose(ours.get_xdata(), np.linspace(0, 1, 5))
    np.testing.assert_allclose(ours.get_ydata(), [0.8, 0.55, 0.4, 0.25, 0.2])
    np.testing.assert_allclose(random.get_ydata(), [0.8, 0.65, 0.5, 0.35, 0.2])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.2, 0.45, 0.6, 0.75, 0.8])
    assert left.get_ylim() == right.get_ylim()
    assert ours.get_linestyle() != random.get_linestyle()
