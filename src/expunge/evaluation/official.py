"""The block of a record that holds a benchmark's official scores: per model, with flags, and missing ones by reason."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from msgspec import UNSET

from expunge import benchmark as contract
from expunge import registry
from expunge.benchmark import Circumstances, Missing, Scored
from expunge.data.tokens import Rendering
from expunge.files import plain_json
from expunge.intake.sets import Checked
from expunge.reporting.finding import Benchmark, Official, OfficialScores
from expunge.scoring.evidence import Evidence

NOT_ASKED = Missing("not measured (--mmlu zero-shot or --mmlu five-shot)")


def circumstances(checked: Checked, rendering: Rendering) -> Circumstances:
    """What the rows and how they are rendered say; what hangs on the models is not in it."""
    return Circumstances(holdout=checked.comparison == "holdout", ended=rendering.end_documents, log=checked.log)


def block(
    name: str, evidence: Mapping[str, Evidence], around: Circumstances, mmlu: Mapping[str, Scored]
) -> Benchmark | None:
    """Scores of each model of the evidence; None where the benchmark has no official score."""
    benchmark = registry.load("benchmarks", name)()
    around = replace(around, retrained=evidence.get("retrained"))
    found = {
        model: benchmark.official(recorded, replace(around, mmlu=mmlu.get(model, NOT_ASKED)))
        for model, recorded in evidence.items()
    }
    found = {model: official for model, official in found.items() if official is not None}
    if not found:
        return None
    retrained = [found["retrained"]] if "retrained" in found else []
    flags = benchmark.flags(found["unlearned"], found.get("original"), retrained) if "unlearned" in found else []
    return Benchmark(name, benchmark.title, {model: scores(one) for model, one in found.items()}, tuple(flags))


def scores(found: contract.Official) -> OfficialScores:
    """Groups of scores as the record has them."""
    parts, terms, beside = (
        {name: outcome(one) for name, one in group.items()} for group in (found.parts, found.terms, found.beside)
    )
    return OfficialScores(parts, terms, beside, tuple(found.notes), dict(found.titles) or UNSET)


def outcome(found: Scored) -> Official:
    """A score, or why there is none, as the record and comparisons have it."""
    return Official(missing=found.reason) if isinstance(found, Missing) else Official(**asdict(found))


def export(folder: Path, name: str, evidence: Mapping[str, Evidence], around: Circumstances) -> None:
    """What the benchmark writes for other tools, each model's in a folder of its name."""
    benchmark = registry.load("benchmarks", name)()
    around = replace(around, retrained=evidence.get("retrained"))
    for model, recorded in evidence.items():
        for file, content in benchmark.exports(recorded, around).items():
            own = folder / registry.title(name) / model
            own.mkdir(parents=True, exist_ok=True)
            plain_json.write_json(own / file, content)
