"""The training loop: an iterator that yields one record an epoch and knows nothing of who records it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from cxr.checkpoint import Checkpoint
from cxr.data.augment import draw, normalise, warp
from cxr.data.loader import Pixels, generator, order
from cxr.data.store import Store
from cxr.device import Engine
from cxr.distributed import ALONE, Group, interleave
from cxr.errors import first_ten
from cxr.evaluation import metrics
from cxr.evaluation.predict import predict, scores_table
from cxr.findings import CLASSES, FINDINGS
from cxr.interrupt import held
from cxr.training import objective, records
from cxr.training.average import averaged
from cxr.training.failures import (
    enough_memory,
    require_finite_losses,
    require_finite_validation,
    require_finite_weights,
)
from cxr.training.recipe import Recipe
from cxr.training.records import BY_LOSS, BY_MACRO, Epoch, Midway, best_epoch
from cxr.training.schedule import learning_rate

_LOOK_EVERY = 50  # steps: reading a loss waits for the device, and for the other processes


@dataclass
class _Running:
    """What the unfinished epoch has summed up so far."""

    loss: torch.Tensor  # times images, float64 on the device; of all processes
    seconds: float = 0.0
    lr: float = 0.0


class Trainer:
    """Holds the network, the optimiser and how far training has come.

    `best` is decided by `criterion`, fixed before the first epoch: validation macro AUROC over the 14
    findings that validation can measure, or the validation loss where it can measure none.

    The order of images and their augmentation follow from seed, epoch and step alone; so weights, optimiser
    and position are all that a checkpoint needs, and on a CPU training goes on from one bit by bit.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, store: Store, cohort: pd.DataFrame, *,
        engine: Engine, seed: int, group: Group = ALONE,
    ) -> None:  # fmt: skip
        self.recipe, self.engine, self.seed, self.group = recipe, engine, seed, group
        self.pixels = Pixels(store, engine.device, resident=engine.resident)
        self.train, self.val = (
            cohort[cohort["split"] == part].reset_index(drop=True) for part in ("train", "val")
        )
        self.train_rows, self.val_rows = (store.rows_of(part["image"].tolist()) for part in (self.train, self.val))
        self.train_labels, self.val_labels = _labels(self.train), _labels(self.val)  # [n, 15]
        self.known = (~self.train_labels.isnan()).sum(1)  # [n] labels that each image has
        self.loss = objective.choose(self.train_labels, self.val_labels, recipe.loss)
        measurable = set(metrics.measurable(self.val)) & set(FINDINGS)
        self.criterion = BY_MACRO if measurable else BY_LOSS

        if recipe.sync_batch_norm and group.size > 1 and engine.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = engine.place(network)
        self.average = averaged(self.network, recipe.ema) if recipe.ema else None
        self._plain = group.wrap(self.network)
        self.forward = torch.compile(self._plain, dynamic=False) if engine.compile else self._plain
        # AdamW without decay is Adam, bit by bit
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=engine.fused
        )
        self.history: list[dict[str, Any]] = []
        self.step = 0  # done in the epoch after the last recorded one
        self.best_weights: dict[str, torch.Tensor] = {}
        self._running = self._nothing()
        self._whole = True  # False in mid-step: what is then in memory is no state to go on from
        self._unseen: list[tuple[torch.Tensor, torch.Tensor]] = []  # batches, and losses not yet looked at

    @property
    def steps(self) -> int:
        """Steps in an epoch; the last batch may be smaller."""
        return math.ceil(len(self.train_rows) / self.recipe.batch_size)

    @property
    def measured(self) -> nn.Module:
        """The network that is validated and kept as the best: the average of weights where there is one."""
        return self.average.module if self.average else self.network

    # ------------------------------------------------------------ epochs

    def epochs(self, checkpoint_seconds: float = math.inf) -> Iterator[Epoch | Midway]:
        """Train what is left of the recipe's epochs: an Epoch after each, a Midway as often as one is due.

        Raises TrainingError at the first loss that is not finite, or where memory does not suffice. An interrupt
        comes between two steps, or in validation: `checkpoint` is then what to go on from.
        """
        while len(self.history) < self.recipe.epochs:
            number = len(self.history) + 1
            for _ in self._train(number, checkpoint_seconds):
                yield Midway(epoch=number, step=self.step)
            record = self._record(number)
            with held():  # the record, the position and the best weights belong together
                self.history.append(record)
                self.step, self._running = 0, self._nothing()
                is_best = best_epoch(self.history, self.criterion) == number
                if is_best:
                    self.best_weights = _copy(self.measured)
            yield Epoch(number=number, time_ms=record["time_ms"], metrics=record["metrics"], is_best=is_best)

    def _train(self, number: int, checkpoint_seconds: float) -> Iterator[None]:
        self.network.train()
        batches = torch.split(order(len(self.train_rows), seed=self.seed, epoch=number), self.recipe.batch_size)
        left = batches[self.step :]
        stream = self.pixels.batches(self.train_rows[self._mine(batch).numpy()] for batch in left)
        bar = tqdm(
            zip(left, stream, strict=True), initial=self.step, total=self.steps, unit="batch",
            desc=f"epoch {number}/{self.recipe.epochs}", disable=True if self.group.rank else None,
        )  # fmt: skip
        start = saved = time.perf_counter()
        for batch, pixels in bar:
            with held():  # a signal in mid-step would leave half of it done
                self._step(number, batch, pixels)
                now = time.perf_counter()
                self._running.seconds += now - start
            if now - saved > checkpoint_seconds and self.step < self.steps:
                yield
                now = saved = time.perf_counter()  # what others did meanwhile is not training
            start = now

    def _step(self, number: int, batch: torch.Tensor, pixels: torch.Tensor) -> None:
        """One step on this process's share of a batch: positions [B] of all its images, own pixels [b, H, W]."""
        self._whole = False
        mine = self._mine(batch)
        with enough_memory(
            lambda: (
                f"at step {self.step + 1} of epoch {number}: {len(mine)} images of {pixels.shape[-1]} px on "
                f"{self.engine.device} ({self._named(mine)})"
            )
        ):
            labels = self.train_labels[mine].to(self.engine.device, non_blocking=True)  # [b, 15]
            images = normalise(self._augmented(number, pixels, len(batch)))
            # an epoch's last, shorter batch is not worth half a minute of compiling
            forward = self.forward if len(batch) == self.recipe.batch_size else self._plain
            with self.engine.autocast():
                logits = forward(images)
            loss = self.loss(logits, labels)
            share = self._share(batch)
            self.optimiser.zero_grad()
            # the mean of the processes' gradients is that of the whole batch
            (loss if self.group.size == 1 else loss * (share * self.group.size)).backward()  # type: ignore[no-untyped-call]
            self._running.lr = self._set_rate(number)
            self.optimiser.step()
        if self.average:
            self.average.update_parameters(self.network)
        # one number more to all processes: then each knows the batch's loss, and how far the epoch's has come
        total = self.group.sum(loss.detach().double() * (share * len(batch)))
        self._running.loss += total
        self.step += 1
        self._whole = True
        self._unseen.append((batch, total))
        if self.engine.device.type == "cpu" or self.step % _LOOK_EVERY == 0 or self.step == self.steps:
            self._look(number)

    def _augmented(self, number: int, pixels: torch.Tensor, whole: int) -> torch.Tensor:
        if not self.recipe.augment:
            return pixels
        drawn = draw(self.recipe.augment, whole, generator(self.seed, number, self.step))  # of the whole batch
        matrices = self._mine(drawn)  # [b, 2, 3]
        return warp(pixels, matrices.to(self.engine.device, non_blocking=True))

    def _set_rate(self, number: int) -> float:
        recipe = self.recipe
        rate = learning_rate(
            number - 1 + self.step / self.steps, peak=recipe.lr, warmup_epochs=recipe.warmup_epochs,
            final=recipe.final_lr, epochs=recipe.epochs,
        )  # fmt: skip
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    # ------------------------------------------------------------ shares of a batch

    def _mine(self, whole: torch.Tensor) -> torch.Tensor:
        """This process's rows of a batch; one row where it has none, which then counts nothing."""
        share = whole[self.group.rank :: self.group.size]
        return share if len(share) else whole[:1]

    def _share(self, batch: torch.Tensor) -> float:
        """This process's part of a batch's known labels, over which the loss is a mean."""
        if self.group.size == 1:
            return 1.0
        own = self.known[batch[self.group.rank :: self.group.size]].sum()
        return float(own / self.known[batch].sum().clamp(min=1))

    # ------------------------------------------------------------ records

    def _record(self, number: int) -> dict[str, Any]:
        measured = {
            "train/loss": float(self._running.loss) / len(self.train_rows),
            "train/lr": self._running.lr,
            "train/images_per_second": len(self.train_rows) / self._running.seconds,
            **self._validate(number),
        }
        return {"epoch": number, "time_ms": round(time.time() * 1000), "metrics": measured}

    def _validate(self, number: int) -> dict[str, float]:
        with enough_memory(lambda: f"in validation after epoch {number}, on {self.engine.device}"):
            share = self.val_rows[self.group.rank :: self.group.size]
            size = min(64, self.recipe.batch_size)  # what training has memory for, validation has, too
            part = predict(self.measured, self.pixels, share, batch_size=size)
        logits = interleave(self.group.gather(part), len(self.val_rows))
        loss = self.loss(torch.from_numpy(logits), self.val_labels)
        require_finite_validation(float(loss), number)
        table = metrics.per_class(scores_table(self.val, logits))
        return {"val/loss": float(loss), **metrics.flat(table, "val")}

    def best(self) -> dict[str, str]:
        """The best epoch so far as tags; empty before the first."""
        return records.best(self.history, self.criterion)

    def _look(self, number: int) -> None:
        losses = torch.stack([total for _, total in self._unseen]).tolist()
        require_finite_losses(losses, self.step, number, lambda index: self._named(self._unseen[index][0]))
        self._unseen.clear()

    def _named(self, positions: torch.Tensor) -> str:
        return first_ten(self.train["image"].iloc[positions.numpy()].tolist())

    # ------------------------------------------------------------ checkpoints

    @property
    def is_whole(self) -> bool:
        """Whether what is in memory can be gone on from: not after what went wrong in mid-step."""
        return self._whole

    def checkpoint(self, metadata: dict[str, str]) -> Checkpoint:
        """The state after the last step. Raises TrainingError where weights are not finite any more."""
        assert self._whole, "in mid-step"
        weights = _copy(self.network)
        require_finite_weights(weights, self.step, len(self.history) + 1)
        last_is_best = self.step == 0 and best_epoch(self.history, self.criterion) == len(self.history)
        return Checkpoint(
            epoch=len(self.history),
            step=self.step,
            weights=weights,
            optimiser=self.optimiser.state_dict(),
            average=_copy(self.average) if self.average else {},
            # the same tensors are written once
            best=weights if last_is_best and not self.average else self.best_weights,
            running={name: float(value) for name, value in vars(self._running).items()},
            history=self.history,
            metadata=metadata | self.best(),
        )

    def restore(self, state: Checkpoint) -> None:
        """Go on from a checkpoint of a trainer with the same recipe, images and seed."""
        self.network.load_state_dict(state.weights)
        # this machine's own, not the checkpoint's; torch puts the state where a fused step needs it, or the other
        groups = [{**group, "fused": self.engine.fused} for group in state.optimiser["param_groups"]]
        self.optimiser.load_state_dict({**state.optimiser, "param_groups": groups})
        if self.average:
            self.average.load_state_dict(state.average)
        self.history, self.step, self.best_weights = list(state.history), state.step, state.best
        self._running = self._nothing(**state.running)

    def _nothing(self, loss: float = 0.0, seconds: float = 0.0, lr: float = 0.0) -> _Running:
        total = torch.tensor(loss, dtype=torch.float64, device=self.engine.device)
        return _Running(loss=total, seconds=seconds, lr=lr)


def _labels(rows: pd.DataFrame) -> torch.Tensor:
    return torch.tensor(rows[list(CLASSES)].to_numpy(dtype=np.float32))  # [n, 15]


def _copy(network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's tensors on the CPU, as they are now."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
