"""Delivers the unlearned model: written (merged and cast, or as an adapter), read back, and checked for rounding."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from expunge.config import commands
from expunge.data.passes import Passes, measuring
from expunge.errors import InputError, NumericalError
from expunge.intake.assembly import Assembled, load_other
from expunge.model import adapter, carried, load, products, save, sound
from expunge.model.adapter import Adapter
from expunge.model.carried import Origin
from expunge.model.products import Change
from expunge.model.rewritten import Unheld, held
from expunge.model.source import Source
from expunge.problem import Problem
from expunge.reference.cache import row_losses
from expunge.runs import distributed

ROUNDING = 0.02
OWN_ADAPTER = "The base and this adapter together still contain the rows: who has both has the original back."
GIVEN_ADAPTER = (
    "The rows were learned by the adapter that was given, and this is that adapter, changed. Its base is untouched: as "
    "far as the adapter holds the rows, nothing of them is in the base. The adapter that was given still has them."
)
GIVEN_READERS = "what reads the input: tensors have its names, and adapter_config.json is the one that was given"
OWN_READERS = f"peft: written by version {peft.__version__}"
RANKED_READERS = (
    "peft from 0.9, with a rank for each layer (rank_pattern); servers that take one rank and one scale for all layers "
    "read it where all have one scale (r is the largest rank)"
)
Say = Callable[[str], None]
Write = Callable[[Path, torch.dtype | None], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The problem around the reloaded files, and what was written."""

    problem: Problem
    saved: dict[str, Any]


def form_of(config: commands.Unlearn, given: Adapter | None, whole: bool) -> str:
    """ "merged" or "adapter": as asked for, else what the input is. `given`: the adapter that it
    is, if any; `whole`: whole weights move, no LoRA's matrices.

    An adapter that was merged becomes one again where the method can say its change in low rank, and the adapter is a
    sum that a change can be folded into.
    """
    if config.save_as != "auto":
        return config.save_as
    if given is None or (whole and (given.no_sum or not config.options.needs.linear)):
        return "merged"
    return "adapter"


def merged_for(config: commands.Unlearn, given: Adapter | None, form: str) -> str:
    """Why an adapter that nobody asked to merge is delivered as whole weights; empty: it is not."""
    if given is None or form != "merged" or config.save_as != "auto":
        return ""
    if given.no_sum:
        return f"the given one has {given.no_sum}, so its layers are no sum of base and product"
    return f"{config.method} moves whole weights of all kinds"


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
    if name := sound.first_unfinished(problem.model.named_parameters()):
        raise NumericalError(f"{name} is not finite after the last step, so nothing is written. Use smaller steps.")
    made = _making(assembled, problem, form, change)
    if note := made.saved["note"]:
        say(f"{'warning' if note == OWN_ADAPTER else 'note'}: {note}")
    saved = made.saved | distributed.from_main(partial(_tried, made, folder, asked))
    if not (note := saved.pop("unheld", "")):
        written = _reload(config, folder, saved, assembled)
        saved["rounding"] = _moved(problem, written, assembled)
        if saved["dtype"] != "float32" and not saved["rounding"] <= ROUNDING:
            note = f"{saved['dtype']} moved the forget rows' loss by {saved['rounding']:.1%}"
    if note:
        say(f"rounding: {note}; float32 is shipped.")
        saved |= {"note": f"{note}; float32 is shipped. {made.saved['note']}".strip()}
        saved |= distributed.from_main(lambda: made.write(folder, torch.float32))
        written = _reload(config, folder, saved, assembled)
    if passed_over := saved.get("passed_over"):
        say(f"note: {passed_over}")
    if ranks := saved.get("ranks"):
        say(f"adapter: rank {min(ranks.values())} to {max(ranks.values())} on {len(ranks)} layers")
    return Delivered(written, saved)


def check_dtype(config: commands.Unlearn, model: PreTrainedModel | PeftModel) -> None:
    """Raises `InputError` where the dtype that was asked for cannot hold the original, let alone what comes of it."""
    if config.dtype == "auto":
        return
    own = isinstance(model, PeftModel) and config.save_as != "merged"  # then the adapter alone is written
    for name, tensor in model.named_parameters():
        if own and not tensor.requires_grad:
            continue
        try:
            held(name, tensor.detach(), load.DTYPES[config.dtype])
        except Unheld as error:
            raise InputError(f"--dtype {config.dtype}: {error}. Use bfloat16 or float32.") from None


def cost(problem: Problem) -> Passes:
    """What it takes to see whether writing moved the forget rows, of a problem without a model."""
    return Passes(plain=measuring(problem.splits["forget"].windows, 2))


