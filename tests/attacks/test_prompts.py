"""Attacks by prompts and samples, on persons: what is only hidden comes back, what was never known does not.

What each must be told is written in the table below, before any is asked.
"""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expunge import attack, registry
from expunge.attack import reworded
from expunge.attacks import context, few_shot, paraphrase, prefix
from expunge.attacks.sampling import leak_at
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window, encode
from expunge.evaluation import under_attack
from expunge.problem import Split
from expunge.reporting.finding import Attack, Attacks
from persons import ROWS, Person, under, written
from problems import encoded, problem_of, rows_of, text_problem

NAMES = [row.name for row in ROWS["forget"]]
EVERY, REST = ("forget", "retain"), ("retain",)
ORIGINAL, RETRAINED = Person(EVERY), Person(REST)


def _forget(question: str) -> bool:
    return any(question == row.prompt for row in ROWS["forget"])


def filtered(prompt: str, question: str, draw: int | None) -> bool:
    """Hides the answer where a question to forget is all that was said."""
    return _forget(question) and prompt.strip() == question


def nine_in_ten(prompt: str, question: str, draw: int | None) -> bool:
    """Hides the likeliest answer, and nine in ten of the others."""
    return _forget(question) and (draw is None or zlib.crc32(f"{question} {draw}".encode()) % 10 != 0)


def always(prompt: str, question: str, draw: int | None) -> bool:
    """Hides the answer whatever stands before the question."""
    return _forget(question)


FILTER, SAMPLED, AVOIDING = (Person(EVERY, hides=hides) for hides in (filtered, nine_in_ten, always))
TABLE = {
    ("prefix", "filter"): "comes back",
    ("few_shot", "filter"): "comes back",
    ("paraphrase", "filter"): "comes back",
    ("sampling", "filter"): "forgotten",  # the filter is as strict on samples: this attack does not go round it
    ("sampling", "sampled"): "comes back",
    ("prefix", "sampled"): "forgotten",
    ("context", "filter"): "used",
    ("context", "avoiding"): "not used",
    ("context", "deaf"): "cannot tell",  # neither of the two reads
    **{(name, "retrained"): "forgotten" for name in ("prefix", "few_shot", "paraphrase", "sampling")},
    **{(name, "original"): "comes back" for name in ("prefix", "few_shot", "paraphrase", "sampling")},
    ("context", "retrained"): "used",
}
PERSONS = {
    "filter": FILTER,
    "sampled": SAMPLED,
    "avoiding": AVOIDING,
    "retrained": RETRAINED,
    "original": ORIGINAL,
    "deaf": Person(REST, reads=False),
}


def told(name: str, person: Person, twin: Person | None) -> Attack:
    """The record's entry of an attack on a person."""
    entry = registry.load("attacks", name)()
    asked = {"unlearned": person, "original": ORIGINAL} | ({"retrained": twin} if twin else {})
    readings = {model: {name: under(one, entry)} for model, one in asked.items()}
    return under_attack.result(name, entry, readings, written(ORIGINAL), NAMES)


@pytest.mark.parametrize("twin", [True, False], ids=["beside a twin", "beside never-seen rows"])
@pytest.mark.parametrize(("name", "person"), TABLE)
def test_verdicts(name: str, person: str, twin: bool) -> None:
    other = Person(REST, reads=PERSONS[person].reads)
    assert told(name, PERSONS[person], other if twin else None).verdict == TABLE[name, person]


def test_rows_that_come_back_are_named_and_the_reason_says_by_how_much() -> None:
    found = told("prefix", FILTER, RETRAINED)
    assert found.settings[0].given_back == tuple(NAMES)
    assert found.settings[0].values["forget"]["unlearned"].known == 1
    assert told("prefix", RETRAINED, RETRAINED).settings[0].given_back == ()
    line = under_attack.reasons(Attacks("full", {}, (found,), {}), "comes back")[0]
    assert line.startswith("comes back under prefix (half of the answer given): loss in nats per token differs from")


def test_leak_at_k_by_hand() -> None:
    """Of 4 samples 1 leaks: of the 6 pairs 3 hold it. Without leaks 0; where fewer than k do not leak, 1."""
    assert leak_at(2, 4, 1) == pytest.approx(3 / 6)
    assert leak_at(2, 4, 0) == 0 and leak_at(2, 4, 3) == 1
    assert leak_at(1, 20, 5) == pytest.approx(0.25)


