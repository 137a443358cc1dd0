"""The log of a run: a line of JSON a check, in a file that is there from the start and survives interruptions.

It grows in the run's working folder, where `tail -f` finds it, and is put into the output at the end. Figures only: no
row, no text of one. A run that goes on says again what was said since it began, as far as it remembers; lines that
stand there already are not written twice, and from the first that differs on the old ones go.
"""

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.files import whole

Log = Callable[[Mapping[str, Any]], None]
Hears = Callable[[str, int, Mapping[str, Any]], None]
NAME = "log.jsonl"


class Growing:
    """A log in a file, none for a process that does not write it. `others` hear of each line that is new
    which part it belongs to ("": there is but one), its place in that, and its figures."""

    def __init__(self, file: Path | None, others: Sequence[Hears] = ()) -> None:
        self._file, self._others = file, others
        self._before: deque[str] = (
            deque()
        )  # lines of the part at work that an earlier process wrote, and we did not yet
        self._part, self._place = "", -1
        if file is not None:
            file.touch(0o600)
            lines = self._lines()
            if lines and not lines[-1].endswith("\n"):  # killed while it was written
                self._cut(lines[-1:])

    def part(self, **tags: Any) -> Log:
        """What logs one piece of work of several, whose lines bear these tags, once the one before it has ended.

        What an earlier process wrote of it is gone on with where that stands at the end, else begun anew.
        """
        if self._file is None:
            return lambda entry: None
        self._end()
        lines = self._lines()
        own = [line for line in lines if tags.items() <= json.loads(line).items()]
        if own != lines[len(lines) - len(own) :]:  # of a piece that failed, before others
            whole.write_whole(self._file, "".join(line for line in lines if line not in own).encode())
            own = []
        self._before.extend(own)
        known = list(dict.fromkeys(tuple(json.loads(line)[name] for name in tags) for line in self._lines()))
        number = 1 + (known.index(now) if (now := tuple(tags.values())) in known else len(known))
        self._part, self._place = (f"{next(iter(tags))} {number}" if tags else ""), -1
        return lambda entry: self._add(tags, entry)

    def deliver(self, output: Path) -> None:
        """Puts the log into an output."""
        if self._file is not None:
            self._end()
            (output / "expunge").mkdir(exist_ok=True)
            shutil.copyfile(self._file, output / "expunge" / NAME)

    def _add(self, tags: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps({**tags, **entry}) + "\n"
        self._place += 1
        if self._before and self._before[0] == line:
            self._before.popleft()
            return
        self._end()
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(line)
        for other in self._others:
            other(self._part, self._place, entry)

    def _end(self) -> None:
        self._cut(self._before)
        self._before.clear()

    def _cut(self, last: Sequence[str]) -> None:
        """Takes the last lines off the file."""
        if last:
            assert self._file is not None
            with self._file.open("r+b") as lines:
                lines.truncate(self._file.stat().st_size - sum(len(line.encode()) for line in last))

    def _lines(self) -> list[str]:
        assert self._file is not None
        return self._file.read_text(encoding="utf-8").splitlines(keepends=True)
