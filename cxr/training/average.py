"""An exponential moving average of a network's weights, beside the network that is trained."""

import itertools

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of the network whose `update_parameters(network)` moves it towards the network.

    The first update copies. Update n after it keeps min(decay, (1 + n) / (10 + n)) of the average and
    takes the rest from the network, so that the random start is soon forgotten in a short run. Batch
    norm's running mean and variance are averaged along, its counters copied. The number of updates is
    in `state_dict`; the average itself is `.module`. `network` is on its device already.
    """
    assert 0 <= decay < 1, decay
    average = _Average(network, decay)
    return average.requires_grad_(False)


class _Average(AveragedModel):
    """torch's own would copy its count to the GPU at each update, which waits for all work queued there."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        n = int(self.n_averaged)  # on the CPU, wherever the network is
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        real = [pair for pair in pairs if pair[0].is_floating_point()]
        whole = [pair for pair in pairs if not pair[0].is_floating_point()]
        blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        blend([mine for mine, _ in real], [theirs for _, theirs in real], n)
        if whole:
            torch._foreach_copy_([mine for mine, _ in whole], [theirs for _, theirs in whole])
        self.n_averaged += 1


def _tensors(network: nn.Module) -> itertools.chain[torch.Tensor]:
    return itertools.chain(network.parameters(), network.buffers())
