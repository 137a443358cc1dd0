"""margin_newton on an adapter: merged in memory, moved in whole weights, and delivered as what was asked for."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import UNSET

import expunge
from e2e import adapters
from e2e.serving import (
    check_same_kind,
    check_seen,
    hashes,
    plain,
    quick,
    served,
    settings_of,
    weights,
)
from expunge.errors import InputError
from expunge.loop.delivery import GIVEN_ADAPTER, OWN_ADAPTER
from expunge.model import products, save
from expunge.records.run import Run

assert quick  # a fixture of that module, for this one too
FEW = {"iterations": 2, "restorations": 1}


def unlearn(model: Path, folder: Path, output: str = "out", **settings: Any) -> Run:
    usual: dict[str, Any] = {"method": "margin_newton", "options": FEW, "force": True, "join": "space"}
    usual |= {"model": str(model), "output": str(folder / output), "batch_tokens": 4096}
    return expunge.unlearn(**adapters.write_rows(folder) | usual | settings)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_an_adapter_of_higher_rank_comes_out(family: str, tmp_path: Path) -> None:
    """What plain peft serves is what the record says; nothing that was given has changed, or can be cut out again."""
    adapter, base = adapters.make(tmp_path, family, epochs=100), tmp_path / "base"
    before = hashes(base), hashes(adapter)
    run = unlearn(adapter, tmp_path)
    assert (hashes(base), hashes(adapter)) == before
    check_seen(served(base, run.output), run, "unlearned", tmp_path)
    check_seen(served(base, adapter), run, "original", tmp_path)
    with pytest.raises(AssertionError):
        check_seen(served(base, adapter), run, "unlearned", tmp_path)
    saved, subspace = run.record.save, run.record.subspace
    assert subspace.name == "full" and "merged in memory" in subspace.reason
    assert (saved.form, saved.note, saved.dtype) == ("adapter", GIVEN_ADAPTER, "float32")
    made, given = weights(run.output), weights(adapter)
    ranks = {name: tensor.shape[0] for name, tensor in made.items() if name.endswith("lora_A.weight")}
    names = [f"base_model.model.{layer}.lora_A.weight" for layer in saved.ranks]
    assert ranks == dict(zip(names, saved.ranks.values(), strict=True))
    assert given.keys() < made.keys() and max(ranks.values()) > 4
    low = run.record.method.notes["low_rank"]
    assert low["share"] >= 0.9 and low["largest"] + 4 >= max(ranks.values())
    alike = 0
    for name, tensor in given.items():
        if name.endswith("lora_A.weight"):
            rows, own = (torch.nn.functional.normalize(one, dim=1) for one in (tensor, made[name]))
            alike += float((rows @ own.T).abs().max()) >= 0.999
    assert alike == len(ranks) - low["layers"] <= 2  # a layer of which the cut left no change is as it was given
    assert settings_of(run.output)["r"] == max(ranks.values()) > settings_of(adapter)["r"]


def test_whole_weights_come_out_on_request(tmp_path: Path) -> None:
    adapter = adapters.make(tmp_path, "llama", epochs=100)
    run = unlearn(adapter, tmp_path, save_as="merged")
    assert run.record.save.form == "merged" and "low_rank" not in run.record.method.notes
    check_seen(plain(run.output), run, "unlearned", tmp_path)
    check_seen(served(tmp_path / "base", adapter), run, "original", tmp_path)


def test_its_own_matrices_move_where_asked(tmp_path: Path) -> None:
    adapter = adapters.make(tmp_path, "llama", epochs=100)
    run = unlearn(adapter, tmp_path, subspace="adapter")
    save = run.record.save
    assert run.record.subspace.name == "adapter" and save is not None and save.ranks is not UNSET
    assert set(save.ranks.values()) == {settings_of(adapter)["r"]}
    card = (run.output / "README.md").read_text(encoding="utf-8")
    assert "--max-lora-rank 8" in card and "RANK" not in card  # the least that vLLM takes and that holds 4
    check_same_kind(adapter, run.output)
    check_seen(served(tmp_path / "base", run.output), run, "unlearned", tmp_path)


def test_what_is_no_sum_comes_out_whole(tmp_path: Path) -> None:
    """A DoRA has no matrices that a change could be folded into: whole weights, or its own matrices."""
    adapter = adapters.make(tmp_path, "llama", epochs=100, use_dora=True)
    said: list[str] = []
    run = unlearn(adapter, tmp_path, say=said.append)
    assert run.record.save.form == "merged" and run.record.subspace.name == "full"
    check_seen(plain(run.output), run, "unlearned", tmp_path)
    check_seen(served(tmp_path / "base", adapter), run, "original", tmp_path)
    assert "save: a whole model, as the change cannot be an adapter again: the given one has use_dora, so" in " ".join(
        said
    )
    with pytest.raises(InputError, match=r"has use_dora.*or --subspace adapter with a method .*loss_matching"):
        unlearn(adapter, tmp_path, "refused", save_as="adapter")


def test_the_change_of_a_whole_model_as_an_adapter(tmp_path: Path) -> None:
    """Only where asked for, and with the warning that both files together have the rows."""
    adapter, base = adapters.make(tmp_path, "gpt2", epochs=100), tmp_path / "whole"
    save.merge(served(tmp_path / "base", adapter), adapter=True).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "base" / name, base)
    before = hashes(base)
    run = unlearn(base, tmp_path, save_as="adapter", subspace="full")
    assert hashes(base) == before and run.record.save.note == OWN_ADAPTER
    check_seen(served(base, run.output), run, "unlearned", tmp_path)
    check_seen(plain(base), run, "original", tmp_path)
    assert unlearn(base, tmp_path, "usual", subspace="full").record.save.form == "merged"
    with pytest.raises(InputError, match=r"--save-as adapter needs --subspace lora: this method moves whole weights"):
        unlearn(base, tmp_path, "refused", save_as="adapter", subspace="full", method="npo", options={})


def test_an_adapter_in_bfloat16_is_judged_as_written(tmp_path: Path) -> None:
    """Written in the dtype that was given, or in float32 where rounding would move the rows."""
    adapter = adapters.make(tmp_path, "llama", epochs=100)
    run = unlearn(adapter, tmp_path, dtype="bfloat16")
    kinds = {tensor.dtype for tensor in weights(run.output).values()}
    assert kinds == {getattr(torch, run.record.save.dtype)}
    check_seen(served(tmp_path / "base", run.output), run, "unlearned", tmp_path)


def test_a_forgotten_scale_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounding that a run measures is the difference between what was made and what loads."""
    adapter = adapters.make(tmp_path, "llama", epochs=100)
    assert unlearn(adapter, tmp_path).record.save.rounding < 1e-4
    monkeypatch.setattr(products, "scale_of", lambda *_: 1.0)
    assert unlearn(adapter, tmp_path, "spoilt").record.save.rounding > 3e-4


def test_the_plan_says_what_moves(tmp_path: Path) -> None:
    adapter = adapters.make(tmp_path, "llama")
    given = {"model": str(adapter), **adapters.write_rows(tmp_path)}
    lines = str(expunge.plan(**given, method="margin_newton"))
    moving = sum(t.numel() for name, t in plain(tmp_path / "base").named_parameters() if "proj" in name)
    assert "subspace: full (the model is an adapter, which is merged" in lines and f", {moving:,} would move" in lines
    lines = str(expunge.plan(**given, method="margin_newton", subspace="adapter"))
    assert "subspace: adapter (the model is an adapter, whose own" in lines
