"""Delivers the unlearned model: written (merged and cast, or as an adapter), read back, and checked for rounding."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from expunge.config import commands
from expunge.data.passes import Passes, measuring
from expunge.intake.assembly import Assembled, load_other
from expunge.intake.sets import trust
from expunge.model import adapter, load, save
from expunge.problem import Problem
from expunge.reference.cache import row_losses
from expunge.runs import distributed

ROUNDING = 0.02
OWN_ADAPTER = "The base and this adapter together still contain the rows: who has both has the original back."
GIVEN_ADAPTER = (
    "The rows were learned by the adapter that was given, and this is that adapter, changed. Its base is untouched: as "
    "far as the adapter holds the rows, nothing of them is in the base. The adapter that was given still has them."
)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The problem around the reloaded files, and what was written."""

    problem: Problem
    saved: dict[str, Any]


def deliver(config: commands.Unlearn, problem: Problem, folder: Path, assembled: Assembled, say: Say) -> Delivered:
    """Writes the model to `folder` and reloads it. Ships float32 where rounding moved the forget rows by over 2 %."""
    saved = _save(config, problem, folder, say)
    written = _reload(config, folder, saved, assembled)
    saved["rounding"] = _moved(problem, written, assembled)
    if saved["dtype"] != "float32" and saved["rounding"] > ROUNDING:
        note = f"{saved['dtype']} moved the forget rows' loss by {saved['rounding']:.1%}; float32 is shipped."
        say(f"rounding: {note}")
        saved["dtype"], saved["note"] = "float32", f"{note} {saved['note']}".strip()
        _write(config, problem, folder, saved, torch.float32)
        written = _reload(config, folder, saved, assembled)
    return Delivered(written, saved)


def cost(problem: Problem) -> Passes:
    """What it takes to see whether writing moved the forget rows, of a problem without a model."""
    return Passes(plain=measuring(problem.splits["forget"].windows, 2))


def _save(config: commands.Unlearn, problem: Problem, folder: Path, say: Say) -> dict[str, Any]:
    assert config.model is not None
    given = load.adapter_of(config.model, trust(config))
    asked = None if config.dtype == "auto" else load.DTYPES[config.dtype]
    form = ("adapter" if given else "merged") if config.save == "auto" else config.save
    saved: dict[str, Any] = {"form": form, "dtype": "float32", "note": ""}
    if form == "adapter" and not given:
        distributed.from_main(lambda: save.write_adapter(problem.model, problem.tokenizer, folder))
        say(f"warning: {OWN_ADAPTER}")
        return saved | {"note": OWN_ADAPTER, "base": adapter.in_full(config.model)}
    if form == "adapter" and given:
        saved |= {"note": GIVEN_ADAPTER, "base": adapter.in_full(given.base)}
        say(f"note: {GIVEN_ADAPTER}")
    else:
        problem.model, problem.adapter = save.merge(problem.model, isinstance(problem.model, PeftModel)), False
        asked = asked or load.stored_dtype(config.model, trust(config))
    _write(config, problem, folder, saved, asked)
    return saved


def _write(
    config: commands.Unlearn, problem: Problem, folder: Path, saved: dict[str, Any], dtype: torch.dtype | None
) -> None:
    """Writes the merged model, or the adapter that was given, and notes the dtype."""
    assert config.model is not None
    given = load.adapter_of(config.model, trust(config))
    if saved["form"] == "merged":
        assert dtype is not None
        distributed.from_main(lambda: save.write(problem.model, problem.tokenizer, folder, dtype))
        saved["dtype"] = str(dtype).removeprefix("torch.")
    else:
        assert given is not None
        saved["dtype"] = distributed.from_main(lambda: _write_given(problem, given, folder, dtype))


def _write_given(problem: Problem, given: adapter.Adapter, folder: Path, dtype: torch.dtype | None) -> str:
    written: str = adapter.write(problem.model, given, folder, dtype)
    problem.tokenizer.save_pretrained(folder)
    return written


def _reload(config: commands.Unlearn, folder: Path, saved: Mapping[str, Any], assembled: Assembled) -> Problem:
    """The written files as they load: an adapter over its base, in the dtype that the original was measured in."""
    if saved["form"] == "merged":
        return load_other(config, str(folder), assembled, load.DTYPES[saved["dtype"]])
    return load_other(replace(config, adapter_base=saved["base"]), str(folder), assembled, assembled.dtype)


def _moved(problem: Problem, written: Problem, assembled: Assembled) -> float:
    """Relative change of the forget rows' mean loss by writing."""
    forget = assembled.problem.splits["forget"]
    exact = float(row_losses(problem, problem.model, forget).mean())
    return abs(float(row_losses(written, written.model, forget).mean()) - exact) / max(exact, 1e-9)
