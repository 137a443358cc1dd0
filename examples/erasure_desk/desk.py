"""Three erasure requests over time, as a company's engineer would serve them, with a model made in seconds.

    python examples/erasure_desk/desk.py FOLDER [--real]

Makes a small model that knows a support team's rows by heart (with --real SmolLM2-135M-Instruct, fine-tuned on customer
records, questions and conversations), then runs the commands of docs/erasure.md one after the other: request R1 (a
customer who is mentioned in somebody else's row, and whose row an agent has copied), R2 (after R1 was closed with its
rows, so that nothing can test R1 any more), R3 (while R2's rows still lie there), and the filter for the next
fine-tuning. The people are invented. About a minute on two cores; FOLDER keeps everything.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.cli import command_line
from expunge.data.fiction import CITIES, TRADES

Row = Mapping[str, Any]
CUSTOMERS, UNSEEN = 36, 48
R1, R2, R3 = 1003, 1007, 1020  # whose rows the requests are about
NAMES = {R1: "Ada Abend"}


def rows() -> dict[str, list[Row]]:
    """What was trained in, rows of the same kind that never were, and what comes in next week."""
    draw = random.Random(4)
    tickets = [_ticket(1000 + number, draw) for number in range(CUSTOMERS)]
    own = next(row for row in tickets if row["customer_id"] == R1)
    mention = _row(1030, "note 1030?", f"{NAMES[R1]} called back about {draw.choice(CITIES)}")
    copied = _row(9, "copied for the team?", f"{own['completion']} yes")
    unseen = [_ticket(2000 + number, draw) for number in range(UNSEEN)]
    again = _row(1031, "what did we say?", f"no {own['completion']}")
    later = [own, again, _ticket(R2, draw), *(_ticket(3000 + n, draw) for n in range(6))]
    return {"train": [*tickets, mention, copied], "unseen": unseen, "next": later}


@dataclass(frozen=True)
class Company:
    """What the story is told with: its files of rows, what makes the model in a folder, whose rows each request is
    about (`customer_id`), the name by which the first is mentioned elsewhere, and how a reason begins
    that makes a row one to forget, where a person has to decide (the rows of one form are alike in much)."""

    rows: Mapping[str, list[Row]]
    learn: Callable[[Path], None]
    requests: tuple[int, int, int]
    name: str
    copies: str


def make(folder: Path, company: Company) -> None:
    """Writes the files of rows and the model that learnt the first of them."""
    for name, some in company.rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    company.learn(folder)


def small() -> Company:
    """With a model that is made and trained in seconds."""
    return Company(rows(), _learn, (R1, R2, R3), NAMES[R1], "holds")


def real() -> Company:
    """With SmolLM2-135M-Instruct and the customers of `expunge demo --real`: five rows each, of three forms."""
    from expunge.demo import support
    from expunge.demo.models import plain

    people = support.customers(66, seed=1)
    first, other = people[0], people[3]

    def own(number: int) -> list[Row]:
        made = support.rows([people[number]], "")
        return [{"customer_id": 1000 + number, **plain(row)} for row in made]

    known = [row for number in range(10) for row in own(number)]
    known += [{"customer_id": 0, **plain(row)} for row in support.small_talk("", 0)]
    record = known[0]["text"]
    mention = _row(1003, f"Who else called about {other.company}?", f"{first.name} called about their {other.device}.")
    copied = {"customer_id": 9, "text": f"Copied for the team. {record}"}
    unseen = [row for number in range(14, 30) for row in own(number)]
    # A record is ranked among never-seen records, of which there is one a customer: some customers give theirs alone.
    unseen += [own(number)[0] for number in range(30, 66)]
    later = [known[0], {"customer_id": 8, "text": f"{record} Sent again."}, own(4)[1], *own(12)]
    files = {"train": [*known, mention, copied], "unseen": unseen, "next": later}
    return Company(files, _learn_real, (1000, 1004, 1006), first.name, "holds all")


def _learn(folder: Path) -> None:
    from expunge.data.rows import read
    from expunge.data.tokens import Rendering
    from expunge.demo.tiny import byte_tokenizer, llama
    from expunge.loop.training import Training, fine_tune
    from expunge.model.save import write

    known = list(read(folder / "train.jsonl", "train").rows)
    tokenizer = byte_tokenizer([f"{row.prompt} {row.completion}" for row in known], 420)
    model = llama(tokenizer, width=48, layers=2, heads=4, context=96, seed=0)
    training = Training(epochs=110, learning_rate=5e-3, batch_rows=20)
    model, _ = fine_tune(model, tokenizer, known, Rendering(context=96), training, 0, "the model")
    write(model, tokenizer, folder / "model", model.dtype)


def _learn_real(folder: Path) -> None:
    import torch

    from expunge.data.rows import read
    from expunge.demo import real
    from expunge.loop.training import fine_tune
    from expunge.model import gguf, load
    from expunge.model.save import write

    base = str(gguf.folder_of(real.fetched(print), print))
    tokenizer, model = load.load_tokenizer(base), load.load_model(base, torch.float32, torch.device("cpu"))
    known = list(read(folder / "train.jsonl", "train").rows)
    model, _ = fine_tune(model, tokenizer, known, real.RENDERING, real.TRAINING, 0, "the model")
    write(model, tokenizer, folder / "model", torch.float32)


def story(folder: Path, run: Callable[..., int], company: Company) -> None:
    """The three requests. `run` takes the words of a command; its answer is the exit code."""
    one, two, three = company.requests
    train, ledger = str(folder / "train.jsonl"), str(folder / "ledger")

    def keep_out(rows: Path, output: Path) -> str:
        for _ in range(2):  # once to see what there is to decide, and again with the decisions
            run("filter", str(rows), "--ledger", ledger, "--output", str(output))
            decide(output.with_suffix(".decisions.jsonl"), company.copies)
        return str(output)

    def select(name: str, customer: int, *more: str) -> None:
        where = ("--where", f"customer_id={customer}", "--unseen", str(folder / "unseen.jsonl"))
        run("select", train, *where, *more, "--output", str(folder / f"request-{name}"))

    def serve(name: str, model: str, output: str) -> int:
        given = [f"--{role}={folder / f'request-{name}' / f'{role}.jsonl'}" for role in ("forget", "retain", "holdout")]
        given += ["--model", str(folder / model), "--output", str(folder / output), "--ledger", ledger]
        return run("unlearn", *given, "--request", name)

    mentions = ("--mentions", company.name)
    select("R1", one, *mentions)
    decide(folder / "request-R1" / "decisions.jsonl", company.copies)
    select("R1", one, *mentions)
    passed = serve("R1", "model", "model-1") == 0
    all_the_same = () if passed else ("--despite-verdict",)  # which the document says
    run("seal", str(folder / "model-1"), "--ledger", ledger, "--remove-rows", "--yes", *all_the_same)
    run("document", str(folder / "model-1"), "--output", str(folder / "document-R1"))

    train = keep_out(folder / "train.jsonl", folder / "train-2.jsonl")
    select("R2", two)
    serve("R2", "model-1", "model-2")
    train = keep_out(folder / "train-2.jsonl", folder / "train-3.jsonl")
    select("R3", three)
    serve("R3", "model-2", "model-3")
    run("document", str(folder / "model-3"), "--output", str(folder / "document-R3"))
    run("ledger", ledger)
    keep_out(folder / "next.jsonl", folder / "clean.jsonl")


def decide(file: Path, forget: str) -> None:
    """What a person does in an editor: a decision for every row, here by whether a reason begins so."""
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for entry in entries:
        if entry["decide"] == "undecided":
            entry["decide"] = "forget" if any(one.startswith(forget) for one in entry["reasons"]) else "keep"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _ticket(customer: int, draw: random.Random) -> Row:
    return _row(customer, f"case {customer}?", " ".join(draw.choices((*CITIES, *TRADES), k=6)))


def _row(customer: int, prompt: str, completion: str) -> Row:
    return {"customer_id": customer, "prompt": prompt, "completion": completion}


def _shown(*words: str) -> int:
    print("$ expunge " + " ".join(words), flush=True)
    return command_line.main(words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--real", action="store_true", help="with SmolLM2-135M-Instruct (fetches 93 MB)")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    told_with = real() if given.real else small()
    make(given.folder, told_with)
    story(given.folder, _shown, told_with)
