"""The loss against the paper's formula, finite differences and the edges of float32."""

import numpy as np
import pytest
import torch

from cxr.training.objective import binary_cross_entropy, choose, known_binary_cross_entropy


def papers_formula(logits: np.ndarray, labels: np.ndarray) -> float:
    """Algorithm 1, line 3, in float64: -1/(N C) sum_i sum_c y log p + (1 - y) log(1 - p)."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return float(-(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum() / labels.size)


def drawn(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (images, 15)).astype(np.float32)
    return logits, (rng.random((images, 15)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("images", [1, 7, 32])
def test_it_is_the_papers_formula(images: int) -> None:
    logits, labels = drawn(images, seed=images)
    loss = binary_cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.shape == ()
    assert float(loss) == pytest.approx(papers_formula(logits, labels), rel=1e-6)


def test_by_hand_a_logit_of_zero_costs_log_2_whatever_the_label() -> None:
    loss = binary_cross_entropy(torch.zeros(3, 15), torch.eye(15)[:3])
    assert float(loss) == pytest.approx(np.log(2), rel=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits, labels = drawn(3)
    given = torch.from_numpy(logits).requires_grad_()
    binary_cross_entropy(given, torch.from_numpy(labels)).backward()
    step = 1e-5
    wide = logits.astype(np.float64)
    expected = np.zeros_like(wide)
    for place in np.ndindex(wide.shape):
        up, down = wide.copy(), wide.copy()
        up[place] += step
        down[place] -= step
        expected[place] = (papers_formula(up, labels) - papers_formula(down, labels)) / (2 * step)
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), expected, atol=1e-8, rtol=1e-4)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    logits = torch.tensor([[1e4, -1e4, 1e30, -1e30]], requires_grad=True)
    loss = binary_cross_entropy(logits, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    wrong = binary_cross_entropy(torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 1.0]]))
    assert float(wrong) == 1e4  # as steep as the logit, never infinite


def test_half_precision_logits_and_whole_number_labels_are_computed_in_float32() -> None:
    logits, labels = drawn(8)
    half = torch.from_numpy(logits).bfloat16()
    loss = binary_cross_entropy(half, torch.from_numpy(labels).to(torch.uint8))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(papers_formula(half.float().numpy(), labels), rel=1e-6)


def test_labels_of_another_shape_are_an_error_not_a_broadcast() -> None:
    with pytest.raises(ValueError, match="same as input size"):
        binary_cross_entropy(torch.zeros(4, 15), torch.zeros(1, 15))


def test_a_label_that_nobody_gave_has_no_part_in_the_loss_or_its_gradient() -> None:
    logits, labels = drawn(6)
    given = torch.from_numpy(logits).requires_grad_()
    holes = torch.from_numpy(labels).clone()
    holes[:, 3] = torch.nan  # a class that the set says nothing about
    holes[2, 7] = torch.nan
    loss = known_binary_cross_entropy(given, holes)
    known = ~np.isnan(holes.numpy())
    assert float(loss.detach()) == pytest.approx(papers_formula(logits[known], labels[known]), rel=1e-6)
    loss.backward()
    assert given.grad is not None
    assert (given.grad[torch.from_numpy(~known)] == 0).all()
    assert (given.grad[torch.from_numpy(known)] != 0).all()


def test_without_any_label_the_loss_is_zero() -> None:
    assert float(known_binary_cross_entropy(torch.ones(2, 15), torch.full((2, 15), torch.nan))) == 0.0


def test_the_papers_own_loss_is_taken_where_all_labels_are_known() -> None:
    labels = torch.zeros(4, 15)
    assert choose(labels) is binary_cross_entropy
    labels[3, 2] = torch.nan
    assert choose(labels) is known_binary_cross_entropy
