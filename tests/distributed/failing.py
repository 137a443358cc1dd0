"""The command line, one of whose processes fails in the middle of a run."""

import os
import sys
from typing import Any

from expunge.cli import command_line
from expunge.errors import InputError
from expunge.loop import trial


def main(rank: int, arguments: list[str]) -> None:
    if os.environ["RANK"] == str(rank):
        trial.apply = _fail
    sys.exit(command_line.main(arguments))


def _fail(*arguments: Any) -> Any:
    raise InputError("row 7 of this process is wrong. Mend it.")
