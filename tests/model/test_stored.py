"""What is loaded is what the files say, whole: broken folders are answered at once, odd tensors by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.errors import InputError
from expunge.model import load, stored
from expunge.model.source import Source

CPU = torch.device("cpu")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456789\n"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], Any]


@pytest.fixture
def folder(saved_llama: Path, tmp_path: Path) -> Path:
    """A copy of a model folder, to break."""
    return Path(shutil.copytree(saved_llama, tmp_path / "model"))


def pointer(name: str) -> Change:
    return lambda folder: (folder / name).write_text(POINTER, encoding="utf-8")


def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """Other tensors in the one file."""
    file = SINGLE
    return lambda folder: save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def sharded(*gone: str) -> Change:
    """Two shards and an index, without the files that are named."""

    def change(folder: Path) -> None:
        state = load_file(folder / SINGLE)
        (folder / SINGLE).unlink()
        parts = {f"model-0000{n + 1}-of-00002.safetensors": list(state)[n::2] for n in range(2)}
        for file, names in parts.items():
            save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
        names = {name: file for file, own in parts.items() for name in own}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}), encoding="utf-8")
        for name in gone:
            (folder / name).unlink()

    return change


def settings(**values: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        given = json.loads(file.read_text()) | values
        file.write_text(json.dumps({key: value for key, value in given.items() if value is not None}))

    return change


def beside(name: str, inside: bool = True) -> Change:
    """A further file in the folder; or all of the folder one further down."""

    def change(folder: Path) -> None:
        if inside:
            (folder / name).write_text("{}", encoding="utf-8")
            return
        (folder / "checkpoint-500").mkdir()
        for file in [one for one in folder.iterdir() if one.is_file()]:
            file.rename(folder / "checkpoint-500" / file.name)

    return change


def of(name: str) -> Change:
    """Another tool's file or folder in the place of weights."""

    def change(folder: Path) -> None:
        (folder / SINGLE).unlink()
        (folder / name).mkdir()

    return change


def left_over(folder: Path) -> None:
    sharded()(folder)
    save_file({"a": torch.zeros(1)}, folder / SINGLE)


def odd_dtype(folder: Path) -> None:
    tensors(lambda state: state | {"model.norm.weight": state["model.norm.weight"].to(torch.float8_e4m3fn)})(folder)


BEFORE: dict[str, tuple[Change, str]] = {
    "pointer for weights": (pointer(SINGLE), "pointer of git LFS.*git lfs pull"),
    "pointer for the tokenizer": (pointer("tokenizer.json"), "tokenizer.json: a pointer of git LFS"),
    "a page in place of weights": (
        lambda folder: (folder / SINGLE).write_text("<!DOCTYPE html>" * 9),
        "no file of safe",
    ),
    "cut": (
        lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-9]),
        "cut off: .* of .* bytes",
    ),
    "no tensors": (tensors(lambda state: {}), "weights are empty"),
    "a shard lacks": (sharded("model-00002-of-00002.safetensors"), "1 of 2 files .* not there .model-00002-of"),
    "the index lacks": (sharded(INDEX), "2 parts of a model and no model.safetensors.index.json"),
    "two savings": (left_over, "both model.safetensors and .* left-over"),
    "eight bits": (odd_dtype, "model.norm.weight is stored as F8_E4M3"),
    "a reward model": (settings(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    "adapter beside whole": (beside("adapter_config.json"), "read in two ways.*remove adapter_config.json"),
    "one further down": (beside("", inside=False), "a model lies one folder further down: give .*checkpoint-500"),
    "of DeepSpeed": (of("global_step5"), "no weights .* zero_to_fp32"),
    "integers": (
        tensors(lambda state: {name: one.to(torch.int8) if "mlp" in name else one for name, one in state.items()}),
        "mlp.*.weight is stored as I8, so it is quantised",
    ),
    "another name": (lambda folder: (folder / SINGLE).rename(folder / "consolidated.safetensors"), "another name"),
}
NORM = "model.norm.weight"
AFTER: dict[str, tuple[Change, str]] = {
    "module.": (tensors(lambda state: {f"module.{name}": one for name, one in state.items()}), "'module.' too much"),
    "of peft": (
        tensors(lambda state: {f"base_model.model.{name}": one for name, one in state.items()}),
        "'base_model.model.' too much",
    ),
    "within": (
        tensors(lambda state: {name.replace("mlp.", "mlp._orig_mod."): one for name, one in state.items()}),
        "'_orig_mod.' too much",
    ),
    "a reward head": (
        tensors(lambda state: state | {"score.weight": torch.ones(1, 32)}),
        "hold score.weight, for which",
    ),
    "a value head": (tensors(lambda state: state | {"v_head.summary.bias": torch.ones(1)}), "hold v_head.summary.bias"),
    "one lacks": (tensors(lambda state: {name: one for name, one in state.items() if name != NORM}), f"lack {NORM}"),
    "another shape": (tensors(lambda state: state | {NORM: torch.ones(16)}), f"{NORM} has the shape .16,., .* .32,."),
    "not tied, one end": (settings(tie_word_embeddings=False), "lack lm_head.weight .*tie_word_embeddings"),
    "NaN": (
        tensors(lambda state: state | {NORM: torch.full((32,), float("nan"))}),
        f"{NORM} holds values .* not finite",
    ),
    "infinite": (tensors(lambda state: state | {NORM: torch.full((32,), -torch.inf)}), f"{NORM} holds values"),
}


def check_refused(look: Callable[[str], Any], change: Change, words: str, folder: Path) -> None:
    look(str(folder))
    change(folder)
    with pytest.raises(InputError, match=words) as caught:
        look(str(folder))
    assert str(folder) in str(caught.value)


def looked(path: str) -> None:
    load.check(path, "model")


def loaded(path: str) -> Any:
    load.check(path, "model")
    return load.load_model(path, torch.float32, CPU)


@pytest.mark.parametrize("case", BEFORE)
def test_broken_folders_are_refused_before_weights_are_read(case: str, folder: Path) -> None:
    check_refused(looked, *BEFORE[case], folder)


@pytest.mark.parametrize("case", AFTER)
def test_odd_tensors_are_refused_by_name(case: str, folder: Path) -> None:
    check_refused(loaded, *AFTER[case], folder)


@pytest.mark.parametrize("case", ["module.", "a reward head", "another shape", "NaN"])
def test_the_check_rejects_a_load_that_believes(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "check_loaded", lambda path, model, info: None)
    monkeypatch.setattr(load.sound, "check", lambda path, model: None)
    with pytest.raises(pytest.fail.Exception):
        check_refused(loaded, *AFTER[case], folder)


def test_whole_shards_load(folder: Path) -> None:
    wanted = loaded(str(folder)).state_dict()
    sharded()(folder)
    found = loaded(str(folder)).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())


