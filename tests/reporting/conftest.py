"""A record in code: numbers from a seed, hostile strings wherever a record holds a string that somebody else chose."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from expunge.evaluation import suite
from expunge.files.typed import plain
from html_pages import Record

HOSTILE = "<script>alert('x')</script> | `tick` \"quote\"\nnext [a](b) \u202eRTL אב & **bold**"


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return build_record


def build_record(
    rows: int = 30, retrained: bool = True, command: str = "unlearn", forgotten: float = 0.93, retain: int = 300
) -> Record:
    """A full record whose numbers hang together; `forgotten` is the share of rows with that verdict."""
    draw = np.random.default_rng(7)
    models = ["original", "unlearned", *(["retrained"] if retrained else [])]
    unseen = draw.normal(4.9, 0.8, 60).clip(0.1)
    values = {
        "forget": {"original": draw.gamma(1.2, 0.02, rows), "unlearned": draw.normal(4.8, 0.8, rows).clip(0.1),
                   "retrained": draw.normal(5.0, 0.8, rows).clip(0.1)},
        "judging": {"original": unseen, "unlearned": unseen + 0.05, "retrained": unseen - 0.02},
        "retain": {"original": draw.gamma(1.2, 0.03, retain), "unlearned": draw.gamma(1.2, 0.04, retain),
                   "retrained": draw.gamma(1.2, 0.03, retain)},
    }  # fmt: skip
    losses = {name: {m: [float(x) for x in found[m]] for m in models} for name, found in values.items()}
    trained = command == "unlearn"
    return {
        "schema": 2,
        "command": command,
        "created": "2026-11-21T08:00:00+00:00",
        "seconds": {"load": 1.2, "audit": 3.0, "unlearn": 160.1, "evaluate": 9.9},
        "peak_memory_bytes": 1_934_567_890,
        "config": {"model": "out/tuned", "forget": "forget.jsonl", "seed": 0, "options": {"lr": None, "path": None}},
        "versions": {"expunge": "0.1.0", "torch": "2.9.0", "transformers": "5.0.1", "python": "3.11.9"},
        "machine": "2 cores, Intel Xeon, 16 GiB, no GPU",
        "hashes": {name: f"{place:016x}"[::-1] for place, name in enumerate(("model", "forget", "output"), 2**40 + 11)},
        "data": {
            name: {"rows": n, "documents": n // 6, "answers": n - n // 6, "windows": n, "tokens": 31 * n,
                   "duplicates": 0}
            for name, n in (("forget", rows), ("retain", retain), ("guard", 37), ("judging", 60))
        },
        "rendering": {
            "join": "space", "asked": "auto", "losses": {"space": 0.01, "newline": 3.1, "nothing": 2.2},
            "end_documents": True, "end_answers": False, "date": None, "chat_template": False, "conversations": 0,
            "loss_on": "completion", "context": 512, "overlap": True,
        },
        "subspace": {"name": "full", "reason": "full weights and their optimiser fit in memory", "parameters": 25600,
                     "of": 25600} if trained else None,
        "method": _method() if trained else None,
        "save": {"form": "merged", "note": "", "dtype": "float32", "readers": "transformers", "rounding": 0.001}
        if trained else None,
        "history": _history() if trained else [],
        "scores": _scores(models, rows, retain),
        "metrics": {name: plain(one) for name, one in suite.metrics().items()},
        "losses": losses,
        "rows": [_row(n, losses["forget"], models, forgotten, rows) for n in range(rows)],
        "verdict": _verdict(rows, forgotten),
        "attacks": _attacks(rows, retrained),
        "parent": None, "earlier": None, "key": "0" * 16, "row_files": {}, "files": {},
        "benchmark": None, "audit": None, "interruptions": 0, "batch_tokens": None,
        "holders": [{"what": "the original model", "where": "out/tuned"}],
        "limits": [
            "Only the attacks named here were run; a stronger one may still find a trace.",
            "The rows may be known from the training of the base model, which this run did not touch.",
        ],
    }  # fmt: skip


def _attacks(rows: int, retrained: bool) -> Record:
    """Two attacks: nothing comes back in 8 bits, everything in 4, and half of the loss in a little training."""
    twin = {"retrained": {"loss": 5.0, "known": 0.04}} if retrained else {}

    def setting(bits: int, loss: float, known: float, word: str) -> Record:
        found = {"value": known - 0.04, "low": known - 0.08, "high": known + 0.02, "count": rows}
        return {
            "setting": f"{bits} bits",
            "verdict": word,
            "compared_with": "retrained" if retrained else "judging",
            "figures": [{"figure": "known", "verdict": word, "silent": "", "margin": 0.1, "difference": found}],
            "values": {
                "forget": {"unlearned": {"loss": loss, "known": known}} | twin,
                "judging": {"unlearned": {"loss": 5.1, "known": 0.03}},
            },
            "given_back": ["forget.jsonl:1"] if known > 0.5 else [],
        }

    rounding = {
        "attack": "rounding", "title": "rounding", "question": "What if somebody rounds the weights?",
        "asks": "forgotten", "verdict": "comes back",
        "settings": [setting(8, 4.9, 0.0, "forgotten"), setting(4, 0.3, 0.9, "comes back")],
    }  # fmt: skip
    along = [
        setting(8, loss, 0.0, "cannot tell")
        | {"setting": f"{at} steps", "point": {"curve": "the other half", "axis": "steps of training", "at": at}}
        for at, loss in ((5, 3.1), (30, 2.6))
    ]
    relearning = {
        "attack": "relearning", "title": "relearning", "question": "What if somebody trains it a little?",
        "asks": "forgotten", "verdict": "cannot tell", "settings": along,
    }  # fmt: skip
    tested = {"forget": rows, "judging": 60}
    return {"level": "full", "rows": tested, "results": [rounding, relearning], "not_tested": {"probe": "a probe"}}


def _method() -> Record:
    ended = {"step": 40, "forget": 4.7, "target": 4.9, "arrived": 0.9, "retain": 0.05, "guard": 0.92}
    return {
        "name": "loss_matching",
        "options": {"replay": 512, "retain_weight": 1.0, "patience": 5},
        "notes": {
            "targets": {"source": "holdout", "calibrated": True},
            "replay": {"kept": 512, "sampled": 700, "dropped": 188},
        },
        "learning_rate": 1e-3,
        "steps": 100,
        "tokens": 51_200,
        "row_passes": 1650.0,
        "stopped": "the forget rows are at their targets",
        "attempts": [
            {"learning_rate": 4e-3, "steps": 40, "outcome": "the guard rows rose by more than 0.1"} | ended,
            {"learning_rate": 1e-3, "steps": 100, "outcome": "kept"} | ended,
        ],
        "probe": {"lowest": 1e-5, "highest": 1e-2, "chosen": 4e-3},
        "proposals": [],
    }


def _history() -> list[Record]:
    return [
        {"phase": "descent", "step": step, "arrived": 0.5, "forget": 4.9 * (1 - 0.95 ** (step / 2)), "target": 4.9,
         "retain": 0.04 + 0.05 * np.exp(-step / 40) * step / 40, "guard": 0.9 + 0.03 * (step / 100)}
        for step in range(0, 101, 5)
    ]  # fmt: skip


def _scores(models: list[str], rows: int, retain: int) -> list[Record]:
    table = {
        ("loss", "forget"): (0.02, 4.81, 5.02, 0.3), ("knowledge", "forget"): (1.0, 0.0, 0.04, 0.1),
        ("exact", "forget"): (1.0, 0.0, 0.0, 0.1), ("regurgitation", "forget"): (0.98, 0.11, 0.19, 0.02),
        ("loss_attack", "forget"): (1.0, 0.52, 0.5, 0.09), ("loss", "judging"): (4.9, 4.95, 4.88, 0.2),
        ("loss", "retain"): (0.036, 0.048, 0.036, 0.005), ("knowledge", "retain"): (0.99, 0.98, 0.99, 0.02),
        ("perplexity", "collateral"): (31.2, 36.9, 31.0, 1.1),
    }  # fmt: skip
    counts = {"forget": rows, "retain": retain, "judging": 60, "collateral": 200}
    found = []
    for (metric, name), (*values, half) in table.items():
        for model, value in zip(("original", "unlearned", "retrained"), values, strict=True):
            low, high = (
                (None, None)
                if metric == "exact"
                else (max(0.0, value - half), value + half if value > 1 else min(1.0, value + half))
            )
            line = {"metric": metric, "set": name, "model": model, "value": value, "low": low, "high": high}
            found.extend([line | {"count": counts[name]}] if model in models else [])
    return found


def _row(place: int, losses: Record, models: list[str], forgotten: float, rows: int) -> Record:
    others = ("not forgotten", "partly", "over-forgotten", "cannot tell")
    good = place >= round(rows * (1 - forgotten))
    return {
        "name": f"forget.jsonl:{place + 1}",
        "id": f"{place + 0xA1B2C3D4E5F0:016x}",
        "kind": "document" if place % 6 == 5 else "answer",
        "verdict": "forgotten" if good else others[place % 4],
        "reason": f"its loss ranks at {0.1 + 0.8 * place / rows:.2f} among 60 never-seen rows",
        "loss": {model: losses[model][place] for model in models},
        "target": 5.2,
        "rank": 0.1 + 0.8 * place / rows if good else (0.0, 0.04, 1.0, 0.5)[place % 4],
        "resolution": 0.016,
        "known": {model: None if place % 6 == 5 else model == "original" for model in models},
    }


def _verdict(rows: int, forgotten: float) -> Record:
    bad = round(rows * (1 - forgotten))
    others = ("not forgotten", "partly", "over-forgotten", "cannot tell")
    counts = {name: len(range(place, bad, 4)) for place, name in enumerate(others)} | {"forgotten": rows - bad}
    return {
        "passes": bad == 0,
        "forget": "forgotten" if bad == 0 else "partly",
        "forget_reasons": [
            f"{rows - bad} of {rows} rows rank like never-seen rows",
            "the loss attack guesses: AUC 0.52",
        ],
        "rest": "kept",
        "rest_reasons": ["retain loss rose by 0.012 nats per token; 0.1 is allowed", "guard rows stayed level"],
        "counts": counts,
        "comparison": {"source": "holdout", "calibrated": True, "documents": 10, "answers": 50},
        "sentence": f"{rows - bad} of {rows} rows are forgotten, and the rest of the model is kept.",
    }


def build_proposal(phase: str = "removal", step: float | None = 0.5, **changed: Any) -> Record:
    """An entry as `propose` writes it; a step that is None was refused."""
    taken = step is not None
    return {
        "phase": phase,
        "rule": {"name": "RetainBudget", "budget": 0.1, "unit": "kl"},
        "step": step,
        "refused": None if taken else "even a step of 1e-09 is outside the budget",
        "guess": 0.7,
        "measurements": 9,
        "tokens": 12_000,
        "row_passes": 500.0,
        "direction_norm": 3.5,
        "predicted": {"forget": 1.0, "retain": 0.03, "retain_kl": 0.04} if taken else None,
        "measured": {"forget": 1.2, "retain": 0.06, "retain_kl": 0.05} if taken else None,
        "forget": {"before": 0.02, "after": 1.22 if taken else None},
        "retain_kl": {"before": 0.0, "after": 0.05 if taken else None},
        "retain_rise": {"before": 0.0, "after": 0.06 if taken else None},
        "distance": {"before": None, "after": None},
        "notes": {
            "curvature": "diagonal", "labels": "noise", "damping": 2.1e-4, "relative_damping": 0.1,
            "mean_curvature": 2.1e-3, "median_curvature": 1e-3, "warning": "", "examples": 225, "tokens": 7000,
            "parameters_alive": 8, "cosine": 0.62, "cosine_in_metric": 0.11, "moving": 8,
        },
    } | changed  # fmt: skip


def build_sophia(shares: list[float | None]) -> list[Record]:
    """Checks as `curvature_refresh` writes them: two of a probe, the rest of the run."""
    probe = {"phase": "sophia", "during": "probe", "attempt": 1, "unclipped": 0.99, "gamma": 0.01}
    run = probe | {"during": "unlearning"}
    steps = range(6, 6 + 10 * len(shares), 10)
    checks = [run | {"step": step, "unclipped": share} for step, share in zip(steps, shares, strict=True)]
    return [probe | {"step": 6}, probe | {"step": 16}, *checks]


@pytest.fixture
def make_proposal() -> Callable[..., Record]:
    return build_proposal


@pytest.fixture
def make_sophia() -> Callable[..., list[Record]]:
    return build_sophia


@pytest.fixture
def stepped_record() -> Record:
    """Of a method in two phases: three proposals, the last one refused, then steps by Sophia."""
    record = build_record(rows=7)
    later: Record = {
        "measured": {"forget": 1.1, "retain": 0.05, "retain_kl": 0.045},
        "predicted": {"forget": 1.0, "retain": 0.04, "retain_kl": 0.01},
        "retain_kl": {"before": 0.05, "after": 0.095},
    }
    refused = build_proposal(step=None)
    refused["notes"] |= {"warning": "damping 0.5 drowns the curvature (mean 0.01): close to a plain gradient step"}
    record["method"]["proposals"] = [build_proposal(), build_proposal(step=0.25, **later), refused]
    record["method"]["notes"]["sophia"] = build_sophia([0.29, 0.34, 0.45, 0.52, 0.31, 0.06, 0.22, 0.38])
    return record


def build_texts(record: Record) -> Record:
    return {
        row["name"]: {
            "prompt": None if row["kind"] == "document" else f"Where does person {place} live?",
            "completion": f"In house {place} by the river. {HOSTILE}",
            "generated": {model: f"In house {place}, says the {model}." for model in row["loss"]},
        }
        for place, row in enumerate(record["rows"])
    }


@pytest.fixture
def make_texts() -> Callable[[Record], Record]:
    return build_texts


@pytest.fixture
def hostile_record() -> Record:
    """Hostile strings in every place where a record takes a string from outside."""
    record = build_record(rows=7)
    record["machine"] = record["config"]["forget"] = record["versions"]["torch"] = HOSTILE
    record["config"][HOSTILE] = HOSTILE
    record["method"] |= {"stopped": HOSTILE, "name": HOSTILE}
    record["limits"] = [HOSTILE]
    record["attacks"]["results"][1] |= {"title": HOSTILE}
    for setting in record["attacks"]["results"][1]["settings"]:
        setting["point"] |= {"curve": HOSTILE, "axis": HOSTILE}
    record["verdict"] |= {"sentence": HOSTILE, "forget_reasons": [HOSTILE]}
    record["verdict"]["counts"][HOSTILE] = 1
    record["rows"][2] |= {"name": HOSTILE, "reason": HOSTILE}
    interval = {"value": 1.0, "low": None, "high": None, "count": 1}
    record["scores"].append({"metric": HOSTILE, "set": HOSTILE, "model": HOSTILE} | interval)
    record["losses"]["forget"][HOSTILE] = [1.0]
    record["losses"][HOSTILE] = {HOSTILE: [1.0]}
    record["data"][HOSTILE] = record["data"]["guard"]
    return record


@pytest.fixture
def hostile() -> str:
    return HOSTILE
