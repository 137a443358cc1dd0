"""Delivers the unlearned model: merged and cast, written, read back, and checked for what rounding did."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from expunge import config as configs
from expunge.assemble import Assembled, load_other, trust
from expunge.model import load, save
from expunge.problem import Problem
from expunge.reference.cache import row_losses

ROUNDING = 0.02
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The problem around the reloaded files, and what was written."""

    problem: Problem
    saved: dict[str, Any]


def deliver(config: configs.Unlearn, problem: Problem, folder: Path, assembled: Assembled, say: Say) -> Delivered:
    """Writes the model to `folder` and reloads it. Ships float32 where rounding moved the forget rows by over 2 %."""
    saved = _save(config, problem, folder, say)
    written = _reload(config, folder, saved, assembled)
    saved["rounding"] = _moved(problem, written, assembled)
    if saved["form"] == "merged" and saved["dtype"] != "float32" and saved["rounding"] > ROUNDING:
        saved["note"] = f"{saved['dtype']} moved the forget rows' loss by {saved['rounding']:.1%}; float32 is shipped."
        say(f"rounding: {saved['note']}")
        saved["dtype"] = "float32"
        save.write(problem.model, problem.tokenizer, folder, torch.float32)
        written = _reload(config, folder, saved, assembled)
    return Delivered(written, saved)


def _save(config: configs.Unlearn, problem: Problem, folder: Path, say: Say) -> dict[str, Any]:
    if config.save == "adapter":
        save.write_adapter(problem.model, problem.tokenizer, folder)
        note = "The base and this adapter together still contain the rows: who has both has the original back."
        say(f"warning: {note}")
        return {"form": "adapter", "dtype": "float32", "note": note}
    assert config.model is not None
    wanted = load.stored_dtype(config.model, trust(config)) if config.dtype == "auto" else load.DTYPES[config.dtype]
    problem.model, problem.adapter = save.merge(problem.model, problem.adapter), False
    save.write(problem.model, problem.tokenizer, folder, wanted)
    return {"form": "merged", "dtype": str(wanted).removeprefix("torch."), "note": ""}


def _reload(config: configs.Unlearn, folder: Path, saved: Mapping[str, Any], assembled: Assembled) -> Problem:
    if saved["form"] == "adapter":
        from peft import PeftModel

        assert config.model is not None
        base = load_other(config, config.model, assembled, torch.float32)
        return replace(base, model=PeftModel.from_pretrained(base.model, str(folder)).eval())
    return load_other(config, str(folder), assembled, load.DTYPES[saved["dtype"]])


def _moved(problem: Problem, written: Problem, assembled: Assembled) -> float:
    """Relative change of the forget rows' mean loss by writing."""
    forget = assembled.problem.splits["forget"]
    exact = float(row_losses(problem, problem.model, forget).mean())
    return abs(float(row_losses(written, written.model, forget).mean()) - exact) / max(exact, 1e-9)
