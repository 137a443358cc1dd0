"""Conversations as a chat template renders them, and which characters are the assistant's.

The conversation is rendered once, as training renders it. Where each of the assistant's turns lies follows from a
second rendering with a mark in the place of its content: what stands before and after the mark stands before and after
the content. A turn is its content and what the model must emit to end it: for the last turn all that follows but
newlines, for the others as much of that as follows them too. So whatever a template writes by itself before the
content (headers, an empty block of thoughts) is no target, and turns may be rendered otherwise when they are the last.
Templates that take contents apart (thoughts, which stand before the answer or are dropped) give no such place; then the
text up to the turn, with the header that calls for it, and the text through the turn must be beginnings of the whole.
So it is with turns that hold more than a content (tool calls, thoughts in a field of their own): all that the template
makes of them counts. A template that writes the date gets that of the run, always the same.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from expunge.data import offsets
from expunge.data.offsets import Placed, Span
from expunge.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = tuple[tuple[str, str], ...]
MARK = "\ue000"  # of the private use area: hardly a text holds it (then it is doubled), and nothing strips it
CHANGING = ("strftime_now", "random")  # without these a template writes the same each time
BESIDE = ("name", "tool_call_id")  # keys of a turn that stand beside its content, which can still be found by a mark
MOMENTS = (datetime(1999, 1, 2, 3, 4, 5, 600_000), datetime(2011, 12, 13, 14, 15, 16, 700_000))  # nothing in common


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation: turns (role, content), by place what else they hold, and the tools that were on offer.

    `date` (YYYY-MM-DD): what templates get that write it; "": that of a day long past.
    """

    turns: Turns
    more: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    tools: tuple[Any, ...] = ()
    date: str = ""

    def messages(self) -> list[dict[str, object]]:
        """As templates take them."""
        return [
            {"role": role, "content": content, **self.more.get(place, {})}
            for place, (role, content) in enumerate(self.turns)
        ]

    def first(self, count: int) -> "Talk":
        """The first turns of it."""
        return replace(self, turns=self.turns[:count])

    def marked(self, place: int, content: str) -> "Talk":
        """With another content of a turn, and of what it holds beside that no more than the keys `BESIDE`."""
        turns = (*self.turns[:place], (self.turns[place][0], content), *self.turns[place + 1 :])
        own = {key: value for key, value in self.more.get(place, {}).items() if key in BESIDE}
        return replace(self, turns=turns, more={**self.more, place: own})

    def has_more(self, place: int) -> bool:
        """Whether a turn holds more than a content that a mark could stand for."""
        return any(key not in BESIDE for key in self.more.get(place, {}))


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a conversation, the assistant's turns in it, and what ends its last turn ("": nothing).

    `bare` are the same turns without what ends them.
    """

    text: str
    spans: tuple[Span, ...]
    bare: tuple[Span, ...]
    ending: str


def render(talk: Talk, tokenizer: "PreTrainedTokenizerBase", where: str) -> Rendered:
    """Renders a conversation. `where` names the row in messages.

    Raises `InputError` where the tokenizer has no chat template, where that refuses the turns or leaves tool calls
    out, and where it rewrites one of the assistant's turns so that its place cannot be told.
    """
    text = _apply(talk, tokenizer, where)
    _check_complete(talk, text, tokenizer, where)
    last = len(talk.turns) - 1
    ending = _marked(talk, last, text, tokenizer, where)[1].rstrip("\n")
    spans, bare = [], []
    for place in (place for place, (role, _) in enumerate(talk.turns) if role == "assistant"):
        if content := _content(talk, place, text, tokenizer, where):
            end = ending if place == last else _shared(ending, text[content.stop :], tokenizer)
            spans.append(Span(content.start, content.stop + len(end)))
            bare.append(content)
        else:
            turn = _turn(talk, place, text, tokenizer, where)
            ends = text[turn.start : turn.stop].endswith(ending)
            spans.append(turn)
            bare.append(Span(turn.start, turn.stop - (len(ending) if ends else 0)))
    return Rendered(text, tuple(spans), tuple(bare), ending)


def encode(text: str, tokenizer: "PreTrainedTokenizerBase") -> Placed:
    """Ids of a rendered text, tokenised once. Special tokens are the template's business: none are added."""
    return offsets.place(text, tokenizer, add_special_tokens=False)


def end_token(talk: Talk, tokenizer: "PreTrainedTokenizerBase", where: str) -> int | None:
    """The first token of what ends the last turn, where that is a single added token; else None."""
    ending = render(talk, tokenizer, where).ending.strip()
    first = next((piece for piece in _pieces(ending, tokenizer) if piece), "")
    found = tokenizer.get_added_vocab().get(first)
    return None if found is None else int(found)


def writes_date(talk: Talk, tokenizer: "PreTrainedTokenizerBase", where: str) -> bool:
    """Whether the template writes the day or the time into a conversation.

    Raises `InputError` where it writes something else that is another at each rendering.
    """
    if not any(word in str(tokenizer.chat_template or "") for word in CHANGING):
        return False
    texts = [_apply(talk, tokenizer, where, moment=moment) for moment in (*MOMENTS, MOMENTS[0])]
    if texts[0] != texts[2]:
        raise InputError(
            f"{where}: the chat template renders one conversation in two ways. What training saw cannot be told; save "
            "a template with the model that renders a row always alike."
        )
    return texts[0] != texts[1]


