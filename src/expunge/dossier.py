"""From evidence to what a run leaves on disk: the record, the pages, the numbers behind them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expunge import config as configs
from expunge import record
from expunge.assemble import Assembled, Checked, echoed, token_counts, trust
from expunge.evaluation import official, suite, verdict
from expunge.evaluation.retrained import comparable
from expunge.matching import known_rows, recall_rows
from expunge.metric import Evidence
from expunge.model import load
from expunge.reporting import card, html, markdown

NAMED_MODELS = ("original", "unlearned", "retrained")


def build(
    command: str,
    config: Any,
    checked: Checked,
    assembled: Assembled,
    evidence: Mapping[str, Evidence],
    seconds: Mapping[str, float],
    details: Mapping[str, Any],
    output: Path,
) -> dict[str, Any]:
    """The record of a run (schema 1). `details` are the entries that only one command has."""
    secret = record.key()
    problem = assembled.problem
    judged = verdict.judge(
        evidence["original"], evidence["unlearned"], evidence.get("retrained"), checked.comparison == "holdout"
    )
    environment = record.environment()
    return {
        "schema": record.SCHEMA,
        "command": command,
        "created": environment["created"],
        "verdict": _verdict(judged, checked),
        "scores": suite.scores(evidence),
        "benchmark": official.block(
            config.benchmark,
            evidence,
            checked.comparison == "holdout",
            problem.rendering.end_documents,
            details.get("mmlu", {}),
        ),
        "rows": _rows(judged, checked, evidence, details, secret),
        "losses": _losses(evidence),
        "limits": [*record.LIMITS, *_limits(config, checked, details, evidence)],
        "method": details["method"],
        "audit": details["audit"],
        "subspace": details["subspace"],
        "save": details["save"],
        "history": details["history"],
        "data": token_counts(checked, problem.rendering, problem.tokenizer),
        "rendering": _rendering(config, assembled),
        "config": configs.resolved(config),
        "hashes": _hashes(config, checked, output, secret),
        "versions": environment["versions"],
        "machine": f"{environment['machine']}, {problem.runtime.device}, {problem.runtime.precision}",
        "seconds": dict(seconds),
        "peak_memory_bytes": environment["peak_memory_bytes"],
        "batch_tokens": problem.portions.figures(),
    }


def write(folder: Path, content: dict[str, Any], evidence: Mapping[str, Evidence], texts: Any) -> None:
    """record.json, resolved recipe, report.html, report.md and evidence/*.npz (numbers only) in `folder`."""
    record.write_json(folder / "record.json", content)
    (folder / "config.yaml").write_text(configs.to_yaml(content["config"]), encoding="utf-8")
    write_pages(folder, record.read(folder / "record.json"), texts)
    (folder / "evidence").mkdir()
    for model, recorded in evidence.items():
        arrays = {f"{name}_{key}": a for name, rows in recorded.sets.items() for key, a in rows.numbers().items()}
        np.savez_compressed(folder / "evidence" / f"{model}.npz", **arrays)  # type: ignore[arg-type]


def write_pages(folder: Path, content: Mapping[str, Any], texts: Any) -> None:
    """report.html and report.md from a record; row text only where `texts` are given."""
    (folder / "report.html").write_text(html.render(content, texts), encoding="utf-8")
    (folder / "report.md").write_text(markdown.render(content, texts), encoding="utf-8")


def model_card(content: Mapping[str, Any]) -> str:
    """README.md of the output folder."""
    return card.render(content)


def texts(checked: Checked, evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """Row text and what each model generates in its place, by row name: only for --show-rows."""
    found = {}
    for index, row in enumerate(checked.forget):
        said = {name: recorded.sets["forget"].generations[index] for name, recorded in evidence.items()}
        generated = {name: None if text is None else text.strip() for name, text in said.items()}
        found[row.name] = {"prompt": row.prompt, "completion": row.completion, "generated": generated}
    return found


def _verdict(judged: verdict.Verdict, checked: Checked) -> dict[str, Any]:
    counts = judged.counts()
    judging = checked.parts.get("judging", ())
    documents = sum(row.kind == "document" for row in judging)
    n = len(judged.rows)
    sentence = f"{counts.get('forgotten', 0)} of {n} rows are forgotten; the rest of the model is {judged.rest}."
    if judged.rest == "cannot tell":
        sentence = f"{counts.get('forgotten', 0)} of {n} rows are forgotten; the rest of the model cannot be judged."
    return {
        "passes": judged.passes,
        "sentence": sentence,
        "forget": judged.forget,
        "forget_reasons": judged.forget_reasons,
        "rest": judged.rest,
        "rest_reasons": judged.rest_reasons,
        "counts": counts,
        "comparison": {
            "source": checked.comparison,
            "calibrated": checked.comparison == "holdout",
            "documents": documents,
            "answers": len(judging) - documents,
        },
    }


def _rows(
    judged: verdict.Verdict,
    checked: Checked,
    evidence: Mapping[str, Evidence],
    details: Mapping[str, Any],
    secret: bytes,
) -> list[dict[str, Any]]:
    known = {name: _known(recorded) for name, recorded in evidence.items()}
    targets = details.get("targets") or [None] * len(judged.rows)
    return [
        {
            "name": row.name,
            "id": record.keyed_hash(row.content, secret),
            "kind": row.kind,
            "verdict": one.verdict,
            "reason": one.reason,
            "loss": {name: float(recorded.sets["forget"].loss[index]) for name, recorded in evidence.items()}
            | {name: None for name in NAMED_MODELS if name not in evidence},
            "target": targets[index],
            "rank": one.rank,
            "resolution": one.resolution,
            "known": {name: known[name][index] if name in known else None for name in NAMED_MODELS},
        }
        for index, (row, one) in enumerate(zip(checked.forget, judged.rows, strict=True))
    ]


def _known(recorded: Evidence) -> list[bool | None]:
    """Whether each forget row's content is given back: the answer, or at least half of a document's second half."""
    rows = recorded.sets["forget"]
    recall = recall_rows(rows)
    known = np.where(np.isnan(recall), known_rows(rows), recall >= verdict.RECALL_LEAK)
    return [None if np.isnan(value) else bool(value) for value in known]


def _losses(evidence: Mapping[str, Evidence]) -> dict[str, dict[str, list[float]]]:
    names = ("forget", "judging", "retain", "guard", "collateral")
    return {
        name: {
            model: recorded.sets[name].loss.tolist() for model, recorded in evidence.items() if name in recorded.sets
        }
        for name in names
        if any(name in recorded.sets for recorded in evidence.values())
    }


def _limits(config: Any, checked: Checked, details: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> list[str]:
    """Which claims are weaker because something was not given, or because of what was."""
    found = []
    if echoes := echoed(checked):
        found.append(
            f"The content of {len(echoes)} forget rows also stands in retain rows, which keep it: "
            f"{', '.join(echoes[:5])}{' and others' if len(echoes) > 5 else ''}."
        )
    if "retain" not in checked.sets:
        found.append(
            "No retain rows were given: what should stay known was held by the original's own samples alone, and is "
            "judged by other samples of it."
        )
    elif "collateral" not in checked.parts:
        found.append(
            "Rows that were trained in but are missing from the retain file are held by replay only; with --train "
            "they would be measured."
        )
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
    saved = details.get("save") or {}
    if saved.get("form") == "adapter":
        found.append(saved["note"])
    notes = (details.get("method") or {}).get("notes") or {}
    if notes.get("targets", {}).get("source") == "base":
        found.append("The targets come from the base model, which is less surprised by unseen text than this one.")
    return found


def _comparable(evidence: Mapping[str, Evidence]) -> bool:
    losses = [
        evidence[name].sets["retain"].loss for name in ("retrained", "original") if "retain" in evidence[name].sets
    ]
    return not losses or comparable(float(losses[0].mean()), float(losses[1].mean()))


def _rendering(config: Any, assembled: Assembled) -> dict[str, Any]:
    rendering = assembled.problem.rendering
    return {
        "join": rendering.join,
        "asked": config.join,
        "losses": assembled.joins,
        "end_documents": rendering.end_documents,
        "chat_template": rendering.chat_template,
        "conversations": sum(bool(row.messages) for row in assembled.problem.splits["forget"].rows),
        "loss_on": rendering.loss_on,
        "context": rendering.context,
    }


def _hashes(config: Any, checked: Checked, output: Path, secret: bytes) -> dict[str, str]:
    """Plain hashes of models and code, keyed hashes of the rows' contents."""
    found = {"code": record.code_hash()}
    for role in ("model", "base", "retrained", "unlearned"):
        files = load.weight_files(getattr(config, role, None) or "")
        if files:
            found[role] = record.file_hash(files)
            found |= _base_hash(role, getattr(config, role), trust(config))
    written = load.weight_files(str(output))
    if written:
        found["output"] = record.file_hash(written)
        found |= _base_hash("output", str(output), load.Trust())  # it names its base in full
    for role in checked.sets:
        rows = checked.sets[role].rows
        found[role] = record.keyed_hash((part for row in rows for part in (row.kind, *row.content)), secret)
    return found


def _base_hash(role: str, path: str, trusted: load.Trust) -> dict[str, str]:
    """The hash of the base that an adapter stands on, by `<role>_base`; nothing for whole models."""
    given = load.adapter_of(path, trusted)
    files = load.weight_files(given.base) if given else []
    return {f"{role}_base": record.file_hash(files)} if files else {}
