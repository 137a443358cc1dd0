"""Prompts that are generated from together: all once, like ones, and never more than the context holds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from expunge.data.tokens import Prompt, Rendering
from expunge.evaluation import evidence


@dataclass(frozen=True)
class Only:
    rendering: Rendering


def grouped(prompts: dict[int, Prompt], batch: int = 128, padded: bool = True) -> list[list[int]]:
    problem: Any = Only(Rendering(context=512))
    return evidence._groups(problem, prompts, batch, padded)


def mixed(seed: int = 0) -> dict[int, Prompt]:
    """Questions with short answers, and documents with as long a second half."""
    draw = np.random.default_rng(seed)
    sizes = [(int(draw.integers(8, 20)), int(draw.integers(2, 15))) for _ in range(70)]
    sizes += [(int(draw.integers(60, 350)), int(draw.integers(50, 120))) for _ in range(40)]
    return {
        place: Prompt([1] * length, "", expected + evidence.ROOM, expected)
        for place, (length, expected) in enumerate(sizes)
    }


def wasted(group: list[Prompt]) -> float:
    """Places beside what the prompts need, as a share of that."""
    needed = sum(len(one.ids) + one.room for one in group)
    return (max(len(one.ids) for one in group) + max(one.room for one in group)) * len(group) / needed - 1


@pytest.mark.parametrize("padded", [True, False])
def test_every_prompt_once_and_within_the_context(padded: bool) -> None:
    prompts = mixed()
    groups = grouped(prompts, padded=padded)
    assert sorted(index for group in groups for index in group) == list(prompts)
    for group in ([prompts[index] for index in one] for one in groups):
        assert max(len(one.ids) for one in group) + max(one.room for one in group) <= 512
        assert padded or len({len(one.ids) for one in group}) == 1


def test_large_groups_are_of_like_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short answer must not wait for a document; without the rule it does."""
    prompts = mixed()

    def worst() -> float:
        groups = [[prompts[index] for index in one] for one in grouped(prompts)]
        return max(wasted(group) for group in groups if len(group) > evidence.FEW)

    assert worst() <= evidence.WASTE
    assert max(map(len, grouped(prompts))) > evidence.FEW
    monkeypatch.setattr(evidence, "WASTE", 100.0)
    assert worst() > 1.5
