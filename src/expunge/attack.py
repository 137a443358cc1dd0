"""Contract: what an attack is: something done to a model or to its prompts, after which the same rows are looked at.

An attack asks whether rows that seem forgotten come back. It is run alike on the unlearned model and on a retrained
one, on the forget rows and on never-seen rows; what that says is told by `evaluation.under_attack`, not by the attack.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import torch

from expunge.data.passes import Passes
from expunge.data.rows import Row
from expunge.data.tokens import Prompt, encode
from expunge.problem import Problem, Split
from expunge.scoring.intervals import Floats
from expunge.scoring.seen import Seen, nothing

Level = Literal["quick", "full", "audit"]
Asks = Literal["forgotten", "used"]
JUDGED = ("forget", "judging")


@dataclass(frozen=True, slots=True)
class Point:
    """Where a setting lies on a curve of the attack: the curve's name, what is counted along it, and how much of that;
    at 0 lies the model as it was written."""

    curve: str
    axis: str
    at: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen under one setting of an attack, by set ("forget", "judging")."""

    setting: str
    seen: Mapping[str, Seen]
    point: Point | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The problem around the model after so many steps; it is the same model all along."""

    steps: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows of a split that are asked in another way, and their places in it."""

    split: Split
    places: list[int]


def reworded(problem: Problem, split: Split, prompt: Callable[[Row, str], str | None]) -> Asked:
    """The split's questions with other prompts, made of a row and its own, where there is one; documents have no
    question."""
    made = {place: _with(row, prompt) for place, row in enumerate(split.rows) if row.kind == "answer"}
    asked = {place: row for place, row in made.items() if row is not None}
    rows = tuple(asked.values())
    windows = tuple(encode(rows, problem.rendering, problem.tokenizer))
    return Asked(Split(split.name, rows, windows), list(asked))


def _with(row: Row, prompt: Callable[[Row, str], str | None]) -> Row | None:
    """Of a conversation the last of the user's turns is changed."""
    if not row.messages:
        changed = prompt(row, row.prompt)
        return None if changed is None else replace(row, prompt=changed)
    last = max((place for place, (role, _) in enumerate(row.messages) if role == "user"), default=None)
    changed = None if last is None else prompt(row, row.messages[last][1])
    if changed is None:
        return None
    turns = [(role, changed if place == last else text) for place, (role, text) in enumerate(row.messages)]
    return replace(row, messages=tuple(turns))


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under attack, and what an attack may do with it.

    `splits`: a sample of the forget rows, of never-seen rows ("judging") and of rows to keep ("retain", for examples
    only). `look`: loss and greedy answer of all rows of splits, under a problem's model; `losses` [rows]: mean loss of
    each row of a split; `prompts`: what rows are generated from, by their index; `answers`: what is generated greedily
    after prompts; `draw`: the same as a sample, by a seed, from a nucleus of so much probability. `train`: steps down
    the loss of a split's rows with a seed, in place, looked at after each of those counts; the weights are put back in
    the end. `original`: the problem around the original model.
    """

    problem: Problem
    splits: Mapping[str, Split]
    look: Callable[[Problem, Mapping[str, Split]], Mapping[str, Seen]]
    losses: Callable[[Split], Floats]
    prompts: Callable[[Sequence[Row]], Mapping[int, Prompt]]
    answers: Callable[[Sequence[Row], Mapping[int, Prompt]], Mapping[int, str]]
    draw: Callable[[Sequence[Row], Mapping[int, Prompt], int, float], Mapping[int, str]]
    train: Callable[[Split, Sequence[int], int], Iterator[Trained]]
    original: Callable[[], Problem]

    @property
    def judged(self) -> dict[str, Split]:
        """The sets that readings are of."""
        return {name: self.splits[name] for name in JUDGED if name in self.splits}

    def unseen(self, split: Split) -> Seen:
        """The split's rows, as long as nothing was seen of them."""
        return nothing([row.kind for row in split.rows])

    def ask(self, asked: Mapping[str, Asked]) -> dict[str, Seen]:
        """What is seen of the judged rows that are asked in another way, by set; the others have not been asked."""
        seen = self.look(self.problem, {name: one.split for name, one in asked.items() if one.places})
        found = {name: self.unseen(split) for name, split in self.judged.items()}
        return found | {name: found[name].at(asked[name].places, one.loss, one.known) for name, one in seen.items()}

    @contextmanager
    def weights_put_back(self) -> Iterator[None]:
        """The model's weights may be changed inside; in the end they are what they were, bit for bit."""
        own = {name: tensor for name, tensor in self.problem.model.named_parameters() if tensor.is_floating_point()}
        before = {name: tensor.detach().clone() for name, tensor in own.items()}
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(before[name])


@dataclass(frozen=True, slots=True)
class Planned:
    """The same for a plan, without a model: what looking at the rows of splits would take, or training on a split."""

    problem: Problem
    splits: Mapping[str, Split]
    look: Callable[[Mapping[str, Split]], Passes]
    train: Callable[[Split, int, int], Passes]

    @property
    def judged(self) -> dict[str, Split]:
        return {name: self.splits[name] for name in JUDGED if name in self.splits}


class Attack(Protocol):
    """An attack of the catalogue: a frozen dataclass whose fields are its settings.

    `title`: a noun that stands after "forgotten, also under"; `question`: what somebody asks who does it. `level`: the
    least level of evidence that includes it. `asks`: whether rows should look forgotten under it, or what stands in the
    prompt be used. `beside_original`: it may harm
    any model, so what it shows of the original, treated alike, is what there is to see; else that is the original as it
    was written. `twin_only`: nothing but a retrained model can be compared with, since what is seen hangs on how the
    rows differ from never-seen ones. `needs_weights`: it does more than ask, so a served model is not
    attacked so. `margin`: of `known`, within which two models are the same.
    """

    title: ClassVar[str]
    question: ClassVar[str]
    level: ClassVar[Level]
    asks: ClassVar[Asks]
    beside_original: ClassVar[bool]
    twin_only: ClassVar[bool]
    needs_weights: ClassVar[bool]
    margin: ClassVar[float]

    def run(self, subject: Subject) -> Iterator[Reading]:
        """Attacks the subject's model, and looks at its rows."""
        ...

    def cost(self, planned: Planned) -> Passes:
        """What `run` takes of one model."""
        ...
