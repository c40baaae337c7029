"""Delivery: what a training run writes to its folder reaches the tracking server in the background.

    <folder>/delivered.json    how far the journal went to which run, and which checkpoint lies in which slot there
    <folder>/sending/          the checkpoint in flight, as a hard link: no later save changes it under the upload
    <folder>/.courier.lock     one courier a folder

Records go in the journal's order. One that is sent again, because the answer was lost, is not doubled: MLflow's
SQL stores hold one row for a (key, timestamp, step, value). Of checkpoints the newest goes, to that of two slots,
`checkpoints/last-0.pt` and `last-1.pt`, which does not hold the newest whole one there: the file, then its json.
"""

import json
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import requests
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from cxr import checkpoint
from cxr.checkpoint import NAMES, Slot
from cxr.errors import InputError
from cxr.errors import NotDeliveredError as NotDeliveredError  # whoever sends asks here for it
from cxr.training.logbook import JOURNAL, Record, read

REMOTE = "checkpoints"
_METRICS_A_CALL = 1000  # MLflow's limit
_POLL_SECONDS = 0.5
_PAUSE_SECONDS = (1.0, 15.0)  # between attempts at a server that is away: the first, doubled up to the last


class UnderWayError(InputError):
    """Another process works on the folder."""


@dataclass(frozen=True, kw_only=True)
class _Delivered:
    run_id: str
    journal_bytes: int = 0
    records: int = 0
    checkpoint: str = ""  # digest of the last one that arrived
    slot: str = ""  # where it lies on the server; empty: not known


