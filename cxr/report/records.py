"""What a report is made of: the runs, with those of their tables, pictures and texts that are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

_EMPTY = pd.DataFrame()


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A run as the tracking server has it. What a run did not leave is not in it, and that is no error."""

    stage: str
    run_id: str
    name: str = ""
    experiment_id: str = ""
    started: str = ""  # date and time, as people read it
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)  # metric -> (epoch, value)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # by artifact's name, without .csv
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # PNG by artifact's name
    texts: Mapping[str, str] = field(default_factory=dict)  # by artifact's name

    def table(self, name: str) -> pd.DataFrame:
        """A table with its first column as text, or one without rows."""
        return self.tables.get(name, _EMPTY)

    @property
    def config(self) -> dict[str, str]:
        """The resolved parameters, without their prefix."""
        own = {key: value for key, value in self.params.items() if key.startswith("config.")}
        return {key.removeprefix("config."): value for key, value in own.items()}

    @property
    def paragraphs(self) -> list[str]:
        """The run's description, as the paragraphs that its stage wrote."""
        return [part.strip() for part in self.tags.get("mlflow.note.content", "").split("\n\n") if part.strip()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """The runs that a report tells of; `split` is that of the test images, `home` that of the training."""

    split: Record
    train: Record
    evaluate: Record
    home: Record | None = None  # where the model was trained on other data than it was measured on
    explain: Record | None = None
    register: Record | None = None
    seeds: Record | None = None  # the run that holds several seeds together
    version: str = ""  # models:/NAME/VERSION
    requirements: str = ""  # of the model, a package a line
    reported: str = ""  # date and time of the report

    @property
    def all(self) -> list[Record]:
        """The runs in the order of their stages."""
        stages = (self.home, self.split, self.train, self.evaluate, self.explain, self.register, self.seeds)
        return [record for record in stages if record is not None]

    @property
    def is_phantom(self) -> bool:
        """Whether the test images are drawings."""
        return self.evaluate.tags.get("dataset") == "phantom"

    @property
    def is_nih(self) -> bool:
        """Whether NIH's images were trained or measured on."""
        return "nih" in (self.evaluate.tags.get("dataset"), self.train.tags.get("dataset"))

    @property
    def official(self) -> bool:
        """Whether training and test are NIH's official split, as the paper's were."""
        return self.evaluate.tags.get("scope") == self.train.tags.get("scope") == "official"
