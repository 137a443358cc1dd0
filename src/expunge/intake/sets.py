"""From a configuration to checked rows.

Every file that was named is read and checked, and the model folders are looked at, so that wrong input is answered
before any model is loaded and before anything is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from expunge import registry
from expunge.benchmark import Benchmark
from expunge.config import commands, flags
from expunge.config.commands import EARLIER
from expunge.config.flags import Inputs
from expunge.config.lora import is_lora
from expunge.config.recipes import data_path, earlier_paths
from expunge.data.files import beside
from expunge.data.rows import MakeRow, Row, RowSet, check_disjoint, read, without
from expunge.data.splits import halve, recombine, set_guard_apart
from expunge.errors import InputError
from expunge.files.reading import read_json
from expunge.intake.copies import Echo, echoes
from expunge.method import Needs
from expunge.model import load
from expunge.model.adapter import Adapter
from expunge.model.select import check_subspace
from expunge.model.source import Source

FEWEST_PAIRS = 4
Compared = Literal["holdout", "counterfactual"] | None  # what rows to forget are ranked among


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows by role after all checks, the roles they fall into, what the model and its base are (of the base None where
    none was given), and forget rows whose content other rows hold; `log`: see `benchmark.Circumstances`; `first`: the
    model that requests in sequence began with, where rows to keep are held to that (`records.first`)."""

    sets: Mapping[str, RowSet]
    parts: Mapping[str, tuple[Row, ...]]
    comparison: Compared
    model: Source
    base: Source | None = None
    log: Any = None
    echoes: tuple[Echo, ...] = ()
    first: Source | None = None

    @property
    def forget(self) -> tuple[Row, ...]:
        return self.sets["forget"].rows

    def opened(self, inputs: Inputs) -> "Checked":
        """The same for inputs whose GGUF files have become folders (`gguf.opened`): those are asked what they are."""
        assert inputs.model is not None
        base = inputs.base if isinstance(inputs, flags.Base) else None
        return replace(
            self,
            model=_again(self.model, inputs.model, inputs),
            base=_again(self.base, base, inputs) if self.base and base else None,
        )

    @property
    def known(self) -> tuple[Row, ...]:
        """Rows that the model was trained on, which say how it renders rows: those to forget, else those to keep."""
        return self.sets["forget" if "forget" in self.sets else "retain"].rows


def benchmark_of(inputs: flags.Reading) -> Benchmark:
    """The benchmark that says how rows are read, generated from and scored. Raises `InputError`."""
    benchmark: Benchmark = registry.load("benchmarks", inputs.benchmark)()
    return benchmark


def check(
    inputs: Inputs, needs: Needs | None = None, weights: bool = True, asked: Sequence[str] = ("forget",)
) -> Checked:
    """Reads and checks all files of rows and model folders, and whether what a method `needs` of them is there.

    A plan can do without the models' `weights`. `asked`: rows without which there is nothing to do.

    Raises `InputError`.
    """
    for role in ("model", *asked):
        if not getattr(inputs, role):
            raise InputError(f"--{role} is missing. Give it as a flag or in the recipe.")
    sources: dict[str, Source] = {}
    for role in ("model", "base", "retrained"):
        if path := getattr(inputs, role, None):
            for one in load.twins(path) if role == "retrained" else [path]:
                sources[role] = load.check(one, role, inputs, weights)
    model = sources["model"]
    check_kinds(inputs, model.adapter, model.scheme, needs is None or needs.linear is not None)
    sets = read_sets(inputs)
    parts = _parts(sets) | {name: sets[name].rows for name in benchmark_of(inputs).own_sets if name in sets}
    comparison: Compared = "holdout" if "holdout" in sets else "counterfactual" if "judging" in parts else None
    if lack := lacking(needs or Needs(), parts, isinstance(inputs, flags.Base) and bool(inputs.base)):
        role = "retain" if lack.flags.startswith("--retain") and "retain" in sets else "forget"
        where = lack.place or sets[role].rows[0].file
        raise InputError(f"{where}: {lack.reason} Give {lack.flags}, or use another --method.")
    held: dict[str, Sequence[Row]] = {role: sets[role].rows for role in ("retain", "holdout") if role in sets}
    held |= {"train": parts["collateral"]} if "collateral" in parts else {}
    found = echoes(sets["forget"].rows, held) if "forget" in sets else ()
    return Checked(sets, parts, comparison, model, sources.get("base"), _log(inputs), found)