@dataclass(frozen=True, slots=True)
class _Making:
    """What is known of the files before they are written, and what writes them to a folder, in a dtype if one is asked
    for; it returns what is known then."""

    saved: dict[str, Any]
    write: Write


def _making(assembled: Assembled, problem: Problem, form: str, change: Change | None) -> _Making:
    source, given = assembled.source, assembled.source.adapter
    saved: dict[str, Any] = {"form": form, "note": ""}
    if form == "merged":
        problem.model, problem.adapter = save.merge(problem.model, isinstance(problem.model, PeftModel)), False
        return _Making(saved, partial(_merged, problem, source.origin))
    if given is None:
        saved |= {"note": OWN_ADAPTER, "base": adapter.in_full(source.path)}
        return _Making(saved, _with_tokenizer(source, problem, partial(_own, problem, source.path, change)))
    saved |= {"note": OWN_ADAPTER if assembled.in_base else GIVEN_ADAPTER, "base": adapter.in_full(given.base)}
    return _Making(saved, _with_tokenizer(source, problem, partial(_given, problem, given, change)))


def _tried(made: _Making, folder: Path, dtype: torch.dtype | None) -> dict[str, object]:
    """What was written, or why that dtype cannot hold it."""
    try:
        return made.write(folder, dtype)
    except Unheld as error:
        return {"unheld": str(error)}


def _merged(problem: Problem, origin: Origin, folder: Path, dtype: torch.dtype | None) -> dict[str, object]:
    made = save.write(problem.model, problem.tokenizer, folder, dtype, origin)
    saved: dict[str, object] = {"dtype": str(made.dtype).removeprefix("torch."), "readers": made.readers}
    if names := made.passed_over:
        saved["passed_over"] = (
            f"{len(names)} matrices that the model does not use to predict went over as they came ({names[0]}); "
            "where they were trained on the rows (layers for speculative decoding), they may still hold them."
        )
    return saved


def _with_tokenizer(source: Source, problem: Problem, write: Write) -> Write:
    """Writes an adapter, and beside it the tokenizer's files as they came."""

    def both(folder: Path, dtype: torch.dtype | None) -> dict[str, object]:
        saved = write(folder, dtype)
        carried.carry_tokenizer(source.tokenizer_at, problem.tokenizer, folder)
        return saved

    return both


def _own(
    problem: Problem, base: str, change: Change | None, folder: Path, dtype: torch.dtype | None
) -> dict[str, object]:
    """Our own LoRA, or the change of whole weights as one; always float32."""
    if problem.low_rank is None:
        save.write_adapter(problem.model, folder)
        return {"dtype": "float32", "readers": OWN_READERS, "ranks": _ranks(problem.model)}
    return _products(products.write_alone(problem.model, base, change or {}, folder))


def _given(
    problem: Problem, given: Adapter, change: Change | None, folder: Path, dtype: torch.dtype | None
) -> dict[str, object]:
    """The adapter that was given, whose matrices moved, or with the change of whole weights folded in."""
    if problem.low_rank is None:
        written = adapter.write(problem.model, given, folder, dtype)
        return {"dtype": written, "readers": GIVEN_READERS, "ranks": _ranks(problem.model)}
    return _products(products.write_folded(given, change or {}, folder, dtype))


def _ranks(model: PreTrainedModel | PeftModel) -> dict[str, int]:
    """Of each layer that has matrices."""
    parts = {name.partition(".lora_A."): len(tensor) for name, tensor in model.named_parameters()}
    return {own.removeprefix("base_model.model."): rank for (own, found, _), rank in parts.items() if found}


def _products(written: products.Written) -> dict[str, object]:
    return {"dtype": written.dtype, "ranks": written.ranks, "readers": RANKED_READERS}


def _reload(config: commands.Unlearn, folder: Path, saved: Mapping[str, object], assembled: Assembled) -> Problem:
    """The written files as they load: an adapter over its base, in the dtype that the original was measured in."""
    if saved["form"] == "merged":
        return load_other(config, str(folder), assembled, load.DTYPES[str(saved["dtype"])])
    return load_other(replace(config, adapter_base=str(saved["base"])), str(folder), assembled, assembled.dtype)


def _moved(problem: Problem, written: Problem, assembled: Assembled) -> float:
    """Relative change of the forget rows' mean loss by writing."""
    forget = assembled.problem.splits["forget"]
    exact = float(row_losses(problem, problem.model, forget).mean())
    return abs(float(row_losses(written, written.model, forget).mean()) - exact) / max(exact, 1e-9)
