"""From checked rows to a problem: the model is loaded, every row encoded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from expunge.config import flags
from expunge.config.commands import Unlearning
from expunge.config.flags import Inputs
from expunge.config.lora import is_lora
from expunge.data.passes import Passes, measuring
from expunge.data.portions import Portions
from expunge.data.splits import spread
from expunge.data.tokens import JOINS, Rendering, encode
from expunge.errors import InputError
from expunge.intake.rendering import MOST_PROBED, first_rendering, notes_on, settle, split_of
from expunge.intake.sets import Checked, benchmark_of, check_kinds
from expunge.model import generation, load, quantised
from expunge.model.select import check_targets
from expunge.model.source import Source
from expunge.problem import Problem, Split
from expunge.runs import memory
from expunge.runs.distributed import Runtime

TO_KEEP = ("retain", "guard", "collateral")


@dataclass(slots=True)
class Assembled:
    """A problem with its model loaded, what that is, the splits that only the evaluation sees, how the rows are
    rendered, and the dtype that the model was loaded in. `notes`: what is to be said of how rows are read; `in_base`:
    the model is an adapter whose base has learned the rows."""

    problem: Problem
    source: Source
    judged: dict[str, Split]
    joins: dict[str, float]
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()
    in_base: bool = False


def assemble(inputs: Inputs, checked: Checked) -> Assembled:
    """Loads tokenizer and model, settles the rendering, encodes all rows. Raises `InputError`."""
    runtime, source = Runtime(inputs.device), checked.model
    tokenizer = load.tokenizer_of(source)
    if inputs.chat_template and not tokenizer.chat_template:
        raise InputError(f"{source.path}: its tokenizer has no chat template. Drop --chat-template.")
    config = source.config
    check_kinds(inputs, source.adapter, quantised.scheme(config))  # of hub names this was not known before
    rendering = first_rendering(inputs, checked, tokenizer, load.context_of(config, inputs.context))
    encode(checked.known, rendering, tokenizer)  # rows without a token to predict are refused before weights load
    conversations = [row for rows in checked.parts.values() for row in rows if row.messages]
    encode(conversations, rendering, tokenizer)  # and those that the chat template refuses, or without one
    if isinstance(inputs, flags.Subspace):
        check_targets(config, inputs.subspace, inputs.trust_remote_code)
    dtype = _working_dtype(inputs, source, runtime)
    model = load.model_of(source, dtype, runtime.device)
    generation.check(source.path, model)
    _check_ids(source.path, model, split_of("known", checked.known, rendering, tokenizer))  # before a loss is taken
    problem = Problem(model, tokenizer, runtime, rendering, {}, inputs.seed, portions=_portions(inputs))
    joins: dict[str, float] = {}
    rendering, told = settle(problem, checked, inputs, joins)
    notes = (*notes_on(checked, rendering, tokenizer), *told)
    splits = {name: split_of(name, rows, rendering, tokenizer) for name, rows in checked.parts.items()}
    for split in splits.values():
        _check_ids(source.path, model, split)
    seen = ("forget", "retain", "guard", "unseen", "counterfactual")
    problem = replace(problem, rendering=rendering, splits={name: splits[name] for name in seen if name in splits})
    judged = judged_of(splits, benchmark_of(inputs).generating.most_kept)
    return Assembled(problem, source, judged, joins, dtype, notes)


def judged_of(splits: Mapping[str, Split], most_kept: int | None) -> dict[str, Split]:
    """What every model is judged on: no rows that steer, and of the sets to keep as many as the benchmark wants."""
    judged = {name: split for name, split in splits.items() if name not in ("unseen", "counterfactual")}
    for name in TO_KEEP:
        if most_kept is not None and len(judged.get(name, ())) > most_kept:
            judged[name] = judged[name].of(spread(len(judged[name]), most_kept), name)
    return judged


def cost(problem: Problem, inputs: Unlearning) -> Passes:
    """What settling the rendering takes, and measuring the rows under the base, of a problem without a model."""
    forget = problem.splits["forget"]
    probed = [window for window in forget.windows if window.row < MOST_PROBED]
    many = Counter(window.row for window in probed)
    settling = len(JOINS) + bool(problem.tokenizer.chat_template)
    settling += 2 if any(row.kind == "answer" for row in forget.rows[:MOST_PROBED]) else 0
    cut = measuring([window for window in probed if many[window.row] > 1], 1 + 0.5)  # apart they are half as many
    return Passes(plain=measuring(probed, settling) + cut + measuring(forget.windows, 1 if inputs.base else 0))


def _portions(inputs: Inputs) -> Portions:
    """No limit until memory sets one, or the one that was given."""
    return Portions() if inputs.batch_tokens == "auto" else Portions(tokens=inputs.batch_tokens, adapts=False)


def load_other(inputs: Inputs, path: str, assembled: Assembled, dtype: torch.dtype) -> Problem:
    """The problem around another model (base, unlearned, retrained). Raises `InputError` for ids that it lacks."""
    return load_from(Source.of(path, inputs), assembled, dtype)


def load_from(source: Source, assembled: Assembled, dtype: torch.dtype) -> Problem:
    """The problem around what a source holds, as of `load_other`."""
    problem = assembled.problem
    model = load.model_of(source, dtype, problem.runtime.device)
    for split in (*problem.splits.values(), *assembled.judged.values()):
        _check_ids(source.path, model, split)
    return replace(problem, model=model, adapter=False, movable={})


def _check_ids(path: str, model: PreTrainedModel, split: Split) -> None:
    """Raises `InputError` for a row with a token that has no row in the embeddings.

    A tokenizer may well be longer than the embeddings are (by a token that no row has, as for images), or have holes:
    what counts is the ids that rows use.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    for window in split.windows:
        if (most := max(window.ids)) >= rows:
            place = split.rows[window.row].place if split.rows else split.name
            raise InputError(
                f"{place}: a token has the id {most}, and the embeddings of {path} have {rows} rows. Give the "
                "tokenizer that it was trained with; an adapter whose fine-tune added tokens must hold the embeddings."
            )


def count_parameters(config: PreTrainedConfig, trust_remote_code: bool = False) -> int:
    """Number of parameters from a configuration alone; no weights are made."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())


def token_counts(
    checked: Checked, rendering: Rendering, tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, int]]:
    """Rows, documents, answers, windows, tokens and merged duplicates per part, for plans and records."""
    counts = {}
    for name, rows in checked.parts.items():
        windows = encode(rows, rendering, tokenizer)
        documents = sum(row.kind == "document" for row in rows)
        counts[name] = {
            "rows": len(rows),
            "documents": documents,
            "answers": len(rows) - documents,
            "windows": len(windows),
            "tokens": sum(len(window.ids) for window in windows),
            "duplicates": checked.sets[name].duplicates if name in checked.sets else 0,
        }
    return counts


def _working_dtype(inputs: Inputs, source: Source, runtime: Runtime) -> torch.dtype:
    """Float32 where it takes at most half of the usable memory or full weights are to move, else the stored dtype."""
    given, config = source.adapter, source.config
    if given and given.trains_whole_modules and not quantised.scheme(config):
        return torch.float32  # whole modules move in float32, and pass it on to the layers around them
    if isinstance(inputs, flags.Subspace) and not (inputs.subspace in ("auto", "adapter") or is_lora(inputs.subspace)):
        return torch.float32
    need = 4 * count_parameters(config, inputs.trust_remote_code)
    if need <= 0.5 * memory.usable(runtime.device):
        return torch.float32
    return source.stored_dtype
