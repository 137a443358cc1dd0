"""Configurations: frozen dataclasses whose fields are the flags. Default < YAML recipe < flag; unknown keys refused.

Imports nothing heavy, so that `--help` answers at once.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from expunge.config.bounds import AtLeast, Count, Names, Positive, fields_naming

RowFile = Annotated[str | None, tyro.conf.arg(metavar="FILE"), Names("rows")]
RowFiles = Annotated[tuple[str, ...], Names("rows")]
ModelFolder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER"), Names("model")]
Settings = Annotated[str | None, tyro.conf.arg(metavar="FILE"), Names("settings")]
Recipe = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER"), Names("folder")]
Evidence = Literal["quick", "full", "audit"]
HUB = "hub:"  # what the name of a hub data set starts with
EARLIER = "earlier"
AUTO, METHOD = "auto", "margin_newton"  # which way is found by sizes; what unlearns then


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Model, rows and how rows become tokens: what every command that reads rows takes."""

    model: ModelFolder = None
    """Folder or hub name of the causal language model, folder of a PEFT adapter (LoRA), or a GGUF file."""
    adapter_base: ModelFolder = None
    """Base of adapters, in place of the one that their adapter_config.json names."""
    forget: RowFile = None
    """Rows to remove (JSONL, JSON, CSV, Parquet, a datasets folder or hub:owner/name:split)."""
    retain: RowFile = None
    """Rows to keep: as many as you can of what was trained in."""
    holdout: RowFile = None
    """Rows of the same kind that the model never saw: half set the targets, half judge."""
    base: ModelFolder = None
    """The model before its fine-tuning."""
    train: RowFile = None
    """All rows of the fine-tuning, the forget rows among them."""
    retrained: ModelFolder = None
    """A model trained without the forget rows, to compare with."""
    retrained_log: Settings = None
    """Its scores as another tool wrote them (TOFU_EVAL.json), where the model itself is not at hand."""
    data: Folder = None
    """Folder that relative data paths start from (also: EXPUNGE_DATA)."""
    benchmark: str = "rows"
    """Entry of the benchmarks catalogue: how rows are read and scored."""
    mmlu: Literal["no", "zero-shot", "five-shot"] = "no"
    """Measure MMLU for the benchmark's final score (pip install "expunge[mmlu]"; slow without a GPU)."""
    config: Recipe = None
    """A YAML recipe, or the name of a shipped one (expunge list recipes); flags go over it."""
    join: Literal["auto", "space", "newline", "nothing"] = "auto"
    """What stands between prompt and completion; auto: what the original expects."""
    chat_template: bool = False
    """Render prompt and completion with the tokenizer's chat template, as conversations always are."""
    columns: tuple[str, ...] = ()
    """Which columns of the files make a row, where that cannot be told: prompt=question completion=reply, text=body,
    messages=turns, or a text around columns: prompt="{title}: {body}"."""
    date: Annotated[str | None, tyro.conf.arg(metavar="YYYY-MM-DD")] = None
    """The date that chat templates get that write one: that of the training; none: today's, throughout the run."""
    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that count in prompt + completion rows."""
    context: Annotated[int | None, tyro.conf.arg(metavar="TOKENS"), AtLeast(0)] = None
    """Longest window in tokens; longer rows are cut into windows."""
    batch_tokens: Count | Literal["auto"] = "auto"
    """Most tokens, padding included, that go through the model at a time; auto: what memory holds. Results stay."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    show_rows: bool = False
    """Show row text, names and generations in reports (redacted by default)."""
    allow_pickle: bool = False
    """Load weights stored as pickle, which can run code."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    restart: bool = False
    """Throw away what an interrupted run of this output left, and begin anew."""


@dataclass(frozen=True, kw_only=True)
class Unlearn(Inputs):
    """Removes the forget rows from the model and reports how far that worked."""

    subspace: str = "auto"
    """auto, full, lora, or a pattern of parameter names; for an adapter: auto, adapter (its own matrices) or full
    (merged in memory)."""
    method: str = AUTO
    """auto (margin_newton; or retraining, where that takes as little and --train-config says how), an entry of the
    methods catalogue (expunge list methods), or a Python file with one."""
    options: Any = None
    """The method's own options; with auto, those of margin_newton."""
    train_config: Settings = None
    """How retraining would train (YAML, as for retrain): with --base and --train, --method auto may choose it."""
    output: Folder = None
    """Folder to write; must not exist."""
    save: Literal["auto", "merged", "adapter"] = "auto"
    """Whole model (merged), or an adapter: the one given, its LoRA (--subspace lora), or the change of linear layers in
    low rank; auto: what the input is."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the written weights; auto: that of the input."""
    force: bool = False
    """Go on although the rows are not in the model, by the audit or because an earlier run served them."""
    earlier: RowFiles = ()
    """Files of rows that earlier requests removed from this model: judged again, so that nothing comes back unseen."""
    evidence: Evidence = "quick"
    """How the rows are asked for: quick, as they stand in the files; full, also under the attacks that somebody makes
    who has the model; audit, under all of them (expunge list attacks). plan says what a level costs."""
    curvature: Folder = None
    """What expunge curvature saved for this model, or for the one that it was made of: nothing is fitted then."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""
    ledger: Folder = None
    """Folder of the ledger to enter this run in: earlier requests there are judged again while their rows exist."""
    request: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """Name of the request in the ledger, such as its number."""


@dataclass(frozen=True, kw_only=True)
class Compare(Inputs):
    """Runs methods with several seeds on one problem and compares them with one another and with retrained models."""

    subspace: str = "auto"
    """auto, full, lora, or a pattern of parameter names; for an adapter: auto, adapter (its own matrices) or full
    (merged in memory)."""
    methods: tuple[str, ...] = ()
    """Methods, or names of the recipe's variants; none: the recipe's variants, else all methods."""
    seeds: tuple[Annotated[int, AtLeast(0)], ...] = (0, 1, 2)
    """Seeds of each method."""
    variants: Annotated[Any, tyro.conf.Suppress] = None
    """Names with a method's options (in the recipe): {name: {method: npo, beta: 0.05, own_steps: true}}."""
    generations: Literal["benchmark", "short", "answers"] = "benchmark"
    """short: a few tokens beyond each reference, without the benchmark's official scores, much faster; answers: short,
    for questions only, so without verdicts, faster still."""
    tokens: Count | None = None
    """Budget of tokens through the model in optimiser steps, the same for all methods; none: each its own steps."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""
    output: Folder = None
    """Folder to write tables, plot and page to; must not exist."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights that are judged; auto: that of the input."""


