"""What a stage reads before it works: folders, split runs, models, packed images, earlier results."""

from dataclasses import dataclass, replace
from pathlib import Path

import click
import mlflow
import pandas as pd
from mlflow.data.dataset import Dataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time

from cxr import registry, tracking
from cxr.data import cohort, external, nih, store
from cxr.data import split as splits
from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES
from entrypoints import sources
from entrypoints.options import Common


@dataclass(frozen=True, kw_only=True)
class Split:
    """A finished split run: its table, and the folder where its images are on this machine."""

    run_id: str
    table: pd.DataFrame
    folder: Path
    tags: dict[str, str]  # dataset, edition, scope, split_digest, data_digest: what every later run carries too
    bad_images: int = 0  # rows left out because their file cannot be read

    @property
    def name(self) -> str:
        """The data's name for people: phantom, nih, or `nih sample` for a part of NIH's images."""
        scope = self.tags["scope"]
        return self.tags["dataset"] + (f" {scope}" if scope in ("sample", "custom", "random-patient") else "")

    @property
    def is_phantom(self) -> bool:
        """Whether these are drawings."""
        return self.tags["dataset"] == "phantom"

    def rows(self, part: str) -> pd.DataFrame:
        """The rows of train, val or test."""
        return self.table[self.table["split"] == part].reset_index(drop=True)

    def classes(self) -> list[str]:
        """The classes that training learns: those that some of its images have, and some have not."""
        trained = self.table[self.table["split"] == "train"]
        return [name for name in CLASSES if set(trained[name].dropna()) == {0, 1}]

    def refuse_untrainable(self) -> None:
        """Raise InputError where there is nothing to train on or to choose the best epoch by."""
        empty = [part for part in ("train", "val") if not (self.table["split"] == part).any()]
        if empty:
            raise InputError(
                f"split run {self.run_id} has no {' and no '.join(empty)} images: no model can be trained on it. "
                "Another set than NIH's is all test images unless split=random-patient divides its patients."
            )

    def files(self) -> dict[str, Path]:
        """The image files; InputError where one is missing."""
        names = self.table["image"].tolist()
        files = sources.image_files(self.folder, names, self.tags["scope"])
        missing = [name for name in names if name not in files]
        if missing:
            raise InputError(
                f"{len(missing):,} of {len(self.table):,} images of split run {self.run_id} are not in "
                f"{self.folder}: {first_ten(missing)}. A split with images=present keeps those that are there."
            )
        return files

    def images_digest(self) -> str:
        """The digest of the image files, for fingerprints."""
        return store.images_digest(self.table["image"].tolist(), self.files())

    def open_store(self, common: Common, size: int) -> tuple["Split", store.Store]:
        """The packed images, packed now if they are not yet, and the split without the unreadable ones.

        Raises InputError that lists all unreadable images, unless on_bad_image=skip.
        """
        packed = store.open_or_pack(
            common.store, self.table["image"].tolist(), self.files(),
            size=size, dataset=self.name, on_bad_image=common.on_bad_image,
        )  # fmt: skip
        bad = self.table["image"].isin(packed.bad.keys())
        if not bad.any():
            return self, packed
        table = self.table[~bad].reset_index(drop=True)
        scope = "sample" if self.tags["scope"] == "official" else self.tags["scope"]
        tags = self.tags | {"scope": scope, "split_digest": splits.digest(table)}
        return replace(self, table=table, tags=tags, bad_images=int(bad.sum())), packed


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained network: its URI, its MLflow model id, and the tags of the train run that made it."""

    uri: str
    model_id: str
    train_run: str
    tags: dict[str, str]

    @property
    def classes(self) -> list[str]:
        """The classes that it has learned."""
        return self.tags["classes"].split("|")


def reuse(stage: tracking.Stage, common: Common) -> str | None:
    """The finished run that makes this stage's work needless, unless fresh=true."""
    found = None if common.fresh else tracking.finished(stage)
    if found:
        click.echo(f"{stage.name}: reusing run {found}, same fingerprint (fresh=true runs it again)")
        if headline := mlflow.get_run(found).data.tags.get("headline"):
            click.echo(f"{stage.name}: {headline}")
        if common.command == stage.name:
            tracking.point_opened_run(found)
    return found


def read_split(run_id: str, common: Common, *, made_from: str = "") -> Split:
    """Fetch a split run's table; data=auto takes the folder `made_from`, or that the run was made from.

    Raises InputError where that folder is not on this machine, or where drawings would stand for X-rays.
    """
    found = tracking.stage_run(run_id, "split", "split_run")
    tags = found.data.tags
    if common.data == "auto":
        place = Path(made_from or tags["data_folder"])
        if not place.is_dir() and place.name == sources.phantom_version():
            place = sources.phantom_folder(common.store)  # the same drawings, on another machine
    else:
        kind, place = sources.data_place(common.data, common.store)
        name = sources.dataset_name(kind, place)
        if name != tags["dataset"] and "phantom" not in (name, tags["dataset"]):
            raise InputError(
                f"data={common.data}: that is {name}, but split run {run_id} is of {tags['dataset']}: give the "
                "data of that split."
            )
        place = place if kind == "nih" else external.image_folder(kind, place)
    if not place.is_dir():
        raise InputError(f"split run {run_id} was made from {place}, not on this machine: give data=FOLDER.")
    if nih.is_phantom(place) != (tags["dataset"] == "phantom"):
        raise InputError(
            f"data={place}: that is {'a' if nih.is_phantom(place) else 'not a'} drawn phantom, but split run "
            f"{run_id} is of {tags['dataset']}: give the folder of that split."
        )
    return Split(
        run_id=found.info.run_id,
        table=tracking.frame(found.info.run_id, "cohort.parquet"),
        folder=place,
        tags=_needed(tags, f"split_run={run_id}", "dataset", "edition", "scope", "split_digest", "data_digest"),
    )


