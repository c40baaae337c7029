"""The loss against the paper's formula, finite differences and the edges of float32."""

import numpy as np
import pytest
import torch

from cxr.errors import InputError
from cxr.findings import CLASSES
from cxr.training.objective import (
    CLIP,
    GAMMA_NEG,
    GAMMA_POS,
    Objective,
    asymmetric,
    binary_cross_entropy,
    choose,
    known_binary_cross_entropy,
    weighted_binary_cross_entropy,
)
from cxr.training.recipe import LOSSES


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


# ---------------------------------------------------------------- for rare findings


def with_holes(images: int = 40, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels of which a fifth is unknown; each class has known positives and negatives."""
    logits, labels = drawn(images, seed)
    labels[np.random.default_rng(seed).random(labels.shape) < 0.2] = np.nan
    return torch.from_numpy(logits), torch.from_numpy(labels)


def asymmetric_formula(
    logits: np.ndarray, labels: np.ndarray, gamma_neg: float, gamma_pos: float, clip: float
) -> float:
    """Ridnik et al., equations 2, 4 and 5, in float64: the mean over flat known labels."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    q = np.maximum(p - clip, 0)
    positive = (1 - p) ** gamma_pos * np.log(p)
    negative = q**gamma_neg * np.log(1 - q)
    return float(-(labels * positive + (1 - labels) * negative).mean())


def test_pos_weight_is_torchs_own_loss_on_known_labels() -> None:
    logits, labels = with_holes()
    loss = choose(labels, labels[:5], "pos_weight")
    positives, negatives = (labels == 1).sum(dim=0), (labels == 0).sum(dim=0)
    weight = (negatives / positives).expand(labels.shape)
    known = ~labels.isnan()
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weight[known])(logits[known], labels[known])
    torch.testing.assert_close(loss(logits, labels), expected)


def test_pos_weight_by_hand_counts_a_positive_as_often_as_there_are_negatives_for_it() -> None:
    train = torch.zeros(5, 15)
    train[0] = 1  # one positive, four negatives
    loss = choose(train, train, "pos_weight")
    zeros = torch.zeros(1, 15)
    assert float(loss(zeros, torch.ones(1, 15))) == pytest.approx(4 * np.log(2), rel=1e-6)
    assert float(loss(zeros, zeros)) == pytest.approx(np.log(2), rel=1e-6)


def test_weights_of_1_are_the_known_binary_cross_entropy() -> None:
    logits, labels = with_holes()
    weighted = weighted_binary_cross_entropy(logits, labels, pos_weight=torch.ones(15))
    torch.testing.assert_close(weighted, known_binary_cross_entropy(logits, labels))


