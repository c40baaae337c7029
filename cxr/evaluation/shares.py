"""Prediction by several processes of this machine, a share of the images each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cxr import distributed
from cxr.data.loader import Pixels
from cxr.data.store import Store
from cxr.distributed import Cluster
from cxr.evaluation.predict import predict


@dataclass(frozen=True, kw_only=True)
class _Task:
    network: nn.Module  # on the CPU
    store: Store
    rows: np.ndarray
    device: str
    cluster: Cluster


def predict_shares(
    network: nn.Module, store: Store, rows: np.ndarray, *, device: torch.device, processes: int = 1
) -> np.ndarray:
    """`predict` with so many processes, on a GPU each where the device is one: logits [len(rows), 15]."""
    if processes == 1:
        return predict(network, Pixels(store, device), rows)
    cluster = Cluster(processes=processes)
    distributed.check(cluster, device)
    task = _Task(network=network.cpu(), store=store, rows=rows, device=device.type, cluster=cluster)
    parts = distributed.launch(_share, task, cluster, name="predict")
    return distributed.interleave(parts, len(rows))


def _share(task: _Task) -> np.ndarray:
    with distributed.joined(task.cluster) as group:
        device = torch.device(distributed.device_of(task.device, group))
        share = task.rows[group.rank :: group.size]
        return predict(task.network.to(device), Pixels(task.store, device), share)
