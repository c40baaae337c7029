"""The training loop: an iterator that yields one record an epoch and knows nothing of who records it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from cxr.checkpoint import Checkpoint
from cxr.data.loader import batches
from cxr.data.store import Store
from cxr.evaluation import metrics
from cxr.evaluation.predict import predict, scores_table
from cxr.findings import CLASSES, FINDINGS
from cxr.training import objective
from cxr.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch's record: `metrics` as runs carry them, and whether it is the best so far."""

    number: int  # from 1
    metrics: dict[str, float]
    is_best: bool

    @property
    def line(self) -> str:
        """The record in one line, for a log that is read while training runs."""
        names = ("train/loss", "val/loss", "val/auroc/macro_14", "train/images_per_second")
        known = {name: f"{name} {self.metrics[name]:.4g}" for name in names if name in self.metrics}
        if "val/auroc/macro_14" in known:  # a mean of few findings must not pass for one of 14
            known["val/auroc/macro_14"] += f" (mean of {self.metrics['val/macro_14_classes']:.0f} findings)"
        return f"epoch {self.number}: {', '.join(known.values())}{'; best so far' if self.is_best else ''}"


class Trainer:
    """Holds the network, the optimiser and the order of images between epochs.

    `best` is decided by `criterion`, fixed before the first epoch: validation macro AUROC over the 14
    findings that validation can measure, or the validation loss where it can measure none.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, store: Store, cohort: pd.DataFrame, *,
        device: torch.device, seed: int,
    ) -> None:  # fmt: skip
        network.to(device).to(memory_format=torch.channels_last)
        self.network = network
        self.recipe, self.store, self.device = recipe, store, device
        self.train_rows, self.train_labels = _split(cohort, store, "train")
        self.val = cohort[cohort["split"] == "val"].reset_index(drop=True)
        self.val_rows, self.val_labels = _split(cohort, store, "val")
        measurable = set(metrics.measurable(self.val)) & set(FINDINGS)
        self.loss = objective.choose(torch.cat([self.train_labels, self.val_labels]))
        self.criterion = "val/auroc/macro_14" if measurable else "val/loss"
        self.optimiser = torch.optim.Adam(network.parameters(), lr=recipe.lr)
        self.order = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []

    def epochs(self) -> Iterator[Epoch]:
        """Train the recipe's epochs. Raises FloatingPointError at the first loss that is not finite."""
        for number in range(1, self.recipe.epochs + 1):
            start = time.perf_counter()
            train_loss = self._train_epoch(number)
            seconds = time.perf_counter() - start
            record = {
                "train/loss": train_loss,
                "train/lr": self.recipe.lr,
                "train/images_per_second": len(self.train_rows) / seconds,
                **self._validate(),
            }
            self.history.append(record)
            yield Epoch(number=number, metrics=record, is_best=self._best_epoch() == number)

    def checkpoint(self, metadata: dict[str, str]) -> Checkpoint:
        """The state after the last epoch that was yielded."""
        return Checkpoint(
            epoch=len(self.history),
            weights=self.network.state_dict(),
            optimiser=self.optimiser.state_dict(),
            generators={"order": self.order.get_state(), "torch": torch.get_rng_state()},
            history=self.history,
            metadata=metadata | self.best(),
        )

    def best(self) -> dict[str, str]:
        """The best epoch so far, what decided it, and its validation macro_14 where there is one."""
        number = self._best_epoch()
        macro = self.history[number - 1].get("val/auroc/macro_14")
        return {
            "best_by": self.criterion,
            "best_epoch": str(number),
            "val_macro_14": "" if macro is None else f"{macro:.6f}",
            "val_macro_14_classes": f"{self.history[number - 1]['val/macro_14_classes']:.0f}",
        }

    def _train_epoch(self, number: int) -> float:
        self.network.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        size = self.recipe.batch_size
        stream = batches(self.store, self.train_rows, batch_size=size, device=self.device, shuffle=self.order)
        steps = math.ceil(len(self.train_rows) / size)
        bar = tqdm(stream, total=steps, desc=f"epoch {number}/{self.recipe.epochs}", unit="batch", disable=None)
        for step, (positions, images) in enumerate(bar, start=1):
            labels = self.train_labels[positions].to(self.device)  # [B, 15]
            loss = self.loss(self.network(images), labels)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            total += loss.detach() * len(positions)
            if step % 50 == 0 or step == steps:  # reading the loss waits for the device, so not every step
                self._require_finite(total, number, step)
        return float(total) / len(self.train_rows)

    def _validate(self) -> dict[str, float]:
        logits = predict(self.network, self.store, self.val_rows, device=self.device)
        loss = self.loss(torch.from_numpy(logits), self.val_labels)
        if not torch.isfinite(loss):  # the epoch's last step can break weights whose own loss was still finite
            raise FloatingPointError(
                f"The validation loss is {float(loss)} after epoch {len(self.history) + 1}. A smaller lr usually "
                "helps; nothing of this epoch was kept."
            )
        table = metrics.per_class(scores_table(self.val, logits))
        return {"val/loss": float(loss), **metrics.flat(table, "val")}

    def _best_epoch(self) -> int:
        values = np.array([record[self.criterion] for record in self.history])
        return int(values.argmin() if self.criterion == "val/loss" else values.argmax()) + 1

    @staticmethod
    def _require_finite(total: torch.Tensor, epoch: int, step: int) -> None:
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"The training loss is {float(total)} by step {step} of epoch {epoch}. A smaller lr usually "
                "helps; nothing of this epoch was kept."
            )


def _split(cohort: pd.DataFrame, store: Store, split: str) -> tuple[np.ndarray, torch.Tensor]:
    part = cohort[cohort["split"] == split]
    labels = torch.tensor(part[list(CLASSES)].to_numpy(dtype=np.float32))  # [n, 15]
    return store.rows_of(part["image"].tolist()), labels
