"""Register stage: the version that training created -> its aliases, by a decision that is written down."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrypoints import evaluate, options
from entrypoints.door import enter
from entrypoints.options import Common
from entrypoints.train import REGISTER_AS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@click.command("register", context_settings={"show_default": True})
@options.common
@options.model
@options.register_as
def main(common: Common, model: str, register_as: str) -> None:
    """Give a version the alias candidate, and champion where it is better than the one that has it."""
    options.refuse_idle(common, "model", model if common.data == "auto" else "")
    if not register_as:
        raise click.BadParameter(
            "it is empty; expected the name of a registered model.", param_hint="--register_as"
        )
    if model.startswith("models:/"):  # the version that was asked for, under its own name
        own_name = model.removeprefix("models:/").replace("@", "/").partition("/")[0]
        if register_as not in (own_name, REGISTER_AS):
            raise click.UsageError(f"register_as={register_as} has no effect beside model={model}.")
        register_as = own_name
    evaluate_run = evaluate.run(common.for_upstream(), model=model, register_as=register_as)
    run(common, evaluate_run=evaluate_run, register_as=register_as, model=model)


def run(common: Common, *, evaluate_run: str, register_as: str = REGISTER_AS, model: str = "") -> str:
    """Decide on the version of an evaluate run's model; the version.

    Never reused: aliases move on under other runs, so each call looks again. Models of the phantom
    have aliases of their own and never stand in the way of real ones.
    """
    import mlflow

    from cxr import registry, tracking
    from entrypoints import upstream

    tracking.connect()
    evaluated = tracking.stage_run(evaluate_run, "evaluate", "evaluate_run")
    train_run = evaluated.data.tags["train_run"]
    stage = tracking.Stage(
        name="register",
        config={"register_as": register_as},
        data_digest=evaluated.data.tags["split_digest"],
        upstream=(train_run, evaluate_run),
    )
    with tracking.run(stage, title="register", adopt=common.command == "register") as run_id:
        if not model.startswith("models:/"):
            model = f"models:/{register_as}/{upstream.ensure_registered(train_run, register_as)}"
        candidate = registry.resolve(model)
        version = str(candidate.version)
        phantom = candidate.tags["dataset"] == "phantom"
        names = registry.PHANTOM_ALIASES if phantom else registry.ALIASES
        holder = registry.holder(register_as, names.champion)
        promoted, reason = _decide(common, candidate, holder)
        registry.set_alias(register_as, names.candidate, version)
        if promoted:
            registry.set_alias(register_as, names.champion, version)
        decision = f"version {version} {'is' if promoted else 'does not become'} {names.champion}: {reason}"
        measured = evaluated.data.tags["headline"]
        registry.describe(register_as, version, f"{measured} At registration: {decision}.")
        _store(candidate)
        mlflow.set_tags({"version": version, "registered_model": register_as, "decision": decision})
        kept = ("dataset", "edition", "scope", "split_digest")
        mlflow.set_tags({key: candidate.tags[key] for key in kept if key in candidate.tags})
        mlflow.set_tags({"train_run": train_run, "evaluate_run": evaluate_run})
        tracking.describe_run(f"models:/{register_as}/{version}: {decision}. {measured}")
    click.echo(f"register: models:/{register_as}/{version}: {decision}; run {run_id}")
    return version


def _decide(common: Common, candidate: "ModelVersion", holder: "ModelVersion | None") -> tuple[bool, str]:
    """Whether the candidate becomes champion, and why; test differences are logged, and decide nothing."""
    import mlflow

    from cxr import registry, tracking
    from cxr.evaluation import comparison, promotion
    from cxr.evaluation.bootstrap import SEED
    from entrypoints import upstream

    champion = registry.standing(holder) if holder else None
    settled = promotion.without_scores(registry.standing(candidate), champion)
    if settled or holder is None or champion is None:
        assert settled
        return settled
    runs = [_at_home(version) or _evaluated_now(common, version) for version in (candidate, holder)]
    scores = [upstream.scores_of(run_id) for run_id in runs]
    names = (f"version {candidate.version}", f"champion version {holder.version}")
    tables = {}
    for part in ("val", "test"):
        first, second = (table[table["split"] == part] for table in scores)
        comparison.refuse_unpaired(first, second, names)
        tables[part] = comparison.table(first, second, seed=SEED)
        mlflow.log_metrics(comparison.flat(tables[part].loc[["macro_14"]], f"promotion/{part}"))
        tracking.log_frame(tables[part], f"promotion_{part}")
    mlflow.set_tag("compared_with", runs[1])
    return promotion.by_scores(champion, tables["val"].T["macro_14"])


def _at_home(version: "ModelVersion") -> str | None:
    """The newest evaluate run of a version on its own split, which has its validation scores."""
    from entrypoints import upstream

    return next(iter(upstream.evaluations(version.run_id or "", version.tags["split_digest"])), None)


def _evaluated_now(common: Common, version: "ModelVersion") -> str:
    own = replace(common.for_upstream(), data="auto", command="register")
    return evaluate.run(own, model=f"models:/{version.name}/{version.version}")


def _store(version: "ModelVersion") -> None:
    """Put on a version, as tags, the thresholds and calibration maps that its validation scores gave."""
    from cxr import registry, tracking
    from entrypoints.measures import THRESHOLDS
    from entrypoints.risks import RECALIBRATION

    if run_id := _at_home(version):
        names = [name for name in (THRESHOLDS, RECALIBRATION) if tracking.has(run_id, name)]
        registry.set_tags(
            version, {Path(name).stem: tracking.artifact(run_id, name).read_text() for name in names}
        )


if __name__ == "__main__":
    enter(main, "register")
