"""The page of `families.py`: a table of all families, and below it why something is not served."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STEPS = {"loads": "loads", "plans": "plans", "full": "full", "lora": "LoRA", "adapter": "LoRA kept", "kfac": "K-FAC"}
GOOD, FAULT = "yes", "fault:"
HEAD = """# Families of models

Made by `python benchmarks/families.py --page docs/families.md`, which also says what is checked. Of each family that
transformers {version} ships as a causal language model: its smallest random form, made from its configuration class,
through load, plan, one epoch of gradient ascent on full weights (*full*), on a LoRA that is merged (*LoRA*) and on one
that is kept as an adapter (*LoRA kept*), and one iteration of `margin_newton` on all linear layers (*K-FAC*). After
each run transformers and peft alone read the files: the parameters that should move did, and no other; the files hold
the same tensors under the same names, in the same dtypes; and the losses of the record are those that transformers
gives (*as before*). **yes**: all of that; **no**: refused by the tool, with the reason below; **fault**: not so, see
below; empty: not reached.

Small random models show what moves and what is written, not how well a family unlearns.
"""


def write(page: Path, families: Sequence[str], found: Mapping[str, Mapping[str, Any]], version: str, code: str) -> None:
    """All of `families`; of those that are not in `found` it is said that nobody tried them, and how many were tried
    with other `code` than the one at hand."""
    lines = [HEAD.format(version=version), *_summary(families, found)]
    if older := sum(bool(one["steps"]) and one.get("code") != code for one in found.values()):
        lines += ["", f"{older} of these were tried with an earlier state of the code, not anew since (`--again`)."]
    lines += [""]
    lines += [f"| family | parameters | {' | '.join(STEPS.values())} | as before |"]
    lines += ["| --- | ---: |" + " --- |" * (len(STEPS) + 1)]
    lines += [_line(family, found.get(family)) for family in families]
    lines += ["", "## Why not", ""]
    reasons = _reasons(families, found)
    lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summary(families: Sequence[str], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    tried = [one for family in families if (one := found.get(family)) and not one["skipped"]]
    skipped = sum(bool(one["skipped"]) for one in found.values())
    good = {step: sum(one["steps"].get(step, "").startswith(GOOD) for one in tried) for step in STEPS}
    counts = [f"{title} {good[step]}" for step, title in STEPS.items()]
    whole = sum(bool(one["steps"]) and not any(_fault(step) for step in one["steps"].values()) for one in tried)
    return [
        f"{len(families)} families: {len(tried)} tried, {skipped} not to be made, "
        f"{len(families) - len(found)} not yet tried. Of those tried: {', '.join(counts)}; "
        f"{whole} without a fault (a refusal is none)."
    ]


def _fault(outcome: str) -> bool:
    return outcome.startswith((FAULT, "failed:"))


def _line(family: str, one: Mapping[str, Any] | None) -> str:
    if one is None:
        return f"| {family} | | {' | '.join('' for _ in STEPS)} | not yet tried |"
    if one["skipped"]:
        return f"| {family} | | {' | '.join('' for _ in STEPS)} | not made |"
    cells = [_cell(one["steps"].get(step, "")) for step in STEPS]
    ran = [step for step in ("full", "lora", "adapter", "kfac") if one["steps"].get(step, "").startswith((GOOD, FAULT))]
    before = "" if not ran else "no" if one["served"] else "yes"
    return f"| {family} | {one['parameters']:,} | {' | '.join(cells)} | {before} |"


def _cell(outcome: str) -> str:
    return "no" if outcome.startswith("refused:") else "fault" if _fault(outcome) else outcome


def _reasons(families: Sequence[str], found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """By reason, the families and steps that have it; folders of the sweep are left out of messages."""
    reasons: dict[str, list[str]] = {}
    for family in families:
        one = found.get(family) or {"skipped": "", "steps": {}}
        if one["skipped"]:
            reasons.setdefault(str(one["skipped"]), []).append(family)
        steps: dict[str, list[str]] = {}
        for step, outcome in one["steps"].items():
            if not outcome.startswith(GOOD):
                steps.setdefault(_plain(outcome, family), []).append(STEPS[step])
        for reason, titles in steps.items():
            reasons.setdefault(reason, []).append(f"{family} ({', '.join(titles)})")
    return reasons


def _plain(outcome: str, family: str) -> str:
    """Without the folder that the family was tried in."""
    words = [word for word in outcome.split(" ") if f"/{family}/" not in word]
    return " ".join(words).replace("|", "/")
