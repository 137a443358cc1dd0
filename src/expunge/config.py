"""Configurations: frozen dataclasses whose fields are the flags. Default < YAML recipe < flag; unknown keys refused.

Imports nothing heavy, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro
import yaml

from expunge import reading, recipes, registry, strict_yaml
from expunge.errors import InputError

FilePath = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER")]
DATA_ROOT = "EXPUNGE_DATA"
LARGEST = 2**63 - 1  # what a seed may be
HUB = "hub:"  # what the name of a hub data set starts with
MODELS = ("model", "adapter_base", "base", "retrained", "unlearned")
ABOVE_ZERO = """
    learning_rate epochs steps tokens forget_rows batch_rows batch_tokens replay_tokens beta width
    damping absolute_damping budget step_size cycles refresh_every passes gradients block
""".split()
ROWS = ("forget", "retain", "holdout", "train")
UNRECORDED = ("config", "restart")  # the resolved configuration is without them
EARLIER = "earlier"
PATHS = (*ROWS, "train_config", "output", *MODELS)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Model, rows and how rows become tokens: what every command that reads rows takes."""

    model: Folder = None
    """Folder or hub name of the causal language model, or folder of a PEFT adapter (LoRA)."""
    adapter_base: Folder = None
    """Base of adapters, in place of the one that their adapter_config.json names."""
    forget: FilePath = None
    """Rows to remove (JSONL, JSON, CSV, Parquet, a datasets folder or hub:owner/name:split)."""
    retain: FilePath = None
    """Rows to keep: as many as you can of what was trained in."""
    holdout: FilePath = None
    """Rows of the same kind that the model never saw: half set the targets, half judge."""
    base: Folder = None
    """The model before its fine-tuning."""
    train: FilePath = None
    """All rows of the fine-tuning, the forget rows among them."""
    retrained: Folder = None
    """A model trained without the forget rows, to compare with."""
    data: Folder = None
    """Folder that relative data paths start from (also: EXPUNGE_DATA)."""
    benchmark: str = "rows"
    """Entry of the benchmarks catalogue: how rows are read and scored."""
    mmlu: Literal["no", "zero-shot", "five-shot"] = "no"
    """Measure MMLU for the benchmark's final score (pip install "expunge[mmlu]"; slow without a GPU)."""
    config: FilePath = None
    """A YAML recipe, or the name of a shipped one (expunge list recipes); flags go over it."""
    join: Literal["auto", "space", "newline", "nothing"] = "auto"
    """What stands between prompt and completion; auto: what the original expects."""
    chat_template: bool = False
    """Render prompt and completion with the tokenizer's chat template, as conversations always are."""
    loss_on: Literal["completion", "all"] = "completion"
    """Tokens that count in prompt + completion rows."""
    context: Annotated[int | None, tyro.conf.arg(metavar="TOKENS")] = None
    """Longest window in tokens; longer rows are cut into windows."""
    batch_tokens: int | Literal["auto"] = "auto"
    """Most tokens, padding included, that go through the model at a time; auto: what memory holds. Results stay."""
    seed: int = 0
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
    """auto, full, lora, or a pattern of parameter names; for an adapter: auto or adapter (its own matrices)."""
    method: str = "loss_matching"
    """Entry of the methods catalogue (expunge list methods)."""
    options: Any = None
    """The method's own options."""
    output: Folder = None
    """Folder to write; must not exist."""
    save: Literal["auto", "merged", "adapter"] = "auto"
    """Whole model, or the adapter alone (of an adapter, or with --subspace lora); auto: what the input is."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the written weights; auto: that of the input."""
    force: bool = False
    """Go on although the rows are not in the model, by the audit or because an earlier run served them."""
    earlier: tuple[str, ...] = ()
    """Files of rows that earlier requests removed from this model: judged again, so that nothing comes back unseen."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""


@dataclass(frozen=True, kw_only=True)
class Compare(Inputs):
    """Runs methods with several seeds on one problem and compares them with one another and with retrained models."""

    subspace: str = "auto"
    """auto, full, lora, or a pattern of parameter names; for an adapter: auto or adapter (its own matrices)."""
    methods: tuple[str, ...] = ()
    """Methods, or names of the recipe's variants; none: the recipe's variants, else all methods."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each method."""
    variants: Annotated[Any, tyro.conf.Suppress] = None
    """Names with a method's options (in the recipe): {name: {method: npo, beta: 0.05, own_steps: true}}."""
    generations: Literal["benchmark", "short", "answers"] = "benchmark"
    """short: a few tokens beyond each reference, without the benchmark's official scores, much faster; answers: short,
    for questions only, so without verdicts, faster still."""
    tokens: int | None = None
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
    """Entry of the methods catalogue to plan for, or all."""
    train_config: FilePath = None
    """How retraining would train (YAML, as for retrain); without it, the defaults."""
    memory: float = 24.0
    """GiB of memory that a run should fit into."""


