"""Configurations of the erasure desk: finding the rows, keeping them out, closing a request, its document."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from expunge.config import flags
from expunge.config.bounds import Names
from expunge.config.flags import RowFile, Settings

Given = Annotated[tyro.conf.Positional[str], Names("rows")]


@dataclass(frozen=True, kw_only=True)
class Select(flags.Written, flags.Shown, flags.Columns):
    """Finds the rows of a request in a training file: rows to forget, to keep, and to decide on.

    The output is for its owner alone; where it holds this selection, its decisions are applied.
    """

    train: Given = tyro.MISSING
    """All rows of the fine-tuning, the forget rows among them."""
    where: tuple[str, ...] = ()
    """COLUMN=VALUE: rows whose column holds the value are to be forgotten; of several, any. A column may hold a list;
    nested ones are written with dots."""
    mentions: tuple[str, ...] = ()
    """Names to find in other people's rows, for decision; without --where, such rows are those to forget."""
    mentions_file: Settings = None
    """More names, one a line."""
    unseen: RowFile = None
    """Rows of the same kind that were never trained in: candidates for the holdout."""


@dataclass(frozen=True, kw_only=True)
class Filter(flags.Written, flags.Shown, flags.Columns):
    """Keeps the rows of a ledger's requests out of the rows of the next fine-tuning.

    The output is a file of JSON lines; beside it NAME.decisions.jsonl, whose decisions the same command applies.
    """

    next_train: Given = tyro.MISSING
    """Rows of the next fine-tuning."""
    ledger: flags.Place
    """Folder of the ledger of requests."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Lists the requests of a ledger, and where each stands."""

    ledger: Given = tyro.MISSING
    """Folder of the ledger of requests."""


@dataclass(frozen=True, kw_only=True)
class Seal(flags.Yes):
    """Closes a request: removes what holds its rows under our control, and lists what it cannot reach."""

    run: Given = tyro.MISSING
    """Output folder of the run that served it."""
    ledger: flags.Place
    """Folder of the ledger of requests."""
    remove_curvature: bool = False
    """Remove the stored curvature that the run was given too."""
    remove_original: bool = False
    """Remove the model that the run was given too: there is no way back then."""
    remove_rows: bool = False
    """Remove the file of rows to forget too: nothing can be judged again then."""
    despite_verdict: bool = False
    """Seal although the verdict does not pass."""


@dataclass(frozen=True, kw_only=True)
class Document(flags.Overwrite, flags.Written, flags.OnLedger):
    """Writes the document of a request: two pages to print and to sign, from its record and the ledger.

    The ledger is the one that the record names, if none is given.
    """

    run: Given = tyro.MISSING
    """Output folder of the run that served it."""