class Courier:
    """Sends while it is entered: `with Courier(folder, run_id) as courier: ...; courier.finish(60)`.

    A server that is away is tried again for as long as it takes; a refusal ends the sending of what was refused.
    Neither disturbs who writes the folder: `finish` raises. `tell` gets a line when the server goes, when it is
    back, and when it refuses, from the courier's thread.
    """

    def __init__(
        self, folder: Path, run_id: str, *, client: MlflowClient | None = None, tell: Callable[[str], None] = print
    ) -> None:
        self.folder, self.run_id = folder, run_id
        self._client = client or MlflowClient()
        self._tell = tell
        # the thread lets go of it, at its end: not before a call in flight has come back
        self._lock = FileLock(folder / ".courier.lock", thread_local=False)
        self._thread = threading.Thread(target=self._work, name=f"courier of {run_id}", daemon=True)
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._round = threading.Condition()
        self._refused: dict[str, Exception] = {}  # "records" or "checkpoints" -> why it is sent no more
        self._away: Exception | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UnderWayError(f"{self.folder}: that run is under way in another process.") from error
        self._delivered = self._remembered()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending. A call in flight is waited for a second, then left to the thread, which ends after it."""
        self._closing.set()
        self._wake.set()
        self._thread.join(1)

    def finish(self, patience: float, *, at_most: float = math.inf) -> None:
        """Wait until all in the folder is delivered.

        Raises NotDeliveredError where the server refuses it, is away for `patience` seconds, or is not done after
        `at_most` seconds.
        """
        start = time.monotonic()
        away, error = None, None  # since when, and how it was noticed: a call in flight may be tried for minutes
        self._wake.set()  # out of a pause: the last attempt may be a while ago
        while missing := self._missing():
            if all(kind in self._refused for kind in missing) or time.monotonic() - start > at_most:
                break
            asked = time.monotonic()
            try:
                self._require_answer(timeout=5)
                away = None
            except Exception as noticed:
                away, error = away or asked, noticed
                if time.monotonic() - away >= patience:
                    break
            with self._round:
                self._round.wait(min(1.0, max(0.0, start + at_most - time.monotonic())))
        if missing:
            raise self._not_delivered(missing, error if away else None)

    def _not_delivered(self, missing: dict[str, str], away: Exception | None) -> NotDeliveredError:
        errors = [*(self._refused.get(kind) for kind in missing), away, self._away]
        error = next((error for error in errors if error), None)
        told = NotDeliveredError(
            f"run {self.run_id}: {' and '.join(missing.values())} did not reach the tracking server "
            f"({error or 'the time was too short'}). Kept in {self.folder}."
        )
        told.only_checkpoints = set(missing) == set(self._refused) == {"checkpoints"}
        told.__cause__ = error
        return told

    def _missing(self) -> dict[str, str]:
        """What stands in the folder and is not delivered: kind -> in words."""
        missing = {}
        if records := read(self.folder, self._delivered.journal_bytes, torn_end=True):
            missing["records"] = f"{len(records)} record{'s' * (len(records) > 1)}"
        slot = checkpoint.describe(self.folder)
        if slot and slot.digest != self._delivered.checkpoint:
            missing["checkpoints"] = f"the checkpoint {slot.path.name} of epoch {slot.epoch}, step {slot.step}"
        return missing

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        first, longest = _PAUSE_SECONDS
        pause, sent_before = first, 0
        try:
            while not self._closing.is_set():
                self._wake.clear()
                away = self._send()
                if away and not self._away:
                    sent_before = self._delivered.records
                    kept = f"records are kept in {self.folder} and sent when it is back"
                    self._tell(f"tracking server does not answer; {kept}")
                elif self._away and not away:
                    sent = self._delivered.records - sent_before
                    self._tell(f"tracking server is back; {sent} record{'s' * (sent != 1)} sent")
                with self._round:
                    self._away = away
                    self._round.notify_all()
                self._wake.wait(pause if away else _POLL_SECONDS)
                pause = min(2 * pause, longest) if away else first
        finally:
            self._lock.release()

    def _send(self) -> Exception | None:
        """Send what can be sent; the error where the server is away."""
        try:
            for kind, send in (("records", self._send_records), ("checkpoints", self._send_checkpoint)):
                if kind not in self._refused:
                    send()
        except Exception as error:  # whatever it is, training goes on; `finish` raises it
            if _is_away(error):
                return error
            self._refused[kind] = error
            self._tell(f"the {kind} cannot be sent to the tracking server and stay in {self.folder}: {error}")
        return None

    def _send_records(self) -> None:
        for batch in _batches(read(self.folder, self._delivered.journal_bytes, torn_end=True)):
            if self._closing.is_set():
                return
            self._require_answer()
            self._client.log_batch(
                self.run_id,
                [
                    Metric(key=name, value=value, timestamp=record.time_ms, step=record.step)
                    for record in batch
                    for name, value in record.metrics.items()
                ],
            )
            self._remember(journal_bytes=batch[-1].end, records=self._delivered.records + len(batch))

    def _send_checkpoint(self) -> None:
        slot = checkpoint.describe(self.folder)
        if slot is None or slot.digest == self._delivered.checkpoint or self._closing.is_set():
            return
        self._require_answer()
        if not self._delivered.slot:
            self._look_on_the_server()
            if slot.digest == self._delivered.checkpoint:
                return
        name = NAMES[1 if self._delivered.slot == NAMES[0] else 0]
        sending = self.folder / "sending"
        shutil.rmtree(sending, ignore_errors=True)
        sending.mkdir()
        try:
            file, about = sending / f"{name}.pt", sending / f"{name}.json"
            about.write_bytes(slot.path.with_suffix(".json").read_bytes())
            _link(slot.path, file)
            digest = checkpoint.read_slot(about).digest
            if checkpoint.digest_of(file) != digest:
                if checkpoint.describe(self.folder) != slot:
                    return  # two saves went by in between: the next round takes the newest
                raise InputError(f"{slot.path}: its bytes are not those that {slot.path.stem}.json names.")
            self._client.log_artifact(self.run_id, str(file), REMOTE)
            self._client.log_artifact(self.run_id, str(about), REMOTE)
            self._remember(checkpoint=digest, slot=name)
        finally:
            shutil.rmtree(sending, ignore_errors=True)

    def _look_on_the_server(self) -> None:
        """Learn which slot there is the newest: another folder's courier may have filled them."""
        with tempfile.TemporaryDirectory() as scratch:
            there = {Path(item.path).name for item in self._client.list_artifacts(self.run_id, REMOTE)}
            slots: list[Slot] = []
            for name in NAMES:
                if {f"{name}.pt", f"{name}.json"} <= there:
                    fetched = self._client.download_artifacts(self.run_id, f"{REMOTE}/{name}.json", scratch)
                    with suppress(InputError):  # no json of ours: that slot holds nothing to be kept
                        slots.append(checkpoint.read_slot(Path(fetched)))
        if slots:
            last = max(slots, key=lambda slot: slot.number)
            self._remember(checkpoint=last.digest, slot=last.path.stem)

    def _require_answer(self, timeout: int = 10) -> None:
        """Ask the server for a sign of life before each call, with one attempt of a few seconds.

        MLflow tries a call for four minutes, and its own bound on that is a variable of the whole process: it
        would cut the patience of whoever else talks to MLflow here, such as the recorder of system metrics, which
        ends at its first failure. A call that the server dies under is left to MLflow's patience, in this thread.
        """
        uri = self._client.tracking_uri
        if uri.startswith("http"):
            credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
            answer = http_request(credentials, "/health", "GET", max_retries=0, timeout=timeout)  # type: ignore[no-untyped-call]
            if answer.status_code >= 500:  # any other may be a proxy's that knows no such page
                answer.raise_for_status()

    # ------------------------------------------------------------ what is remembered

    def _remembered(self) -> _Delivered:
        """What was delivered to this run; nothing where that is not known: sending again does no harm."""
        nothing = _Delivered(run_id=self.run_id)
        journal = self.folder / JOURNAL
        try:
            found = _Delivered(**json.loads((self.folder / "delivered.json").read_bytes()))
            length = journal.stat().st_size if journal.is_file() else 0
            known = found.run_id == self.run_id and 0 <= found.journal_bytes <= length and found.records >= 0
        except (OSError, ValueError, TypeError):
            return nothing
        return found if known else nothing

    def _remember(self, **changes: object) -> None:
        self._delivered = replace(self._delivered, **changes)  # type: ignore[arg-type]
        checkpoint.write_whole(self.folder / "delivered.json", json.dumps(asdict(self._delivered)) + "\n")


