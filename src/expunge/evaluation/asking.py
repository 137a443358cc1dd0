"""Evidence of a model that a server answers for: the same as of a folder, as far as the server gives it.

Rows are asked for by the tokens that training had (`model.served`), conversations through the route that is made for
them, where the server has one. Losses are of the same targets as those of a folder. What cannot be had is left out,
with its reason in `Asking.notes`; then no word rests on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NoReturn

import numpy as np

from expunge.attack import Attack, Level, Reading, Subject
from expunge.benchmark import Generating
from expunge.config import commands
from expunge.data.rows import Row
from expunge.data.splits import shape
from expunge.data.tokens import Prompt, Window, turns_to_ask
from expunge.errors import ExpungeError, InputError
from expunge.evaluation import attacked, evidence
from expunge.evaluation.attacked import Readings
from expunge.intake.sets import Checked
from expunge.model import load
from expunge.model.endpoint import Endpoint, checked_url, key_of
from expunge.model.served import MOST_LISTED, Prompted, Sample, Served, met
from expunge.problem import Problem, Split
from expunge.reporting.record import Answered, Apart, Beside
from expunge.runs import launcher
from expunge.runs.checkpoint import Checkpoints
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.intervals import Floats
from expunge.scoring.matching import given_back
from expunge.scoring.seen import Seen

Call = Callable[[], str]
SAME_LOSS = 0.05  # nats per token, of a row: rounding to 16 bits stays below it
FEW_ANSWERS = 0.05  # of a set
NOTES = "served-notes"  # checkpoints of an interrupted run


@dataclass(frozen=True, slots=True)
class Asking:
    """A served model and the problem of the original without its weights: tokenizer, rendering, rows.

    `notes`: what turned out while rows were asked, each once, by what it is of.
    """

    served: Served
    problem: Problem
    kept: Checkpoints
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, served: Served, original: Problem, kept: Checkpoints) -> "Asking":
        """What an interrupted run has asked is in `kept`."""
        return cls(served, replace(original, model=None, splits={}), kept, dict(kept.load(NOTES) or {}))

    def record(self, judged: Mapping[str, Split], silent: Sequence[str], generating: Generating) -> Evidence:
        """As `evidence.record`, set by set, of which an interrupted run has those that were asked for whole."""
        found = {}
        for name, split in judged.items():
            own = self.kept.load(f"served-{name}")
            if own is None:
                own = self._set(split, None if name in silent else generating)
                self.kept.save(f"served-{name}", own)
                self.kept.save(NOTES, self.notes)
            found[name] = own
        return Evidence(found)

    def answered(self, besides: Beside | None) -> Answered:
        """Of the record: who was asked, how, and what could not be had."""
        served = self.served
        return Answered(
            url=served.endpoint.url,
            model=served.model,
            offers=served.offers[:MOST_LISTED],
            prompts=served.takes,
            tokens_counted_alike=served.confirmed,
            conversations=served.no_chat or "/chat/completions, by the server's own template",
            log_probabilities=served.no_losses or "given",
            notes=tuple(self.notes.values()),
            beside_the_folder=besides,
        )

    def limits(self, besides: Beside | None) -> list[str]:
        """What follows from it for the claims of the record."""
        found = ["The unlearned model was judged as a server answers for it, not by its weights."]
        found += [f"{note[0].upper()}{note[1:]}." for note in self.notes.values()]
        if self.served.no_losses:
            found.append(f"No losses of the unlearned model: {self.served.no_losses}. So no row can be ranked.")
        if self.served.confirmed is None:
            found.append("The server does not say how many tokens it reads, so nothing shows that they were the rows'.")
        if besides and not besides.alike:
            found.append(f"What is served is not what was delivered: {told(besides)}.")
        return found

    def attack(self, judged: Mapping[str, Split], level: Level, alone: bool = True) -> Readings:
        """What the attacks of a level show that only ask; those on weights are not there. `alone`: see
        `attacked.looked_at`."""
        subject = Subject(
            self.problem,
            attacked.sampled(judged),
            lambda problem, splits: {name: self._look(split) for name, split in splits.items()},
            self.row_losses,
            partial(evidence.prompts_of, self.problem),
            partial(self.answers, own=False),
            lambda rows, prompts, seed, top_p: self.answers(rows, prompts, sample=Sample(seed, top_p)),
            _no_weights,
            _no_weights,
        )
        chosen = attacked.attacks(level, weights=False) if subject.judged else {}
        given = {name: attacked.looked_at(subject.splits, one, alone) for name, one in chosen.items()}
        return {name: _readings(one, replace(subject, splits=given[name])) for name, one in chosen.items()}

    def answers(
        self, rows: Sequence[Row], prompts: Mapping[int, Prompt], own: bool = True, sample: Sample | None = None
    ) -> dict[int, str]:
        """What the server says after prompts, by the index of their row; `own`: they are the rows' own prompts."""
        calls = [self._call(rows[index], prompt, own, sample) for index, prompt in prompts.items()]
        return dict(zip(prompts, self.served.endpoint.each(calls, "asking the server"), strict=True))

    def row_losses(self, split: Split) -> Floats:
        """Mean loss [rows] of each row's targets, in nats; nan where the server does not give them."""
        losses = self._losses(split)
        return np.full(len(split), np.nan) if losses is None else np.array([row.mean() for row in losses])

    def _set(self, split: Split, generating: Generating | None) -> SetEvidence:
        prompts = evidence.prompts_of(self.problem, split.rows, generating) if generating else {}
        said, losses = self.answers(split.rows, prompts), self._losses(split)
        targets = np.zeros(len(split))
        for window in split.windows:
            targets[window.row] += window.targets
        places = range(len(split))
        return SetEvidence(
            kinds=tuple(row.kind for row in split.rows),
            tasks=tuple(row.task for row in split.rows),
            loss=np.full(len(split), np.nan) if losses is None else np.array([row.mean() for row in losses]),
            targets=targets,
            token_loss=np.empty(0) if losses is None else np.concatenate(losses),
            references=tuple(prompts[index].reference if index in prompts else None for index in places),
            generations=tuple(said.get(index) for index in places),
            shapes=np.array([shape(row) for row in split.rows]),
            no_losses="" if losses is not None else self.notes.get(split.name) or self.served.no_losses,
        )

    def _look(self, split: Split) -> Seen:
        found = self._set(split, evidence.OWN)
        return Seen(found.kinds, found.loss, given_back(found))

    def _losses(self, split: Split) -> list[Floats] | None:
        """Losses of all targets, row by row; None where the server does not give those of each."""
        if self.served.no_losses:
            return None
        prompts = [self.served.prompt(window.ids) for window in split.windows]
        inexact = [window for window, prompt in zip(split.windows, prompts, strict=True) if not prompt.exact]
        if inexact:
            place = split.rows[inexact[0].row].name
            self.notes.setdefault(
                split.name,
                f"losses of {split.name} rows were not taken: the server takes text, and no text stands for exactly "
                f"the tokens of {len(inexact)} windows (the first of {place}); with a longer --context rows are not "
                "cut into windows",
            )
            return None
        calls = [partial(self._window, window, prompt) for window, prompt in zip(split.windows, prompts, strict=True)]
        found: list[list[Floats]] = [[] for _ in split.rows]
        for window, losses in zip(split.windows, self.served.endpoint.each(calls, "scoring rows"), strict=True):
            if losses is None:
                place = split.rows[window.row].name
                self.notes.setdefault(
                    split.name,
                    f"losses of {split.name} rows were not taken: the server gives none of some tokens of {place}",
                )
                return None
            found[window.row].append(losses)
        return [np.concatenate(parts) for parts in found]

    def _window(self, window: Window, prompt: Prompted) -> Floats | None:
        """Losses of a window's targets; None where one is missing."""
        scored = self.served.score(prompt)
        values = (
            [] if scored is None else [v for v, counts in zip(scored.values, window.counted, strict=True) if counts]
        )
        return None if not values or None in values else -np.array(values, dtype=np.float64)

    def _call(self, row: Row, prompt: Prompt, own: bool, sample: Sample | None) -> Call:
        turns = turns_to_ask(row, self.problem.rendering) if own and not self.served.no_chat else None
        if turns is not None:
            return partial(self._chat, turns, prompt, sample)
        if self.served.takes == "nothing":
            raise CannotAsk
        return partial(self._complete, row, prompt, sample)

    def _complete(self, row: Row, prompt: Prompt, sample: Sample | None) -> str:
        asked = self.served.prompt(prompt.ids)
        answer = self.served.complete(asked, prompt.room, sample)
        if not asked.exact:
            self.notes["prompts"] = (
                "some prompts went to the server as a text that is cut into other tokens than the training's"
            )
        elif answer.read is not None and answer.read != len(asked.ids):
            raise InputError(
                f"{row.place}: the server read {answer.read} of {len(asked.ids)} tokens: it cuts prompts, or puts them "
                "into a template. Give a smaller --context, or start it with a longer one and without a template."
            )
        return answer.text

    def _chat(self, turns: Sequence[Mapping[str, object]], prompt: Prompt, sample: Sample | None) -> str:
        answer = self.served.chat(turns, prompt.room, sample)
        if answer.read is not None and answer.read != len(prompt.ids):
            self.notes["conversations"] = (
                "the server renders conversations into other tokens than the original's chat template does (a system "
                "prompt or a template of its own); its answers are to what it renders"
            )
        return answer.text


