"""How fast this machine is at the planned work: a small piece of the model is timed on the spot.

The piece is the model's own configuration with as many layers as stay small and a capped vocabulary (a model that is
small anyway is timed whole), or, where one layer is already large, a Llama layer of width 768, at which matrix
products are as fast as they get. It is timed at the planned batch shape, cut where that would take long. Rates are
FLOP/s as the counter counts, so what does not count (norms, softmax, Python) slows the rate down as it does the run.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from expunge.config import lora
from expunge.model import generation
from expunge.model.select import select
from expunge.model.trace import alike, counter, depth_of, with_layers
from expunge.optim.adamw import adamw
from expunge.runs.distributed import Runtime

LARGEST = 12_000_000  # parameters of the timed piece
VOCABULARY = 4096
MOST_FLOPS = 8e9  # of one timed pass
LONGEST = 512  # tokens of it
GENERATED, PROMPT, NEW = 32, 16, 8  # texts at a time, tokens of their prompts, new ones
REPEATS = 2
clock = time.perf_counter  # a benchmark on a busy machine may put the processor's own time here


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s of training passes, of measuring passes and of generation; seconds of AdamW for each moved parameter."""

    training: float
    measuring: float
    generating: float
    updating: float


class Speed:
    """Rates of one configuration on this machine. Shapes are timed at powers of two, each once, for about a second."""

    def __init__(self, shape: Any, runtime: Runtime, trust_remote_code: bool) -> None:
        self.piece, self.runtime, self.trust_remote_code = _piece(shape, trust_remote_code), runtime, trust_remote_code
        self._matrices = _count(self.piece, trust_remote_code)
        self._rates = cache(self._timed)

    def rates(self, subspace: str, windows: int, tokens: int) -> Rates:
        """At a batch of about so many windows and tokens, cut to as many windows as one timed pass may have."""
        width = _power(min(tokens, LONGEST))
        most = max(1, int(MOST_FLOPS / (6 * self._matrices * width)))
        return self._rates("lora" if lora.is_lora(subspace) else "full", min(_power(windows), most), width)

    def _timed(self, subspace: str, windows: int, tokens: int) -> Rates:
        with torch.random.fork_rng(devices=[]):
            model = _filled(self.piece, self.runtime.device, self.trust_remote_code)
            generation.check(f"a model of type {self.piece.model_type}", model)
            chosen = select(model, subspace, self.runtime.device)
        return _timed(chosen.model, list(chosen.movable.values()), windows, tokens, self.runtime)


def _timed(model: Any, moved: list[torch.Tensor], windows: int, tokens: int, runtime: Runtime) -> Rates:
    ids = torch.zeros(windows, tokens, dtype=torch.long, device=runtime.device)
    fitting = max(1, int(MOST_FLOPS / (2 * _numel(model) * (PROMPT + NEW))))
    prompts = ids.new_zeros(min(GENERATED, fitting), PROMPT)  # as many as are generated at a time: few would be slower
    optimiser = adamw(moved)

    def train() -> None:
        with runtime.autocast():
            loss = _loss(model, ids)
        runtime.backward(loss)

    @torch.no_grad()
    def measure() -> None:
        with runtime.autocast():
            _loss(model, ids)

    def update() -> None:
        runtime.clip(moved, 1.0)
        optimiser.step()

    def generate() -> None:
        with runtime.autocast():
            generation.generate(model, prompts, torch.ones_like(prompts), None, NEW)

    training, measuring = (_rate(work, runtime.device) for work in (train, measure))
    updating = _seconds(update, runtime.device) / sum(tensor.numel() for tensor in moved)
    return Rates(training, measuring, _rate(generate, runtime.device), updating)


def _power(count: int) -> int:
    """The nearest power of two."""
    return 1 << max(0, round(math.log2(max(1, count))))


def _piece(shape: Any, trust_remote_code: bool) -> Any:
    """The configuration itself where it is small; else cut, where that can be and one layer is small; else another."""
    depth = depth_of(shape)
    try:
        piece = with_layers(shape, depth)
        text = piece.get_text_config(decoder=True)
        text.vocab_size = min(text.vocab_size, VOCABULARY)
        if text.pad_token_id is not None:  # embeddings have a row for it
            text.pad_token_id = min(text.pad_token_id, text.vocab_size - 1)
        if (whole := _count(piece, trust_remote_code)) <= LARGEST:
            return piece
        one, two = (_count(with_layers(piece, layers), trust_remote_code) for layers in (1, 2))
        piece = with_layers(
            piece, depth if not alike(piece) else max(1, min(depth, 1 + (LARGEST - one) // max(1, two - one)))
        )
        if _count(piece, trust_remote_code) <= LARGEST < whole:
            return piece
    except Exception:  # whatever a configuration raises for fewer layers or another vocabulary
        if _count(shape, trust_remote_code) <= LARGEST:
            return shape
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=1,
        num_attention_heads=6,
        tie_word_embeddings=True,
    )


def _count(shape: Any, trust_remote_code: bool) -> int:
    with torch.device("meta"):
        return _numel(AutoModelForCausalLM.from_config(shape, trust_remote_code=trust_remote_code))


def _numel(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _filled(shape: Any, device: torch.device, trust_remote_code: bool) -> Any:
    """The model with weights that take no time to draw; their values do not matter to its speed."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust_remote_code)
    model = model.float().to_empty(device=device).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    return model


def _loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


def _rate(work: Callable[[], None], device: torch.device) -> float:
    with counter() as count:  # also warms up
        work()
    return float(count.get_total_flops()) / _seconds(work, device)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """The quickest of a few runs: what else the machine does comes and goes."""
    taken = []
    for _ in range(REPEATS):
        _wait(device)
        begin = clock()
        work()
        _wait(device)
        taken.append(clock() - begin)
    return min(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
