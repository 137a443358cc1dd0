"""The user's rows as windows, before any model is loaded: what plans are made for."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from expunge.config.commands import EARLIER, Unlearning
from expunge.data.tokens import Rendering, encode
from expunge.intake.assembly import judged_of
from expunge.intake.rendering import first_rendering
from expunge.intake.sets import Checked
from expunge.loop.trial import SAMPLE_TOKENS, SAMPLES
from expunge.model import load
from expunge.problem import Problem, Split
from expunge.reference.replay import Expected, expected
from expunge.runs.distributed import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SEEN = ("forget", "retain", "guard", "unseen", "counterfactual")


@dataclass(frozen=True, slots=True)
class Rows:
    """Checked rows by part as splits, how they were rendered, and the samples that the rest is judged by."""

    checked: Checked
    splits: dict[str, Split]
    samples: Expected
    rendering: Rendering
    tokenizer: Any

    @classmethod
    def of(cls, checked: Checked, rendering: Rendering, tokenizer: "PreTrainedTokenizerBase") -> "Rows":
        splits = {
            name: Split(name, rows, tuple(encode(rows, rendering, tokenizer))) for name, rows in checked.parts.items()
        }
        samples = expected(SAMPLES, SAMPLE_TOKENS, rendering.context)
        return cls(checked, splits, samples, rendering, tokenizer)

    @classmethod
    def before_loading(cls, config: Unlearning, checked: Checked) -> tuple["Rows", "PreTrainedConfig"]:
        """With the model's configuration; the rendering is settled only once the model is loaded."""
        tokenizer, shape = load.tokenizer_of(checked.model), load.text_shape(checked.model.config)
        rendering = first_rendering(config, checked, tokenizer, load.context_of(shape, config.context))
        return cls.of(checked, rendering, tokenizer), shape

    def problem(
        self, runtime: Runtime, seed: int, shapes: dict[str, Tensor] | None = None, earlier: bool = False
    ) -> Problem:
        """The problem that a method gets, without a model; `shapes`: what may move, as tensors without data; `earlier`:
        the method can be held to the first model of a line of requests."""
        seen = (*SEEN, EARLIER) if earlier and self.checked.first else SEEN
        given = {name: self.splits[name] for name in seen if name in self.splits}
        return Problem(None, self.tokenizer, runtime, self.rendering, given, seed, movable=shapes or {})

    def judged(self, most_kept: int | None) -> dict[str, Split]:
        """The splits that every model is judged on, as many rows of them as the benchmark wants."""
        return judged_of(self.splits, most_kept) | {"samples": replace(self.samples.split, name="samples")}

    @property
    def longest(self) -> int:
        """Tokens of the longest window."""
        every = (*self.splits.values(), self.samples.split)
        return max(len(window.ids) for split in every for window in split.windows)

    def cut(self, context: int) -> "Rows":
        """The same rows in shorter windows."""
        return Rows.of(self.checked, replace(self.rendering, context=context), self.tokenizer)