def meet(config: commands.Evaluate, checked: Checked, say: Callable[[str], None]) -> Served:
    """The server's model, met before any weights are loaded and before any row is sent. Raises `InputError`."""
    assert config.endpoint and config.model
    if launcher.processes() > 1:
        raise InputError("--endpoint: one process asks a server. Start expunge without a launcher.")
    if config.mmlu != "no" or config.benchmark != commands.Evaluate().benchmark:
        raise InputError(
            "--endpoint: --mmlu and the official scores of --benchmark need more than a server gives. Leave them out, "
            "or judge the folder that is served (--unlearned)."
        )
    url = checked_url(config.endpoint, config.endpoint_in_clear)
    endpoint = Endpoint(url, key_of(config.endpoint_key_file), config.endpoint_timeout, config.endpoint_requests)
    rows = [row for part in checked.parts.values() for row in part]
    tokenizer = load.tokenizer_of(checked.model)
    talks = [bool(row.messages) or (config.chat_template and row.kind == "answer") for row in rows]
    may_talk = bool(tokenizer.chat_template) and config.join == "auto" and any(row.kind == "answer" for row in rows)
    found = met(endpoint, config.served_model, tokenizer, any(talks) or may_talk, not all(talks))
    say(f"the text of the rows is sent to {url} (model {found.model}); what its operator logs, we do not know")
    say(f"the server takes {found.takes}; log-probabilities: {found.no_losses or 'given'}")
    return found


