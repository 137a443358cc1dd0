"""From evidence to what a run leaves on disk: the record, the pages, the numbers behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from expunge.benchmark import Circumstances, Scored
from expunge.config import recipes
from expunge.config.commands import EARLIER, Evaluate, Unlearn
from expunge.evaluation import official, suite, under_attack, verdict
from expunge.evaluation.attacked import Readings
from expunge.files import hashing
from expunge.intake.assembly import Assembled, token_counts
from expunge.intake.sets import Checked
from expunge.loop.twins import comparable
from expunge.model.source import Source
from expunge.problem import Problem
from expunge.records import hashes, record
from expunge.records.holders import holders
from expunge.records.lineage import OTHER_KEY, Again, Lineage, judge_again, unseen
from expunge.records.pages import write_pages
from expunge.reporting import card
from expunge.reporting.finding import Comparison, Earlier, Row, Verdict
from expunge.reporting.record import (
    SCHEMA,
    Answered,
    Audit,
    BatchTokens,
    Check,
    Counts,
    Method,
    Parent,
    Record,
    Rendering,
    Saved,
    Subspace,
    Text,
    Texts,
)
from expunge.runs import distributed, environment
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.matching import given_back

Command = Literal["unlearn", "evaluate"]
NAMED_MODELS = ("original", "unlearned", "retrained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What only a run knows, and in part only one of the commands. `hashes`: of code, models and rows, by role;
    `targets` of the forget rows; `answered`: by whom, where a server did, and what `limits` that sets; `mmlu`
    and what was seen under attack by model."""

    lineage: Lineage
    hashes: Mapping[str, str]
    subspace: Subspace | None = None
    method: Method | None = None
    save: Saved | None = None
    history: tuple[Check, ...] = ()
    targets: Sequence[float | None] | None = None
    audit: Audit | None = None
    answered: Answered | None = None
    limits: Sequence[str] = ()
    interruptions: int = 0
    mmlu: Mapping[str, Scored] = field(default_factory=dict)
    attacked: Mapping[str, Readings] = field(default_factory=dict)


def build(
    command: Command,
    config: Unlearn | Evaluate,
    checked: Checked,
    assembled: Assembled,
    evidence: Mapping[str, Evidence],
    seconds: Mapping[str, float],
    details: Details,
    output: Path,
) -> Record:
    """The record of a run, but for the list of its files."""
    secret = hashing.key()
    problem = assembled.problem
    judged = verdict.judge(
        evidence["original"], evidence["unlearned"], evidence.get("retrained"), checked.comparison == "holdout"
    )
    lineage = details.lineage
    again = judge_again(evidence, _ids(checked, EARLIER, secret), lineage)
    written = hashes.of_model("output", Source.of(str(output)))  # it names its base in full
    hashed = {**details.hashes, **written}
    here = environment.environment()
    attacked = under_attack.block(
        config.evidence,
        details.attacked,
        evidence,
        [row.name for row in checked.parts["forget"]],
        weights=details.answered is None,
    )
    around = official.circumstances(checked, problem.rendering)
    counted = token_counts(checked, problem.rendering, problem.tokenizer)
    scores = suite.scores(evidence)
    spent = lineage.so_far.then(scores).sentence if lineage.so_far else ""
    return Record(
        schema=SCHEMA,
        command=command,
        created=here["created"],
        verdict=under_attack.weighed(_verdict(judged, again, checked, spent), attacked),
        attacks=attacked,
        scores=scores,
        metrics=suite.metrics(),
        benchmark=official.block(config.benchmark, evidence, around, details.mmlu),
        rows=_rows("forget", judged.rows, checked, evidence, details.targets, secret),
        earlier=_earlier(again, checked, evidence, secret),
        losses=_losses(evidence),
        limits=(under_attack.limit(attacked), *record.LIMITS, *_limits(checked, details, evidence)),
        method=details.method,
        audit=details.audit,
        subspace=details.subspace,
        save=details.save,
        history=details.history,
        data={name: Counts(**counts) for name, counts in counted.items()},
        rendering=_rendering(config, assembled),
        config=recipes.resolved(config),
        hashes=hashed,
        parent=_parent(lineage, hashed),
        holders=holders(config, details.save, lineage.holders),
        key=hashing.key_mark(secret),
        row_files=hashes.of_row_files(config, checked, secret),
        files={},
        versions=here["versions"],
        machine=_machine(here["machine"], problem),
        seconds=dict(seconds),
        interruptions=details.interruptions,
        peak_memory_bytes=here["peak_memory_bytes"],
        batch_tokens=BatchTokens(**problem.portions.figures()),
        answered=details.answered or UNSET,
    )


