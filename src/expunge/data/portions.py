"""How many tokens go through the model at a time: as many as memory holds, less wherever it did not.

A batch that does not fit is cut, and its parts are weighted by their shares, so sums and means over it stay what they
were: the same rows are drawn, and a step is the mean over all of them, however many parts it took. Only rounding can
differ, and what is random by batch rather than by row (dropout, sampled replay, Sophia's noise).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

from expunge.data.batches import Batch
from expunge.errors import DoesNotFit
from expunge.runs.distributed import is_out_of_memory, release_memory

T = TypeVar("T")
REMEDIES = "Use --gradient-checkpointing, --subspace lora, a smaller --context, or a device with more memory."


class Learnt(TypedDict):
    """What memory has taught, for checkpoints."""

    tokens: int | None
    texts: int | None
    halvings: int


class Figures(Learnt):
    """The same for the record and the log, with where the limit began."""

    begun: int | None


@dataclass(slots=True)
class Portions:
    """The most places (tokens, padding included) of a batch that go through the model at a time; None: no limit.

    `adapts`: halved where memory does not hold a batch, else that is an error. `lighter` is called where memory does
    not hold a single window: it makes passes take less, or returns False. `texts` limits generation in the same way.
    """

    tokens: int | None = None
    adapts: bool = True
    lighter: Callable[[], bool] | None = field(default=None, repr=False)
    texts: int | None = None
    begun: int | None = None
    halvings: int = 0

    def begin(self, tokens: int) -> None:
        """Starts from a guess, unless a limit was given."""
        if self.adapts and self.tokens is None:
            self.tokens = self.begun = tokens

    def fits(self, part: Batch, work: Callable[[Batch], None]) -> bool:
        """Whether memory held `work(part)`; where not, parts must be smaller from now on.

        Raises `DoesNotFit` where they cannot be. What the work had begun is not undone.
        """
        if _held(work, part):
            return True
        self._cut(part)
        return False

    def each(self, batch: Batch, work: Callable[[Batch], None]) -> None:
        """Calls `work` with the parts of a batch, in their order; one that memory does not hold is cut and tried again.

        So the work must change nothing before it has all that it asks of the model.
        """
        waiting = batch.parts(self.tokens)[::-1]
        while waiting:
            part = waiting.pop()
            if not self.fits(part, work):
                waiting += part.parts(self.tokens)[::-1]

    def generate(self, prompts: Sequence[T], work: Callable[[Sequence[T]], None]) -> None:
        """Calls `work` with the prompts, in their order, as many at a time as memory holds."""
        waiting = list(prompts)
        while waiting:
            some = waiting[: self.texts]
            if _held(work, some):
                del waiting[: len(some)]
            elif not self.adapts or len(some) == 1:
                raise DoesNotFit(f"memory does not hold the generation of {len(some)} texts. {REMEDIES}")
            else:
                self.texts = len(some) // 2
                self.halvings += 1

    def state_dict(self) -> Learnt:
        """What memory has taught, for checkpoints: parts of other sizes would round otherwise."""
        return {"tokens": self.tokens, "texts": self.texts, "halvings": self.halvings}

    def load_state_dict(self, state: Learnt) -> None:
        """Puts back what `state_dict` returned."""
        self.tokens, self.texts, self.halvings = state["tokens"], state["texts"], state["halvings"]

    def figures(self) -> Figures:
        """For the record and the log: where the limit began and stands, and how often it was halved."""
        return {"begun": self.begun, "tokens": self.tokens, "halvings": self.halvings, "texts": self.texts}

    def _cut(self, part: Batch) -> None:
        windows, width = part.ids.shape
        if not self.adapts:
            raise DoesNotFit(
                f"memory does not hold {part.size} tokens at a time. Give a smaller --batch-tokens, or auto. {REMEDIES}"
            )
        if windows > 1:
            self.tokens = part.size // 2
            self.halvings += 1
        elif self.lighter is None or not self.lighter():
            raise DoesNotFit(f"memory does not hold a single window of {width} tokens. {REMEDIES}")


def _held(work: Callable[[T], None], given: T) -> bool:
    """Whether memory held the work. The error is gone, and with it what its frames held, before memory is released."""
    try:
        work(given)
        return True
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return False
