"""Two real processes score what one does."""

import numpy as np
import torch

from cxr.data.loader import Pixels
from cxr.data.store import Store
from cxr.evaluation.predict import predict
from cxr.evaluation.shares import predict_shares
from cxr.model import build

CPU = torch.device("cpu")


def test_two_processes_score_every_row_once_and_in_its_place() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64), dtype=np.uint8)
    store = Store(pixels, {f"{row}.png": row for row in range(9)})
    rows = np.array([8, 0, 3, 3, 5, 1, 7])  # an odd number, one of them twice
    network = build("resnet18", seed=1)
    expected = predict(network, Pixels(store, CPU), rows)
    found = predict_shares(network, store, rows, device=CPU, processes=2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(predict_shares(network, store, rows, device=CPU), expected)