def _machine(name: str, problem: Problem) -> str:
    several = [f"{distributed.processes()} processes"] if distributed.processes() > 1 else []
    return ", ".join([name, str(problem.runtime.device), problem.runtime.precision, *several])


def write(
    folder: Path, content: Record, evidence: Mapping[str, Evidence], texts: Texts | None, around: Circumstances
) -> None:
    """record.json, resolved recipe, report.html, report.md and evidence/*.npz (numbers only) in `folder`, and what the
    benchmark writes for other tools."""
    record.write(folder / "record.json", content)
    (folder / "config.yaml").write_text(recipes.to_yaml(content.config), encoding="utf-8")
    write_pages(folder, record.read(folder / "record.json"), texts)
    (folder / "evidence").mkdir()
    for model, recorded in evidence.items():
        arrays = {f"{name}_{key}": a for name, rows in recorded.sets.items() for key, a in rows.numbers().items()}
        np.savez_compressed(folder / "evidence" / f"{model}.npz", **arrays)  # type: ignore[arg-type]
    official.export(folder, content.config["benchmark"], evidence, around)


def model_card(content: Record) -> str:
    """README.md of the output folder."""
    return card.render(content)


def texts(checked: Checked, evidence: Mapping[str, Evidence]) -> Texts:
    """Row text and what each model generates in its place, by row name: only for --show-rows."""
    found: dict[str, Text] = {}
    for index, row in enumerate(checked.forget):
        said = {name: recorded.sets["forget"].generations[index] for name, recorded in evidence.items()}
        generated = {name: None if text is None else text.strip() for name, text in said.items()}
        found[row.name] = {"prompt": row.prompt, "completion": row.completion, "generated": generated}
    return found


def _forgotten(counts: Mapping[str, int]) -> str:
    """How many rows are, and of how many nobody can say."""
    unsaid = f" ({counts['cannot tell']} cannot be told)" if counts.get("cannot tell") else ""
    return f"{counts.get('forgotten', 0)} of {sum(counts.values())} rows are forgotten{unsaid}"


def _verdict(judged: verdict.Verdict, again: Again | None, checked: Checked, spent: str) -> Verdict:
    """`spent`: what is to be said of the runs in sequence that this one belongs to."""
    counts = judged.counts()
    judging = checked.parts.get("judging", ())
    documents = sum(row.kind == "document" for row in judging)
    rest = "cannot be judged" if judged.rest == "cannot tell" else f"is {judged.rest}"
    unsure = " (not calibrated: no holdout)" if checked.comparison == "counterfactual" else ""
    sentence = f"{_forgotten(counts)}{unsure}; the rest of the model {rest}."
    if "failed" in (judged.forget, judged.rest):
        reasons = judged.forget_reasons if judged.forget == "failed" else judged.rest_reasons
        sentence = f"The run failed: {reasons[0]}."
    if again:
        sentence = f"{sentence[:-1]}; of earlier requests {_forgotten(again.counts)}."
    return Verdict(
        passes=judged.passes and (again is None or again.forget == "forgotten"),
        sentence=sentence,
        forget=judged.forget,
        forget_reasons=(*judged.forget_reasons, *(again.why if again else ())),
        rest=judged.rest,
        rest_reasons=(*judged.rest_reasons, *filter(None, (spent,))),
        counts=counts,
        comparison=Comparison(
            source=checked.comparison,
            calibrated=checked.comparison == "holdout",
            documents=documents,
            answers=len(judging) - documents,
        ),
    )


def _ids(checked: Checked, name: str, secret: bytes) -> list[str]:
    return [hashing.keyed_hash(row.content, secret) for row in checked.parts.get(name, ())]


def _rows(
    name: str,
    judged: Sequence[verdict.Judged],
    checked: Checked,
    evidence: Mapping[str, Evidence],
    targets: Sequence[float | None] | None,
    secret: bytes,
) -> tuple[Row, ...]:
    sets = {model: recorded.sets[name] for model, recorded in evidence.items()}
    known = {model: _known(one) for model, one in sets.items()}
    targets = targets or [None] * len(judged)
    nothing: dict[str, float | None] = {model: None for model in NAMED_MODELS if model not in evidence}
    return tuple(
        Row(
            name=row.name,
            id=hashing.keyed_hash(row.content, secret),
            kind=row.kind,
            verdict=one.verdict,
            reason=one.reason,
            loss={model: None if one.no_losses else float(one.loss[index]) for model, one in sets.items()} | nothing,
            target=targets[index],
            rank=one.rank,
            resolution=one.resolution,
            known={model: known[model][index] if model in known else None for model in NAMED_MODELS},
        )
        for index, (row, one) in enumerate(zip(checked.parts[name], judged, strict=True))
    )


