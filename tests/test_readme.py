"""What the README promises of commands, parameters and files is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CHAIN = ("main", "split", "train", "evaluate", "explain", "register", "report")  # the table's `all`
STAGES = (*CHAIN, "predict", "compare", "download", "benchmark", "stores")


def table_rows() -> dict[tuple[str, str], str]:
    """(Stage, parameter) -> default, from the README's tables."""
    named = f"all|(?:{'|'.join(STAGES)})(?:, (?:{'|'.join(STAGES)}))*"
    rows = re.findall(rf"^\| `(\w+)` \| ({named}) \| (?:`(.*?)`)? ?\|", README, re.M)
    return {
        (stage, name): default
        for name, stages, default in rows
        for stage in (CHAIN if stages == "all" else stages.split(", "))
    }


def test_the_first_line_under_the_title_says_what_the_phantom_is_not() -> None:
    first = README.splitlines()[2]
    assert "not X-rays" in first
    assert "nothing about real X-rays" in first


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_stands_in_the_table_with_its_stage_and_default(stage: str) -> None:
    rows = table_rows()
    for option in importlib.import_module(f"entrypoints.{stage}").main.params:
        assert rows[stage, option.name] == str(option.default), option.name


def test_the_table_names_no_parameter_that_is_not_there() -> None:
    known = {
        (stage, option.name)
        for stage in STAGES
        for option in importlib.import_module(f"entrypoints.{stage}").main.params
    }
    assert set(table_rows()) == known


def test_every_file_that_the_readme_shows_or_names_exists() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for path in ("docker/Dockerfile", "LICENSE", "CONTRIBUTING.md", "conda.yaml", "pyproject.toml"):
        assert path in README
        assert (ROOT / path).is_file()


def test_ci_calls_the_readmes_test_command() -> None:
    assert "uv run pytest" in README
    assert "\nuv run pytest\n" in (ROOT / ".ci" / "run").read_text()


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"\{[A-Z_]+\}|TODO|FIXME", README)
