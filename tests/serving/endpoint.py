"""`expunge evaluate --endpoint` against a real server: `make test-endpoint`, `make test-endpoint-llama`.

    python tests/serving/endpoint.py transformers SITE
    python tests/serving/endpoint.py llama-cpp-python SITE
    python tests/serving/endpoint.py llama-server BINARY

SITE holds what the server needs beside this environment. Two small models are made, of which one knows the rows; for
llama.cpp they are written as GGUF files. Each is served and judged. The answers must be those of the folder, word for
word, and losses its losses where the server gives them; the other model must not pass for it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge

PORT = 8731
URL = f"http://127.0.0.1:{PORT}"
WAIT = 300  # seconds for a server to come up
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '' }}{% endif %}"
)
NEAR = 0.02  # nats per token, of rows


@contextmanager
def served(command: Sequence[str], site: str, log: Path) -> Iterator[None]:
    """A server that is up, until the block ends."""
    path = os.pathsep.join(filter(None, (site, os.environ.get("PYTHONPATH", ""))))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        for _ in range(WAIT):
            if process.poll() is not None:
                raise SystemExit(f"the server ended:\n{log.read_text()[-2000:]}")
            try:
                urlopen(f"{URL}/v1/models" if "llama_cpp.server" in command else f"{URL}/health", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def judged(work: Path, name: str, given: Mapping[str, Any], model: str | None) -> Any:
    """The record of a model that is served."""
    said: list[str] = []
    run = expunge.evaluate(
        output=work / name, endpoint=f"{URL}/v1", served_model=model, endpoint_timeout=600.0, say=said.append, **given
    )
    print("\n".join(f"  {line}" for line in said))
    return run.record


def check(work: Path, given: Mapping[str, Any], model: str | None = None) -> None:
    """The folder's own words, and its losses where there are any."""
    block = judged(work, "own", given, model).answered
    print(block)
    besides = block.beside_the_folder
    assert besides.alike and besides.answers > 0, besides
    assert besides.loss_apart is None or besides.loss_apart.most < NEAR, besides


def check_another(work: Path, given: Mapping[str, Any], model: str | None = None) -> None:
    """The original in its place is told from it, and its rows are seen to be known."""
    record = judged(work, "another", given, model)
    assert not record.answered.beside_the_folder.alike, record.answered
    assert record.verdict.forget == "not forgotten", record.verdict


def write(work: Path) -> dict[str, Any]:
    """An original that knows the rows to forget, a model that does not, and the rows: the inputs of an evaluation."""
    from e2e import little

    little.write_world(work)
    talks = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "%d"}]}\n'
    for name, start in (("retain", 0), ("holdout", 4)):
        with (work / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(talks % (f"talk {n}?", 10 * n) for n in range(start, start + 4))
    for name in ("original", "retrained"):
        tokenizer = AutoTokenizer.from_pretrained(work / name)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(work / name)
    given: dict[str, Any] = {name: work / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    return given | {"model": work / "original", "unlearned": work / "retrained"}


def as_gguf(folder: Path) -> str:
    """The file that llama.cpp serves."""
    import gguf_files

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return str(gguf_files.written(folder.with_suffix(".gguf"), model, tokenizer, begins=True))


def main(kind: str, server: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["EXPUNGE_CACHE"] = str(work / "cache")
        given = write(work)
        for name, checked in (("retrained", check), ("original", check_another)):
            own, site = str(work / name), "" if kind == "llama-server" else server
            if kind == "transformers":
                command = [sys.executable, "-m", "transformers.cli.transformers", "serve", own, "--device", "cpu"]
            elif kind == "llama-cpp-python":
                flags = ["--model", as_gguf(work / name), "--n_ctx", "192", "--logits_all", "true", "--n_threads", "1"]
                command = [sys.executable, "-m", "llama_cpp.server", *flags]
            else:
                command = [server, "--model", as_gguf(work / name), "--ctx-size", "512", "--jinja", "--threads", "1"]
            with served([*command, "--port", str(PORT)], site, work / f"{name}.log"):
                checked(work, given, own if kind == "transformers" else None)
    print(f"{kind}: what is served is what is judged")


if __name__ == "__main__":
    main(*sys.argv[1:])
