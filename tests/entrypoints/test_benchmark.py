"""The benchmark as a command: a run with its table and its machine; and the stores that it and others leave."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest


def test_benchmark_leaves_a_table_metrics_and_the_machine(
    tracking_store: str, call: Callable, phantom_folder: Path, tmp_path: Path
) -> None:
    done = call(
        "benchmark", data=phantom_folder, store=tmp_path / "store", parts="memory", rows=1000, image_size=64
    )
    assert done.code == 0, done.err
    (run,) = mlflow.search_runs(filter_string="tags.stage = 'benchmark'", output_format="list")
    assert run.data.tags["processor"]
    assert run.data.metrics["benchmark/memory/normalised_batches__1_000_images_of_64_px"] > 0
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="benchmark.csv"))
    assert list(table.columns) == ["measure", "part", "value", "unit", "against", "goal"]
    assert "own memory grown" in done.out
    assert list((tmp_path / "store").iterdir()) == []  # its synthetic store is gone


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"parts": "decode,speed"}, "expected some of decode, read, memory"),
        ({"parts": ""}, "expected some of decode, read, memory"),
        ({"rows": 10}, "10 is not in the range"),
    ],
)
def test_a_wrong_value_is_a_usage_error(call: Callable, parameters: dict[str, object], words: str) -> None:
    done = call("benchmark", **parameters)
    assert done.code == 2
    assert words in done.err


def test_a_folder_without_images_is_named(tracking_store: str, call: Callable, tmp_path: Path) -> None:
    done = call("benchmark", data=tmp_path)
    assert done.code == 1
    assert "no images/*.png" in done.err