def _check_complete(talk: Talk, text: str, tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """Raises `InputError` for a template that drops tool calls or tools: rows would not say what they hold."""
    calling = [place for place in talk.more if talk.has_more(place) and "tool_calls" in talk.more[place]]
    without = {f"the tool calls of turn {place + 1}": replace(talk, more=_less(talk, place)) for place in calling}
    without |= {"the tools": replace(talk, tools=())} if talk.tools else {}
    for what, other in without.items():
        if _apply(other, tokenizer, where) == text:
            raise InputError(
                f"{where}: the chat template leaves out {what}. Save the template that training used with the model, "
                "or take them out of the row."
            )


def _less(talk: Talk, place: int) -> dict[int, Mapping[str, object]]:
    less = {key: value for key, value in talk.more[place].items() if key != "tool_calls"}
    return {**talk.more, place: less}


def _content(talk: Talk, place: int, text: str, tokenizer: "PreTrainedTokenizerBase", where: str) -> Span | None:
    """Where the content of a turn stands in the whole text; None where the template takes contents apart, or where the
    turn holds more than that."""
    if talk.has_more(place):
        return None
    before, after = _marked(talk, place, text, tokenizer, where)
    start, stop = len(before), len(text) - len(after)
    found = (
        text.startswith(before) and text.endswith(after) and text[start:stop].strip() == talk.turns[place][1].strip()
    )
    return Span(start, stop) if found else None


def _marked(talk: Talk, place: int, text: str, tokenizer: "PreTrainedTokenizerBase", where: str) -> tuple[str, str]:
    """What the template puts before and after a mark that stands for the content of a turn."""
    mark = MARK
    while mark in text:
        mark += MARK
    before, _, after = _apply(talk.marked(place, mark), tokenizer, where).partition(mark)
    return before, after


def _turn(talk: Talk, place: int, text: str, tokenizer: "PreTrainedTokenizerBase", where: str) -> Span:
    """A turn from the header that calls for it on, for templates that take contents apart."""
    opening = _apply(talk.first(place), tokenizer, where, calling=True)
    through = _apply(talk.first(place + 1), tokenizer, where).rstrip("\n")
    if not (text.startswith(through) and through.startswith(opening) and len(opening) < len(through)):
        raise InputError(
            f"{where}: the chat template rewrites turn {place + 1}, so where the assistant's text lies cannot be told. "
            "Does the turn hold thoughts or template marks? Take them out of the row, or use prompt + completion rows."
        )
    return Span(len(opening), len(through))


def _apply(
    talk: Talk, tokenizer: "PreTrainedTokenizerBase", where: str, calling: bool = False, moment: datetime | None = None
) -> str:
    """The rendered text. `calling`: ends with the header that calls for the assistant's turn; `moment`: the time it is,
    in place of the date's."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: a conversation, but the tokenizer has no chat template. Save the one that training used "
            "with the model (tokenizer.chat_template), or write prompt + completion rows."
        )
    now = moment or (datetime.fromisoformat(talk.date) if talk.date else MOMENTS[0])
    tools = list(talk.tools) or None
    try:
        with _clock(now):
            return str(
                tokenizer.apply_chat_template(
                    talk.messages(), tools=tools, tokenize=False, add_generation_prompt=calling
                )
            )
    except Exception as error:  # jinja2's, and whatever a template does to a text it does not expect
        reason = (str(error).strip().splitlines() or [""])[0]
        shown = f": {reason[:120]}" if reason and reason in str(tokenizer.chat_template) else ""  # else it may be a row
        raise InputError(
            f"{where}: the chat template refuses this conversation ({type(error).__name__}{shown}). Give it the turns "
            "that the template knows: most want user and assistant in turns, and some no system turn."
        ) from None


@dataclass(frozen=True, slots=True)
class _Clock:
    """Stands for `datetime` where a template asks for the time."""

    moment: datetime

    def now(self) -> datetime:
        return self.moment


@contextmanager
def _clock(moment: datetime) -> Iterator[None]:
    """Within it, templates are told that it is this moment; transformers takes no clock of ours."""
    from transformers.utils import chat_template_utils

    before = chat_template_utils.datetime
    chat_template_utils.datetime = _Clock(moment)
    try:
        yield
    finally:
        chat_template_utils.datetime = before


def _shared(ending: str, following: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """As much of what ends the last turn as follows another turn too, without newlines; added tokens stay whole."""
    shared = ""
    for one, other in zip(_pieces(ending + "\n", tokenizer), _pieces(following, tokenizer), strict=False):
        if one != other:
            added = tokenizer.get_added_vocab()
            shared += "" if one in added or other in added else _beginning(one, other)
            break
        shared += one
    return shared.rstrip("\n")


def _beginning(one: str, other: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in same)


def _pieces(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """A text cut before and after every added token."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, added))})", text) if added else [text]