def _again(source: Source, path: str, inputs: Inputs) -> Source:
    """The source of a path that, or whose adapter's base, may have been opened since."""
    same = (source.path, source.trust.adapter_base) == (path, inputs.adapter_base)
    return source if same else Source.of(path, inputs)


def _log(inputs: Inputs) -> object:
    """Scores of a retrained model that another tool wrote. Raises `InputError`."""
    if not (isinstance(inputs, flags.RetrainedLog) and inputs.retrained_log):
        return None
    if isinstance(inputs, flags.Retrained) and inputs.retrained:
        raise InputError("--retrained-log stands in for a retrained model: give that or --retrained, not both.")
    content = read_json(inputs.retrained_log, "the log of the retrained model", "Take the file as it was written.")
    return benchmark_of(inputs).read_log(content, inputs.retrained_log)


class Lack(NamedTuple):
    """What a method needs and was not given: the flags that would give it, and a sentence that says why; `place`: of a
    row that lacks it."""

    flags: str
    reason: str
    place: str = ""


def lacking(needs: Needs, parts: Mapping[str, Sequence[Row]], base: bool) -> Lack | None:
    """What is missing of what a method needs, where these parts of the rows are there and a base was given or not."""
    forget, retain, guard = (len(parts.get(name, ())) for name in ("forget", "retain", "guard"))
    if needs.retain and not retain:
        return Lack("--retain", "this method needs rows to keep.")
    if retain < needs.fewest_retain:
        apart = f" ({guard} of {retain + guard} are set apart as guard)" if guard else ""
        return Lack(
            f"--retain with at least {needs.fewest_retain} rows beside those of the guard",
            f"{retain} row(s) to keep{apart}, and this method needs at least {needs.fewest_retain}: gradient, "
            "curvature and acceptance see different ones.",
        )
    if needs.targets and not base and not {"unseen", "counterfactual"} & parts.keys():
        return Lack(
            "--holdout (rows of the same kind) or --base (the model before its fine-tuning)",
            f"{forget} row(s) and nothing that the model never saw, so there is no target to lead them to.",
        )
    unfit = [(row, what) for row in parts.get("forget", ()) if (what := needs.of_rows(row))]
    if unfit:
        row, what = unfit[0]
        return Lack(f"{what} with every forget row", f"{len(unfit)} row(s) without what this method needs.", row.place)
    return None


def check_kinds(inputs: Inputs, given: Adapter | None, scheme: str | None, linear: bool = True) -> None:
    """Raises `InputError` where what is to move or to be saved does not fit what the model is.

    That is: the adapter that was `given`, or whole, and the `scheme` that its weights (an adapter's base's) are
    quantised by, if any.
    `linear`: the method moves linear layers alone, whose change an adapter can hold.
    """
    asked = inputs.subspace if isinstance(inputs, flags.Subspace) else None
    saved = inputs.save_as if isinstance(inputs, commands.Unlearning) else None
    if asked:
        check_subspace(asked, given is not None, scheme)
    if asked and scheme and not given:
        raise InputError(
            f"{inputs.model}: its weights are quantised ({scheme}), so they cannot move. Give the unquantised model, "
            "or an adapter over this one."
        )
    whole = asked == "full" if given else not (asked and is_lora(asked))
    if saved == "adapter" and whole and not linear:
        raise InputError(
            f"--save-as adapter needs --subspace {'adapter' if given else 'lora'}: this method moves whole weights of "
            "all kinds, and an adapter holds those of linear layers alone."
        )
    if saved == "adapter" and given and linear and asked != "adapter" and not scheme and given.no_sum:
        raise InputError(
            f"--save-as adapter: the adapter has {given.no_sum}, so its layers are no sum that a change of whole "
            "weights could be folded into. Use --save-as merged, or --subspace adapter with a method that needs no "
            "curvature of two factors (--method loss_matching)."
        )
    if saved == "merged" and given and scheme:
        raise InputError(
            f"--save-as merged: the base {given.base} is quantised ({scheme}), and merging would round what the "
            "adapter holds. Leave --save-as out, or name the unquantised base with --adapter-base."
        )


