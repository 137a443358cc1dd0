"""The public functions, with everything that they take in their signatures; `pipeline` does what they say.

A value is given in Python as on the command line and in a recipe (`recipe`): default < recipe < keyword. Rows are a
file or the rows themselves (dicts, a `datasets.Dataset`); a model is a folder, a hub name or a loaded model with its
`tokenizer`. What is in memory is put into an owner-only folder while the call lasts. `help` of each function lists what
each keyword means, in the words of `config.commands`.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from expunge import pipeline
from expunge.comparison.result import Comparison
from expunge.config import commands, flags
from expunge.config.lora import Lora
from expunge.intake.in_memory import Model, Rows, Tokenizer, called, silent
from expunge.loop.twins import Twin
from expunge.planning.plan import Planned
from expunge.records.attribution import Attribution
from expunge.records.run import Run

Path = str | os.PathLike[str]
Options = Mapping[str, object]  # a method's own, by name (docs/methods)
Say = Callable[[str], object]


@called(pipeline, commands.Unlearn)
def unlearn(
    model: Model | None = None,
    forget: Rows | None = None,
    *,
    retain: Rows | None = None,
    holdout: Rows | None = None,
    base: Model | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    method: Path = "auto",
    options: Options | None = None,
    train_config: Path | None = None,
    subspace: str | Lora = "auto",
    adapter_base: Model | None = None,
    train: Rows | None = None,
    retrained: Model | None = None,
    retrained_log: Path | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    mmlu: Literal["no", "zero-shot", "five-shot"] = "no",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    show_rows: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    restart: bool = False,
    report_to: Sequence[flags.Tracker] = (),
    save_as: Literal["auto", "merged", "adapter"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    force: bool = False,
    earlier: Sequence[Rows] = (),
    curvature: Path | None = None,
    gradient_checkpointing: bool = False,
    ledger: Path | None = None,
    request: str | None = None,
    push_to_hub: str | None = None,
    evidence: flags.EvidenceLevel = "quick",
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> Run:
    """Removes the forget rows from a model and reports how far that worked.

    Returns the run once its output folder is complete: `run.verdict`, `run.rows`, `run.scores`, `run.cost`. The model
    is never written to. Raises `InputError` for wrong input, when nothing is written, and `ExpungeError` where the run
    fails. The same call again goes on where an interrupted one stopped.
    """
    ...


@called(pipeline, commands.Plan)
def plan(
    model: Model | None = None,
    forget: Rows | None = None,
    *,
    retain: Rows | None = None,
    holdout: Rows | None = None,
    base: Model | None = None,
    method: Path = "all",
    options: Options | None = None,
    subspace: str | Lora = "auto",
    adapter_base: Model | None = None,
    train: Rows | None = None,
    retrained: Model | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    show_rows: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    save_as: Literal["auto", "merged", "adapter"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    force: bool = False,
    earlier: Sequence[Rows] = (),
    curvature: Path | None = None,
    gradient_checkpointing: bool = False,
    train_config: Path | None = None,
    memory: float = 24.0,
    evidence: flags.EvidenceLevel = "quick",
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> Planned:
    """Checks the data and says what a run would do and cost, as figures (`planned.estimate`: row passes, FLOPs, bytes,
    seconds by method), which print as the table; loads no weights. Raises `InputError`."""
    ...


@called(pipeline, commands.Retrain)
def retrain(
    base: Model | None = None,
    forget: Rows | None = None,
    train: Rows | None = None,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    model: Model | None = None,
    adapter_base: Model | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    restart: bool = False,
    report_to: Sequence[flags.Tracker] = (),
    train_config: Path | None = None,
    earlier: Sequence[Rows] = (),
    twins: int = 1,
    gradient_checkpointing: bool = False,
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> list[Twin]:
    """Trains retrained twins from the base, without the forget rows, or takes them from the cache: one a seed, with its
    folder and whether it is comparable with the original. Raises `InputError`."""
    ...


@called(pipeline, commands.Curvature)
def fit_curvature(
    model: Model | None = None,
    retain: Rows | None = None,
    *,
    holdout: Rows | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    method: Path = "margin_newton",
    options: Options | None = None,
    subspace: str | Lora = "auto",
    adapter_base: Model | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    gradient_checkpointing: bool = False,
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> pathlib.Path:
    """Fits the curvature of what is to be kept; returns the folder that `unlearn` takes. Raises `InputError`."""
    ...


@called(pipeline, commands.Influence)
def influences(
    model: Model | None = None,
    forget: Rows | None = None,
    train: Rows | None = None,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    subspace: str | Lora = "auto",
    adapter_base: Model | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    show_rows: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    most: int = 10,
    gradient_checkpointing: bool = False,
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> Attribution:
    """Names, for each forget row, the training rows on which what the model knows of it depends most: by how much its
    mean margin would fall without the training row, to first order (`influence.ranking`). Raises `InputError`.
    """
    ...


@called(pipeline, commands.Evaluate)
def evaluate(
    model: Model | None = None,
    unlearned: Model | None = None,
    forget: Rows | None = None,
    *,
    endpoint: str | None = None,
    served_model: str | None = None,
    endpoint_key_file: Path | None = None,
    endpoint_requests: int = 4,
    endpoint_timeout: float = 120.0,
    endpoint_in_clear: bool = False,
    retain: Rows | None = None,
    holdout: Rows | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    adapter_base: Model | None = None,
    train: Rows | None = None,
    retrained: Model | None = None,
    retrained_log: Path | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    mmlu: Literal["no", "zero-shot", "five-shot"] = "no",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    show_rows: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    restart: bool = False,
    earlier: Sequence[Rows] = (),
    evidence: flags.EvidenceLevel = "quick",
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> Run:
    """Judges a model that somebody unlearned: `run.verdict`, `run.rows`, `run.scores`. Raises `InputError`."""
    ...


@called(pipeline, commands.Compare)
def compare(
    model: Model | None = None,
    forget: Rows | None = None,
    *,
    retain: Rows | None = None,
    holdout: Rows | None = None,
    base: Model | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    methods: Sequence[Path] = (),
    subspace: str | Lora = "auto",
    adapter_base: Model | None = None,
    train: Rows | None = None,
    retrained: Model | None = None,
    retrained_log: Path | None = None,
    data_root: Path | None = None,
    benchmark: str = "rows",
    recipe: Path | None = None,
    join: Literal["auto", "space", "newline", "nothing"] = "auto",
    chat_template: bool = False,
    columns: Sequence[str] = (),
    date: str | None = None,
    loss_on: Literal["completion", "all"] = "completion",
    context: int | None = None,
    batch_tokens: int | Literal["auto"] = "auto",
    seed: int = 0,
    device: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    restart: bool = False,
    report_to: Sequence[flags.Tracker] = (),
    seeds: Sequence[int] = (0, 1, 2),
    variants: Mapping[str, Options] | None = None,
    generations: Literal["benchmark", "short", "answers"] = "benchmark",
    evidence: flags.EvidenceLevel = "quick",
    tokens: int | None = None,
    gradient_checkpointing: bool = False,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokenizer: Tokenizer | None = None,
    say: Say = silent,
) -> Comparison:
    """Runs methods with several seeds on one problem, beside one another and retrained models.

    The same call again goes on where an interrupted one stopped: finished cells are kept. Raises `InputError`.
    """
    ...
