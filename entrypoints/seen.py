"""What a model has seen: left behind by training, and asked for before the model is measured anywhere."""

import click
import mlflow
import pandas as pd

from cxr import tracking
from cxr.data import cohort, leakage, store
from cxr.errors import InputError, first_ten
from entrypoints.upstream import Model, Split

# Of a train run: digests of the patients and of the packed pictures that it was trained or selected on.
SEEN_PATIENTS, SEEN_IMAGES = "seen_patients.txt", "seen_images.txt"


def log(source: Split, packed: store.Store) -> None:
    """What only the packed images show: unreadable files, pictures in two splits; and which patients are seen.

    On the active run, of training: later stages refuse a model that has seen a patient of theirs.
    """
    identical = leakage.identical_images(source.table, packed.digests(source.table["image"].tolist()))
    measures = leakage.report(source.table, identical)
    mlflow.log_metrics(leakage.metrics(measures) | {"split/bad_images": source.bad_images})
    tracking.log_frame(measures.round(4), "leakage")
    if len(identical):
        tracking.log_frame(identical, "identical_images")
        click.echo(
            f"train: {len(identical):,} images stand in more than one split with the very same pixels: see "
            "identical_images.csv of this run"
        )
    if packed.bad:
        tracking.log_frame(pd.DataFrame(packed.bad.items(), columns=["image", "reason"]), "bad_images")
        click.echo(f"train: {source.bad_images:,} unreadable images left out of the split: see bad_images.csv")
    patients = source.table.loc[source.table["split"] != "test", "patient_id"].unique()
    digests = sorted(cohort.patient_digest(source.tags["dataset"], patient) for patient in patients)
    mlflow.log_text("\n".join(digests), SEEN_PATIENTS)
    seen = source.table.loc[source.table["split"] != "test", "image"].tolist()
    mlflow.log_text("\n".join(sorted(set(packed.digests(seen)))), SEEN_IMAGES)


def refuse_patients(source: Split, trained: Model) -> None:
    """A model is not measured on patients that it was trained on, whatever split they came from.

    The train run left digests of `dataset:patient_id`; a patient under another set's name is not known again.
    """
    seen = set(tracking.artifact(trained.train_run, SEEN_PATIENTS).read_text().split())
    test = source.rows("test")
    shared = [
        patient for patient in test["patient_id"].unique()
        if cohort.patient_digest(source.tags["dataset"], patient) in seen
    ]  # fmt: skip
    if shared:
        raise InputError(
            f"model={trained.uri}: it was trained or selected on {len(shared):,} of the test patients of "
            f"{source.folder}: {first_ten(sorted(shared))}. Its numbers there would say nothing."
        )


def refuse_images(source: Split, packed: store.Store, trained: Model) -> None:
    """A model is not measured on the very pictures that it was trained on, under whatever name they come.

    By the digests of the packed pixels, which are those of the model's own image size. Pictures that stand in
    two parts of the model's own split are reported by training, and no reason to refuse the whole split.
    """
    seen = set(tracking.artifact(trained.train_run, SEEN_IMAGES).read_text().split())
    test = source.rows("test")["image"].tolist()
    shared = [name for name, digest in zip(test, packed.digests(test), strict=True) if digest in seen]
    if shared:
        raise InputError(
            f"model={trained.uri}: it was trained or selected on {len(shared):,} of the very pictures that "
            f"{source.name} would be tested with: {first_ten(shared)}. Its numbers there would say nothing."
        )
