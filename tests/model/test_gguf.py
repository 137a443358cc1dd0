"""Models in one GGUF file: written here with the library's own writer, read back, and used like any other folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer

from expunge import pipeline
from expunge.config import commands
from expunge.errors import InputError
from expunge.model import gguf, load
from gguf_files import TEXTS, model_of, written
from libraries import reading


def loaded(folder: Path) -> Any:
    return load.load_model(str(folder), torch.float32, torch.device("cpu"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@reading
def test_a_transformers_that_reads_them_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(transformers, "__version__", "5.4.0")
    with pytest.raises(InputError, match=r'transformers 5\.4\.0 reads .* pip install "transformers>=5\.23"'):
        gguf.check(tmp_path / "one.gguf", "model")
    monkeypatch.setattr(transformers, "__version__", "5.23.0")
    gguf.check(tmp_path / "one.gguf", "model")


@reading
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_what_the_file_holds_is_what_is_used(kind: str, tmp_path: Path, cache: Path) -> None:
    model, tokenizer = model_of()
    file = written(tmp_path / "one.gguf", model, tokenizer, kind)
    said: list[str] = []
    folder = gguf.folder_of(file, said.append)
    assert kind in said[0] and str(file) in said[0]
    found = loaded(folder)
    if kind != "F32":
        shape = library.GGMLQuantizationType[kind]
        with torch.no_grad():
            for tensor in model.parameters():
                if tensor.dim() == 2:  # rounded in rows, so that the order of rows does not matter
                    whole = library.quants.dequantize(library.quants.quantize(tensor.numpy(), shape), shape)
                    assert not np.allclose(whole, tensor.numpy(), atol=1e-7)
                    tensor.copy_(torch.from_numpy(whole))
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    ids = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-5)
    read = AutoTokenizer.from_pretrained(folder)
    assert [read.decode(read(text, add_special_tokens=False).input_ids) for text in TEXTS] == TEXTS
    assert "quantization_config" not in (folder / "config.json").read_text()
    before = len(said)
    assert gguf.folder_of(file, said.append) == folder and len(said) == before + 1  # from the cache


@reading
def test_another_file_of_the_same_name_is_read_anew(tmp_path: Path, cache: Path) -> None:
    model, tokenizer = model_of()
    first = gguf.folder_of(written(tmp_path / "one.gguf", model, tokenizer))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    assert gguf.folder_of(written(tmp_path / "one.gguf", model, tokenizer)) != first


def test_a_folder_with_one_file_will_do_and_one_with_two_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    assert gguf.file_of(str(tmp_path)) == tmp_path / "one.gguf"
    (tmp_path / "two.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"2 GGUF files\. Name one"):
        gguf.file_of(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert gguf.file_of(str(tmp_path)) is None  # a model folder that also has GGUF files is a model folder


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.gguf", None, "no such file"),
        ("text.gguf", b"hello, world", "not a GGUF file"),
        ("lfs.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("m-00001-of-00003.gguf", b"GGUF\x03\0\0\0", "Join them first"),
        pytest.param("cut.gguf", b"GGUF\x03\0\0\0\0\0", "cannot be read", marks=reading),
    ],
)
def test_what_is_no_whole_file_is_refused(
    name: str, content: bytes | None, expected: str, tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        load.check(str(file), "model")
        gguf.folder_of(file)
    assert not cache.exists() or not [one for one in cache.iterdir() if one.name.startswith("gguf")]


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.gguf").write_bytes(b"GGUF\x03\0\0\0")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"expunge\[gguf\]\""):
        gguf.check(tmp_path / "one.gguf", "model")


@reading
def test_commands_take_a_file_in_the_place_of_a_folder(tmp_path: Path, cache: Path) -> None:
    model, tokenizer = model_of(context=256)
    file = written(tmp_path / "one.gguf", model, tokenizer, "Q8_0")
    for name, count in (("forget", 2), ("retain", 6)):
        rows = [{"prompt": f"Where does {name} {number} live?", "completion": "here"} for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = commands.Plan(model=str(file), forget=str(tmp_path / "forget.jsonl"), retain=str(tmp_path / "retain.jsonl"))
    said: list[str] = []
    made = gguf.opened(given, said.append)
    assert Path(str(made.model)).is_dir() and made.forget == given.forget and given.model == str(file)
    assert gguf.opened(made, said.append) == made and len(said) == 2  # a folder stays what it is
    shown = pipeline.run_plan(replace(given, method="gradient_ascent")).lines
    assert shown[0].startswith(f"model: {made.model} (llama)") and any("gradient_ascent" in line for line in shown)
