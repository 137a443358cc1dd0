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
from functools import cache, partial

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel

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
TOGETHER = (1, 8, 64)  # texts that are generated together, of which the nearest is timed
PROMPT, NEW = 16, 4  # tokens of their prompts, and those that are made one by one
LEAST = 0.1  # of the time of generation, what is made one by one takes: a difference of two timings can be chance
REPEATS = 2
clock = time.perf_counter  # a benchmark on a busy machine may put the processor's own time here


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s of training passes and of measuring passes; seconds of AdamW for each moved parameter."""

    training: float
    measuring: float
    updating: float


class Speed:
    """Rates of one configuration on this machine. Shapes are timed at powers of two, each once, for about a second."""

    def __init__(self, shape: PreTrainedConfig, runtime: Runtime, trust_remote_code: bool) -> None:
        self.piece, self.runtime, self.trust_remote_code = _piece(shape, trust_remote_code), runtime, trust_remote_code
        self._matrices = _count(self.piece, trust_remote_code)
        self._rates, self._going_on = cache(self._timed), cache(self._generated)

    def rates(self, subspace: str, windows: int, tokens: int) -> Rates:
        """At a batch of about so many windows and tokens, cut to as many windows as one timed pass may have."""
        width = _power(min(tokens, LONGEST))
        most = max(1, int(MOST_FLOPS / (6 * self._matrices * width)))
        return self._rates("lora" if lora.is_lora(subspace) else "full", min(_power(windows), most), width)

    def going_on(self, windows: int) -> float:
        """FLOP/s of making tokens one by one, after so many prompts at a time: of few, each takes as long."""
        return self._going_on(min(TOGETHER, key=lambda count: abs(math.log(count / max(1, windows)))))

    def _generated(self, windows: int) -> float:
        with torch.random.fork_rng(devices=[]):
            model = _filled(self.piece, self.runtime.device, self.trust_remote_code)
            generation.check(f"a model of type {self.piece.model_type}", model)
        prompts = torch.zeros(windows, PROMPT, dtype=torch.long, device=self.runtime.device)

        @torch.no_grad()
        def make(tokens: int) -> None:
            with self.runtime.autocast():
                generation.generate(model, prompts, torch.ones_like(prompts), None, tokens)

        (most, long), (least, short) = (_taken(partial(make, n), self.runtime.device) for n in (1 + NEW, 1))
        return (most - least) / max(long - short, LEAST * long)

    def _timed(self, subspace: str, windows: int, tokens: int) -> Rates:
        with torch.random.fork_rng(devices=[]):
            model = _filled(self.piece, self.runtime.device, self.trust_remote_code)
            chosen = select(model, subspace, self.runtime.device)
        return _timed(chosen.model, list(chosen.movable.values()), windows, tokens, self.runtime)


def _timed(model: nn.Module, moved: list[torch.Tensor], windows: int, tokens: int, runtime: Runtime) -> Rates:
    ids = torch.zeros(windows, tokens, dtype=torch.long, device=runtime.device)
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

    training, measuring = (_rate(work, runtime.device) for work in (train, measure))
    updating = _seconds(update, runtime.device) / sum(tensor.numel() for tensor in moved)
    return Rates(training, measuring, updating)


def _power(count: int) -> int:
    """The nearest power of two."""
    return 1 << max(0, round(math.log2(max(1, count))))


def _piece(shape: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedConfig:
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


def _count(shape: PreTrainedConfig, trust_remote_code: bool) -> int:
    with torch.device("meta"):
        return _numel(AutoModelForCausalLM.from_config(shape, trust_remote_code=trust_remote_code))


def _numel(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _filled(shape: PreTrainedConfig, device: torch.device, trust_remote_code: bool) -> PreTrainedModel:
    """The model with weights that take no time to draw; their values do not matter to its speed."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust_remote_code)
    model = model.float().to_empty(device=device).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    return model


def _loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


def _rate(work: Callable[[], None], device: torch.device) -> float:
    flops, seconds = _taken(work, device)
    return flops / seconds


def _taken(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """FLOPs and seconds."""
    with counter() as count:  # also warms up
        work()
    return float(count.get_total_flops()), _seconds(work, device)


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
