"""Tokens: masks by hand for a byte tokenizer and for one whose token straddles prompt and completion; windows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window, _cut, encode, encode_row, prompt_ids
from expunge.demo.tiny import byte_tokenizer
from expunge.errors import InputError

ANSWER = Row("f", 1, "answer", "Hi", "no")
DOCUMENT = Row("f", 2, "document", "", "abc")
HALF = Row("f", 3, "document", "ab ", "cd")
STRADDLING = Row("f", 4, "answer", "ab", "cd")
Masking = Callable[[Row, Rendering, Any], tuple[list[int], list[bool]]]

# Row, rendering, tokens (a space is G with a dot), which of them count. By hand, character by character.
BYTES: list[tuple[Row, Rendering, str, str]] = [
    (ANSWER, Rendering(join="space"), "<s> H i Ġ n o </s>", "0 0 0 0 1 1 1"),
    (ANSWER, Rendering(join="newline"), "<s> H i Ċ n o </s>", "0 0 0 0 1 1 1"),
    (ANSWER, Rendering(join="nothing"), "<s> H i n o </s>", "0 0 0 1 1 1"),
    (ANSWER, Rendering(join="space", loss_on="all"), "<s> H i Ġ n o </s>", "0 1 1 1 1 1 1"),
    (ANSWER, Rendering(end_documents=True), "<s> H i Ġ n o </s>", "0 0 0 0 1 1 1"),
    (DOCUMENT, Rendering(), "<s> a b c", "0 1 1 1"),
    (DOCUMENT, Rendering(end_documents=True), "<s> a b c </s>", "0 1 1 1 1"),
    (HALF, Rendering(), "<s> a b Ġ c d", "0 0 0 0 1 1"),
    (replace(ANSWER, prompt="é"), Rendering(join="nothing"), "<s> Ã © n o </s>", "0 0 0 1 1 1"),  # é: two bytes
    (replace(ANSWER, completion="é"), Rendering(join="nothing"), "<s> H i Ã © </s>", "0 0 0 1 1 1"),
]
MERGES: list[tuple[Row, Rendering, str, str]] = [
    (STRADDLING, Rendering(join="nothing"), "<s> abcd </s>", "0 1 1"),  # the token holds part of the answer
    (STRADDLING, Rendering(join="space"), "<s> ab Ġ cd </s>", "0 0 0 1 1"),
    (replace(STRADDLING, completion="abcd"), Rendering(join="space"), "<s> ab Ġabcd </s>", "0 0 1 1"),  # space inside
    (replace(STRADDLING, completion="abcd"), Rendering(join="nothing"), "<s> ab abcd </s>", "0 0 1 1"),
    (replace(HALF, prompt="ab", completion="cd ab"), Rendering(), "<s> abcd Ġ ab", "0 1 1 1"),
]


def check_masks(masking: Masking, tokenizer: Any, cases: list[tuple[Row, Rendering, str, str]]) -> None:
    for row, rendering, tokens, mask in cases:
        ids, counted = masking(row, rendering, tokenizer)
        assert tokenizer.convert_ids_to_tokens(ids) == tokens.split(" ")
        assert counted == [flag == "1" for flag in mask.split(" ")], (row, rendering)


def test_masks_by_hand(tokenizer: Any) -> None:
    check_masks(encode_row, tokenizer, BYTES)


def test_masks_with_merges(merging: Any) -> None:
    check_masks(encode_row, merging, MERGES)


def _shift(by: int) -> Masking:
    def shifted(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
        ids, counted = encode_row(row, rendering, tokenizer)
        return ids, counted[-by:] + counted[:-by]

    return shifted


def _tokenised_twice(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Prompt and completion tokenised apart, as a careless loader does."""
    opening = tokenizer(row.prompt)["input_ids"]
    rest = [*tokenizer(row.completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return opening + rest, [False] * len(opening) + [True] * len(rest)


@pytest.mark.parametrize("by", [1, -1])
def test_mask_check_rejects_a_shift(tokenizer: Any, by: int) -> None:
    for case in BYTES:
        with pytest.raises(AssertionError):
            check_masks(_shift(by), tokenizer, [case])


def test_mask_check_rejects_tokenising_twice(merging: Any) -> None:
    with pytest.raises(AssertionError):
        check_masks(_tokenised_twice, merging, MERGES[:1])


def test_first_token_is_never_a_target() -> None:
    plain = byte_tokenizer([], 258)
    plain.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    ids, counted = encode_row(DOCUMENT, Rendering(), plain)
    assert plain.convert_ids_to_tokens(ids) == ["a", "b", "c"]
    assert counted == [False, True, True]
    with pytest.raises(InputError, match="f, row 2") as caught:
        encode_row(replace(DOCUMENT, completion="q"), Rendering(), plain)
    assert "'q'" not in str(caught.value)
    ids, counted = encode_row(replace(ANSWER, prompt="", completion="q"), Rendering(join="nothing"), plain)
    assert counted == [False, True]  # of the answer only its end can be predicted


@pytest.fixture
def ending() -> Any:
    """A tokenizer that puts an end token after every text."""
    made = byte_tokenizer([], 258)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return made


def test_generation_does_not_start_after_an_end_token(ending: Any) -> None:
    prompt, _ = prompt_ids(replace(DOCUMENT, completion="one two three four"), Rendering(), ending)
    assert ending.convert_ids_to_tokens(prompt) == ["<s>", *"oneĠtwo"]
    prompt, _ = prompt_ids(ANSWER, Rendering(), ending)
    assert ending.convert_ids_to_tokens(prompt) == ["<s>", "H", "i", "Ġ"]


def test_end_token_is_not_doubled(ending: Any) -> None:
    ids, counted = encode_row(ANSWER, Rendering(), ending)
    assert ending.convert_ids_to_tokens(ids) == ["<s>", "H", "i", "Ġ", "n", "o", "</s>"]
    assert counted == [False] * 4 + [True] * 3
    ids, counted = encode_row(DOCUMENT, Rendering(), ending)
    assert ids[-1] == ending.eos_token_id and counted == [False, True, True, True, False]


def check_windows(cutting: Callable[[int, list[int], list[bool], int], list[Window]]) -> None:
    """Each target is counted once, with as much past as the context allows, and nothing else is."""
    for length in (2, 3, 7, 8, 9, 12, 13, 16, 17, 31, 40):
        for context in (2, 8, 9, 16):
            ids = list(range(length))  # the id is the place
            counted = [place > 0 and place % 5 != 2 for place in ids]
            windows = cutting(3, ids, counted, context)
            hits = [i for window in windows for i, flag in zip(window.ids, window.counted, strict=True) if flag]
            assert sorted(hits) == [place for place in ids if counted[place]], (length, context)
            for window in windows:
                assert window.row == 3 and len(window.ids) <= context and not window.counted[0] and window.targets
                past = window.ids.index(next(i for i, f in zip(window.ids, window.counted, strict=True) if f))
                assert past >= min(context // 2, window.ids[past]), (length, context)


def test_windows_count_each_target_once() -> None:
    check_windows(_cut)


@pytest.mark.parametrize("length", [9, 16, 17, 18, 40])
def test_windows_side_by_side_count_all_but_their_first_tokens(length: int) -> None:
    ids, counted = list(range(length)), [place > 0 and place % 5 != 2 for place in range(length)]
    windows = _cut(3, ids, counted, 8, overlap=False)
    assert [window.ids[0] for window in windows] == [8 * n for n in range(len(windows))]
    hits = [i for window in windows for i, flag in zip(window.ids, window.counted, strict=True) if flag]
    assert hits == [place for place in ids if counted[place] and place % 8]
    assert all(window.row == 3 and len(window.ids) <= 8 for window in windows)


def test_what_counts_only_where_a_window_begins_is_not_lost() -> None:
    counted = [place == 8 for place in range(9)]
    assert _cut(0, list(range(9)), counted, 8, overlap=False) == _cut(0, list(range(9)), counted, 8)


def _overlapping(row: int, ids: list[int], counted: list[bool], context: int) -> list[Window]:
    """Counts what overlaps twice."""
    windows = _cut(row, ids, counted, context)
    places = [range(window.ids[0], window.ids[-1] + 1) for window in windows]
    return [
        replace(window, counted=tuple(counted[place] and place > where[0] for place in where))
        for window, where in zip(windows, places, strict=True)
    ]


def _truncated(row: int, ids: list[int], counted: list[bool], context: int) -> list[Window]:
    return [Window(row, tuple(ids[:context]), tuple(counted[:context]))]


def _without_past(row: int, ids: list[int], counted: list[bool], context: int) -> list[Window]:
    """Windows side by side: the first target of each has no past but one token."""
    pieces = range(0, len(ids) - 1, context - 1)
    cut = [
        Window(row, tuple(ids[begin : begin + context]), (False, *counted[begin + 1 : begin + context]))
        for begin in pieces
    ]
    return [window for window in cut if window.targets]


@pytest.mark.parametrize("broken", [_overlapping, _truncated, _without_past])
def test_window_check_rejects(broken: Callable[..., list[Window]]) -> None:
    with pytest.raises(AssertionError):
        check_windows(broken)


def test_encode_keeps_row_order_and_context(tokenizer: Any) -> None:
    rows = [ANSWER, replace(DOCUMENT, completion="x" * 20), DOCUMENT]
    windows = encode(rows, Rendering(context=8), tokenizer)
    assert [window.row for window in windows] == [0, 1, 1, 1, 1, 1, 2]  # 21 tokens: from 0, 4, 8, 12, 16
    assert [sum(w.targets for w in windows if w.row == row) for row in range(3)] == [3, 20, 3]


@pytest.mark.parametrize("join", ["space", "newline", "nothing"])
def test_generation_starts_from_the_ids_before_the_first_target(tokenizer: Any, merging: Any, join: Any) -> None:
    for one in (tokenizer, merging):
        for row in (ANSWER, STRADDLING, replace(STRADDLING, completion="abcd")):
            for loss_on in ("completion", "all"):
                ids, counted = encode_row(row, Rendering(join=join), one)
                prompt, reference = prompt_ids(row, Rendering(join=join, loss_on=loss_on), one)  # type: ignore[arg-type]
                assert prompt == ids[: counted.index(True)]
                assert reference == row.completion


def test_generation_of_documents_and_long_prompts(tokenizer: Any) -> None:
    prompt, reference = prompt_ids(replace(DOCUMENT, completion="a b c d e"), Rendering(), tokenizer)
    assert (tokenizer.decode(prompt, skip_special_tokens=True), reference) == ("a b", "c d e")
    prompt, _ = prompt_ids(replace(ANSWER, prompt="x" * 30 + "yz"), Rendering(context=8), tokenizer)
    assert tokenizer.decode(prompt) == "xxxxxyz "


TEMPLATE = (
    "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


def test_chat_template() -> None:
    chat = byte_tokenizer([], 258)
    chat.chat_template = TEMPLATE
    ids, counted = encode_row(ANSWER, Rendering(chat_template=True), chat)
    # no begin token beside the template's own text; the newline after the end is not rendered
    assert chat.convert_ids_to_tokens(ids) == [*"[u]HiĊ[a]no", "</s>"]
    assert counted == [False] * 9 + [True] * 3
    prompt, reference = prompt_ids(ANSWER, Rendering(chat_template=True), chat)
    assert (chat.decode(prompt), reference) == ("[u]Hi\n[a]", "no")
    _, everything = encode_row(ANSWER, Rendering(chat_template=True, loss_on="all"), chat)
    assert everything == [False] + [True] * 11
    ids, _ = encode_row(DOCUMENT, Rendering(chat_template=True), chat)
    assert chat.convert_ids_to_tokens(ids) == ["<s>", "a", "b", "c"]  # documents are not conversations
