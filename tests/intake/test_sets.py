"""Checks of rows before any model is loaded, on small folders."""

import json
from collections.abc import Callable, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.config.commands import Unlearn
from expunge.errors import InputError
from expunge.intake.sets import Lack, check, lacking
from expunge.method import Needs

DIVIDING = Needs(fewest_retain=24)  # of a method that divides its retain rows


def inputs(folder: Path, model: Path, retain: int) -> Unlearn:
    for name, count in (("forget", 4), ("retain", retain)):
        rows = [json.dumps({"prompt": f"{name} {line}?", "completion": f"{line} foxes"}) for line in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = str(folder / "retain.jsonl") if retain else None
    return Unlearn(model=str(model), forget=str(folder / "forget.jsonl"), retain=given)


def test_fewest_retain_rows_are_counted_without_the_guard(tmp_path: Path, saved_llama: Path) -> None:
    """26 rows would do, were three of them not the guard; 28 do with three."""
    with pytest.raises(
        InputError,
        match=r"retain\.jsonl: 23 row\(s\) to keep \(3 of 26 .*at least 24.*--retain with at least 24 rows beside",
    ):
        check(inputs(tmp_path, saved_llama, 26), DIVIDING)
    with pytest.raises(InputError, match=r"forget\.jsonl: 0 row\(s\) to keep, .*Give --retain with"):
        check(inputs(tmp_path, saved_llama, 0), DIVIDING)
    assert len(check(inputs(tmp_path, saved_llama, 28), DIVIDING).parts["retain"]) == 25
    assert len(check(inputs(tmp_path, saved_llama, 26)).parts["retain"]) == 23


FEW = {"forget": range(4), "retain": range(7), "guard": range(2)}


def check_lacks(found: Callable[[Needs, Mapping[str, Sized], bool], Lack | None]) -> None:
    """By what a method needs, and what there is."""
    assert found(Needs(), {"forget": range(4)}, False) is None
    assert found(Needs(retain=True, fewest_retain=7), FEW, False) is None
    for base, others in ((True, {}), (False, {"unseen": range(3)}), (False, {"counterfactual": range(4)})):
        assert found(Needs(targets=True), FEW | others, base) is None
    lack = found(Needs(retain=True), {"forget": range(4)}, True)
    assert lack is not None and lack.flags == "--retain" and "rows to keep" in lack.reason
    lack = found(Needs(retain=True, fewest_retain=8), FEW, True)
    assert lack is not None and "7 row(s) to keep (2 of 9 are set apart as guard)" in lack.reason
    lack = found(Needs(targets=True), FEW, False)
    assert lack is not None and "--holdout" in lack.flags and "--base" in lack.flags
    both = found(Needs(retain=True, targets=True), {"forget": range(4)}, False)
    assert both is not None and both.flags == "--retain"  # one after the other


def test_what_is_lacking_is_named() -> None:
    check_lacks(lacking)


@pytest.mark.parametrize(
    "broken",
    [
        lambda needs, parts, base: None,
        lambda needs, parts, base: lacking(needs, parts, True),
        lambda needs, parts, base: lacking(replace(needs, fewest_retain=0), parts, base),
        lambda needs, parts, base: lacking(needs, {**parts, "retain": range(9)}, base),
    ],
)
def test_another_answer_would_be_seen(broken: Any) -> None:
    with pytest.raises(AssertionError):
        check_lacks(broken)
