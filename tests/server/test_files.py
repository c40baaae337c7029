"""The files of docker/ that no engine has run: against their schema, and against what they name."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_holds_to_the_schema_of_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DOCKER / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_compose_mounts_and_builds_is_there() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./") and source != "./backups":
                assert (DOCKER / source).exists(), (name, source)
            elif not source.startswith((".", "$")):
                assert source in COMPOSE["volumes"], (name, source)
        if build := service.get("build"):
            assert (DOCKER / build["context"] / build["dockerfile"]).is_file(), name
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name


def test_no_service_but_the_proxy_is_reached_from_outside_and_no_secret_is_in_the_file() -> None:
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["proxy"]
    assert all("PASSWORD=" not in str(service) for service in COMPOSE["services"].values())
    for name in ("secrets/", "backups/"):
        assert f"docker/{name}" in (ROOT / ".gitignore").read_text()
        assert f"docker/{name}".rstrip("/") in (ROOT / ".dockerignore").read_text().splitlines()


def test_a_stage_has_the_time_for_its_last_checkpoint() -> None:
    stages = COMPOSE["services"]["stages"]
    assert (stages["stop_grace_period"], stages["stop_signal"]) == ("60s", "SIGINT")  # README: 25 s at most


def test_the_images_have_the_projects_mlflow() -> None:
    pin = next(
        line.strip(' ",') for line in (ROOT / "pyproject.toml").read_text().splitlines() if '"mlflow==' in line
    )
    version = pin.removeprefix("mlflow==")
    assert f'"mlflow[auth]=={version}"' in (DOCKER / "tracking.Dockerfile").read_text()
    assert f'"mlflow[auth]=={version}"' in (ROOT / "pyproject.toml").read_text()


def test_neither_image_runs_as_root() -> None:
    for name in ("Dockerfile", "tracking.Dockerfile"):
        lines = (DOCKER / name).read_text().splitlines()
        assert [line for line in lines if line.startswith("USER ")][-1] != "USER root", name
        assert all(":latest" not in line and ":" in line for line in lines if line.startswith("FROM")), name


def test_scripts_are_executable_and_whole() -> None:
    for name in ("serve-tracking", "backup", "restore", "account"):
        assert (DOCKER / name).stat().st_mode & 0o111 == 0o111, name
    for name in ("serve-tracking", "backup", "restore"):  # `account` is Python, and the suite's stack calls it
        assert subprocess.run(["sh", "-n", str(DOCKER / name)], check=False).returncode == 0, name
