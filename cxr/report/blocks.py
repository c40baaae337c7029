"""What a section is made of: prose, lists, tables, pictures, and a note where something is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cxr.report.records import Record


@dataclass(frozen=True)
class Source:
    """Where a number or picture comes from: a run's id and the artifact's name."""

    stage: str
    run_id: str
    artifact: str = ""

    @property
    def short(self) -> str:
        """The first digits of the run's id: the table of runs has it whole."""
        return self.run_id[:8]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; **bold** and `code` are marked so."""

    text: str
    source: Source | None = None
    alarm: bool = False
    kind: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class Points:
    """A list, with a line above it."""

    head: str
    points: Sequence[str]
    source: Source | None = None
    kind: Literal["points"] = "points"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    source: Source
    note: str = ""
    anchors: Sequence[str] = ()  # ids of the rows, where others link to them
    kind: Literal["table"] = "table"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as a data URI, or a drawing as SVG; `alt` says what it shows."""

    caption: str
    alt: str
    source: Source
    uri: str = ""
    svg: str = ""  # made by this package, not from outside
    width: int = 0
    height: int = 0
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What is not in the report, and why."""

    what: str
    why: str
    kind: Literal["missing"] = "missing"


Block = Text | Points | Table | Picture | Missing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with its blocks; `parts` are sections of one level below."""

    key: str
    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence["Section"] = ()
    runs: Sequence[Record] = field(default_factory=tuple)  # whose numbers these are


def source(record: Record, artifact: str = "") -> Source:
    """The source line of a run's artifact."""
    return Source(record.stage, record.run_id, artifact)
