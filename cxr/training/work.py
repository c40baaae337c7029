"""What a training process does, alone or as one of several: train, and write down what it reaches.

It writes to a logbook (a folder) and knows no tracking server; whoever started it delivers what stands there.
"""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxr import device, distributed, interrupt, launcher, model
from cxr.checkpoint import Checkpoint
from cxr.data.store import Store
from cxr.distributed import Cluster, Group
from cxr.errors import InputError, TrainingError
from cxr.training.logbook import Logbook
from cxr.training.loop import Trainer
from cxr.training.recipe import Recipe
from cxr.training.records import Epoch

_GIVE_UP = 15.0  # seconds after which a process that waits for others ends when it was told to


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that training processes need. It travels to them pickled; packed pixels are opened there anew."""

    recipe: Recipe
    seed: int
    store: Store
    table: pd.DataFrame
    device: str
    without: tuple[str, ...]  # speed-ups to leave out
    cluster: Cluster
    logbook: Path | None  # None on machines that record nothing
    checkpoint_seconds: float
    metadata: dict[str, str]  # of checkpoints
    pretrained: Path | None
    tell: Callable[[str], None]  # a line for people


def work(job: Job) -> str:
    """Train from the logbook's newest checkpoint, or from the start; why it had to stop, or empty.

    One process writes: the first of machine 0. A reason is returned where all processes came to it together;
    what only one of them met is raised, and all are started anew.
    """
    with distributed.joined(job.cluster) as group:
        logbook = Logbook(job.logbook) if job.logbook and not group.local_rank else None
        if group.size > 1:
            _heed_signals(writes=logbook is not None)
            launcher.follow(os.getppid())
        try:
            trainer = make_trainer(job, group)
        except InputError as error:  # of what all were given alike
            return str(error)
        found = logbook.newest() if logbook else None
        if state := group.from_one(found.checkpoint if found else None):
            trainer.restore(state)
        try:
            _train(trainer, job, logbook)
        except TrainingError as error:
            if group.size > 1 and not trainer.is_whole:
                raise
            return str(error)
    return ""


def train(job: Job, *, name: str) -> None:
    """Train in the job's processes, which know each other by `name`. Raises TrainingError where they stopped."""
    if stopped := next((reason for reason in distributed.launch(work, job, job.cluster, name=name) if reason), ""):
        raise TrainingError(stopped)


def make_trainer(job: Job, group: Group) -> Trainer:
    """The trainer of one process, before the first step."""
    where = device.choose(distributed.device_of(job.device, group))
    engine = device.engine(where, without=job.without, pixel_bytes=job.store.pixels.nbytes)
    network = model.build(job.recipe.arch, seed=job.seed)
    if job.pretrained:
        model.load_pretrained(network, job.pretrained)
    return Trainer(network, job.recipe, job.store, job.table, engine=engine, seed=job.seed, group=group)


def _train(trainer: Trainer, job: Job, logbook: Logbook | None) -> None:
    if logbook is None:
        for _ in trainer.epochs():
            pass
        return

    def save() -> Checkpoint:
        state = trainer.checkpoint(job.metadata)
        logbook.save(state)
        logbook.catch_up(state.history)  # after the checkpoint: an epoch that is told is not trained again
        return state

    logbook.catch_up(trainer.history)
    reached = (len(trainer.history), trainer.step)
    try:
        for event in trainer.epochs(job.checkpoint_seconds):
            save()
            reached = (len(trainer.history), trainer.step)
            if isinstance(event, Epoch):
                job.tell(event.line(job.recipe.epochs))
    except KeyboardInterrupt:
        if trainer.is_whole and (len(trainer.history), trainer.step) != reached:
            save()
        raise


def _heed_signals(*, writes: bool) -> None:
    """The process that writes stops between two steps; the others end with it, or a while after they were told to.

    They would otherwise leave it waiting for them in mid-step.
    """
    if writes:
        interrupt.install(grace=_GIVE_UP)
        return
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, _end_later)


def _end_later(*_: object) -> None:
    timer = threading.Timer(_GIVE_UP, os._exit, (1,))
    timer.daemon = True
    timer.start()
