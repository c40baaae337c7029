"""Runs on the MLflow tracking server: fingerprints, start and end of a stage's run, reading upstream runs.

MLflow's own calls (`mlflow.log_metrics`, `mlflow.log_figure` ...) stay as they are in the entry points;
here is what is more than one call.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES, MLFLOW_PARENT_RUN_ID

from cxr import experiment_page
from cxr.errors import InputError, NotDeliveredError
from cxr.interrupt import held

TO_GO_ON = "to_go_on"  # tag of an unfinished run: the command that goes on from it
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a stage's result depends on, and nothing else: its fingerprint names the result."""

    name: str
    config: Mapping[str, object]  # resolved values; not where files lie or which device computes
    data_digest: str  # of the tables or files that the stage itself reads from disk
    upstream: tuple[str, ...] = ()  # run ids

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over configuration, upstream runs, data and code."""
        parts = [self.name, dict(self.config), self.upstream, self.data_digest, code_digest()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def connect() -> None:
    """Make sure that the tracking server answers, before anything is computed for it.

    MLflow itself tries for four minutes; a server that is not there is said at once.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # its notices would drown the stages' own lines
    # uv makes environments without pip, and MLflow warns that it cannot pin it
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    code_digest()
    uri = mlflow.get_tracking_uri()
    if not uri.startswith("http"):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=20):
            pass
    except urllib.error.HTTPError:
        pass  # it answered; a proxy may well refuse /health
    except (OSError, HTTPException, ValueError) as error:  # nobody, somebody else, no address
        raise InputError(f"MLFLOW_TRACKING_URI={place()}: no tracking server answers there ({error}).") from error


def place() -> str:
    """The tracking server's or database's URI, as it may be shown: without a password."""
    return re.sub(r"(://[^/@]*):[^/]*@", r"\1:***@", mlflow.get_tracking_uri())


def finished(stage: Stage) -> str | None:
    """The newest FINISHED run of the active experiment with this stage's fingerprint."""
    runs = mlflow.search_runs(
        filter_string=f"tags.fingerprint = '{stage.fingerprint}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return runs[0].info.run_id if runs else None


@contextlib.contextmanager
def run(stage: Stage, *, title: str, adopt: bool = False, system_metrics: bool = False) -> Iterator[str]:
    """A run for a stage, nested where one is active already; yields its id.

    `adopt` takes the run that `mlflow run` has opened for this command. The run ends FINISHED, or
    FAILED or KILLED with the reason as the tag `failure`.
    """
    opened = os.environ.pop("MLFLOW_RUN_ID", None)
    adopted = opened if adopt else None
    with held():  # a run that the server has made is known here, too
        handle = mlflow.start_run(adopted, nested=True, run_name=title, log_system_metrics=system_metrics)
    run_id: str = handle.info.run_id
    try:
        _describe(stage)
        if MLFLOW_PARENT_RUN_ID not in handle.data.tags:
            experiment_page.describe(handle.info.experiment_id)
        yield run_id
        # the fingerprint comes last: a run that carries it is whole
        with held():  # once it has ended, an interrupt would end its parent
            if stage.data_digest:  # others are never reused
                mlflow.set_tag("fingerprint", stage.fingerprint)
            mlflow.end_run("FINISHED")
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        if interrupted or isinstance(
            error, MlflowException | NotDeliveredError
        ):  # tried for minutes, or no time left
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        with contextlib.suppress(MlflowException):  # the first error is the one to be seen
            mark_failed(run_id, "interrupted" if interrupted else str(error) or repr(error))
            mlflow.end_run("KILLED" if interrupted else "FAILED")
        raise
    finally:
        if opened and not adopt:  # left for the stage that it belongs to; MLflow clears it whenever a run ends
            os.environ["MLFLOW_RUN_ID"] = opened


def mark_failed(run_id: str, reason: str) -> None:
    """Put the reason on a run as the tag `failure`, and as its description, where the UI shows it first."""
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "failure", reason[:5000])
    note = "Interrupted." if reason == "interrupted" else f"Failed: {reason[:5000]}"
    if go_on := client.get_run(run_id).data.tags.get(TO_GO_ON):
        note += f" To go on: `{go_on}`"
    client.set_tag(run_id, "mlflow.note.content", note)


def fail_opened_run(reason: str, status: str = "FAILED") -> None:
    """End the run that `mlflow run` opened, if our code never got to it."""
    opened = os.environ.pop("MLFLOW_RUN_ID", None)
    if opened:
        mark_failed(opened, reason)
        mlflow.MlflowClient().set_terminated(opened, status)


def point_opened_run(to: str) -> None:
    """End the run that `mlflow run` opened as a pointer to the finished run that is reused."""
    opened = os.environ.pop("MLFLOW_RUN_ID", None)
    if opened:
        client = mlflow.MlflowClient()
        original = client.get_run(to)
        client.set_tag(opened, "reuses", to)
        client.set_tag(opened, "mlflow.runName", f"reuses: {original.info.run_name}")
        os.environ["MLFLOW_RUN_ID"] = opened
        close_opened_run(
            f"Nothing was computed: run `{to}` has the same configuration, data, upstream run and code. "
            "`-P fresh=true` runs it again."
        )


def close_opened_run(note: str) -> None:
    """End the run that `mlflow run` opened for a command whose records belong to another run."""
    opened = os.environ.pop("MLFLOW_RUN_ID", None)
    if opened:
        client = mlflow.MlflowClient()
        client.set_tag(opened, "mlflow.note.content", note)
        client.set_terminated(opened, "FINISHED")


def log_params(config: Mapping[str, object]) -> None:
    """Log resolved values as `config.<name>`: `mlflow run` has taken the bare names, as they were typed."""
    mlflow.log_params({f"config.{key}": value for key, value in config.items()})
    mlflow.log_dict(dict(config), "config.json")


