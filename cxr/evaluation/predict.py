"""Network and images -> the scores table: one row an image, labels and logits.

Columns: image, patient_id, split, 15 label columns named by class (0/1), 15 logit columns named
`logit_<class>` (float32). Everything that is measured later is computed from this table.
"""

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from cxr.data.loader import Pixels, batches
from cxr.findings import CLASSES

LOGITS = tuple(f"logit_{name}" for name in CLASSES)


def predict(network: nn.Module, pixels: Pixels, rows: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
    """Logits [len(rows), 15] float32, in the order of `rows`, with the network in eval mode, in float32."""
    was_training = network.training
    network.eval()
    logits = np.empty((len(rows), len(CLASSES)), dtype=np.float32)
    try:
        with torch.inference_mode(), tqdm(total=len(rows), desc="predict", unit="image", disable=None) as bar:
            for positions, images in batches(pixels, rows, batch_size=batch_size):
                logits[positions.numpy()] = network(images).float().cpu().numpy()
                bar.update(len(positions))
    finally:
        network.train(was_training)
    return logits


def scores_table(cohort: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """Lay logits [N, 15] beside the labels of the same N rows of a cohort table."""
    assert logits.shape == (len(cohort), len(CLASSES)), (logits.shape, len(cohort))
    known = cohort[["image", "patient_id", "split", *CLASSES]].reset_index(drop=True)
    return pd.concat([known, pd.DataFrame(logits, columns=list(LOGITS))], axis=1)
