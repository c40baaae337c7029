"""What a stage reads before it works: folders, split runs, models, packed images, earlier results."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import click
import mlflow
import pandas as pd
from mlflow.data.dataset import Dataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time

from cxr import registry, tracking
from cxr.data import cohort, phantom, store
from cxr.errors import InputError, first_ten
from cxr.findings import CLASSES
from entrypoints.options import Common

_PHANTOM_BYTES = 100_000_000  # about 70 MB are drawn


@dataclass(frozen=True, kw_only=True)
class Split:
    """A finished split run: its table, and the folder where its images are on this machine."""

    run_id: str
    table: pd.DataFrame
    folder: Path
    tags: dict[str, str]  # dataset, scope, split_digest, data_digest: what every later run carries too

    @property
    def name(self) -> str:
        """The data's name for people: phantom, nih, or `nih sample` for a part of NIH's images."""
        return self.tags["dataset"] + (" sample" if self.tags["scope"] == "sample" else "")

    @property
    def is_phantom(self) -> bool:
        """Whether these are drawings."""
        return self.tags["dataset"] == "phantom"

    def rows(self, part: str) -> pd.DataFrame:
        """The rows of train, val or test."""
        return self.table[self.table["split"] == part].reset_index(drop=True)

    def files(self) -> dict[str, Path]:
        """The image files; InputError where one is missing."""
        files = cohort.image_files(self.folder)
        missing = [name for name in self.table["image"] if name not in files]
        if missing:
            raise InputError(
                f"{len(missing):,} of {len(self.table):,} images of split run {self.run_id} are not in "
                f"{self.folder}: {first_ten(missing)}. A split with images=present keeps those that are there."
            )
        return files

    def images_digest(self) -> str:
        """The digest of the image files, for fingerprints."""
        return store.images_digest(self.table["image"].tolist(), self.files())

    def open_store(self, root: Path, size: int) -> store.Store:
        """The packed images, packed now if they are not yet."""
        return store.open_or_pack(root, self.table["image"].tolist(), self.files(), size=size)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained network: its URI, its MLflow model id, and the tags of the train run that made it."""

    uri: str
    model_id: str
    train_run: str
    tags: dict[str, str]


def data_folder(common: Common) -> Path:
    """The cohort's folder; the phantom is drawn first where this machine has none."""
    if common.data in ("auto", "phantom"):
        return phantom_folder(common.store)
    return Path(common.data).expanduser().absolute()


def phantom_folder(root: Path) -> Path:
    """The drawn cohort in a cache folder, drawn now if it is not there; other drawing code, other folder."""
    place = root / phantom_version()
    if not place.is_dir():
        click.echo(f"drawing the phantom cohort into {place}")
        store.make_root(root, _PHANTOM_BYTES)
        phantom.draw(place)
    return place


def phantom_version() -> str:
    """The drawn cohort's folder name, by the code that draws it."""
    code = b"".join(path.read_bytes() for path in sorted(Path(phantom.__file__).parent.glob("phantom*.py")))
    return f"phantom-{hashlib.sha256(code).hexdigest()[:8]}"


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
        if not place.is_dir() and place.name == phantom_version():
            place = phantom_folder(common.store)  # the same drawings, on another machine
    else:
        place = data_folder(common)
    if not place.is_dir():
        raise InputError(f"split run {run_id} was made from {place}, not on this machine: give data=FOLDER.")
    if cohort.is_phantom(place) != (tags["dataset"] == "phantom"):
        raise InputError(
            f"data={place}: that is {'a' if cohort.is_phantom(place) else 'not a'} drawn phantom, but split run "
            f"{run_id} is of {tags['dataset']}: give the folder of that split."
        )
    return Split(
        run_id=found.info.run_id,
        table=tracking.frame(found.info.run_id, "cohort.parquet"),
        folder=place,
        tags={key: tags[key] for key in ("dataset", "scope", "split_digest", "data_digest")},
    )


def refuse_leak(source: Split, trained: Model) -> None:
    """A model is not measured on patients that it was trained on (`dataset:patient_id`, whatever the split)."""
    own = tracking.stage_run(trained.tags["split_run"], "split", "split_run")
    if own.info.run_id == source.run_id or trained.tags["dataset"] != source.tags["dataset"]:
        return
    table = tracking.frame(own.info.run_id, "cohort.parquet")
    seen = set(table.loc[table["split"] != "test", "patient_id"])
    shared = sorted(seen & set(source.rows("test")["patient_id"]))
    if shared:
        raise InputError(
            f"model={trained.uri}: it was trained or selected on {len(shared):,} of the test patients of "
            f"{source.folder}: {first_ten(shared)}. Its numbers there would say nothing."
        )


def read_model(reference: str) -> Model:
    """The model of a train run's id or of a registered version's URI."""
    run_id, uri = reference, None
    if reference.startswith("models:/"):
        version = registry.resolve(reference)
        run_id, uri = version.run_id or "", f"models:/{version.name}/{version.version}"
        if "split_digest" not in version.tags:
            raise InputError(f"model={reference}: that version was not made by this project's train stage.")
    train = tracking.stage_run(run_id, "train", "model")
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
    tags = tracking.stage_run(train_run, "train", "model").data.tags
    kept = {key: tags[key] for key in registry.VERSION_TAGS if key in tags} | {"train_run": train_run}
    return registry.ensure_version(name, tags["model_uri"], train_run, kept)


def scope_line(source: Split) -> str:
    """What numbers on this split's test images can be compared with, in a sentence."""
    test = source.rows("test")
    size = f"{len(test):,} test images of {test['patient_id'].nunique():,} patients"
    return {
        "phantom": f"Drawn phantom, not X-rays ({size}): says nothing about real X-rays.",
        "sample": f"A sample of NIH ChestX-ray14 ({size}): not comparable with published figures.",
        "official": f"NIH ChestX-ray14, official test list ({size}).",
    }[source.tags["scope"]]


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
