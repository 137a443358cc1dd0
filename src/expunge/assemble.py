"""From a configuration to checked rows, and from those to a problem: everything before the first step.

`check` reads and checks every file that was named and looks at the model folders, so that wrong input is answered
before any model is loaded and before anything is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from expunge import registry
from expunge.benchmark import Benchmark
from expunge.config import EARLIER, Inputs, data_path, earlier_paths
from expunge.data.portions import Portions
from expunge.data.rows import MakeRow, Row, RowSet, check_disjoint, read, without
from expunge.data.splits import halve, recombine, set_guard_apart
from expunge.data.tokens import JOINS, Rendering, Window, encode
from expunge.distributed import Runtime
from expunge.errors import InputError
from expunge.model import load, quantised
from expunge.model.select import check_subspace, free_memory
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses

MOST_PROBED = 64
FEWEST_PAIRS = 4
SHORTEST_ECHO = 6
ENDING = 1.0  # nats: documents end with EOS where the original expects it there at least this well


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows by role after all checks, and the roles they fall into."""

    sets: Mapping[str, RowSet]
    parts: Mapping[str, tuple[Row, ...]]
    comparison: str | None

    @property
    def forget(self) -> tuple[Row, ...]:
        return self.sets["forget"].rows


def trust(inputs: Inputs) -> load.Trust:
    """What the user allowed by flag."""
    return load.Trust(
        pickle=inputs.allow_pickle, remote_code=inputs.trust_remote_code, adapter_base=inputs.adapter_base
    )


def benchmark_of(inputs: Inputs) -> Benchmark:
    """The benchmark that says how rows are read, generated from and scored. Raises `InputError`."""
    benchmark: Benchmark = registry.load("benchmarks", inputs.benchmark)()
    return benchmark


def check(inputs: Inputs, method: Any = None, weights: bool = True) -> Checked:
    """Reads and checks all files of rows and model folders, and what the method (its class) needs of them.

    A plan can do without the models' `weights`.

    Raises `InputError`.
    """
    for role in ("model", "forget"):
        if not getattr(inputs, role):
            raise InputError(f"--{role} is missing. Give it as a flag or in the recipe.")
    for role in ("model", "base", "retrained"):
        if path := getattr(inputs, role):
            for one in load.twins(path) if role == "retrained" else [path]:
                load.check(one, role, trust(inputs), weights)
    assert inputs.model is not None
    given = load.adapter_of(inputs.model, trust(inputs))
    _check_kinds(inputs, load.quantisation(given.base if given else inputs.model))
    sets = read_sets(inputs)
    parts = _parts(sets)
    comparison = "holdout" if "holdout" in sets else "counterfactual" if "judging" in parts else None
    if getattr(method, "needs_retain", False) and "retain" not in parts:
        raise InputError(f"{inputs.forget}: this method needs rows to keep. Give --retain, or use another --method.")
    _check_fewest(sets, len(parts.get("retain", ())), getattr(method, "fewest_retain", 0), inputs)
    if getattr(method, "needs_targets", False) and not inputs.base and not {"unseen", "counterfactual"} & parts.keys():
        raise InputError(
            f"{sets['forget'].rows[0].file}: {len(sets['forget'])} row(s) and nothing that the model never saw, so "
            "there is no target to lead them to. Give --holdout (rows of the same kind) or --base (the model before "
            "its fine-tuning)."
        )
    return Checked(sets, parts, comparison)


def _check_fewest(sets: Mapping[str, RowSet], count: int, fewest: int, inputs: Inputs) -> None:
    """Raises `InputError` where a method divides the retain rows (the guard set apart) and there are too few."""
    if count >= fewest:
        return
    file, given = (sets["retain"].rows[0].file, len(sets["retain"])) if "retain" in sets else (inputs.forget, 0)
    apart = f" ({given - count} of {given} are set apart as guard)" if given > count else ""
    raise InputError(
        f"{file}: {count} row(s) to keep{apart}, and this method needs at least {fewest}: gradient, curvature and "
        f"acceptance see different ones. Give {'more ' if given else ''}--retain rows, or use another --method."
    )


def _check_kinds(inputs: Inputs, scheme: str | None) -> None:
    """Raises `InputError` where what is to move or to be saved does not fit what the model is: adapter or whole, and
    how its weights (an adapter's base's) are quantised."""
    assert inputs.model is not None
    given = load.adapter_of(inputs.model, trust(inputs))
    asked, saved = getattr(inputs, "subspace", None), getattr(inputs, "save", None)
    if asked:
        check_subspace(asked, given is not None)
    if asked and scheme and not given:
        raise InputError(
            f"{inputs.model}: its weights are quantised ({scheme}), so they cannot move. Give the unquantised model, "
            "or an adapter over this one."
        )
    if saved == "adapter" and not given and asked != "lora":
        raise InputError("--save adapter needs --subspace lora: full weights have no adapter.")
    if saved == "merged" and given and scheme:
        raise InputError(
            f"--save merged: the base {given.base} is quantised ({scheme}), and merging would round what the adapter "
            "holds. Leave --save out, or name the unquantised base with --adapter-base."
        )


