"""MLproject says what the commands say: names, defaults and types of all parameters."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
STAGES = ["main", "download", "split", "train", "evaluate", "compare", "explain", "register",
          "report", "predict", "benchmark", "stores"]  # fmt: skip


def command_of(stage: str) -> click.Command:
    command = importlib.import_module(f"entrypoints.{stage}").main
    assert isinstance(command, click.Command)
    return command


def mlproject_type(option: click.Parameter) -> str:
    """The stated mapping: a plain float range is `float`, everything else arrives as it was typed."""
    return "float" if isinstance(option.type, click.FloatRange) else "string"


def test_entry_points_are_the_commands() -> None:
    modules = {path.stem for path in (ROOT / "entrypoints").glob("*.py") if "enter(main," in path.read_text()}
    assert set(PROJECT["entry_points"]) == modules == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_equal_the_commands_options(stage: str) -> None:
    declared = PROJECT["entry_points"][stage]["parameters"]
    options = {option.name: option for option in command_of(stage).params}
    assert set(declared) == set(options)
    for name, option in options.items():
        assert declared[name] == {"type": mlproject_type(option), "default": _default(option)}, name


def _default(option: click.Parameter) -> Any:
    return option.default if mlproject_type(option) == "float" else str(option.default)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_line_passes_each_parameter_once(stage: str) -> None:
    entry = PROJECT["entry_points"][stage]
    words = shlex.split(entry["command"])
    assert words[:3] == ["python", "-m", f"entrypoints.{stage}"]
    passed = list(zip(words[3::2], words[4::2], strict=True))
    assert sorted(passed) == sorted((f"--{name}", f"{{{name}}}") for name in entry["parameters"])


@pytest.mark.parametrize("stage", STAGES)
def test_defaults_are_accepted_by_the_command(stage: str) -> None:
    entry = PROJECT["entry_points"][stage]
    command = entry["command"].format(
        **{name: shlex.quote(str(value["default"])) for name, value in entry["parameters"].items()}
    )
    with command_of(stage).make_context(stage, shlex.split(command)[3:]) as context:
        assert set(context.params) == set(entry["parameters"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_has_a_help_text(stage: str) -> None:
    for option in command_of(stage).params:
        assert isinstance(option, click.Option)
        assert option.help, option.name


def test_every_parameter_has_a_comment() -> None:
    text = (ROOT / "MLproject").read_text()
    lines = [line for line in text.splitlines() if "{type:" in line]
    assert lines
    assert all(re.search(r"\}\s+# \S", line) for line in lines)
