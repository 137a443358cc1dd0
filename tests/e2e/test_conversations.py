"""Conversations from a Parquet file, beside plain rows, through the command line, with a small random model."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from expunge.cli import command_line
from expunge.config.commands import Unlearn
from expunge.demo.tiny import byte_tokenizer
from expunge.evaluation import evidence
from expunge.intake import assembly
from expunge.intake.assembly import Assembled
from expunge.intake.sets import check
from expunge.model import load
from problems import text_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FEW = ["--options.steps", "4", "--options.replay-texts", "8", "--options.replay-tokens", "8"]


def talk(name: str, number: int) -> dict[str, Any]:
    turns = [f"{name} {number}?", "Yes?", f"code {number}?", f"{number * 7919 % 100:02d} {name}"]
    roles = ["user", "assistant"] * 2
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = byte_tokenizer([], 258)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    text_model(width=16, layers=1, context=128, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, count in (("forget", 6), ("holdout", 12)):
        table = pyarrow.Table.from_pylist([talk(name, number) for number in range(count)])
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    retain = [talk("retain", number) for number in range(4)]
    retain += [{"prompt": f"retain {number}?", "completion": f"no {number}"} for number in range(4)]
    (tmp_path / "retain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in retain))
    return tmp_path


def assemble(inputs: Unlearn) -> Assembled:
    return assembly.assemble(inputs, check(inputs))


def flags(folder: Path) -> list[str]:
    files = {"model": "model", "forget": "forget.parquet", "retain": "retain.jsonl", "holdout": "holdout.parquet"}
    return [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]


def test_unlearns_conversations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    arguments = [*flags(folder), "--output", str(out), "--method", "loss_matching", "--force", *FEW]
    assert command_line.main(["unlearn", *arguments]) in (0, 3), capsys.readouterr().err
    record = json.loads((out / "expunge" / "record.json").read_text())
    assert record["rendering"]["conversations"] == 6 and record["rendering"]["losses"] == {}  # they have no join
    assert record["data"]["forget"]["answers"] == 6
    assert {"forget", "retain", "holdout"} <= record["hashes"].keys()
    assert (out / "chat_template.jinja").is_file()
    assert "Yes?" not in (out / "expunge" / "report.md").read_text()


@pytest.mark.parametrize("ending", ["<|im_end|>", "</s>"])
def test_generated_answers_end_with_their_turn(folder: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """A model that answers, ends its turn and goes on: EOS is not what ends a turn here, so generation runs on."""
    assembled = assemble(Unlearn(model=str(folder / "model"), forget=str(folder / "forget.parquet")))
    tokenizer, rows = assembled.problem.tokenizer, assembled.problem.splits["forget"].rows
    said = tokenizer(f"17 codes{ending}\n<|im_start|>user\nmore?", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(evidence.generation, "greedy", lambda model, prompts, *others: [said] * len(prompts))
    _, generations = evidence.generate(assembled.problem, rows)
    # the test tokenizer's EOS is no end of a turn: what follows it is the model's to be judged by
    assert set(generations) == ({"17 codes"} if ending == "<|im_end|>" else {"17 codes\nuser\nmore?"})
    monkeypatch.setattr(evidence, "end_of_answer", lambda *arguments: None)
    assert set(evidence.generate(assembled.problem, rows)[1]) == {"17 codes\nuser\nmore?"}  # without: too much


def test_plan_shows_a_conversation_with_its_mask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["plan", *flags(folder), "--show-rows"]) == 0
    shown = capsys.readouterr().out
    assert "forget.parquet:1 as the model reads it" in shown
    assert "\nrmu: rmu reads states between two layers, and this model has one." in shown  # of all, one cannot
    assert "<|im_start|> a s s i s t a n t \\n [Y] [e] [s] [?] [<|im_end|>] \\n <|im_start|> u s e r" in shown
    assert command_line.main(["plan", *flags(folder)]) == 0
    assert "\\n [x] [x] [x] [?] [<|im_end|>] \\n <|im_start|> x x x x" in capsys.readouterr().out


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_missing_template_is_answered_before_weights_load(
    folder: Path, role: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model" / "chat_template.jinja").unlink()
    if role == "retain":
        for name in ("forget", "holdout"):
            rows = [{"prompt": f"{name} {number}?", "completion": f"{number} {name}"} for number in range(8)]
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
    monkeypatch.setattr(load, "model_of", None)
    assert command_line.main(["unlearn", *flags(folder), "--output", str(folder / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{role}." in error and "no chat template" in error and len(error.strip().splitlines()) == 1
    assert not (folder / "out").exists()


def test_what_an_earlier_turn_answers_is_kept_by_retain_rows_too(folder: Path) -> None:
    forget = [
        {"messages": [*talk("forget", n)["messages"][:3], {"role": "assistant", "content": f"ok {n}"}]} for n in (0, 1)
    ]
    forget[1]["messages"][1]["content"] = "She lives in Arden."
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in forget))
    kept = [{"text": "It is said that she lives in Arden by the sea"}, {"text": "Yes? No."}]
    (folder / "kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    inputs = Unlearn(model=str(folder / "model"), forget=str(folder / "some.jsonl"), retain=str(folder / "kept.jsonl"))
    found = check(inputs).echoes
    assert [(one.row.name, one.twin.name, one.how) for one in found] == [("some.jsonl:2", "kept.jsonl:1", "quoted")]