def read_sets(inputs: Inputs) -> dict[str, RowSet]:
    """Reads and cross-checks forget, retain, holdout, train and earlier rows, those that were given."""
    sets: dict[str, RowSet] = {}
    make_row = benchmark_of(inputs).make_row
    for role in ("forget", "retain", "holdout", "train"):
        if path := data_path(inputs, role):
            sets[role] = read(path, role, make_row)
    earlier = read_earlier(earlier_paths(inputs), make_row, sets.get("forget"))
    sets |= {EARLIER: earlier} if len(earlier) else {}
    for role in ("retain", "holdout"):
        for gone in ("forget", EARLIER):
            if role in sets and gone in sets:
                check_disjoint(sets[gone], sets[role], role)
    if "retain" in sets and "holdout" in sets:
        check_disjoint(sets["retain"], sets["holdout"], "holdout")
    if "train" in sets and "forget" in sets and not without(sets["train"], sets["forget"]):
        raise InputError(
            f"{sets['forget'].rows[0].file}: the forget rows are all there is in {sets['train'].rows[0].file}, so "
            "nothing would be left to keep or to train a twin on. Give the rows to remove only."
        )
    if "train" in sets and "holdout" in sets:
        check_disjoint(sets["holdout"], sets["train"], "train")
    return sets


def read_earlier(paths: Sequence[str], make_row: MakeRow | None, forget: RowSet | None) -> RowSet:
    """The distinct rows of earlier requests that are not to be forgotten again by this one. Raises `InputError`."""
    files = [read(path, EARLIER, make_row) for path in paths]
    distinct: dict[tuple[str, ...], Row] = {}
    for row in (row for file in files for row in file.rows):
        distinct.setdefault(row.content, row)
    again = {row.content for row in forget.rows} if forget else set()
    return RowSet(tuple(row for row in distinct.values() if row.content not in again))


def _parts(sets: Mapping[str, RowSet]) -> dict[str, tuple[Row, ...]]:
    parts = {"forget": sets["forget"].rows}
    if "retain" in sets:
        retain = set_guard_apart(sets["retain"].rows)
        parts["retain"], parts["guard"] = retain.seen, retain.unseen
    if "holdout" in sets:
        halves = halve(sets["holdout"].rows)
        parts["unseen"], parts["judging"] = halves.seen, halves.unseen
    else:
        pairs = recombine(sets["forget"].rows, parts.get("retain", ()))
        if len(pairs) >= FEWEST_PAIRS:
            halves = halve(pairs)
            parts["counterfactual"], parts["judging"] = halves.seen, halves.unseen
    if "train" in sets:
        given = {row.content for name in ("forget", "retain", EARLIER) if name in sets for row in sets[name].rows}
        parts["collateral"] = tuple(row for row in sets["train"].rows if row.content not in given)
    if EARLIER in sets:
        parts[EARLIER] = sets[EARLIER].rows
    return {name: rows for name, rows in parts.items() if rows}


def echoed(checked: Checked) -> list[str]:
    """Names of forget rows whose answers (any of six characters or more) stand in a retain row, which keeps them."""
    kept = [f"{row.prompt}\n{row.completion}".casefold() for row in checked.parts.get("retain", ())]
    names = [
        row.name
        for row in checked.forget
        for answer in _answers(row)
        if len(answer) >= SHORTEST_ECHO and any(answer in text for text in kept)
    ]
    return list(dict.fromkeys(names))


def _answers(row: Row) -> list[str]:
    """What is answered in a row: its completion, every turn of the assistant, nothing of a document."""
    turns = row.messages or ((("assistant", row.completion),) if row.kind == "answer" else ())
    return [text.strip().strip(".").casefold() for role, text in turns if role == "assistant"]


@dataclass(slots=True)
class Assembled:
    """A problem with its model loaded, the splits that only the evaluation sees, how the rows are rendered, and the
    dtype that the model was loaded in."""

    problem: Problem
    judged: dict[str, Split]
    joins: dict[str, float]
    dtype: torch.dtype = torch.float32


