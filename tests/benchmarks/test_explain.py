"""The benchmark of maps on a few small images: both ways agree, and what is reported."""

import pytest
import torch
from torchvision.models import ResNet

from cxr import model
from cxr.benchmarks import explain
from cxr.benchmarks.table import Row
from cxr.explain import gradcam
from cxr.findings import CLASSES

CPU = torch.device("cpu")


def measured(rounds: int = 2) -> dict[str, Row]:
    rows = explain.measure(arch="resnet18", size=32, images=2, device=CPU, rounds=rounds)
    return {row.measure: row for row in rows}


def test_both_ways_give_every_classs_map_in_the_order_of_classes() -> None:
    network = model.build("resnet18", seed=0).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    looped, at_once = explain.looped(network, images), explain.at_once(network, images)
    assert looped.shape == at_once.shape == (2, len(CLASSES), 2, 2)
    torch.testing.assert_close(looped, at_once, rtol=0, atol=1e-5 * float(looped.abs().max()))
    last = gradcam.signed_maps(network, "layer4", images, torch.tensor([14, 14]))
    torch.testing.assert_close(looped[:, 14], last)


def test_rates_and_ratios_are_reported_with_what_they_are_of() -> None:
    rows = measured()
    assert list(rows) == [
        "captum, 15 maps an image, resnet18, 32 px", "ours, 15 maps an image, resnet18, 32 px",
        "bare forward pass, resnet18, 32 px", "ours over captum", "ours over bare forward pass",
    ]  # fmt: skip
    assert {row.part for row in rows.values()} == {"explain"}
    assert [row.unit for row in rows.values()] == ["images/s"] * 3 + ["ratio"] * 2
    assert [row.goal for row in rows.values() if row.goal is not None] == [rows["ours over captum"].goal]
    assert rows["ours over captum"].value > 2  # fifteen passes against one: far off even on a disturbed machine


def test_rates_are_of_the_fastest_turn_and_ratios_the_median_of_the_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # both of ours once to warm up; then captum, ours, bare; ours, bare, captum; bare, captum, ours
    seconds = iter([9.0, 9.0, 30.0, 2.0, 1.0, 1.0, 2.0, 24.0, 2.0, 60.0, 3.0])
    monkeypatch.setattr(explain, "_seconds", lambda way, device: next(seconds))
    rows = measured(rounds=3)
    assert next(seconds, None) is None
    found = [row.value for row in rows.values()]
    assert found == pytest.approx([2 / 24, 2 / 1, 2 / 1, 20, 2 / 3])  # 15, 24, 20 and 1/2, 2, 2/3


def test_a_disagreement_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    closed_form = explain.at_once

    def wrong(network: ResNet, images: torch.Tensor) -> torch.Tensor:
        return closed_form(network, images) * 1.0001

    monkeypatch.setattr(explain, "at_once", wrong)
    with pytest.raises(AssertionError):
        measured()
