"""Saving: all or nothing, and what was written is what loads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from expunge.errors import InputError
from expunge.model import load, save
from expunge.model.select import select
from expunge.model.source import Source
from expunge.runs import outputs

CPU = torch.device("cpu")
IDS = torch.tensor([[0, 40, 41, 42, 1]])


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_outputs_that_exist_are_refused(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    assert outputs.check_output(output) == output
    {"file": output.touch, "folder": output.mkdir, "link to nothing": lambda: output.symlink_to("nowhere")}[kind]()
    with pytest.raises(InputError, match="never overwritten"):
        outputs.check_output(output)


def test_outputs_below_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for output in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(InputError, match="is a file"):
            outputs.check_output(output)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        outputs.check_output("file/out")
    outputs.check_output("new/deep/out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # looking makes nothing


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written"):
        outputs.check_output(tmp_path / "out")


def test_atomic_folder_appears_when_all_is_there(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "er" / "out"
    with save.atomic_folder(output) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text("x", encoding="utf-8")
        assert not output.exists() and temporary.parent == output.parent
    assert (output / "inner" / "file").read_text(encoding="utf-8") == "x"
    assert list(output.parent.iterdir()) == [output]
    assert output.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("private", "mode"), [(False, 0o644), (True, 0o600)])
def test_weights_can_be_read_by_who_may_enter(private: bool, mode: int, tmp_path: Path) -> None:
    """A server may run as somebody else; safetensors makes its files for their owner alone."""
    with save.atomic_folder(tmp_path / "out", private=private) as folder:
        save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_folder_leaves_nothing_of_a_failure(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "there").mkdir()
    output = tmp_path / "there" / "deep" / "er" / "out"
    with pytest.raises(failure), save.atomic_folder(output) as temporary:
        (temporary / "file").write_text("x", encoding="utf-8")
        raise failure
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_atomic_folder_never_overwrites(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="appeared"), save.atomic_folder(output) as temporary:
        (temporary / "file").touch()
        output.mkdir()
    assert list(tmp_path.rglob("*")) == [output]


def weights(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def check_written(folder: Path, model: Any, dtype: torch.dtype) -> None:
    """What loads is the model's weights, rounded to the written dtype and nothing else."""
    assert {tensor.dtype for tensor in weights(folder).values()} == {dtype}
    loaded = load.load_model(str(folder), torch.float32, CPU).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded[name], tensor.to(dtype).float()), name


def moved(model: Any) -> Any:
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 0.1
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_written_weights_load_again(
    make_llama: Callable[..., Any], tokenizer: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = make_llama()
    declared = model.config.dtype
    save.write(model, tokenizer, tmp_path / "out", dtype)
    load.check(str(tmp_path / "out"), "model")
    check_written(tmp_path / "out", model, dtype)
    assert model.dtype == torch.float32 and model.config.dtype == declared  # the model itself stays as it was
    check_written(tmp_path / "out", make_llama(), dtype)
    with pytest.raises(AssertionError):
        check_written(tmp_path / "out", moved(make_llama()), dtype)
    assert load.load_tokenizer(str(tmp_path / "out"))("Ada")["input_ids"] == tokenizer("Ada")["input_ids"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_written_dtype_is_declared(
    make_llama: Callable[..., Any], tokenizer: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    save.write(make_llama(), tokenizer, tmp_path / "out", dtype)
    assert Source.of(str(tmp_path / "out")).stored_dtype == dtype
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == dtype


@pytest.mark.parametrize("settings", [{"temperature": 0.6}, {"do_sample": True, "top_k": 5}, {"early_stopping": True}])
def test_odd_generation_settings_do_not_stop_the_writing(
    saved_llama: Path, tokenizer: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(saved_llama, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save.write(load.load_model(str(folder), torch.float32, CPU), tokenizer, tmp_path / "out", torch.float32)
    load.check(str(tmp_path / "out"), "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["make_llama", "make_gpt2", "make_opt"])
def test_tied_embeddings_are_written_once(
    family: str, request: pytest.FixtureRequest, tokenizer: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    model = request.getfixturevalue(family)()
    save.write(model, tokenizer, tmp_path / "out", dtype)
    embeddings = [name for name, tensor in weights(tmp_path / "out").items() if tensor.shape == (258, 32)]
    assert len(embeddings) == 1
    loaded = load.load_model(str(tmp_path / "out"), torch.float32, CPU)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def check_merged(merged: Any, logits: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.allclose(merged(IDS).logits, logits, atol=1e-5)
    assert not [name for name in merged.state_dict() if "lora" in name]


@pytest.mark.parametrize("family", ["make_llama", "make_gpt2", "make_opt"])
def test_merging_keeps_what_the_adapter_learned(family: str, request: pytest.FixtureRequest) -> None:
    make = request.getfixturevalue(family)
    subspace = select(make(), "lora", CPU)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in subspace.movable.values():
            tensor += 0.1 * torch.randn_like(tensor)
        logits = subspace.model(IDS).logits
    check_merged(save.merge(subspace.model, adapter=True), logits)
    with pytest.raises(AssertionError):  # without the adapter
        check_merged(make(), logits)


def test_plain_models_are_not_merged(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    assert save.merge(model, adapter=False) is model


def test_adapters_are_written_alone(make_llama: Callable[..., Any], tmp_path: Path) -> None:
    subspace = select(make_llama(), "lora", CPU)
    with torch.no_grad():
        for tensor in subspace.movable.values():
            tensor += 0.05
        logits = subspace.model(IDS).logits
    save.write_adapter(subspace.model, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(InputError, match="no base is named"):  # this model came from no folder
        load.check(str(tmp_path / "out"), "model")
    with torch.no_grad():
        again = PeftModel.from_pretrained(make_llama(), tmp_path / "out")(IDS).logits
    assert torch.allclose(again, logits, atol=1e-6)
