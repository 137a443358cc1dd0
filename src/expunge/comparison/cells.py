"""Methods x seeds on one problem, cell by cell: each cell is a whole unlearning, judged from the files it wrote.

A finished cell is kept (numbers only, no text) below the cache folder, named by a hash of all that determines it:
models, rows (keyed), rendering, method and options, seed, budget, versions, and the code that makes and judges it. So a
comparison that was interrupted goes on where it stopped, and a change of code makes its cells again. A cell that
crashes is a cell with an error; it is not kept, and the next run tries it again.
"""

import hashlib
import json
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace as changed

from expunge import registry
from expunge.comparison import columns
from expunge.comparison.attacking import Attacking
from expunge.comparison.variants import Variant, fitting, variants
from expunge.config import commands, recipes
from expunge.errors import ExpungeError, InputError
from expunge.evaluation import divergence, evidence, verdict
from expunge.evaluation import official as official_scores
from expunge.files import code, hashing, plain_json
from expunge.files.typed import plain, taken
from expunge.intake import told
from expunge.intake.assembly import Assembled, assemble, load_from, load_other
from expunge.intake.sets import Checked, benchmark_of
from expunge.loop import trial
from expunge.loop.trial import add_samples
from expunge.loop.watch import Outcome
from expunge.model import load
from expunge.problem import Problem
from expunge.reporting.content import SCHEMA, Cell, Content, Verdict
from expunge.reporting.record import Proposal, checks, proposal
from expunge.runs import environment, workspace
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.growing import Growing
from expunge.runs.peak import Peak
from expunge.scoring.evidence import Evidence

Say = Callable[[str], None]
FORESEEN = (ExpungeError, RuntimeError, MemoryError, ArithmeticError, OSError)


def compare(config: commands.Compare, say: Say, checkpoints: Checkpoints, log: Growing) -> Content:
    """Makes or reads every cell; returns the comparison's content (see `evaluation.columns`), nothing written.

    Of a cell that was interrupted `checkpoints` hold what is needed to go on with it.
    """
    chosen = variants(config)
    if config.evidence != "quick" and config.generations == "answers":
        raise InputError(
            f"--evidence {config.evidence}: attacks are judged beside what the original still recites, which answers "
            "alone do not show. Use --generations short."
        )
    if not config.seeds:
        raise InputError("--seeds: give at least one.")
    twins = load.twins(config.retrained) if config.retrained else []
    chosen, checked = fitting(config, chosen, say)
    assembled = assemble(config, checked)
    for line in told.lines(checked, assembled):
        say(line)
    work = _Work(config, checked, assembled, twins, say, checkpoints, log)
    cells = [work.cell("original", None, None)]
    cells += [work.cell("retrained", place, None) for place in range(len(twins))]
    cells += [work.cell(variant.label, seed, variant) for seed in dict.fromkeys(config.seeds) for variant in chosen]
    here, runtime = environment.environment(), assembled.problem.runtime
    return Content(
        schema=SCHEMA,
        kind="comparison",
        created=here["created"],
        benchmark=config.benchmark,
        machine=f"{here['machine']}, {runtime.device}, {runtime.precision}",
        versions=here["versions"],
        config=recipes.resolved(config),
        counts={name: len(split) for name, split in assembled.judged.items()},
        columns=columns.shown(cells),
        cells=tuple(cells),
    )