def assemble(inputs: Inputs, checked: Checked) -> Assembled:
    """Loads tokenizer and model, settles the rendering, encodes all rows. Raises `InputError`."""
    runtime = Runtime(inputs.device)
    assert inputs.model is not None
    tokenizer = load.load_tokenizer(inputs.model, trust(inputs))
    if inputs.chat_template and not tokenizer.chat_template:
        raise InputError(f"{inputs.model}: its tokenizer has no chat template. Drop --chat-template.")
    config = load.load_config(inputs.model, trust(inputs))
    _check_kinds(inputs, quantised.scheme(config))  # of hub names this was not known before
    rendering = Rendering(
        join="space" if inputs.join == "auto" else inputs.join,
        chat_template=inputs.chat_template,
        loss_on=inputs.loss_on,
        context=load.context_of(config, inputs.context),
    )
    encode(checked.forget, rendering, tokenizer)  # rows without a token to predict are refused before weights load
    conversations = [row for rows in checked.parts.values() for row in rows if row.messages]
    encode(conversations, rendering, tokenizer)  # and those that the chat template refuses, or without one
    dtype = _working_dtype(inputs, config, runtime)
    model = load.load_model(inputs.model, dtype, runtime.device, trust(inputs))
    _check_vocabulary(inputs.model, model, tokenizer)
    problem = Problem(model, tokenizer, runtime, rendering, {}, inputs.seed, portions=_portions(inputs))
    joins: dict[str, float] = {}
    rendering = _settle(problem, checked.forget, inputs, joins)
    splits = {name: _split(name, rows, rendering, tokenizer) for name, rows in checked.parts.items()}
    seen = ("forget", "retain", "guard", "unseen", "counterfactual")
    problem = replace(problem, rendering=rendering, splits={name: splits[name] for name in seen if name in splits})
    judged = {name: split for name, split in splits.items() if name not in ("unseen", "counterfactual")}
    return Assembled(problem, judged, joins, dtype)


def _portions(inputs: Inputs) -> Portions:
    """No limit until memory sets one, or the one that was given."""
    return Portions() if inputs.batch_tokens == "auto" else Portions(tokens=inputs.batch_tokens, adapts=False)


def load_other(inputs: Inputs, path: str, assembled: Assembled, dtype: torch.dtype) -> Problem:
    """The problem around another model (base, unlearned, retrained). Raises `InputError` for a foreign vocabulary."""
    problem = assembled.problem
    model = load.load_model(path, dtype, problem.runtime.device, trust(inputs))
    if model.config.vocab_size < len(problem.tokenizer):
        raise InputError(f"{path}: its vocabulary is smaller than the tokenizer of {inputs.model}; another family?")
    return replace(problem, model=model, adapter=False, movable={})


def _check_vocabulary(path: str, model: Any, tokenizer: Any) -> None:
    if model.config.vocab_size < len(tokenizer):
        raise InputError(
            f"{path}: its tokenizer has {len(tokenizer)} tokens and its embeddings {model.config.vocab_size} rows. "
            "Give the tokenizer it was trained with; an adapter whose fine-tune added tokens must hold the embeddings."
        )


def count_parameters(config: Any, trust_remote_code: bool = False) -> int:
    """Number of parameters from a configuration alone; no weights are made."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())


def token_counts(checked: Checked, rendering: Rendering, tokenizer: Any) -> dict[str, dict[str, int]]:
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


def _split(name: str, rows: tuple[Row, ...], rendering: Rendering, tokenizer: Any) -> Split:
    return Split(name, rows, tuple(encode(rows, rendering, tokenizer)))


def _working_dtype(inputs: Inputs, config: Any, runtime: Runtime) -> torch.dtype:
    """Float32 where it takes at most half of the free memory or full weights are to move, else the stored dtype."""
    assert inputs.model is not None
    given = load.adapter_of(inputs.model, trust(inputs))
    if given and given.trains_whole_modules and not quantised.scheme(config):
        return torch.float32  # whole modules move in float32, and pass it on to the layers around them
    if getattr(inputs, "subspace", "auto") not in ("auto", "lora", "adapter"):
        return torch.float32
    need = 4 * count_parameters(config, inputs.trust_remote_code)
    if need <= 0.5 * free_memory(runtime.device):
        return torch.float32
    return load.stored_dtype(inputs.model, trust(inputs))


def _settle(problem: Problem, forget: tuple[Row, ...], inputs: Inputs, joins: dict[str, float]) -> Rendering:
    """The join and the end of documents that the original expects: those of the lowest loss on the forget rows."""
    answers = tuple(row for row in forget if row.kind == "answer" and not row.messages)[:MOST_PROBED]
    documents = tuple(row for row in forget if row.kind == "document")[:MOST_PROBED]
    rendering = problem.rendering
    if answers and inputs.join == "auto" and not inputs.chat_template:
        for join in JOINS:
            split = _split("forget", answers, replace(rendering, join=join), problem.tokenizer)
            joins[join] = float(row_losses(problem, problem.model, split).mean())
        rendering = replace(rendering, join=min(JOINS, key=lambda join: joins[join]))
    if documents and problem.tokenizer.eos_token_id is not None:
        rendering = replace(rendering, end_documents=_ending_loss(problem, documents, rendering) <= ENDING)
    return rendering


def _ending_loss(problem: Problem, documents: tuple[Row, ...], rendering: Rendering) -> float:
    """Mean loss of EOS after the documents' last token, under the original."""
    split = _split("forget", documents, replace(rendering, end_documents=True), problem.tokenizer)
    ends = {window.row: _only_last(window) for window in split.windows}
    return float(row_losses(problem, problem.model, Split("forget", documents, tuple(ends.values()))).mean())


def _only_last(window: Window) -> Window:
    """The window with its last token as its only target."""
    return replace(window, counted=tuple(place == len(window.ids) - 1 for place in range(len(window.ids))))
