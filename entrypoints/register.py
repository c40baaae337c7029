"""Register stage: the version that training created -> its tags, card and aliases, by a decision written down."""

from pathlib import Path

import click

from entrypoints import evaluate, options
from entrypoints.door import enter
from entrypoints.options import Common
from entrypoints.train import REGISTER_AS


@click.command("register", context_settings={"show_default": True})
@options.common
@options.model
@options.register_as
@options.promote
def main(common: Common, model: str, register_as: str, promote: str) -> None:
    """Give a version the alias candidate, and champion where it is better than the one that has it."""
    options.refuse_idle(common, "model", model if common.data == "auto" else "")
    if not register_as:
        raise click.BadParameter(
            "it is empty; expected the name of a registered model.", param_hint="--register_as"
        )
    evaluate_run = ""
    if model.startswith("models:/"):  # the version that was asked for, under its own name
        own_name = model.removeprefix("models:/").replace("@", "/").partition("/")[0]
        if register_as not in (own_name, REGISTER_AS):
            raise click.UsageError(f"register_as={register_as} has no effect beside model={model}.")
        register_as = own_name
        model, evaluate_run = _asked_for(common, model, promote)
    evaluate_run = evaluate_run or evaluate.run(common.for_upstream(), model=model, register_as=register_as)
    run(common, evaluate_run=evaluate_run, register_as=register_as, model=model, promote=promote)


def _asked_for(common: Common, model: str, promote: str) -> tuple[str, str]:
    """The version's own number, since an alias may move meanwhile; the evaluate run that a roll-back goes by.

    A version that is put back by hand was measured before: what code and images are here now does not matter.
    """
    from cxr import registry, tracking
    from entrypoints import decision, upstream

    tracking.connect()
    version = registry.resolve(model)
    model = f"models:/{version.name}/{version.version}"
    upstream.read_model(model)  # refuses another project's
    by_hand = promote == "always" and common.data == "auto" and not common.fresh
    return model, (decision.at_home(version) or "") if by_hand else ""


def run(
    common: Common, *, evaluate_run: str, explain_run: str = "", register_as: str = REGISTER_AS, model: str = "",
    promote: str = "auto",
) -> str:  # fmt: skip
    """Decide on the version of an evaluate run's model; the version.

    Never reused: aliases move on under other runs, so each call looks again. Models of the phantom
    have aliases of their own and never stand in the way of real ones.
    """
    import mlflow

    from cxr import registry, tracking
    from entrypoints import card, decision, upstream

    tracking.connect()
    evaluated = tracking.stage_run(evaluate_run, "evaluate", "evaluate_run")
    train_run = evaluated.data.tags["train_run"]
    stage = tracking.Stage(
        name="register",
        config={"register_as": register_as, "promote": promote},
        data_digest=evaluated.data.tags["split_digest"],
        upstream=(train_run, evaluate_run),
    )
    with tracking.run(stage, title="register", adopt=common.command == "register") as run_id:
        if not model.startswith("models:/"):
            model = f"models:/{register_as}/{upstream.ensure_registered(train_run, register_as)}"
        candidate = registry.resolve(model)
        version = str(candidate.version)
        registry.set_tags(candidate, upstream.version_tags(train_run))  # one made by hand has none
        candidate = registry.resolve(model)
        names = registry.PHANTOM_ALIASES if candidate.tags["dataset"] == "phantom" else registry.ALIASES
        registry.set_alias(register_as, names.candidate, version)
        settled = decision.settle(common, candidate, names.champion, promote)
        told = f"version {version} {'is' if settled.promoted else 'does not become'} {names.champion}: "
        told += settled.reason
        home = decision.at_home(candidate)
        measured = card.Measured(
            evaluated, explain_run or card.explain_run_of(train_run), decision.validation(home) if home else None
        )
        said = _stored(home) | card.tags(measured)
        kept = f"version {version} is {names.champion}"  # a champion's version goes on saying how it became one
        known = candidate.tags if "decided" in candidate.tags else {}
        if settled.against != version or not known.get("decision", "").startswith(kept):
            said |= card.decided(settled, told, promote)
        registry.set_tags(candidate, said)
        registry.describe(register_as, version, card.write(registry.resolve(model), measured))
        mlflow.set_tags({"version": version, "registered_model": register_as, "decision": told})
        mlflow.set_tags({"promote": promote, "compared_with": settled.against})
        about = ("dataset", "edition", "scope", "split_digest")
        mlflow.set_tags({key: candidate.tags[key] for key in about if key in candidate.tags})
        mlflow.set_tags({"train_run": train_run, "evaluate_run": evaluate_run})
        headline = evaluated.data.tags["headline"]
        tracking.describe_run(f"models:/{register_as}/{version}: {told}. {headline}")
    click.echo(f"register: models:/{register_as}/{version}: {told}; run {run_id}")
    return version


def _stored(evaluate_run: str | None) -> dict[str, str | None]:
    """The thresholds and calibration maps that a version's validation scores gave, as its tags."""
    from cxr import tracking
    from entrypoints.measures import THRESHOLDS
    from entrypoints.risks import RECALIBRATION

    if not evaluate_run:
        return {}
    names = [name for name in (THRESHOLDS, RECALIBRATION) if tracking.has(evaluate_run, name)]
    return {Path(name).stem: tracking.artifact(evaluate_run, name).read_text() for name in names}


if __name__ == "__main__":
    enter(main, "register")
