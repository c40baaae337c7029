"""Benchmark: what is fast, as ratios measured side by side in one run; a table, and a run that keeps it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrypoints.door import enter
from entrypoints.options import store_folder

if TYPE_CHECKING:
    from cxr.benchmarks.table import Row

PARTS = ("decode", "read", "memory")
_FILES = 200  # as many as are decoded and scaled; the peers' pipeline reads them again and again


class Parts(click.ParamType[tuple[str, ...]]):
    """Names of parts, joined by commas."""

    name = "parts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name for name in re.split(r"\s*,\s*", str(value).strip()) if name)
        wrong = [name for name in names if name not in PARTS]
        if wrong or not names:
            self.fail(f"{value!r}: expected some of {', '.join(PARTS)}, joined by commas.", param, ctx)
        return names


@click.command("benchmark", context_settings={"show_default": True})
@click.option(
    "--data",
    default="phantom",
    help="Images to measure with: a folder in NIH's layout, or phantom, "
    "whose small drawings say little of decoding.",
)
@click.option(
    "--store", default="", help="Folder for packed images and the drawn phantom. Empty: the user's cache folder."
)
@click.option(
    "--parts", type=Parts(), default="decode,read", help="Some of decode, read, memory, joined by commas."
)
@click.option("--image_size", type=click.IntRange(64, 2048), default=224, help="Pixels a side.")
@click.option(
    "--rows",
    type=click.IntRange(min=1_000),
    default=112_120,
    help="memory: images of the synthetic store; 112,120 at 224 px take 5.6 GB of disk while it runs.",
)
def main(data: str, store: str, parts: tuple[str, ...], image_size: int, rows: int) -> None:
    """Measure decoding, reading and memory on the images of a folder, against what peers do."""
    import mlflow
    import pandas as pd

    from cxr import tracking
    from cxr.benchmarks import table

    tracking.connect()
    stage = tracking.Stage(name="benchmark", config={"parts": ",".join(parts), "image_size": image_size,
                                                     "rows": rows}, data_digest="")  # fmt: skip
    with tracking.run(stage, title=f"benchmark {', '.join(parts)}", adopt=True) as run_id:
        mlflow.set_tags(table.machine())
        measured: list[Row] = []
        for row in _measure(data, store_folder(store), parts, image_size, rows):
            measured.append(row)
            goal = "" if row.goal is None else f" (goal {row.goal:g})"
            click.echo(f"{row.part}: {row.measure}: {row.value:,.3g} {row.unit}{goal}")
        mlflow.log_metrics(table.metrics(measured))
        shown = table.frame(measured)
        tracking.log_frame(shown, "benchmark")
        tracking.describe_run("Ratios hold, absolute figures are of this machine.", shown.round(3))
    with pd.option_context("display.width", 200, "display.max_colwidth", 60):
        click.echo(f"\n{shown.to_string(na_rep='', float_format='{:,.4g}'.format)}\nbenchmark: run {run_id}")


def _measure(data: str, root: Path, parts: tuple[str, ...], size: int, rows: int) -> "Iterator[Row]":
    import tempfile

    import numpy as np

    from cxr.benchmarks import decoding, memory, reading
    from cxr.data import nih, store
    from cxr.errors import InputError
    from entrypoints import sources

    _, folder = sources.data_place(data, root)
    found = dict(list(nih.image_files(folder).items())[:_FILES])
    if not found:
        raise InputError(f"data={folder}: no images/*.png or images_*/images/*.png there to measure with.")
    files: list[Path] = list(found.values())
    if "decode" in parts:
        yield from decoding.measure(files, size=size)
    if "read" in parts:
        packed = store.open_or_pack(root, list(found), found, size=size, dataset="benchmark")
        yield from reading.measure(files, packed, np.arange(len(files)), size=size)
    if "memory" in parts:
        needed = rows * size * size
        store.make_root(root, needed)
        names = nih.read(folder, split="test").table["image"].tolist()[:rows]  # the real index, where it is there
        names += [f"synthetic-{row}.png" for row in range(len(names), rows)]
        with tempfile.TemporaryDirectory(dir=root, prefix=".benchmark-") as scratch:
            yield from memory.measure(Path(scratch), names, size=size)


if __name__ == "__main__":
    enter(main, "benchmark")
