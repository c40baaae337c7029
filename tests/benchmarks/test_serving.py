"""The serving part: rows of a real server's answers; one that does not start is said."""

from pathlib import Path

import pytest

from cxr import model, registry
from cxr.benchmarks import serving
from cxr.data.image import example_png
from cxr.serving import WEIGHTS


def test_a_served_model_is_measured_against_its_own_network(tmp_path: Path) -> None:
    network = model.build("resnet18", seed=0)
    model.save_network(tmp_path / WEIGHTS, network.state_dict(), model.Spec(arch="resnet18", image_size=64))
    registry.save_model(tmp_path / "model", tmp_path / WEIGHTS, example_png())
    rows = list(serving.measure(tmp_path / "model", network.eval(), arch="resnet18", size=64, requests=4, batch=2))
    assert {row.part for row in rows} == {"serving"}
    values = {row.measure: row.value for row in rows}
    assert len(values) == 7
    assert all(value > 0 for value in values.values())
    assert values["decoding and forward pass"] > values["forward pass of one image"]
    assert values["a request with one image, 95 % within"] >= values["a request with one image, median"]


def test_a_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    network = model.build("resnet18", seed=0).eval()
    with pytest.raises(RuntimeError, match="`mlflow models serve` did not answer"):
        list(serving.measure(tmp_path / "nothing", network, arch="resnet18", size=64))
