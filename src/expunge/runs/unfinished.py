"""Runs that were interrupted: the same command again goes on; another one for the same output is refused by name.

What a run keeps while it lasts (checkpoints, evidence, which holds text) lies in the working folder of its output (see
`workspace`), which is gone when the run is done. One process at a time writes an output.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from expunge.config import commands, flags, recipes
from expunge.errors import InputError, Interrupted
from expunge.runs import distributed, environment, growing, purge, tracking, workspace
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.growing import Growing

BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Run:
    """A run that can be gone on with, and how often it was interrupted so far."""

    checkpoints: Checkpoints
    interruptions: int

    def kept(self, name: str, value: str) -> str:
        """What the run was begun with under a name: the value given now, or that of the run that is gone on with."""
        found: str = distributed.from_main(lambda: self.checkpoints.read(name)) or value
        self.checkpoints.save(name, found)
        return found

    @contextmanager
    def log(self, output: Path, report_to: Sequence[str], say: Callable[[str], None]) -> Iterator[Growing]:
        """The log of the run, which grows in its working folder, and goes to trackers too."""
        name = self.kept("tracked as", environment.environment()["created"].replace(":", "-"))
        if not distributed.main_process():
            yield Growing(None)
            return
        file = self.checkpoints.folder / growing.NAME
        say(f"log: {file}")
        if self.interruptions:
            times = f"{self.interruptions} time{'s' if self.interruptions > 1 else ''}"
            say(f"going on with the run of this output that was interrupted {times} (--restart begins anew)")
        with tracking.told(report_to, name, output.with_name(f"{output.name}.tensorboard"), say) as others:
            yield Growing(file, others)


@contextmanager
def run(
    output: Path, identity: Mapping[str, str], restart: bool = False, types: Sequence[type[object]] = ()
) -> Iterator[Run]:
    """The run that writes `output`: new, or what is left of one with the same `identity` (texts by name).

    Raises `InputError` where another process is writing it, and where what was begun is not the same, naming what
    differs; `Interrupted` on Ctrl-C. Wrong input leaves nothing behind, anything else what was kept. Of the processes
    of one run the main one looks after all this.
    """
    if not distributed.main_process():
        folder, interruptions = distributed.from_main(lambda: (Path(), 0))
        yield Run(Checkpoints(folder, types), interruptions)
        return
    folder = workspace.run_folder(output)
    busy = f"{output}: another run is writing this output. Wait until it has ended, or name another."
    with workspace.locked(folder, busy):
        if restart:
            _empty(folder)
        purge.remove(purge.abandoned())
        checkpoints = Checkpoints(folder, types)
        interruptions = _begin(checkpoints, identity, output)
        try:
            yield Run(checkpoints, distributed.from_main(lambda: (folder, interruptions))[1])
        except KeyboardInterrupt:
            raise Interrupted(
                f"{output}: interrupted. Give the same command to go on from what was kept, or add --restart to begin "
                "anew; expunge purge removes what was kept."
            ) from None
        except InputError:
            if not interruptions:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _begin(checkpoints: Checkpoints, identity: Mapping[str, str], output: Path) -> int:
    """How many processes of this run were interrupted so far. Raises `InputError` where it is not the same run."""
    begun = checkpoints.read(BEGUN) or {"identity": dict(identity), "processes": 0}
    changed = [name for name in {**begun["identity"], **identity} if begun["identity"].get(name) != identity.get(name)]
    if changed:
        raise InputError(
            f"{output}: an interrupted run of this output was begun with another {', '.join(changed)}. Give the same "
            "command as then to go on, --restart to throw it away and begin anew, or another --output."
        )
    checkpoints.save(BEGUN, begun | {"processes": begun["processes"] + 1})
    return int(begun["processes"])


def identity(command: str, inputs: flags.Inputs, hashes: Mapping[str, str]) -> dict[str, str]:
    """What must be the same for a run to go on, by the name that a refusal gives it; `hashes` of inputs by role."""
    plain = {key: value for key, value in recipes.resolved(inputs).items() if key not in (*commands.ROWS, "output")}
    found = {"command": command} | {f"--{key.replace('_', '-')}": _text(value) for key, value in plain.items()}
    contents = {f"content of {name}": value for name, value in hashes.items()}
    return found | contents | {"versions of libraries": _text(environment.versions())}


def _empty(folder: Path) -> None:
    """Removes what was kept; the files of `workspace` itself stay."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (workspace.LOCK, workspace.OUTPUT):
            path.unlink()


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
