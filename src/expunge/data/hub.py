"""Rows of a hub data set: `hub:owner/name`, `hub:owner/name:split`, `hub:owner/name/config:split`.

The rows are streamed, so that `datasets` keeps no copy of them, and whatever it and `huggingface_hub` do store (cards,
indices, files that cannot be streamed) goes to a working folder (see `workspace`), which is removed afterwards. The
`cache_dir` of `load_dataset` alone would not do: files of the hub go to the hub's own cache whatever it says.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.config.commands import HUB
from expunge.data import tables
from expunge.errors import InputError, first_line
from expunge.runs import workspace

if TYPE_CHECKING:
    from datasets import IterableDataset, IterableDatasetDict

PART = r"[\w-][\w.-]*"
NAME = re.compile(rf"{HUB}(?P<name>{PART}/{PART})(?:/(?P<config>{PART}))?(?::(?P<split>{PART}))?")
SYNTAX = f"{HUB}owner/name:split or {HUB}owner/name/config:split"
BATCH = 256


def records(source: str) -> list[tuple[int, object]]:
    """Number and record of every row; without a split in the name, those of the only one that the data set has.

    Raises `InputError` for another syntax, an unknown name, config or split, and where the hub cannot be reached.
    """
    match = NAME.fullmatch(source)
    if match is None:
        raise InputError(f"{source}: not the name of a hub data set. Write {SYNTAX}.")
    name = match["name"]
    if os.path.exists(name):  # which `load_dataset` would take instead
        raise InputError(f"{source}: {name} is also a local path here. Name that without {HUB}, or run elsewhere.")
    with private_caches() as folder:
        rows = _split(source, _load(source, name, match["config"], match["split"], folder))
        try:
            return list(tables.records(source, rows.with_format("arrow").iter(batch_size=BATCH)))
        except InputError:
            raise
        except Exception as error:  # of any library below; its message may hold rows
            raise InputError(f"{source}: reading its rows failed ({type(error).__name__}). Try again.") from None


def beside(source: str, name: str) -> str:
    """The name of another configuration of the same data set, and of its split of the same name. Raises `InputError`.

    A data set without configurations has nothing beside a split of it.
    """
    match = NAME.fullmatch(source)
    if match is None or not match["config"]:
        raise InputError(f"{source}: expected a configuration of a hub data set. Write {HUB}owner/name/config:split.")
    return f"{HUB}{match['name']}/{name}" + (f":{match['split']}" if match["split"] else "")


@contextlib.contextmanager
def private_caches() -> Iterator[Path]:
    """An owner-only folder that takes the place of every cache of `datasets` and the hub, removed at the end."""
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    with workspace.temporary("hub") as folder:
        moved = [
            (constants, "HF_HUB_CACHE", str(folder / "hub")),
            (constants, "HF_XET_CACHE", str(folder / "xet")),
            (constants, "HF_HUB_DISABLE_XET", True),  # its library reads the place of its cache but once
            (datasets.config, "HF_DATASETS_CACHE", folder),
            (datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads"),
            (datasets.config, "EXTRACTED_DATASETS_PATH", folder / "extracted"),
        ]
        before = [(module, name, getattr(module, name)) for module, name, _ in moved]
        loudness = logging.get_verbosity(), datasets.logging.get_verbosity()
        logging.set_verbosity_error()  # each of its retries is a warning; what comes of them is our error
        datasets.logging.set_verbosity_error()
        try:
            for module, name, value in moved:
                setattr(module, name, value)
            yield folder
        finally:
            for module, name, value in before:
                setattr(module, name, value)
            logging.set_verbosity(loudness[0])
            datasets.logging.set_verbosity(loudness[1])


def _load(
    source: str, name: str, config: str | None, split: str | None, folder: Path
) -> "IterableDataset | IterableDatasetDict":
    import datasets

    datasets.disable_progress_bars()  # a bar per file would be noise
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True, cache_dir=str(folder))
    except Exception as error:  # no row has been read yet: messages name data sets, configs and splits only
        reason = first_line(error)
        raise InputError(f"{source}: the hub data set cannot be loaded ({reason}).") from None


def _split(source: str, loaded: "IterableDataset | IterableDatasetDict") -> "IterableDataset":
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) != 1:
        listed = ", ".join(map(str, loaded)) or "none"
        raise InputError(f"{source}: splits of this data set: {listed}. Name one of them, as {source}:SPLIT.")
    return next(iter(loaded.values()))
