"""`expunge evaluate --endpoint` against a real server: `make test-endpoint`.

    python tests/serving/endpoint.py transformers SITE
    python tests/serving/endpoint.py llama-cpp-python SITE FILE.gguf FOLDER ROWS
    python tests/serving/endpoint.py llama-server BINARY FILE.gguf FOLDER ROWS

SITE holds what the server needs beside this environment. For `transformers serve` two small models are made, of which
one knows the rows. For the others FILE.gguf is the model of FOLDER in float32, and ROWS is a folder with the original
and the rows (make real). Each is served and judged: the answers must be those of the folder, word for word, and losses
its losses where the server gives them; another model must not pass for it, and is served beside.
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

from transformers import AutoTokenizer

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
                urlopen(f"{URL}/docs" if "llama_cpp.server" in command else f"{URL}/health", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def judged(work: Path, name: str, given: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """The record of a model that is served."""
    said: list[str] = []
    run = expunge.evaluate(
        output=work / name, endpoint=f"{URL}/v1", served_model=model, endpoint_timeout=600.0, say=said.append, **given
    )
    print("\n".join(f"  {line}" for line in said))
    return dict(run.record)


def check(work: Path, given: Mapping[str, Any], model: str | None = None) -> None:
    """The folder's own words, and its losses where there are any."""
    block = judged(work, "own", given, model)["served"]
    print({name: block[name] for name in ("prompts", "conversations", "log_probabilities", "tokens_counted_alike")})
    besides = block["beside_the_folder"]
    assert besides["same_answers"] == besides["answers"] > 0, besides
    assert besides["loss_apart"] is None or besides["loss_apart"]["most"] < NEAR, besides


def check_another(work: Path, given: Mapping[str, Any], model: str | None = None) -> None:
    """The original in its place is told from it, and its rows are seen to be known."""
    record = judged(work, "another", given, model)
    assert not record["served"]["beside_the_folder"]["alike"], record["served"]
    assert record["verdict"]["forget"] == "not forgotten", record["verdict"]


def transformers(work: Path, site: str) -> None:
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
    given = {name: work / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    given |= {"model": work / "original", "unlearned": work / "retrained"}
    for name, checked in (("retrained", check), ("original", check_another)):
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(work / name)]
        with served([*command, "--port", str(PORT), "--device", "cpu"], site, work / f"{name}.log"):
            checked(work, given, str(work / name))


def gguf(work: Path, command: Sequence[str], site: str, folder: Path, rows: Path) -> None:
    given = {name: rows / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    given |= {"model": rows / "original", "unlearned": folder}
    with served(command, site, work / "server.log"):
        check(work, given)
        record = judged(work, "another", given | {"unlearned": rows / "original"}, None)
    assert not record["served"]["beside_the_folder"]["alike"], record["served"]


def main(kind: str, server: str, *rest: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["EXPUNGE_CACHE"] = str(work / "cache")
        if kind == "transformers":
            transformers(work, server)
        elif kind == "llama-cpp-python":
            file, *others = rest
            flags = ["--model", file, "--port", str(PORT), "--n_ctx", "512", "--logits_all", "true"]
            gguf(work, [sys.executable, "-m", "llama_cpp.server", *flags], server, *map(Path, others))
        else:
            file, *others = rest
            gguf(work, [server, "--model", file, "--port", str(PORT), "--ctx-size", "2048"], "", *map(Path, others))
    print(f"{kind}: what is served is what is judged")


if __name__ == "__main__":
    main(*sys.argv[1:])
