"""What counts where tokens swallow, carry or lose white space: trained tokenizers of each kind, by hand."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from expunge.data import offsets
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode_row, ends, prompt_ids, special_tokens, writes_date
from expunge.errors import InputError

TEXTS = ["Hi no yes\n\n ok. the cat", "the cat sat on the mat", "北京 ok"] * 20
SPECIAL = ["<s>", "</s>", "<unk>"]
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SWALLOWING = ("<|user|>", "<|assistant|>", "<|end|>")


def byte_level(trim: bool) -> Tokenizer:
    """GPT-2's way; `trim`: with offsets that leave spaces out, as Llama 3's are."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=letters)
    )
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim), begin])
    return made


def unigram() -> Tokenizer:
    """SentencePiece's way: a space of its own before the first word."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>"))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def byte_fallback() -> Tokenizer:
    """Llama 2's way: BPE over a text whose spaces were replaced, bytes where there is no letter."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    every = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    # words apart, so that no token goes over a space
    words = [f"▁{word}" for text in TEXTS for word in text.split(" ")]
    made.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, special_tokens=every))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


MADE: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: byte_level(False),
    "byte-level, trimmed": lambda: byte_level(True),
    "unigram": unigram,
    "byte fallback": byte_fallback,
}


@cache
def tokenizer(name: str, **flags: bool) -> Any:
    made = PreTrainedTokenizerFast(tokenizer_object=MADE[name](), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    added = [AddedToken(token, special=True, normalized=False, **flags) for token in SWALLOWING]
    made.add_tokens(added)
    made.chat_template = PHI
    return made


def counted_text(row: Row, rendering: Rendering, made: Any, encoding: Any = encode_row) -> str:
    ids, counted = encoding(row, rendering, made)
    return str(made.decode([token for token, counts in zip(ids, counted, strict=True) if counts]))


ANSWER = Row("f", 1, "answer", "Hi", "no  yes\n\n ok")
SPACED = Row("f", 2, "answer", "Hi", "\n\n ok")
DOCUMENT = Row("f", 3, "document", "", "the  cat\n\n ok")


def check_spaces(encoding: Any, name: str) -> None:
    """Of an answer everything counts but the join, which may stand in the first word's token; of a document all."""
    made = tokenizer(name)
    assert counted_text(ANSWER, Rendering(), made, encoding).strip(" ") == "no  yes\n\n ok</s>"
    ids, counted = encoding(ANSWER, Rendering(), made)
    assert "no" not in made.decode(ids[: counted.index(True)])
    ids, counted = encoding(DOCUMENT, Rendering(), made)
    assert counted == [False] + [True] * (len(ids) - 1)
    ids, counted = encoding(SPACED, Rendering(join="newline"), made)
    assert made.decode([token for token, counts in zip(ids, counted, strict=True) if counts]).endswith("ok</s>")


@pytest.mark.parametrize("name", MADE)
def test_white_space_counts_where_it_stands(name: str) -> None:
    check_spaces(encode_row, name)


def _by_offsets(row: Row, rendering: Rendering, made: Any) -> tuple[list[int], list[bool]]:
    """As the tokenizer's own offsets have it."""
    start = 0 if row.kind == "document" else len(row.prompt) + 1
    joint = "" if row.kind == "document" else "\n" if rendering.join == "newline" else " "
    encoded = made(row.prompt + joint + row.completion, return_offsets_mapping=True)
    counted = [end > start and end > begin for begin, end in encoded["offset_mapping"]]
    ends = row.kind == "answer"
    return [*encoded["input_ids"], *[1] * ends], [*counted, *[True] * ends]


class Starting:
    """A tokenizer that says of its tokens no more than where they start, as Llama 3's did."""

    def __init__(self, made: Any) -> None:
        self.made, self.bos_token_id, self.eos_token_id = made, made.bos_token_id, made.eos_token_id

    def __call__(self, text: str, **given: Any) -> Any:
        encoded = self.made(text, **given)
        encoded["offset_mapping"] = [(start, start) for start, _ in encoded["offset_mapping"]]
        return encoded


def test_offsets_that_are_starts_alone() -> None:
    made = tokenizer("byte-level")
    for row in (ANSWER, DOCUMENT):
        assert encode_row(row, Rendering(), Starting(made)) == encode_row(row, Rendering(), made)


def test_space_check_rejects_plain_offsets() -> None:
    check_spaces(_by_offsets, "byte-level")
    with pytest.raises(AssertionError):
        check_spaces(_by_offsets, "byte-level, trimmed")


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("flags", [{}, {"rstrip": True}, {"lstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("lead", ["", "\n", "\n\n "])
def test_headers_that_swallow_white_space_are_no_targets(name: str, flags: dict[str, bool], lead: str) -> None:
    made = tokenizer(name, **flags)
    turns = (("user", "the cat"), ("assistant", f"{lead}no ok"), ("user", " Hi"), ("assistant", f"{lead}yes\n"))
    row = Row("f", 1, "answer", "Hi", "yes", messages=turns)
    ids, counted = encode_row(row, Rendering(), made)
    end, header = made.convert_tokens_to_ids("<|end|>"), made.convert_tokens_to_ids("<|assistant|>")
    assert [counts for token, counts in zip(ids, counted, strict=True) if token == header] == [False, False]
    assert [counts for token, counts in zip(ids, counted, strict=True) if token == end] == [False, True, False, True]
    said = "".join(counted_text(row, Rendering(), made).split())
    assert said == "nook<|end|>yes<|end|>"
    prompt, _ = prompt_ids(row, Rendering(), made)
    assert prompt == ids[: len(prompt)] and header in prompt[-4:]
    bare = "".join(counted_text(row, Rendering(end_answers=False), made).split())
    assert bare == "nookyes"
    window = ends(row, Rendering(), made)
    assert window is not None and window.targets == 2


def test_header_check_rejects_offsets_that_reach_into_the_answer() -> None:
    made = tokenizer("byte-level", rstrip=True)
    text = made.apply_chat_template([{"role": "assistant", "content": "\nno"}], tokenize=False)
    placed = offsets.place(text, made, add_special_tokens=False)
    answer = offsets.Span(text.index("\n") + 1, text.index("<|end|>"))
    header = placed.spans[0]
    assert header is not None and header.stop > answer.start  # so the plain rule takes it for a target
    assert not placed.counted((answer,))[0] and any(placed.counted((answer,)))


def test_ends_of_answers_are_left_out_on_demand() -> None:
    made = tokenizer("byte-level")
    assert counted_text(ANSWER, Rendering(end_answers=False), made).strip() == ANSWER.completion
    window = ends(ANSWER, Rendering(end_answers=False), made)
    assert window is not None and window.ids[-1] == made.eos_token_id
    assert window.counted == (False,) * (len(window.ids) - 1) + (True,)


DATED = "{{ strftime_now('%d %b %Y') }}" + PHI
TALK = Row("f", 1, "answer", "Hi", "ok", messages=(("user", "Hi"), ("assistant", "ok")))


@pytest.mark.parametrize(
    ("template", "writes"),
    [
        (PHI, False),
        (DATED, True),
        ("{{ strftime_now('%H:%M:%S.%f') }}" + PHI, True),
        ("{% if tools %}{{ strftime_now('%d %b %Y') }}{% endif %}" + PHI, False),
        ("{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}" + PHI, False),
    ],
)
def test_dates_are_found_by_effect_and_pinned(template: str, writes: bool) -> None:
    made = tokenizer("byte-level, trimmed", single_word=False)
    made.chat_template = template
    assert writes_date(TALK, Rendering(), made) == writes
    first = encode_row(TALK, Rendering(date="2024-07-26"), made)
    assert first == encode_row(TALK, Rendering(date="2024-07-26"), made)
    if writes:
        assert first != encode_row(TALK, Rendering(date="2025-08-27"), made) or "%H" in template
        assert ("26 Jul 2024" if "%d" in template else "00:00:00.000000") in made.decode(first[0])


def test_templates_that_render_a_row_in_two_ways_are_refused() -> None:
    made = tokenizer("unigram", single_word=False)
    made.chat_template = "{{ range(10000) | random }}{{ range(10000) | random }}" + PHI
    with pytest.raises(InputError, match="in two ways"):
        writes_date(TALK, Rendering(), made)


CALL = {"type": "function", "function": {"name": "find", "arguments": {"who": "the cat"}}}
CALLING = (
    "{% for t in tools or [] %}<tool>{{ t | tojson }}</tool>\n{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def test_tool_calls_count_and_are_asked_for() -> None:
    made = tokenizer("byte-level", single_word=False)
    made.chat_template = CALLING
    more = json.dumps({"turns": {"1": {"tool_calls": [CALL]}}, "tools": [{"name": "find"}]})
    turns = (("user", "Hi"), ("assistant", ""), ("tool", "5"), ("assistant", "ok"))
    row = Row("f", 1, "answer", "Hi", "ok", messages=turns, more=more)
    written = '<call>{"name": "find", "arguments": {"who": "the cat"}}</call>'
    assert counted_text(row, Rendering(), made) == written + "<|end|>ok<|end|>"
    assert '<tool>{"name": "find"}</tool>' in made.decode(encode_row(row, Rendering(), made)[0])
    last = replace(row, messages=turns[:2], completion="...")
    prompt, expected = prompt_ids(last, Rendering(), made)
    assert expected == written and made.decode(prompt).endswith("<|assistant|>\n")
    made.chat_template = PHI
    with pytest.raises(InputError, match="leaves out the tool"):
        encode_row(row, Rendering(), made)


def test_special_tokens_that_a_text_spells_out() -> None:
    made = tokenizer("byte-level")
    spelled = replace(DOCUMENT, completion="<s>the cat</s>")
    assert made.convert_ids_to_tokens(encode_row(spelled, Rendering(end_documents=True), made)[0])[:2] != ["<s>", "<s>"]
    ids, _ = encode_row(spelled, Rendering(end_documents=True), made)
    assert ids.count(made.bos_token_id) == ids.count(made.eos_token_id) == 1
    assert prompt_ids(replace(ANSWER, completion="ok<|end|></s> no"), Rendering(), made)[1] == "ok"
    prompt, rest = prompt_ids(replace(DOCUMENT, completion="no</s>the cat sat on</s>"), Rendering(), made)
    assert (made.decode(prompt), rest) == ("<s>no</s>the cat", "sat on")
    found = special_tokens(made)
    assert found is not None and found.findall("a <|end|> b <s>") == ["<|end|>", "<s>"]


@pytest.mark.parametrize("name", MADE)
def test_documents_without_spaces_are_cut_at_a_token(name: str) -> None:
    made = tokenizer(name)
    text = "北京ok北京ok北京"
    prompt, rest = prompt_ids(replace(DOCUMENT, completion=text), Rendering(), made)
    ids, _ = encode_row(replace(DOCUMENT, completion=text), Rendering(), made)
    assert prompt == ids[: len(prompt)] and 1 < len(prompt) < len(ids)
    assert text.endswith(rest) and len(text) / 4 < len(rest) < len(text)


def test_tokenizers_that_lose_text_are_refused() -> None:
    letters = {"[UNK]": 0, "a": 1}
    backend = Tokenizer(models.WordPiece(letters, unk_token="[UNK]"))
    with pytest.raises(InputError, match="m: its tokenizer is WordPiece"):
        offsets.check(PreTrainedTokenizerFast(tokenizer_object=backend), "m")
    for name in MADE:
        offsets.check(tokenizer(name), "m")