def log_frame(frame: pd.DataFrame, name: str) -> None:
    """Log a table at the run's root: `name.parquet` whole, any other name as CSV and as a table of the UI."""
    if name.endswith(".parquet"):
        with tempfile.TemporaryDirectory() as folder:
            frame.to_parquet(Path(folder, name), index=False)
            mlflow.log_artifact(str(Path(folder, name)))
        return
    flat = frame.reset_index(drop=isinstance(frame.index, pd.RangeIndex))  # row numbers say nothing
    mlflow.log_text(flat.to_csv(index=False), f"{name}.csv")
    mlflow.log_table(flat.astype(object).where(flat.notna(), None), f"{name}.json")


def log_arrays(arrays: Mapping[str, np.ndarray], name: str) -> None:
    """Log arrays as one compressed `.npz` at the run's root."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(Path(folder, name), **arrays)  # type: ignore[arg-type]
        mlflow.log_artifact(str(Path(folder, name)))


def copy_artifacts(run_id: str, names: Sequence[str]) -> None:
    """Log another run's artifacts (files, or its folder of image cards) on the active run, where it has them."""
    there = _at_root(run_id)  # one call for all names
    for name in [name for name in names if name in there]:
        path = artifact(run_id, name)
        if path.is_dir():
            mlflow.log_artifacts(str(path), name)
            mlflow.set_tag(MLFLOW_LOGGED_IMAGES, True)  # else the UI does not look for image cards
        else:
            mlflow.log_artifact(str(path))


def address(run_id: str) -> str:
    """Where a person finds a run: its page on the server, or the command that shows the local store."""
    uri = mlflow.get_tracking_uri()
    path = f"#/experiments/{mlflow.get_run(run_id).info.experiment_id}/runs/{run_id}"
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{path}"
    return f"run {run_id}; to see it: mlflow ui --backend-store-uri {uri}, then http://localhost:5000/{path}"


def describe_run(text: str, table: pd.DataFrame | None = None) -> None:
    """Set the run's description: text, and a table under it, as the UI renders Markdown."""
    lines = [text]
    if table is not None:
        names = [str(table.index.name or ""), *map(str, table.columns)]
        rows = [
            [str(index), *map(_cell, row)] for index, row in zip(table.index, table.to_numpy(object), strict=True)
        ]
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in [names, ["---"] * len(names), *rows])]
    mlflow.set_tag("mlflow.note.content", "\n".join(lines))


def _cell(value: object) -> str:
    return f"{value:,.10g}" if isinstance(value, float) else str(value)


def stage_run(run_id: str, stage: str, parameter: str) -> Run:
    """The finished run of a stage; follows a pointer to the run that it reuses.

    Raises InputError, naming `parameter`, for a run that is not there, not finished or of another stage.
    """
    try:
        found = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise  # a server that went away, a right that is missing
        raise InputError(
            f"{parameter}={run_id}: there is no such run on {place()}. Expected the id of a finished {stage} run."
        ) from error
    if "reuses" in found.data.tags:
        return stage_run(found.data.tags["reuses"], stage, parameter)
    of = found.data.tags.get("stage", "no stage of this project")
    if of != stage:
        raise InputError(f"{parameter}={run_id}: that run is of {of}; expected a finished {stage} run.")
    if found.info.status != "FINISHED":
        raise InputError(f"{parameter}={run_id}: that {stage} run is {found.info.status}; expected FINISHED.")
    return found


def frame(run_id: str, path: str) -> pd.DataFrame:
    """Fetch a Parquet table of a run. Raises InputError for one that is missing or not whole."""
    local = artifact(run_id, path)
    try:
        return pd.read_parquet(local)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InputError(f"run {run_id}: its artifact {path} is not a whole table ({error}).") from error


def has(run_id: str, name: str) -> bool:
    """Whether a run has an artifact (file or folder) of this name at its root."""
    return name in _at_root(run_id)


def _at_root(run_id: str) -> set[str]:
    there = mlflow.artifacts.list_artifacts(artifact_uri=_artifact_root(run_id))
    return {Path(item.path).name for item in there}  # a path begins with the root's own name


@functools.cache
def _artifact_root(run_id: str) -> str:
    """Where a run's artifacts are. By run id MLflow asks for it anew with each file, in three calls."""
    uri: str = mlflow.get_run(run_id).info.artifact_uri
    return uri


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    """Where artifacts of other runs lie while this process needs them; removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="cxr-")


def artifact(run_id: str, path: str) -> Path:
    """Fetch an artifact (file or folder) of a run; the path on this machine."""
    try:
        place = Path(_downloads().name, run_id, path).parent
        place.mkdir(exist_ok=True, parents=True)
        uri = f"{_artifact_root(run_id)}/{path}"
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(place)))
    except (MlflowException, OSError) as error:
        raise InputError(f"run {run_id}: its artifact {path} cannot be fetched ({error}).") from error


@functools.cache
def code_digest() -> str:
    """16 hexadecimal digits over all Python files of `cxr/` and `entrypoints/`, as this process found them.

    Kept from the first call, in `connect`: files edited while a run goes on must not rename its result.
    """
    state = hashlib.sha256()
    for folder in ("cxr", "entrypoints"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            state.update(path.relative_to(_ROOT).as_posix().encode())
            state.update(path.read_bytes())
    return state.hexdigest()[:16]


def git_commit() -> str:
    """The commit of the working tree, `-dirty` behind it where files differ from it, or `unknown`."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _describe(stage: Stage) -> None:
    mlflow.set_tags({"stage": stage.name, "code_digest": code_digest(), "git_commit": git_commit()})
    if stage.config:
        log_params(stage.config)
