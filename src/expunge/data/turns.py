"""The turns of a conversation as people's files hold them: role and content, or from and value, with what goes beside.

Tool calls, the results of tools, their names and thoughts in a field of their own are kept for the chat template. What
is null counts as not there, since tables fill what a turn (or a call's arguments) lacks with nulls.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.errors import InputError, kind_of
from expunge.files.reading import NotJSON, parse_json, shown

ROLES = {name: name for name in ("system", "developer", "user", "assistant", "tool")}
ROLES |= {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
ROLES |= {"observation": "tool", "function": "tool", "tool_response": "tool", "ipython": "tool"}
CALL = "function_call"  # as a role, a turn of the assistant that is a call; as a key, the older form of tool_calls
FORMS = (("role", "content"), ("from", "value"))
KEPT = ("tool_calls", "reasoning_content", "thinking", "reasoning", "name", "tool_call_id")
WEIGHTS = ("weight", "loss_weight", "train", "training", "loss")
QUOTE = "Write it as text, in quotes."
TURNS = 'Write turns as {"role": "user", "content": "..."}.'


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns (role, content), and what they hold beside that with the tools on offer, as JSON ("": nothing)."""

    turns: tuple[tuple[str, str], ...]
    more: str

    @property
    def prompt(self) -> str:
        """All turns but the last, to read."""
        return "\n".join(f"{role}: {text}" for role, text in self.turns[:-1])

    @property
    def completion(self) -> str:
        """The last turn; what it calls where it says nothing."""
        last = len(self.turns) - 1
        return self.turns[-1][1] or json.dumps(json.loads(self.more)["turns"][str(last)]["tool_calls"])


def is_turns(value: object) -> bool:
    """Whether a value can only be meant as turns."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def said(role: str, text: object) -> dict[str, object]:
    """A turn."""
    return {"role": role, "content": text}


def read(where: str, value: object, tools: object = None) -> Conversation:
    """A conversation that ends with the assistant's turn. Raises `InputError` that begins with `where`."""
    given = _listed(value)
    if not isinstance(given, list):
        raise InputError(f"{where} must be a list of turns, found {kind_of(given)}. {TURNS}")
    turns: list[tuple[str, str]] = []
    more: dict[str, Any] = {}
    for place, turn in enumerate(given):
        role, text, held = _turn(f"{where}, turn {place + 1}", turn)
        turns.append((role, text))
        more |= {str(place): held} if held else {}
    _check_order(where, [role for role, _ in turns])
    held = ({"turns": more} if more else {}) | ({"tools": _tools(where, tools)} if tools else {})
    return Conversation(tuple(turns), json.dumps(held, sort_keys=True) if held else "")


def _listed(value: object) -> object:
    """JSON in a cell as what it says, and the lists by key that `datasets` makes of a sequence of turns as turns."""
    if isinstance(value, str):
        with contextlib.suppress(NotJSON):
            parsed = parse_json(value)
            return parsed if isinstance(parsed, list) else value
    if isinstance(value, dict) and len({len(one) if isinstance(one, list) else -1 for one in value.values()}) == 1:
        columns = [[(key, one) for one in values] for key, values in value.items() if isinstance(values, list)]
        return [dict(pairs) for pairs in zip(*columns, strict=True)] or value
    return value


def _tools(where: str, value: object) -> list[object]:
    """The tools on offer: a list, or JSON of one."""
    given = _listed(value)
    if not isinstance(given, list):
        raise InputError(f"{where}: its tools must be a list, found {kind_of(given)}. Write them as JSON.")
    return [_without_nulls(one) for one in given]


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _check_order(where: str, roles: Sequence[str]) -> None:
    if roles[-1:] != ["assistant"]:
        raise InputError(
            f"{where} must end with a turn of the assistant. That is what is forgotten or kept; cut off what follows."
        )
    if "user" not in roles:
        raise InputError(f"{where} has no turn of the user. Write a text without one as a text row.")
    if "system" in roles[1:]:
        raise InputError(f"{where}: a system turn must be the first. Move it there; most chat templates refuse others.")


def _turn(where: str, turn: object) -> tuple[str, str, dict[str, object]]:
    """Role, text, and what is kept beside them."""
    if not isinstance(turn, dict):
        raise InputError(f"{where}: expected an object with role and content, found {kind_of(turn)}. {TURNS}")
    given = {str(key): value for key, value in turn.items() if value is not None}
    named, text_key = _form(where, given)
    role = given[named]
    if role == CALL:
        given |= _as_calls(given[text_key])
        role = "assistant"
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(f"{where}: unknown role. Known: {', '.join(ROLES)}.")
    role = ROLES[role]
    if isinstance(call := given.get(CALL), dict):
        given["tool_calls"] = [{"type": "function", "function": call}]
    _check_weight(where, role, given)
    text = _text(f"{where}: {text_key}", given.get(text_key, "" if given.get("tool_calls") else None))
    if not text.strip() and role == "assistant" and not given.get("tool_calls"):
        raise InputError(f"{where}: the assistant's turn is empty, so there is nothing to forget or keep. Remove it.")
    kept = {key: _without_nulls(given[key]) for key in KEPT if given.get(key)}
    check_text(f"{where}: its calls", json.dumps(kept, ensure_ascii=False))
    return role, text, kept


def _form(where: str, given: Mapping[str, object]) -> tuple[str, str]:
    """The keys of role and text."""
    calls = given.get("tool_calls") or isinstance(given.get(CALL), dict)
    fitting = [form for form in FORMS if form[0] in given and (form[1] in given or calls)]
    if len(fitting) != 1:
        listed = ", ".join(map(shown, sorted(given)[:8])) or "none"
        raise InputError(f"{where}: keys {listed}, expected role and content, or from and value. {TURNS}")
    return fitting[0]


def _as_calls(text: object) -> dict[str, object]:
    """ShareGPT's turn that is a call, as calls; a text that is none stays what the assistant said."""
    with contextlib.suppress(NotJSON):
        parsed = parse_json(text) if isinstance(text, str) else text
        calls = parsed if isinstance(parsed, list) else [parsed]
        if calls and all(isinstance(one, dict) and "name" in one for one in calls):
            made = [{"type": "function", "function": one} for one in calls]
            return {"tool_calls": made, "content": "", "value": ""}
    return {}


def _check_weight(where: str, role: str, given: Mapping[str, object]) -> None:
    weighed = next((key for key in WEIGHTS if key in given and not given[key]), None)
    if weighed and role == "assistant":
        raise InputError(
            f"{where}: {weighed!r} says that training left this turn out of its loss, and here all of the assistant's "
            "turns count. Cut the conversation off after a turn that counted, or take the key out."
        )


def _text(where: str, value: object) -> str:
    """Text, or parts that are all text, put together."""
    if isinstance(value, list) and value:
        texts = [one.get("text") for one in value if isinstance(one, dict) and one.get("type") == "text"]
        if len(texts) == len(value) and all(isinstance(text, str) for text in texts):
            value = "".join(map(str, texts))
    if not isinstance(value, str):
        raise InputError(f"{where} must be text, found {kind_of(value)}. {QUOTE}")
    check_text(where, value)
    return value


def check_text(where: str, value: str) -> None:
    """Raises `InputError` for what cannot be written as UTF-8."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where} holds half a surrogate pair, which is no text. Remove it.") from None
