"""The bootstrap's benchmark on a small set: the set's shape, and what is reported."""

import numpy as np
import pytest

from cxr.benchmarks import bootstrap
from cxr.findings import CLASSES


def test_the_set_is_shaped_as_nihs() -> None:
    drawn = bootstrap.draw(1.0, np.random.default_rng(0))
    assert tuple(drawn.labels.sum(axis=0)) == bootstrap.POSITIVES
    images = np.sort(np.bincount(drawn.patients, minlength=drawn.total))
    assert (len(images), images.sum(), images[0] > 0) == (2_797, 25_596, True)
    assert images[-280:].sum() / images.sum() == pytest.approx(0.56, abs=0.05)
    assert images[-1] == pytest.approx(184, rel=0.5)


def test_both_ways_agree_and_their_ratio_is_reported() -> None:
    rows = {row.measure: row for row in bootstrap.measure(scale=0.05, replicates=30)}
    ratio = rows["ours over scikit-learn's loop"]
    assert ratio.goal == 40
    looped, ours = (
        next(row for name, row in rows.items() if name.startswith(start)) for start in ("scikit", "ours,")
    )
    assert ours.measure == "ours, 30 replicates, 15 classes, 1,280 images"
    assert ratio.value == pytest.approx(looped.value / ours.value)
    assert 0 < rows["memory of ours, at its highest"].value < 100


def test_a_disagreement_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "loop", lambda drawn, times: np.full(len(CLASSES) + 1, 0.5))
    with pytest.raises(AssertionError):
        list(bootstrap.measure(scale=0.05, replicates=5))