@pytest.mark.parametrize("values", [(4.0, 0.0, 0.05), (4.0, 1.0, 0.05), (2.0, 1.0, 0.0), (0.0, 0.0, 0.2)])
def test_asymmetric_is_the_papers_formula(values: tuple[float, float, float]) -> None:
    logits, labels = with_holes()
    gamma_neg, gamma_pos, clip = values
    loss = asymmetric(logits, labels, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    known = ~labels.isnan()
    expected = asymmetric_formula(logits[known].numpy(), labels[known].numpy(), *values)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_asymmetric_takes_the_values_of_its_paper() -> None:
    assert (GAMMA_NEG, GAMMA_POS, CLIP) == (4, 0, 0.05)
    logits, labels = with_holes()
    known = ~labels.isnan()
    expected = asymmetric_formula(logits[known].numpy(), labels[known].numpy(), 4, 0, 0.05)
    assert float(choose(labels, labels, "asymmetric")(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_asymmetric_without_gammas_and_clip_is_the_binary_cross_entropy_with_its_gradient() -> None:
    logits, labels = drawn(9)
    one, other = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(logits).requires_grad_()
    plain = binary_cross_entropy(one, torch.from_numpy(labels))
    loss = asymmetric(other, torch.from_numpy(labels), gamma_neg=0, gamma_pos=0, clip=0)
    torch.testing.assert_close(loss, plain)
    plain.backward()
    loss.backward()
    torch.testing.assert_close(other.grad, one.grad)


def test_an_easy_negative_has_no_part_in_the_asymmetric_loss() -> None:
    logits = torch.tensor([[-3.0, -2.0]], requires_grad=True)  # p = 0.047 and 0.119
    loss = asymmetric(logits, torch.zeros(1, 2))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1] > 0


@pytest.mark.parametrize("name", ["pos_weight", "asymmetric"])
def test_an_unknown_label_has_no_part_in_either_or_its_gradient(name: str) -> None:
    logits, labels = with_holes()
    given = logits.clone().requires_grad_()
    loss = choose(labels, labels, name)(given, labels)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    loss.backward()
    assert given.grad is not None
    assert torch.isfinite(given.grad).all()
    assert (given.grad[labels.isnan()] == 0).all()
    nothing = choose(labels, labels, name)(torch.ones(2, 15), torch.full((2, 15), torch.nan))
    assert float(nothing) == 0.0


@pytest.mark.parametrize("gammas", [(4.0, 0.0, 0.05), (0.0, 0.0, 0.0), (4.0, 1.0, 0.05)])
def test_extreme_logits_give_finite_asymmetric_losses_and_gradients(gammas: tuple[float, float, float]) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4, 1e30, -1e30, 0.0]], requires_grad=True)
    gamma_neg, gamma_pos, clip = gammas
    labels = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, torch.nan]])
    loss = asymmetric(logits, labels, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_halves_of_a_batch_weighted_by_their_known_labels_make_the_whole(name: str) -> None:
    logits, labels = with_holes()
    loss: Objective = choose(labels, labels, name)
    known = [int((~part.isnan()).sum()) for part in (labels[:7], labels[7:])]
    parts = [float(loss(logits[:7], labels[:7])), float(loss(logits[7:], labels[7:]))]
    assert float(loss(logits, labels)) == pytest.approx(np.average(parts, weights=known), rel=1e-6)


# ---------------------------------------------------------------- choose


def test_the_papers_own_loss_is_taken_where_all_labels_are_known() -> None:
    whole, holes = torch.zeros(4, 15), torch.zeros(4, 15)
    holes[3, 2] = torch.nan
    assert choose(whole, whole) is binary_cross_entropy
    assert choose(whole, whole, "bce") is binary_cross_entropy
    assert choose(whole, holes) is known_binary_cross_entropy
    assert choose(holes, whole) is known_binary_cross_entropy


@pytest.mark.parametrize("name", ["pos_weight", "asymmetric"])
def test_a_class_without_a_training_positive_is_refused_by_name(name: str) -> None:
    train, val = torch.ones(4, 15), torch.ones(4, 15)
    train[:, CLASSES.index("Hernia")] = 0
    train[:2, CLASSES.index("Mass")] = 0
    train[2:, CLASSES.index("Mass")] = torch.nan
    train[:, CLASSES.index("Edema")] = torch.nan  # labelled in validation only
    with pytest.raises(InputError, match=rf"loss={name}: .* positive for (\w+, ){{2}}\w+\.") as caught:
        choose(train, val, name)
    assert all(finding in str(caught.value) for finding in ("Hernia", "Mass", "Edema"))
    assert choose(train, val) is known_binary_cross_entropy  # bce needs none


@pytest.mark.parametrize("name", ["pos_weight", "asymmetric"])
def test_a_class_that_nobody_labelled_is_no_obstacle(name: str) -> None:
    logits, labels = with_holes()
    labels[:, 4] = torch.nan
    loss = choose(labels, labels, name)(logits, labels)
    assert torch.isfinite(loss)
    assert loss > 0


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(AssertionError, match="focal"):
        choose(torch.ones(1, 15), torch.ones(1, 15), "focal")
