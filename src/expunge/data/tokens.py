"""From rows to token ids and masks: the joined text is tokenised once, the mask follows from character offsets.

`Rendering` says how a row becomes text. `encode` gives the windows of one row: rows longer than the context are cut
into windows that overlap by half, and every token that counts is counted exactly once, in the window that shows it
the longest past. Conversations are always rendered by the chat template, see `data.chat`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from expunge.data import chat
from expunge.data.rows import Row
from expunge.errors import InputError

Join = Literal["space", "newline", "nothing"]
LossOn = Literal["completion", "all"]
JOINS: dict[Join, str] = {"space": " ", "newline": "\n", "nothing": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How rows become token ids.

    `end_documents` appends EOS to documents; answers always end with it. `context` is in tokens.
    """

    join: Join = "space"
    chat_template: bool = False
    loss_on: LossOn = "completion"
    end_documents: bool = False
    context: int = 1024


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of one row that fits the context. `counted[t]` says that token `t` is a target of the loss."""

    row: int
    ids: tuple[int, ...]
    counted: tuple[bool, ...]

    @property
    def targets(self) -> int:
        return sum(self.counted)


def encode(rows: Sequence[Row], rendering: Rendering, tokenizer: Any) -> list[Window]:
    """Windows of all rows, in row order; `Window.row` indexes `rows`."""
    windows: list[Window] = []
    for index, row in enumerate(rows):
        ids, counted = encode_row(row, rendering, tokenizer)
        windows.extend(_cut(index, ids, counted, rendering.context))
    return windows


def encode_row(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of one row and, for each, whether it is a target. The first token never is: nothing predicts it.

    Raises `InputError` where no token counts, naming the row.
    """
    turns = _turns(row, rendering)
    if turns:
        ids, counted = _conversation(row, turns, rendering, tokenizer)
    else:
        ids, counted = _plain(row, rendering, tokenizer)
    if counted:
        counted[0] = False
    if not any(counted):
        raise InputError(f"{row.place}: the row has no token to predict. Give it a longer text.")
    return ids, counted


def _plain(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Ids and targets of a document, or of an answer without a chat template."""
    text, start = _text(row, rendering)
    encoded = tokenizer(text, return_offsets_mapping=True, return_attention_mask=False)
    ids = list(encoded["input_ids"])
    counted = [end > start and end > begin for begin, end in encoded["offset_mapping"]]
    ends = row.kind == "answer" or rendering.end_documents
    if ends and tokenizer.eos_token_id is not None:
        if ids and ids[-1] == tokenizer.eos_token_id:
            counted[-1] = True
        else:
            ids.append(tokenizer.eos_token_id)
            counted.append(True)
    return ids, counted


def _conversation(row: Row, turns: chat.Turns, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Ids of the rendered turns up to the last target, and which are targets: the assistant's, or all of them."""
    rendered = chat.render(turns, tokenizer, row.place)
    spans = (chat.Span(0, rendered.spans[-1].stop),) if rendering.loss_on == "all" else rendered.spans
    ids, counted = chat.encode(rendered.text, spans, tokenizer)
    length = max((place for place, counts in enumerate(counted, start=1) if counts), default=0)
    return ids[:length], counted[:length]


def prompt_ids(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], str]:
    """Ids to generate from, and the text that would continue them: the answer, or the second half of a document.

    The prompt of an answer is the part of the *joined* text's tokens before the first target, so that generation
    starts from the very ids that the loss is taken on.
    """
    if turns := _turns(row, rendering):
        rendered = chat.render(turns, tokenizer, row.place)
        ids, counted = chat.encode(rendered.text, rendered.spans[-1:], tokenizer)
        return ids[: counted.index(True)][-rendering.context :], row.completion
    if row.kind == "answer":
        ids, counted = encode_row(row, replace(rendering, loss_on="completion"), tokenizer)
        return ids[: counted.index(True)][-rendering.context :], row.completion
    words = row.completion.split(" ")
    half = 0 if row.prompt else max(1, len(words) // 2)
    opening, rest = row.prompt or " ".join(words[:half]), " ".join(words[half:])
    if row.cut:
        opening, rest = row.completion[: row.cut].rstrip(), row.completion[row.cut :]
    ids = list(tokenizer(opening)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids[-rendering.context :], rest


def end_of_answer(row: Row, rendering: Rendering, tokenizer: Any) -> int | None:
    """The token that ends the assistant's turn where the chat template puts one there: not always EOS."""
    turns = _turns(row, rendering)
    return chat.end_token(turns, tokenizer, row.place) if turns else None


def _turns(row: Row, rendering: Rendering) -> chat.Turns:
    """The turns that the chat template renders; none where the row is no conversation and is not made one."""
    if row.messages or row.kind == "document" or not rendering.chat_template:
        return row.messages
    return ("user", row.prompt), ("assistant", row.completion)


def _text(row: Row, rendering: Rendering) -> tuple[str, int]:
    """Text of a row that is no conversation, and the character at which targets start."""
    if row.kind == "document":
        return row.prompt + row.completion, len(row.prompt)
    joint = JOINS[rendering.join]
    return row.prompt + joint + row.completion, 0 if rendering.loss_on == "all" else len(row.prompt) + len(joint)


def _cut(row: int, ids: list[int], counted: list[bool], context: int) -> list[Window]:
    if len(ids) <= context:
        return [Window(row, tuple(ids), tuple(counted))]
    stride = max(1, context // 2)
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
    return windows
