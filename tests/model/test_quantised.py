"""Quantised checkpoints: recognised from their configuration, refused with the reason where they cannot be used."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.model import quantised


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({}, None),
        ({"quantization_config": None}, None),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),  # as older versions wrote it
        ({"quantization_config": {"bits": 4}}, "an unnamed scheme"),
        (SimpleNamespace(), None),
        (SimpleNamespace(quantization_config={"quant_method": "awq"}), "awq"),
    ],
)
def test_scheme(config: Any, scheme: str | None) -> None:
    assert quantised.scheme(config) == scheme


def test_objects_are_read_like_files() -> None:
    from transformers import BitsAndBytesConfig, LlamaConfig

    config = LlamaConfig()
    assert quantised.scheme(config) is None
    config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    assert quantised.scheme(config) == "bitsandbytes"


def test_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="bitsandbytes is not installed"):
        quantised.check_library("folder", "bitsandbytes")
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: object())
    quantised.check_library("folder", "bitsandbytes")
    with pytest.raises(InputError, match="not supported"):
        quantised.check_library("folder", "an unnamed scheme")


class Model:
    """Stands for a loaded model: `answer` makes its logits, or fails as a kernel does."""

    device = torch.device("cpu")

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.answer(ids))


def test_kernels_that_do_not_run_are_reported() -> None:
    def no_kernel(ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nfor this device")

    quantised.check_runs("folder", "gptq", Model(lambda ids: ids.float()))
    with pytest.raises(InputError, match=r"gptq does not run on cpu \(no kernel image is available\)"):
        quantised.check_runs("folder", "gptq", Model(no_kernel))
    with pytest.raises(InputError, match="no finite numbers"):
        quantised.check_runs("folder", "gptq", Model(lambda ids: ids.float() / 0))
