"""Prediction: the network's own numbers, in eval mode, in the order of the rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cxr.data import nih
from cxr.data.augment import normalise
from cxr.data.loader import Pixels
from cxr.data.store import Store, open_or_pack
from cxr.evaluation.metrics import per_class
from cxr.evaluation.predict import LOGITS, predict, scores_table
from cxr.findings import CLASSES, FINDINGS

CPU = torch.device("cpu")


def network(seed: int = 0) -> nn.Sequential:
    """Batch norm and dropout tell train mode from eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.BatchNorm2d(3, momentum=0.5), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, len(CLASSES))
        )


def store_of(count: int) -> Store:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return Store(pixels, {f"{row}.png": row for row in range(count)})


def direct(model: nn.Module, store: Store, rows: np.ndarray) -> np.ndarray:
    """One forward pass over all rows at once."""
    model.eval()
    with torch.no_grad():
        return model(normalise(torch.from_numpy(store.pixels[rows]))).numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_logits_equal_a_direct_forward_pass_whatever_the_batch_size(batch_size: int) -> None:
    store, rows = store_of(10), np.arange(10)
    logits = predict(network(), Pixels(store, CPU), rows, batch_size=batch_size)
    assert (logits.shape, logits.dtype) == ((10, 15), np.float32)
    np.testing.assert_allclose(logits, direct(network(), store, rows), rtol=0, atol=1e-6)


def test_logits_are_in_the_order_of_the_rows() -> None:
    store, rows = store_of(20), np.array([13, 2, 19, 2, 0, 7])
    logits = predict(network(), Pixels(store, CPU), rows, batch_size=4)
    np.testing.assert_allclose(logits, direct(network(), store, np.arange(20))[rows], rtol=0, atol=1e-6)
    assert np.array_equal(logits[1], logits[3])
    assert not np.allclose(logits[0], logits[1])


@pytest.mark.parametrize("training", [True, False])
def test_network_predicts_in_eval_mode_and_gets_its_own_mode_back(training: bool) -> None:
    model = network().train(training)
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, Pixels(store_of(10), CPU), np.arange(10), batch_size=4)
    assert modes == [False] * 3
    assert [module.training for module in model.modules()] == [training] * 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # batch norm learned nothing


def test_prediction_leaves_no_gradients() -> None:
    model = network()
    predict(model, Pixels(store_of(4), CPU), np.arange(4))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pixels_that_are_on_the_device_give_the_same_logits() -> None:
    store, rows = store_of(10), np.array([9, 0, 4])
    expected = predict(network(), Pixels(store, CPU), rows, batch_size=2)
    assert np.array_equal(predict(network(), Pixels(store, CPU, resident=True), rows, batch_size=2), expected)


def test_no_rows_give_no_logits_and_the_mode_comes_back_after_an_error() -> None:
    model = network().train()
    assert predict(model, Pixels(store_of(4), CPU), np.arange(0)).shape == (0, 15)
    with pytest.raises(IndexError):
        predict(model, Pixels(store_of(4), CPU), np.array([4]))
    assert model.training


def test_half_precision_outputs_become_float32() -> None:
    class Half(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(1, 2, 3))[:, None].expand(-1, len(CLASSES)).bfloat16()

    store = store_of(5)
    logits = predict(Half(), Pixels(store, CPU), np.arange(5))
    expected = (store.pixels.mean(axis=(1, 2)) / 255 - 0.5) / 0.25
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, np.repeat(expected[:, None], 15, axis=1), rtol=0.01, atol=0.005)


def test_scores_table_lays_logits_beside_the_labels_of_the_same_rows(phantom_folder: Path) -> None:
    table = nih.read(phantom_folder).table
    part = table[table["split"] == "test"]
    assert part.index[0] != 0 or part.index[-1] != len(part) - 1  # an index that is not 0, 1, 2 ...
    logits = np.random.default_rng(0).normal(size=(len(part), 15)).astype(np.float32)
    scores = scores_table(part, logits)
    assert scores.columns.tolist() == ["image", "patient_id", "split", *CLASSES, *LOGITS]
    assert scores.index.tolist() == list(range(len(part)))
    for name in ("image", "patient_id", "split", *CLASSES):
        assert scores[name].tolist() == part[name].tolist()
    assert np.array_equal(scores[list(LOGITS)].to_numpy(), logits)
    assert {str(scores[name].dtype) for name in LOGITS} == {"float32"}
    assert {str(scores[name].dtype) for name in CLASSES} == {"uint8"}
    assert LOGITS[0] == "logit_Atelectasis"
    assert LOGITS[14] == "logit_No Finding"


@pytest.mark.parametrize("shape", [(3, 15), (5, 15), (4, 14)])
def test_logits_that_do_not_fit_the_table_are_our_own_mistake(shape: tuple[int, int]) -> None:
    cohort_table = pd.DataFrame({"image": list("abcd"), "patient_id": range(4), "split": "test"})
    cohort_table = cohort_table.assign(**dict.fromkeys(CLASSES, 0))
    with pytest.raises(AssertionError):
        scores_table(cohort_table, np.zeros(shape, dtype=np.float32))


def test_network_that_sees_the_answer_scores_one_from_pixels_to_auroc(
    phantom_folder: Path, tmp_path: Path
) -> None:
    class Lookup(nn.Module):
        """Knows each image by its mean grey, and answers with the labels."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            means = images.double().mean(dim=(1, 2, 3))
            return torch.stack([answers[round(float(mean), 6)] for mean in means])

    table = nih.read(phantom_folder).table.sample(frac=1, random_state=0)
    files = nih.image_files(phantom_folder)
    store = open_or_pack(tmp_path, sorted(files), files, size=32)
    rows = store.rows_of(table["image"].tolist())
    greys = normalise(torch.from_numpy(store.pixels[rows])).double().mean(dim=(1, 2, 3))
    labels = torch.tensor(table[list(CLASSES)].to_numpy(dtype=np.float32))
    answers = {round(float(grey), 6): label for grey, label in zip(greys, labels, strict=True)}
    assert len(answers) == len(table)
    logits = predict(Lookup(), Pixels(store, CPU), rows, batch_size=7)
    measured = per_class(scores_table(table, logits)).loc[list(FINDINGS)].dropna(subset=["auroc"])
    assert len(measured) >= 10
    assert (measured["auroc"] == 1).all()
