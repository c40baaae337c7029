"""A team's tracking server, run for real with PostgreSQL, accounts, proxy: what it refuses, keeps, brings back."""

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow.entities import Metric

from tests.server.stack import ADMIN_PASSWORD, Stack, stack, tool
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
REQUIRED = os.environ.get("CXR_SERVER") == "required"  # .ci/run sets it
MISSING = [name for name in ("initdb", "postgres", "nginx") if tool(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not REQUIRED, reason=f"not installed: {', '.join(MISSING)} (Debian: postgresql nginx)"
)
# the chain is tried as a person would call it, small
SMALL = ["--arch", "resnet18", "--image_size", "64", "--epochs", "1", "--stress", "off"]


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with stack() as made:
        yield made


@pytest.fixture(scope="module")
def ann(running: Stack) -> dict[str, str]:
    """The environment of somebody who may log and register."""
    return running.as_user("ann", running.account("ann", "edit"))


@pytest.fixture(scope="module")
def bob(running: Stack) -> dict[str, str]:
    """The environment of somebody who may read."""
    return running.as_user("bob", running.account("bob", "read"))


@pytest.fixture(autouse=True)
def as_admin(running: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key, value in running.as_user("admin", ADMIN_PASSWORD).items():
        if key.startswith("MLFLOW_"):
            monkeypatch.setenv(key, value)
    mlflow.set_tracking_uri(running.uri)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def chain(
    running: Stack, ann: dict[str, str], phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    """The whole experiment, logged and registered by ann through the proxy."""
    store = tmp_path_factory.mktemp("store")
    return stage("main", ann, "--data", str(phantom_folder), "--store", str(store), *SMALL)


def stage(name: str, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"entrypoints.{name}", *words], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a person reads of an error, on one line."""
    assert "Traceback" not in done.stderr, done.stderr
    return " ".join(done.stderr.split())


# ---------------------------------------------------------------- the whole experiment


def test_all_stages_run_against_it_and_register(chain: subprocess.CompletedProcess[str]) -> None:
    assert chain.returncode == 0, chain.stderr
    client = mlflow.MlflowClient()
    runs = client.search_runs(["0"])
    assert {"main", "split", "train", "evaluate", "explain", "register"} <= {
        run.data.tags["stage"] for run in runs
    }
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert client.get_model_version_by_alias("cxr-resnet50", "candidate-phantom").version == "1"
    assert runs[0].data.tags["mlflow.user"]


def test_stages_call_in_batches(chain: subprocess.CompletedProcess[str], running: Stack) -> None:
    """The proxy's own record is the oracle: a line a call."""
    for run in mlflow.search_runs(["0"], "tags.stage != 'main'", output_format="list"):
        calls = running.calls(run.info.start_time / 1e3, run.info.end_time / 1e3)
        artifacts = [what for _, what in calls if "/mlflow-artifacts/" in what]
        numbers = [what for _, what in calls if re.search("/log-(metric|batch)", what)]
        # MLflow marks a run for each image, in its own time: in one call or in as many as there are images
        marks = sum(what.endswith(".png") and "/artifacts/images/" in what for what in artifacts)
        # the evaluate stage has some six hundred metrics
        assert len(numbers) <= 12 + marks, (run.data.tags["stage"], numbers)
        assert len(calls) - len(artifacts) <= 60 + marks, (run.data.tags["stage"], [what for _, what in calls])


def test_two_clients_log_twenty_runs_each_at_once(running: Stack, ann: dict[str, str]) -> None:
    code = """
import sys, mlflow
mlflow.set_experiment("at once")
for number in range(20):
    with mlflow.start_run(run_name=f"{sys.argv[1]}-{number}"):
        mlflow.log_params({"client": sys.argv[1], "number": number})
        mlflow.log_metrics({f"m{i}": number * 100 + i for i in range(20)}, step=number)
        mlflow.log_text(f"{sys.argv[1]} {number}", "said.txt")
"""
    mlflow.create_experiment("at once")  # two that make the same one at once: one is told that it is there
    clients = [
        subprocess.Popen([sys.executable, "-c", code, name], env=ann, stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    for client in clients:
        _, err = client.communicate(timeout=200)
        assert client.returncode == 0, err
    runs = mlflow.search_runs(experiment_names=["at once"], output_format="list", max_results=100)
    assert sorted(run.info.run_name for run in runs) == sorted(
        f"{c}-{n}" for c in ("first", "second") for n in range(20)
    )
    for run in runs:
        number = int(run.data.params["number"])
        assert run.data.metrics == {f"m{i}": number * 100 + i for i in range(20)}
        assert (
            mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/said.txt")
            == f"{run.data.params['client']} {number}"
        )


# ---------------------------------------------------------------- what it refuses


def test_a_wrong_password_is_one_message(running: Stack, phantom_folder: Path) -> None:
    done = stage("split", running.as_user("ann", "wrong-wrong-wrong"), "--data", str(phantom_folder))
    assert done.returncode == 1
    assert re.search("password|credentials|not authenticated|401", said(done), re.IGNORECASE)
    assert len(said(done)) < 500


def test_who_may_read_can_neither_register_nor_log(
    chain: subprocess.CompletedProcess[str], bob: dict[str, str], phantom_folder: Path, tmp_path: Path
) -> None:
    before = mlflow.MlflowClient().get_registered_model("cxr-resnet50")
    done = stage("register", bob, "--model", "models:/cxr-resnet50/1", "--store", str(tmp_path))
    assert done.returncode == 1
    assert re.search("permission|403|not allowed", said(done), re.IGNORECASE)
    done = stage("split", bob, "--data", str(phantom_folder), "--fresh", "true")
    assert done.returncode == 1
    assert re.search("permission|403|not allowed", said(done), re.IGNORECASE)
    after = mlflow.MlflowClient().get_registered_model("cxr-resnet50")
    assert after.aliases == before.aliases
    assert after.last_updated_timestamp == before.last_updated_timestamp


def test_who_may_read_pulls_models(chain: subprocess.CompletedProcess[str], bob: dict[str, str]) -> None:
    code = (
        "import mlflow; model = mlflow.pyfunc.load_model('models:/cxr-resnet50/1'); "
        "print(model.metadata.signature.outputs.input_names()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bob, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Atelectasis"


def test_another_host_name_and_another_origin_are_refused(running: Stack) -> None:
    address, login = f"{running.uri}/api/2.0/mlflow/experiments/search?max_results=1", ("admin", ADMIN_PASSWORD)
    assert requests.get(address, auth=login, timeout=30).status_code == 200
    other = requests.get(address, auth=login, headers={"Host": "evil.example"}, timeout=30)
    assert (other.status_code, "Invalid Host header" in other.text) == (403, True)
    for origin, allowed in (
        (running.uri, True),
        ("http://evil.example", False),
    ):  # a browser's page, ours and another
        answer = requests.post(
            f"{running.uri}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, auth=login,
            headers={"Origin": origin}, timeout=30,
        )  # fmt: skip
        assert (answer.status_code == 200) == allowed, answer.text


def test_without_an_account_nothing_is_told(running: Stack) -> None:
    for path in ("/api/2.0/mlflow/experiments/search?max_results=1", "/get-artifact?path=x&run_uuid=y", "/"):
        assert requests.get(running.uri + path, timeout=30).status_code == 401
    assert requests.post(f"{running.uri}/invocations", data=b"{}", timeout=30).status_code == 401


def test_bodies_over_the_limit_are_refused_before_they_are_sent(running: Stack) -> None:
    login = base64.b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode()
    for path, most in (("/invocations", 32 << 20), ("/api/2.0/mlflow-artifacts/artifacts/x", 1 << 30)):
        answers = []
        for size in (most, most + 1):
            call = http.client.HTTPConnection("127.0.0.1", running.proxy_port, timeout=2)
            call.putrequest("PUT", path)
            call.putheader("Authorization", f"Basic {login}")
            call.putheader("Content-Length", str(size))
            call.endheaders()  # and not a byte of the body
            try:
                answers.append(call.getresponse().status)
            except TimeoutError:
                answers.append(0)  # it waits for the body
            call.close()
        assert answers == [0, 413], path


def test_the_scripts_name_what_is_missing(tmp_path: Path) -> None:
    script = [str(ROOT / "docker/serve-tracking")]
    done = subprocess.run(script, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert (done.returncode, "ALLOWED_HOSTS is not set" in done.stderr) == (2, True)
    environment = {
        "PATH": os.environ["PATH"],
        "ALLOWED_HOSTS": "x",
        "ARTIFACTS": "x",
        "POSTGRES_PASSWORD_FILE": "/none",
    }
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "POSTGRES_PASSWORD_FILE=/none: no such file" in done.stderr) == (2, True)


# ---------------------------------------------------------------- what it keeps


def test_kill_9_of_server_and_database_loses_nothing_that_was_acknowledged(running: Stack) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run("0", run_name="killed").info.run_id
    address = f"{running.uri}/api/2.0/mlflow/runs/log-batch"
    acknowledged: list[int] = []
    over = threading.Event()

    def log() -> None:
        number = 0
        while not over.is_set():
            number += 1
            body = {"run_id": run_id, "metrics": [Metric("m", number, 0, number).to_dictionary()]}
            try:
                answer = requests.post(address, json=body, auth=("admin", ADMIN_PASSWORD), timeout=30)
            except requests.RequestException:
                continue
            if answer.status_code == 200:
                acknowledged.append(number)

    writer = threading.Thread(target=log)
    writer.start()
    try:
        for part, again in (("tracking", running.start_tracking), ("postgres", running.start_postgres)):
            before = len(acknowledged)
            wait_until(lambda before=before: len(acknowledged) > before + 20, 90)
            running.end(part, signal.SIGKILL)
            again()
            before = len(acknowledged)
            wait_until(lambda before=before: len(acknowledged) > before + 5, 90)  # it goes on by itself
    finally:
        over.set()
        writer.join()
    there = {metric.step for metric in client.get_metric_history(run_id, "m")}
    assert len(acknowledged) > 50
    assert set(acknowledged) <= there
    client.set_terminated(run_id)


# ---------------------------------------------------------------- back-up


def snapshot(client: mlflow.MlflowClient, running: Stack) -> dict[str, Any]:
    """All that people have on the server: through its interface, and every table of its databases by digest."""
    seen: dict[str, Any] = {}
    for database in ("mlflow", "mlflow_auth"):
        names = running.sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'").split()
        assert {"mlflow": "metrics", "mlflow_auth": "users"}[database] in names
        for name in names:  # every metric's whole history among them
            whole = f"SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM {name} t"
            seen[f"table {database}.{name}"] = running.sql(database, whole)
    for experiment in client.search_experiments():
        seen[f"experiment {experiment.experiment_id}"] = (experiment.name, dict(experiment.tags))
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            data = {**run.to_dictionary()["data"], "inputs": None}
            seen[f"run {run.info.run_id}"] = (run.to_dictionary()["info"], data)
    for model in client.search_registered_models():
        seen[f"model {model.name}"] = (dict(model.aliases), dict(model.tags), model.description)
        for version in client.search_model_versions(f"name='{model.name}'"):
            seen[f"version {model.name} {version.version}"] = {
                key: value for key, value in dict(version).items() if key != "aliases"
            }
    for name in ("ann", "bob"):
        seen[f"user {name}"] = [
            (role["name"], asked(running, f"roles/permissions/list?role_id={role['id']}"))
            for role in asked(running, f"users/roles/list?username={name}")["roles"]
        ]
    return json.loads(json.dumps(seen, default=str, sort_keys=True))  # type: ignore[no-any-return]


def asked(running: Stack, what: str) -> Any:
    answer = requests.get(f"{running.uri}/api/3.0/mlflow/{what}", auth=("admin", ADMIN_PASSWORD), timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_a_back_up_brings_everything_back(
    chain: subprocess.CompletedProcess[str],
    running: Stack,
    ann: dict[str, str],
    bob: dict[str, str],
    tmp_path: Path,
) -> None:
    client = mlflow.MlflowClient()
    before, artifacts = snapshot(client, running), files(running.artifacts)
    assert int(before["table mlflow.metrics"].partition("|")[0]) > 1000
    assert any(name.endswith("weights.safetensors") for name in artifacts)
    made = running.tool_run("backup", str(tmp_path))
    assert made.returncode == 0, made.stderr
    backup = Path(made.stdout.strip())
    assert sorted(path.name for path in backup.iterdir()) == [
        "SHA256SUMS", "artifacts.tar", "mlflow.dump", "mlflow_auth.dump",
    ]  # fmt: skip

    refused = running.tool_run("restore", str(backup))
    assert (refused.returncode, "stop the tracking server first" in refused.stderr) == (1, True)
    running.end("tracking")
    refused = running.tool_run("restore", str(backup))
    assert (refused.returncode, "--over replaces them" in refused.stderr) == (1, True)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in backup.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes()[: -1 if path.suffix == ".tar" else None])
    refused = running.tool_run("restore", str(damaged), "--over")
    assert (refused.returncode, "damaged. Nothing was changed" in refused.stderr) == (1, True)
    assert files(running.artifacts) == artifacts

    for database in ("mlflow", "mlflow_auth"):
        running.sql("postgres", f"DROP DATABASE {database}")
        running.sql("postgres", f"CREATE DATABASE {database}")
    for path in running.artifacts.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)
    done = running.tool_run("restore", str(backup))
    assert done.returncode == 0, done.stderr
    running.start_tracking()
    assert files(running.artifacts) == artifacts
    assert snapshot(client, running) == before
    model = subprocess.run(
        [sys.executable, "-c", "import mlflow; mlflow.pyfunc.load_model('models:/cxr-resnet50/1')"], env=bob,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert model.returncode == 0, model.stderr  # bob's account is there, too

    running.end("tracking")  # and over what is there
    assert running.tool_run("restore", str(backup), "--over").returncode == 0
    running.start_tracking()
    assert snapshot(client, running) == before


def test_a_back_up_that_fails_leaves_nothing_under_a_good_name(running: Stack, tmp_path: Path) -> None:
    environment = running.postgres_environment | {"PGPORT": "1"}
    done = subprocess.run(
        [str(ROOT / "docker/backup"), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []
