"""Checks of rows before any model is loaded, on small folders."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

from expunge.config.commands import Inputs
from expunge.errors import InputError
from expunge.intake.sets import check


class Dividing:
    """Stands for a method that divides its retain rows."""

    fewest_retain: ClassVar[int] = 24


def inputs(folder: Path, model: Path, retain: int) -> Inputs:
    for name, count in (("forget", 4), ("retain", retain)):
        rows = [json.dumps({"prompt": f"{name} {line}?", "completion": f"{line} foxes"}) for line in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = str(folder / "retain.jsonl") if retain else None
    return Inputs(model=str(model), forget=str(folder / "forget.jsonl"), retain=given)


def test_fewest_retain_rows_are_counted_without_the_guard(tmp_path: Path, saved_llama: Path) -> None:
    """26 rows would do, were three of them not the guard; 28 do with three."""
    with pytest.raises(InputError, match=r"retain\.jsonl: 23 row\(s\) to keep \(3 of 26 .*at least 24.*more --retain"):
        check(inputs(tmp_path, saved_llama, 26), Dividing)
    with pytest.raises(InputError, match=r"forget\.jsonl: 0 row\(s\) to keep, .*Give --retain rows"):
        check(inputs(tmp_path, saved_llama, 0), Dividing)
    assert len(check(inputs(tmp_path, saved_llama, 28), Dividing).parts["retain"]) == 25
    assert len(check(inputs(tmp_path, saved_llama, 26)).parts["retain"]) == 23
