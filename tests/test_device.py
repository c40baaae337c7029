"""The choice of a device: what is there is taken, what is not is said in one line."""

import pytest
import torch

from cxr import device
from cxr.errors import InputError


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert device.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_asks_torch_whether_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, there: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device.choose("auto").type == expected


def test_cpu_is_always_there() -> None:
    assert device.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "nonsense", "", "cuda:-1", "cuda:x", "CPU", "meta"])
def test_what_is_not_there_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as refused:
        device.choose(name)
    message = str(refused.value)
    assert message.startswith(f"device={name}: not usable here (")
    assert message.endswith("Expected auto, cpu or cuda:N.")
    assert "\n" not in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused_for_that_reason() -> None:
    with pytest.raises(InputError, match=r"device=cuda: .*(NVIDIA|CUDA)"):
        device.choose("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_that_is_there_is_taken() -> None:
    assert device.choose("cuda:0") == torch.device("cuda", 0)
