"""A server that is spoken to in JSON over HTTP: where it may lie, the key, and every failure as one line with a remedy.

The client is the standard library's: it follows no redirect and uses no proxy on this machine or a private network, so
that rows and key go to the address that was named and nowhere else. Messages quote neither what was sent nor the key,
and what the server said of it only where no row was asked.
"""

import contextlib
import datetime
import email.utils
import http.client
import ipaddress
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib import error, request
from urllib.parse import urlsplit

from expunge.errors import ExpungeError, InputError
from expunge.files.reading import read_text
from expunge.files.visible import in_a_line
from expunge.runs.progress import bar

KEY = "EXPUNGE_API_KEY"
TRIES = 6
FIRST_WAIT, MOST_WAIT = 1.0, 300.0  # seconds; a wait is twice the one before
BUSY = (408, 429, 502, 503, 504)
MOST_BYTES = 2**28
T = TypeVar("T")


class Refused(ExpungeError):
    """The server would not do what it was asked; `status` of HTTP, and its words, which may quote what was sent."""

    def __init__(self, place: str, status: int, words: str) -> None:
        super().__init__(
            f"{place}: the server refuses this (HTTP {status}). Its log says why: most often a prompt that is longer "
            "than its context (give a smaller --context, or start it with a longer one)."
        )
        self.status, self.words = status, in_a_line(words)[:200]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that ends where the routes begin (.../v1). `timeout`: seconds for one answer; `most`: requests at a
    time."""

    url: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    most: int = 4

    def ask(self, route: str, body: Any = None, first: bool = False) -> Any:
        """The JSON that a route answers (POST where there is a body), tried again where the server is busy.

        Raises `InputError` for a wrong address or key, `Refused`, and `ExpungeError` where no answer can be had.
        `first`: nothing was asked before, so where nobody answers, the address is wrong.
        """
        place, wait = f"{self.url}{route}", FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return self._once(place, body)
            except _Busy as busy:
                wait = wait if busy.wait is None else busy.wait
                if first and busy.unreachable:
                    raise InputError(f"{place}: {busy}. {busy.remedy}") from None
                if not left or wait > MOST_WAIT:
                    raise ExpungeError(f"{place}: {busy}. {busy.remedy}") from None
            time.sleep(wait)
            wait = min(2 * max(wait, FIRST_WAIT), MOST_WAIT)
        raise AssertionError("every way out of the loop is taken in it")

    def each(self, calls: Sequence[Callable[[], T]], title: str) -> list[T]:
        """What the calls return, in their order; so many at a time. What has not begun is dropped where one fails."""
        pool, found = ThreadPoolExecutor(self.most), list[T]()
        try:
            with bar(title, len(calls)) as report:
                for done, one in enumerate([pool.submit(call) for call in calls], start=1):
                    found.append(one.result())
                    report(done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # nobody waits for answers that nobody will read
        return found

    def _once(self, place: str, body: Any) -> Any:
        headers = {"Accept": "application/json", "User-Agent": "expunge"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data = None if body is None else json.dumps(body).encode()
        headers |= {} if data is None else {"Content-Type": "application/json"}
        with _told(place, self.timeout):
            opener = _opener(is_private(urlsplit(self.url).hostname or ""))
            with opener.open(request.Request(place, data, headers), timeout=self.timeout) as answer:
                kind, raw = str(answer.headers.get_content_type()), answer.read(MOST_BYTES)
        try:
            return json.loads(raw)
        except ValueError:
            raise InputError(
                f"{place}: answers with something that is no JSON ({in_a_line(kind)[:60]}). Is it an OpenAI-compatible "
                "server, and does the address end in /v1?"
            ) from None


class _Busy(Exception):
    """Worth another try, after so many seconds where the server says how many."""

    def __init__(self, what: str, remedy: str, wait: float | None = None, unreachable: bool = False) -> None:
        super().__init__(what)
        self.remedy, self.wait, self.unreachable = remedy, wait, unreachable


class _NoRedirect(request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


@cache
def _opener(straight: bool) -> request.OpenerDirector:
    """Without a proxy where the way is to be `straight`."""
    return request.build_opener(_NoRedirect, *([request.ProxyHandler({})] if straight else []))


@contextlib.contextmanager
def _told(place: str, timeout: float) -> Iterator[None]:
    """Failures of the library as our own."""
    again = "The same command goes on from what was kept."
    try:
        yield
    except error.HTTPError as answer:
        raise _status(place, answer) from None
    except error.URLError as failed:
        if isinstance(failed.reason, TimeoutError):
            raise _Busy(f"no answer within {timeout:g} s", f"Give a longer --endpoint-timeout. {again}") from None
        what = f"nobody answers there ({getattr(failed.reason, 'strerror', None) or type(failed.reason).__name__})"
        raise _Busy(what, "Does the server run, and is this its address?", unreachable=True) from None
    except TimeoutError:
        raise _Busy(f"no answer within {timeout:g} s", f"Give a longer --endpoint-timeout. {again}") from None
    except (OSError, http.client.HTTPException) as failed:
        raise _Busy(f"the connection broke ({type(failed).__name__})", again) from None


def _status(place: str, answer: error.HTTPError) -> Exception:
    """What a status other than success means."""
    words = ""
    with contextlib.suppress(OSError, http.client.HTTPException):
        words = answer.read(10_000).decode("utf-8", "replace")
    if answer.code in (401, 403):
        return InputError(
            f"{place}: the server wants a key, or another one (HTTP {answer.code}). Give it as {KEY} in the "
            "environment, or in a file: --endpoint-key-file."
        )
    if 300 <= answer.code < 400:
        return InputError(f"{place}: the server sends elsewhere (HTTP {answer.code}). Give the address that it names.")
    if answer.code in BUSY:
        what = "too many requests" if answer.code == 429 else "the server is busy"
        remedy = "Give a smaller --endpoint-requests. The same command goes on from what was kept."
        return _Busy(f"{what} (HTTP {answer.code})", remedy, _retry_after(answer.headers.get("Retry-After")))
    return Refused(place, answer.code, words)


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a header that holds them or a date."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        then = email.utils.parsedate_to_datetime(value)
        return max(0.0, (then - datetime.datetime.now(datetime.UTC)).total_seconds())
    return None


def checked_url(url: str, in_clear: bool) -> str:
    """The address without a slash at its end. Raises `InputError` for none that rows may be sent to."""
    try:
        parts, port = urlsplit(url), urlsplit(url).port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not url.isascii() or " " in url:
        raise InputError("--endpoint: not an address of a server. Write it as http://127.0.0.1:8000/v1.")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"--endpoint: an address with a password, a query or a fragment is written into records. Give the key as "
            f"{KEY} in the environment, and the address as http://host:port/v1."
        )
    if parts.scheme == "http" and not in_clear and not is_private(parts.hostname):
        raise InputError(
            f"--endpoint {url}: rows would go through the net in clear. Use https, a tunnel to this machine, or pass "
            "--endpoint-in-clear."
        )
    return url.rstrip("/")


@cache
def is_private(host: str) -> bool:
    """Whether a host is this machine or in a private network, by all of its addresses."""
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return host == "localhost"
    addresses = [ipaddress.ip_address(one.partition("%")[0]) for one in found]
    return all(one.is_private or one.is_loopback or one.is_link_local for one in addresses)


def key_of(file: str | None) -> str:
    """The key from a file, else from the environment; "": there is none. Raises `InputError` for what is no key."""
    key = (read_text(Path(file), "the file of the key") if file else os.environ.get(KEY, "")).strip()
    if not key.isascii() or any(not sign.isprintable() or sign.isspace() for sign in key):
        raise InputError(f"{file or KEY}: not a key: it holds spaces, line ends or signs that no header may hold.")
    return key
