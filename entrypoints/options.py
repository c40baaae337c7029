"""Options that the commands share, and their types: what is wrong is refused here, by name.

Nothing here imports torch or mlflow, so that `--help` and usage errors answer at once.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from cxr.training.recipe import RECIPES, Overrides

ARCHS = ("resnet18", "resnet34", "resnet50")
LAYERS = ("layer1", "layer2", "layer3", "layer4")


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


class Maybe(click.ParamType[Any]):
    """Another type, or empty for "not set": MLproject has no other way to leave a parameter out."""

    def __init__(self, inner: click.ParamType[Any]) -> None:
        self.inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value in ("", None) else self.inner.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self.inner.get_metavar(param, ctx)


class Number(click.FloatRange):
    """A float in a range; nan compares false with every bound, so it is refused by name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Device(click.ParamType[str]):
    """auto, cpu, cuda or cuda:N; whether it is there is asked later, where torch is imported."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
            self.fail(f"{value!r} is not a device. Expected auto, cpu, cuda or cuda:N.", param, ctx)
        return str(value)


class ModelName(click.ParamType[str]):
    """A registered model's name, or empty."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[\w.-]*", str(value)) or str(value) in (".", ".."):
            self.fail(f"{value!r} is not a model name. Expected letters, digits, _ . and -.", param, ctx)
        return str(value)


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
    click.option("--lr", type=Maybe(Number(0.0, 10.0, min_open=True)), default="", help="Adam's step size. "
                 "Empty: the recipe's."),
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
model = click.option(
    "--model", default="", help="models:/NAME/VERSION, models:/NAME@ALIAS or the id of a train run. Empty: the "
    "train run with the default parameters, made first if there is none.",
)  # fmt: skip
layer = click.option(
    "--layer", type=click.Choice(["auto", *LAYERS]), default="auto", help="Block whose output is mapped. auto: "
    "layer4, or layer3 where images are under 224 px.",
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
    def called(
        recipe: str, arch: str | None, image_size: int | None, epochs: int | None, batch_size: int | None,
        lr: float | None, **own: Any,
    ) -> None:  # fmt: skip
        overrides = Overrides(arch=arch, image_size=image_size, epochs=epochs, batch_size=batch_size, lr=lr)
        command(recipe=recipe, overrides=overrides, **own)

    return _with(_TRAINING, called)


def _with(options: tuple[Callable[..., Any], ...], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


def store_folder(value: str) -> Path:
    """The folder of stores that was asked for, or the user's cache folder."""
    from cxr.data.store import default_root  # numpy and pillow: not before they are needed

    return Path(value).expanduser().absolute() if value else default_root()