@dataclass(slots=True)
class _Work:
    """The problem of a comparison, and evidence of the models that cells are judged against, recorded when needed."""

    config: commands.Compare
    checked: Checked
    assembled: Assembled
    twins: list[str]
    say: Say
    checkpoints: Checkpoints
    log: Growing
    base: Any = None
    known: dict[str, Evidence] = field(default_factory=dict)
    attacking: Attacking | None = None
    kept: dict[str, divergence.Kept] | None = None
    key: str = ""

    def __post_init__(self) -> None:
        self.key = self._key()
        add_samples(self.assembled)
        self.assembled.problem = replace(self.assembled.problem, model=None)  # each cell loads its own
        load = {"original": self._original} | ({"retrained": lambda: self._other(self.twins[0])} if self.twins else {})
        names = [row.name for row in self.checked.parts["forget"]]
        given = self.config.evidence, self.assembled.judged, load, names, self.checkpoints, self.key
        self.attacking = Attacking(*given)

    def cell(self, label: str, seed: int | None, variant: Variant | None) -> Cell:
        """One cell, from the cache or made now; with an error in place of scores where making it failed."""
        key = self._cell_key(label, seed, variant)
        file = workspace.private(workspace.cache_folder() / "cells") / f"{key}.json"
        name = label if seed is None else f"{label}, seed {seed}"
        if file.is_file():
            self.say(f"{name}: kept from an earlier run")
            return changed(_kept(file), model=label)
        self.say(f"{name}: running")
        try:
            with Peak(self.assembled.problem.runtime.device) as peak:
                made = self._judged(label, seed) if variant is None else self._unlearned(variant, int(seed or 0), key)
        except Exception as error:  # a cell that crashes, for whatever reason, is a cell with an error
            self.say(f"{name}: failed ({_in_a_line(error)})")
            return _cell(label, seed, error=_in_a_line(error))
        whole = _cell(label, seed, **made, peak_memory_bytes=peak.bytes)
        part = file.with_suffix(f".{os.getpid()}")  # two comparisons may make the same cell
        plain_json.write_json(part, plain(whole))
        part.rename(file)
        return _kept(file)

    def _cell_key(self, label: str, seed: int | None, variant: Variant | None) -> str:
        identity: list[Any] = [self.key, seed]
        if variant is None:
            identity += [label, load.identity(self.twins[seed]) if seed else ""]
        else:
            budget = self.config.tokens if variant.budgeted else None
            given = asdict(variant.options)
            own = [registry.source("methods", variant.method), *registry.sources("methods", variant.method, given)]
            made = hashing.file_hash(code.made_by_files(own))
            identity += [registry.title(variant.method), given, budget, made]
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:24]

    def _judged(self, label: str, place: int | None) -> dict[str, object]:
        """A model that is only judged: the original, or a twin."""
        clock = environment.Clock()
        with clock.stage("evaluate"):
            found = (
                self._reference(label)
                if not place
                else self._record(load_other(self.config, self.twins[place], self.assembled, torch.float32))
            )
        return self._read(found) | {"seconds": sum(clock.seconds.values())}

    def _unlearned(self, variant: Variant, seed: int, key: str) -> dict[str, object]:
        clock = environment.Clock()
        config = commands.Unlearn(**_shared(self.config), method=variant.method, options=variant.options, seed=seed)
        if self.base is None:
            self.base = trial.base_of(config, self.assembled)
        judging = self.config.generations != "answers"  # those do not show what a model still recites
        original = self._reference("original") if judging else None
        retrained = self._reference("retrained") if judging and self.twins else None
        here = replace(self.assembled, problem=replace(self._original(), seed=seed))
        tokens = self.config.tokens if variant.budgeted else None
        checkpoints = self.checkpoints.below(key)
        with workspace.temporary("cell") as folder:
            log = self.log.part(cell=variant.label, seed=seed)
            done = trial.run(config, here, self.base, folder, log, self.say, clock, tokens, checkpoints)
            with clock.stage("evaluate"):
                found = self._record(done.delivered.problem)
                evidence = {"original": original, "unlearned": found} if original else {}
                assert self.attacking is not None
                attacks = self.attacking.results(done.delivered.problem, evidence)
        checkpoints.clear()
        outcome = done.outcome
        return self._read(found, judge=True) | {
            "settings": _settings(variant, outcome, tokens, done.subspace.name),
            "options": asdict(variant.options),
            "stopped": outcome.stopped,
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "seconds": sum(clock.seconds.values()),
            "unlearn_seconds": clock.seconds["unlearn"],
            "verdict": self._verdict(original, found, retrained),
            "attacks": attacks,
            "history": checks(outcome.history),
            "proposals": tuple(map(_figures, outcome.proposals)),
            "sophia": tuple(outcome.notes.get("sophia", ())),
        }

    def _verdict(self, original: Evidence | None, found: Evidence, retrained: Evidence | None) -> Verdict | None:
        """None without the original's evidence."""
        if original is None:
            return None
        judged = verdict.judge(original, found, retrained, self.checked.comparison == "holdout")
        return Verdict(judged.forget, judged.rest, tuple(judged.reasons))

    def _reference(self, label: str) -> Evidence:
        """Evidence of the original or of the first twin, recorded once."""
        name = f"{self.key[:12]}-{label}"
        if label not in self.known and (kept := self.checkpoints.load(name)):
            self.known[label] = kept
        if label not in self.known:
            other = self._original() if label == "original" else self._other(self.twins[0])
            if label == "original" and self.kept is None:
                self.kept = divergence.keep(other, self.assembled.judged)
            self.known[label] = self._record(other, label == "original")
            self.checkpoints.save(name, self.known[label])
        return self.known[label]

    def _original(self) -> Problem:
        return load_from(self.assembled.source, self.assembled, self.assembled.dtype)

    def _other(self, path: str) -> Problem:
        return load_other(self.config, path, self.assembled, torch.float32)

    def _record(self, problem: Problem, original: bool = False) -> Evidence:
        generating = benchmark_of(self.config).generating
        if self.config.generations != "benchmark":
            generating = replace(generating, tokens=None)
        if self.config.generations == "answers":
            generating = replace(generating, kinds=("answer",))
        if self.kept is None:
            self.kept = divergence.keep(self._original(), self.assembled.judged)
        return evidence.record(problem, self.assembled.judged, ("samples",), generating, self.kept, original)

    def _read(self, found: Evidence, judge: bool = False) -> dict[str, object]:
        """Scores, the rows behind them, and for an unlearned model the benchmark's flags."""
        scores, rows = columns.read_off(found)
        benchmark = benchmark_of(self.config)
        around = official_scores.circumstances(self.checked, self.assembled.problem.rendering)
        if self.config.generations == "benchmark" and self.twins:
            around = replace(around, retrained=self._reference("retrained"))
        official = benchmark.official(found, around) if self.config.generations == "benchmark" else None
        if official is None:
            return {"scores": scores, "rows": rows}
        names, more = columns.read_official(official)
        flags: list[str] = []
        if judge:
            twin = benchmark.official(around.retrained, around) if around.retrained else None
            original = benchmark.official(self._reference("original"), around)
            flags = benchmark.flags(official, original, [twin] if twin else [])
        behind = {
            name: tuple(float(value) for value in values) for name, values in benchmark.behind(found, around).items()
        }
        return {"scores": scores | more, "rows": rows | behind, "official": names, "flags": tuple(flags)}

    def _key(self) -> str:
        """Hash of what all cells share."""
        models = {role: load.identity(path) for role in ("model", "base") if (path := getattr(self.config, role))}
        models |= {"retrained": load.identity(self.twins[0])} if self.twins else {}  # further ones are beside no cell
        contents = {
            name: [(row.kind, *row.content, row.task, row.paraphrased, row.perturbed, row.alternates) for row in rows]
            for name, rows in sorted(self.checked.parts.items())
        }
        identity = {
            "models": models,
            "rows": hashing.keyed_hash([json.dumps(contents)], hashing.key()),
            "rendering": asdict(self.assembled.problem.rendering),
            "subspace": self.config.subspace,
            "dtype": self.config.dtype,
            "benchmark": [self.config.benchmark, self.config.generations, self.config.evidence],
            "log": hashing.file_hash([Path(log)]) if (log := self.config.retrained_log) else "",
            "seed": self.config.seed,
            "device": str(self.assembled.problem.runtime.device),
            "code": hashing.file_hash(_code()),
            "versions": environment.environment()["versions"],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _code() -> list[Path]:
    """What makes and judges a cell; a method is part of the keys of its own cells alone."""
    return code.made_by("comparison.cells", *(name for name in registry.CATALOGUES if name != "methods"))


def _shared(config: commands.Compare) -> dict[str, Any]:
    """What a cell's configuration takes over: all fields that `compare` and `unlearn` have in common."""
    names = {one.name for one in fields(commands.Unlearn)} - {"seed", "output", "recipe", "retrained"}
    return {one.name: getattr(config, one.name) for one in fields(config) if one.name in names}


def _in_a_line(error: Exception) -> str:
    """What went wrong. Messages of unforeseen errors may hold text of rows, so only their place is named."""
    if isinstance(error, FORESEEN):
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}, line {place.lineno}"


