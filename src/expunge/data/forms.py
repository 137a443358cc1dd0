"""Which columns of a record make a row: told by what is there, or said with --columns.

A record has one reading where its columns are those of one form: a text; a prompt and a completion under the names that
people give them; Alpaca's instruction, input and output; a preference's prompt and chosen; turns. Columns that belong
to no form are not read, and that is said. Where two forms fit, or where a column stands beside a question that may have
been part of the prompt, the record is refused with the flags that settle it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expunge.data import turns
from expunge.data.turns import QUOTE, Conversation
from expunge.errors import InputError, kind_of
from expunge.files.reading import shown

METADATA = ("id", "task", "alternate", "paraphrase")
TEXTS = ("text",)
PROMPTS = ("prompt", "question", "input", "query", "instruction")
COMPLETIONS = ("completion", "output", "answer", "response", "chosen")
TALKS = ("messages", "conversations", "conversation", "dialog", "dialogue")
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools",)
BESIDE = ("context", "history", "passage", "document", "documents")  # may have been part of the prompt
CANONICAL = ({"text"}, {"prompt", "completion"}, {"input", "output"}, {"question", "answer"}, {"messages"})
PARTS = {"text": "text", "messages": "messages", "system": "system", "tools": "tools", "prompt": "prompt"}
PARTS |= dict.fromkeys(COMPLETIONS, "completion") | dict.fromkeys(TALKS, "messages")
WHOLE = ({"text"}, {"prompt", "completion"}, {"messages"})
KNOWN = (
    "text | prompt + completion | input + output | question + answer | instruction (+ input) + output | "
    "prompt + chosen | messages | conversations, and optionally id, task, alternate, paraphrase; or name the columns: "
    "--columns prompt=NAME completion=NAME, text=NAME or messages=NAME"
)
Columns = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Form:
    """Columns by part of the row (a text around `{column}`s is one made of them), and whether --columns said so."""

    pairs: tuple[tuple[str, str], ...]
    unread: tuple[str, ...] = ()
    asked: bool = False

    @property
    def parts(self) -> dict[str, str]:
        """Column by part."""
        return dict(self.pairs)

    @property
    def told(self) -> str:
        """In a few words; "" for the forms that need none."""
        columns = set(self.parts.values())
        if not self.asked and not self.unread and columns in CANONICAL:
            return ""
        made = ", ".join(f"{part} = {_named(column)}" for part, column in self.parts.items())
        return made + (f"; not read: {', '.join(map(shown, self.unread[:6]))}" if self.unread else "")


@dataclass(frozen=True, slots=True)
class Content:
    """What a row says: a text, a prompt and a completion, or a conversation."""

    form: Form
    prompt: str = ""
    completion: str = ""
    conversation: Conversation | None = None

    @property
    def is_document(self) -> bool:
        return "text" in self.form.parts and self.conversation is None


def asked(columns: Sequence[str]) -> Columns:
    """What --columns says. Raises `InputError`."""
    made: dict[str, str] = {}
    for one in columns:
        part, equals, column = one.partition("=")
        if not equals or not column or part not in PARTS or PARTS[part] in made:
            raise InputError(
                f"--columns {one}: write PART=COLUMN, each part once. Parts: text, or prompt and completion, or "
                "messages; and system, tools."
            )
        made[PARTS[part]] = column.replace("\\n", "\n").replace("\\t", "\t")
    if made and made.keys() - {"system", "tools"} not in WHOLE:
        raise InputError("--columns: name text alone, prompt and completion, or messages.")
    return made


def content(where: str, record: object, columns: Columns) -> Content:
    """What a record says. Raises `InputError` that begins with `where` and holds no text of the record."""
    if not isinstance(record, dict):
        what = f"expected an object with named columns, found {kind_of(record)}"
        raise InputError(f"{where}: {what}. Known: {KNOWN}.")
    form = _form(where, record, columns)
    parts = {part: _value(where, record, column) for part, column in form.parts.items()}
    system, tools = parts.pop("system", None), parts.pop("tools", None)
    label = f"{where}: column {form.parts.get('messages', '')!r}"
    if "messages" in parts:
        return Content(form, conversation=_talk(label, parts["messages"], system, tools))
    if "text" in parts:
        if turns.is_turns(parts["text"]):
            return Content(form, conversation=_talk(f"{where}: its turns", parts["text"], system, tools))
        return Content(form, completion=_text(where, form.parts["text"], parts["text"], True))
    first, last = parts["prompt"], parts["completion"]
    if turns.is_turns(first) or turns.is_turns(last):
        return Content(form, conversation=_talk(f"{where}: its turns", _joined(first, last), system, tools))
    prompt = _text(where, form.parts["prompt"], first, False)
    completion = _text(where, form.parts["completion"], last, True)
    if system or tools:
        both = [turns.said("user", prompt), turns.said("assistant", completion)]
        return Content(form, conversation=_talk(f"{where}: its turns", both, system, tools))
    return Content(form, prompt, completion)


def _form(where: str, record: Mapping[object, object], columns: Columns) -> Form:
    present = {str(key): value for key, value in record.items() if str(key) not in METADATA}
    given = {key: value for key, value in present.items() if value is not None}
    if columns and all(name in given for column in columns.values() for name in _names(column)):
        used = {name for column in columns.values() for name in _names(column)}
        return Form(tuple(columns.items()), tuple(sorted(given.keys() - used)), asked=True)
    found = _readings(given) or _readings(present)  # those with nulls say what is null
    if len(found) != 1:
        listed = ", ".join(map(shown, list(map(str, record))[:8])) or "none"
        if not found:
            raise InputError(f"{where}: columns {listed} do not make a row. Known: {KNOWN}.")
        ways = " or ".join(_flag(one) for one in found[:3])
        raise InputError(f"{where}: columns {listed} can be read in more than one way. Say which: {ways}.")
    parts = found[0]
    used = {name for column in parts.values() for name in _names(column)}
    beside = [name for name in BESIDE if given.get(name) and name not in used]
    if "prompt" in parts and beside:
        around = {**parts, "prompt": "{" + beside[0] + "}\\n{" + _names(parts["prompt"])[0] + "}"}
        raise InputError(
            f"{where}: column {shown(beside[0])} may have been part of the prompt. Say whether: {_flag(parts)} or "
            f"{_flag(around)}."
        )
    parts |= {part: name for part, names in (("system", SYSTEM), ("tools", TOOLS)) for name in names if given.get(name)}
    used |= set(parts.values())
    return Form(tuple(parts.items()), tuple(sorted(name for name in given if name not in used and given[name] != "")))


def _readings(given: Mapping[str, object]) -> list[dict[str, str]]:
    """Every form whose columns are there. What is empty is no second prompt."""
    found = [{"messages": name} for name in TALKS if name in given]
    found += [{"text": name} for name in TEXTS if name in given]
    prompts = [name for name in PROMPTS if name in given]
    prompts = [name for name in prompts if given[name] != ""] or prompts[:1]
    completions = [name for name in COMPLETIONS if name in given]
    if set(prompts) == {"instruction", "input"}:
        prompts = ["{instruction}\n{input}"]
    pairs = [{"prompt": prompt, "completion": name} for prompt in prompts for name in completions]
    if not pairs and "chosen" in given:
        whole = "messages" if turns.is_turns(given["chosen"]) else "text"
        pairs = [{whole: "chosen"}]
    return found + pairs


def _names(column: str) -> list[str]:
    """The columns that a part is made of."""
    return re.findall(r"\{(\w+)\}", column) or [column]


def _value(where: str, record: Mapping[object, object], column: str) -> object:
    if "{" not in column or column in record:
        return record[column]
    texts = {name: _text(where, name, record[name], False) for name in _names(column)}
    return re.sub(r"\{(\w+)\}", lambda found: texts[found[1]], column)


def _text(where: str, column: str, value: object, needed: bool) -> str:
    name = shown(column)
    if not isinstance(value, str):
        remedy = "Fill it in, or remove the row." if value is None else QUOTE
        raise InputError(f"{where}: column {name} must be text, found {kind_of(value)}. {remedy}")
    if needed and not value.strip():
        raise InputError(f"{where}: column {name} is empty, so there is nothing to forget or keep. Remove the row.")
    turns.check_text(f"{where}: column {name}", value)
    return value


def _talk(where: str, value: object, system: object, tools: object) -> Conversation:
    """A conversation, after the system's word where that stands in a column of its own."""
    if system and isinstance(value, list):
        value = [turns.said("system", system), *value]
    return turns.read(where, value, tools)


def _joined(first: object, last: object) -> list[object]:
    """A prompt and what follows it as one list of turns, also where what follows begins with the prompt again."""
    opening = first if isinstance(first, list) else [turns.said("user", first)] if first else []
    closing = last if isinstance(last, list) else [turns.said("assistant", last)]
    again = [_says(turn) for turn in closing[: len(opening)]] == [_says(turn) for turn in opening]
    return closing if again and len(closing) > len(opening) else [*opening, *closing]


def _says(turn: object) -> object:
    return turn.get("content", turn.get("value")) if isinstance(turn, dict) else turn


def _named(column: str) -> str:
    names = list(map(shown, _names(column)))
    return ", ".join(names) if len(names) == 1 else f"{' and '.join(names)} put together"


def _flag(parts: Columns) -> str:
    made = [f"{part}={column}" for part, column in parts.items()]
    return "--columns " + " ".join(f"'{one}'" if "{" in one else one for one in made).replace("\n", "\\n")
