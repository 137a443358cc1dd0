"""Conversations as a chat template renders them, and which characters are the assistant's.

The conversation is rendered once, as training renders it. Where each of the assistant's turns lies follows from a
second rendering with a mark in the place of its content: what stands before and after the mark stands before and after
the content. A turn is its content and what the model must emit to end it: for the last turn all that follows but
newlines, for the others as much of that as follows them too. So whatever a template writes by itself before the
content (headers, an empty block of thoughts) is no target, and turns may be rendered otherwise when they are the last.
Templates that take contents apart (thoughts, which stand before the answer or are dropped) give no such place; then the
text up to the turn, with the header that calls for it, and the text through the turn must be beginnings of the whole.
"""

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from expunge.errors import InputError

Turns = tuple[tuple[str, str], ...]
MARK = "\ue000"  # of the private use area: hardly a text holds it (then it is doubled), and nothing strips it


@dataclass(frozen=True, slots=True)
class Span:
    """Characters from `start` up to `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of a conversation, the assistant's turns in it, and what ends its last turn ("": nothing)."""

    text: str
    spans: tuple[Span, ...]
    ending: str


def render(turns: Turns, tokenizer: Any, where: str) -> Rendered:
    """Renders turns (role, content). `where` names the row in messages.

    Raises `InputError` where the tokenizer has no chat template, where that refuses the turns, and where it rewrites
    one of the assistant's turns so that its place cannot be told.
    """
    text = _apply(turns, tokenizer, where)
    contents = {
        place: _content(turns, place, text, tokenizer, where)
        for place, (role, _) in enumerate(turns)
        if role == "assistant"
    }
    ending = _marked(turns, len(turns) - 1, text, tokenizer, where)[1].rstrip("\n")
    spans = []
    for place, content in contents.items():
        if content and place < len(turns) - 1:
            end = _shared(ending, text[content.stop :], tokenizer)
            spans.append(Span(content.start, content.stop + len(end)))
        elif content:
            spans.append(Span(content.start, content.stop + len(ending)))
        else:
            spans.append(_turn(turns, place, text, tokenizer, where))
    return Rendered(text, tuple(spans), ending)


def encode(text: str, spans: tuple[Span, ...], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Ids of a rendered text, tokenised once, and which of them lie in a span or reach into one.

    Special tokens are the template's business: none are added.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, return_attention_mask=False)
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    counted = [end > begin and any(end > s.start and begin < s.stop for s in spans) for begin, end in offsets]
    return ids, counted


def end_token(turns: Turns, tokenizer: Any, where: str) -> int | None:
    """The first token of what ends the last turn, where that is a single added token; else None."""
    ending = render(turns, tokenizer, where).ending.strip()
    first = next((piece for piece in _pieces(ending, tokenizer) if piece), "")
    found = tokenizer.get_added_vocab().get(first)
    return None if found is None else int(found)


def _content(turns: Turns, place: int, text: str, tokenizer: Any, where: str) -> Span | None:
    """Where the content of a turn stands in the whole text; None where the template takes contents apart."""
    before, after = _marked(turns, place, text, tokenizer, where)
    start, stop = len(before), len(text) - len(after)
    found = text.startswith(before) and text.endswith(after) and text[start:stop].strip() == turns[place][1].strip()
    return Span(start, stop) if found else None


def _marked(turns: Turns, place: int, text: str, tokenizer: Any, where: str) -> tuple[str, str]:
    """What the template puts before and after a mark that stands for the content of a turn."""
    mark = MARK
    while mark in text:
        mark += MARK
    rendered = _apply((*turns[:place], (turns[place][0], mark), *turns[place + 1 :]), tokenizer, where)
    before, _, after = rendered.partition(mark)
    return before, after


def _turn(turns: Turns, place: int, text: str, tokenizer: Any, where: str) -> Span:
    """A turn from the header that calls for it on, for templates that take contents apart."""
    opening = _apply(turns[:place], tokenizer, where, calling=True)
    through = _apply(turns[: place + 1], tokenizer, where).rstrip("\n")
    if not (text.startswith(through) and through.startswith(opening) and len(opening) < len(through)):
        raise InputError(
            f"{where}: the chat template rewrites turn {place + 1}, so where the assistant's text lies cannot be told. "
            "Does the turn hold thoughts or template marks? Take them out of the row, or use prompt + completion rows."
        )
    return Span(len(opening), len(through))


def _apply(turns: Turns, tokenizer: Any, where: str, calling: bool = False) -> str:
    """The rendered text; `calling`: ends with the header that calls for the assistant's turn."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: a conversation, but the tokenizer has no chat template. Save the one that training used "
            "with the model (tokenizer.chat_template), or write prompt + completion rows."
        )
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=calling))
    except Exception as error:  # jinja2's, and whatever a template does to a text it does not expect
        reason = (str(error).strip().splitlines() or [""])[0]
        shown = f": {reason[:120]}" if reason and reason in str(tokenizer.chat_template) else ""  # else it may be a row
        raise InputError(
            f"{where}: the chat template refuses this conversation ({type(error).__name__}{shown}). Give it the turns "
            "that the template knows: most want user and assistant in turns, and some no system turn."
        ) from None


def _shared(ending: str, following: str, tokenizer: Any) -> str:
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


def _pieces(text: str, tokenizer: Any) -> list[str]:
    """A text cut before and after every added token."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, added))})", text) if added else [text]