def _settings(variant: Variant, outcome: Outcome, tokens: int | None, subspace: str) -> str:
    rate = f"learning rate {outcome.learning_rate:.2g}" + (" (its probe's)" if outcome.probe else "")
    if outcome.proposals:
        taken = [f"{one['step']:.2g}" for one in outcome.proposals if one["step"] is not None]
        proposed = f"{len(taken)} of {len(outcome.proposals)} proposed steps ({', '.join(taken) or 'none'})"
        rate = f"{proposed}, {rate}" if outcome.learning_rate else proposed
    budget = "its own steps" if tokens is None else f"a budget of {tokens:,} tokens"
    return f"{registry.title(variant.method)}, {rate}, {budget}, subspace {subspace}"


def _figures(entry: Mapping[str, Any]) -> Proposal:
    """A proposal with our own words for phase, rule and refusal; of its notes only the numbers."""
    numbers = {name: value for name, value in entry["notes"].items() if isinstance(value, int | float)}
    return proposal({**entry, "notes": numbers})


def _kept(file: Path) -> Cell:
    return taken(json.loads(file.read_text(encoding="utf-8")), Cell, str(file))


def _cell(label: str, seed: int | None, **made: object) -> Cell:
    """With nothing where nothing was made."""
    lists = dict.fromkeys(("flags", "proposals", "sophia", "attacks"), ())
    numbers = dict.fromkeys(("error", "seconds", "unlearn_seconds", "peak_memory_bytes", "steps", "tokens", "verdict"))
    nothing: dict[str, Any] = {"settings": "", "official": {}, "scores": {}, "rows": {}, **lists, **numbers, **made}
    return Cell(model=label, seed=seed, **nothing)
