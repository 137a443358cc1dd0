"""A model that a server answers for, through OpenAI's routes: its greedy answers, samples and log-probabilities.

What a server can do is found by asking it once, with a text of ours (`met`), before any row is sent:

- /completions takes token ids (vLLM, llama.cpp), which are asked for exactly, or text alone (llama-cpp-python, TGI,
  `transformers serve`); then the form is the one for which the server counts the tokens that training had.
- With `echo` and `logprobs` some give log-probabilities of a prompt's own tokens (vLLM, llama-cpp-python). Two texts
  that part at one token tell whether each value stands in its place: up to there the likeliest tokens are the same,
  after it they are not. llama-cpp-python shifts them by one where no token begins a text.
- /chat/completions renders conversations by the server's own template.

Shapes: T tokens of a text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from expunge.errors import ExpungeError, InputError
from expunge.model.endpoint import Endpoint, Refused

Takes = Literal["token ids", "text", "text with its begin token", "nothing"]
FIRST = "The weather on 3 May was fine, and in Ørsted Street 7 all of the windows stood open"
OTHER = "The weather on 3 May was fine, and in Ørsted Street 7 all of the rest was as ever"
NO_LOGPROBS = "the server gives no log-probabilities of a prompt's tokens"
SHIFTED = "the log-probabilities that the server gives do not stand in the places of their tokens"
NOISE, LEAST = 10, 1e-3  # what differs by more than so many times what equal places do, and by more nats, is another
MOST_LISTED = 10
GREEDY = {"temperature": 0}


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said, and how many tokens the server read (None: it does not say)."""

    text: str
    read: int | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One draw at temperature 1, from the likeliest tokens that have this probability together."""

    seed: int
    top_p: float

    def body(self) -> dict[str, float]:
        return {"temperature": 1, "top_p": self.top_p, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Prompted:
    """A prompt as /completions takes it, and the tokens that are meant; `exact`: it stands for just these."""

    value: list[int] | str
    ids: tuple[int, ...]
    exact: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """Of a text's T tokens the log-probability of each in nats, None where there is none (as of the first), and the
    likeliest token with its log-probability there."""

    values: tuple[float | None, ...]
    likeliest: tuple[tuple[str, float] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model of a server, the tokenizer of the original, and what the server was found to do.

    `takes`: how /completions is asked; `confirmed`: whether the server counts tokens as the tokenizer does, None where
    it does not count; `no_losses`: why log-probabilities are not used, "" where they are; `no_chat`: why conversations
    are not asked through /chat/completions, "" where they are; `offers`: the models that it names.
    """

    endpoint: Endpoint
    model: str
    tokenizer: Any
    offers: tuple[str, ...] = ()
    takes: Takes = "nothing"
    confirmed: bool | None = None
    no_losses: str = NO_LOGPROBS
    no_chat: str = "no row is a conversation"

    def prompt(self, ids: Sequence[int]) -> Prompted:
        """Of these ids, or of the text that stands for them where the server takes no ids: nearly always exactly."""
        if self.takes == "token ids":
            return Prompted(list(ids), tuple(ids), True)
        begin, own = self.tokenizer.bos_token_id, list(ids)
        begun = begin is not None and _ids(self.tokenizer, "x")[:1] == [begin]
        fits = True
        if self.takes == "text" and begun:  # the server puts the begin token there itself
            fits, own = own[:1] == [begin], own[1:] if own[:1] == [begin] else own
        text = str(self.tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return Prompted(text, tuple(ids), fits and _ids(self.tokenizer, text, special=False) == own)

    def complete(self, prompt: Prompted, room: int, sample: Sample | None = None) -> Answer:
        """What follows, greedily unless a sample is drawn."""
        how = sample.body() if sample else GREEDY
        choice, read = _choice(self._post("/completions", {"prompt": prompt.value, "max_tokens": room, **how}))
        return Answer(_text(choice.get("text"), "/completions"), read)

    def chat(self, turns: Sequence[Mapping[str, Any]], room: int, sample: Sample | None = None) -> Answer:
        """The same of a conversation that calls for an answer."""
        how = sample.body() if sample else GREEDY
        choice, read = _choice(self._post("/chat/completions", {"messages": list(turns), "max_tokens": room, **how}))
        message = choice.get("message")
        said = message.get("content") if isinstance(message, dict) else None
        return Answer(_text("" if said is None else said, "/chat/completions"), read)

    def score(self, prompt: Prompted) -> Scored | None:
        """Of a prompt's tokens; None where the answer does not fit them.

        One token more is asked for: some servers take 0 for no limit. Some leave the begin token out, and some the new
        one, so values are placed by the tokens that the server names.
        """
        body = {"prompt": prompt.value, "max_tokens": 1, "echo": True, "logprobs": 1, **GREEDY}
        choice, read = _choice(self._post("/completions", body))
        found = choice.get("logprobs") if read in (None, len(prompt.ids)) else None
        found = found if isinstance(found, dict) else {}
        lists = [found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
        names, values, tops = parts = [one if isinstance(one, list) else [] for one in lists]
        missing = next((count for count in (0, 1) if self._named(prompt.ids[count:], names)), None)
        if missing is None or len(set(map(len, parts))) > 1 or not all(map(_agree, names, values, tops)):
            return None
        likeliest = [max(one.items(), key=lambda pair: pair[1]) if one else None for one in tops]
        kept, lacking = len(prompt.ids) - missing, [None] * missing
        return Scored((*lacking, *values[:kept]), (*lacking, *likeliest[:kept]))

    def _named(self, ids: Sequence[int], names: Sequence[Any]) -> bool:
        """Whether the first names are those of the tokens; of parts of letters, which have none, nothing is asked."""
        own = [self.tokenizer.decode([token]) for token in ids]
        pairs = list(zip(own, names, strict=False))
        same = [a.strip() == b.strip() for a, b in pairs if a.isascii() and isinstance(b, str) and b.isascii() and b]
        return len(pairs) == len(ids) and len(same) > len(ids) // 2 and all(same)

    def _post(self, route: str, body: Mapping[str, Any]) -> Any:
        return self.endpoint.ask(route, {"model": self.model, **body})


def met(endpoint: Endpoint, model: str | None, tokenizer: Any, conversations: bool, others: bool) -> Served:
    """The model, once the server was asked what it does; no row is sent. Whether there are rows that are conversations,
    and others.

    Raises `InputError` where it has no such model, or cannot be asked what training saw.
    """
    offers = _offered(endpoint)
    if model is None and len(offers) != 1:
        raise InputError(f"{endpoint.url}: give --served-model. {_list(offers)}")
    served = Served(endpoint=endpoint, model=model or offers[0], tokenizer=tokenizer, offers=offers)
    served = _asked_for_text(served)
    if served.takes == "nothing" and others:
        raise InputError(
            f"{endpoint.url}: no /completions there (HTTP 404), and rows that are no conversations can be asked "
            f"through nothing else. Does the address end in /v1? {_list(offers)}"
        )
    if conversations:
        served = replace(served, no_chat=_no_chat(served))
    return served if served.takes == "nothing" else replace(served, no_losses=_no_losses(served))


def _offered(endpoint: Endpoint) -> tuple[str, ...]:
    """The names of the server's models; none where it has no such list."""
    try:
        found = endpoint.ask("/models", first=True)
    except Refused as refused:
        if refused.status == 404 and not endpoint.url.endswith("/v1"):
            raise InputError(f"{endpoint.url}: no OpenAI routes there. The address most often ends in /v1.") from None
        return ()
    listed = found.get("data") if isinstance(found, dict) else None
    names = [one.get("id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return tuple(name for name in names if isinstance(name, str))


def _asked_for_text(served: Served) -> Served:
    """With the form of prompts that the server takes, by the tokens that it counts."""
    ids, refusals, counted = _ids(served.tokenizer, FIRST), [], []
    forms: tuple[Takes, ...] = ("token ids", "text", "text with its begin token")
    for trial in (replace(served, takes=takes) for takes in forms):
        try:
            answer = trial.complete(trial.prompt(ids), 1)
        except Refused as refused:
            refusals.append(refused)
            continue
        if FIRST in answer.text:
            raise InputError(f"{served.endpoint.url}: its answers repeat the prompt. Turn that off there.")
        read = answer.read
        if read == len(ids) or (read is None and trial.takes != "token ids"):
            return replace(trial, confirmed=True if read is not None else None)
        counted.append(read)
    if not counted and all(one.status == 404 for one in refusals):
        if served.offers and served.model not in served.offers:
            raise InputError(f"{served.endpoint.url}: no model {served.model!r} there. {_list(served.offers)}")
        return served  # no such route: a server for conversations alone
    if not counted:
        raise InputError(
            f"{served.endpoint.url}: /completions refuses a plain prompt (HTTP {refusals[-1].status}: "
            f"{refusals[-1].words}). Is --served-model {served.model!r} right? {_list(served.offers)}"
        )
    raise InputError(
        f"{served.endpoint.url}: the server reads {counted[-1]} tokens where the original's tokenizer has {len(ids)}: "
        "it puts prompts into a template of its own, or has another tokenizer. Serve the model with its own tokenizer "
        "and without a template for completions (Ollama: TEMPLATE {{ .Prompt }} in the Modelfile)."
    )


def _no_losses(served: Served) -> str:
    """Why log-probabilities cannot be used; "" where they can."""
    found = []
    both = [_ids(served.tokenizer, text) for text in (FIRST, OTHER)]
    for ids in both:
        try:
            scored = served.score(served.prompt(ids))
        except ExpungeError:
            scored = None
        if scored is None or None in scored.values[2:] or None in scored.likeliest[2:]:
            return NO_LOGPROBS
        found.append(scored)
    parts = next(place for place, (a, b) in enumerate(zip(*both, strict=False)) if a != b)
    return "" if in_place(found[0], found[1], parts) else SHIFTED


def in_place(one: Scored, other: Scored, parts: int) -> bool:
    """Whether values are those of the tokens where they stand, by two texts that part at a token.

    The distribution at a place hangs on what stands before it: at the first token that differs it is still the same,
    and one place later it is not. It is known by its likeliest token; by how much equal ones differ, the places before
    tell.
    """
    pairs = [(a, b) for a, b in zip(one.likeliest[: parts + 2], other.likeliest, strict=False) if a and b]
    apart = [abs(a[1] - b[1]) for a, b in pairs]
    bound = max(LEAST, NOISE * max(apart[:-2], default=0.0))
    likely = all(value is None or value <= LEAST for value in (*one.values, *other.values))
    return likely and apart[-2] <= bound and (apart[-1] > bound or pairs[-1][0][0] != pairs[-1][1][0])


def _no_chat(served: Served) -> str:
    """Why conversations are not asked through the route that is made for them; "" where they are.

    Raises `InputError` where they could be asked in no way.
    """
    turns = [{"role": "user", "content": FIRST}]
    try:
        served.chat(turns, 1)
        return ""
    except Refused as refused:
        if served.takes == "nothing":
            raise InputError(
                f"{served.endpoint.url}: neither /completions nor /chat/completions answers (HTTP {refused.status}). "
                f"Does the address end in /v1? {_list(served.offers)}"
            ) from None
        return f"/chat/completions refuses a conversation (HTTP {refused.status}), so they go through /completions"


def _choice(answer: Any) -> tuple[Mapping[str, Any], int | None]:
    """The first choice of an answer, and how many tokens were read, where the server counts them."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ExpungeError("the server's answer has no choices. Is it an OpenAI-compatible server?")
    usage = answer.get("usage")
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return choices[0], read if type(read) is int else None


def _text(said: Any, route: str) -> str:
    if not isinstance(said, str):
        raise ExpungeError(f"the server's answer on {route} has no text. Is it an OpenAI-compatible server?")
    return said


def _agree(name: Any, value: Any, tops: Any) -> bool:
    """Whether a value is a number, or none, and the same among the likeliest tokens where the token is listed there;
    parts of letters share their names."""
    if value is not None and (type(value) not in (int, float) or value != value):
        return False
    if tops is not None and not (isinstance(tops, dict) and all(type(one) in (int, float) for one in tops.values())):
        return False
    listed = tops.get(name) if tops and isinstance(name, str) and name and name.isascii() else None
    return listed is None or value is None or abs(listed - value) <= LEAST


def _ids(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _list(offers: Sequence[str]) -> str:
    if not offers:
        return "It lists no models."
    more = f" and {len(offers) - MOST_LISTED} more" if len(offers) > MOST_LISTED else ""
    return f"It offers: {', '.join(offers[:MOST_LISTED])}{more}."
