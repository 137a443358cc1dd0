"""Configurations of the commands that read no rows of the user: the demo, lists, and care of what was left."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from expunge.config.bounds import AtLeast, Names
from expunge.config.commands import ModelFolder, RowFile, RowFiles


@dataclass(frozen=True, kw_only=True)
class Report:
    """Writes the report of a record again."""

    record: Annotated[str, Names("folder")]
    """record.json, or the output folder that holds it."""
    output: Annotated[str, Names("folder")]
    """Folder to write report.html and report.md to; must not exist."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Makes every hash of a record again and says what differs: expunge record verify OUT."""

    action: tyro.conf.Positional[Literal["verify"]] = "verify"
    """What to do with the record."""
    output: Annotated[tyro.conf.Positional[str], Names("folder")] = tyro.MISSING
    """The output folder, or its record.json."""
    model: ModelFolder = None
    """Where the original lies now, if not where the record says; the same holds for all below."""
    base: ModelFolder = None
    """The model before its fine-tuning."""
    retrained: ModelFolder = None
    """The retrained model."""
    unlearned: ModelFolder = None
    """The model that was judged (a record of evaluate)."""
    forget: RowFile = None
    """The rows to remove."""
    retain: RowFile = None
    """The rows to keep."""
    holdout: RowFile = None
    """The rows that the model never saw."""
    train: RowFile = None
    """All rows of the fine-tuning."""
    earlier: RowFiles = ()
    """Rows of earlier requests."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Makes a model that has memorised fictional people, removes some, and reports."""

    real: bool = False
    """SmolLM2-135M-Instruct (downloads 93 MB, once) and a support team's customers, in place of a small model: about 13
    minutes on two cores, 5 the next time."""
    output: Annotated[str, Names("folder")] = "expunge-demo"
    """Folder to write; an earlier demo's run there is kept, and a new one gets a number."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of people, models and unlearning."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Lists the entries of a catalogue, or the shipped recipes."""

    catalogue: str = ""
    """methods, curvatures, metrics, attacks, benchmarks or recipes."""


@dataclass(frozen=True, kw_only=True)
class Purge:
    """Removes what interrupted runs left, and the caches; never an output."""

    yes: bool = False
    """Do not ask."""
    keep_caches: bool = False
    """Remove only what interrupted runs left."""
