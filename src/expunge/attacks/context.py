"""The fact stands in the prompt: a model that has forgotten a row must still be able to read.

A person who hands over a letter and asks about it is not asking what the model knows. Five of six unlearning methods
fail here (2510.17620): they have learned to avoid the answer, not to not know it.

    <prompt> <answer>, a line end, <prompt>   ->  is the answer given?

Departures: questions only; the fact is the row itself, in its own words, and no text is around it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from expunge.attack import Asked, Asks, Level, Planned, Reading, Subject, reworded
from expunge.data.passes import Passes
from expunge.data.rows import Row
from expunge.data.tokens import JOINS
from expunge.problem import Problem, Split


def told_first(problem: Problem, split: Split) -> Asked:
    """Questions with their own answer in front."""
    join = JOINS[problem.rendering.join]

    def prompt(row: Row, own: str) -> str:
        return f"{own}{join}{row.completion}\n{own}"

    return reworded(problem, split, prompt)


@dataclass(frozen=True, slots=True)
class Context:
    """The row's own question and answer, then the question."""

    title: ClassVar[str] = "a fact in the prompt"
    question: ClassVar[str] = "Can the model still use the fact where somebody puts it into the prompt?"
    level: ClassVar[Level] = "full"
    asks: ClassVar[Asks] = "used"
    beside_original: ClassVar[bool] = False
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        asked = {name: told_first(subject.problem, split) for name, split in subject.judged.items()}
        if any(one.places for one in asked.values()):
            yield Reading("question and answer, then the question", subject.ask(asked))

    def cost(self, planned: Planned) -> Passes:
        return planned.look({name: told_first(planned.problem, one).split for name, one in planned.judged.items()})
