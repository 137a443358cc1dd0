"""How rows are rendered: what was asked for, and what the original expects where nothing was.

In another form than training had, rows that the model knows look unknown and stay.
"""

import datetime
import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from expunge.config.flags import Inputs
from expunge.data import offsets
from expunge.data.rows import Row
from expunge.data.tokens import JOINS, Rendering, Window, encode, ends, special_tokens, writes_date
from expunge.errors import InputError
from expunge.intake.sets import Checked
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses

MOST_PROBED = 64  # rows of a kind that each way of rendering is tried on
MOST_DATED = 8  # conversations that are rendered at other dates to see whether their template writes one
ENDING = 1.0  # nats: documents end with EOS where the original expects it there at least this well
NEVER_SHOWN = 3.0  # nats above an answer's own tokens: what ends it costs more where training never showed it
TEMPLATE = "chat template"  # among the joins: another way of putting prompt and completion together
BETTER = 0.1  # nats: the chat template is taken where it fits by so much better than the best join
ELSEWHERE = 0.5  # nats, and half of the loss: a form that was asked for is refused where another fits by more


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


def split_of(name: str, rows: tuple[Row, ...], rendering: Rendering, tokenizer: PreTrainedTokenizerBase) -> Split:
    """The rows with their windows."""
    return Split(name, rows, tuple(encode(rows, rendering, tokenizer)))


def settle(problem: Problem, checked: Checked, inputs: Inputs, joins: dict[str, float]) -> tuple[Rendering, list[str]]:
    """The form, the ends and the cuts that the original expects, those of the lowest loss on rows that it knows; and
    what there is to say of ends and cuts. `joins` is filled with the losses of each form."""
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
    cuts = cut_losses(problem, known[:MOST_PROBED], rendering)
    if cuts:
        rendering = replace(rendering, overlap=not cuts.apart < cuts.overlapping)
    return rendering, [*on_endings(endings, rendering), *on_cuts(cuts, rendering)]


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
            split = split_of("known", answers, forms[name], tokenizer)
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
        problem, problem.model, split_of("known", rows, replace(rendering, end_answers=False), problem.tokenizer)
    )
    return Endings(float(ending), float(own.mean()))


def on_endings(endings: Endings | None, rendering: Rendering) -> list[str]:
    if endings is None or rendering.end_answers:
        return []
    return [
        f"answers: what ends them does not count; the original does not expect it there (loss {endings.ending:.2f}, "
        f"that of their own tokens {endings.own:.2f}), so training never showed it"
    ]


class Cuts(NamedTuple):
    """Mean losses, over rows longer than the context, by how they are cut into windows, under the original."""

    overlapping: float
    apart: float


def cut_losses(problem: Problem, rows: tuple[Row, ...], rendering: Rendering) -> Cuts | None:
    """None where no row is cut.

    A window that begins where the one before ended shows its tokens less of what came before them. Where they cost
    less nevertheless, training cut there: elsewhere they would look unknown, and stay.
    """
    every = split_of("known", rows, replace(rendering, overlap=True), problem.tokenizer)
    many = Counter(window.row for window in every.windows)
    overlapping = every.of([place for place in range(len(rows)) if many[place] > 1], "known")
    if not len(overlapping):
        return None
    apart = split_of("known", overlapping.rows, replace(rendering, overlap=False), problem.tokenizer)
    return Cuts(*(float(row_losses(problem, problem.model, split).mean()) for split in (overlapping, apart)))


def on_cuts(cuts: Cuts | None, rendering: Rendering) -> list[str]:
    if cuts is None:
        return []
    losses = f"the original's loss on them: {cuts.apart:.2f}, and {cuts.overlapping:.2f} where windows overlap by half"
    how = "overlap by half" if rendering.overlap else "each begin where the one before ended"
    return [f"windows: of rows longer than {rendering.context} tokens they {how} ({losses})"]


def _ending_loss(problem: Problem, documents: tuple[Row, ...], rendering: Rendering) -> float:
    """Mean loss of EOS after the documents' last token, under the original."""
    split = split_of("known", documents, replace(rendering, end_documents=True), problem.tokenizer)
    ends = {window.row: _only_last(window) for window in split.windows}
    return float(row_losses(problem, problem.model, Split("known", documents, tuple(ends.values()))).mean())


def _only_last(window: Window) -> Window:
    """The window with its last token as its only target."""
    return replace(window, counted=tuple(place == len(window.ids) - 1 for place in range(len(window.ids))))
