"""The document of a request: two printed pages for a file, from the record of its run and its entries in the ledger.

Its wording is fixed; what varies are names, dates, numbers and keyed hashes. It says what was looked for and how, what
the tests found with how many rows, what they cannot show, what was not tested, and where copies remain.
"""

from dataclasses import dataclass

from expunge.reporting import tables
from expunge.reporting.entries import Copy, Opened, Ran, Sealed, Selection
from expunge.reporting.html import environment
from expunge.reporting.record import Record
from expunge.reporting.words import MEANINGS, SETS, number

MOST_IDS, MOST_TESTS, MOST_OTHERS, MOST_COPIES = 28, 12, 6, 6  # what two pages hold
SHOWN = ("forget", "earlier", "retain")
GIVEN_BACK = ("knowledge", "regurgitation", "exact")
ATTACK = "loss_attack"
STATES = {
    "open": "This request is open: no run of the ledger has reached what was asked for.",
    "served": "A run has served this request, and it is still open: what holds its rows here has not been removed.",
    "sealing": "Closing this request began and has not come to its end. It is still open.",
    "sealed": "This request is closed: what held its rows and could be reached here was removed.",
}
FORCED = "It was closed although the verdict of its run does not pass."
RISKS = (
    "A test on the model's answers cannot show that nothing is left in the weights; other questions, other attacks or "
    "further training may bring something back.",
    "Whoever has a copy of the rows, or of a model from before, is not touched by any of this.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request. `run`: what served it; `others`: lines on other requests; `copies`: as sealing found them, else as the
    run did; `limits`: what was not tested."""

    id: str
    state: str
    opened: Opened
    run: Ran
    sealed: Sealed | None
    others: tuple[str, ...]
    copies: tuple[Copy, ...]
    limits: tuple[str, ...]


def render(record: Record, request: Asked) -> str:
    """The page."""
    ids = [row.id for row in request.opened.rows]
    return (
        environment()
        .get_template("document.html.jinja")
        .render(
            record=record,
            request=request,
            state=STATES[request.state] + (f" {FORCED}" if request.sealed and request.sealed.forced else ""),
            search=search(request.opened.selection),
            lineage=lineage(record, request),
            ids=ids[:MOST_IDS],
            more_ids=len(ids) - MOST_IDS,
            headline=tables.headline(record),
            tests=tests(record)[:MOST_TESTS],
            models=tables.models_of(record),
            more_tests=len(tests(record)) - MOST_TESTS,
            meanings={word: MEANINGS[word] for word in record.verdict.counts if word in MEANINGS},
            risks=risks(record),
            others=request.others[:MOST_OTHERS],
            more_others=len(request.others) - MOST_OTHERS,
            copies=request.copies[:MOST_COPIES],
            more_copies=len(request.copies) - MOST_COPIES,
        )
    )


def search(selection: Selection | None) -> list[str]:
    """What was searched and by which rule, in sentences."""
    if not selection:
        return ["The rows were given as a file. How they were found, and in what, is not known to this document."]
    rule, counts = selection.rule, selection.counts
    columns = ", ".join(dict.fromkeys(one.column for one in rule.where))
    found = [f"Searched on {selection.created[:10]}: {selection.rows:,} rows of {selection.train.file}."]
    found += (
        [f"Rows whose column {columns} holds the value that was asked for (values: under the key)."] if columns else []
    )
    if rule.mentions:
        found.append("Rows that mention the person by name, in any column (names: under the key).")
    found.append(
        "The same rows in other spellings, and rows that hold most of a row to forget, in runs of three words."
    )
    decided, undecided = selection.decided, counts.get("undecided", 0)
    found.append(
        f"Found: {counts.get('forget', 0):,} rows to forget. Of those that were a matter of judgement a person decided "
        f"to forget {decided.forget:,} and to keep {decided.keep:,}; {undecided:,} are undecided."
    )
    return found


def lineage(record: Record, request: Asked) -> list[tuple[str, str]]:
    """Models and runs, oldest first."""
    found = []
    if parent := record.parent:
        found.append(("Run before", f"{parent.path}, of {parent.created[:10]}"))
    found.append(("Model before", f"{record.setting('model')} (weights {record.hashes.get('model', 'on a hub')})"))
    found.append(("Model after", f"{request.run.path} (weights {record.hashes.get('output', 'not known')})"))
    name = record.method.name if record.method else "none"
    found.append(("Method", f"{name}, expunge {record.versions.get('expunge')}"))
    found.append(("Record", f"SHA-256 {request.run.record}"))
    return found


def tests(record: Record) -> list[tuple[str, str, tuple[tables.Cell, ...]]]:
    """Set, test and the cells of each model, of the sets that a request is about."""
    titles = [SETS[name].title for name in SHOWN]
    groups = [group for group in tables.comparison(record).groups if group.title in titles]
    return [(group.title, line.metric, line.cells) for group in groups for line in group.lines]


def risks(record: Record) -> list[str]:
    """What may be left all the same, with figures where there are any."""
    scores = {one.metric: one for one in record.scores if (one.set, one.model) == ("forget", "unlearned")}
    found = []
    given = next((scores[name] for name in GIVEN_BACK if name in scores), None)
    if given and given.value is not None and given.high is not None:
        known = round(given.value * given.count)
        found.append(
            f"{known} of {given.count} rows are given back. From so many tests, up to {given.high:.0%} of such rows "
            "could be (95 % interval)."
        )
    if (attack := scores.get(ATTACK)) and attack.low is not None:
        found.append(
            f"Told from never-seen rows by their loss with AUC {number(attack.value)} ({number(attack.low)} to "
            f"{number(attack.high)}; 0.5: not at all; far below 0.5: the model avoids them, which tells too)."
        )
    return [*found, *RISKS]
