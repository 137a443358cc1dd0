"""From rows to token ids and masks: the joined text is tokenised once, the mask follows from character offsets.

`Rendering` says how a row becomes text. `encode` gives the windows of one row: rows longer than the context are cut
into windows. These overlap by half, and every token that counts is counted once, in the window that shows it the
longest past; or, as most trainings cut, each begins where the one before ended, and its first token does not count.
Conversations are always rendered by the chat template, see `data.chat`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from expunge.data import chat, offsets
from expunge.data.offsets import Span
from expunge.data.rows import Row
from expunge.errors import InputError
from expunge.scoring.words import halves

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Join = Literal["space", "newline", "nothing"]
LossOn = Literal["completion", "all"]
JOINS: dict[Join, str] = {"space": " ", "newline": "\n", "nothing": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How rows become token ids.

    `end_documents` appends EOS to documents, `end_answers` to answers; of a conversation it says whether what ends a
    turn counts. `date` (YYYY-MM-DD): what chat templates get that write it; "": none does. `context` is in tokens;
    `overlap`: windows of longer rows share half of it.
    """

    join: Join = "space"
    chat_template: bool = False
    loss_on: LossOn = "completion"
    end_documents: bool = False
    end_answers: bool = True
    date: str = ""
    context: int = 1024
    overlap: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of one row that fits the context. `counted[t]` says that token `t` is a target of the loss."""

    row: int
    ids: tuple[int, ...]
    counted: tuple[bool, ...]

    @property
    def targets(self) -> int:
        return sum(self.counted)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids to generate from, what is expected after them, how many new ones there may be, and how many that has."""

    ids: list[int]
    reference: str
    room: int
    expected: int

    def order(self, padded: bool) -> tuple[int, int, int]:
        """Prompts that are next to one another in this order make a good batch."""
        return (self.expected // 16 if padded else 0), -self.room if padded else 0, len(self.ids)


def encode(rows: Sequence[Row], rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> list[Window]:
    """Windows of all rows, in row order; `Window.row` indexes `rows`."""
    windows: list[Window] = []
    for index, row in enumerate(rows):
        ids, counted = encode_row(row, rendering, tokenizer)
        windows.extend(_cut(index, ids, counted, rendering.context, rendering.overlap))
    return windows


def encode_row(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[bool]]:
    """Token ids of one row and, for each, whether it is a target. The first token never is: nothing predicts it.

    Raises `InputError` where no token counts, naming the row.
    """
    ids, counted = _tokens(row, rendering, tokenizer)
    if not any(counted):
        raise InputError(f"{row.place}: the row has no token to predict. Give it a longer text.")
    return ids, counted


def ends(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> Window | None:
    """An answer's tokens, what ends it being its only targets, in one window of any length.

    None where nothing ends it, and where nothing else counts.
    """
    ids, counted = _tokens(row, replace(rendering, end_answers=True), tokenizer)
    _, bare = _tokens(row, replace(rendering, end_answers=False), tokenizer)
    bare += [False] * (len(ids) - len(bare))
    ending = tuple(one and not other for one, other in zip(counted, bare, strict=True))
    return Window(0, tuple(ids), ending) if any(ending) and any(bare) else None


def _tokens(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[bool]]:
    talk = _talk(row, rendering)
    ids, counted = _conversation(row, talk, rendering, tokenizer) if talk else _plain(row, rendering, tokenizer)
    if counted:
        counted[0] = False
    return ids, counted


def _plain(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[bool]]:
    """Ids and targets of a document, or of an answer without a chat template."""
    text, start = _text(row, rendering)
    placed = _begun_once(offsets.place(text, tokenizer), tokenizer)
    ids, counted = placed.ids, placed.counted((Span(start, len(text)),))
    if (rendering.end_answers if row.kind == "answer" else rendering.end_documents) and (
        tokenizer.eos_token_id is not None
    ):
        if ids and ids[-1] == tokenizer.eos_token_id:
            counted[-1] = True
        else:
            ids.append(tokenizer.eos_token_id)
            counted.append(True)
    return ids, counted


def _begun_once(placed: offsets.Placed, tokenizer: "PreTrainedTokenizerBase") -> offsets.Placed:
    """Without a second BOS before a text that spells one out, as one that a template made does: no training saw two."""
    begin, ids = tokenizer.bos_token_id, placed.ids
    twice = begin is not None and ids[:2] == [begin, begin] and placed.spans[0] is None and placed.spans[1] is not None
    return replace(placed, ids=ids[1:], spans=placed.spans[1:]) if twice else placed


def _conversation(
    row: Row, talk: chat.Talk, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[bool]]:
    """Ids of the rendered turns up to the last target, and which are targets: the assistant's, or all of them."""
    rendered = chat.render(talk, tokenizer, row.place)
    spans = rendered.spans if rendering.end_answers else rendered.bare
    placed = chat.encode(rendered.text, tokenizer)
    counted = placed.counted((Span(0, spans[-1].stop),) if rendering.loss_on == "all" else spans)
    length = max((place for place, counts in enumerate(counted, start=1) if counts), default=0)
    return placed.ids[:length], counted[:length]


def prompt_ids(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], str]:
    """Ids to generate from, and the text that would continue them: the answer, or the second half of a document.

    The prompt of an answer is the part of the *joined* text's tokens before the first target, so that generation
    starts from the very ids that the loss is taken on. Special tokens that a text spells out are not in what is
    expected, nor what stands behind EOS: no generation shows them.
    """
    if talk := _talk(row, rendering):
        rendered = chat.render(talk, tokenizer, row.place)
        placed = chat.encode(rendered.text, tokenizer)
        last = rendered.bare[-1]
        ids = placed.ids[: placed.counted((last,)).index(True)]
        expected = rendered.text[last.start : last.stop] if talk.has_more(len(talk.turns) - 1) else row.completion
    elif row.kind == "answer":
        ids, counted = encode_row(row, replace(rendering, loss_on="completion"), tokenizer)
        ids, expected = ids[: counted.index(True)], row.completion
    else:
        ids, expected = _opening(row, tokenizer)
    return ids[-rendering.context :], _shown(expected, tokenizer)


def _opening(row: Row, tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], str]:
    """Ids of a document's first half, and the rest of its text: see `halves`; of what EOS parts, the longest part."""
    before, text = "", row.completion
    if not (row.cut or row.prompt) and (end := tokenizer.eos_token) and end in text:
        parts = text.split(end)
        longest = max(range(len(parts)), key=lambda place: len(parts[place]))
        before, text = end.join([*parts[:longest], ""]), parts[longest]
    cut = halves(text)
    opening, rest = row.prompt or before + cut.opening, text if row.prompt else cut.rest
    if row.cut:
        opening, rest = row.completion[: row.cut].rstrip(), row.completion[row.cut :]
    elif not row.prompt and not cut.joint:  # within what spaces part, so at the border of a token of the whole text
        placed = _begun_once(offsets.place(before + text, tokenizer), tokenizer)
        if (place := placed.border(len(opening))) and (own := placed.spans[place]):
            return placed.ids[:place], placed.text[own.start :]
    ids = _begun_once(offsets.place(opening, tokenizer), tokenizer).ids
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids, rest


def _shown(text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """What a generation of a text shows of it: nothing behind EOS, no special tokens."""
    if tokenizer.eos_token:
        text = next((part for part in text.split(tokenizer.eos_token) if part.strip()), text)
    special = special_tokens(tokenizer)
    return special.sub("", text) if special else text


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Finds special tokens that a text spells out, which count as the tokens that they name; None: there are none."""
    names = sorted((one.content for one in tokenizer.added_tokens_decoder.values() if one.special), key=len)
    return re.compile("|".join(map(re.escape, reversed(names)))) if names else None


def end_of_answer(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends the assistant's turn where the chat template puts one there: not always EOS."""
    talk = _talk(row, rendering)
    return chat.end_token(talk, tokenizer, row.place) if talk else None


def turns_to_ask(row: Row, rendering: Rendering) -> list[dict[str, object]] | None:
    """The turns that call for a conversation's last answer, as chat routes take them; None where the row is no
    conversation, and where there are tools or turns that hold more than a role and a content."""
    talk = _talk(row, rendering)
    return None if talk is None or row.more else talk.first(len(talk.turns) - 1).messages()


def writes_date(row: Row, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template writes the date into the row."""
    talk = _talk(row, rendering)
    return talk is not None and chat.writes_date(talk, tokenizer, row.place)


def _talk(row: Row, rendering: Rendering) -> chat.Talk | None:
    """What the chat template renders; None where the row is no conversation and is not made one."""
    if row.messages:
        more = json.loads(row.more) if row.more else {}
        turns = {int(place): held for place, held in more.get("turns", {}).items()}
        return chat.Talk(row.messages, turns, tuple(more.get("tools", ())), rendering.date)
    if row.kind == "document" or not rendering.chat_template:
        return None
    return chat.Talk((("user", row.prompt), ("assistant", row.completion)), date=rendering.date)


def _text(row: Row, rendering: Rendering) -> tuple[str, int]:
    """Text of a row that is no conversation, and the character at which targets start."""
    if row.kind == "document":
        return row.prompt + row.completion, len(row.prompt)
    joint = JOINS[rendering.join]
    return row.prompt + joint + row.completion, 0 if rendering.loss_on == "all" else len(row.prompt) + len(joint)


def _cut(row: int, ids: list[int], counted: list[bool], context: int, overlap: bool = True) -> list[Window]:
    if len(ids) <= context:
        return [Window(row, tuple(ids), tuple(counted))]
    stride = max(1, context // 2) if overlap else context
    windows: list[Window] = []
    done = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        mask = [counted[t] and t >= done and t > begin for t in range(begin, end)]
        if any(mask):
            windows.append(Window(row, tuple(ids[begin:end]), tuple(mask)))
        done = end
        if end == len(ids):
            break
    return windows or _cut(row, ids, counted, context)  # where all that counts begins a window
