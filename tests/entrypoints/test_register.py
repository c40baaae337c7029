"""Registering: what a version says, who becomes champion, by hand and beside others, and the way back."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities.model_registry import ModelVersion

from cxr import registry
from cxr.evaluation import calibration, intervals, metrics
from cxr.findings import CLASSES, FINDINGS

ROOT = Path(__file__).parent.parent.parent
CHANCE, WEAK, GOOD, BEST = 0.0, 0.7, 1.6, 3.5  # standard deviations between the logits of ill and well
ABOUT = {"dataset": "nih", "edition": "v2020", "scope": "official", "data_digest": "d", "split_digest": "s"}


@dataclass(frozen=True)
class Made:
    """A version and the runs behind it."""

    version: str
    train_run: str
    evaluate_run: str


def drawn_scores(separation: float, *, patients: int = 60, seed: int = 0) -> pd.DataFrame:
    """Validation and test rows, one image a patient, half of them ill with each finding; a scores table.

    The same seed draws the same labels and noise: models differ in nothing but the separation.
    """
    random = np.random.default_rng(seed)
    rows = 2 * patients
    labels = random.random((rows, len(CLASSES))) < 0.5
    logits = separation * (labels - 0.5) + random.normal(size=labels.shape)
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(rows)], "patient_id": range(rows),
                          "split": ["val"] * patients + ["test"] * patients})  # fmt: skip
    table = table.join(pd.DataFrame(labels.astype(float), columns=list(CLASSES)))
    return table.join(pd.DataFrame(logits, columns=[f"logit_{name}" for name in CLASSES]))


def made(name: str, separation: float, *, tags: dict[str, str] | None = None) -> Made:
    """A version of a registered model with its train and evaluate run, as those stages leave them."""
    client = mlflow.MlflowClient()
    scores = drawn_scores(separation)
    val, test = (scores[scores["split"] == part] for part in ("val", "test"))
    macro = metrics.macro(metrics.per_class(val), FINDINGS).value
    own = ABOUT | {"images_digest": "i", "split_run": "0" * 32, "git_commit": "c" * 40, "seed": "123"}
    own |= {"arch": "resnet18", "recipe": "paper", "image_size": "64", "classes": "|".join(CLASSES), "changed": "",
            "best_by": "val/auroc/macro_14", "best_epoch": "2", "val_macro_14": f"{macro:.6f}"}  # fmt: skip
    own |= tags or {}
    with mlflow.start_run() as train:
        mlflow.set_tags(own | {"stage": "train", "model_uri": "models:/m-0", "data_folder": "/nowhere"})
    with mlflow.start_run() as evaluate:
        scores.to_parquet("scores.parquet")
        mlflow.log_artifact("scores.parquet")
        bounds = intervals.table(test, seed=1, count=50)
        points = metrics.per_class(test)
        mlflow.log_metrics(metrics.flat(points, "test") | intervals.flat(bounds, "test"))
        mlflow.log_text(points[["auroc"]].join(bounds[["few"]]).to_csv(), "table3_auroc.csv")
        mlflow.log_text(calibration.table(test).to_csv(), "calibration.csv")
        mlflow.log_text("not evaluated,why\nuse in a clinic,no reader was involved\n", "not_evaluated.csv")
        mlflow.log_dict({"Edema": {"youden": 0.5}}, "thresholds.json")
        mlflow.log_dict({"Edema": {"platt_slope": 1.0}}, "recalibration.json")
        mlflow.set_tags({"stage": "evaluate", "train_run": train.info.run_id, "split_digest": own["split_digest"]})
        mlflow.set_tags({"classes": "|".join(CLASSES), "scope_line": "NIH, drawn for a test."})
        mlflow.set_tags({"headline": "test macro AUROC 0.8. NIH.", "not_evaluated": "use in a clinic"})
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, "s3://nobody/model", train.info.run_id, tags=own)
    return Made(str(version.version), train.info.run_id, evaluate.info.run_id)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_tracking_database: Path) -> Iterator[str]:
    """A tracking store for all tests here; each has a registered model of its own."""
    folder = tmp_path_factory.mktemp("register")
    shutil.copy(empty_tracking_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr(registry, "SETTLE", 0.01)
        mlflow.set_tracking_uri(uri)
        experiment = mlflow.create_experiment("register", artifact_location=(folder / "artifacts").as_uri())
        patch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        yield uri
        mlflow.set_tracking_uri(None)


def champion(name: str) -> str | None:
    found = registry.holder(name, "champion")
    return str(found.version) if found else None


def version(name: str, number: str) -> ModelVersion:
    return mlflow.MlflowClient().get_model_version(name, number)


def decide(name: str, one: Made, promote: str = "auto") -> dict[str, str]:
    """Register a version that is evaluated already; its tags."""
    from entrypoints import options, register

    common = options.Common(
        command="main", data="auto", images="all", store=Path("store"), seed=123, device="cpu", limit=None,
        split="auto", uncertain="zeros", on_bad_image="stop", fresh=False,
    )  # fmt: skip
    model = f"models:/{name}/{one.version}"
    register.run(common, evaluate_run=one.evaluate_run, register_as=name, model=model, promote=promote)
    return dict(version(name, one.version).tags)


# ---------------------------------------------------------------- what a version says of itself


def test_a_version_says_what_it_is_and_where_its_numbers_are_from(store: str) -> None:
    one = made("said", GOOD)
    tags = decide("said", one)
    metrics_of = mlflow.get_run(one.evaluate_run).data.metrics
    assert (tags["train_run"], tags["evaluate_run"]) == (one.train_run, one.evaluate_run)
    assert tags["measured_on"] == "NIH, drawn for a test."
    for end in ("", "_low", "_high"):
        assert float(tags[f"test_macro_14{end}"]) == pytest.approx(
            metrics_of[f"test/auroc{end}/macro_14"], abs=1e-6
        )
    val = drawn_scores(GOOD).query("split == 'val'")
    ends = intervals.table(val, seed=0).T["macro_14"]  # another seed of the bootstrap
    assert float(tags["val_macro_14"]) == pytest.approx(ends["auroc"], abs=1e-6)
    assert float(tags["val_macro_14_low"]) == pytest.approx(ends["auroc_low"], abs=0.005)
    assert float(tags["val_macro_14_high"]) == pytest.approx(ends["auroc_high"], abs=0.005)
    assert json.loads(tags["thresholds"]) == {"Edema": {"youden": 0.5}}
    assert json.loads(tags["recalibration"]) == {"Edema": {"platt_slope": 1.0}}
    assert {"arch", "recipe", "data_digest", "split_digest", "git_commit", "split_run"} <= tags.keys()
    assert "explain_run" not in tags  # there is none


def test_its_description_is_the_model_card(store: str) -> None:
    one = made("carded", GOOD)
    with mlflow.start_run() as explain:
        mlflow.set_tags({"stage": "explain", "train_run": one.train_run, "shortcut_alarm": "Pneumothorax|Mass"})
    tags = decide("carded", one)
    written = version("carded", one.version).description
    assert tags["explain_run"] == explain.info.run_id
    edema = mlflow.get_run(one.evaluate_run).data.metrics["test/auroc/Edema"]
    for said in ("**Test macro AUROC 0.8. NIH.**", "Not a medical device", "NIH Clinical Center",
                 tags["decision"][1:], "shortcut alarm for Pneumothorax, Mass", f"| Edema | {edema:.3f} |",
                 "use in a clinic: no reader was involved", one.train_run, one.evaluate_run, explain.info.run_id,
                 "c" * 40, "models:/carded/1"):  # fmt: skip
        assert said in written


def test_a_version_that_was_registered_by_hand_gets_its_tags(store: str) -> None:
    one = made("bare", GOOD)
    for key in ("dataset", "arch", "split_digest"):
        mlflow.MlflowClient().delete_model_version_tag("bare", one.version, key)
    assert decide("bare", one)["arch"] == "resnet18"
    assert champion("bare") == "1"


# ---------------------------------------------------------------- who becomes champion


def test_the_first_is_champion_where_it_is_better_than_chance(store: str) -> None:
    decision = decide("first", made("first", GOOD))["decision"]
    assert decision.startswith("version 1 is champion: there was no champion, and its validation macro_14 0.8")
    assert decision.endswith("is above chance")
    assert champion("first") == "1"


def test_a_first_version_at_chance_stays_candidate_and_says_why(store: str) -> None:
    tags = decide("chance", made("chance", CHANCE))
    assert tags["decision"].startswith("version 1 does not become champion: there was no champion, but its")
    assert "is not clearly above chance (0.5)" in tags["decision"]
    assert champion("chance") is None
    assert registry.holder("chance", "candidate") is not None
    assert "does not become champion" in version("chance", "1").description


def test_official_data_does_not_make_up_for_chance(store: str) -> None:
    decide("rank", made("rank", GOOD, tags={"scope": "sample"}))
    decide("rank", made("rank", CHANCE))
    assert champion("rank") == "1"
    decide("rank", made("rank", WEAK))
    assert champion("rank") == "3"


def test_the_decisions_numbers_are_on_the_version(store: str) -> None:
    decide("numbers", made("numbers", WEAK))
    tags = decide("numbers", made("numbers", BEST))
    first, second = (
        metrics.macro(metrics.per_class(drawn_scores(how).query("split == 'val'")), FINDINGS).value
        for how in (BEST, WEAK)
    )
    assert float(tags["promotion_difference"]) == pytest.approx(first - second, abs=1e-6)
    assert 0 < float(tags["promotion_difference_low"]) < first - second < float(tags["promotion_difference_high"])
    assert (tags["compared_with"], tags["promote"], champion("numbers")) == ("1", "auto", "2")
    worse = decide("numbers", made("numbers", GOOD))
    assert float(worse["promotion_difference_high"]) < 0
    assert (worse["compared_with"], champion("numbers")) == ("2", "2")


def test_a_champion_that_is_registered_again_keeps_how_it_became_one(store: str) -> None:
    decide("again", made("again", WEAK))
    best = made("again", BEST)
    before = decide("again", best)
    after = decide("again", best)
    assert after == before
    assert before["decision"] in version("again", "2").description.replace("Version 2", "version 2")


# ---------------------------------------------------------------- by hand


def test_always_makes_champion_what_is_worse_and_the_comparison_stays_beside(store: str) -> None:
    decide("always", made("always", BEST))
    tags = decide("always", made("always", WEAK), "always")
    assert champion("always") == "2"
    assert tags["promote"] == "always"
    assert tags["decision"].startswith(
        "version 2 is champion: by hand (promote=always), in the place of version 1; auto would not make it"
    )
    assert float(tags["promotion_difference_high"]) < 0


def test_never_leaves_the_champion_though_it_is_better(store: str) -> None:
    decide("never", made("never", WEAK))
    tags = decide("never", made("never", BEST), "never")
    assert champion("never") == "1"
    assert registry.holder("never", "candidate").version in (2, "2")
    assert "by hand (promote=never); auto would make it champion" in tags["decision"]
    assert float(tags["promotion_difference_low"]) > 0


def test_always_works_where_nothing_can_be_compared(store: str) -> None:
    made("blind", GOOD)
    mlflow.MlflowClient().create_model_version("blind", "s3://nobody/model", None)  # another project's
    registry.set_alias("blind", "champion", "2")
    tags = decide("blind", made("blind", GOOD), "always")
    assert champion("blind") == "3"
    assert "nothing to compare (models:/blind/2: that version was not made by this project" in tags["decision"]


def test_a_roll_back_is_one_command_without_images_or_measurements(store: str, call: Callable) -> None:
    one = made("back", WEAK)
    decide("back", one)
    decide("back", made("back", BEST))
    assert champion("back") == "2"
    before = {run.info.run_id for run in mlflow.search_runs(output_format="list")}
    done = call("register", model="models:/back/1", promote="always")
    assert done.code == 0, done.err
    assert champion("back") == "1"
    (run,) = [run for run in mlflow.search_runs(output_format="list") if run.info.run_id not in before]
    assert (run.data.tags["stage"], run.data.tags["evaluate_run"]) == ("register", one.evaluate_run)
    said = version("back", "1")
    assert "by hand (promote=always), rolled back from version 2" in said.tags["decision"]
    assert "by hand (promote=always), rolled back from version 2" in said.description
    assert said.tags["promote"] == "always"
    assert said.tags["compared_with"] == "2"
    assert float(said.tags["promotion_difference_high"]) < 0


# ---------------------------------------------------------------- beside others

TOGETHER = """
import sys, time
from pathlib import Path
from entrypoints import decision, options, register
name, version, evaluate_run, mine, other, first = sys.argv[1:]
decided = decision._decide

