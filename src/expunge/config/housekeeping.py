"""Configurations of the commands that read no rows of the user: the demo, lists, and care of what was left."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from expunge.config import flags
from expunge.config.bounds import Names


@dataclass(frozen=True, kw_only=True)
class Report(flags.Overwrite, flags.Written):
    """Writes the report of a record again: report.html and report.md."""

    record: Annotated[str, Names("folder")]
    """record.json, or the output folder that holds it."""


@dataclass(frozen=True, kw_only=True)
class Verify(
    flags.Earlier, flags.Unlearned, flags.Retrained, flags.Train, flags.Base, flags.Kept, flags.Forget, flags.Model
):
    """Makes every hash of a record again and says what differs: expunge record verify OUT.

    Flags name what lies elsewhere now than the record says.
    """

    action: tyro.conf.Positional[Literal["verify"]] = "verify"
    """What to do with the record."""
    record: Annotated[tyro.conf.Positional[str], Names("folder")] = tyro.MISSING
    """record.json, or the output folder that holds it."""


@dataclass(frozen=True, kw_only=True)
class Demo(flags.Seed):
    """Makes a model that has memorised fictional people, removes some, and reports.

    An earlier demo's run in --output is kept, and a new one gets a number.
    """

    real: bool = False
    """SmolLM2-135M-Instruct (downloads 93 MB, once) and a support team's customers, in place of a small model: about 13
    minutes on two cores, 5 the next time."""
    output: flags.Place = "expunge-demo"
    """Folder to write (filter: a file); must not exist, unless this command says so."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Lists the entries of a catalogue, or the shipped recipes."""

    catalogue: str = ""
    """methods, curvatures, metrics, attacks, benchmarks or recipes."""


@dataclass(frozen=True, kw_only=True)
class Purge(flags.Yes):
    """Removes what interrupted runs left, and the caches; never an output."""

    keep_caches: bool = False
    """Remove only what interrupted runs left."""
