"""Options that the commands share, and their types: what is wrong is refused here, by name.

Nothing here imports torch or mlflow, so that `--help` and usage errors answer at once.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from cxr.training.recipe import LOSSES, RECIPES, Overrides
from entrypoints.kinds import Device, Maybe, ModelName, Names, Number

ARCHS = ("resnet18", "resnet34", "resnet50")
LAYERS = ("layer1", "layer2", "layer3", "layer4")
SPEEDUPS = ("bfloat16", "channels_last", "fused", "compile", "resident")  # cxr.device's; that imports torch


@dataclass(frozen=True, kw_only=True)
class Common:
    """The values that every stage takes, checked."""

    command: str  # the stage that the user called; its run is the one that `mlflow run` opened
    data: str
    images: str
    store: Path
    seed: int
    device: str
    limit: int | None
    split: str
    uncertain: str
    on_bad_image: str
    fresh: bool

    def for_upstream(self) -> "Common":
        """The same for a stage that is made on the way: fresh=true is for the one that was called."""
        return replace(self, fresh=False)


@dataclass(frozen=True, kw_only=True)
class How:
    """How training runs: with how much of what, not what is trained."""

    processes: int = 1  # on this machine; each GPU takes one
    nodes: int = 1
    node: int = 0
    rendezvous: str = ""
    without: tuple[str, ...] = ()
    pretrained: Path | None = None
    checkpoint_minutes: float = 10.0
    wait_minutes: float = 10.0


_COMMON = (
    click.option("--data", default="auto", help="phantom (a drawn cohort), a folder in NIH's layout, or another "
                 "set: chexpert:FOLDER, mimic-cxr-jpg:FOLDER, padchest:FOLDER, covid-chestxray:FOLDER, csv:FILE; "
                 "auto: what the given split_run or model was made from, else phantom."),
    click.option("--images", type=click.Choice(["all", "present", "skip"]), default="all",
                 help="all: a missing file is an error; present: keep the rows whose file exists; "
                 "skip: look for none (split only)."),
    click.option("--store", default="", help="Folder for packed images and the drawn phantom. "
                 "Empty: the user's cache folder."),
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=123, help="Of the validation carve, "
                 "the initial weights and the order of images."),
    click.option("--device", type=Device(), default="auto", help="auto, cpu, cuda or cuda:N."),
    click.option("--limit", type=Maybe(click.IntRange(min=1)), default="", help="Keep the first N patients, "
                 "for trying things. Empty: all."),
    click.option("--split", type=click.Choice(["auto", "official", "random-patient", "custom", "test"]),
                 default="auto", help="official: the set's own lists, NIH's checked by digest; random-patient: "
                 "70 / 10 / 20 percent of the patients, not comparable with official; custom: the lists in the "
                 "folder as they are; test: test images only; auto: official for NIH, test for another set."),
    click.option("--uncertain", type=click.Choice(["zeros", "ones"]), default="zeros", help="What CheXpert's and "
                 "MIMIC's uncertain labels count as: absent (zeros) or present (ones)."),
    click.option("--on_bad_image", type=click.Choice(["stop", "skip"]), default="stop", help="stop: an image file "
                 "that cannot be read is an error that lists them all; skip: the split loses exactly those rows."),
    click.option("--fresh", type=click.BOOL, default="false", help="true: run again even where a finished run "
                 "has the same configuration, data, upstream run and code."),
)  # fmt: skip
_TRAINING = (
    click.option("--recipe", type=click.Choice(["auto", *RECIPES]), default="auto",
                 help="auto: demo on the phantom, paper on anything else."),
    click.option("--arch", type=Maybe(click.Choice(ARCHS)), default="", help="Network. Empty: the recipe's."),
    click.option("--image_size", type=Maybe(click.IntRange(64, 2048)), default="", help="Pixels a side. Empty: "
                 "the recipe's."),
    click.option("--epochs", type=Maybe(click.IntRange(1, 10_000)), default="", help="Empty: the recipe's."),
    click.option("--batch_size", type=Maybe(click.IntRange(2, 65_536)), default="", help="Images a step. Empty: "
                 "the recipe's."),
    click.option("--lr", type=Maybe(Number(0.0, 10.0, min_open=True)), default="", help="Adam's step size; the "
                 "highest where there is a schedule. Empty: the recipe's."),
    click.option("--weight_decay", type=Maybe(Number(0.0, 10.0)), default="", help="Decoupled from the gradient "
                 "(AdamW); 0: Adam. Empty: the recipe's."),
    click.option("--warmup_epochs", type=Maybe(Number(0.0, 10_000.0)), default="", help="Epochs over which the "
                 "rate rises to lr; fractions too. Empty: the recipe's."),
    click.option("--final_lr", type=Maybe(Number(0.0, 1.0)), default="", help="Last rate as a share of lr, "
                 "reached along a cosine; 1: a fixed rate. Empty: the recipe's."),
    click.option("--ema", type=Maybe(Number(0.0, 1.0, max_open=True)), default="", help="Decay of the moving "
                 "average of weights, such as 0.999; 0: none. Empty: the recipe's."),
    click.option("--rotate", type=Maybe(Number(0.0, 180.0)), default="", help="Training images: largest rotation "
                 "either way, in degrees. Empty: the recipe's."),
    click.option("--rescale", type=Maybe(Number(0.0, 1.0, max_open=True)), default="", help="Training images: "
                 "largest change of size, as a share. Empty: the recipe's."),
    click.option("--shift", type=Maybe(Number(0.0, 1.0)), default="", help="Training images: largest shift along "
                 "each axis, as a share of the side. Empty: the recipe's."),
    click.option("--flip", type=Maybe(Number(0.0, 1.0)), default="", help="Training images: probability of a "
                 "horizontal flip. Empty: the recipe's."),
    click.option("--loss", type=Maybe(click.Choice(LOSSES)), default="", help="bce; pos_weight and asymmetric "
                 "raise rare findings, and their outputs are no probabilities. Empty: the recipe's."),
    click.option("--sync_batch_norm", type=Maybe(click.BOOL), default="", help="true: batch norm over the images "
                 "of all GPUs; false: of each. Empty: the recipe's."),
)  # fmt: skip

processes = click.option(
    "--processes", type=click.IntRange(1, 1024), default=1, help="Processes on this machine that share each batch "
    "of training, and the images to score: one a GPU, or some on a CPU.",
)  # fmt: skip
_HOW = (
    processes,
    click.option("--without", type=Names(SPEEDUPS), default="", help="Speed-ups to leave out, joined by commas: "
                 "bfloat16, channels_last, fused (optimiser), compile, resident (all images on the GPU)."),
    click.option("--pretrained", type=Maybe(click.Path(exists=True, dir_okay=False, path_type=Path)), default="",
                 help="File of weights to start from, .safetensors or saved by torch; the last layer starts at "
                 "random. Empty: random weights, as the paper's."),
    click.option("--checkpoint_minutes", type=Number(0.0, 10_000.0, min_open=True), default=10.0,
                 help="A checkpoint in mid-epoch as often as this; there is one after each epoch in any case."),
    click.option("--wait_minutes", type=Number(0.0, 100_000.0), default=10.0, help="How long the end of training "
                 "waits for a tracking server that is away."),
)  # fmt: skip
seeds = click.option(
    "--seeds", type=click.IntRange(1, 100), default=1, help="Train and evaluate with so many seeds, from seed on, "
    "as child runs; mean and SD of their test AUROC.",
)  # fmt: skip
_MACHINES = (
    click.option("--nodes", type=click.IntRange(1, 1024), default=1, help="Machines that train together; call "
                 "train on each, with the same values but for node."),
    click.option("--node", type=click.IntRange(0, 1023), default=0, help="This machine, from 0; 0 keeps the "
                 "records."),
    click.option("--rendezvous", default="", help="HOST:PORT where the machines meet: a free port of one of "
                 "them."),
)  # fmt: skip

val_fraction = click.option(
    "--val_fraction", type=Number(0.0, 0.5, min_open=True), default=0.1,
    help="Share of the patients that becomes validation: of train_val's, or of all with split=random-patient.",
)  # fmt: skip
register_as = click.option(
    "--register_as",
    type=ModelName(),
    default="cxr-resnet50",
    help="Registered model's name. Empty: do not register.",
)
promote = click.option(
    "--promote", type=click.Choice(["auto", "always", "never"]), default="auto", help="auto: the version becomes "
    "champion where its validation scores are clearly better; always: in any case, which also rolls back; never: "
    "candidate only.",
)  # fmt: skip
model = click.option(
    "--model", default="", help="models:/NAME/VERSION, models:/NAME@ALIAS or the id of a train run. Empty: the "
    "train run with the default parameters, made first if there is none.",
)  # fmt: skip
layer = click.option(
    "--layer", type=click.Choice(["auto", *LAYERS]), default="auto", help="Block whose output is mapped. auto: "
    "layer4, or layer3 where images are under 224 px.",
)  # fmt: skip
stress = click.option(
    "--stress", type=click.Choice(["quick", "full", "off"]), default="quick", help="What is done to the maps: "
    "quick takes a stated few images, full many and every region; off: maps and boxes only.",
)  # fmt: skip


def refuse_idle(common: Common, given: str, value: str) -> None:
    """What makes a split, beside a run or model whose split is made already, would silently change nothing."""
    unset = {"limit": None, "split": "auto", "uncertain": "zeros", "images": "all"}
    for name, default in unset.items():
        if value and (idle := getattr(common, name)) != default:
            raise click.UsageError(
                f"{name}={idle} has no effect beside {given}={value}, whose split is made already."
            )


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that every stage takes; the command gets them as one `common: Common`."""

    @functools.wraps(command)
    def called(
        data: str, images: str, store: str, seed: int, device: str, limit: int | None, split: str, uncertain: str,
        on_bad_image: str, fresh: bool, **own: Any,
    ) -> None:  # fmt: skip
        values = Common(
            command=click.get_current_context().info_name or "", data=data, images=images,
            store=store_folder(store), seed=seed, device=device, limit=limit, split=split, uncertain=uncertain,
            on_bad_image=on_bad_image, fresh=fresh,
        )  # fmt: skip
        command(common=values, **own)

    return _with(_COMMON, called)