def deliver(
    folder: Path, run_id: str, patience: float, *, client: MlflowClient | None = None,
    tell: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Send what an earlier process left in a folder. Raises NotDeliveredError, as `Courier.finish`."""
    with Courier(folder, run_id, client=client, tell=tell) as courier:
        courier.finish(patience)


def _batches(records: list[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        if batch and sum(len(one.metrics) for one in (*batch, record)) > _METRICS_A_CALL:
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # some file systems have no hard links
        shutil.copyfile(source, target)


def _is_away(error: Exception) -> bool:
    """Whether an error says that nobody answers, or not now; any other answer is a refusal.

    MLflow gives its callers one kind of exception; what happened is in the chain behind it, or in the text.
    """
    link: BaseException | None = error
    while link:
        if isinstance(link, requests.HTTPError) and link.response is not None:
            return _is_passing(link.response.status_code)
        if isinstance(link, requests.RequestException):  # no connection, a timeout, attempts at a 5xx used up
            return not isinstance(link, ValueError)  # an address that is none
        link = link.__cause__ or link.__context__
    if isinstance(error, RestException):  # a 5xx that passes has been tried and stands in the chain
        return False
    if isinstance(error, MlflowException):
        told = re.search(r"failed with error code (\d+)", error.message)
        return _is_passing(int(told[1]) if told else error.get_http_status_code())  # type: ignore[no-untyped-call]
    return False


def _is_passing(status: int) -> bool:
    return status in (408, 429) or status >= 500
