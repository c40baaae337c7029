"""What stands in a report, in which order."""

from dataclasses import dataclass

from cxr.report import attention, cohort, risks, scope, scores
from cxr.report.blocks import Section
from cxr.report.records import Records


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A report before it is a page."""

    head: scope.Head
    sections: list[Section]
    lang: str = "en"


def contents(found: Records) -> Contents:
    """Runs -> head and sections. What a run did not leave is named where it would stand."""
    return Contents(
        head=scope.head(found),
        sections=[
            cohort.data(found),
            cohort.protocol(found),
            cohort.training(found),
            scores.ranking(found),
            risks.calibration(found),
            risks.subgroups(found),
            risks.controls(found),
            attention.attention(found),
            scope.scope(found),
            Section(key="runs", title="Runs", blocks=[scope.runs(found)]),
        ],
    )