def read_sets(inputs: Inputs) -> dict[str, RowSet]:
    """Reads and cross-checks forget, retain, holdout, train and earlier rows, those that were given, and those of the
    benchmark."""
    sets: dict[str, RowSet] = {}
    make_row, columns = benchmark_of(inputs).make_row, inputs.columns
    if make_row and columns:
        raise InputError(f"--columns: --benchmark {inputs.benchmark} has columns of its own. Leave one of them out.")
    for role in ("forget", "retain", "holdout", "train"):
        if path := data_path(inputs, role):
            sets[role] = read(path, role, make_row, columns)
    if columns and not any(found.asked for found in sets.values()):
        raise InputError(f"--columns {' '.join(columns)}: no row has all of these columns. Check their names.")
    earlier = read_earlier(earlier_paths(inputs), make_row, sets.get("forget"), columns)
    sets |= {EARLIER: earlier} if len(earlier) else {}
    if path := data_path(inputs, "forget"):
        for name, file in benchmark_of(inputs).own_sets.items():
            sets[name] = read(beside(path, file), f"benchmark's own {name}", make_row)
            check_disjoint(sets["forget"], sets[name], name)
    for role in ("retain", "holdout"):
        for gone in ("forget", EARLIER):
            if role in sets and gone in sets:
                check_disjoint(sets[gone], sets[role], role)
    if "retain" in sets and "holdout" in sets:
        check_disjoint(sets["retain"], sets["holdout"], "holdout")
    if "train" in sets and "forget" in sets and not without(sets["train"], sets["forget"]):
        raise InputError(
            f"{sets['forget'].rows[0].file}: the forget rows are all there is in {sets['train'].rows[0].file}, so "
            "nothing would be left to keep or to train a twin on. Give the rows to remove only."
        )
    if "train" in sets and "holdout" in sets:
        check_disjoint(sets["holdout"], sets["train"], "train")
    return sets


def read_earlier(
    paths: Sequence[str], make_row: MakeRow | None, forget: RowSet | None, columns: Sequence[str] = ()
) -> RowSet:
    """The distinct rows of earlier requests that are not to be forgotten again by this one. Raises `InputError`."""
    files = [read(path, EARLIER, make_row, columns) for path in paths]
    distinct: dict[tuple[str, ...], Row] = {}
    for row in (row for file in files for row in file.rows):
        distinct.setdefault(row.content, row)
    again = {row.identity for row in forget.rows} if forget else set()
    return RowSet(tuple(row for row in distinct.values() if row.identity not in again))


def _parts(sets: Mapping[str, RowSet]) -> dict[str, tuple[Row, ...]]:
    parts = {"forget": sets["forget"].rows} if "forget" in sets else {}
    if "retain" in sets:
        retain = set_guard_apart(sets["retain"].rows)
        parts["retain"], parts["guard"] = retain.seen, retain.unseen
    if "holdout" in sets:
        halves = halve(sets["holdout"].rows)
        parts["unseen"], parts["judging"] = halves.seen, halves.unseen
    elif "forget" in sets:
        pairs = recombine(sets["forget"].rows, parts.get("retain", ()))
        if len(pairs) >= FEWEST_PAIRS:
            halves = halve(pairs)
            parts["counterfactual"], parts["judging"] = halves.seen, halves.unseen
    if "train" in sets:
        given = {row.identity for name in ("forget", "retain", EARLIER) if name in sets for row in sets[name].rows}
        parts["collateral"] = tuple(row for row in sets["train"].rows if row.identity not in given)
    if EARLIER in sets:
        parts[EARLIER] = sets[EARLIER].rows
    return {name: rows for name, rows in parts.items() if rows}
