"""Benchmark: what is fast, as ratios measured side by side in one run; a table, and a run that keeps it."""

import math
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrypoints.door import enter
from entrypoints.kinds import Device, Names
from entrypoints.options import ARCHS, store_folder

if TYPE_CHECKING:
    import torch

    from cxr.benchmarks.table import Row
    from cxr.data.store import Store

OF_IMAGES = ("decode", "read", "memory", "train", "start")
PARTS = (*OF_IMAGES, "explain", "serving", "bootstrap", "coverage")  # the last four draw what they need
_FILES = 200  # as many as are decoded and scaled; the peers' pipeline reads them again and again


class Sizes(click.ParamType[tuple[int, ...]]):
    """Batch sizes, joined by commas."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(click.IntRange(2, 65_536).convert(word.strip(), param, ctx) for word in value.split(","))


@click.command("benchmark", context_settings={"show_default": True})
@click.option(
    "--data",
    default="phantom",
    help="Images to measure with: a folder in NIH's layout, or phantom, "
    "whose small drawings say little of decoding. explain, serving, bootstrap and coverage need none.",
)
@click.option(
    "--store", default="", help="Folder for packed images and the drawn phantom. Empty: the user's cache folder."
)
@click.option(
    "--parts", type=Names(PARTS), default="decode,read", help=f"Some of {', '.join(PARTS)}, joined by commas."
)
@click.option("--image_size", type=click.IntRange(64, 2048), default=224, help="Pixels a side.")
@click.option(
    "--rows",
    type=click.IntRange(min=1_000),
    default=112_120,
    help="memory: images of the synthetic store; 112,120 at 224 px take 5.6 GB of disk while it runs.",
)
@click.option(
    "--arch",
    type=click.Choice(["auto", *ARCHS]),
    default="auto",
    help="train, explain, serving: network; auto: resnet50 on a GPU, resnet18 on a CPU.",
)
@click.option("--batch_sizes", type=Sizes(), default="32,256", help="train: images a step, joined by commas.")
@click.option(
    "--repetitions",
    type=click.IntRange(min=1),
    default=2_000,
    help="coverage: drawn test sets at each number of positive patients.",
)
@click.option("--device", type=Device(), default="auto", help="train, start, explain: auto, cpu, cuda or cuda:N.")
def main(
    data: str, store: str, parts: tuple[str, ...], image_size: int, rows: int, arch: str,
    batch_sizes: tuple[int, ...], repetitions: int, device: str,
) -> None:  # fmt: skip
    """Measure decoding, reading, memory, training, start, maps, serving, bootstrap; how often intervals hold."""
    if not parts:
        raise click.UsageError(f"parts is empty: expected some of {', '.join(PARTS)}, joined by commas.")
    import mlflow
    import pandas as pd

    from cxr import device as devices
    from cxr import tracking
    from cxr.benchmarks import table

    tracking.connect()
    where = devices.choose(device)
    arch = arch if arch != "auto" else "resnet50" if where.type == "cuda" else "resnet18"
    sizes = ",".join(map(str, batch_sizes))
    stage = tracking.Stage(
        name="benchmark",
        config={"parts": ",".join(parts), "image_size": image_size, "rows": rows, "arch": arch,
                "batch_sizes": sizes, "repetitions": repetitions, "device": str(where)},
        data_digest="",
    )  # fmt: skip
    with tracking.run(stage, title=f"benchmark {', '.join(parts)}", adopt=True) as run_id:
        mlflow.set_tags(table.machine())
        measured: list[Row] = []
        images = _measure(data, store_folder(store), parts, image_size, rows, arch, batch_sizes, where)
        for row in chain(images, _maps(parts, arch, image_size, where), _numbers(parts, repetitions)):
            measured.append(row)
            click.echo(f"{row.part}: {row.measure}: {_told(row)}")
        mlflow.log_metrics(table.metrics(row for row in measured if not math.isnan(row.value)))
        shown = table.frame(measured)
        tracking.log_frame(shown, "benchmark")
        tracking.describe_run("Ratios hold, absolute figures are of this machine.", shown.round(3))
    with pd.option_context("display.width", 200, "display.max_colwidth", 80):
        click.echo(f"\n{shown.to_string(na_rep='', float_format='{:,.4g}'.format)}\nbenchmark: run {run_id}")


def _told(row: "Row") -> str:
    if math.isnan(row.value):
        return row.against
    bound = "at most" if row.unit == "s" else "at least"
    return f"{row.value:,.3g} {row.unit}{'' if row.goal is None else f' (goal: {bound} {row.goal:g})'}"


def _measure(
    data: str, root: Path, parts: tuple[str, ...], size: int, rows: int, arch: str, batch_sizes: tuple[int, ...],
    where: "torch.device",
) -> "Iterator[Row]":  # fmt: skip
    import tempfile

    import numpy as np

    if not set(OF_IMAGES) & set(parts):
        return
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
    if {"read", "train"} & set(parts):
        packed = store.open_or_pack(root, list(found), found, size=size, dataset="benchmark")
    if "read" in parts:
        yield from reading.measure(files, packed, np.arange(len(files)), size=size)
    if "memory" in parts:
        needed = rows * size * size
        store.make_root(root, needed)
        names = nih.read(folder, split="test").table["image"].tolist()[:rows]  # the real index, where it is there
        names += [f"synthetic-{row}.png" for row in range(len(names), rows)]
        with tempfile.TemporaryDirectory(dir=root, prefix=".benchmark-") as scratch:
            yield from memory.measure(Path(scratch), names, size=size)
    if "train" in parts:
        yield from _training(found, packed, size, arch, batch_sizes, where)
    if "start" in parts:
        yield from _start(root, where)


def _maps(parts: tuple[str, ...], arch: str, size: int, where: "torch.device") -> "Iterator[Row]":
    from cxr.benchmarks import explain

    if "explain" in parts:
        yield from explain.measure(arch=arch, size=size, device=where)
    if "serving" in parts:
        yield from _serving(arch, size)


def _serving(arch: str, size: int) -> "Iterator[Row]":
    """A model with random weights, saved where nobody else sees it."""
    import tempfile

    from cxr import model, registry
    from cxr.benchmarks import serving
    from cxr.data.image import example_png
    from cxr.serving import WEIGHTS

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        network = model.build(arch, seed=0)
        model.save_network(place / WEIGHTS, network.state_dict(), model.Spec(arch=arch, image_size=size))
        registry.save_model(place / "model", place / WEIGHTS, example_png())
        yield from serving.measure(place / "model", network.eval(), arch=arch, size=size)


def _numbers(parts: tuple[str, ...], repetitions: int) -> "Iterator[Row]":
    import mlflow

    from cxr import figures, tracking
    from cxr.benchmarks import bootstrap, coverage

    if "bootstrap" in parts:
        yield from bootstrap.measure()
    if "coverage" in parts:
        table = coverage.simulate(repetitions)
        tracking.log_frame(table.set_index("method"), "coverage")
        subtitle = f"Drawn test sets of {coverage.PATIENTS:,} patients with as unequal numbers of images as NIH's."
        mlflow.log_figure(figures.coverage(coverage.of_auroc(table), subtitle=subtitle), "coverage.png")
        yield from coverage.rows(table)


def _training(
    files: dict[str, Path], packed: "Store", size: int, arch: str, batch_sizes: tuple[int, ...],
    where: "torch.device",
) -> "Iterator[Row]":  # fmt: skip
    import mlflow
    import torch

    from cxr import device as devices
    from cxr.benchmarks import training

    engine = devices.engine(where, pixel_bytes=packed.pixels.nbytes)
    mlflow.log_params({f"engine.{name}": value for name, value in vars(engine).items()})
    yield from training.measure(files, packed, engine=engine, arch=arch, size=size, batch_sizes=batch_sizes)
    if where.type == "cuda":
        mlflow.set_tag("gpu", torch.cuda.get_device_name(where))
        yield from training.epoch(where, arch=arch, size=size)


def _start(root: Path, where: "torch.device") -> "Iterator[Row]":
    """On the drawn phantom; of few patients, since the runs are waited for."""
    from cxr.benchmarks import start

    values = ["--data", "phantom", "--store", str(root), "--device", str(where), "--limit", "40", "--epochs", "1",
              "--register_as", ""]  # fmt: skip
    yield from start.measure([sys.executable, "-m", "entrypoints.train"], values)


if __name__ == "__main__":
    enter(main, "benchmark")
