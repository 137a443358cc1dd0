"""An adapter in, an adapter out, over the same base, which stays bit for bit; plain transformers + peft serve it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from e2e import adapters
from e2e.serving import check_same_kind, check_seen, hashes, plain, quick, served, settings_of, weights
from expunge.cli import command_line
from expunge.errors import InputError
from expunge.files import hashing
from expunge.loop import trial
from expunge.loop.delivery import GIVEN_ADAPTER, OWN_ADAPTER
from expunge.methods.loss_matching import LossMatching
from expunge.problem import Problem

QUICK = {"replay_texts": 16, "replay_tokens": 12, "steps": 6, "learning_rate": 3e-3, "forget_rows": 6}
IDS = torch.tensor([[0, 40, 41, 42, 43, 1]])

assert quick  # a fixture that stands elsewhere


def unlearn(adapter: Path, folder: Path, **settings: Any) -> Any:
    usual: dict[str, Any] = {"model": str(adapter), "output": str(folder / "out")}
    usual |= {"method": "loss_matching", "options": QUICK}  # moves every matrix, and is short
    usual |= {"force": True, "join": "space", "batch_tokens": 4096}  # given, so that no batch is traced to find it
    return expunge.unlearn(**adapters.write_rows(folder) | usual | settings)


@pytest.mark.parametrize("family", adapters.FAMILIES)
def test_adapter_in_adapter_out(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, base = adapters.make(tmp_path, family), tmp_path / "base"
    before = hashes(base), hashes(adapter)
    held: list[Problem] = []

    def deliver(config: Any, problem: Problem, *others: Any) -> Any:
        held.append(problem)
        return original_deliver(config, problem, *others)

    original_deliver = trial.deliver
    monkeypatch.setattr(trial, "deliver", deliver)
    run = unlearn(adapter, tmp_path)
    assert (hashes(base), hashes(adapter)) == before
    check_same_kind(adapter, run.output)
    check_seen(served(base, run.output), run, "unlearned", tmp_path)
    check_seen(served(base, adapter), run, "original", tmp_path)
    for model, name in ((plain(base), "original"), (plain(base), "unlearned"), (served(base, adapter), "unlearned")):
        with pytest.raises(AssertionError):
            check_seen(model, run, name, tmp_path)
    (problem,) = held
    untouched = plain(base).state_dict()
    inner = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in problem.model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    assert inner.keys() == untouched.keys()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in inner.items())
    assert run.record.subspace.name == "adapter" and "own matrices" in run.record.subspace.reason
    assert run.record.subspace.parameters == sum(tensor.numel() for tensor in weights(adapter).values())
    found = run.record.hashes
    assert found["model_base"] == found["output_base"] == hashing.file_hash(sorted_files(base))
    assert found["model"] != found["output"] and found["model"] not in (found["model_base"], found["output_base"])


def sorted_files(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.json"))]


VARIANTS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "DoRA": {"use_dora": True},
    "a whole module": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "all", "family": "opt"},
    "some tokens": {"trainable_token_indices": [50, 51, 52, 53]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"], "family": "opt"},
    "no task": {"task_type": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_kinds_of_lora(variant: str, tmp_path: Path) -> None:
    settings = dict(VARIANTS[variant])
    adapter = adapters.make(tmp_path, settings.pop("family", "llama"), **settings)
    before = hashes(tmp_path / "base")
    run = unlearn(adapter, tmp_path)
    assert hashes(tmp_path / "base") == before
    if variant != "biases":  # a bias whose gradient is zero by construction (of a key projection) need not move
        check_same_kind(adapter, run.output)
    check_seen(served(tmp_path / "base", adapter), run, "original", tmp_path)
    check_seen(served(tmp_path / "base", run.output), run, "unlearned", tmp_path)


@pytest.mark.parametrize("variant", ["plain", "a whole module"])
def test_merged_on_request(variant: str, tmp_path: Path) -> None:
    """What is merged is base plus moved adapter, also where the adapter trained one of two tied ends."""
    adapter = adapters.make(tmp_path, "llama", **VARIANTS.get(variant, {}))
    kept, merged = unlearn(adapter, tmp_path), unlearn(adapter, tmp_path, output=str(tmp_path / "m"), save_as="merged")
    assert merged.record.save.form == "merged" and not (merged.output / "adapter_config.json").exists()
    with torch.no_grad():
        whole, beside = plain(merged.output)(IDS).logits, served(tmp_path / "base", kept.output)(IDS).logits
        before = served(tmp_path / "base", adapter)(IDS).logits
    assert torch.allclose(whole, beside, atol=1e-4)
    assert not torch.allclose(whole, before, atol=1e-4)
    assert "from_pretrained(OUT)" in (merged.output / "README.md").read_text()


def test_dtypes_stay_as_they_were(tmp_path: Path) -> None:
    adapter = adapters.make(tmp_path, "llama")
    halves = {name: torch.bfloat16 if "_A" in name else torch.float32 for name in weights(adapter)}
    mixed = {name: tensor.to(halves[name]) for name, tensor in weights(adapter).items()}
    save_file(mixed, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    run = unlearn(adapter, tmp_path)
    saved = run.record.save
    assert saved.rounding <= 0.02 and saved.dtype == "bfloat16 and float32"
    check_same_kind(adapter, run.output)
    asked = unlearn(adapter, tmp_path, output=str(tmp_path / "half"), dtype="bfloat16")
    assert {tensor.dtype for tensor in weights(asked.output).values()} == {torch.bfloat16}


def test_both_notes(tmp_path: Path) -> None:
    """Of an adapter that was given: the base never had the rows. Of our own LoRA: base and adapter still have them, and
    so it is where that is given in its turn."""
    adapter = adapters.make(tmp_path, "llama")
    given = unlearn(adapter, tmp_path)
    own = unlearn(tmp_path / "base", tmp_path, output=str(tmp_path / "own"), subspace="lora", save_as="adapter")
    again = unlearn(own.output, tmp_path, output=str(tmp_path / "again"))
    for run, right, wrong in (
        (given, GIVEN_ADAPTER, OWN_ADAPTER),
        (own, OWN_ADAPTER, GIVEN_ADAPTER),
        (again, OWN_ADAPTER, GIVEN_ADAPTER),
    ):
        assert run.record.save.note == right and right in run.record.limits
        for file in (run.output / "README.md", run.output / "expunge" / "report.md"):
            page = file.read_text(encoding="utf-8")
            assert right in page and wrong not in page
            assert file.name != "README.md" or "PeftModel.from_pretrained" in page
    assert "base is untouched" in GIVEN_ADAPTER and "still contain the rows" in OWN_ADAPTER
    judged = expunge.evaluate(
        **adapters.write_rows(tmp_path),
        model=str(tmp_path / "base"),
        unlearned=str(own.output),
        join="space",
        output=str(tmp_path / "judged"),
    )
    loss = [row.loss["unlearned"] for row in own.record.rows]
    assert [row.loss["unlearned"] for row in judged.record.rows] == pytest.approx(loss, rel=1e-3)


def reference_of(problem: Problem) -> dict[str, Any]:
    """All that a method takes from the original: kept distributions, targets, replay."""
    state = LossMatching(replay_texts=16, replay_tokens=12).init(problem)
    kept = {name: torch.cat(cache.log_probs) for name, cache in state.caches.items()}
    return {"targets": state.targets, "replay": [w.ids for w in state.splits["replay"].windows], "kept": kept}


def check_reference(found: dict[str, Any], wanted: dict[str, Any], part: str) -> None:
    if part == "kept":
        assert found[part].keys() == wanted[part].keys() and found[part]
        for name, values in wanted[part].items():
            assert found[part][name].shape == values.shape
            assert torch.allclose(found[part][name], values, atol=1e-4)
    elif part == "targets":
        assert torch.allclose(found[part], wanted[part], atol=1e-4)
    else:
        assert found[part] == wanted[part]


def test_the_reference_is_base_plus_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the method takes for the original is the adapter's model as served, never the bare base."""
    adapter, base = adapters.make(tmp_path, "llama", epochs=40), tmp_path / "base"
    seen: dict[str, dict[str, Any]] = {}
    apply = trial.apply

    def look(method: Any, problem: Problem, *others: Any) -> Any:
        seen["right"] = reference_of(problem)
        seen["adapter off"] = reference_of(replace(problem, adapter=True))
        seen["wanted"] = reference_of(replace(problem, model=served(base, adapter)))
        seen["base"] = reference_of(replace(problem, model=plain(base)))
        return apply(method, problem, *others)

    monkeypatch.setattr(trial, "apply", look)
    unlearn(adapter, tmp_path)
    for part in ("kept", "targets", "replay"):
        check_reference(seen["right"], seen["wanted"], part)
        check_reference(seen["adapter off"], seen["base"], part)
        with pytest.raises(AssertionError):
            check_reference(seen["adapter off"], seen["wanted"], part)


