"""The command line, one of whose processes fails in the middle of a run: `failing.py RANK ARGUMENTS`."""

import os
import sys
from typing import Any

from expunge.cli import command_line
from expunge.errors import InputError
from expunge.loop import trial


def fail(*arguments: Any) -> Any:
    raise InputError("row 7 of this process is wrong. Mend it.")


if __name__ == "__main__":
    if os.environ["RANK"] == sys.argv[1]:
        trial.apply = fail
    sys.exit(command_line.main(sys.argv[2:]))
