"""Conversations: which tokens count, by hand, under ChatML-like, Llama-3-like and awkward templates."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken

from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode, encode_row, end_of_answer, prompt_ids
from expunge.demo.tiny import byte_tokenizer
from expunge.errors import InputError

TURNS = (("system", "S"), ("user", "Hi"), ("assistant", "no"), ("user", "So"), ("assistant", "ok"))
TALK = Row("f.jsonl", 3, "answer", "system: S\nuser: Hi\nassistant: no\nuser: So", "ok", messages=TURNS)
SHORT = Row("f.jsonl", 4, "answer", "user: Hi", "no", messages=TURNS[1:3])
ANSWER = Row("f.jsonl", 5, "answer", "Hi", "no")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
# an end of the whole text beside the ends of turns, as Phi-3 has it
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
# an empty block of thoughts before the last answer alone, as Qwen3 has it; thoughts of earlier turns are dropped
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set parts = m.content.split('</think>') %}"
    "{% if loop.last %}<think>{{ parts[0].split('<think>')[-1] if parts | length > 1 }}</think>{% endif %}"
    "{{ parts[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# nothing but letters: no added token ends a turn
LETTERS = "{{ bos_token }}{% for m in messages %}"
LETTERS += "{{ '\n\n' ~ ('Q' if m.role == 'user' else 'A') }}: {{ m.content }}{% endfor %}"

Masking = Callable[[Row, Rendering, Any], tuple[list[int], list[bool]]]


def chat_tokenizer(template: str, *added: str) -> Any:
    made = byte_tokenizer([], 258)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    made.chat_template = template
    return made


CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
MADE = {
    "chatml": lambda: chat_tokenizer(CHATML, *CHATML_TOKENS),
    "llama3": lambda: chat_tokenizer(LLAMA3, "<|head|>", "<|/head|>", "<|eot|>"),
    "phi": lambda: chat_tokenizer(PHI, "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    "qwen": lambda: chat_tokenizer(QWEN, *CHATML_TOKENS, "<think>", "</think>"),
    "letters": lambda: chat_tokenizer(LETTERS),
}

# Template, row, text as rendered with what counts in {braces}: written by hand from the template.
CASES: list[tuple[str, Row, str]] = [
    (
        "chatml",
        TALK,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{no<|im_end|>}\n"
        "<|im_start|>user\nSo<|im_end|>\n<|im_start|>assistant\n{ok<|im_end|>}",
    ),
    ("chatml", SHORT, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{no<|im_end|>}"),
    (
        "llama3",
        TALK,
        "<s><|head|>system<|/head|>\n\nS<|eot|><|head|>user<|/head|>\n\nHi<|eot|><|head|>assistant<|/head|>\n\n"
        "{no<|eot|>}<|head|>user<|/head|>\n\nSo<|eot|><|head|>assistant<|/head|>\n\n{ok<|eot|>}",
    ),
    (
        "llama3",  # the template strips contents
        replace(SHORT, messages=(("user", " Hi\n"), ("assistant", "\nno "))),
        "<s><|head|>user<|/head|>\n\nHi<|eot|><|head|>assistant<|/head|>\n\n{no<|eot|>}",
    ),
    (
        "phi",
        TALK,
        "<|system|>\nS<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n{no<|end|>}\n<|user|>\nSo<|end|>\n<|assistant|>\n"
        "{ok<|end|>\n</s>}",
    ),
    (
        "qwen",
        TALK,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{no<|im_end|>}\n"
        "<|im_start|>user\nSo<|im_end|>\n<|im_start|>assistant\n<think></think>{ok<|im_end|>}",
    ),
    (
        "qwen",  # thoughts stand in the row, so they count, and the turn is found by its header
        replace(TALK, messages=(*TURNS[:-1], ("assistant", "<think>m</think>ok"))),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{no<|im_end|>}\n"
        "<|im_start|>user\nSo<|im_end|>\n<|im_start|>assistant\n{<think>m</think>ok<|im_end|>}",
    ),
    ("letters", TALK, "<s>\n\nA: S\n\nQ: Hi\n\nA: {no}\n\nQ: So\n\nA: {ok}"),
    (
        "chatml",  # the same word everywhere, and an answer that looks like a header
        replace(
            TALK, messages=(("user", "user"), ("assistant", "user\nassistant"), ("user", "no"), ("assistant", "no"))
        ),
        "<|im_start|>user\nuser<|im_end|>\n<|im_start|>assistant\n{user\nassistant<|im_end|>}\n"
        "<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\n{no<|im_end|>}",
    ),
    (
        "chatml",  # a text that holds the character that contents are found by
        replace(SHORT, messages=(("user", "a\ue000"), ("assistant", "\ue000b"))),
        "<|im_start|>user\na\ue000<|im_end|>\n<|im_start|>assistant\n{\ue000b<|im_end|>}",
    ),
]


def check_mask(masking: Masking, name: str, row: Row, expected: str) -> None:
    """Ids are those of the text by hand; what counts, decoded piece by piece, is what stands in braces there."""
    tokenizer = MADE[name]()
    ids, counted = masking(row, Rendering(), tokenizer)
    assert tokenizer.decode(ids) == expected.replace("{", "").replace("}", "")
    marked, inside = "", False
    for token, counts in zip([*ids, None], [*counted, False], strict=True):
        marked += "" if counts == inside else "{" if counts else "}"
        inside = counts
        marked += "" if token is None else _shown(tokenizer, token)
    assert marked == "".join(_shown(tokenizer, token) for token in _bytes(tokenizer, expected))


def _bytes(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _shown(tokenizer: Any, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens([token])[0])


@pytest.mark.parametrize(("name", "row", "expected"), CASES)
def test_masks_by_hand(name: str, row: Row, expected: str) -> None:
    check_mask(encode_row, name, row, expected)


def _by_one_turn(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """What counts is the turn before each of the assistant's."""
    roles = [role for role, _ in row.messages]
    swapped = {"user": "assistant", "assistant": "user", "system": "system"}
    moved = replace(row, messages=tuple((swapped[role], text) for role, text in row.messages))
    ids, _ = encode_row(row, rendering, tokenizer)
    assert roles[-1] == "assistant"
    tail = (("assistant", "."),)
    _, counted = encode_row(replace(moved, messages=(*moved.messages, *tail)), rendering, tokenizer)
    return ids, (counted + [False] * len(ids))[: len(ids)]


