"""The experiment's page: written once, never over what people wrote."""

import json

import mlflow
import pytest

from cxr import experiment_page, tracking

STAGE = tracking.Stage(name="split", config={}, data_digest="")


def note() -> str:
    return str(mlflow.get_experiment("0").tags.get("mlflow.note.content", ""))


def test_the_first_run_describes_the_experiment(tracking_store: str) -> None:
    with tracking.run(STAGE, title="one"):
        assert "#/experiments/0/runs?workflowType=machine_learning&viewStateShareKey=results" in note()
    assert set(experiment_page.tags("0")) <= set(mlflow.get_experiment("0").tags)


def test_an_older_description_of_ours_is_renewed(tracking_store: str) -> None:
    mlflow.set_experiment_tag("mlflow.note.content", "**cxr**: of an older version")
    experiment_page.describe("0")
    assert note() == experiment_page.description("0")


def test_what_people_wrote_stays_and_their_experiment_gets_no_views(tracking_store: str) -> None:
    mlflow.set_experiment_tag("mlflow.note.content", "Our lung study.")
    with tracking.run(STAGE, title="one"):
        pass
    assert dict(mlflow.get_experiment("0").tags) == {"mlflow.note.content": "Our lung study."}


def test_a_stage_below_another_does_not_ask_again(tracking_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(experiment_page, "describe", asked.append)
    with tracking.run(STAGE, title="one"), tracking.run(STAGE, title="two"):
        pass
    assert asked == ["0"]


def test_a_view_is_what_the_ui_reads_and_fits_into_a_tag() -> None:
    for key, value in experiment_page.tags("123456789012345678").items():
        assert len(value) < 5000  # MLflow's limit
        if key.startswith(experiment_page.VIEW):
            view = json.loads(value)
            assert view["selectedColumns"] == view["columnOrder"]
            assert set(view["columnOrder"]) < set(view["columnWidths"])
