"""From checked rows to a problem: the model is loaded, the rendering settled, every row encoded."""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from expunge.config import flags
from expunge.config.commands import Unlearning
from expunge.config.flags import Inputs
from expunge.config.lora import is_lora
from expunge.data import offsets
from expunge.data.passes import Passes, measuring
from expunge.data.portions import Portions
from expunge.data.rows import Row
from expunge.data.splits import spread
from expunge.data.tokens import JOINS, Rendering, Window, encode, ends, special_tokens, writes_date
from expunge.errors import InputError
from expunge.intake.sets import Checked, benchmark_of, check_kinds
from expunge.model import generation, load, quantised
from expunge.model.select import check_targets
from expunge.model.source import Source
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses
from expunge.runs import memory
from expunge.runs.distributed import Runtime

MOST_PROBED = 64
MOST_DATED = 8  # conversations that are rendered at other dates to see whether their template writes one
TO_KEEP = ("retain", "guard", "collateral")
ENDING = 1.0  # nats: documents end with EOS where the original expects it there at least this well
NEVER_SHOWN = 3.0  # nats above an answer's own tokens: what ends it costs more where training never showed it
TEMPLATE = "chat template"  # among the joins: another way of putting prompt and completion together
BETTER = 0.1  # nats: the chat template is taken where it fits by so much better than the best join
ELSEWHERE = 0.5  # nats, and half of the loss: a form that was asked for is refused where another fits by more


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
    _check_ids(source.path, model, _split("known", checked.known, rendering, tokenizer))  # before a loss is taken
    problem = Problem(model, tokenizer, runtime, rendering, {}, inputs.seed, portions=_portions(inputs))
    joins: dict[str, float] = {}
    rendering, endings = _settle(problem, checked, inputs, joins)
    notes = (*notes_on(checked, rendering, tokenizer), *on_endings(endings, rendering))
    splits = {name: _split(name, rows, rendering, tokenizer) for name, rows in checked.parts.items()}
    for split in splits.values():
        _check_ids(source.path, model, split)
    seen = ("forget", "retain", "guard", "unseen", "counterfactual")
    problem = replace(problem, rendering=rendering, splits={name: splits[name] for name in seen if name in splits})
    judged = judged_of(splits, benchmark_of(inputs).generating.most_kept)
    return Assembled(problem, source, judged, joins, dtype, notes)


def first_rendering(inputs: Inputs, checked: Checked, tokenizer: PreTrainedTokenizerBase, context: int) -> Rendering:
    """How rows are rendered, as far as that is known without the model. Raises `InputError`."""
    assert inputs.model is not None
    offsets.check(tokenizer, inputs.model)
    rendering = Rendering(
        join="space" if inputs.join == "auto" else inputs.join,
        chat_template=inputs.chat_template,
        loss_on=inputs.loss_on,
        context=context,
    )
    return _dated(rendering, checked, inputs, tokenizer)


