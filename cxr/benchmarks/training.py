"""Training, in images a second: the bare network, our loop from the store, the peers' loop from PNG files.

The bare network is the limit: forward, loss, backward and optimiser step on one batch that lies on the device,
normalised, with our loop's own network, engine, loss and optimiser. Our loop is the trainer's own, with all that
it does at a step. The peers' loop is what most public code does: the PNG files through Pillow in a DataLoader with
as many workers as cores, float32, torch's own layout, Adam. All three train the paper's recipe.
"""

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader

from cxr import device, model
from cxr.benchmarks.reading import PeersImages
from cxr.benchmarks.table import Row
from cxr.data.augment import normalise
from cxr.data.packing import usable_cores
from cxr.data.store import Store
from cxr.device import Engine
from cxr.findings import CLASSES
from cxr.training.loop import Trainer
from cxr.training.objective import binary_cross_entropy
from cxr.training.recipe import PAPER, Recipe
from cxr.training.records import Epoch

OFFICIAL = {"train": 78_082, "val": 8_442, "test": 25_596}  # images, with the default validation carve
_PAPERS_HOURS = 16  # for 25 epochs, on an RTX A6000
_STEPS = 1_000  # of an epoch: the files again and again, so that none ends while it is measured
_WARM_UP = 3  # steps
_LEAST_ROUNDS = 9


def measure(
    files: Mapping[str, Path], store: Store, *, engine: Engine, arch: str, size: int, batch_sizes: Sequence[int],
    seconds: float = 60.0,
) -> Iterator[Row]:  # fmt: skip
    """Images a second of the three ways at each batch size; our loop against the others.

    `store` holds the files, packed. On a CPU, where large batches take the peers minutes, they are measured at
    the smallest batch size only. Bare network and our loop take turns for about `seconds`, nine rounds at least.
    Where memory does not suffice a value is NaN, and `against` says why.
    """
    for batch_size in batch_sizes:
        recipe = replace(PAPER, name="benchmark", arch=arch, image_size=size, batch_size=batch_size)
        rows = list(_ours_and_bare(store, recipe, engine, seconds))
        yield from rows
        if engine.device.type == "cuda" or batch_size == min(batch_sizes):
            yield (peers := _peers(list(files.values()), recipe, engine.device))
            ours = next(row for row in rows if row.measure.startswith("our loop, "))
            if math.isfinite(ratio := ours.value / peers.value):
                measure = f"our loop over peers' loop, batch {batch_size}"
                yield Row(part="train", measure=measure, value=ratio, unit="ratio", against=peers.against)


