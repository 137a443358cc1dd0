"""What a record is: all that one run did and found, as `record.json` has it. No text of any row stands in it.

`records/record.schema.json` is made from these classes (`finding` has what was found), and `decoded` reads nothing of
another form: an unknown key is refused as a missing one is. `Mapping[str, Any]` is open: settings, options and notes of
whoever ran.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import UNSET, Meta, UnsetType

from expunge.errors import InputError
from expunge.files.typed import Part, taken
from expunge.reporting.finding import (
    Attacks,
    Benchmark,
    Count,
    Earlier,
    Hash,
    Ids,
    Lines,
    Maybe,
    Metric,
    Number,
    Row,
    Score,
    Verdict,
)

SCHEMA: Literal[2] = 2
REMEDY = "Name a record.json, or the output folder of a run; a newer or older expunge may write another schema."
HELD_TO = "held_to"  # among a method's notes: the first model of requests in sequence, where rows were held to that


class Attempt(Part, frozen=True):
    """One attempt at a learning rate, and where it ended."""

    learning_rate: float
    steps: Count
    outcome: str
    step: Count
    forget: Number
    target: Number
    arrived: Number
    retain: Number
    guard: Number
    acceptance: Maybe = UNSET


class Change(Part, frozen=True):
    """By one proposed step: what was foreseen or measured."""

    forget: Maybe = UNSET
    retain: Maybe = UNSET
    retain_kl: Maybe = UNSET


class Ends(Part, frozen=True):
    """Before and after one proposed step."""

    before: Number
    after: Number


class Proposal(Part, frozen=True, kw_only=True):
    """A step that was proposed; `step` None: `refused` says why."""

    phase: str
    rule: Mapping[str, Any]
    step: Number
    refused: str | None
    guess: Number
    measurements: Count
    tokens: Count
    row_passes: float
    direction_norm: Number
    predicted: Change | None
    measured: Change | None
    forget: Ends
    retain_kl: Ends
    retain_rise: Ends
    distance: Ends
    notes: Mapping[str, Any]


class Method(Part, frozen=True, kw_only=True):
    """How the method's run went: see `loop.watch.Outcome`."""

    name: str
    options: Mapping[str, Any]
    notes: Mapping[str, Any]
    learning_rate: float
    steps: Count
    tokens: Count
    row_passes: float
    stopped: str
    attempts: tuple[Attempt, ...]
    probe: Mapping[str, Any] | None
    proposals: tuple[Proposal, ...]


class Audit(Part, frozen=True):
    """How many forget rows are in the original at all."""

    in_model: Count
    rows: Count
    reasons: Lines


class Subspace(Part, frozen=True):
    """What could move: so many parameters of all."""

    name: str
    reason: str
    parameters: Count
    of: Count


class Saved(Part, frozen=True, kw_only=True):
    """How the weights were written: see `loop.delivery`. `rounding`: by how much that moved the forget rows' loss."""

    form: Literal["merged", "adapter"]
    note: str
    base: str | UnsetType = UNSET
    dtype: str
    ranks: Mapping[str, Count] | UnsetType = UNSET
    readers: str
    passed_over: str | UnsetType = UNSET
    rounding: Number


class Check(Part, frozen=True, kw_only=True):
    """A look at the losses on the way: means over the watched rows, None where there are none."""

    phase: str
    attempt: Count | UnsetType = UNSET
    rate: Maybe = UNSET
    pressure: Maybe = UNSET
    step: Count
    forget: Number
    target: Number
    arrived: Number
    retain: Number
    guard: Number
    acceptance: Maybe = UNSET


class Counts(Part, frozen=True):
    """The rows of a part of the data."""

    rows: Count
    documents: Count
    answers: Count
    windows: Count
    tokens: Count
    duplicates: Count


class Rendering(Part, frozen=True):
    """How rows became tokens; `losses` of the original on answers by join and by the chat template; `asked`: the join
    that was asked for; `overlap`: rows longer than the context were cut into windows that share half of it, and else
    where the window before ended."""

    join: str
    asked: str
    losses: Mapping[str, Number]
    end_documents: bool
    end_answers: bool
    date: str | None
    chat_template: bool
    conversations: Count
    loss_on: str
    context: Count
    overlap: bool = True


class Parent(Part, frozen=True):
    """The run whose output was this run's model; `missing`: served rows that were not given again."""

    path: str
    record: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created: str
    same_weights: bool | None
    same_key: bool
    served: Ids
    served_again: Ids
    missing: Ids