def _dated(rendering: Rendering, checked: Checked, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> Rendering:
    """With the date for chat templates that write one into these rows. Raises `InputError` for what is no date."""
    try:
        given = datetime.date.fromisoformat(inputs.date) if inputs.date else datetime.date.today()
    except ValueError:
        raise InputError(f"--date {inputs.date}: not a date. Write it as 2024-07-26.") from None
    rows = (row for found in checked.sets.values() for row in found.rows)
    talks = islice((row for row in rows if row.messages or rendering.chat_template), MOST_DATED)
    writes = any(writes_date(row, rendering, tokenizer) for row in talks)
    return replace(rendering, date=given.isoformat() if writes else "")


def notes_on(checked: Checked, rendering: Rendering, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What there is to say of how rows become tokens: a date that the template writes, special tokens spelled out."""
    found = []
    if rendering.date:
        found.append(
            f"date: the chat template writes the date or time into every row; {rendering.date} stands there throughout "
            "this run (--date gives that of the training)"
        )
    found += [f"{role}: {rows.told}" for role, rows in checked.sets.items() if rows.told]
    special = special_tokens(tokenizer)
    for role, rows in checked.sets.items():
        texts = ((row, special.search("\0".join(row.content))) for row in rows.rows) if special else ()
        if named := [(row, match[0]) for row, match in texts if match]:
            row, token = named[0]
            found.append(
                f"{role}: {len(named)} row(s) spell out special tokens ({row.name}: {token}); they count as those "
                "tokens, as the tokenizer reads them"
            )
    return found


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
    settling = len(JOINS) + bool(problem.tokenizer.chat_template)
    settling += 2 if any(row.kind == "answer" for row in forget.rows[:MOST_PROBED]) else 0
    return Passes(plain=measuring(probed, settling) + measuring(forget.windows, 1 if inputs.base else 0))


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


def _split(name: str, rows: tuple[Row, ...], rendering: Rendering, tokenizer: PreTrainedTokenizerBase) -> Split:
    return Split(name, rows, tuple(encode(rows, rendering, tokenizer)))


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


def _settle(
    problem: Problem, checked: Checked, inputs: Inputs, joins: dict[str, float]
) -> tuple[Rendering, "Endings | None"]:
    """The form and the ends that the original expects: those of the lowest loss on rows that it knows."""
    known, rendering = checked.known, problem.rendering
    answers = tuple(row for row in known if row.kind == "answer" and not row.messages)[:MOST_PROBED]
    documents = tuple(row for row in known if row.kind == "document")[:MOST_PROBED]
    if answers:
        rendering = _form(problem, answers, checked, inputs, joins)
    if documents and problem.tokenizer.eos_token_id is not None:
        rendering = replace(rendering, end_documents=_ending_loss(problem, documents, rendering) <= ENDING)
    endings = answers_end(problem, tuple(row for row in known if row.kind == "answer")[:MOST_PROBED], rendering)
    if endings:
        rendering = replace(rendering, end_answers=not endings.never_shown)
    return rendering, endings


def _form(
    problem: Problem, answers: tuple[Row, ...], checked: Checked, inputs: Inputs, joins: dict[str, float]
) -> Rendering:
    """The form, a join or the chat template, in which the original knows its answers best, or the one asked for.

    In another form than training had, rows that the model knows look unknown and stay. Raises `InputError` where it
    knows them far better in another than the one asked for.
    """
    rendering, tokenizer = problem.rendering, problem.tokenizer
    forms = {str(join): replace(rendering, join=join, chat_template=False) for join in JOINS}
    forms |= {TEMPLATE: replace(rendering, chat_template=True, date="")} if tokenizer.chat_template else {}
    for name in forms:
        try:
            if name == TEMPLATE:
                forms[name] = _dated(forms[name], checked, inputs, tokenizer)
            split = _split("known", answers, forms[name], tokenizer)
        except InputError:  # a template that refuses such rows, and a form that leaves nothing to predict
            continue
        joins[name] = float(row_losses(problem, problem.model, split).mean())
    asked = TEMPLATE if inputs.chat_template else inputs.join
    if asked == "auto":
        best = min((name for name in joins if name != TEMPLATE), key=lambda name: joins[name])
        return forms[TEMPLATE if joins.get(TEMPLATE, math.inf) < joins[best] - BETTER else best]
    best = min(joins, key=lambda name: joins[name])
    apart = joins[asked] - joins[best]
    if apart > max(ELSEWHERE, joins[asked] / 2) and not getattr(inputs, "force", False):
        flag = "--chat-template" if inputs.chat_template else f"--join {inputs.join}"
        anyway = ", or pass --force" if hasattr(inputs, "force") else ""
        raise InputError(
            f"{flag}: in this form the answers cost the model {joins[asked]:.2f} nats per token, and {joins[best]:.2f} "
            f"by {best}: so they would be taken for unknown, and stay. Drop {flag}, and the form that fits is "
            f"taken{anyway}."
        )
    return rendering


class Endings(NamedTuple):
    """Mean losses, over rows, of what ends an answer and of its other tokens, under the original."""

    ending: float
    own: float

    @property
    def never_shown(self) -> bool:
        return self.ending > self.own + NEVER_SHOWN


def answers_end(problem: Problem, answers: tuple[Row, ...], rendering: Rendering) -> Endings | None:
    """None where nothing ends the answers. Of rows that are cut into windows nothing is measured."""
    found = [(row, ends(row, rendering, problem.tokenizer)) for row in answers]
    short = [(row, one) for row, one in found if one and len(one.ids) <= rendering.context]
    if not short:
        return None
    rows = tuple(row for row, _ in short)
    last = tuple(replace(one, row=place) for place, (_, one) in enumerate(short))
    ending = row_losses(problem, problem.model, Split("known", rows, last)).mean()
    own = row_losses(
        problem, problem.model, _split("known", rows, replace(rendering, end_answers=False), problem.tokenizer)
    )
    return Endings(float(ending), float(own.mean()))


def on_endings(endings: Endings | None, rendering: Rendering) -> list[str]:
    if endings is None or rendering.end_answers:
        return []
    return [
        f"answers: what ends them does not count; the original does not expect it there (loss {endings.ending:.2f}, "
        f"that of their own tokens {endings.own:.2f}), so training never showed it"
    ]


def _ending_loss(problem: Problem, documents: tuple[Row, ...], rendering: Rendering) -> float:
    """Mean loss of EOS after the documents' last token, under the original."""
    split = _split("known", documents, replace(rendering, end_documents=True), problem.tokenizer)
    ends = {window.row: _only_last(window) for window in split.windows}
    return float(row_losses(problem, problem.model, Split("known", documents, tuple(ends.values()))).mean())


def _only_last(window: Window) -> Window:
    """The window with its last token as its only target."""
    return replace(window, counted=tuple(place == len(window.ids) - 1 for place in range(len(window.ids))))
