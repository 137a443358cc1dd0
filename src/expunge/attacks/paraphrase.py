"""The question in other words: what was hidden from one way of asking may answer to another.

Templates around the row's own question, so that no other model is needed. They change how it is asked, not what: who
has paraphrases of the facts themselves asks them as rows of their own.

Departure: questions only. A model that was trained on one way of asking may not know the rows under another in the
first place, so the original is asked alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from expunge.attack import Asked, Asks, Level, Planned, Reading, Subject, reworded
from expunge.data.passes import Passes, total
from expunge.problem import Problem, Split

TEMPLATES = {
    "politely": "Could you please tell me: {question}",
    "as a quiz": "Question: {question}\nAnswer:",
    "in passing": "I forgot this, but you may know. {question}",
}


def asked_as(template: str, problem: Problem, split: Split) -> Asked:
    """Questions within a template."""
    return reworded(problem, split, lambda row, own: template.replace("{question}", own))


@dataclass(frozen=True, slots=True)
class Paraphrase:
    """Each of three templates by itself."""

    title: ClassVar[str] = "paraphrases"
    question: ClassVar[str] = "What if somebody asks in other words?"
    level: ClassVar[Level] = "audit"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = True
    twin_only: ClassVar[bool] = False
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        for name, template in TEMPLATES.items():
            asked = {one: asked_as(template, subject.problem, split) for one, split in subject.judged.items()}
            if any(one.places for one in asked.values()):
                yield Reading(name, subject.ask(asked))

    def cost(self, planned: Planned) -> Passes:
        return total(
            planned.look({name: asked_as(template, planned.problem, one).split for name, one in planned.judged.items()})
            for template in TEMPLATES.values()
        )
