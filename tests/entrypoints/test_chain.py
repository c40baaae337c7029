"""The stages together, on a drawn cohort: what they log, what they reuse, what a second call does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run

from cxr.checkpoint import newest
from cxr.data.split import digest, patients_shared
from cxr.evaluation import thresholds
from cxr.evaluation.metrics import per_class
from cxr.findings import CLASSES, FINDINGS
from cxr.model import build, weights_digest
from cxr.serving import load_network

TINY = {"image_size": 64, "epochs": 2, "arch": "resnet18", "batch_size": 8}


@pytest.fixture
def tiny(phantom_folder: Path, tmp_path: Path) -> dict[str, object]:
    return {"data": phantom_folder, "store": tmp_path / "store", "device": "cpu"}


def runs(stage: str) -> list[Run]:
    return mlflow.search_runs(filter_string=f"tags.stage = '{stage}'", output_format="list")


def fetched(run: Run, name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


def names_of_artifacts(run: Run) -> set[str]:
    return {item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id)}


class TestTheWholeChain:
    """One call of `main`, looked at from all sides; the tests only read."""

    @pytest.fixture(scope="class")
    @staticmethod
    def chain(whole_chain: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(whole_chain)
            mlflow.set_tracking_uri(f"sqlite:///{whole_chain}/mlflow.db")
            yield
            mlflow.set_tracking_uri(None)

    @pytest.fixture(autouse=True)
    def _needs(self, chain: None) -> None:
        pass

    def test_six_stages_are_children_of_one_parent_and_all_finished(self) -> None:
        (parent,) = runs("main")
        for stage in ("split", "train", "evaluate", "explain", "register", "report"):
            (child,) = runs(stage)
            assert child.info.status == "FINISHED"
            assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id

    def test_the_cohort_table_is_a_patient_wise_split(self) -> None:
        (split,) = runs("split")
        table = pd.read_parquet(fetched(split, "cohort.parquet"))
        assert list(table.columns[:7]) == [
            "image", "patient_id", "age_years", "sex", "view", "follow_up", "split",
        ]  # fmt: skip
        assert tuple(table.columns[7:]) == CLASSES
        assert set(table["split"]) == {"train", "val", "test"}
        assert patients_shared(table) == 0
        assert split.data.tags["split_digest"] == digest(table)
        assert (
            split.data.metrics["split/test/positives/Effusion"] == table.query("split == 'test'")["Effusion"].sum()
        )
        assert {"prevalence.png", "table1_demographics.csv", "table2_positives.json"} <= names_of_artifacts(split)

    def test_training_logs_one_record_an_epoch(self) -> None:
        (train,) = runs("train")
        client = mlflow.MlflowClient()
        for name in ("train/loss", "val/loss", "train/images_per_second", "train/lr"):
            history = client.get_metric_history(train.info.run_id, name)
            assert [point.step for point in history] == [1, 2], name
        assert train.data.params["config.epochs"] == "2"
        assert train.data.tags["recipe"] == "demo-changed"
        assert {"git_commit", "split_digest", "data_digest", "images_digest", "weights_digest"} <= set(
            train.data.tags
        )
        assert "config.json" in names_of_artifacts(train)

    def test_datasets_are_noted_on_the_runs(self) -> None:
        (train,), (evaluate,) = runs("train"), runs("evaluate")
        assert [item.dataset.name for item in train.inputs.dataset_inputs] == ["phantom-train", "phantom-val"]
        assert [item.dataset.name for item in evaluate.inputs.dataset_inputs] == ["phantom-test"]
        assert evaluate.inputs.dataset_inputs[0].dataset.digest == evaluate.data.tags["split_digest"]

    def test_checkpoints_hold_what_training_needs_to_go_on(self) -> None:
        (train,) = runs("train")
        assert names_of_artifacts(train) >= {"checkpoints"}
        found = newest(fetched(train, "checkpoints"))
        assert found
        state = found.checkpoint
        assert (state.epoch, state.step, len(state.history)) == (2, 0, 2)
        assert state.metadata["best_epoch"] == train.data.tags["best_epoch"]
        assert state.optimiser["state"]
        assert weights_digest(state.best) == train.data.tags["weights_digest"]
        assert state.metadata["split_digest"] == train.data.tags["split_digest"]

    def test_scores_are_saved_and_the_metrics_follow_from_them(self) -> None:
        (evaluate,) = runs("evaluate")
        scores = pd.read_parquet(fetched(evaluate, "scores.parquet"))
        table = per_class(scores[scores["split"] == "test"])
        for name, value in table["auroc"].items():
            metric = evaluate.data.metrics.get(f"test/auroc/{name}")
            assert metric is None if np.isnan(value) else metric == pytest.approx(value, abs=1e-12)
        assert {
            "auroc.png", "table3_auroc.csv", "macro_classes.json", "roc.png", "reliability.png", "thresholds.json",
            "recalibration.json", "operating_points.csv", "calibration.csv", "subgroups.csv", "not_evaluated.csv",
        } <= names_of_artifacts(evaluate)  # fmt: skip

    def test_the_metrics_are_linked_to_the_model(self) -> None:
        (train,) = runs("train")
        model = mlflow.get_logged_model(train.data.tags["model_uri"].removeprefix("models:/"))
        linked = {metric.key for metric in model.metrics or []}
        assert any(name.startswith("test/auroc/") for name in linked)

    def test_the_registered_model_scores_as_evaluate_did(self, phantom_folder: Path) -> None:
        (evaluate,) = runs("evaluate")
        scores = pd.read_parquet(fetched(evaluate, "scores.parquet")).head(12)
        encoded = [(phantom_folder / "images" / name).read_bytes() for name in scores["image"]]
        model = mlflow.pyfunc.load_model("models:/cxr-resnet50/1")
        served = model.predict(pd.DataFrame({"image": encoded}))
        for name in CLASSES:
            expected = 1 / (1 + np.exp(-scores[f"logit_{name}"].to_numpy(dtype=np.float64)))
            np.testing.assert_allclose(served[name], expected, atol=1e-6)

    def test_class_maps_cover_every_finding_that_test_has(self) -> None:
        (explain,), (split,) = runs("explain"), runs("split")
        table = pd.read_parquet(fetched(split, "cohort.parquet")).query("split == 'test'")
        maps = np.load(fetched(explain, "maps.npz"))
        present = {name for name in FINDINGS if table[name].any()}
        assert {name.split("/")[0] for name in maps.files} == present
        summary = pd.read_csv(fetched(explain, "class_maps.csv"), index_col="finding")
        for finding in present:
            assert summary.loc[finding, "images"] == table[finding].sum()
            assert (maps[f"{finding}/mean_relu"] >= 0).all()
        assert {"gradcam_top3.png", "gradcam_lowest3.png", "images"} <= names_of_artifacts(explain)
        assert explain.data.params["config.layer"] == "layer3"

    def test_the_parent_carries_the_headline_and_the_images(self) -> None:
        (parent,), (evaluate,) = runs("main"), runs("evaluate")
        for name, value in evaluate.data.metrics.items():
            if "/subgroup/" not in name and "/contrast/" not in name:
                assert parent.data.metrics[name] == value
        assert {"auroc.png", "gradcam_top3.png", "images"} <= names_of_artifacts(parent)
        assert parent.data.tags["mlflow.loggedImages"] == "True"
        assert [item.dataset.name for item in parent.inputs.dataset_inputs] == ["phantom-test"]
        assert "says nothing about real X-rays" in parent.data.tags["mlflow.note.content"]

    def test_every_run_and_the_version_carry_the_digest_of_the_split(self) -> None:
        (split,) = runs("split")
        version = mlflow.MlflowClient().get_model_version("cxr-resnet50", "1")
        carried = {version.tags["split_digest"]} | {
            run.data.tags["split_digest"]
            for stage in ("main", "train", "evaluate", "explain", "register")
            for run in runs(stage)
        }
        assert carried == {split.data.tags["split_digest"]}

    def test_the_version_says_what_it_is_and_has_phantom_aliases_only(self) -> None:
        version = mlflow.MlflowClient().get_model_version("cxr-resnet50", "1")
        assert set(version.aliases) == {"candidate-phantom"}  # 24 patients cannot show it better than chance
        assert "no finding has the 10 positive and 10 negative validation patients" in version.tags["decision"]
        for stage in ("split", "train", "evaluate", "explain"):
            assert version.tags[f"{stage}_run"] == runs(stage)[0].info.run_id
        assert version.tags["dataset"] == version.tags["scope"] == "phantom"
        assert {"arch", "recipe", "split_digest", "data_digest", "weights_digest", "git_commit"} <= set(
            version.tags
        )
        assert "says nothing about real X-rays" in version.description
        stored = thresholds.from_dict(json.loads(version.tags["thresholds"]))
        (evaluate,) = runs("evaluate")
        scores = pd.read_parquet(fetched(evaluate, "scores.parquet"))
        pd.testing.assert_frame_equal(stored, thresholds.table(scores))
        assert set(json.loads(version.tags["recalibration"])) == set(CLASSES)

    def test_the_network_comes_back_by_alias(self) -> None:
        network, spec = load_network("models:/cxr-resnet50@candidate-phantom")
        assert spec.arch == "resnet18"
        assert spec.image_size == 64
        assert not network.training


def test_train_alone_makes_its_split_first_as_a_run_of_its_own(
    tracking_store: str, call: Callable, tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert call("train", **tiny, **TINY | {"epochs": 1}, register_as="").code == 0
    (train,), (split,) = runs("train"), runs("split")
    assert train.info.run_id == opened
    assert train.data.tags["split_run"] == split.info.run_id
    assert "mlflow.parentRunId" not in split.data.tags
    assert mlflow.search_registered_models() == []


def test_a_second_call_reuses_and_fresh_runs_again(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("split", **tiny)
    again = call("split", **tiny)
    assert "reusing run" in again.out
    assert len(runs("split")) == 1
    call("split", **tiny, fresh="true")
    assert len(runs("split")) == 2
    call("split", **tiny, seed=7)
    assert len(runs("split")) == 3


def test_a_run_that_mlflow_opened_becomes_a_pointer_when_nothing_is_left_to_do(
    tracking_store: str, call: Callable, tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    call("split", **tiny)
    (split,) = runs("split")
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    call("split", **tiny)
    pointer = mlflow.get_run(opened)
    assert pointer.info.status == "FINISHED"
    assert pointer.data.tags["reuses"] == split.info.run_id
    done = call("train", **tiny, **TINY | {"epochs": 1}, split_run=opened)  # a pointer stands for its run
    assert done.code == 0
    assert runs("train")[0].data.tags["split_run"] == split.info.run_id


def test_registering_a_reused_run_under_another_name_does_not_train_again(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    once = TINY | {"epochs": 1}
    call("train", **tiny, **once)
    call("train", **tiny, **once, register_as="another")
    assert len(runs("train")) == 1
    assert {model.name for model in mlflow.search_registered_models()} == {"cxr-resnet50", "another"}


def test_later_stages_take_a_model_by_version_and_follow_it_upstream(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("train", **tiny, **TINY | {"epochs": 1})
    by_version = {"store": tiny["store"], "model": "models:/cxr-resnet50/1", "data": tiny["data"]}
    assert call("explain", **by_version, layer="layer4", stress="off").code == 0
    assert call("register", **by_version).code == 0
    assert len(runs("train")) == len(runs("split")) == len(runs("evaluate")) == 1
    version = mlflow.MlflowClient().get_model_version_by_alias("cxr-resnet50", "candidate-phantom")
    assert version.version == 1 or version.version == "1"


def test_data_auto_takes_the_very_folder_that_a_drawn_cohort_was_split_from(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("split", **tiny)
    (split,) = runs("split")
    own = {name: value for name, value in tiny.items() if name != "data"}
    assert call("train", **own, **TINY | {"epochs": 1}, split_run=split.info.run_id).code == 0
    (train,) = runs("train")
    assert train.data.tags["data_folder"] == str(tiny["data"])


def test_drawings_never_stand_for_real_images(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    real = own_cohort
    (real / "PHANTOM.txt").unlink()
    assert call("split", **tiny | {"data": real}, split="custom").code == 0
    (split,) = runs("split")
    done = call("train", **tiny, **TINY, split_run=split.info.run_id)
    assert done.code == 1
    assert "is a drawn phantom" in " ".join(done.err.split())


def test_a_model_is_not_evaluated_on_patients_that_it_was_trained_on(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    swapped = own_cohort
    (swapped / "train_val_list.txt").rename(swapped / "was_train_val")
    (swapped / "test_list.txt").rename(swapped / "train_val_list.txt")
    (swapped / "was_train_val").rename(swapped / "test_list.txt")
    call("train", **tiny, **TINY | {"epochs": 1})
    done = call("evaluate", store=tiny["store"], data=swapped, model="models:/cxr-resnet50/1")
    assert done.code == 1
    assert "it was trained or selected on" in " ".join(done.err.split())


def test_on_other_data_only_test_rows_are_scored_and_the_run_says_what_the_model_saw(
    tracking_store: str, call: Callable, tiny: dict[str, object], own_cohort: Path
) -> None:
    real = own_cohort
    (real / "PHANTOM.txt").unlink()
    call("train", **tiny, **TINY | {"epochs": 1})
    assert (
        call("evaluate", store=tiny["store"], data=real, split="custom", model="models:/cxr-resnet50/1").code == 0
    )
    (evaluate,) = runs("evaluate")
    assert set(pd.read_parquet(fetched(evaluate, "scores.parquet"))["split"]) == {"test"}
    assert "The model was trained on other data: phantom" in evaluate.data.tags["headline"]


def test_register_takes_the_name_and_version_that_were_asked_for(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("train", **tiny, **TINY | {"epochs": 1}, register_as="mine")
    assert call("register", store=tiny["store"], model="models:/mine/1").code == 0
    assert {model.name for model in mlflow.search_registered_models()} == {"mine"}
    assert mlflow.MlflowClient().get_model_version_by_alias("mine", "candidate-phantom").version in (1, "1")


def test_code_that_changes_while_a_stage_runs_does_not_rename_its_result(
    tracking_store: str, call: Callable, tiny: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr import tracking

    before = tracking.code_digest()
    monkeypatch.setattr(tracking, "_ROOT", tracking._ROOT / "nowhere")
    assert tracking.code_digest() == before


def test_the_same_split_made_anew_is_not_other_data(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    call("train", **tiny, **TINY | {"epochs": 1})
    call("split", **tiny, fresh="true")  # another run, the same patients in the same parts
    model = {"model": "models:/cxr-resnet50/1"}
    assert call("evaluate", **tiny, **model).code == 0
    (evaluate,) = runs("evaluate")
    assert evaluate.data.tags["split_run"] != runs("train")[0].data.tags["split_run"]
    assert set(pd.read_parquet(fetched(evaluate, "scores.parquet"))["split"]) == {"val", "test"}
    assert "other data" not in evaluate.data.tags["headline"]


def test_several_seeds_are_child_runs_with_mean_and_sd_on_the_parent(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    done = call("train", **tiny, **TINY | {"epochs": 1}, seeds=2, seed=5)
    assert done.code == 0, done.err
    (parent,) = runs("seeds")
    trained, scored = runs("train"), runs("evaluate")
    assert sorted(run.data.params["config.seed"] for run in trained) == ["5", "6"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trained + scored} == {parent.info.run_id}
    assert len({run.data.tags["split_run"] for run in trained}) == 1  # the seeds train on one split
    for name in ("Effusion", "No Finding"):
        values = [run.data.metrics[f"test/auroc/{name}"] for run in scored]
        assert parent.data.metrics[f"seeds/auroc_mean/{name}"] == pytest.approx(np.mean(values))
        assert parent.data.metrics[f"seeds/auroc_sd/{name}"] == pytest.approx(np.std(values, ddof=1))
    assert {"seeds.csv", "seeds.json"} <= names_of_artifacts(parent)
    assert "not X-rays" in parent.data.tags["mlflow.note.content"]
    assert call("train", **tiny, seeds=2, resume="0123").code == 2


def test_main_with_seeds_explains_and_registers_the_first(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    done = call("main", **tiny, **TINY | {"epochs": 1}, seeds=2)
    assert done.code == 0, done.err
    (parent,) = runs("main")
    assert "between 2 seeds" in done.out or "All seeds: test macro AUROC undefined" in done.out
    assert "seeds/auroc_sd/Effusion" in parent.data.metrics
    assert parent.data.metrics["test/auroc/Effusion"] in [
        run.data.metrics["test/auroc/Effusion"] for run in runs("evaluate")
    ]
    assert len(mlflow.search_model_versions(filter_string="name = 'cxr-resnet50'")) == 1
    assert mlflow.get_run(parent.data.tags["train_run"]).data.params["config.seed"] == "123"


def test_pretrained_weights_start_training_and_are_told(
    tracking_store: str, call: Callable, tiny: dict[str, object], tmp_path: Path
) -> None:
    weights = build("resnet18", seed=9).state_dict() | {
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    torch.save(weights, tmp_path / "resnet18.pth")
    done = call("train", **tiny, **TINY | {"epochs": 1}, pretrained=tmp_path / "resnet18.pth", lr=1e-12)
    assert done.code == 0, done.err
    (train,) = runs("train")
    found = newest(fetched(train, "checkpoints"))
    assert found
    trained = found.checkpoint.weights
    torch.testing.assert_close(trained["conv1.weight"], weights["conv1.weight"], rtol=0, atol=1e-6)
    assert trained["fc.weight"].shape == (15, 512)
    assert train.data.tags["recipe"] == "demo-changed-pretrained"
    assert len(train.data.params["config.pretrained"]) == 16
    (tmp_path / "resnet18.pth").write_bytes(b"nonsense")
    refused = call("train", **tiny, **TINY, pretrained=tmp_path / "resnet18.pth")
    assert (refused.code, "not a .safetensors file or a state dict" in " ".join(refused.err.split())) == (1, True)


def test_the_speedups_that_are_taken_stand_on_the_run_and_can_be_left_out(
    tracking_store: str, call: Callable, tiny: dict[str, object]
) -> None:
    everything = "bfloat16,channels_last,fused,compile,resident"
    assert call("train", **tiny, **TINY | {"epochs": 1}, without=everything).code == 0
    (plain,) = runs("train")
    taken = {name: plain.data.params[f"engine.{name}"] for name in everything.split(",")}
    assert taken == dict.fromkeys(taken, "False")
    assert plain.data.params["engine.device"] == "cpu"
    refused = call("train", **tiny, without="bfloat16,float8")
    assert (refused.code, "expected some of bfloat16" in " ".join(refused.err.split())) == (2, True)