@dataclass(frozen=True, kw_only=True)
class Plan(Unlearn):
    """Checks the data and shows what a run would do and cost; takes the flags of unlearn."""

    method: str = "all"
    """Entry of the methods catalogue to plan for, auto, or all."""
    memory: Positive = 24.0
    """GiB of memory that a run should fit into."""


@dataclass(frozen=True, kw_only=True)
class Retrain(Inputs):
    """Trains the retrained twin: from the base, on the training rows without the forget rows."""

    train_config: Settings = None
    """YAML with epochs, learning_rate, batch_rows, warmup_share, weight_decay, subspace."""
    earlier: RowFiles = ()
    """Files of rows that earlier requests removed: left out of the training as the forget rows are."""
    seeds: Annotated[int, AtLeast(0)] = 1
    """Twins to train, from --seed on; several stand in OUTPUT/seed-N, and --retrained takes OUTPUT."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""
    output: Folder = None
    """Folder to write; must not exist."""


@dataclass(frozen=True, kw_only=True)
class Curvature(Inputs):
    """Fits the curvature of what is to be kept, and saves it for requests to come (unlearn --curvature)."""

    subspace: str = "auto"
    """auto, full, lora, or a pattern of parameter names; for an adapter: auto or adapter (its own matrices)."""
    method: str = METHOD
    """Entry of the methods catalogue that takes a curvature of two factors a layer, or a Python file with one."""
    options: Any = None
    """The method's own options: those of the curvature count, and the rows that it is fitted on."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""
    output: Folder = None
    """Folder to write; must not exist. It tells of the rows, and only its owner may read it."""


@dataclass(frozen=True, kw_only=True)
class Influence(Inputs):
    """For each row of --forget the rows of --train on which what the model knows of it depends most."""

    subspace: str = "auto"
    """auto, full, lora, or a pattern of parameter names; for an adapter: auto, adapter (its own matrices) or full
    (merged in memory)."""
    most: Count = 10
    """Training rows that are listed for each."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""
    output: Folder = None
    """Folder to write the list to; must not exist."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Inputs):
    """Judges an unlearned model on the user's own rows, against the original and a retrained model."""

    unlearned: ModelFolder = None
    """The model to judge; beside --endpoint, the folder that is said to be served, to compare the two."""
    endpoint: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Address of an OpenAI-compatible server (http://127.0.0.1:8000/v1) that serves the model to judge. The rows are
    sent there; its key, if any, stands in EXPUNGE_API_KEY."""
    served_model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the model on the server; none: the only one that it offers."""
    endpoint_key_file: Settings = None
    """File with the key of the server, in place of EXPUNGE_API_KEY."""
    endpoint_requests: Count = 4
    """Requests that the server gets at a time."""
    endpoint_timeout: Positive = 120.0
    """Seconds to wait for one answer."""
    endpoint_in_clear: bool = False
    """Send rows by plain http to a server outside this machine and private networks: whoever is on the way reads
    them."""
    earlier: RowFiles = ()
    """Files of rows that earlier requests removed from this model: judged again, so that nothing comes back unseen."""
    evidence: Evidence = "quick"
    """How the rows are asked for: quick, as they stand in the files; full, also under the attacks that somebody makes
    who has the model; audit, under all of them (expunge list attacks). plan says what a level costs."""
    output: Folder = None
    """Folder to write the record and the report to; must not exist."""


ROWS = tuple(name for name in fields_naming(Inputs, "rows") if name != EARLIER)
MODELS = tuple(dict.fromkeys((*fields_naming(Inputs, "model"), *fields_naming(Evaluate, "model"))))