def at_the_same_time(*given):
    found = decided(*given)
    if not Path(mine).exists():  # both have decided against the old champion before either moves the alias
        Path(mine).touch()
        while not Path(other).exists():
            time.sleep(0.01)
        time.sleep(0 if first == "first" else 0.3)
    return found

decision._decide = at_the_same_time
common = options.Common(command="main", data="auto", images="all", store=Path("store"), seed=123, device="cpu",
                        limit=None, split="auto", uncertain="zeros", on_bad_image="stop", fresh=False)
register.run(common, evaluate_run=evaluate_run, register_as=name, model=f"models:/{name}/{version}")
"""


@pytest.mark.parametrize("first", ["GOOD", "BEST"])
def test_of_two_at_once_the_better_one_ends_as_champion(store: str, tmp_path: Path, first: str) -> None:
    name = f"race-{first}"
    decide(name, made(name, WEAK))
    good, best = made(name, GOOD), made(name, BEST)
    flags = [str(tmp_path / "one"), str(tmp_path / "other")]
    started = []
    for one, mine, other in ((good, *flags), (best, *reversed(flags))):
        turn = "first" if (one is best) == (first == "BEST") else "second"
        words = [name, one.version, one.evaluate_run, mine, other, turn]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", TOGETHER, *words],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert champion(name) == best.version
    assert version(name, best.version).tags["decision"].startswith(f"version {best.version} is champion: ")
    if first == "BEST":  # the other came later, looked once more and saw it
        assert "somebody else moved" in said[0]
        assert version(name, good.version).tags["compared_with"] == best.version


def test_an_alias_that_never_stays_is_an_error_and_not_a_loop(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from entrypoints import decision

    decide("restless", made("restless", WEAK))
    made("restless", GOOD)
    real, turns = decision._decide, iter(["2", "1"] * 10)

    def disturbed(*given: object) -> object:
        found = real(*given)
        registry.set_alias("restless", "champion", next(turns))
        return found

    monkeypatch.setattr(decision, "_decide", disturbed)
    with pytest.raises(Exception, match="others moved the alias champion 4 times while it was decided on"):
        decide("restless", made("restless", BEST))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:/nobody/1", "model=models:/nobody/1: "),
        ("models:/bad/7", "model=models:/bad/7: "),
        ("models:/bad@nothing", "model=models:/bad@nothing: "),
        ("models:/bad/one", "model=models:/bad/one: "),
        ("models:/bad", "expected models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("models:/bad/1", "that version was not made by this project's train stage"),
        ("0123456789abcdef0123456789abcdef", "there is no such run on"),
    ],
)
def test_a_model_that_is_not_there_or_not_ours_is_one_message(
    store: str, call: Callable, model: str, words: str
) -> None:
    client = mlflow.MlflowClient()
    if not client.search_registered_models("name = 'bad'"):
        client.create_registered_model("bad")
        client.create_model_version("bad", "s3://nobody/model", None)
    done = call("register", model=model, promote="always")
    assert done.code == 1
    assert words in " ".join(done.err.split())
    assert done.err.count("Error: ") == 1
    assert "Traceback" not in done.err
    assert registry.holder("bad", "champion") is None


def test_promote_without_a_name_is_a_usage_error(call: Callable) -> None:
    done = call("main", register_as="", promote="always")
    assert done.code == 2
    assert "promote=always has no effect without register_as" in " ".join(done.err.split())
    assert call("register", promote="perhaps").code == 2
