"""Which version is champion: decided by validation scores or by a person, and settled beside others who decide."""

import functools
from dataclasses import replace

import click
import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from cxr import registry, tracking
from cxr.errors import InputError
from cxr.evaluation import comparison, intervals
from cxr.evaluation.bootstrap import SEED
from cxr.evaluation.promotion import (
    Decision,
    Difference,
    above_chance,
    by_scores,
    overruled,
    without_scores,
)
from entrypoints import evaluate, upstream
from entrypoints.options import Common

_TRIES = 4  # at an alias that others move at the same time


def settle(common: Common, candidate: ModelVersion, alias: str, promote: str) -> Decision:
    """Decide, and move the alias; anew where somebody else moved it meanwhile, against whom it carries then."""
    name, version = candidate.name, str(candidate.version)
    for _ in range(_TRIES):
        holder = registry.holder(name, alias)
        decision = _decide(common, candidate, holder, promote)
        if decision.promoted and decision.against != version:
            settled = registry.move_alias(name, alias, version, seen=holder)
        else:
            settled = registry.carries(name, alias, holder)
        if settled:
            return decision
        click.echo(f"register: somebody else moved {name}@{alias} meanwhile: looking again")
    found = registry.holder(name, alias)
    raise InputError(
        f"models:/{name}/{version}: others moved the alias {alias} {_TRIES} times while it was decided on; it is "
        f"on version {found.version if found else 'none'} now. Call register again when they are done."
    )


def _decide(common: Common, candidate: ModelVersion, holder: ModelVersion | None, promote: str) -> Decision:
    """Whether the candidate becomes champion: as validation says, or as a person does, beside what it says."""
    by_hand = promote != "auto"
    try:
        decision = _by_validation(common, candidate, holder, measure=not by_hand)
    except InputError as error:
        if not by_hand:
            raise
        against = str(holder.version) if holder else ""
        decision = Decision(promoted=False, reason=f"nothing to compare ({error})", against=against)
    return overruled(decision, promote, str(candidate.version))


def _by_validation(
    common: Common, candidate: ModelVersion, holder: ModelVersion | None, *, measure: bool
) -> Decision:
    """The decision that the scores lead to; `measure`: evaluate a version that has no evaluate run yet."""
    champion = registry.standing(holder) if holder else None
    against = champion.version if champion else ""
    settled = without_scores(registry.standing(candidate), champion)
    if settled and settled[0] and against != str(candidate.version):  # a place without a fight
        enough, words = above_chance(validation(_scored(common, candidate, measure)))
        return Decision(
            promoted=enough, reason=f"{settled[1]}, {'and' if enough else 'but'} {words}", against=against
        )
    if settled:
        return Decision(promoted=settled[0], reason=settled[1], against=against)
    assert holder
    return _compared(candidate, holder, [_scored(common, one, measure) for one in (candidate, holder)])


def _compared(candidate: ModelVersion, holder: ModelVersion, runs: list[str]) -> Decision:
    """The decision by both versions' scores; differences on test are logged, and decide nothing."""
    scores = [upstream.scores_of(run_id) for run_id in runs]
    names = (f"version {candidate.version}", f"champion version {holder.version}")
    tables = {}
    for part in ("val", "test"):
        first, second = (table[table["split"] == part] for table in scores)
        comparison.refuse_unpaired(first, second, names)
        tables[part] = comparison.table(first, second, seed=SEED)
        mlflow.log_metrics(comparison.flat(tables[part].loc[["macro_14"]], f"promotion/{part}"))
        tracking.log_frame(tables[part], f"promotion_{part}")
    mlflow.set_tag("champions_evaluate_run", runs[1])
    macro = tables["val"].T["macro_14"]
    promoted, reason = by_scores(registry.standing(holder), macro)
    value, low, high = (float(macro[f"difference{end}"]) for end in ("", "_low", "_high"))
    return Decision(
        promoted=promoted, reason=reason, against=str(holder.version),
        difference=Difference(value=value, low=low, high=high),
    )  # fmt: skip


def _scored(common: Common, version: ModelVersion, measure: bool) -> str:
    """The evaluate run of a version that has its validation scores."""
    uri = f"models:/{version.name}/{version.version}"
    if found := at_home(version):
        return found
    if not measure:
        raise InputError(f"{uri} has not been evaluated on its own split.")
    return evaluate.run(replace(common.for_upstream(), data="auto", command="register"), model=uri)


def at_home(version: ModelVersion) -> str | None:
    """The newest evaluate run of a version on its own split, which has its validation scores."""
    return next(iter(upstream.evaluations(version.run_id or "", version.tags["split_digest"])), None)


@functools.cache
def validation(evaluate_run: str) -> pd.Series:
    """AUROC of the 14 findings' macro on validation, with its interval: a row of `intervals.table`."""
    scores = upstream.scores_of(evaluate_run)
    return intervals.table(scores[scores["split"] == "val"], seed=SEED).T["macro_14"]
