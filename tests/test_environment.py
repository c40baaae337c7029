"""The two lists of packages do not drift apart, and the running environment is the pinned one."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "conda.yaml").read_text())


def pins() -> list[str]:
    dependencies: list[str] = PROJECT["dependencies"]
    return dependencies


def test_conda_and_pyproject_pin_the_same_packages() -> None:
    (pip,) = [item["pip"] for item in CONDA["dependencies"] if isinstance(item, dict)]
    assert sorted(pip) == sorted(pins())


def test_every_package_is_pinned_exactly_and_installed_so() -> None:
    for pin in pins():
        name, equals, number = pin.partition("==")
        assert equals, pin
        assert version(name).split("+")[0] == number, pin


def test_conda_names_a_python_that_the_project_supports() -> None:
    assert "python=3.11" in CONDA["dependencies"]
    assert PROJECT["requires-python"] == ">=3.11.4"
