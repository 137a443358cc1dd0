"""Other questions with their answers stand before the question: examples that set the tone.

    <prompt> <answer> of four rows to keep, a line each, then <prompt>

A model that has learned to refuse, or to answer in another form, is led back to the form of its training. Departure:
questions only, and the same four examples for all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from expunge.attack import Asked, Asks, Level, Planned, Reading, Subject, reworded
from expunge.data.passes import Passes
from expunge.data.rows import Row
from expunge.data.tokens import JOINS
from expunge.problem import Problem, Split

EXAMPLES = 4


def after_examples(problem: Problem, splits: Mapping[str, Split], judged: Mapping[str, Split]) -> dict[str, Asked]:
    """The judged questions after examples from the rows to keep; nothing where there are none."""
    kept = [row for row in (splits["retain"].rows if "retain" in splits else ()) if row.kind == "answer"]
    if len(kept) < EXAMPLES:
        return {}
    join = JOINS[problem.rendering.join]
    examples = "\n".join(f"{_question(row)}{join}{row.completion}" for row in kept[:EXAMPLES])
    return {name: reworded(problem, split, lambda row, own: f"{examples}\n{own}") for name, split in judged.items()}


def _question(row: Row) -> str:
    """The last that the user asks."""
    return next((text for role, text in reversed(row.messages) if role == "user"), row.prompt)


@dataclass(frozen=True, slots=True)
class FewShot:
    """Four examples from the rows to keep."""

    title: ClassVar[str] = "examples in the prompt"
    question: ClassVar[str] = "What if somebody shows the model other answers before asking?"
    level: ClassVar[Level] = "audit"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = True
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        asked = after_examples(subject.problem, subject.splits, subject.judged)
        if any(one.places for one in asked.values()):
            yield Reading(f"{EXAMPLES} examples", subject.ask(asked))

    def cost(self, planned: Planned) -> Passes:
        asked = after_examples(planned.problem, planned.splits, planned.judged)
        return planned.look({name: one.split for name, one in asked.items()})