def training(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that make a recipe; the command gets `recipe: str` and `overrides: Overrides`."""

    @functools.wraps(command)
    def called(recipe: str, **own: Any) -> None:
        overrides = Overrides(**{value.name: own.pop(value.name) for value in fields(Overrides)})
        command(recipe=recipe, overrides=overrides, **own)

    return _with(_TRAINING, called)


def how(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how training runs; the command gets them as one `how: How`."""

    @functools.wraps(command)
    def called(**own: Any) -> None:
        command(how=How(**{value.name: own.pop(value.name) for value in fields(How) if value.name in own}), **own)

    return _with(_HOW, called)


def machines(command: Callable[..., None]) -> Callable[..., None]:
    """Add, above `how`'s, the options of several machines that train together."""
    return _with(_MACHINES, command)


def refuse_beside_resume(resume: str, given: Mapping[str, object]) -> None:
    """What decides the result comes from the run that is gone on from: a value of one's own would do nothing."""
    if resume:
        for option in click.get_current_context().command.params:
            if option.name in given and given[option.name] not in (option.default, None):
                raise click.UsageError(
                    f"{option.name}={given[option.name]} beside resume: a resumed run keeps its own "
                    f"{option.name}. Leave it out."
                )


def refuse_strangers(how: How, common_run: str) -> None:
    """Several machines must be told where they meet and which split is theirs; one machine must not."""
    if how.node >= how.nodes:
        raise click.UsageError(f"node={how.node}: expected 0 to {how.nodes - 1} with nodes={how.nodes}.")
    if how.nodes == 1 and how.rendezvous:
        raise click.UsageError(f"rendezvous={how.rendezvous} has no effect with nodes=1.")
    if how.nodes > 1 and not re.fullmatch(r"[^:\s]+:\d+", how.rendezvous):
        raise click.UsageError(f"rendezvous={how.rendezvous!r}: {how.nodes} machines need HOST:PORT to meet.")
    if how.nodes > 1 and not common_run:
        raise click.UsageError(f"nodes={how.nodes}: give split_run, so that all machines train on the same split.")


def _with(options: tuple[Callable[..., Any], ...], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


def store_folder(value: str) -> Path:
    """The folder of stores that was asked for, or the user's cache folder."""
    from cxr.data.store import default_root  # numpy and pillow: not before they are needed

    return Path(value).expanduser().absolute() if value else default_root()
