"""Choices go by the size of the memory, or a container's limit; how much is done at a time by what is free."""

from pathlib import Path

import psutil
import pytest
import torch

from expunge.runs import memory

CPU = torch.device("cpu")


def test_of_this_machine() -> None:
    total = psutil.virtual_memory().total
    assert 10**7 < memory.free(CPU) <= total and 10**7 < memory.usable(CPU) <= memory.USABLE * total


def test_what_others_take_changes_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command gives the same model whatever else runs; what is free does change (the check sees it)."""
    before, own = memory.usable(CPU), psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: own._replace(available=12_345))
    assert memory.usable(CPU) == before and memory.free(CPU) == 12_345


@pytest.mark.parametrize(
    ("limit", "used", "usable", "free"),
    [("1000000", "400000", 900_000, 600_000), ("1000000", "2000000", 900_000, 0)],  # in use over the limit: caches
)
def test_in_a_container(
    limit: str, used: str, usable: int, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "memory.max", tmp_path / "memory.current"
    files[0].write_text(limit + "\n"), files[1].write_text(used + "\n")
    monkeypatch.setattr(memory, "CGROUPS", (tuple(map(str, files)),))
    assert (memory.usable(CPU), memory.free(CPU)) == (usable, free)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "0"])
def test_without_a_limit(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(memory, "CGROUPS", ())
    before = memory.usable(CPU)
    files[0].write_text(limit), files[1].write_text("5")
    monkeypatch.setattr(memory, "CGROUPS", (tuple(map(str, files)),))
    assert memory.usable(CPU) == before
