"""Kinds of values that the commands take: what is wrong with one is said here, by name.

Nothing here imports torch or mlflow.
"""

import math
import re
from typing import Any

import click


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


class Names(click.ParamType[tuple[str, ...]]):
    """Some of a few names, joined by commas."""

    name = "names"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name for name in re.split(r"\s*,\s*", str(value).strip()) if name)
        if [name for name in names if name not in self.known]:
            self.fail(f"{value!r}: expected some of {', '.join(self.known)}, joined by commas.", param, ctx)
        return names


class ModelName(click.ParamType[str]):
    """A registered model's name, or empty."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[\w.-]*", str(value)) or str(value) in (".", ".."):
            self.fail(f"{value!r} is not a model name. Expected letters, digits, _ . and -.", param, ctx)
        return str(value)