@dataclass(frozen=True, kw_only=True)
class Retrain(Inputs):
    """Trains the retrained twin: from the base, on the training rows without the forget rows."""

    train_config: FilePath = None
    """YAML with epochs, learning_rate, batch_rows, warmup_share, weight_decay, subspace."""
    earlier: tuple[str, ...] = ()
    """Files of rows that earlier requests removed: left out of the training as the forget rows are."""
    seeds: int = 1
    """Twins to train, from --seed on; several stand in OUTPUT/seed-N, and --retrained takes OUTPUT."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass: less memory, a third more time. With --batch-tokens auto it comes
    on by itself where not even one window fits."""
    output: Folder = None
    """Folder to write; must not exist."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Inputs):
    """Judges an unlearned model on the user's own rows, against the original and a retrained model."""

    unlearned: Folder = None
    """The model to judge."""
    earlier: tuple[str, ...] = ()
    """Files of rows that earlier requests removed from this model: judged again, so that nothing comes back unseen."""
    output: Folder = None
    """Folder to write the record and the report to; must not exist."""


def from_yaml(path: str | Path, kind: type[Any], root: str | None = None) -> dict[str, Any]:
    """The keys of a recipe that a command knows. Raises `InputError` on unknown keys, with a near miss.

    Relative paths in a recipe resolve against the recipe (see `recipes.find` for a shipped one), unless a data root is
    given (by `root`, the recipe itself or the environment), which then holds the files of rows.
    """
    content = read_yaml(path)
    known = [field.name for field in dataclasses.fields(kind)]
    for key in content:
        if key not in known:
            raise InputError(f"{path}: unknown key {reprlib.repr(str(key))}{registry.suggestion(str(key), known)}")
    recipe = recipes.find(path)
    root = root or content.get("data") or os.environ.get(DATA_ROOT)
    resolved = dict(content)
    if isinstance(content.get("data"), str):
        resolved["data"] = str(recipe.beside(content["data"]))

    def place(key: str, value: Any) -> Any:
        if isinstance(value, str):
            reading.check_name(value, f"{path}: {key}")
        if not isinstance(value, str) or (root and key in (*ROWS, EARLIER)):
            return value
        beside = recipe.beside(value)
        is_name = (key in MODELS and not value.startswith(".")) or (key in (*ROWS, EARLIER) and value.startswith(HUB))
        return value if is_name and not beside.exists() else str(beside)

    resolved |= {key: place(key, content[key]) for key in PATHS if key in content}
    if isinstance(content.get(EARLIER), list):
        resolved[EARLIER] = [place(EARLIER, value) for value in content[EARLIER]]
    return resolved


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping, from a file or a shipped recipe's name. Raises `InputError`."""
    file = recipes.find(path).file
    content = strict_yaml.parse(reading.read_text(file, "the recipe"), str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}. Write `key: value` lines.")
    return content


