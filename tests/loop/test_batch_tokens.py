"""With how many tokens a run begins: by the plan's figure beside what is free."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from expunge.loop import batch_tokens as guess
from expunge.loop.batch_tokens import begin, tokens_within
from expunge.problem import Problem
from expunge.runs import memory
from problems import uneven


def check_tokens(within: Callable[..., int]) -> None:
    """A window of 10 takes 100 bytes, and 50 are always there: 3,250 bytes for all 32 of them."""

    def bytes_of(windows: int, width: int) -> int:
        return 50 + 10 * windows * width

    assert within(3250, 10, bytes_of) == 320
    assert within(3249, 10, bytes_of) == 160  # 16 windows take 1,650
    assert within(300, 10, bytes_of) == 20
    assert within(10, 10, bytes_of) == 10  # not even one window, which is the least there is


def test_tokens_within() -> None:
    check_tokens(tokens_within)


@pytest.mark.parametrize(
    "broken",
    [
        lambda free, width, bytes_of: 320,
        lambda free, width, bytes_of: tokens_within(free, width, bytes_of) // width,  # windows in place of tokens
        lambda free, width, bytes_of: tokens_within(2 * free, width, bytes_of),
    ],
)
def test_check_rejects(broken: Callable[..., int]) -> None:
    with pytest.raises(AssertionError):
        check_tokens(broken)


def settings(**given: Any) -> Any:
    plain = {"batch_tokens": "auto", "gradient_checkpointing": False, "trust_remote_code": False}
    return SimpleNamespace(**(plain | given))


def begun(problem: Problem, free: int, monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(memory, "free", lambda device: free)
    begin(problem, "full", settings(**given), said.append)
    return said


def test_no_limit_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = uneven()
    assert not begun(problem, 2**34, monkeypatch)
    assert problem.portions.tokens is None and problem.portions.lighter is not None


def test_a_limit_from_the_plan_where_there_is_little(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = uneven()
    width = max(len(window.ids) for split in problem.splits.values() for window in split.windows)
    free = 4 * 2**20
    assert "tokens at a time" in begun(problem, free, monkeypatch)[0]
    limit = problem.portions.tokens
    assert limit is not None and width <= limit < 32 * width and problem.portions.begun == limit
    lighter = uneven()
    begun(lighter, free, monkeypatch, gradient_checkpointing=True)
    assert lighter.portions.tokens is None or lighter.portions.tokens > limit
    given = uneven()
    assert not begun(given, free, monkeypatch, batch_tokens=4096)
    assert given.portions.tokens is None  # what was given is set where the problem is made


def test_models_that_cannot_be_traced_begin_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: Any) -> Any:
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr(guess, "Stack", refuses)
    problem = uneven()
    assert not begun(problem, 2**20, monkeypatch)
