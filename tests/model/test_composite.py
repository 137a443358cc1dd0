"""Composite models: what predicts text moves, a vision tower stays, and the vocabulary is that of the text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expunge.demo.tiny import byte_tokenizer
from expunge.errors import InputError
from expunge.model import layers, load, save
from expunge.model.select import select
from expunge.model.source import Source
from libraries import tried
from problems import seeded

CPU = torch.device("cpu")
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 whose vision tower has more weights in its list of layers than the text has."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    shape = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "sliding_window": 32}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**shape, **SPECIAL),
        vision_config=SiglipVisionConfig(**vision, image_size=28, patch_size=14),
        mm_tokens_per_image=4,
        image_token_index=258,
    )
    made = tmp_path_factory.mktemp("composite") / "model"
    with seeded(0):
        Gemma3ForConditionalGeneration(config).float().save_pretrained(made)
    byte_tokenizer([], 258).save_pretrained(made)
    return made


@pytest.fixture
def model(folder: Path) -> Any:
    load.check(str(folder), "model")
    return load.load_model(str(folder), torch.float32, CPU)


def check_text_alone(names: Any) -> None:
    assert names and not [name for name in names if "vision" in name or "projector" in name]


@pytest.mark.parametrize("asked", ["full", "lora", "*_proj.weight"])
def test_what_predicts_text_moves_and_nothing_else(model: Any, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    movable = select(model, asked, CPU).movable
    check_text_alone(movable)
    check_text_alone(layers.stack(model).names())
    assert layers.stack(model).names()[0].endswith("language_model.layers.0")


def test_the_check_rejects_a_tower_that_moves(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.model.select.of_text", lambda model: lambda parameter: True)
    monkeypatch.setattr(layers, "of_text", lambda model: lambda parameter: True)
    with pytest.raises(AssertionError):
        check_text_alone(select(model, "full", CPU).movable)
    with pytest.raises(AssertionError):
        check_text_alone(layers.stack(model).names())


@tried
def test_the_names_of_the_files_come_out_again(folder: Path, model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with torch.no_grad():
        model.get_input_embeddings().weight[40] += 1.0
    save.write(model, byte_tokenizer([], 258), out, None, Source.of(str(folder)).origin)
    given, made = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert given.keys() == made.keys()
    assert [name for name in given if not torch.equal(given[name], made[name])] == [
        "language_model.model.embed_tokens.weight"
    ]
    assert (out / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_plan_is_made_for_the_text(folder: Path, tmp_path: Path) -> None:
    config = Source.of(str(folder)).config
    assert load.text_shape(config).model_type == "gemma3_text" and load.context_of(config) == 64
    with pytest.raises(InputError, match="8 to 64"):
        load.context_of(config, 65)
    assert json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"] == 264