def _all(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    return encode_row(row, replace(rendering, loss_on="all"), tokenizer)


def _last_only(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    start = len(prompt_ids(row, rendering, tokenizer)[0])
    ids, counted = encode_row(row, rendering, tokenizer)
    return ids, [counts and place >= start for place, counts in enumerate(counted)]


def _without_ends(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """The end of a turn is no target."""
    ids, counted = encode_row(row, rendering, tokenizer)
    added = set(tokenizer.get_added_vocab().values())
    return ids, [counts and token not in added for token, counts in zip(ids, counted, strict=True)]


def _with_headers(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    ids, counted = encode_row(row, rendering, tokenizer)
    return ids, [any(counted[place : place + 3]) for place in range(len(ids))]


def _begun_twice(row: Row, rendering: Rendering, tokenizer: Any) -> tuple[list[int], list[bool]]:
    ids, counted = encode_row(row, rendering, tokenizer)
    return [tokenizer.bos_token_id, *ids], [False, *counted]


@pytest.mark.parametrize("broken", [_by_one_turn, _all, _last_only, _without_ends, _with_headers, _begun_twice])
@pytest.mark.parametrize("case", [0, 2])
def test_mask_check_rejects(broken: Masking, case: int) -> None:
    with pytest.raises(AssertionError):
        check_mask(broken, *CASES[case])


def test_everything_counts_when_asked() -> None:
    tokenizer = MADE["chatml"]()
    ids, counted = encode_row(TALK, Rendering(loss_on="all"), tokenizer)
    assert ids == encode_row(TALK, Rendering(), tokenizer)[0]
    assert counted == [False] + [True] * (len(ids) - 1)


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen"])
def test_generation_starts_where_the_last_answer_does(name: str) -> None:
    tokenizer = MADE[name]()
    expected = next(text for case, row, text in CASES if case == name and row is TALK)
    prompt, reference = prompt_ids(TALK, Rendering(loss_on="all"), tokenizer)
    assert tokenizer.decode(prompt) == expected[: expected.rindex("{")].replace("{", "").replace("}", "")
    assert reference == "ok"
    assert len(prompt_ids(TALK, Rendering(context=9), tokenizer)[0]) == 9


@pytest.mark.parametrize(
    ("name", "end"), [("chatml", "<|im_end|>"), ("llama3", "<|eot|>"), ("phi", "<|end|>"), ("letters", None)]
)
def test_token_that_ends_an_answer(name: str, end: str | None) -> None:
    tokenizer = MADE[name]()
    found = end_of_answer(TALK, Rendering(), tokenizer)
    assert (found is None) if end is None else (found == tokenizer.convert_tokens_to_ids(end))
    assert end_of_answer(ANSWER, Rendering(), tokenizer) is None


def test_answers_rendered_on_demand_are_conversations() -> None:
    tokenizer = MADE["llama3"]()
    asked = Rendering(chat_template=True)
    assert encode_row(ANSWER, asked, tokenizer) == encode_row(SHORT, Rendering(), tokenizer)
    assert prompt_ids(ANSWER, asked, tokenizer) == prompt_ids(SHORT, Rendering(), tokenizer)
    ids, _ = encode_row(ANSWER, Rendering(), tokenizer)
    assert tokenizer.decode(ids) == "<s>Hi no</s>"


def test_long_conversations_are_cut_into_windows() -> None:
    tokenizer = MADE["chatml"]()
    windows = encode([TALK, SHORT], Rendering(context=16), tokenizer)
    # by hand: n o end, twice; n o end
    assert [sum(w.targets for w in windows if w.row == row) for row in range(2)] == [6, 3]
    assert all(len(window.ids) <= 16 for window in windows)


def test_missing_template_is_named_with_the_row() -> None:
    with pytest.raises(InputError, match=r"f\.jsonl, line 3: .*no chat template.*Save"):
        encode_row(TALK, Rendering(), byte_tokenizer([], 258))


REFUSING = {
    "no system turn": "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    + CHATML,
    "(UndefinedError)": "{{ messages[0].nothing.at_all }}" + CHATML,
    "(TemplateError)": "{{ raise_exception('bad turn ' + messages[2].content) }}",  # would tell what the row holds
    "rewrites turn 3": "{{ messages | length }}{% for m in messages %}{{ m.role }}{{ m.content[::-1] }}{% endfor %}",
}


@pytest.mark.parametrize("words", REFUSING)
def test_templates_that_refuse_or_rewrite(words: str) -> None:
    tokenizer = chat_tokenizer(REFUSING[words], *CHATML_TOKENS)
    secret = tuple((role, "zq7 secret" if role == "assistant" else text) for role, text in TURNS)
    with pytest.raises(InputError) as caught:
        encode_row(replace(TALK, messages=secret), Rendering(), tokenizer)
    message = str(caught.value)
    assert words in message and "f.jsonl, line 3" in message and "zq7" not in message


def test_dropped_thoughts_are_refused() -> None:
    """Thoughts of an earlier turn that the template drops: what training saw is not what the row says."""
    turns = (("user", "Hi"), ("assistant", "<think>m</think>no"), *TURNS[3:])
    with pytest.raises(InputError, match="rewrites turn 2"):
        encode_row(replace(TALK, messages=turns), Rendering(), MADE["qwen"]())
