"""The benchmark as a command: a run with its table and its machine; and the stores that it and others leave."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from cxr.benchmarks import bootstrap, coverage, start, training
from cxr.benchmarks.table import Row
from entrypoints import train


def test_benchmark_leaves_a_table_metrics_and_the_machine(
    tracking_store: str, call: Callable, phantom_folder: Path, tmp_path: Path
) -> None:
    done = call(
        "benchmark", data=phantom_folder, store=tmp_path / "store", parts="memory", rows=1000, image_size=64
    )
    assert done.code == 0, done.err
    (run,) = mlflow.search_runs(filter_string="tags.stage = 'benchmark'", output_format="list")
    assert run.data.tags["processor"]
    assert run.data.metrics["benchmark/memory/normalised_batches_1_000_images_of_64_px"] > 0
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="benchmark.csv"))
    assert list(table.columns) == ["measure", "part", "value", "unit", "against", "goal"]
    assert "own memory grown" in done.out
    assert list((tmp_path / "store").iterdir()) == []  # its synthetic store is gone


def test_training_leaves_ratios_the_engine_and_a_word_for_what_was_not_measured(
    tracking_store: str, call: Callable, phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = training._lacking_memory
    monkeypatch.setattr(training, "_STEPS", 16)
    monkeypatch.setattr(
        training, "_lacking_memory",
        lambda recipe, engine: "not measured: too big" if recipe.batch_size == 64 else lacking(recipe, engine),
    )  # fmt: skip
    done = call(
        "benchmark", data=phantom_folder, store=tmp_path / "store", parts="train", image_size=64,
        batch_sizes="4,64", device="cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "train: our loop, batch 64: not measured: too big\n" in done.out
    (run,) = mlflow.search_runs(filter_string="tags.stage = 'benchmark'", output_format="list")
    assert run.data.params["config.arch"] == "resnet18"
    assert run.data.params["engine.channels_last"] == "True"
    assert run.data.metrics.keys() == {
        "benchmark/train/bare_network_batch_4", "benchmark/train/our_loop_batch_4",
        "benchmark/train/our_loop_over_bare_network_batch_4", "benchmark/train/peers_loop_batch_4",
        "benchmark/train/our_loop_over_peers_loop_batch_4",
    }  # fmt: skip
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="benchmark.csv"))
    left_out = table[table["value"].isna()]
    assert left_out["measure"].tolist() == ["bare network, batch 64", "our loop, batch 64"]
    assert set(left_out["against"]) == {"not measured: too big"}


def test_the_start_is_that_of_train_on_the_phantom_and_in_this_store(
    tracking_store: str, call: Callable, phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(command: list[str], values: list[str]) -> Iterator[Row]:
        with train.main.make_context("train", list(values)) as context:
            assert context.params["register_as"] == ""
        assert command == [sys.executable, "-m", "entrypoints.train"]
        assert values[:4] == ["--data", "phantom", "--store", str(tmp_path / "store")]
        yield Row(part="start", measure="train, help", value=0.5, unit="s", goal=2.0)

    monkeypatch.setattr(start, "measure", measured)
    done = call("benchmark", data=phantom_folder, store=tmp_path / "store", parts="start", device="cpu")
    assert done.code == 0, done.err
    assert "start: train, help: 0.5 s (goal: at most 2)" in done.out


def test_what_draws_numbers_needs_no_images(
    tracking_store: str, call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "measure", partial(bootstrap.measure, scale=0.05, replicates=20))
    monkeypatch.setattr(coverage, "simulate", partial(coverage.simulate, replicates=20))
    done = call("benchmark", data=tmp_path / "absent", parts="bootstrap,coverage", repetitions=4)
    assert done.code == 0, done.err
    (run,) = mlflow.search_runs(filter_string="tags.stage = 'benchmark'", output_format="list")
    assert run.data.params["config.repetitions"] == "4"
    assert run.data.metrics["benchmark/bootstrap/ours_over_scikit_learn_s_loop"] > 1
    assert "benchmark/coverage/patient_bootstrap_12_positive_patients" in run.data.metrics
    artifacts = {one.path for one in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"benchmark.csv", "coverage.csv", "coverage.png"} <= artifacts
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="coverage.csv"))
    assert set(table["repetitions"]) == {4}
    assert table.columns[0] == "method"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"parts": "decode,speed"}, "expected some of decode, read, memory"),
        ({"parts": ""}, "expected some of decode, read, memory"),
        ({"rows": 10}, "10 is not in the range"),
        ({"repetitions": 0}, "0 is not in the range"),
        ({"batch_sizes": "32,1"}, "1 is not in the range"),
        ({"batch_sizes": "32,many"}, "'many' is not a valid integer"),
        ({"batch_sizes": ""}, "'' is not a valid integer"),
        ({"device": "gpu"}, "'gpu' is not a device"),
        ({"arch": "vgg16"}, "'vgg16' is not one of"),
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
