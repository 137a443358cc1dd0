"""A real server over the standard library: a tiny model behind OpenAI's routes, in the process of the test.

It generates as `model.generation` does. What it cannot do, or does wrongly, is said by its fields: `ids` (takes token
ids), `logprobs` (of a prompt, with echo), `chat`, `counts` (says how many tokens it read), `key` (wants one); `fault`
changes an answer before it is sent, `statuses` come first, one a request, with these headers.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from expunge.model import generation

Json = dict[str, Any]


@dataclass
class Tiny:
    """What stands behind the routes; `asked` keeps the bodies."""

    model: Any
    tokenizer: Any
    name: str = "tiny"
    ids: bool = True
    logprobs: bool = True
    chat: bool = True
    completions: bool = True
    counts: bool = True
    key: str = ""
    template: str = ""
    fault: Callable[[Json], Any] | None = None
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, route: str, body: Json | None, key: str) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers."""
        if self.statuses:
            status, headers = self.statuses.pop(0)
            return status, {"error": {"message": f"no: {body}"}}, headers
        if self.key and key != f"Bearer {self.key}":
            return 401, {"error": {"message": "a key is wanted"}}, {}
        if route == "/v1/models":
            return 200, {"data": [{"id": self.name, "object": "model"}]}, {}
        if body is None or not (self.completions if route == "/v1/completions" else self.chat):
            return 404, {"detail": "Not Found"}, {}
        self.asked.append(body)
        if body["model"] != self.name:
            return 404, {"error": {"message": "no such model"}}, {}
        if not self.ids and not isinstance(body.get("prompt", ""), str):
            return 400, {"detail": "prompt must be a string."}, {}
        if body.get("echo") and not self.logprobs:
            return 400, {"detail": "Only no echo is supported"}, {}
        with self.lock:
            found = self._chat(body) if route == "/v1/chat/completions" else self._complete(body)
        return 200, self.fault(found) if self.fault else found, {}

    def _complete(self, body: Json) -> Json:
        prompt = body["prompt"]
        text = self.template + prompt if isinstance(prompt, str) else ""
        ids = self.tokenizer(text)["input_ids"] if isinstance(prompt, str) else list(prompt)
        new = self._new(ids, body)
        choice: Json = {"index": 0, "text": self._text(new), "logprobs": None}
        if body.get("echo"):
            choice["logprobs"] = self._logprobs(ids + new)
        return {"choices": [choice]} | self._usage(ids, new)

    def _chat(self, body: Json) -> Json:
        ids = self.tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=False)
        new = self._new(ids, body)
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": self._text(new)}}]} | self._usage(
            ids, new
        )

    def _new(self, ids: list[int], body: Json) -> list[int]:
        end = self.tokenizer.eos_token_id
        if body["temperature"] == 0:
            return generation.greedy(self.model, [ids], [body["max_tokens"]], end)[0]
        return generation.drawn(self.model, [ids], [body["max_tokens"]], end, body["seed"], body["top_p"])[0]

    def _text(self, new: list[int]) -> str:
        return str(self.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @torch.no_grad()
    def _logprobs(self, ids: list[int]) -> Json:
        logits = self.model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(dim=1)
        own = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        best = logits.max(dim=1)
        named, likeliest = ([self.tokenizer.decode([token]) for token in of] for of in (ids, best.indices.tolist()))
        both = zip(likeliest, best.values.tolist(), named[1:], own, strict=True)
        tops = [{top: highest, name: value} for top, highest, name, value in both]
        return {"tokens": named, "token_logprobs": [None, *own], "top_logprobs": [None, *tops]}

    def _usage(self, ids: list[int], new: list[int]) -> Json:
        return {"usage": {"prompt_tokens": len(ids), "completion_tokens": len(new)}} if self.counts else {}


@contextmanager
def serving(tiny: Tiny) -> Iterator[str]:
    """The address of a server that answers for it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(None)

        def do_POST(self) -> None:
            self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _send(self, body: Json | None) -> None:
            status, content, headers = tiny.answer(self.path, body, self.headers.get("Authorization", ""))
            raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
