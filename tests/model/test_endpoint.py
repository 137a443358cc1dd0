"""What a server may do wrong, and what is said of it: addresses, keys, statuses, retries, and what it gives."""

import datetime
import email.utils
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import problems
from expunge.errors import ExpungeError, InputError
from expunge.model import endpoint
from expunge.model.endpoint import Endpoint, Refused, checked_url, is_private, key_of
from expunge.model.served import NO_LOGPROBS, SHIFTED, Served, met
from openai_server import Json, Tiny, serving

SECRET = "sk-very-secret-1234"


@pytest.fixture(scope="module")
def model() -> Any:
    """One whose next token hangs on the whole context."""
    made = problems.text_model("llama", seed=2, context=256)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    return made


@pytest.fixture
def tiny(model: Any, tokenizer: Any) -> Tiny:
    return Tiny(model, tokenizer)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    found: list[float] = []
    monkeypatch.setattr(endpoint.time, "sleep", found.append)
    yield found


def meet(tiny: Tiny, name: str | None = None, conversations: bool = False, others: bool = True) -> Served:
    with serving(tiny) as url:
        return met(Endpoint(url, "", 20.0), name, tiny.tokenizer, conversations, others)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("ftp://host/v1", "http://127.0.0.1:8000/v1"),
        ("http://host:port/v1", "http://127.0.0.1:8000/v1"),
        (f"https://me:{SECRET}@host/v1", "EXPUNGE_API_KEY"),
        (f"https://host/v1?key={SECRET}", "EXPUNGE_API_KEY"),
        ("http://8.8.8.8/v1", "--endpoint-in-clear"),
    ],
)
def test_addresses_that_rows_are_not_sent_to(url: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        checked_url(url, in_clear=False)
    assert said in str(refused.value) and SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8/v1/", "http://[::1]:8/v1", "http://10.1.2.3/v1", "https://8.8.8.8/v1"]
)
def test_addresses_that_they_are(url: str) -> None:
    assert checked_url(url, in_clear=False) == url.rstrip("/")
    assert checked_url("http://8.8.8.8/v1", in_clear=True) == "http://8.8.8.8/v1"
    assert is_private("localhost") and not is_private("8.8.8.8")


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(endpoint.KEY, SECRET)
    assert key_of(None) == SECRET and SECRET not in repr(Endpoint("http://127.0.0.1/v1", SECRET))
    (tmp_path / "key").write_text("other\n")
    assert key_of(str(tmp_path / "key")) == "other"
    monkeypatch.setenv(endpoint.KEY, f"{SECRET}\nX-Other: 1")
    with pytest.raises(InputError) as refused:
        key_of(None)
    assert SECRET not in str(refused.value)


def test_a_wrong_key(tiny: Tiny) -> None:
    with serving(replace(tiny, key="right")) as url:
        with pytest.raises(InputError, match="EXPUNGE_API_KEY") as refused:
            Endpoint(url, SECRET).ask("/models", first=True)
        assert SECRET not in str(refused.value)
        assert Endpoint(url, "right").ask("/models")["data"][0]["id"] == "tiny"


def test_nobody_answers(tiny: Tiny) -> None:
    with serving(tiny) as url:
        pass
    with pytest.raises(InputError, match=r"nobody answers there .*Does the server run"):
        Endpoint(url).ask("/models", first=True)


def test_a_busy_server_is_asked_again_when_it_says(tiny: Tiny, waits: list[float]) -> None:
    then = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30))
    busy = [(429, {"Retry-After": "7"}), (503, {}), (429, {"Retry-After": then})]
    with serving(replace(tiny, statuses=busy)) as url:
        assert Endpoint(url).ask("/models")
    assert waits[:2] == [7.0, 14.0] and 25 < waits[2] <= 30