class Holder(Part, frozen=True):
    """What still holds the rows after this run, and where."""

    what: str
    where: str


class File(Part, frozen=True):
    """A file of the output; of a link neither hash nor size."""

    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]
    bytes: Count


class BatchTokens(Part, frozen=True):
    """Tokens at a time through the model: begun with, ended at (None: no limit), and how often it was halved."""

    begun: Count | None
    tokens: Count | None
    halvings: Count
    texts: Count | None


class Apart(Part, frozen=True):
    """How far losses of rows are apart, in nats per token."""

    mean: float
    most: float


class Beside(Part, frozen=True):
    """A served model beside the folder that was delivered; `alike`: all losses near, and few answers differ."""

    answers: Count
    same_answers: Count
    loss_apart: Apart | None
    alike: bool


class Answered(Part, frozen=True, kw_only=True):
    """Who answered for the unlearned model, how it was asked, and what could not be had; the address holds no key."""

    url: str
    model: str
    offers: Lines
    prompts: str
    tokens_counted_alike: bool | None
    conversations: str
    log_probabilities: str
    notes: Lines
    beside_the_folder: Beside | None


class Record(Part, frozen=True, kw_only=True):
    """What one run of `expunge unlearn` or `expunge evaluate` did and found. No text of any row stands in it."""

    schema: Literal[2]
    command: Literal["unlearn", "evaluate"]
    created: str
    verdict: Verdict
    attacks: Attacks
    scores: tuple[Score, ...]
    metrics: Mapping[str, Metric]
    benchmark: Benchmark | None
    rows: tuple[Row, ...]
    earlier: Earlier | None
    losses: Mapping[str, Mapping[str, tuple[Number, ...]]]
    limits: Lines
    method: Method | None
    audit: Audit | None
    subspace: Subspace | None
    save: Saved | None
    history: tuple[Check, ...]
    data: Mapping[str, Counts]
    rendering: Rendering
    config: Mapping[str, Any]
    hashes: Mapping[str, Hash]
    parent: Parent | None
    holders: tuple[Holder, ...]
    key: Hash
    row_files: Mapping[str, Hash]
    files: Mapping[str, File]
    versions: Mapping[str, str]
    machine: str
    seconds: Mapping[str, Annotated[float, Meta(ge=0)]]
    interruptions: Count
    peak_memory_bytes: Count
    batch_tokens: BatchTokens | None
    answered: Answered | UnsetType = UNSET

    def setting(self, name: str) -> str | None:
        """A setting of the run that is text; None where it has none of the name."""
        value = self.config.get(name)
        return value if isinstance(value, str) else None

    def settings(self, name: str) -> tuple[str, ...]:
        """A setting that is a list of texts, such as paths."""
        value = self.config.get(name)
        return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else ()

    @property
    def served(self) -> set[str]:
        """Keyed hashes of all rows that this run and those before it were to remove."""
        earlier = self.earlier.rows if self.earlier else ()
        return {row.id for row in (*self.rows, *earlier)} | set(self.parent.served if self.parent else ())


def proposal(entry: Mapping[str, Any]) -> Proposal:
    """From the entry that `loop.proposals` writes."""
    changes = {name: None if entry[name] is None else Change(**entry[name]) for name in ("predicted", "measured")}
    ends = {name: Ends(**entry[name]) for name in ("forget", "retain_kl", "retain_rise", "distance")}
    return Proposal(**{**entry, **changes, **ends})


def checks(entries: Iterable[Mapping[str, Any]]) -> tuple[Check, ...]:
    """From the entries of a run's history."""
    return tuple(Check(**one) for one in entries)


def decoded(content: object, where: str) -> Record:
    """A record from what its JSON holds. Raises `InputError` in one line: the file, the place in it and the remedy."""
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(f"{where}: not a record of schema {SCHEMA}. {REMEDY}")
    return taken(content, Record, where)


class Text(TypedDict):
    """What `--show-rows` hands over of a row beside the record; `generated` by model, None where there is none."""

    prompt: str | None
    completion: str | None
    generated: Mapping[str, str | None]


Texts = Mapping[str, Text]  # by row name


def schema() -> dict[str, object]:
    """The form of a record as JSON Schema."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": f"expunge record, schema {SCHEMA}", **msgspec.json.schema(Record)}
