"""Where each token stands in the text, and whether it counts for a span of it.

Three things make a tokenizer's own offsets no answer to that. Some trim them (byte-level ones with `trim_offsets`), so
that a token of spaces stands nowhere, like one that the tokenizer added by itself (BOS), which no text holds. Tokens
swallow the white space beside them (`lstrip`, `rstrip`: the headers of Phi-3's template) or carry it over the border
between prompt and answer (two line ends as one token). And some write a first space of their own, which is a token
without a character. So white space alone never makes a token of a header a target, nor one of the next turn.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Span:
    """Characters from `start` up to `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Placed:
    """Ids of a text, and the characters of each; None for one that the tokenizer added by itself."""

    text: str
    ids: list[int]
    spans: list[Span | None]

    def counted(self, spans: tuple[Span, ...]) -> list[bool]:
        """Which tokens stand in one of the spans, or reach into it with more than white space."""
        return [own is not None and any(self._inside(own, span) for span in spans) for own in self.spans]

    def border(self, character: int) -> int | None:
        """The place of the first token after the first that begins at a character or behind it; of the bytes of one
        character the first. None where there is none."""
        for place in range(1, len(self.spans)):
            own, before = self.spans[place], self.spans[place - 1]
            begins = own is not None and own.start >= character and (before is None or own.start >= before.stop)
            if begins and before is not None:
                return place
        return None

    def _inside(self, own: Span, span: Span) -> bool:
        if own.start == own.stop:
            return span.start <= own.start < span.stop
        if own.stop <= span.start or own.start >= span.stop:
            return False
        whole = span.start <= own.start and own.stop <= span.stop
        return whole or bool(self.text[max(own.start, span.start) : min(own.stop, span.stop)].strip())


def check(tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """Raises `InputError` for a tokenizer that cannot say where its tokens stand, or that loses text."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{where}: its tokenizer ({type(tokenizer).__name__}) runs in Python and cannot say where tokens stand. "
            "Save its fast form (tokenizer.json) with the model."
        )
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind == "WordPiece":
        raise InputError(
            f"{where}: its tokenizer is {kind}, which loses spaces and line ends, so that text cannot be compared "
            "letter by letter. Models with a BPE or Unigram tokenizer are served."
        )


def place(text: str, tokenizer: "PreTrainedTokenizerBase", add_special_tokens: bool = True) -> Placed:
    """Tokenises a text once."""
    encoded = tokenizer(
        text, return_offsets_mapping=True, add_special_tokens=add_special_tokens, return_attention_mask=False
    )
    spans: list[Span | None] = []
    for token, owner, offsets in zip(encoded.tokens(), encoded.sequence_ids(), encoded["offset_mapping"], strict=True):
        start, stop = offsets
        if start == stop and text[max(0, stop - len(token)) : stop] == " " * len(token):
            start = stop - len(token)  # trimmed: one letter for each space
        spans.append(None if owner is None else Span(start, stop))
    return Placed(text, list(encoded["input_ids"]), _widened(spans, len(text)))


def _widened(spans: list[Span | None], length: int) -> list[Span | None]:
    """Tokens without a width reach to where the next one starts: some versions of `tokenizers` say no more of Llama 3's
    than where they start. What stands where the next one starts has no character in the text."""
    following = length
    for place in range(len(spans) - 1, -1, -1):
        if own := spans[place]:
            spans[place] = Span(own.start, max(own.stop, following if own.start == own.stop else 0))
            following = own.start
    return spans
