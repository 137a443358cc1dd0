"""Meta-tests: what the verdict and the attacks say of made models of which it is known what they are.

    python benchmarks/meta_tests.py [--worlds 20] [--level full]

Expected stands in `EXPECTED`, written before it was run: the verdict on the forget rows and on the rest (as the record
has them, attacks weighed in), whether the whole passes, and under which attacks rows must come back at least. Models
are those of benchmarks/made_models.py, judged without a twin and beside one; then a retrained model of each of so many
other worlds, which should pass. Prints Markdown.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import made_models as made
from expunge.attack import Level
from expunge.evaluation import attacked, evidence, under_attack, verdict
from expunge.reporting.finding import Comparison, Verdict
from expunge.scoring.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Expected:
    """Words of which one is right, and attacks under which rows come back at least."""

    forget: tuple[str, ...]
    rest: tuple[str, ...]
    back: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        return self.forget == ("forgotten",) and self.rest == ("kept",)


BROKEN = ("damaged", "collapsed")
ANY = ("forgotten", "partly", "not forgotten", "over-forgotten")
EXPECTED = {
    "untouched": Expected(("not forgotten",), ("kept",), ("rounding", "sampling", "prefix")),
    "retrained": Expected(("forgotten",), ("kept",)),
    "collapsed": Expected(ANY, BROKEN),
    "constant": Expected(ANY, BROKEN),
    "refusing": Expected(ANY, BROKEN),
    "noise": Expected(ANY, BROKEN),
    "over-forgotten": Expected(("over-forgotten",), ("kept", "damaged")),
    "half-forgotten": Expected(("not forgotten",), ("kept",), ("rounding", "sampling", "prefix")),
    "hidden by an adapter": Expected(("partly", "not forgotten"), ("kept",), ("prefix", "sampling")),
    "fragile to rounding": Expected(("partly", "not forgotten"), ("kept", "damaged"), ("rounding",)),
    "leaking in samples": Expected(("partly", "not forgotten"), ("kept", "damaged"), ("sampling",)),
}
MODELS: dict[str, Callable[[], Any]] = {
    "untouched": made.original,
    "retrained": lambda: made.retrained(1),
    "collapsed": lambda: made.fresh(99),
    "constant": lambda: made.saying("42"),
    "refusing": lambda: made.saying("I do not say"),
    "noise": made.noisy,
    "over-forgotten": made.over_forgotten,
    "half-forgotten": made.half_forgotten,
    "hidden by an adapter": made.refusing,
    "fragile to rounding": made.lost_in_four_bits,
    "leaking in samples": made.leaking,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """Evidence of a model as it is, and under attack."""

    written: Evidence
    attacked: attacked.Readings


def seen(model: Any, level: Level, world: int = 0, beside: bool = False) -> Seen:
    problem, splits = made.problem_of(model, world), made.splits_of(world)
    written = evidence.record(problem, splits)
    if beside:
        return Seen(written, attacked.run_beside(problem, splits, level))
    original = made.problem_of(made.original(world), world)
    return Seen(written, attacked.run(problem, splits, level, lambda: original))


@cache
def twin(level: Level, world: int) -> Seen:
    return seen(made.retrained(0, world), level, world)


@cache
def original(level: Level, world: int) -> Seen:
    return seen(made.original(world), level, world, beside=True)


def judged(found: Seen, level: Level, beside_twin: bool, world: int = 0) -> tuple[Verdict, dict[str, str]]:
    """The record's verdict, and the word of each attack."""
    other, first = twin(level, world) if beside_twin else None, original(level, world)
    plain = verdict.judge(first.written, found.written, other.written if other else None)
    models = {"original": first, "unlearned": found} | ({"retrained": other} if other else {})
    readings = {name: one.attacked for name, one in models.items()}
    names = [row.name for row in made.rows_of(world)["forget"]]
    block = under_attack.block(level, readings, {name: one.written for name, one in models.items()}, names)
    words = {result.attack: result.verdict for result in block.results}
    reasons = (tuple(plain.forget_reasons), tuple(plain.rest_reasons))
    nothing = Comparison("holdout", True, 0, 0)
    entry = Verdict(plain.passes, "", plain.forget, reasons[0], plain.rest, reasons[1], plain.counts(), nothing)
    return under_attack.weighed(entry, block), words


def line(name: str, found: Verdict, told: dict[str, str]) -> str:
    """Of a model: what was found, and whether that is what was expected."""
    expected = EXPECTED[name]
    by_word: dict[str, list[str]] = {}
    for attack, word in told.items():
        by_word.setdefault(word, []).append(attack)
    right = found.forget in expected.forget and found.rest in expected.rest
    right &= found.passes == expected.passes and set(expected.back) <= set(by_word.get("comes back", ()))
    words = "; ".join(f"{word}: {', '.join(attacks)}" for word, attacks in by_word.items())
    passes = "passes" if found.passes else "does not"
    return f"| {name} | {found.forget} | {found.rest} | {passes} | {words} | {'yes' if right else '**no**'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument("--level", choices=("full", "audit"), default="full")
    asked = parser.parse_args()
    if not asked.no_table:
        table(asked.level)
    of_worlds(range(1, 1 + asked.worlds), asked.level)


def table(level: Level) -> None:
    """All models, without a twin and beside one."""
    every = {name: seen(make(), level) for name, make in MODELS.items()}
    for beside in (False, True):
        print(f"\n{'Beside a retrained model' if beside else 'Without a retrained model'}\n")
        print("| model | forget | rest | | under attack | as expected |\n| --- | --- | --- | --- | --- | --- |")
        for name, found in every.items():
            print(line(name, *judged(found, level, beside)), flush=True)


def of_worlds(worlds: Sequence[int], level: Level) -> None:
    """A retrained model of each world: how many pass, and under how many attacks rows come back."""
    passed, words = Counter[bool](), Counter[tuple[bool, str, str]]()
    for world in worlds:
        found = seen(made.retrained(1, world), level, world)
        for beside in (False, True):
            one, told = judged(found, level, beside, world)
            passed[beside] += one.passes
            words.update((beside, attack, word) for attack, word in told.items())
            if not one.passes:
                print(f"\nworld {world}: {list(one.reasons)}", flush=True)
    print(f"\nOf {len(worlds)} retrained models {passed[False]} pass, beside another one {passed[True]}.\n")
    for (beside, attack, word), count in sorted(words.items()):
        print(f"- {attack}{', beside a retrained model' if beside else ''}: {word} {count}")


if __name__ == "__main__":
    main()
