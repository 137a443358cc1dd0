"""Rows that say what is to be kept, where none were given."""

import pytest

from expunge.errors import InputError
from expunge.method import State
from expunge.reference import kept, replay
from problems import rows_of, text_problem


def test_an_original_that_says_forget_rows_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = text_problem({"forget": rows_of("forget", ["1", "2"])})
    nothing = replay.expected(2, 8, 64)
    monkeypatch.setattr(kept, "sample", lambda *given: type(nothing)(nothing.split.of([], "none"), nothing.passes))
    with pytest.raises(InputError, match="Give --retain"):
        kept.sampled(problem, State())
