"""Configurations: frozen dataclasses whose fields are the flags. Default < YAML recipe < flag; unknown keys refused.

Each is made of the flags that its command reads (`config.flags`), and of its own. Imports nothing heavy, so that
`--help` answers at once.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from expunge.config import flags
from expunge.config.bounds import AtLeast, Count, Positive, fields_naming
from expunge.config.flags import METHOD, Folder, Inputs

HUB = "hub:"  # what the name of a hub data set starts with
EARLIER = "earlier"


@dataclass(frozen=True, kw_only=True)
class Unlearning(
    flags.Training,
    flags.Evidence,
    flags.Earlier,
    flags.Dtype,
    flags.Recompute,
    flags.Method,
    flags.Subspace,
    flags.Shown,
    flags.Retrained,
    flags.Train,
    flags.Base,
    flags.Kept,
    flags.Forget,
    Inputs,
):
    """What decides how an unlearning goes, and what it costs."""

    save_as: Literal["auto", "merged", "adapter"] = "auto"
    """Whole model (merged), or an adapter: the one given, its LoRA (--subspace lora), or the change of linear layers in
    low rank; auto: what the input is."""
    force: bool = False
    """Go on although the rows are not in the model, by the audit or because an earlier run served them."""
    curvature: Folder = None
    """What expunge curvature saved for this model, or for the one that it was made of: nothing is fitted then."""


@dataclass(frozen=True, kw_only=True)
class Unlearn(flags.OnLedger, flags.ReportTo, flags.Restart, flags.Output, flags.Mmlu, flags.RetrainedLog, Unlearning):
    """Removes the forget rows from the model and reports how far that worked.

    With --ledger the run is entered there, and earlier requests are judged again while their rows exist.
    """

    request: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """Name of the request in the ledger, such as its number."""
    push_to_hub: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None
    """Repository of the Hugging Face hub (private, made where there is none) to put the model and its card into, once
    the run is complete; record and report stay here."""


@dataclass(frozen=True, kw_only=True)
class Compare(
    flags.Evidence,
    flags.ReportTo,
    flags.Restart,
    flags.Output,
    flags.Dtype,
    flags.Recompute,
    flags.Subspace,
    flags.RetrainedLog,
    flags.Retrained,
    flags.Train,
    flags.Base,
    flags.Kept,
    flags.Forget,
    Inputs,
):
    """Runs methods with several seeds on one problem and compares them with one another and with retrained models.

    Tables, plot and page are written.
    """

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


@dataclass(frozen=True, kw_only=True)
class Plan(Unlearning):
    """Checks the data and shows what a run would do and cost.

    It plans for --method, or for all; a recipe of unlearn does, and without --train-config retraining is planned with
    the defaults.
    """

    method: str = "all"
    """auto (margin_newton; or retraining, where that takes as little and --train-config says how), an entry of the
    methods catalogue (expunge list methods), or a Python file with one."""
    memory: Positive = 24.0
    """GiB of memory that a run should fit into."""


@dataclass(frozen=True, kw_only=True)
class Retrain(
    flags.ReportTo,
    flags.Restart,
    flags.Output,
    flags.Recompute,
    flags.Training,
    flags.Earlier,
    flags.Train,
    flags.Base,
    flags.Forget,
    Inputs,
):
    """Trains the retrained twin: from the base, on the training rows without the forget rows."""

    twins: Count = 1
    """Twins to train, one a seed, from --seed on; several stand in OUTPUT/seed-N, and --retrained takes OUTPUT."""


@dataclass(frozen=True, kw_only=True)
class Curvature(flags.Output, flags.Recompute, flags.Method, flags.Subspace, flags.Kept, Inputs):
    """Fits the curvature of what is to be kept, and saves it for requests to come (unlearn --curvature).

    Of --method, one that takes a curvature of two factors a layer, and of its options those of the curvature count,
    and the rows that it is fitted on. What is written tells of the rows, and only its owner may read it.
    """

    method: str = METHOD
    """auto (margin_newton; or retraining, where that takes as little and --train-config says how), an entry of the
    methods catalogue (expunge list methods), or a Python file with one."""


@dataclass(frozen=True, kw_only=True)
class Influence(flags.Output, flags.Recompute, flags.Subspace, flags.Shown, flags.Train, flags.Forget, Inputs):
    """For each row of --forget the rows of --train on which what the model knows of it depends most."""

    most: Count = 10
    """Training rows that are listed for each."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(
    flags.Restart,
    flags.Output,
    flags.Evidence,
    flags.Earlier,
    flags.Mmlu,
    flags.RetrainedLog,
    flags.Retrained,
    flags.Train,
    flags.Kept,
    flags.Forget,
    flags.Endpoint,
    flags.Unlearned,
    flags.Shown,
    Inputs,
):
    """Judges an unlearned model on the user's own rows, against the original and a retrained model."""


BY_NAME: dict[str, type[Any]] = {
    "plan": Plan,
    "unlearn": Unlearn,
    "retrain": Retrain,
    "curvature": Curvature,
    "influence": Influence,
    "evaluate": Evaluate,
    "compare": Compare,
}
ROWS = ("forget", "retain", "holdout", "train")
MODELS = tuple(dict.fromkeys((*fields_naming(Unlearn, "model"), *fields_naming(Evaluate, "model"))))


def taking(name: str) -> list[str]:
    """The commands that read rows and take a flag."""
    return [command for command, kind in BY_NAME.items() if name in {field.name for field in fields(kind)}]
