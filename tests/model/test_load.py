"""Loading: wrong folders are answered before weights are read, and half a model is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.config.flags import Trust
from expunge.errors import InputError
from expunge.model import load
from expunge.model.source import Source

CPU = torch.device("cpu")


@pytest.fixture
def folder(saved_llama: Path, tmp_path: Path) -> Path:
    """A copy of a model folder, to break."""
    return Path(shutil.copytree(saved_llama, tmp_path / "model"))


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in list(folder.glob(name)):
            file.unlink()

    return change


def config(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(content, encoding="utf-8") and None


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no such folder for --model"),
    "no config": (without("config.json"), "no config.json"),
    "config broken": (config("{"), "line 1: the file of settings is not JSON"),
    "config a list": (config("[]"), "not a JSON object"),
    "config in latin-1": (lambda folder: (folder / "config.json").write_bytes(b'{"a": "\xff"}'), "not UTF-8"),
    "unknown type": (config('{"model_type": "lama"}'), "'lama'"),
    "no type": (config("{}"), "None"),
    "type a list": (config('{"model_type": []}'), "model type"),
    "not causal": (config('{"model_type": "clip"}'), "'clip'"),
    "no weights": (without("*.safetensors"), "no weights"),
    "pickle": (pickled, "--allow-pickle"),
    "no tokenizer": (without("token*"), "tokenizer"),
    "adapter": (adapter, "a None adapter has no LoRA matrices"),
}


def check_refused(look: Callable[[str], None], case: str, folder: Path) -> None:
    change, words = WRONG[case]
    look(str(folder))
    change(folder)
    with pytest.raises(InputError) as caught:
        look(str(folder))
    assert words in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_folders_are_refused(case: str, folder: Path) -> None:
    check_refused(lambda path: load.check(path, "model"), case, folder)


def test_refusal_check_rejects_looking_away(folder: Path) -> None:
    with pytest.raises(pytest.fail.Exception):
        check_refused(lambda path: None, "pickle", folder)


def test_what_the_user_trusts_is_let_through(folder: Path) -> None:
    pickled(folder)
    load.check(str(folder), "model", Trust(allow_pickle=True))
    config('{"model_type": "lama"}')(folder)
    load.check(str(folder), "model", Trust(allow_pickle=True, trust_remote_code=True))


def test_hub_names_are_left_to_the_loader() -> None:
    load.check("owner/name-1.5", "model")
    for path in ("name", "a/b/c", "../x", "/no/such"):
        with pytest.raises(InputError, match="no such folder"):
            load.check(path, "base")


def test_a_folder_that_looks_like_a_hub_name_is_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    without("config.json")(folder)
    with pytest.raises(InputError, match=r"no config\.json"):
        load.check(f"{folder.parent.name}/model", "model")


def test_model_and_tokenizer_load(folder: Path, make_llama: Callable[..., Any], tokenizer: Any) -> None:
    model = load.load_model(str(folder), torch.float32, CPU)
    assert not model.training
    wanted = make_llama().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    loaded = load.load_tokenizer(str(folder))
    assert loaded("Ada é")["input_ids"] == tokenizer("Ada é")["input_ids"]
    assert load.load_model(str(folder), torch.bfloat16, CPU).dtype == torch.bfloat16
    assert Source.of(str(folder)).stored_dtype == torch.float32
    assert {"model.safetensors", "config.json"} <= {file.name for file in load.weight_files(str(folder))}
    assert load.weight_files("owner/name") == []


def test_a_missing_weight_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({name: tensor for name, tensor in state.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=lost):
        load.load_model(str(folder), torch.float32, CPU)


def test_cut_weights_and_broken_tokenizers_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load.load_model(str(folder), torch.float32, CPU)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="tokenizer cannot be loaded"):
        load.load_tokenizer(str(folder))


def test_pickle_weights_are_refused_by_the_loader_too(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError):
        load.load_model(str(folder), torch.float32, CPU)
    loaded = load.load_model(str(folder), torch.float32, CPU, Trust(allow_pickle=True))
    assert torch.equal(loaded.state_dict()["model.norm.weight"], state["model.norm.weight"])


@pytest.mark.parametrize(
    ("positions", "asked", "context"),
    [(64, None, 64), (4096, None, 1024), (4096, 2048, 2048), (64, 8, 8), (64, 64, 64), (None, None, 1024)],
)
def test_context(positions: int | None, asked: int | None, context: int) -> None:
    assert load.context_of(SimpleNamespace(max_position_embeddings=positions), asked) == context
    assert load.context_of(SimpleNamespace(n_positions=positions), asked) == context


@pytest.mark.parametrize("asked", [0, -1, 7, 65])
def test_context_that_the_model_lacks_is_refused(asked: int) -> None:
    with pytest.raises(InputError, match="8 to 64"):
        load.context_of(SimpleNamespace(max_position_embeddings=64), asked)


def test_an_adapter_is_never_loaded_as_a_whole_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub name, transformers would load base and adapter and say nothing."""
    monkeypatch.setattr(load.PreTrainedModel, "_hf_peft_config_loaded", True, raising=False)
    with pytest.raises(InputError, match="this is an adapter"):
        load.load_model(str(folder), torch.float32, CPU)
