"""A headless Chromium driven over its DevTools protocol through two pipes: no dependency, no port, no network."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
A4 = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": True}
KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "ArrowDown": (40, ""),
    "Backspace": (8, ""),
    " ": (32, " "),
}


def found() -> str | None:
    """The program, None where none is installed."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Tab:
    """One page. `complaints`: what went to its console or was thrown; `requests`: addresses that it asked for."""

    def __init__(self, writing: int, reading: int) -> None:
        self._writing, self._reading, self._rest = writing, reading, b""
        self._number, self._session = 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def attach(self) -> Self:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def send(self, method: str, **given: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": given}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._heard(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._reading, 1 << 20)
            assert more, "the browser has gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _heard(self, event: dict[str, Any]) -> None:
        method, given = event.get("method"), event.get("params", {})
        if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(given)[:500])
        if method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])

    def open(self, page: Path) -> None:
        """Waits until it is loaded and its script has run."""
        self.complaints.clear()
        self.requests.clear()
        self.send("Page.navigate", url=page.as_uri())
        while (event := self._next()).get("method") != "Page.loadEventFired":
            self._heard(event)

    def looked_at(self, page: Path) -> Iterator[None]:
        """The page at the widths of a phone and of a desk, in the dark and in the light: each time nothing stands
        beyond the window's side, and once what is asked in between holds, no complaint and no request is there."""
        for width in (390, 1280):
            self.size(width)
            self.open(page)
            for scheme in ("dark", "light"):
                self.media(scheme=scheme)
                assert self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
                yield
                assert not self.complaints and self.requests == [page.as_uri()]

    def run(self, code: str) -> Any:
        """The value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """A key of the keyboard, or a letter."""
        code, text = KEYS.get(key, (ord(key[0].upper()), key))
        one = {"key": key, "windowsVirtualKeyCode": code}
        for _ in range(times):
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **one)
            self.send("Input.dispatchKeyEvent", type="keyUp", **one)

    def size(self, width: int, height: int = 900) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, media: str = "", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)


@contextmanager
def tab(program: str, home: Path) -> Iterator[Tab]:
    """A browser of its own, with its files in `home`; ended at the end."""
    (theirs, writing), (reading, ours) = os.pipe(), os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={home}"]
    flags += ["--disable-extensions", "--disable-background-networking", "--disable-component-update"]
    shell = 'exec "$0" --remote-debugging-pipe "$@" 3<&"$IN" 4>&"$OUT"'
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *flags, "about:blank"],
        pass_fds=(theirs, ours),
        env=os.environ | {"IN": str(theirs), "OUT": str(ours)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    os.close(ours)
    try:
        yield Tab(writing, reading).attach()
    finally:
        process.terminate()
        process.wait()
        os.close(writing)
        os.close(reading)
