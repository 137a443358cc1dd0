"""What goes to an experiment tracker while a run lasts: the figures of its log, and nothing else.

Through accelerate's trackers (`accelerate.tracking`). A line becomes its numbers, by their place in it; texts, lists,
and names of methods, models and files stay here. wandb is kept from sending the command line, code and what is printed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from expunge.errors import InputError
from expunge.runs.growing import Hears

PROJECT = "expunge"
INSTALL = {"tensorboard": '"expunge[tensorboard]"', "trackio": "trackio", "wandb": "wandb"}
SENDS_NO_MORE = {
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB__DISABLE_META": "true",
    "WANDB_X_DISABLE_META": "true",
}


def check(names: Sequence[str]) -> None:
    """Raises `InputError` for a tracker whose package is not there, before anything is loaded."""
    for name in names:
        if find_spec(name) is None:
            raise InputError(f"--report-to {name}: the package is not installed. Run: pip install {INSTALL[name]}")
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(
                f"--report-to {name}: accelerate {version('accelerate')} does not know it. Run: "
                "pip install -U accelerate"
            )


def figures(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by their place in it, such as `forget/before`."""
    found: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in figures(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


@contextmanager
def told(names: Sequence[str], run: str, folder: Path, say: Callable[[str], None]) -> Iterator[list[Hears]]:
    """What tells each tracker of a line of the log. `run`: its name, by which an
    interrupted one goes on; `folder`: for files."""
    trackers = []
    if names:
        PartialState()  # without which accelerate's logger raises
    if "wandb" in names:
        os.environ.update(SENDS_NO_MORE)
    for name in names:
        tracker = _tracker(name, run, folder)
        if name == "tensorboard":
            say(f"tensorboard: {folder}")
        trackers.append(tracker)
    try:
        yield [_telling(tracker) for tracker in trackers]
    finally:
        for tracker in trackers:
            tracker.finish()


def _tracker(name: str, run: str, folder: Path) -> Any:
    # only the process that writes has one, so accelerate need not meet the others to find that out
    kind = type(name, (LOGGER_TYPE_TO_CLASS[name],), {"main_process_only": False})
    if name == "tensorboard":
        made = kind(run, folder)
    else:
        made = kind(PROJECT, name=run, resume="allow", **({"id": run} if name == "wandb" else {}))
    made.start()
    return made


def _telling(tracker: Any) -> Hears:
    steps = tracker.requires_logging_directory  # the others count by themselves, and take no smaller one than the last

    def tell(piece: str, place: int, entry: Mapping[str, Any]) -> None:
        named = {f"{piece}/{name}" if piece else name: value for name, value in figures(entry).items()}
        tracker.log(named, step=place if steps else None)

    return tell
