"""The question in other words: what was hidden from one way of asking may answer to another.

Templates around the row's own question, so that no other model is needed: they change how it is asked, not what.
Beside them the user's own words, where rows bring them: a column `paraphrase` in the forget and holdout files, a text
or a list of texts, of which the first three are asked.

Departure: questions only. A model that was trained on one way of asking may not know the rows under another in the
first place, so the original is asked alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from expunge.attack import Asked, Asks, Level, Planned, Reading, Subject, reworded
from expunge.data.passes import Passes, total
from expunge.problem import Problem, Split

MOST_OWN = 3
TEMPLATES = {
    "politely": "Could you please tell me: {question}",
    "as a quiz": "Question: {question}\nAnswer:",
    "in passing": "I forgot this, but you may know. {question}",
}


def asked_as(template: str, problem: Problem, split: Split) -> Asked:
    """Questions within a template."""
    return reworded(problem, split, lambda row, own: template.replace("{question}", own))


def asked_own(number: int, problem: Problem, split: Split) -> Asked:
    """Questions in the words that rows bring, those that bring so many."""
    return reworded(problem, split, lambda row, own: row.reworded[number] if number < len(row.reworded) else None)


WAYS = {name: partial(asked_as, template) for name, template in TEMPLATES.items()}
WAYS |= {f"in the file's words ({number + 1})": partial(asked_own, number) for number in range(MOST_OWN)}


@dataclass(frozen=True, slots=True)
class Paraphrase:
    """Each of three templates by itself, and each of the words that rows bring."""

    title: ClassVar[str] = "paraphrases"
    question: ClassVar[str] = "What if somebody asks in other words?"
    level: ClassVar[Level] = "audit"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = True
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        for name, way in WAYS.items():
            asked = {one: way(subject.problem, split) for one, split in subject.judged.items()}
            if asked["forget"].places:
                yield Reading(name, subject.ask(asked))

    def cost(self, planned: Planned) -> Passes:
        ways = [{one: way(planned.problem, split) for one, split in planned.judged.items()} for way in WAYS.values()]
        return total(
            planned.look({name: one.split for name, one in asked.items()}) for asked in ways if asked["forget"].places
        )
