"""The flags that several commands take, each said once: a command is made of those that it reads.

A flag of one name means one thing wherever it is taken; a test compares them all. Fields of the base that is named last
come first. Imports nothing heavy, so that `--help` answers at once.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from expunge.config import lora
from expunge.config.bounds import AtLeast, Count, Names, Positive, Told

RowFile = Annotated[str | None, tyro.conf.arg(metavar="FILE"), Names("rows")]
RowFiles = Annotated[tuple[str, ...], Names("rows")]
ModelFolder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER"), Names("model")]
Settings = Annotated[str | None, tyro.conf.arg(metavar="FILE"), Names("settings")]
RecipeFile = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER"), Names("folder")]
Place = Annotated[str, Names("folder")]
AUTO, METHOD = "auto", "margin_newton"  # which way is found by sizes; what unlearns then
Tracker = Literal["tensorboard", "trackio", "wandb"]
EvidenceLevel = Literal["quick", "full", "audit"]


@dataclass(frozen=True, kw_only=True)
class Model:
    model: ModelFolder = None
    """Folder or hub name of the causal language model, folder of a PEFT adapter (LoRA), or a GGUF file."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    adapter_base: ModelFolder = None
    """Base of adapters, in place of the one that their adapter_config.json names."""
    allow_pickle: bool = False
    """Load weights stored as pickle, which can run code."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


@dataclass(frozen=True, kw_only=True)
class Forget:
    forget: RowFile = None
    """Rows to remove (JSONL, JSON, CSV, Parquet, a datasets folder or hub:owner/name:split)."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    retain: RowFile = None
    """Rows to keep: as many as you can of what was trained in."""
    holdout: RowFile = None
    """Rows of the same kind that the model never saw: half set the targets, half judge."""


@dataclass(frozen=True, kw_only=True)
class Train:
    train: RowFile = None
    """All rows of the fine-tuning, the forget rows among them."""


@dataclass(frozen=True, kw_only=True)
class Base:
    base: ModelFolder = None
    """The model before its fine-tuning (--adapter-base is what an adapter stands on)."""


@dataclass(frozen=True, kw_only=True)
class Retrained:
    retrained: ModelFolder = None
    """A model trained without the forget rows, to compare with."""


@dataclass(frozen=True, kw_only=True)
class RetrainedLog:
    retrained_log: Settings = None
    """Its scores as another tool wrote them (TOFU_EVAL.json), where the retrained model itself is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Unlearned:
    unlearned: ModelFolder = None
    """The model to judge; beside --endpoint, the folder that is said to be served, to compare the two."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
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


@dataclass(frozen=True, kw_only=True)
class Earlier:
    earlier: RowFiles = ()
    """Files of rows that earlier requests removed from this model: judged again, so that nothing comes back unseen;
    left out of the training of a twin."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    columns: tuple[str, ...] = ()
    """Which columns of the files make a row, where that cannot be told: prompt=question completion=reply, text=body,
    messages=turns, or a text around columns: prompt="{title}: {body}"."""


@dataclass(frozen=True, kw_only=True)
class Reading(Columns):
    data_root: Folder = None
    """Folder that relative paths of rows start from (also: EXPUNGE_DATA)."""
    benchmark: str = "rows"
    """Entry of the benchmarks catalogue: how rows are read and scored."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    join: Literal["auto", "space", "newline", "nothing"] = "auto"
    """What stands between prompt and completion; auto: what the original expects, the chat template among it."""
    chat_template: bool = False
    """Render prompt and completion with the tokenizer's chat template, as conversations always are."""
    date: Annotated[str | None, tyro.conf.arg(metavar="YYYY-MM-DD")] = None
    """The date that chat templates get that write one: that of the training; none: today's, throughout the run."""
    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that count in prompt + completion rows."""
    context: Annotated[int | None, tyro.conf.arg(metavar="TOKENS"), AtLeast(0)] = None
    """Longest window in tokens; longer rows are cut into windows, side by side or overlapping by half, as the original
    knows them better. Give that of the training."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of everything random."""


@dataclass(frozen=True, kw_only=True)
class Machine(Seed):
    batch_tokens: Count | Literal["auto"] = "auto"
    """Most tokens, padding included, that go through the model at a time; auto: what memory holds. Results stay."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    recipe: RecipeFile = None
    """A YAML recipe, or the name of a shipped one (expunge list recipes); flags go over it."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    show_rows: bool = False
    """Show row text, names and generations in what is written (redacted by default)."""


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    overwrite: bool = False
    """Replace what expunge wrote to this output before, once the new one is whole; anything else there is refused."""


@dataclass(frozen=True, kw_only=True)
class Output(Overwrite):
    output: Folder = None
    """Folder to write (filter: a file); must not exist, unless this command says so."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """As `Output`, where it must be given."""

    output: Place
    """Folder to write (filter: a file); must not exist, unless this command says so."""


@dataclass(frozen=True, kw_only=True)
class ReportTo:
    report_to: tuple[Tracker, ...] = ()
    """Trackers that get the figures of the log while the run lasts, never text or names. tensorboard's files lie in
    OUTPUT.tensorboard."""


@dataclass(frozen=True, kw_only=True)
class Restart:
    restart: bool = False
    """Throw away what an interrupted run of this output left, and begin anew."""


@dataclass(frozen=True, kw_only=True)
class Subspace:
    subspace: Annotated[str, Told(lora.text)] = "auto"
    """auto, full, lora, lora with settings (lora:r=16,alpha=32,targets=q_proj+v_proj), or a pattern of parameter names;
    for an adapter: auto, adapter (its own matrices) or full (merged in memory; not for a curvature)."""


@dataclass(frozen=True, kw_only=True)
class Recompute:
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""


@dataclass(frozen=True, kw_only=True)
class Method:
    method: str = AUTO
    """auto (margin_newton; or retraining, where that takes as little and --train-config says how), an entry of the
    methods catalogue (expunge list methods), or a Python file with one."""
    options: Any = None
    """The method's own options; with auto, those of margin_newton."""


@dataclass(frozen=True, kw_only=True)
class Dtype:
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the written weights; auto: that of the input. Float32 is written, and said, where rounding to it would
    move the loss of the forget rows by more than 2 %."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    evidence: EvidenceLevel = "quick"
    """How the rows are asked for: quick, as they stand in the files; full, also under the attacks that somebody makes
    who has the model; audit, under all of them (expunge list attacks). plan says what a level costs."""


@dataclass(frozen=True, kw_only=True)
class Mmlu:
    mmlu: Literal["no", "zero-shot", "five-shot"] = "no"
    """Measure MMLU for the benchmark's final score (pip install "expunge[mmlu]"; slow without a GPU)."""


@dataclass(frozen=True, kw_only=True)
class Training:
    train_config: Settings = None
    """How a twin is trained: YAML with epochs, learning_rate, batch_rows, warmup_share, weight_decay, subspace."""


@dataclass(frozen=True, kw_only=True)
class OnLedger:
    ledger: Folder = None
    """Folder of the ledger of requests."""


@dataclass(frozen=True, kw_only=True)
class Yes:
    yes: bool = False
    """Do not ask."""


@dataclass(frozen=True, kw_only=True)
class Inputs(Recipe, Machine, Rendering, Reading, Trust, Model):
    """What every command that reads rows takes beside the rows: the model, and how rows become tokens."""
