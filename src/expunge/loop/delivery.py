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
from expunge.model import adapter, load, products, save
from expunge.model.products import Change
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


def form_of(config: commands.Unlearn, whole: bool) -> str:
    """ "merged" or "adapter": as asked for, else what the input is. `whole`: whole weights move, no LoRA's matrices.

    An adapter that was merged becomes one again where the method can say its change in low rank, and the adapter is a
    sum that a change can be folded into.
    """
    assert config.model is not None
    given = load.adapter_of(config.model, trust(config))
    if config.save != "auto":
        return config.save
    if given is None or (whole and (given.no_sum or not config.options.needs.linear)):
        return "merged"
    return "adapter"


def deliver(
    config: commands.Unlearn,
    problem: Problem,
    folder: Path,
    assembled: Assembled,
    say: Say,
    form: str = "merged",
    change: Change | None = None,
) -> Delivered:
    """Writes the model to `folder` in a form and reloads it. Ships float32 where rounding moved the forget rows by over
    2 %. `change`: of linear layers, as products, where the problem asked for low rank.
    """
    asked = None if config.dtype == "auto" else load.DTYPES[config.dtype]
    made = _making(config, problem, form, change)
    if note := made.saved["note"]:
        say(f"{'warning' if note == OWN_ADAPTER else 'note'}: {note}")
    saved = made.saved | distributed.from_main(lambda: made.write(folder, asked))
    written = _reload(config, folder, saved, assembled)
    saved["rounding"] = _moved(problem, written, assembled)
    if saved["dtype"] != "float32" and saved["rounding"] > ROUNDING:
        note = f"{saved['dtype']} moved the forget rows' loss by {saved['rounding']:.1%}; float32 is shipped."
        say(f"rounding: {note}")
        saved |= {"note": f"{note} {saved['note']}".strip()}
        saved |= distributed.from_main(lambda: made.write(folder, torch.float32))
        written = _reload(config, folder, saved, assembled)
    if ranks := saved.get("ranks"):
        say(f"adapter: rank {min(ranks.values())} to {max(ranks.values())} on {len(ranks)} layers")
    return Delivered(written, saved)


def cost(problem: Problem) -> Passes:
    """What it takes to see whether writing moved the forget rows, of a problem without a model."""
    return Passes(plain=measuring(problem.splits["forget"].windows, 2))


@dataclass(frozen=True, slots=True)
class _Making:
    """What is known of the files before they are written, and what writes them to a folder, in a dtype if one is asked
    for; it returns what is known then."""

    saved: dict[str, Any]
    write: Callable[[Path, torch.dtype | None], dict[str, Any]]


def _making(config: commands.Unlearn, problem: Problem, form: str, change: Change | None) -> _Making:
    assert config.model is not None
    given, model = load.adapter_of(config.model, trust(config)), config.model
    saved: dict[str, Any] = {"form": form, "note": ""}
    if form == "merged":
        problem.model, problem.adapter = save.merge(problem.model, isinstance(problem.model, PeftModel)), False
        usual = load.stored_dtype(model, trust(config))
        return _Making(saved, lambda folder, dtype: _merged(problem, folder, dtype or usual))
    if given is None:
        saved |= {"note": OWN_ADAPTER, "base": adapter.in_full(model)}
        return _Making(saved, lambda folder, dtype: _own(problem, model, change, folder))
    saved |= {"note": GIVEN_ADAPTER, "base": adapter.in_full(given.base)}
    return _Making(saved, lambda folder, dtype: _given(problem, given, change, folder, dtype))


def _merged(problem: Problem, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    save.write(problem.model, problem.tokenizer, folder, dtype)
    return {"dtype": str(dtype).removeprefix("torch.")}


def _own(problem: Problem, base: str, change: Change | None, folder: Path) -> dict[str, Any]:
    """Our own LoRA, or the change of whole weights as one."""
    if problem.low_rank is None:
        save.write_adapter(problem.model, problem.tokenizer, folder)
        return {"dtype": "float32"}
    return _products(products.write_alone(problem.model, base, change or {}, folder), problem, folder)


def _given(
    problem: Problem, given: adapter.Adapter, change: Change | None, folder: Path, dtype: torch.dtype | None
) -> dict[str, Any]:
    """The adapter that was given, whose matrices moved, or with the change of whole weights folded in."""
    if problem.low_rank is None:
        written = adapter.write(problem.model, given, folder, dtype)
        problem.tokenizer.save_pretrained(folder)
        return {"dtype": written}
    return _products(products.write_folded(given, change or {}, folder, dtype), problem, folder)


def _products(written: products.Written, problem: Problem, folder: Path) -> dict[str, Any]:
    problem.tokenizer.save_pretrained(folder)
    return {"dtype": written.dtype, "ranks": written.ranks}


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
