"""The whole path on a small world of fictional people: from files to files, through the public functions."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from e2e import little
from expunge.cli import command_line
from expunge.config import recipes
from expunge.errors import InputError
from expunge.files import hashing
from expunge.loop import delivery
from expunge.records.run import Run
from expunge.reporting.record import BatchTokens

LITTLE = {"iterations": 2, "restorations": 1}


def inputs(world: Path, *roles: str) -> dict[str, str]:
    return {"model": str(world / "original")} | {role: str(world / f"{role}.jsonl") for role in roles}


def hashes(folder: Path) -> str:
    return hashing.file_hash(sorted(file for file in folder.iterdir() if file.is_file()))


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """One run with everything that can be given; redacted."""
    folder = tmp_path_factory.mktemp("run")
    before = hashes(world / "original")
    run = expunge.unlearn(**everything(world), output=str(folder / "out"))
    assert hashes(world / "original") == before  # the input model is never written to
    return run, folder


def test_forgets_and_keeps(finished: tuple[Run, Path]) -> None:
    run, _ = finished
    scores = {(s.metric, s.set, s.model): s.value for s in run.record.scores}
    assert scores["knowledge", "forget", "original"] >= 0.9
    assert scores["knowledge", "forget", "unlearned"] <= 0.1
    assert scores["knowledge", "retain", "unlearned"] >= 0.95
    assert abs(scores["loss", "forget", "unlearned"] / scores["loss", "forget", "retrained"] - 1) < 0.25
    assert run.record.method.notes["targets"] == {"source": "holdout", "calibrated": True}
    assert run.record.rendering.join == "space" and run.record.rendering.end_documents


def test_output_loads_and_gives_the_reported_losses(finished: tuple[Run, Path], world: Path) -> None:
    run, _ = finished
    model = AutoModelForCausalLM.from_pretrained(run.output).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    row = json.loads((world / "forget.jsonl").read_text().splitlines()[1])
    start = len(tokenizer(row["prompt"])["input_ids"])
    ids = tokenizer(row["prompt"] + " " + row["completion"], return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    assert float(losses[start - 1 :].mean()) == pytest.approx(run.record.rows[1].loss["unlearned"], rel=1e-3)


def test_redacted_output_holds_no_row(finished: tuple[Run, Path], world: Path) -> None:
    run, _ = finished
    secrets = [re.search(r"[A-Z]{2}-\d{6}", line) for line in (world / "forget.jsonl").read_text().splitlines()]
    texts = [
        file.read_text(errors="ignore") for file in run.output.rglob("*") if file.suffix in (".json", ".html", ".md")
    ]
    found = [secret[0] for secret in secrets if secret and any(secret[0] in text for text in texts)]
    assert not found
    assert len([secret for secret in secrets if secret]) >= 10
    with np.load(run.output / "expunge" / "evidence" / "unlearned.npz") as arrays:
        assert all(array.dtype == np.float64 for array in arrays.values())


def everything(world: Path) -> dict[str, str]:
    """All that can be given."""
    models = {name: str(world / name) for name in ("base", "retrained")}
    return inputs(world, "forget", "retain", "holdout", "train") | models


def test_resolved_config_replays_to_the_same_weights(little_world: Path, tmp_path: Path) -> None:
    run = expunge.unlearn(**everything(little_world), output=str(tmp_path / "out"), options=LITTLE)
    recipe = run.output / "expunge" / "config.yaml"
    again = tmp_path / "again"
    assert command_line.main(["unlearn", "--recipe", str(recipe), "--output", str(again)]) in (0, 3)
    before, first, second = (
        load_file(folder / "model.safetensors") for folder in (little_world / "original", run.output, again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    moved = {name for name in first if not torch.equal(first[name], before[name])}
    assert moved == {name for name in first if name.endswith("_proj.weight")}  # of all linear layers, and nothing else


def test_report_again(finished: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = finished
    page = expunge.report(run.output, tmp_path / "pages")
    assert page.read_text() == run.report.read_text()


def test_forget_alone_on_lora_as_adapter(little_world: Path, tmp_path: Path) -> None:
    """No retain, no holdout: uncalibrated targets, and the record says what is weaker for it."""
    run = expunge.unlearn(
        **inputs(little_world, "forget"),
        output=str(tmp_path / "out"),
        subspace=expunge.Lora(r=4, alpha=8, targets=("q_proj", "down_proj")),
        batch_tokens=600,
        gradient_checkpointing=True,
        save_as="adapter",
        options=LITTLE,
    )
    tensors, settings = load_file(run.output / "adapter_model.safetensors"), run.output / "adapter_config.json"
    said = json.loads(settings.read_text(encoding="utf-8"))
    assert (said["r"], said["lora_alpha"], len(said["target_modules"])) == (4, 8.0, 4)  # two in each of two layers
    assert len(tensors) == 8 and all(min(one.shape) == 4 for one in tensors.values())
    assert run.record.subspace and run.record.subspace.name == "lora:r=4,alpha=8,targets=q_proj+down_proj"
    assert not run.record.method.notes["targets"]["calibrated"]
    assert "who has both has the original back" in run.record.save.note
    limits = " ".join(run.record.limits)
    assert run.record.batch_tokens == BatchTokens(None, 600, 0, None)
    log = (run.output / "expunge" / "log.jsonl").read_text().splitlines()
    assert {json.loads(line).get("batch_tokens") for line in log} == {600}
    assert "No retain rows" in limits and "No holdout" in limits
    forget = next(s for s in run.record.scores if (s.metric, s.set, s.model) == ("loss", "forget", "unlearned"))
    assert forget.value > 0.3


def test_base_alone_gives_targets(little_world: Path, tmp_path: Path) -> None:
    run = expunge.unlearn(
        **inputs(little_world, "forget", "retain"),
        base=str(little_world / "base"),
        output=str(tmp_path / "out"),
        options=LITTLE,
    )
    assert run.record.method.notes["targets"] == {"source": "base", "calibrated": False}
    assert "targets come from the base model" in " ".join(run.record.limits)
    assert all(row.target > 0.5 for row in run.record.rows)


@pytest.mark.parametrize(
    ("model", "most", "shipped"), [("base", None, "bfloat16"), ("original", 0.0, "float32")]
)  # a model that knows nothing is moved by far less than 2 %; any is moved by more than nothing
def test_bfloat16_output_unless_rounding_moves_the_rows(
    model: str, most: float | None, shipped: str, little_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most is not None:
        monkeypatch.setattr(delivery, "ROUNDING", most)
    run = expunge.unlearn(
        **inputs(little_world, "forget", "retain", "holdout") | {"model": str(little_world / model)},
        output=str(tmp_path / "out"),
        dtype="bfloat16",
        method="gradient_difference",
        options={"learning_rate": 1e-4, "epochs": 2},
        force=True,
    )
    saved = run.record.save
    tensors = load_file(run.output / "model.safetensors")
    assert saved.dtype == shipped and {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{shipped}"}
    assert saved.note.startswith("bfloat16 moved the forget rows' loss by") == (shipped == "float32")


def test_retrain_is_cached_and_comparable(little_world: Path, tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text(recipes.to_yaml(asdict(little.TRAINING)))
    lines: list[str] = []
    for name in ("first", "second"):
        (twin,) = expunge.retrain(
            say=lines.append,
            **inputs(little_world, "forget", "train"),
            base=str(little_world / "base"),
            train_config=str(tmp_path / "training.yaml"),
            output=str(tmp_path / name),
        )
        assert twin.comparable
    assert sum("taken from the cache" in line for line in lines) == 1
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_twin_trained_too_briefly_is_not_comparable(little_world: Path, tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text("epochs: 1\nlearning_rate: 1.0e-4\n")
    (twin,) = expunge.retrain(
        **inputs(little_world, "forget", "train"),
        base=str(little_world / "base"),
        train_config=str(tmp_path / "training.yaml"),
        output=str(tmp_path / "twin"),
    )
    assert not twin.comparable


def test_plan_hides_rows_and_shows_the_mask(world: Path) -> None:
    lines = str(expunge.plan(**inputs(world, "forget", "retain"), method="loss_matching"))
    shown = str(expunge.plan(**inputs(world, "forget", "retain"), method="loss_matching", show_rows=True))
    secret = json.loads((world / "forget.jsonl").read_text().splitlines()[0])["text"].split()[0]
    assert secret not in lines and secret not in shown.splitlines()[0]
    assert "[" in lines and "would move" in lines and "forget: 30 rows, 6 documents, 24 answers" in lines


def test_nothing_is_left_where_a_run_fails(little_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr("expunge.loop.trial.deliver", fail)
    with pytest.raises(RuntimeError):
        expunge.unlearn(
            **inputs(little_world, "forget", "retain", "holdout"),
            output=str(tmp_path / "deep" / "out"),
            method="gradient_ascent",
            options={"epochs": 1},
        )
    assert not (tmp_path / "deep").exists()


def test_wrong_option_is_named(little_world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"restoration:?.*did you mean 'restorations'"):
        expunge.unlearn(**inputs(little_world, "forget"), output=str(tmp_path / "out"), options={"restoration": 3})
