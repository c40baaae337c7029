"""The moving average of weights against a loop over numpy arrays, and what a state keeps."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cxr.model import build
from cxr.training.average import averaged

DECAY = 0.9


def small() -> nn.Module:
    """Parameters, batch norm's running statistics and its counter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def train_a_step(network: nn.Module, number: int) -> None:
    """Moves every parameter, and batch norm's buffers by a forward pass."""
    generator = torch.Generator().manual_seed(number)
    network.train()(torch.randn(5, 3, 3, 3, generator=generator))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def test_it_is_the_written_out_average_of_weights_and_batch_norm_statistics() -> None:
    network = small()
    average = averaged(network, DECAY)
    assert isinstance(average, AveragedModel)
    expected: dict[str, np.ndarray] = {}
    for n in range(120):
        train_a_step(network, n)
        average.update_parameters(network)
        kept = 0.0 if n == 0 else min(DECAY, (1 + n) / (10 + n))
        for name, value in arrays(network).items():
            if name == "1.num_batches_tracked":
                expected[name] = value
            else:
                expected[name] = kept * expected.get(name, np.float64(0)) + (1 - kept) * value.astype(np.float64)
        for name, value in arrays(average.module).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=f"{n} {name}")
    assert int(average.module[1].num_batches_tracked) == 120
    assert not np.allclose(arrays(average.module)["1.running_mean"], arrays(network)["1.running_mean"])


def test_the_first_update_copies_so_that_random_weights_have_no_part() -> None:
    network = small()
    average = averaged(network, 0.9999)
    train_a_step(network, 0)
    average.update_parameters(network)
    for name, value in arrays(average.module).items():
        np.testing.assert_array_equal(value, arrays(network)[name])


def test_a_short_run_is_not_held_at_its_start() -> None:
    """Of a weight that is 0 at first and then 1, 20 updates at 0.9999 would leave 0.002; here nearly all."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = averaged(network, 0.9999)
    average.update_parameters(network)
    nn.init.ones_(network.weight)
    for _ in range(20):
        average.update_parameters(network)
    assert float(average.module.weight) > 0.99


def test_the_network_is_left_alone_and_the_average_takes_no_gradient() -> None:
    network = small()
    average = averaged(network, DECAY)
    train_a_step(network, 0)
    before = copy.deepcopy(network)
    average.update_parameters(network)
    average.update_parameters(network)
    for name, value in arrays(network).items():
        np.testing.assert_array_equal(value, arrays(before)[name])
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_a_saved_state_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    network = small()
    average = averaged(network, DECAY)
    for number in range(7):
        train_a_step(network, number)
        average.update_parameters(network)
    torch.save({"average": average.state_dict(), "network": network.state_dict()}, tmp_path / "state.pt")

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other = small()
    resumed = averaged(other, DECAY)
    other.load_state_dict(saved["network"])
    resumed.load_state_dict(saved["average"])
    for number in range(7, 20):
        for one, its_average in ((network, average), (other, resumed)):
            train_a_step(one, number)
            its_average.update_parameters(one)
    assert int(resumed.n_averaged) == 20
    for name, value in arrays(average).items():
        np.testing.assert_array_equal(value, arrays(resumed)[name])


def test_a_network_without_buffers_and_a_resnet_can_be_averaged() -> None:
    for network in (nn.Linear(2, 2), build("resnet18", seed=0)):
        average = averaged(network, DECAY)
        for _ in range(3):
            average.update_parameters(network)
        assert average.module.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(AssertionError):
        averaged(small(), decay)
