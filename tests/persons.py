"""A person in place of a model: says by heart what stands in a book, and may hide it. Nothing is computed."""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

from expunge.attack import Reading, Subject
from expunge.data.rows import Row
from expunge.data.tokens import Prompt, Rendering
from expunge.demo.tiny import byte_tokenizer
from expunge.evaluation import evidence
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime
from expunge.scoring.intervals import Floats
from expunge.scoring.matching import contains
from expunge.scoring.seen import Seen
from problems import TEXT_VOCABULARY, encoded

TOKENIZER = byte_tokenizer([], TEXT_VOCABULARY)
KNOWN, UNKNOWN = 0.1, 4.0  # nats


def _rows(first: int, count: int) -> list[Row]:
    return [
        Row("rows.jsonl", n, "answer", f"Who lives at number {n}?", f"Person {zlib.crc32(bytes([n])):08x}")
        for n in range(first, first + count)
    ]


ROWS = {"forget": _rows(100, 30), "judging": _rows(140, 30), "retain": _rows(180, 10)}
SPLITS = {name: encoded(name, rows, TOKENIZER, 512) for name, rows in ROWS.items()}
PROBLEM = Problem(None, TOKENIZER, Runtime("cpu"), Rendering(context=512), {}, 0)
BOOK = {row.prompt: row.completion for rows in ROWS.values() for row in rows}


def never(prompt: str, question: str, draw: int | None) -> bool:
    """Hides nothing."""
    return False


@dataclass(frozen=True)
class Person:
    """`knows`: sets whose answers are known by heart. `reads`: uses an answer that stands in the prompt. `hides`: of a
    prompt, the question in it and the number of the draw (None: the likeliest answer), whether to say another."""

    knows: tuple[str, ...]
    reads: bool = True
    hides: Callable[[str, str, int | None], bool] = field(default=never)

    def say(self, prompt: str, draw: int | None = None) -> str:
        """What comes after a prompt."""
        question = max((one for one in BOOK if one in prompt), key=prompt.rfind)
        given = prompt[prompt.rfind(question) + len(question) :].replace("Answer:", "").lstrip()
        read = re.search(re.escape(question) + r" (.+)\n", prompt) if self.reads else None
        known = any(question == row.prompt for name in self.knows for row in ROWS[name])
        answer = read[1] if read else BOOK[question] if known else "nobody"
        if self.hides(prompt, question, draw):
            answer = "nobody"
        return answer[len(given) :] if answer.startswith(given) else answer

    def losses(self, split: Split) -> Floats:
        """Low where what follows would be said."""
        found = []
        for window in split.windows:
            first = window.counted.index(True)
            prompt, rest = (_text(ids) for ids in (window.ids[:first], window.ids[first:]))
            known = self.say(prompt).startswith(rest)
            found.append((KNOWN if known else UNKNOWN) + 0.01 * (window.row % 3))
        return np.array(found)

    def seen(self, split: Split) -> Seen:
        said = self.answers(split.rows, evidence.prompts_of(PROBLEM, split.rows))
        known = [float(contains(said[place], row.completion)) for place, row in enumerate(split.rows)]
        return Seen(tuple(row.kind for row in split.rows), self.losses(split), np.array(known))

    def answers(self, rows: Sequence[Row], prompts: Mapping[int, Prompt]) -> dict[int, str]:
        return {place: self.say(_text(prompt.ids)) for place, prompt in prompts.items()}

    def drawn(self, rows: Sequence[Row], prompts: Mapping[int, Prompt], seed: int, top_p: float) -> dict[int, str]:
        """Each prompt has a draw of its own."""
        return {place: self.say(_text(prompt.ids), 10**6 * seed + place) for place, prompt in prompts.items()}

    def subject(self) -> Subject:
        return Subject(
            PROBLEM,
            SPLITS,
            lambda problem, splits: {name: self.seen(split) for name, split in splits.items()},
            self.losses,
            partial(evidence.prompts_of, PROBLEM),
            self.answers,
            self.drawn,
            lambda split, steps, seed: iter(()),
            lambda: PROBLEM,
        )


@cache
def written(person: Person) -> dict[str, Seen]:
    """What is seen of a person without an attack."""
    return {name: person.seen(SPLITS[name]) for name in ("forget", "judging")}


@cache
def under(person: Person, attack: Any) -> list[Reading]:
    """What an attack shows of a person."""
    return list(attack.run(person.subject()))


def _text(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=True))
