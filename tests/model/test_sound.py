"""Causal is tested, not believed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.demo.tiny import byte_tokenizer
from expunge.errors import InputError
from expunge.model import load, sound
from problems import FAMILIES, seeded, text_model

CPU = torch.device("cpu")


def bert(folder: Path, decoder: bool) -> Path:
    from transformers import AutoModelForCausalLM, BertConfig

    shape = {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**shape, intermediate_size=64, max_position_embeddings=64, is_decoder=decoder)
    with seeded(0):
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer([], 258).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("decoder", [True, False])
def test_a_model_that_looks_ahead_is_refused(tmp_path: Path, decoder: bool) -> None:
    folder = bert(tmp_path / "model", decoder)
    if decoder:
        load.load_model(str(folder), torch.float32, CPU)
        load.load_model(str(folder), torch.bfloat16, CPU)
        return
    with pytest.raises(InputError, match=r"BertLMHeadModel \(bert\) looks ahead.*is_decoder"):
        load.load_model(str(folder), torch.float32, CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_pass(family: str) -> None:
    model = text_model(family)
    sound.check("x", model)
    sound.check("x", model.bfloat16())


def test_a_probe_with_the_same_tokens_in_another_order_would_see_less(tmp_path: Path) -> None:
    """Where attention is even, as in a fresh model, a sum over the later tokens hangs on which there are alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bert(tmp_path / "model", False)).eval()
    ids = torch.arange(10, 18)[None]
    swapped, others = (torch.cat([ids[:, :3], tail], dim=1) for tail in (ids[:, 3:].flip(1), ids[:, 3:] + 100))
    with torch.no_grad():
        one, two, three = (model(input_ids=each).logits for each in (ids, swapped, others))
    assert sound.looks_ahead(one, three, 3, sound.AHEAD * 10) and not sound.looks_ahead(one, two, 3, sound.AHEAD * 10)


def test_a_look_is_told_from_rounding() -> None:
    """Of a change of 1 at later places, 0.00005 at earlier ones is rounding, 0.0002 a look, in float32."""
    one = torch.zeros(1, 8, 4)
    other = one.clone()
    other[:, 5] = 1.0
    other[:, 1] = 5e-5
    most = sound.AHEAD
    assert not sound.looks_ahead(one, other, sound.KEPT, most)
    other[:, 1] = 2e-4
    assert sound.looks_ahead(one, other, sound.KEPT, most)
    assert not sound.looks_ahead(one, other, 1, most)  # the broken variant: places that may differ are compared


def test_a_model_that_fails_on_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = text_model()

    def forward(**inputs: Any) -> Any:
        raise ValueError("You have to specify pixel_values")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(InputError, match=r"does not run on text alone .*pixel_values"):
        sound.check("x", model)


def test_the_first_tensor_that_is_not_finite() -> None:
    good, bad = torch.ones(3), torch.tensor([0.0, float("nan"), 1.0])
    assert sound.first_unfinished(iter([("a", good), ("b", torch.ones(2, dtype=torch.int8))])) is None
    for value in (float("nan"), float("inf"), -float("inf")):
        bad[1] = value
        assert sound.first_unfinished(iter([("a", good), ("b", bad)])) == "b"
