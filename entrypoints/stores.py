"""Stores: what is packed and drawn on this machine, and the one command that removes it."""

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxr.errors import InputError
from entrypoints.door import enter
from entrypoints.options import store_folder

if TYPE_CHECKING:
    from cxr.data.shelf import StoreInfo

_DAY = 24 * 3600


@click.command("stores", context_settings={"show_default": True})
@click.option("--store", default="", help="Folder for packed images and the drawn phantom. Empty: the user's "
              "cache folder.")  # fmt: skip
@click.option("--remove", default="", help="Names joined by commas; unfinished (packing that was interrupted); "
              "training (what unfinished runs keep here); unused:DAYS (not opened for so many days); all. Empty: "
              "list.")  # fmt: skip
def main(store: str, remove: str) -> None:
    """List packed images and drawn phantoms, and remove those that are named."""
    from cxr.data import shelf

    root = store_folder(store)
    found = shelf.stores(root)
    kept = []
    for one in _chosen(found, remove, root):
        try:
            shelf.remove(one)
        except InputError as error:  # the others are removed all the same
            kept.append(str(error))
            continue
        click.echo(f"removed {one.folder.name} ({_gigabytes(one)})")
        found.remove(one)
    click.echo(_listing(found, root))
    if kept:
        raise InputError(" ".join(kept))
    if "MLFLOW_RUN_ID" in os.environ:  # only `mlflow run` opens one: a list needs no run of its own
        from cxr import tracking

        tracking.connect()
        stage = tracking.Stage(name="stores", config={"remove": remove}, data_digest="")
        with tracking.run(stage, title="stores", adopt=True):
            tracking.describe_run(_listing(found, root))


def _chosen(found: "list[StoreInfo]", remove: str, root: Path) -> "list[StoreInfo]":
    if unused := re.fullmatch(r"unused:(\d+)", remove):
        return [one for one in found if time.time() - one.last_used > int(unused[1]) * _DAY]
    if remove == "unfinished":
        return [one for one in found if not one.complete]
    if remove == "training":
        return [one for one in found if one.kind == "training"]
    if remove == "all":
        return list(found)
    names = [name.strip() for name in remove.split(",") if name.strip()]
    unknown = [name for name in names if name not in {one.folder.name for one in found}]
    if unknown:
        raise click.BadParameter(
            f"{', '.join(unknown)}: no such store in {root}. Expected names from the list, unfinished, training, "
            "unused:DAYS or all.",
            param_hint="--remove",
        )
    return [one for one in found if one.folder.name in names]


def _listing(found: "list[StoreInfo]", root: Path) -> str:
    if not found:
        return f"{root}: nothing packed or drawn"
    lines = [f"{'name':<41} {'of':<16} {'images':>9} {'pixels':>6} {'disk':>9}  last used   state"]
    for one in found:
        used = time.strftime("%Y-%m-%d", time.localtime(one.last_used))
        state = ("complete" if one.complete else "unfinished") + (f", {one.bad:,} unreadable" if one.bad else "")
        if one.kind == "training":  # removed by its name or its age, never as a leftover of packing
            state = "of a run to be resumed"
        name = f"{one.folder.name:<41} {one.dataset:<16}"
        lines.append(f"{name} {one.images:>9,} {one.size or '':>6} {_gigabytes(one):>9}  {used}  {state}")
    total = sum(one.disk_bytes for one in found) / 1e9
    return "\n".join([*lines, f"{root}: {len(found)} folders, {total:.2f} GB"])


def _gigabytes(one: "StoreInfo") -> str:
    return f"{one.disk_bytes / 1e9:.2f} GB" if one.disk_bytes >= 1e8 else f"{one.disk_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    enter(main, "stores")
