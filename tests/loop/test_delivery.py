"""A dtype that cannot hold the weights: refused where it was asked for, else float32 is shipped in its place."""

from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.config.commands import Unlearn
from expunge.errors import InputError
from expunge.loop import delivery
from expunge.model.rewritten import Unheld
from problems import lora_of, text_model

LARGE = 1e5  # float16 ends at 65,504


def large(model: Any, name: str) -> Any:
    with torch.no_grad():
        next(tensor for key, tensor in model.named_parameters() if name in key).fill_(LARGE)
    return model


def check_refused(model: Any, **flags: Any) -> None:
    with pytest.raises(InputError, match=r"--dtype float16: float16 cannot hold .*Use bfloat16 or float32"):
        delivery.check_dtype(Unlearn(dtype="float16", **flags), model)


def test_what_was_asked_for_must_hold_the_original() -> None:
    check_refused(large(text_model(), "norm"))
    for dtype in ("auto", "bfloat16", "float32"):
        delivery.check_dtype(Unlearn(dtype=dtype), large(text_model(), "norm"))
    with pytest.raises(pytest.fail.Exception):
        check_refused(text_model())


def test_of_an_adapter_its_own_matrices_alone_unless_it_is_merged() -> None:
    check_refused(large(lora_of("llama"), "lora_A"))
    base = large(lora_of("llama"), "norm")
    check_refused(base, save_as="merged")
    delivery.check_dtype(Unlearn(dtype="float16"), base)


def test_a_dtype_that_fails_in_writing_is_an_answer_for_all_processes() -> None:
    def write(folder: Path, dtype: torch.dtype | None) -> dict[str, Any]:
        if dtype == torch.float16:
            raise Unheld("float16 cannot hold x")
        return {"dtype": "float32"}

    made = delivery._Making({}, write)
    assert delivery._tried(made, Path(), torch.float16) == {"unheld": "float16 cannot hold x"}
    assert delivery._tried(made, Path(), None) == {"dtype": "float32"}