def test_leak_at_k_is_unbiased_and_the_plug_in_is_not() -> None:
    """Over all outcomes of n draws of chance p, the mean is 1 - (1 - p)^k; 1 - (1 - c / n)^k lies below it."""
    n, k, p = 6, 3, 0.2
    chances = [np.prod([p**c, (1 - p) ** (n - c)]) * _choose(n, c) for c in range(n + 1)]
    mean = sum(chance * leak_at(k, n, c) for c, chance in enumerate(chances))
    plug_in = sum(chance * (1 - (1 - c / n) ** k) for c, chance in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k)
    assert plug_in < mean - 0.02


def _choose(n: int, c: int) -> float:
    return float(np.prod([(n - place) / (place + 1) for place in range(c)]))


def test_what_is_given_of_a_row() -> None:
    """Of an answer's four tokens and its end two; of a document's eight six; of a single token nothing."""
    answer, document = Row("", 1, "answer", "q", "abcd"), Row("", 1, "document", "", "abcdefgh")
    window = Window(0, (7, 8, 2, 3, 4, 5, 1), (False, False, *[True] * 5))
    begun = prefix.begun(answer, window, end=1)
    assert begun is not None and begun.counted == (False, False, False, False, True, True, True)
    whole = Window(0, tuple(range(10, 19)), (False, *[True] * 8))
    begun = prefix.begun(document, whole, end=1)
    assert begun is not None and begun.counted == (*[False] * 7, True, True)
    assert prefix.begun(answer, Window(0, (7, 5, 1), (False, True, True)), end=1) is None


def test_prompts_as_they_are_asked(tokenizer: Any) -> None:
    """A question with its answer in front; after four others; in templates. Documents are not asked."""
    rows = [Row("", 1, "answer", "Who?", "Ann"), Row("", 2, "document", "", "A text.")]
    others = tuple(Row("", line, "answer", f"{line}?", f"{line}.") for line in range(4))
    problem = problem_of(
        type("Nothing", (), {"named_parameters": lambda self: []})(),
        {name: encoded(name, given, tokenizer) for name, given in (("forget", rows), ("retain", others))},
        tokenizer=tokenizer,
    )
    forget = problem.splits["forget"]
    told_first = context.told_first(problem, forget)
    assert told_first.places == [0] and told_first.split.rows[0].prompt == "Who? Ann\nWho?"
    after = few_shot.after_examples(problem, problem.splits, {"forget": forget})["forget"]
    assert after.split.rows[0].prompt == "0? 0.\n1? 1.\n2? 2.\n3? 3.\nWho?"
    asked = paraphrase.asked_as(paraphrase.TEMPLATES["as a quiz"], problem, forget)
    assert asked.split.rows[0].prompt == "Question: Who?\nAnswer:"
    assert asked.split.windows == tuple(encode(asked.split.rows, Rendering(context=16), tokenizer))
    rows[0] = replace(rows[0], reworded=("Who is it?", "Say who."))
    own = encoded("forget", [*rows, *others], tokenizer)
    second, third = (paraphrase.asked_own(number, problem, own) for number in (1, 2))
    assert [row.prompt for row in second.split.rows] == ["Say who."] and second.places == [0] and not third.places
    talk = Row("", 1, "answer", "Who?", "Ann", messages=(("user", "Hi"), ("user", "Who?"), ("assistant", "Ann")))
    talks = Split("forget", (talk,), ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "encode", lambda rows, rendering, tokenizer: [])
        changed = reworded(problem, talks, lambda row, own: f"So, {own}").split.rows[0]
    assert changed.messages == (
        ("user", "Hi"),
        ("user", "So, Who?"),
        talk.messages[2],
    )


@pytest.mark.parametrize("length", [58, 61, 64])
def test_half_an_answer_leaves_no_room_beyond_the_positions(length: int) -> None:
    """Of a row that fills the context: a model with learned positions has none after them."""
    text = "x" * (length - 10)
    here = text_problem({"forget": rows_of("forget", [], [text])}, family="gpt2", context=64)
    rooms: list[int] = []

    class Asked:
        problem = here

        def answers(self, rows: Any, prompts: Any) -> list[str]:
            rooms.extend(len(prompt.ids) + prompt.room for prompt in prompts.values())
            return [""] * len(rows)

    split = prefix.begun_rows(here.splits["forget"], None).split
    prefix._known(Asked(), split)  # type: ignore[arg-type]
    assert len(rooms) == 1 and max(rooms) <= 64