def epoch(where: torch.device, *, arch: str, size: int, images: Mapping[str, int] = OFFICIAL) -> Iterator[Row]:
    """A whole epoch of as many images as the official split has, validation included: for a GPU.

    The pixels are noise, and lie in memory (5.6 GB at 224 px). The second epoch is timed: the first compiles.
    25 epochs are computed from it.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (sum(images.values()), size, size), dtype=np.uint8)
    names = [f"{row}.png" for row in range(len(pixels))]
    store = Store(pixels, {name: row for row, name in enumerate(names)})
    recipe = replace(PAPER, name="benchmark", arch=arch, image_size=size)
    table = _table(names, np.repeat(list(images), list(images.values())))
    trainer = _trainer(store, recipe, device.engine(where, pixel_bytes=pixels.nbytes), table)
    epochs = trainer.epochs()
    next(epochs)
    start = time.perf_counter()
    second = next(epochs)
    seconds = time.perf_counter() - start
    assert isinstance(second, Epoch)
    counts = f"{images['train']:,} training and {images['val']:,} validation images"
    yield Row(
        part="train", measure="one epoch", value=seconds, unit="s", against=f"{counts}, {arch}, synthetic pixels"
    )
    rate = second.metrics["train/images_per_second"]
    yield Row(part="train", measure="one epoch, its training alone", value=rate, unit="images/s")
    yield Row(
        part="train", measure=f"{PAPER.epochs} epochs, computed from one", value=PAPER.epochs * seconds / 3600,
        unit="h", against=f"{_PAPERS_HOURS} h in the paper, on an RTX A6000",
    )  # fmt: skip


# ---------------------------------------------------------------- our loop and the bare network


def _ours_and_bare(store: Store, recipe: Recipe, engine: Engine, seconds: float) -> Iterator[Row]:
    """A rate is that of the fastest turn, which was disturbed least; the ratio is the rounds' median ratio.

    What slows the machine for longer than a round slows both turns of it and leaves their ratio alone; what hits
    one turn hits either way alike and makes an outlier, which a median passes over. The ratio of the two fastest
    turns, minutes apart, would compare two states of the machine and the luck of the two ways.
    """
    batch, names = f"batch {recipe.batch_size}", ("bare network", "our loop")
    if lacking := _lacking_memory(recipe, engine):
        for name in names:
            yield Row(part="train", measure=f"{name}, {batch}", value=math.nan, unit="images/s", against=lacking)
        return
    steps, turns = _turns(store, recipe, engine, seconds)
    for name, value in zip(names, steps * recipe.batch_size / turns.min(axis=0), strict=True):
        yield Row(part="train", measure=f"{name}, {batch}", value=float(value), unit="images/s")
    low, middle, high = np.quantile(turns[:, 0] / turns[:, 1], [0.25, 0.5, 0.75])
    yield Row(
        part="train", measure=f"our loop over bare network, {batch}", value=float(middle), unit="ratio",
        against=f"{len(turns)} rounds, half of them {low:.3f} to {high:.3f}", goal=0.95,
    )  # fmt: skip


def _turns(store: Store, recipe: Recipe, engine: Engine, seconds: float) -> tuple[int, np.ndarray]:
    """The bare network and our loop take turns, as short as can be, in an order that changes with each round.

    Steps a turn, and the seconds [rounds, 2] of the turns.
    """
    steps = 50 if engine.device.type == "cuda" else 1  # our loop waits for a GPU after every 50th
    if engine.compile:
        torch.compiler.reset()  # else another batch size gets kernels for any size, slower than its own
    images = _STEPS * recipe.batch_size
    table = _table(np.resize(list(store.rows), images + 2), np.repeat(["train", "val"], [images, 2]))
    ways: list[Iterator[object]] = [
        _bare_steps(_trainer(store, recipe, engine, table)),
        # a checkpoint is due at once: it yields after every step
        _trainer(store, recipe, engine, table).epochs(checkpoint_seconds=0.0),
    ]
    one_step = sum(min(_seconds(way, 1, engine.device) for _ in range(_WARM_UP)) for way in ways)
    most = (_STEPS - _WARM_UP - 1) // steps  # the epoch's last step would be timed with validation
    rounds = min(most, max(_LEAST_ROUNDS, round(seconds / (steps * one_step))))
    turns = np.empty((rounds, len(ways)))
    for turn in range(rounds):
        for way in (0, 1) if turn % 2 else (1, 0):
            turns[turn, way] = _seconds(ways[way], steps, engine.device)
    return steps, turns


def _bare_steps(trainer: Trainer) -> Iterator[None]:
    """A step each, on a batch that lies on the device."""
    first = np.arange(trainer.recipe.batch_size)
    (pixels,) = trainer.pixels.batches([trainer.train_rows[first]])
    images = normalise(pixels)  # [B, 3, H, W]
    labels = trainer.train_labels[first].to(trainer.engine.device)  # [B, 15]
    trainer.network.train()
    while True:
        with trainer.engine.autocast():
            logits = trainer.forward(images)
        loss = trainer.loss(logits, labels)
        trainer.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        trainer.optimiser.step()
        yield


def _trainer(store: Store, recipe: Recipe, engine: Engine, table: pd.DataFrame) -> Trainer:
    return Trainer(model.build(recipe.arch, seed=0), recipe, store, table, engine=engine, seed=0)


def _table(names: Sequence[str] | np.ndarray, parts: np.ndarray) -> pd.DataFrame:
    """A cohort table of these images with drawn labels: what is in them does not change what a step costs."""
    labels = np.random.default_rng(0).random((len(names), len(CLASSES))) < 0.1
    table = pd.DataFrame(labels.astype(np.uint8), columns=list(CLASSES))
    return table.assign(image=names, split=parts, patient_id=np.arange(len(names)))


# ---------------------------------------------------------------- the peers


def _peers(files: Sequence[Path], recipe: Recipe, where: torch.device) -> Row:
    """The fastest of three turns, with nothing else going on: their workers would disturb the others' turns."""
    value, said = math.nan, _lacking_memory(recipe, Engine(device=where))
    if not said:
        said = f"PNG files, {usable_cores()} workers, float32"
        ready = 2 * usable_cores()  # batches that the workers hold: free at first, and they come in bursts
        # torch's default for a GPU, which the peers leave
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
            steps = _peers_steps(files, recipe, where)
            _seconds(steps, ready + _WARM_UP, where)
            value = ready * recipe.batch_size / min(_seconds(steps, ready, where) for _ in range(3))
            steps.close()  # and its workers
    name = f"peers' loop, batch {recipe.batch_size}"
    return Row(part="train", measure=name, value=value, unit="images/s", against=said)


def _peers_steps(files: Sequence[Path], recipe: Recipe, where: torch.device) -> Generator[None, None, None]:
    network = model.build(recipe.arch, seed=0).to(where)
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    steps = _STEPS + 8 * usable_cores()  # more than are read
    repeated = [*files] * math.ceil(steps * recipe.batch_size / len(files))
    loader = DataLoader(
        PeersImages(repeated, recipe.image_size), batch_size=recipe.batch_size, shuffle=True,
        num_workers=usable_cores(), pin_memory=where.type == "cuda",
    )  # fmt: skip
    labels = torch.zeros(recipe.batch_size, len(CLASSES), device=where)
    for images in loader:
        loss = binary_cross_entropy(network(images.to(where, non_blocking=True)), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield


# ---------------------------------------------------------------- time and memory


def _seconds(steps: Iterator[object], count: int, where: torch.device) -> float:
    """Seconds of the next `count` steps, until the device has done them."""
    start = time.perf_counter()
    done = sum(1 for _ in islice(steps, count))
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    assert done == count, (done, count)
    return time.perf_counter() - start


def _lacking_memory(recipe: Recipe, engine: Engine) -> str:
    """Why a step does not fit into the memory that is free, or empty.

    On a CPU the system would end the process, so it is asked before: what a forward pass of eight images keeps
    for the backward pass, as many times as the batch needs, and half of it again for what comes and goes.
    """
    network, kept, images = engine.place(model.build(recipe.arch, seed=0)), dict[int, int](), 8

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pixels = torch.zeros(images, recipe.image_size, recipe.image_size, device=engine.device)
    with saved_tensors_hooks(keep, lambda tensor: tensor), engine.autocast():
        network(normalise(pixels))
    needed = 1.5 * sum(kept.values()) / images * recipe.batch_size
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(engine.device)[0]
    else:
        free = psutil.virtual_memory().available
    return f"not measured: takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free" if needed > free else ""