def askable(served: Served, split: Split) -> Split | None:
    """The rows of a split that the server can be asked for exactly; None where none can. For samples of the original,
    which are as good as others: a text of its own tokens is often cut into other ones."""
    exact = [served.prompt(window.ids).exact for window in split.windows]
    not_all = {window.row for window, one in zip(split.windows, exact, strict=True) if not one}
    kept = [place for place in range(len(split)) if place not in not_all]
    return split.of(kept, split.name) if kept else None


def beside(delivered: Evidence, served: Evidence) -> Beside:
    """How far what is served is from the folder that was delivered, on the same rows: answers that are the same, and
    losses (of rows, in nats per token).

    `alike`: all losses are near, and of each set few answers differ: rounding decides near ties otherwise.
    """
    pairs = [(rows, served.sets[name]) for name, rows in delivered.sets.items()]
    taken = [np.abs(a.loss - b.loss) for a, b in pairs if not b.no_losses]
    apart = np.concatenate(taken) if taken else None
    losses = None if apart is None else Apart(float(apart.mean()), float(apart.max()))
    counts = []
    for a, b in pairs:
        said = [(mine, other) for mine, other in zip(a.generations, b.generations, strict=True) if mine is not None]
        counts.append((len(said), sum(mine.strip() != (other or "").strip() for mine, other in said)))
    spare = 0 if losses is None else 1
    few = all(differ <= max(spare, int(FEW_ANSWERS * count)) for count, differ in counts)
    answers, differ = sum(count for count, _ in counts), sum(differ for _, differ in counts)
    alike = few and (losses is None or losses.most <= SAME_LOSS)
    return Beside(answers, answers - differ, losses, alike)


class CannotAsk(ExpungeError):
    """The server has no route for this prompt."""


def _readings(attack: Attack, subject: Subject) -> list[Reading]:
    """Nothing of an attack whose prompts the server has no route for."""
    try:
        return list(attack.run(subject))
    except CannotAsk:
        return []


def told(besides: Beside) -> str:
    """The same in words."""
    apart = besides.loss_apart
    losses = f"differ by {apart.mean:.3f} nats per token, {apart.most:.3f} at most" if apart else "are not known"
    answers = f"{besides.same_answers} of {besides.answers} answers are those of the folder, word for word"
    return f"{answers}; losses of the rows {losses}"


def _no_weights(*arguments: object) -> NoReturn:
    raise AssertionError("an attack that needs weights is not run on a served model")