def build(kind: type[Any], values: Mapping[str, Any], source: str) -> Any:
    """A dataclass from plain values, with types checked. Raises `InputError` that names the key."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {key: _meant(value, fields[key].type) if key in fields else value for key, value in values.items()}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{source}: unknown key {reprlib.repr(key)}{registry.suggestion(str(key), list(fields))}")
        _check_type(key, value, fields[key].type, source)
    return kind(**values)


def _meant(value: Any, declared: Any) -> Any:
    """`1e-5`, which YAML 1.1 takes for text, as the number it means, and a list as a tuple."""
    if float in (declared, *get_args(declared)) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if get_origin(declared) is tuple and isinstance(value, list):
        return tuple(value)
    return value


def _check_type(key: str, value: Any, declared: Any, source: str) -> None:
    if get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    allowed = get_args(declared)
    if get_origin(declared) is Literal:
        if value not in allowed:
            choice = ", ".join(map(str, allowed))
            raise InputError(f"{source}: {key} must be one of {choice}, found {reprlib.repr(value)}.")
        return
    if declared is Any or any(get_origin(one) is Literal and value in get_args(one) for one in allowed):
        return
    if get_origin(declared) is tuple:
        if not isinstance(value, tuple):
            raise InputError(f"{source}: {key} must be a list, found {type(value).__name__}.")
        for one in value:
            _check_type(key, one, allowed[0], source)
        return
    types = [one for one in (allowed or (declared,)) if isinstance(one, type)]
    whole_for_float = float in types and isinstance(value, int)
    is_bool = isinstance(value, bool)
    if (is_bool and bool not in types) or not (isinstance(value, tuple(types)) or whole_for_float):
        names = " or ".join("nothing" if one is type(None) else one.__name__ for one in types)
        raise InputError(f"{source}: {key} must be {names}, found {type(value).__name__}.")
    _check_number(key, value, source)


def _check_number(key: str, value: Any, source: str) -> None:
    if not isinstance(value, int | float):
        return
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError(f"{source}: {key} is a number of over 63 bits. Give a smaller one.")
    above = key in ABOVE_ZERO
    if not (math.isfinite(value) and (value > 0 if above else value >= 0)):
        raise InputError(f"{source}: {key} must be a number {'above 0' if above else '0 or more'}, found {value}.")


def check_values(config: Any) -> None:
    """Numbers and paths of a configuration and of its method's options. Raises `InputError`, naming the flag."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value)
        if field.name in (*PATHS, "data", "record") and isinstance(value, str):
            reading.check_name(value, f"given: {field.name}")
        for one in value if isinstance(value, tuple) else (value,):
            _check_number(field.name, one, "given")


def data_path(inputs: Any, role: str) -> str | None:
    """The path of a file of rows, below the data root where one is given and the path is relative."""
    return _below_root(inputs, getattr(inputs, role))


def earlier_paths(inputs: Any) -> list[str]:
    """The files of rows of earlier requests, placed as `data_path` places the others; none for some commands."""
    return [str(_below_root(inputs, path)) for path in getattr(inputs, EARLIER, ())]


def _below_root(inputs: Any, value: str | None) -> str | None:
    root = inputs.data or os.environ.get(DATA_ROOT)
    if value is None or root is None or Path(value).is_absolute():
        return value
    below = Path(root) / value
    return value if value.startswith(HUB) and not below.exists() else str(below)


def resolved(config: Any) -> dict[str, Any]:
    """The configuration as plain values, which replays the run when given as a recipe."""
    plain = {
        key: value for key, value in dataclasses.asdict(config).items() if key not in UNRECORDED and value is not None
    }
    for role in ROWS:
        if role in plain:
            plain[role] = _in_full(data_path(config, role) or "")
    if EARLIER in plain:
        plain[EARLIER] = tuple(_in_full(path) for path in earlier_paths(config))
    for role in (*MODELS, "train_config"):
        if role in plain and Path(plain[role]).exists():
            plain[role] = str(Path(plain[role]).absolute())
    if "output" in plain:
        plain["output"] = str(Path(plain["output"]).absolute())
    plain.pop("data", None)
    return plain


def _in_full(path: str) -> str:
    return path if path.startswith(HUB) and not Path(path).exists() else str(Path(path).absolute())


def to_yaml(values: Mapping[str, Any]) -> str:
    """A recipe that `--config` reads back."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