def test_what_old_versions_saved_beside_weights_is_let_through(folder: Path) -> None:
    more = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.0.attn.masked_bias": torch.ones(1),
    }
    tensors(lambda state: state | more)(folder)
    loaded(str(folder))


def test_a_range_without_end_in_config_json(folder: Path) -> None:
    """As Mamba 2 has it; in rows and records it stays no number."""
    file = folder / "config.json"
    file.write_text(file.read_text().replace("{", '{"time_step_limit": [0.0, Infinity],', 1))
    loaded(str(folder))
    file.write_text(file.read_text().replace("{", '{"time_step_limit": 1,', 1))
    with pytest.raises(InputError, match="stands twice"):
        looked(str(folder))


@pytest.mark.parametrize("own", [True, False])
def test_a_base_out_of_reach_leads_to_the_flag(folder: Path, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the adapter has a tokenizer of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (folder / SINGLE).unlink()
    content = {"peft_type": "LORA", "base_model_name_or_path": "nobody-here/tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    save_file({"a": torch.ones(1)}, folder / "adapter_model.safetensors")
    for file in [] if own else list(folder.glob("token*")):
        file.unlink()
    look: Callable[[str], Any] = (lambda path: Source.of(path).config) if own else load.load_tokenizer
    with pytest.raises(InputError, match=r"nobody-here/tiny is the base of .*--adapter-base FOLDER"):
        look(str(folder))


@pytest.mark.parametrize("declared", [None, "float32"])
def test_the_dtype_is_that_of_the_files(folder: Path, declared: str | None) -> None:
    tensors(lambda state: {name: one.bfloat16() if one.dim() == 2 else one for name, one in state.items()})(folder)
    settings(dtype=declared, torch_dtype=None)(folder)
    assert Source.of(str(folder)).stored_dtype == torch.bfloat16
    (folder / SINGLE).unlink()  # as for a plan
    assert Source.of(str(folder)).stored_dtype == torch.float32


@pytest.mark.parametrize("alike", [True, False])
def test_ends_that_are_called_tied_and_stored_apart(folder: Path, alike: bool) -> None:
    """Alike they are one; otherwise they stay apart, and are called so."""
    ends = "model.embed_tokens.weight"
    tensors(lambda state: state | {"lm_head.weight": state[ends].clone() + (0.0 if alike else 1.0)})(folder)
    model = loaded(str(folder))
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embeddings) == alike == model.config.tie_word_embeddings
    assert torch.equal(head, embeddings + (0.0 if alike else 1.0))
