"""Scores tables with patients, drawn for tests."""

import numpy as np
import pandas as pd

from cxr.findings import CLASSES


def drawn_scores(
    patients: int = 80, *, seed: int = 0, known: tuple[str, ...] = CLASSES, strength: float = 1.0
) -> pd.DataFrame:
    """Patients with 1 to 8 images that resemble one another in label and score; labels in all classes.

    Classes that are not `known` to the model have no scores.
    """
    rng = np.random.default_rng(seed)
    images = rng.choice([1, 2, 8], size=patients)
    patient = np.repeat(np.arange(patients), images)
    table = pd.DataFrame({"image": [f"{i:05d}.png" for i in range(len(patient))], "patient_id": patient})
    table["split"] = np.where(patient % 3 == 0, "val", "test")
    for name in CLASSES:
        own = rng.normal(size=patients)[patient]
        table[name] = (own + rng.normal(size=len(patient)) > 1.0).astype(int)
        scores = strength * table[name] + 0.5 * own + rng.normal(size=len(patient))
        table[f"logit_{name}"] = scores if name in known else np.nan
    return table


def edema_scores(labels: np.ndarray, logits: np.ndarray, patients: np.ndarray | None = None) -> pd.DataFrame:
    """A scores table with these for Edema, a patient an image unless given; no other class is labelled."""
    count = len(labels)
    columns: dict[str, object] = {
        "image": np.arange(count),
        "patient_id": np.arange(count) if patients is None else patients,
        "split": "test",
    }
    columns |= dict.fromkeys((*CLASSES, *(f"logit_{name}" for name in CLASSES)), np.nan)
    return pd.DataFrame(columns).assign(Edema=labels, logit_Edema=logits)
