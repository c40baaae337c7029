"""What the evaluate stage measures: scores, what stands beside them, and what their numbers are worth."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import mlflow
import pandas as pd
from mlflow.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A scores table with age_years, sex, view and follow_up beside it, and what its numbers are worth."""

    scores: pd.DataFrame  # rows of val and test
    scope: str  # in a sentence
    paper: Mapping[str, float] = field(default_factory=dict)  # AUROC published for these very images
    fit_rows: pd.DataFrame | None = None  # cohort rows that a model of metadata alone may learn from
    experts: pd.DataFrame | None = None  # radiologists' labels
    home: pd.DataFrame | None = None  # the model's AUROC on its own test images, where these are others
    no_home: str = ""  # why there is none
    missing: Mapping[str, str] = field(default_factory=dict)  # what cannot be measured here -> why
    dataset: Dataset | None = None
    model_id: str | None = None

    def rows(self, part: str) -> pd.DataFrame:
        """The rows of val or test."""
        return self.scores[self.scores["split"] == part].reset_index(drop=True)

    def log(self, values: dict[str, float]) -> None:
        """Log metrics on the active run, linked to the model and the test images."""
        mlflow.log_metrics(values, dataset=self.dataset, model_id=self.model_id)