def _needed(tags: dict[str, str], what: str, *names: str) -> dict[str, str]:
    """These tags of a run; InputError where it is too old to have them."""
    missing = [name for name in names if name not in tags]
    if missing:
        raise InputError(
            f"{what}: that run was made by an earlier version of this project "
            f"(it has no tag {', '.join(missing)}). "
            "Make it anew."
        )
    return {name: tags[name] for name in names}


def read_model(reference: str) -> Model:
    """The model of a train run's id or of a registered version's URI."""
    run_id, uri = reference, None
    if reference.startswith("models:/"):
        version = registry.resolve(reference)
        run_id, uri = version.run_id or "", f"models:/{version.name}/{version.version}"
        if "split_digest" not in version.tags:
            raise InputError(f"model={reference}: that version was not made by this project's train stage.")
    train = tracking.stage_run(run_id, "train", "model")
    _needed(train.data.tags, f"model={reference}", "model_uri", "data_folder", "classes", "edition")
    logged = train.data.tags["model_uri"]
    return Model(
        uri=uri or logged,
        model_id=logged.removeprefix("models:/"),
        train_run=train.info.run_id,
        tags=dict(train.data.tags),
    )


def ensure_registered(train_run: str, name: str) -> str | None:
    """Register a train run's model under a name unless it is; the version. An empty name registers nothing."""
    if not name:
        return None
    uri = tracking.stage_run(train_run, "train", "model").data.tags["model_uri"]
    return registry.ensure_version(name, uri, train_run, version_tags(train_run))


def version_tags(train_run: str) -> dict[str, str]:
    """What a train run says of the version that it made."""
    tags = tracking.stage_run(train_run, "train", "model").data.tags
    return {key: tags[key] for key in registry.VERSION_TAGS if key in tags} | {"train_run": train_run}


def refuse_nothing_shared(source: Split, learned: list[str]) -> None:
    """Raise InputError where no test image is labelled in a class that the model has learned."""
    test = source.rows("test")
    labelled = [name for name in CLASSES if test[name].notna().any()]
    if not set(labelled) & set(learned):
        raise InputError(
            f"{source.name}: its {len(test):,} test images are labelled in {', '.join(labelled) or 'nothing'}; "
            f"the scores are of {', '.join(learned) or 'nothing'}. There is nothing to measure."
        )


def scope_line(source: Split) -> str:
    """What numbers on this split's test images can be compared with, in a sentence."""
    test = source.rows("test")
    size = f"{len(test):,} test images of {test['patient_id'].nunique():,} patients"
    if source.bad_images:
        size += f", {source.bad_images:,} unreadable images left out of the split"
    scope, dataset, edition = (source.tags[key] for key in ("scope", "dataset", "edition"))
    part = "" if len(source.table) == cohort.NIH_IMAGES else ", a sample,"
    return {
        "phantom": f"Drawn phantom, not X-rays ({size}): says nothing about real X-rays.",
        "sample": f"A sample of NIH ChestX-ray14 ({size}): not comparable with published figures.",
        "custom": f"NIH ChestX-ray14 with lists or labels that are not NIH's ({size}): not comparable with "
        "published figures.",
        "random-patient": f"NIH ChestX-ray14{part} split by patient at random ({size}): not comparable with "
        "figures on the official test list.",
        "external": f"{dataset} ({edition}; {size}): other hospitals and other labels than NIH's; only findings "
        "that both know.",
        "official": f"NIH ChestX-ray14, official test list ({size}).",
    }[scope]


def evaluations(train_run: str, split_digest: str) -> list[str]:
    """The finished evaluate runs of a train run's model on a split, newest first."""
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.stage = 'evaluate' and attributes.status = 'FINISHED' and "
        f"tags.train_run = '{train_run}' and tags.split_digest = '{split_digest}'",
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return [run.info.run_id for run in runs if "reuses" not in run.data.tags]


def scores_of(evaluate_run: str) -> pd.DataFrame:
    """The scores table of an evaluate run; NaN for the classes that its model has not learned, or its set not
    labelled: whatever the network says of them is no score."""
    tags = mlflow.get_run(evaluate_run).data.tags
    scores = tracking.frame(evaluate_run, "scores.parquet")
    known = tags["classes"].split("|")
    return scores.assign(**{f"logit_{name}": float("nan") for name in CLASSES if name not in known})


def table_at_home(trained: Model) -> pd.DataFrame | None:
    """AUROC with its interval on the model's own test images, where an evaluate run of it has them.

    Index: classes and macro averages. Columns: auroc, auroc_low, auroc_high.
    """
    found = evaluations(trained.train_run, trained.tags["split_digest"])
    if not found:
        return None
    values = mlflow.get_run(found[0]).data.metrics
    table = pd.DataFrame(
        {name: {key.rsplit("/", 1)[1]: value for key, value in values.items() if key.startswith(f"test/{name}/")}
         for name in ("auroc", "auroc_low", "auroc_high")}
    )  # fmt: skip
    return table if table["auroc"].notna().any() else None


def log_rows(table: pd.DataFrame, tags: dict[str, str], folder: Path, part: str) -> Dataset:
    """Note on the active run which rows of which data it used; the dataset, for linking metrics to it."""
    rows = table[table["split"] == part].astype(dict.fromkeys(("follow_up", *CLASSES), float))
    noted = from_pandas(
        rows.astype({"patient_id": str}),  # whole-number columns would make MLflow warn of missing values
        source=LocalArtifactDatasetSource(str(folder)),
        name=f"{tags['dataset']}-{part}",
        digest=tags["split_digest"],
    )
    mlflow.log_input(noted, context=part)
    return noted
