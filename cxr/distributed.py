"""Several processes that compute together: who has which share, and what they tell each other.

In training every process holds the same network and all labels; each computes its share of every batch, and
gradients are averaged (`DistributedDataParallel`). torch's elastic agent starts the processes, here or on several
machines, and starts them anew when one is killed (https://docs.pytorch.org/docs/stable/distributed.elastic.html).
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from cxr.data.packing import usable_cores
from cxr.errors import InputError, TrainingError

RESTARTS = 3  # of all processes, where one of them was killed or failed
_MEET = 600  # seconds that machines wait for each other
_LAST_CHECKPOINT = 20  # seconds that processes have to end when they are told to

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How many processes there are: `processes` on each of `nodes` machines, which meet at `rendezvous`."""

    processes: int = 1
    nodes: int = 1
    node: int = 0  # this machine, from 0
    rendezvous: str = ""  # host:port

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.processes * self.nodes


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that compute together; alone by default.

    What the methods send, all processes of the group must send at the same point.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its own machine

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors, which have one shape."""
        total = values.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def gather(self, value: Value) -> list[Value]:
        """All processes' values, by rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def from_one(self, value: Value | None) -> Value | None:
        """The value of the one process that has one, for all of them."""
        holders = [rank for rank, has in enumerate(self.gather(value is not None)) if has]
        if self.size == 1 or not holders:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=holders[0])
        held: Value = values[0]
        return held

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over the processes."""
        return DistributedDataParallel(network) if self.size > 1 else network


ALONE = Group()


def interleave(parts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Rows [count, ...] of which process r of n has `[r::n]`: each row once, in its place."""
    whole = np.empty((count, *parts[0].shape[1:]), parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


@contextmanager
def joined(cluster: Cluster) -> Iterator[Group]:
    """Meet the other processes, in a process that `launch` has started."""
    if cluster.size == 1:
        yield ALONE
        return
    torch.set_num_threads(max(1, usable_cores() // cluster.processes))
    # objects travel through gloo also where gradients travel through NCCL
    local_rank, on_gpu = int(os.environ["LOCAL_RANK"]), torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank % torch.cuda.device_count())  # NCCL's own, for what is on no device yet
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=_MEET))
    try:
        yield Group(rank=dist.get_rank(), size=dist.get_world_size(), local_rank=local_rank)
    finally:
        dist.destroy_process_group()


def device_of(name: str, group: Group) -> str:
    """This process's own device, where several share a machine: a GPU each."""
    return f"cuda:{group.local_rank}" if group.size > 1 and name.startswith("cuda") else name


def check(cluster: Cluster, device: torch.device) -> None:
    """Raise InputError where this machine cannot hold its part of the cluster."""
    if cluster.size > 1 and device.type == "cuda":
        there = torch.cuda.device_count()
        if device.index is not None:
            raise InputError(f"device={device}: {cluster.size} processes take a GPU each. Expected cuda or auto.")
        if cluster.processes > there:
            raise InputError(f"processes={cluster.processes}: there are {there} GPUs here, and each takes one.")


def launch(work: Callable[[Any], Value], job: Any, cluster: Cluster, *, name: str) -> list[Value]:
    """Call `work(job)` in all processes of the cluster, here where it has one only; what this machine's return.

    `work`, `job` and what is returned are pickled. Machines that give another `name` do not meet. Processes of
    which one is killed or fails are started anew, up to three times. Raises TrainingError where that does not help
    or machines do not meet, and KeyboardInterrupt once all have ended for it.
    """
    if cluster.size == 1:
        return [work(job)]
    config = LaunchConfig(
        min_nodes=cluster.nodes, max_nodes=cluster.nodes, nproc_per_node=cluster.processes, run_id=name,
        rdzv_backend="c10d", rdzv_endpoint=cluster.rendezvous or "localhost:0",
        rdzv_configs={"timeout": _MEET}, max_restarts=RESTARTS, monitor_interval=0.2,
        shutdown_timeout=_LAST_CHECKPOINT,
        signals_to_handle="SIGQUIT",  # SIGINT and SIGTERM stay ours: they raise once, not in its clean-up too
    )  # fmt: skip
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    # else processes that are started anew meet through the same store as the dead ones, find their addresses there
    # and are refused (https://github.com/pytorch/pytorch/issues/135712, torch 2.14.1)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        found: dict[int, Value] = elastic_launch(config, work)(job)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise TrainingError(
            f"Process {rank} of {cluster.size} failed, after {RESTARTS} restarts too: "
            f"{_first_line(failure.message) or f'exit code {failure.exitcode}'}."
        ) from error
    except RendezvousError as error:
        raise TrainingError(
            f"The {cluster.nodes} machines did not meet at {cluster.rendezvous} within {_MEET} s, or one of them "
            "left. All must be there, with the same code, parameters (but node) and images."
        ) from error
    return [found[rank] for rank in sorted(found)]


def _first_line(message: object) -> str:
    text = message.get("message", "") if isinstance(message, dict) else message
    return str(text).strip().splitlines()[0] if str(text).strip() else ""
