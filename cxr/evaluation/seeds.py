"""The same training from several seeds: how much of a number is chance of the start and the order of images.

The standard deviation here is between trainings, on one and the same set of test patients. What other patients
would have given is another uncertainty (the sampling interval of each run), and the two are not added here.
"""

from collections.abc import Sequence

import pandas as pd


def each(runs: Sequence[dict[str, float]], prefix: str = "test/auroc/") -> pd.DataFrame:
    """Metrics of several runs -> a row a run, a column a class or macro; NaN where a run has no value."""
    return pd.DataFrame(
        [
            {name.removeprefix(prefix): value for name, value in run.items() if name.startswith(prefix)}
            for run in runs
        ]
    )


def across(runs: Sequence[dict[str, float]]) -> pd.DataFrame:
    """Metrics of several runs -> one row a class or macro: mean, sd (n - 1), lowest, highest, seeds, low, high.

    low and high are the 95 % sampling interval of the first run alone: how it would have come out with other
    patients. Classes that not all runs have a value for keep those that they have; sd is NaN for one value.
    """
    values = each(runs)
    ends = [
        each(runs[:1], f"test/auroc_{end}/").reindex(columns=values.columns).iloc[0] for end in ("low", "high")
    ]
    table = pd.DataFrame(
        {"mean": values.mean(), "sd": values.std(ddof=1), "lowest": values.min(), "highest": values.max(),
         "seeds": values.count(), "low": ends[0], "high": ends[1]}
    )  # fmt: skip
    return table.rename_axis("finding").sort_values("mean", ascending=False)


def flat(table: pd.DataFrame) -> dict[str, float]:
    """The table as metrics: `seeds/auroc_mean/macro_14`, `seeds/auroc_sd/macro_14` ..."""
    return {
        f"seeds/auroc_{measure}/{name}": float(value)
        for measure in ("mean", "sd")
        for name, value in table[measure].dropna().items()
    }


def line(table: pd.DataFrame) -> str:
    """The macro over the 14 findings in a line, or why there is none."""
    if "macro_14" not in table.index:
        return "test macro AUROC undefined: no finding has enough patients"
    macro = table.loc["macro_14"]
    sampling = ""
    if not pd.isna(macro["low"]):
        sampling = f"; 95 % of the first by patients {macro['low']:.4f} to {macro['high']:.4f}"
    return (
        f"test macro AUROC {macro['mean']:.4f}, SD {macro['sd']:.4f} between {macro['seeds']:.0f} seeds "
        f"({macro['lowest']:.4f} to {macro['highest']:.4f}){sampling}"
    )
