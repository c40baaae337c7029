"""What ends training: numbers that are not finite, memory that does not suffice, and what else breaks a step."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cxr.errors import TrainingError
from cxr.training.loop import Trainer
from tests.training.trainers import TRAIN_IMAGES, first, images_of, small, trainer

# ---------------------------------------------------------------- losses and weights that are not finite


def poisoned(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        network[5].bias[0] = value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 1), (2, 3)])
def test_a_loss_that_is_not_finite_ends_training_and_names_step_epoch_and_images(
    value: float, epoch: int, step: int
) -> None:
    network = small()
    one = trainer(network)
    events = one.epochs(checkpoint_seconds=0)
    for _ in range(3 * (epoch - 1) + step - 1):  # one at each step: midway, or at the epoch's end
        next(events)
    poisoned(network, value)
    with pytest.raises(TrainingError) as ended:
        next(events)
    told = f"at step {step} of epoch {epoch}, on the images {images_of(epoch, step)}. A smaller lr usually helps"
    assert told in str(ended.value)
    assert "\n" not in str(ended.value)
    assert len(one.history) == epoch - 1
    with pytest.raises(TrainingError, match=rf"Weights are not finite after step {step} of epoch {epoch}\."):
        one.checkpoint({})


def test_losses_that_are_looked_at_late_still_name_their_own_step() -> None:
    """As on a GPU, where each look waits."""
    one = trainer()
    one.step = 3
    batches = torch.tensor([[0, 1], [2, 3], [4, 5]])
    one._unseen = list(zip(batches, torch.tensor([1.0, math.nan, math.inf]), strict=True))
    third, fourth = TRAIN_IMAGES[2:4]
    with pytest.raises(
        TrainingError, match=rf"loss is nan at step 2 of epoch 5, on the images {third}, {fourth}\."
    ):
        one._look(5)


@pytest.mark.parametrize("batch_size", [4, 32])  # with 32, the only step's own loss is still finite
def test_a_far_too_large_step_size_ends_training(batch_size: int) -> None:
    one = trainer(lr=1e30, batch_size=batch_size)
    with pytest.raises(TrainingError, match="epoch 1"):
        next(one.epochs())
    assert one.history == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spoilt", ["0.weight", "1.running_var", "5.bias"])
def test_weights_that_are_not_finite_are_never_saved(spoilt: str, value: float) -> None:
    one = trainer()
    first(one)
    one.checkpoint({})
    with torch.no_grad():
        one.network.state_dict()[spoilt].view(-1)[-1] = value
    with pytest.raises(TrainingError, match=r"Weights are not finite after step 0 of epoch 2\."):
        one.checkpoint({})


# ---------------------------------------------------------------- memory


def too_large(*_: object) -> None:
    torch.empty(10**15)


def full_gpu(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nAnd more lines.")


def full_python(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("full", [too_large, full_gpu, full_python])
def test_memory_that_does_not_suffice_ends_training_and_names_what_was_asked(full: Callable[..., None]) -> None:
    network = small()
    one = trainer(network)
    events = one.epochs(checkpoint_seconds=0)
    next(events)
    network[3].register_forward_hook(full)
    with pytest.raises(TrainingError) as ended:
        next(events)
    told = str(ended.value)
    assert told.startswith(
        f"Out of memory at step 2 of epoch 1: 4 images of 64 px on cpu ({images_of(1, 2)}). "
        "A smaller batch_size or image_size helps"
    )
    assert "\n" not in told
    assert not one.is_whole


@pytest.mark.parametrize("full", [too_large, full_gpu, full_python])
def test_memory_that_does_not_suffice_to_validate_ends_training_too(full: Callable[..., None]) -> None:
    network = small()
    one = trainer(network)
    network[3].register_forward_hook(lambda layer, *_: None if layer.training else full())
    with pytest.raises(
        TrainingError,
        match=r"Out of memory in validation after epoch 1, on cpu\. A smaller batch_size or image_size",
    ):
        next(one.epochs())
    assert one.is_whole
    one.checkpoint({})


# ---------------------------------------------------------------- anything else


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def broken_in_forward(one: Trainer, error: BaseException) -> None:
    one.network[3].register_forward_hook(raising(error))


def broken_in_optimiser(one: Trainer, error: BaseException) -> None:
    one.optimiser.register_step_post_hook(raising(error))


def broken_in_average(one: Trainer, error: BaseException) -> None:
    one.average.update_parameters = raising(error)


@pytest.mark.parametrize("broken", [broken_in_forward, broken_in_optimiser, broken_in_average])
@pytest.mark.parametrize(
    "error", [RuntimeError("a bug of ours"), ZeroDivisionError("another"), KeyboardInterrupt()]
)
def test_what_breaks_a_step_is_raised_as_it_is_and_leaves_nothing_to_go_on_from(
    broken: Callable[[Trainer, BaseException], None], error: BaseException
) -> None:
    one = trainer(ema=0.9)
    events = one.epochs(checkpoint_seconds=0)
    next(events)
    assert one.is_whole
    broken(one, error)
    with pytest.raises(type(error)) as raised:
        next(events)
    assert raised.value is error
    assert not one.is_whole
    with pytest.raises(AssertionError):
        one.checkpoint({})
