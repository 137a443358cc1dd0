"""Configurations of the erasure desk: finding the rows, keeping them out, closing a request, its document."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from expunge.config.bounds import Names
from expunge.config.commands import Folder, RowFile, Settings

Given = Annotated[tyro.conf.Positional[str], Names("rows")]
Place = Annotated[str, Names("folder")]


@dataclass(frozen=True, kw_only=True)
class Select:
    """Finds the rows of a request in a training file: rows to forget, to keep, and to decide on."""

    train: Given = tyro.MISSING
    """All rows of the fine-tuning (JSONL, JSON, CSV, Parquet, a datasets folder or hub:owner/name:split)."""
    where: tuple[str, ...] = ()
    """COLUMN=VALUE: rows whose column holds the value are to be forgotten; of several, any. A column may hold a list;
    nested ones are written with dots."""
    mentions: tuple[str, ...] = ()
    """Names to find in other people's rows, for decision; without --where, such rows are those to forget."""
    mentions_file: Settings = None
    """More names, one a line."""
    unseen: RowFile = None
    """Rows of the same kind that were never trained in: candidates for the holdout."""
    columns: tuple[str, ...] = ()
    """Which columns of the files make a row, as for unlearn."""
    show_rows: bool = False
    """Write the text of rows into decisions.jsonl, beside file and line."""
    output: Place
    """Folder to write, for its owner alone; where it holds this selection, its decisions are applied."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Keeps the rows of a ledger's requests out of the rows of the next fine-tuning."""

    train: Given = tyro.MISSING
    """Rows of the next fine-tuning."""
    ledger: Place
    """Folder of the ledger."""
    columns: tuple[str, ...] = ()
    """Which columns of the file make a row, as for unlearn."""
    show_rows: bool = False
    """Write the text of rows into the decisions, beside file and line."""
    output: Place
    """File to write (JSON lines); beside it NAME.decisions.jsonl, whose decisions the same command applies."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Lists the requests of a ledger, and where each stands."""

    ledger: Given = tyro.MISSING
    """Folder of the ledger."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Closes a request: removes what holds its rows under our control, and lists what it cannot reach."""

    run: Given = tyro.MISSING
    """Output folder of the run that served it."""
    ledger: Place
    """Folder of the ledger."""
    curvature: bool = False
    """Remove the stored curvature that the run was given too."""
    original: bool = False
    """Remove the model that the run was given too: there is no way back then."""
    rows: bool = False
    """Remove the file of rows to forget too: nothing can be judged again then."""
    force: bool = False
    """Seal although the verdict does not pass."""
    yes: bool = False
    """Do not ask."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Writes the document of a request: two pages to print and to sign, from its record and the ledger."""

    run: Given = tyro.MISSING
    """Output folder of the run that served it."""
    ledger: Folder = None
    """Folder of the ledger, if not the one that the record names."""
    output: Place
    """Folder to write document.html and document.pdf to; must not exist."""