def test_dropout_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same matrices with dropout 0.5 and none come out the same; not so where dropout is on."""
    ends = {}
    for share in (0.0, 0.5):
        (folder := tmp_path / str(share)).mkdir()
        adapter = adapters.make(folder, "gpt2", lora_dropout=share)
        ends[share] = weights(unlearn(adapter, folder).output)
    assert all(torch.equal(ends[0.0][name], ends[0.5][name]) for name in ends[0.0])
    monkeypatch.setattr(PeftModel, "eval", lambda self: self.train())
    on = weights(unlearn(adapter, folder, output=str(tmp_path / "on")).output)
    assert not all(torch.equal(on[name], ends[0.5][name]) for name in on)


def test_resolved_config_replays(tmp_path: Path) -> None:
    run = unlearn(adapters.make(tmp_path, "llama"), tmp_path)
    recipe = str(run.output / "expunge" / "config.yaml")
    assert command_line.main(["unlearn", "--recipe", recipe, "--output", str(tmp_path / "again")]) in (0, 3)
    first, second = weights(run.output), weights(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_evaluate_and_retrained_take_adapters(tmp_path: Path) -> None:
    adapter = adapters.make(tmp_path, "llama", epochs=5)
    run = unlearn(adapter, tmp_path)
    again = expunge.evaluate(
        **adapters.write_rows(tmp_path),
        model=str(adapter),
        unlearned=str(run.output),
        retrained=str(adapter),
        join="space",
        output=str(tmp_path / "judged"),
    )
    for one, other in zip(again.record.rows, run.record.rows, strict=True):
        assert one.loss["unlearned"] == pytest.approx(other.loss["unlearned"], rel=1e-4)
        assert one.loss["retrained"] == pytest.approx(one.loss["original"], rel=1e-4)
    assert again.record.hashes["unlearned_base"] == again.record.hashes["model_base"]


def test_plan_counts_the_matrices(tmp_path: Path) -> None:
    adapter = adapters.make(tmp_path, "llama", modules_to_save=["lm_head"])
    lines = str(expunge.plan(model=str(adapter), **adapters.write_rows(tmp_path)))
    moving = sum(tensor.numel() for tensor in weights(adapter).values())
    assert "subspace: adapter (the model is an adapter" in lines and f", {moving:,} would move" in lines


@pytest.mark.parametrize("subspace", ["full", "adapter"])
def test_twins_of_an_adapter(subspace: str, tmp_path: Path) -> None:
    """A whole model, or an adapter of the same kind, trained from the bare base."""
    adapter = adapters.make(tmp_path, "llama", epochs=5)
    rows = adapters.write_rows(tmp_path)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(Path(rows[name]).read_text() for name in ("forget", "retain")))
    (tmp_path / "training.yaml").write_text(f"epochs: 5\nlearning_rate: 1e-2\nbatch_rows: 12\nsubspace: {subspace}\n")
    given = {"model": str(adapter), "forget": rows["forget"], "train": str(train), "join": "space"}
    given |= {"base": str(tmp_path / "base"), "train_config": str(tmp_path / "training.yaml")}
    before = hashes(tmp_path / "base")
    (twin,) = expunge.retrain(**given, output=str(tmp_path / "twin"))
    assert twin.loss == pytest.approx(twin.original_loss, rel=0.5)
    assert hashes(tmp_path / "base") == before
    if subspace == "adapter":
        check_twin(adapter, twin.output)
        with torch.no_grad():
            bare = plain(tmp_path / "base")(IDS).logits
            assert not torch.equal(served(tmp_path / "base", twin.output)(IDS).logits, bare)
    else:
        plain(twin.output)
    run = unlearn(adapter, tmp_path, retrained=str(twin.output))
    assert all(row.loss["retrained"] for row in run.record.rows)
    with pytest.raises(InputError, match="a twin starts from the model before the fine-tuning"):
        expunge.retrain(**given | {"base": str(adapter)}, output=str(tmp_path / "other"))


def check_twin(adapter: Path, twin: Path) -> None:
    old, new = weights(adapter), weights(twin)
    assert {name: tensor.shape for name, tensor in old.items()} == {name: tensor.shape for name, tensor in new.items()}
    assert settings_of(adapter) == settings_of(twin)


def relative_to_adapter(folder: Path, adapter: Path) -> dict[str, str]:
    return rename(adapter, "../base")


def relative_to_here(folder: Path, adapter: Path) -> dict[str, str]:
    return rename(adapter, "base")


def moved_away(folder: Path, adapter: Path) -> dict[str, str]:
    (folder / "base").rename(folder / "elsewhere")
    return {"adapter_base": str(folder / "elsewhere")}


def rename(adapter: Path, base: str) -> dict[str, str]:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
    return {}


@pytest.mark.parametrize("case", [relative_to_adapter, relative_to_here, moved_away])
def test_where_the_base_lies(
    case: Callable[[Path, Path], dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the base was named, what is written loads from anywhere."""
    adapter = adapters.make(tmp_path, "llama")
    settings = case(tmp_path, adapter)
    monkeypatch.chdir(tmp_path)
    run = unlearn(adapter, tmp_path, **settings)
    monkeypatch.chdir("/")
    made = json.loads((run.output / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = tmp_path / ("elsewhere" if settings else "base")
    assert Path(made).is_absolute() and Path(made).resolve() == base.resolve()
    check_seen(served(Path(made), run.output), run, "unlearned", tmp_path)


@pytest.mark.parametrize("held", [True, False])
def test_tokens_that_the_fine_tune_added(held: bool, tmp_path: Path) -> None:
    """An adapter that holds the grown embeddings is an original like any other, and so is one that does not, unless a
    row uses such a token."""
    more = {"modules_to_save": ["embed_tokens", "lm_head"]} if held else {}
    adapter = adapters.make(tmp_path, "olmo2", grown=4, **more)
    if not held:
        used = tmp_path / "used.jsonl"
        used.write_text('{"prompt": "f?", "completion": "<new0>"}\n', encoding="utf-8")
        with pytest.raises(InputError, match=r"used\.jsonl, line 1: a token has the id 258, .* 258 rows"):
            unlearn(adapter, tmp_path, forget=str(used))
    run = unlearn(adapter, tmp_path)
    check_same_kind(adapter, run.output)
    base = plain(tmp_path / "base")
    if held:
        base.resize_token_embeddings(262)
    check_seen(PeftModel.from_pretrained(base, run.output).eval(), run, "unlearned", tmp_path)


def test_weights_of_another_base_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    adapter, other = adapters.make(tmp_path, "llama"), adapters.make(tmp_path / "other", "gpt2")
    with pytest.raises(InputError, match="does not fit"):
        unlearn(adapter, tmp_path, adapter_base=str(other.parent / "base"))
    lost = dict(list(weights(adapter).items())[1:])
    save_file(lost, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="weights lack"):
        unlearn(adapter, tmp_path)
    extra = weights(other) | lost
    save_file(extra, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="weights lack"):
        unlearn(adapter, tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_under_an_adapter(bits: int, tmp_path: Path) -> None:
    """Where bitsandbytes runs: the packed weights stay as they are, the adapter moves."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    adapter, base = adapters.make(tmp_path, "llama"), tmp_path / "base"
    how = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, bnb_4bit_compute_dtype=torch.float32)
    packed = AutoModelForCausalLM.from_pretrained(base, quantization_config=how, dtype=torch.float32)
    packed.save_pretrained(tmp_path / "packed")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "packed")
    rename(adapter, str(tmp_path / "packed"))
    before = hashes(tmp_path / "packed")
    run = unlearn(adapter, tmp_path)
    assert hashes(tmp_path / "packed") == before
    check_same_kind(adapter, run.output)
    check_seen(served(tmp_path / "packed", run.output), run, "unlearned", tmp_path)
    with pytest.raises(InputError, match="is quantised"):
        unlearn(adapter, tmp_path, output=str(tmp_path / "merged"), save_as="merged")
    with pytest.raises(InputError, match="cannot move"):
        unlearn(tmp_path / "packed", tmp_path, output=str(tmp_path / "whole"))
