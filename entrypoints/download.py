"""Download stage: NIH's image archives -> a folder that `split` reads, every archive held against its MD5."""

import contextlib
import dataclasses
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrypoints.door import enter

if TYPE_CHECKING:
    from cxr.data.download import Fetched
    from cxr.data.download.archives import Archive

NUMBERS = range(1, 13)
ADVICE = {
    "missing": "; fetch it by hand from {} into the folder",
    "differs": " from NIH's official file; to replace it, fetch it from {}",
}


class Archives(click.ParamType[Any]):
    """Numbers of archives: `1-12`, `1,3-5`."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        chosen: set[int] = set()
        for word in value.split(","):
            ends = re.fullmatch(r"\s*(\d{1,2})\s*(?:-\s*(\d{1,2})\s*)?", word, re.ASCII)
            if not ends:
                self.fail(f"{value!r} is not a choice of archives. Expected numbers such as 1,3-5.", param, ctx)
            first, last = int(ends[1]), int(ends[2] or ends[1])
            if not (NUMBERS.start <= first <= last < NUMBERS.stop):
                self.fail(f"{word.strip()!r} is not between 1 and 12, lower end first.", param, ctx)
            chosen.update(range(first, last + 1))
        return tuple(sorted(chosen))


@click.command("download", context_settings={"show_default": True})
@click.option("--data", default="", help="Folder to fill; made if it is not there.")
@click.option("--archives", type=Archives(), default="1-12", help="Which of the twelve archives, such as 1,3-5.")
@click.option("--parallel", type=click.IntRange(1, 12), default=4, help="Archives fetched at the same time.")
@click.option("--keep_archives", type=click.BOOL, default="true", help="false: remove each archive once it is "
              "unpacked; about 62 GB of disk then do instead of 90.")  # fmt: skip
@click.option("--source", default="", help="List file of a mirror, lines `name bytes md5 url`. Empty: NIH's "
              "own addresses.")  # fmt: skip
def main(data: str, archives: tuple[int, ...], parallel: int, keep_archives: bool, source: str) -> None:
    """Fetch NIH's image archives, verify and unpack them; a call that was ended goes on where it was."""
    if data in ("", "auto", "phantom"):
        raise click.BadParameter(f"{data!r} is not a folder to fill.", param_hint="--data")
    run(
        Path(data).expanduser().absolute(),
        numbers=archives,
        parallel=parallel,
        keep_archives=keep_archives,
        source=source,
    )


def run(folder: Path, *, numbers: tuple[int, ...], parallel: int, keep_archives: bool, source: str) -> str:
    """Fill the folder; the run id. Never reused: what lies in the folder is looked at anew."""
    from tqdm import tqdm

    from cxr import tracking
    from cxr.data import download, nih
    from cxr.data.download import archives
    from cxr.errors import InputError

    if nih.is_phantom(folder):
        raise InputError(f"data={folder}: this folder holds drawings. Expected a folder of its own for X-rays.")
    chosen = _choose(
        archives.read_list(Path(source).expanduser()) if source else archives.NIH_ARCHIVES, numbers, source
    )
    tracking.connect()
    names = [archive.name for archive in chosen]
    stage = tracking.Stage(
        name="download",
        config={"archives": names},
        data_digest=archives.list_digest(chosen),
    )
    done: list[Fetched] = []
    started = time.monotonic()
    failure: InputError | None = None
    with tracking.run(stage, title=f"download {len(chosen)} archives", adopt=True) as run_id:
        click.echo(
            f"download: {len(chosen)} archives, about {sum(archive.bytes for archive in chosen) / 1e9:.1f} GB, "
            f"into {folder}; interrupted, the same command goes on from there"
        )
        tracking.log_params(dict(stage.config) | {"keep_archives": keep_archives, "source": source})
        try:
            fetching = download.fetch(chosen, folder, parallel=parallel, keep_archives=keep_archives)
            with contextlib.closing(fetching):
                for record in fetching:
                    done.append(record)
                    tqdm.write(_line(record))  # above the bar
        except InputError as error:
            failure = error
        tables = archives.check_tables(folder)
        _log(done, tables, folder, asked=len(chosen), seconds=time.monotonic() - started)
        if failure:
            raise failure
    for name, state in tables:
        click.echo(f"{name}: {state}{ADVICE.get(state, '').format(archives.BOX_FOLDER)}")
    part = "" if len(numbers) == len(NUMBERS) else " -P images=present"
    when = ", once the missing tables are there" if "missing" in dict(tables).values() else ""
    click.echo(
        f"download: {sum(record.images for record in done):,} images in {folder}; run {run_id}\n"
        f"next{when}: uv run mlflow run . --env-manager local -e split -P data={shlex.quote(str(folder))}{part}"
    )
    return run_id


def _choose(listed: "tuple[Archive, ...]", numbers: tuple[int, ...], source: str) -> "list[Archive]":
    from cxr.errors import InputError, first_ten

    found = {archive.number: archive for archive in listed}
    if absent := [number for number in numbers if number not in found]:
        raise InputError(f"source={source}: does not list the archives {first_ten(absent)} that were asked for.")
    return [found[number] for number in numbers]


def _line(record: "Fetched") -> str:
    how = "there already" if record.already_there else f"{record.received:,} bytes fetched"
    return f"{record.name}: {record.images:,} images, {how}, {record.seconds:,.0f} s"


def _log(
    done: "list[Fetched]", tables: list[tuple[str, str]], folder: Path, *, asked: int, seconds: float
) -> None:
    import mlflow
    import pandas as pd

    from cxr import tracking

    images, received = sum(record.images for record in done), sum(record.received for record in done)
    mlflow.log_metrics(
        {
            "download/archives": len(done),
            "download/images": images,
            "download/bytes": received,
            "download/seconds": seconds,
        }
    )
    mlflow.set_tags({"data_folder": str(folder), **{f"table.{name}": state for name, state in tables}})
    if done:
        frame = pd.DataFrame([dataclasses.asdict(record) for record in done]).set_index("name")
        tracking.log_frame(frame.sort_index().round({"seconds": 2}), "archives")
    tracking.describe_run(
        f"NIH ChestX-ray14: {len(done)} of {asked} archives verified and unpacked in `{folder}`, "
        f"{images:,} images; {received:,} bytes fetched.",
        pd.DataFrame(tables, columns=["table", "state"]).set_index("table"),
    )


if __name__ == "__main__":
    enter(main, "download")