def test_a_server_that_stays_busy_is_given_up(tiny: Tiny, waits: list[float]) -> None:
    with serving(replace(tiny, statuses=[(429, {})] * 20)) as url:
        with pytest.raises(ExpungeError, match=r"too many requests .*--endpoint-requests") as given_up:
            Endpoint(url).ask("/completions", {"prompt": SECRET})
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
        with pytest.raises(ExpungeError):
            Endpoint(url).ask("/completions", {"prompt": SECRET})
    assert SECRET not in str(given_up.value) and not isinstance(given_up.value, InputError)
    waits.clear()
    with serving(replace(tiny, statuses=[(429, {"Retry-After": "9000"})])) as url, pytest.raises(ExpungeError):
        Endpoint(url).ask("/models")
    assert waits == []  # nobody waits for hours unasked


def test_no_answer_in_time(tiny: Tiny, waits: list[float]) -> None:
    with serving(replace(tiny, fault=lambda found: threading.Event().wait(0.2) or found)) as url:
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 1, "temperature": 0}
        with pytest.raises(ExpungeError, match=r"no answer within 0.05 s. Give a longer --endpoint-timeout"):
            Endpoint(url, timeout=0.05).ask("/completions", asked)
    assert len(waits) == endpoint.TRIES - 1


def test_a_redirect_is_not_followed(tiny: Tiny) -> None:
    away = [(302, {"Location": "http://8.8.8.8/"})]
    with serving(replace(tiny, statuses=away)) as url, pytest.raises(InputError, match="sends elsewhere"):
        Endpoint(url).ask("/models")


def test_something_that_is_no_json(tiny: Tiny) -> None:
    with serving(replace(tiny, fault=lambda found: "<html>")) as url:
        asked = {"model": "tiny", "prompt": "a", "max_tokens": 1, "temperature": 0}
        with pytest.raises(InputError, match=r"no JSON .*end in /v1"):
            Endpoint(url).ask("/completions", asked)


def test_a_refusal_holds_nothing_of_what_was_asked(tiny: Tiny) -> None:
    with serving(replace(tiny, statuses=[(400, {})])) as url, pytest.raises(Refused) as refused:
        Endpoint(url).ask("/completions", {"prompt": SECRET})
    assert SECRET in refused.value.words and SECRET not in str(refused.value)


