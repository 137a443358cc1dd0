"""A few kills of select, ledger and seal, by the program that does a hundred of each."""

import os
from pathlib import Path

import pytest

import desk_kills


def test_nothing_is_lost_and_no_state_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a process that is killed leaves the disk running
    for name in ("XDG_CONFIG_HOME", "EXPUNGE_CACHE"):  # which it sets for itself
        monkeypatch.setenv(name, str(tmp_path / name))
    found = desk_kills.run_all(4, 0, tmp_path)
    assert all(one.kills for one in found) and [one.faults for one in found] == [[], [], []]
