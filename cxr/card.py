"""The model card of a registered version: what it is and is not for, its numbers with their scope, in Markdown.

A pure function of plain values; it becomes the version's description, which the MLflow UI renders.
"""

from dataclasses import dataclass, replace

from cxr.findings import FINDINGS, NO_FINDING

# MLflow's column `model_versions.description` is VARCHAR(5000): SQLite takes more, PostgreSQL refuses it.
MAX_LENGTH = 5000
_NIH = (
    "The data was provided by the NIH Clinical Center (https://nihcc.app.box.com/v/ChestXray-NIHCC). Cite: "
    "X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. Summers, *ChestX-ray8*, IEEE CVPR 2017, pp. 3462-3471. Its "
    "labels were mined from reports by a program: they err, and so do numbers measured against them."
)
_USE = (
    "Research on how chest X-ray classifiers are trained, measured and explained. **Not a medical device**: not "
    "for diagnosis, triage or any other decision about a patient, and no second opinion."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """AUROC of one finding on the test images, with the ends of its 95 % interval."""

    finding: str
    auroc: float
    low: float
    high: float
    few: bool  # so few positive patients that the interval does not keep its 95 %


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the card tells; empty strings and tuples where something is not known."""

    name: str
    version: str
    dataset: str  # phantom, nih, chexpert, or the name of a table of one's own
    edition: str
    arch: str
    image_size: str  # pixels a side
    classes: tuple[str, ...]  # that it has learned
    training: str  # in a line
    headline: str  # macro AUROC with its interval and its scope
    validation: str  # the same on validation
    rows: tuple[Row, ...]
    thresholds: str  # what they were chosen on
    calibration: str  # whether probabilities come true
    maps: str  # what masking says of shortcuts
    not_evaluated: tuple[tuple[str, str], ...]  # what, and why
    decision: str  # whether it became champion, with the numbers
    decided: str  # the day
    runs: tuple[tuple[str, str], ...]  # stage and run id
    git_commit: str


def text(card: Card) -> str:
    """The card as Markdown, at most MAX_LENGTH characters: what does not fit is named and left to the run."""
    for shorter in _ever_shorter(card):
        written = _written(*shorter)
        if len(written) <= MAX_LENGTH:
            return written
    return f"{written[: MAX_LENGTH - 3]}..."  # values of one's own of any length; what matters stands first


def _ever_shorter(card: Card) -> list[tuple[Card, bool]]:
    """The card whole; without the reasons of what was not evaluated; with long values cut; without its table."""
    names = replace(card, not_evaluated=tuple((what, "") for what, _ in card.not_evaluated))
    short = replace(
        names,
        training=_cut(card.training, 300),
        headline=_cut(card.headline, 400),
        decision=_cut(card.decision, 400),
        not_evaluated=tuple((_cut(what, 60), "") for what, _ in card.not_evaluated[:10]),
    )
    return [(card, True), (names, True), (short, True), (short, False)]


def _cut(value: str, length: int) -> str:
    return value if len(value) <= length else f"{value[: length - 3]}..."


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def _written(card: Card, with_table: bool) -> str:
    drawn = card.dataset == "phantom"
    what = "lesions drawn on phantoms" if drawn else "the 14 findings of NIH ChestX-ray14 in frontal chest X-rays"
    unknown = [name for name in (*FINDINGS, NO_FINDING) if name not in card.classes]
    parts = [
        f"{card.arch}, {card.image_size} px: an image in, 15 probabilities out, of {what} and of No Finding.",
        f"**{_sentence(card.headline)}**",
        f"**Not learned, so their outputs mean nothing:** {', '.join(unknown)}." if unknown else "",
        f"**Use.** {_USE}",
        f"**Data.** {_data(card)}",
        f"**Training.** {card.training}",
        f"**At registration ({card.decided}).** {_sentence(card.decision)} {card.validation}",
        f"**Numbers.** {_numbers(card, with_table)}",
        f"**Thresholds.** {card.thresholds}",
        f"**Probabilities.** {card.calibration}",
        f"**Shortcuts.** {card.maps}" if card.maps else "",
        f"**Not evaluated.**{_absent(card)}",
        f"**To load it:**\n\n```python\n{_code(card)}\n```",
        f"**Made from** {', '.join(f'{stage} `{run}`' for stage, run in card.runs)}; commit `{card.git_commit}`.",
    ]
    return "\n\n".join(part for part in parts if part)


def _data(card: Card) -> str:
    if card.dataset == "phantom":
        return "A drawn phantom, not X-rays: nothing here says anything about real chests."
    if card.dataset == "nih":
        return f"NIH ChestX-ray14 ({card.edition}). {_NIH}"
    return f"{card.dataset} ({card.edition}), under its owners' terms of use."


def _numbers(card: Card, with_table: bool) -> str:
    if not card.rows:
        return "No finding has enough patients for a number."
    if not with_table:
        return "AUROC a finding: `table3_auroc.csv` of the evaluate run."
    lines = [
        f"| {row.finding} | {row.auroc:.3f} | {_ends(row)} | {'yes' if row.few else ''} |"
        for row in sorted(card.rows, key=lambda row: -row.auroc)
    ]
    head = [
        "AUROC on test, 95 % by patient bootstrap; with few positive patients an interval is too narrow:",
        "",
        # the UI's tables have no gaps between columns: no-break spaces make them
        "| finding | \u00a0AUROC\u00a0 | \u00a095 % interval\u00a0 | \u00a0few patients |",
        "| --- | :---: | :---: | :---: |",
    ]
    return "\n".join(head + lines)


def _ends(row: Row) -> str:
    return f"{row.low:.3f} to {row.high:.3f}" if row.low == row.low else "none"  # NaN: no interval


def _absent(card: Card) -> str:
    if any(why for _, why in card.not_evaluated):
        return "\n\n" + "\n".join(f"- {what}: {why}" for what, why in card.not_evaluated)
    names = "; ".join(what for what, _ in card.not_evaluated)
    return f" {names}: `not_evaluated.csv` of the evaluate run says why."


def _code(card: Card) -> str:
    return (
        "import mlflow, pandas\n\n"
        f'model = mlflow.pyfunc.load_model("models:/{card.name}/{card.version}")\n'
        'model.predict(pandas.DataFrame({"image": [open("chest.png", "rb").read()]}))'
    )