def test_what_fails_in_one_of_many_ends_them_all(tiny: Tiny) -> None:
    begun: list[int] = []

    def call(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        if number == 2:
            raise InputError("no")
        return number

    calls = [lambda number=number: call(number) for number in range(50)]  # type: ignore[misc]
    with pytest.raises(InputError):
        Endpoint("http://127.0.0.1/v1", most=2).each(calls, "x")
    assert len(begun) < 20
    assert Endpoint("http://127.0.0.1/v1", most=3).each(calls[3:9], "x") == list(range(3, 9))


# What a server gives


def test_token_ids_and_log_probabilities(tiny: Tiny) -> None:
    found = meet(tiny)
    assert (found.model, found.takes, found.confirmed, found.no_losses) == ("tiny", "token ids", True, "")
    assert not any("message" in body for body in tiny.asked)


def test_text_alone(tiny: Tiny) -> None:
    found = meet(replace(tiny, ids=False, logprobs=False))
    assert (found.takes, found.no_losses) == ("text", NO_LOGPROBS)
    begin, end = tiny.tokenizer.bos_token_id, tiny.tokenizer.eos_token_id
    ids = tiny.tokenizer("a b")["input_ids"]
    assert ids[0] == begin
    assert (found.prompt(ids).value, found.prompt(ids).exact) == ("a b", True)  # the server puts the begin token there
    assert found.prompt([*ids, end]).value == "a b</s>" and found.prompt([*ids, end]).exact
    assert not found.prompt(ids[1:]).exact and not found.prompt([begin, 130 + 2]).exact  # half of a letter
    spelled = replace(found, takes="text with its begin token")
    assert spelled.prompt(ids).value == "<s>a b" and spelled.prompt(ids[1:]).exact


def test_a_server_that_does_not_count(tiny: Tiny) -> None:
    found = meet(replace(tiny, counts=False))
    assert (found.takes, found.confirmed) == ("text", None)  # ids might have been read as anything


@pytest.mark.parametrize("ids", [True, False])
def test_a_template_of_its_own_is_refused(tiny: Tiny, ids: bool) -> None:
    """As Ollama has one for text; ids go past it, where they are taken."""
    templated = replace(tiny, ids=ids, template="User: ")
    if ids:
        assert meet(templated).takes == "token ids"
        return
    with pytest.raises(InputError, match="template of its own"):
        meet(templated)


def test_a_prompt_in_the_answer_is_refused(tiny: Tiny) -> None:
    def repeated(found: Json) -> Json:
        found["choices"][0]["text"] = tiny.asked[-1]["prompt"] + found["choices"][0]["text"]
        return found

    with pytest.raises(InputError, match="repeat the prompt"):
        meet(replace(tiny, ids=False, fault=repeated))


def _later(logprobs: Json) -> None:
    """As llama-cpp-python has them where no begin token stands before a text: of what follows each token, and without
    the last one."""
    for name in ("token_logprobs", "top_logprobs"):
        logprobs[name] = [logprobs[name][1], *logprobs[name][2:]]
    logprobs["tokens"] = logprobs["tokens"][:-1]


def _earlier(logprobs: Json) -> None:
    for name in ("token_logprobs", "top_logprobs"):
        logprobs[name] = [None, *logprobs[name][:-1]]


def _of_other_tokens(logprobs: Json) -> None:
    logprobs["tokens"] = ["", *logprobs["tokens"][:-1]]


def _values_alone(logprobs: Json) -> None:
    logprobs["token_logprobs"] = [None, *logprobs["token_logprobs"][:-1]]


WRONG = {_later: (SHIFTED, NO_LOGPROBS), _earlier: (SHIFTED, NO_LOGPROBS)}
WRONG |= {_of_other_tokens: (NO_LOGPROBS,), _values_alone: (NO_LOGPROBS,), lambda found: None: ("",)}


@pytest.mark.parametrize("wrong", WRONG)
def test_log_probabilities_in_the_wrong_places_are_not_used(tiny: Tiny, wrong: Callable[[Json], None]) -> None:
    def fault(found: Json) -> Json:
        if logprobs := found["choices"][0]["logprobs"]:
            wrong(logprobs)
        return found

    assert meet(replace(tiny, fault=fault)).no_losses in WRONG[wrong]


def test_a_begin_token_that_is_left_out(tiny: Tiny) -> None:
    """As llama-cpp-python leaves it out, and the new token too."""

    def fault(found: Json) -> Json:
        if logprobs := found["choices"][0]["logprobs"]:
            for name, values in logprobs.items():
                logprobs[name] = values[1:-1]
            logprobs["token_logprobs"][0] = None
        return found

    found = meet(replace(tiny, fault=fault))
    prompt = found.prompt(tiny.tokenizer("some text")["input_ids"])
    with serving(tiny) as url:
        right = replace(found, endpoint=Endpoint(url)).score(prompt)
    with serving(replace(tiny, fault=fault)) as url:
        found = replace(found, endpoint=Endpoint(url))
        scored = found.score(prompt)
    assert found.no_losses == "" and scored and right and scored.values[2:] == right.values[2:]


@pytest.mark.parametrize("spoilt", ["none", "positive", "fewer"])
def test_log_probabilities_that_are_none(tiny: Tiny, spoilt: str) -> None:
    def fault(found: Json) -> Json:
        if logprobs := found["choices"][0]["logprobs"]:
            values = logprobs["token_logprobs"]
            other = {
                "none": None,
                "positive": [*values[:5], 0.5, *values[6:]],
                "fewer": values[4:],
            }
            logprobs["token_logprobs"] = other[spoilt]
        return found

    assert meet(replace(tiny, fault=fault)).no_losses in (NO_LOGPROBS, SHIFTED)


def test_a_wrong_name(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"no model 'big' there. It offers: tiny"):
        meet(tiny, "big")


def test_routes_that_are_not_there(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="no /completions there"):
        meet(replace(tiny, completions=False))
    with pytest.raises(InputError, match="neither"):
        meet(replace(tiny, completions=False, chat=False), conversations=True, others=False)
    with serving(tiny) as url, pytest.raises(InputError, match="most often ends in /v1"):
        met(Endpoint(url.removesuffix("/v1")), None, tiny.tokenizer, False, True)
