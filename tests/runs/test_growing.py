"""The log of a run: every line once, in its order, wherever the process was killed and however often."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.runs import growing
from expunge.runs.growing import Growing


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class Always(Growing):
    """Writes whatever is said."""

    def _add(self, tags: Any, entry: Any) -> None:
        self._before.clear()
        super()._add(tags, entry)


class Anew(Growing):
    """Forgets what was written before."""

    def __init__(self, file: Path | None, others: Any = ()) -> None:
        if file is not None:
            file.write_text("")
        super().__init__(file, others)


def check_resumes(folder: Path, kind: type[Growing], kill: int, kept: int, same: bool) -> None:
    """Killed after `kill` lines, gone on from a checkpoint that remembers `kept` of them; the rest comes out the same
    or not."""
    whole = [{"step": n, "loss": n / 7} for n in range(6)]
    then = whole if same else [*whole[:kept], *({**one, "loss": -1.0} for one in whole[kept:])]
    file, heard = folder / "log.jsonl", list[Any]()

    def hear(part: str, place: int, entry: Any) -> None:
        assert part == "" and place == entry["step"]
        heard.append(entry)

    file.unlink(missing_ok=True)
    log = kind(file, [hear]).part()
    for one in whole[:kill]:
        log(one)
    if kill:
        with file.open("a") as torn:
            torn.write('{"step": 99, "lo')  # killed while it wrote
    again = kind(file, [hear])
    assert lines(file) == whole[:kill]  # nothing is taken away before it is known that it is not so
    log = again.part()
    for one in then:
        log(one)
    again.deliver(folder)
    assert lines(folder / "expunge" / "log.jsonl") == lines(file) == then
    assert heard == (whole if same else [*whole[:kill], *then[kept:]])


CASES = [
    (kill, kept, same) for kill, kept, same in itertools.product(range(7), range(7), (True, False)) if kept <= kill
]


def test_every_line_stands_once(tmp_path: Path) -> None:
    for kill, kept, same in CASES:
        check_resumes(tmp_path, Growing, kill, kept, same)


@pytest.mark.parametrize("broken", [Always, Anew])
def test_lines_that_stand_twice_or_are_lost_would_be_seen(tmp_path: Path, broken: type[Growing]) -> None:
    with pytest.raises(AssertionError):
        check_resumes(tmp_path, broken, 4, 2, True)


def test_a_run_that_says_less_than_before_leaves_less(tmp_path: Path) -> None:
    log = Growing(tmp_path / "log.jsonl").part()
    for n in range(3):
        log({"step": n})
    again = Growing(tmp_path / "log.jsonl")
    again.part()({"step": 0})
    again.deliver(tmp_path)
    assert lines(tmp_path / "log.jsonl") == [{"step": 0}]


def test_parts(tmp_path: Path) -> None:
    """Finished parts stay as they are; the last goes on where it was; one that failed before others is begun anew."""
    file = tmp_path / "log.jsonl"
    first = Growing(file)
    for cell, most in (("a", 2), ("b", 3), ("c", 1)):
        log = first.part(cell=cell, seed=0)
        for n in range(most):
            log({"step": n})
    second = Growing(file)  # a was finished, b failed, c was interrupted
    log = second.part(cell="c", seed=0)
    log({"step": 0}), log({"step": 1})
    assert [(one["cell"], one["step"]) for one in lines(file)] == [*zip("aabbbcc", (0, 1, 0, 1, 2, 0, 1), strict=True)]
    log = second.part(cell="b", seed=0)
    log({"step": 0})
    assert [(one["cell"], one["step"]) for one in lines(file)] == [*zip("aaccb", (0, 1, 0, 1, 0), strict=True)]


def test_one_of_several_processes_writes_nothing(tmp_path: Path) -> None:
    log = growing.Growing(None)
    log.part(twin=1)({"step": 0})
    log.deliver(tmp_path)
    assert not list(tmp_path.iterdir())