def _earlier(again: Again | None, checked: Checked, evidence: Mapping[str, Evidence], secret: bytes) -> Earlier | None:
    """The block of the rows of earlier requests: as forget rows, and their losses under the model that held them."""
    if again is None:
        return None
    rows = _rows(EARLIER, again.rows, checked, evidence, None, secret)
    rows = tuple(replace(row, loss={**row.loss, "first": loss}) for row, loss in zip(rows, again.first, strict=True))
    return Earlier(again.forget, tuple(again.reasons), again.counts, rows, tuple(again.came_back))


def _parent(lineage: Lineage, hashed: Mapping[str, str]) -> Parent | None:
    """The parent, and whether its output still has the weights that it wrote."""
    if lineage.parent is None:
        return None
    same = None if lineage.weights is None else lineage.weights == hashed.get("model")
    return replace(lineage.parent, same_weights=same)


def _known(rows: SetEvidence) -> list[bool | None]:
    """Whether each row's content is given back."""
    return [None if np.isnan(value) else bool(value) for value in given_back(rows)]


def _losses(evidence: Mapping[str, Evidence]) -> dict[str, dict[str, tuple[float, ...]]]:
    names = ("forget", EARLIER, "judging", "retain", "guard", "collateral")
    return {
        name: {
            model: tuple(recorded.sets[name].loss.tolist())
            for model, recorded in evidence.items()
            if name in recorded.sets and not recorded.sets[name].no_losses
        }
        for name in names
        if any(name in recorded.sets for recorded in evidence.values())
    }


def _limits(checked: Checked, details: Details, evidence: Mapping[str, Evidence]) -> list[str]:
    """Which claims are weaker because something was not given, or because of what was."""
    found = list(details.limits)
    if echoes := [one.row.name for one in checked.echoes if one.role == "retain"]:
        found.append(
            f"The content of {len(echoes)} forget rows also stands in retain rows, which keep it: "
            f"{', '.join(echoes[:5])}{' and others' if len(echoes) > 5 else ''}."
        )
    if (parent := details.lineage.parent) and (parent.missing or not parent.same_key):
        said = unseen(parent.missing) if parent.missing else OTHER_KEY
        found.append(f"{said[0].upper()}{said[1:]}.")
    if "retain" not in checked.sets:
        found.append(
            "No retain rows were given: what should stay known was held by the original's own samples alone, and other "
            "samples of it show little of what was lost."
        )
    elif "collateral" not in checked.parts:
        found.append(
            "Rows that were trained in but are missing from the retain file are held by replay only; with --train "
            "they would be measured."
        )
    for name, rows in next(iter(evidence.values())).sets.items():
        if len(rows.loss) < (given := len(checked.parts.get(name, ()))):
            found.append(f"Of the {given:,} {name} rows {len(rows.loss)}, spread evenly, were measured.")
    if checked.comparison != "holdout":
        found.append(
            "No holdout was given: the ranks compare with counterfactual rows (one row's prompt, another's "
            "completion), which are uncalibrated."
            if checked.comparison
            else "No rows that the model never saw could be had, so no row could be ranked."
        )
    if "retrained" in evidence and not _comparable(evidence):
        found.append(
            "The retrained model knows the retain rows better or worse than the original by more than 10 %, so it was "
            "trained longer or shorter: it is not comparable."
        )
    if "retrained" not in evidence:
        found.append("No retrained model was given, so nothing here says what leaving the rows out would have given.")
    if details.save and details.save.form == "adapter":
        found.append(details.save.note)
    notes = details.method.notes if details.method else {}
    if warning := (notes.get("curvature") or {}).get("warning"):
        found.append(f"{warning[0].upper()}{warning[1:]}.")
    if notes.get("targets", {}).get("source") == "base":
        found.append("The targets come from the base model, which is less surprised by unseen text than this one.")
    return found


def _comparable(evidence: Mapping[str, Evidence]) -> bool:
    retain = [evidence[name].sets["retain"] for name in ("retrained", "original") if "retain" in evidence[name].sets]
    return not retain or comparable(float(retain[0].loss.mean()), float(retain[1].loss.mean()))


def _rendering(config: Unlearn | Evaluate, assembled: Assembled) -> Rendering:
    rendering = assembled.problem.rendering
    return Rendering(
        join=rendering.join,
        asked=config.join,
        losses=assembled.joins,
        end_documents=rendering.end_documents,
        end_answers=rendering.end_answers,
        date=rendering.date or None,
        chat_template=rendering.chat_template,
        conversations=sum(bool(row.messages) for row in assembled.problem.splits["forget"].rows),
        loss_on=rendering.loss_on,
        context=rendering.context,
        overlap=rendering.overlap,
    )
