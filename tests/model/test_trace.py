"""FLOPs and bytes without data: against PyTorch's counter on real weights, and a shallow trace against a whole one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.intake.sets import Checked
from expunge.loop.phases import apply, cost
from expunge.methods.gradient_difference import GradientDifference
from expunge.model import trace
from expunge.model.select import select
from expunge.model.source import Source
from expunge.planning.rows import Rows
from problems import problem_of

WITHIN = 0.05
SPECIAL = {"vocab_size": 258, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SHARED = SPECIAL | {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
MAKERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2Config(**SPECIAL, n_embd=64, n_layer=2, n_head=4, n_positions=64),
    "grouped llama": lambda: LlamaConfig(
        **SHARED, intermediate_size=160, num_key_value_heads=2, max_position_embeddings=64
    ),
    "opt": lambda: OPTConfig(**SHARED, ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=64),
}
METHOD = GradientDifference(epochs=2, forget_rows=4)


def near(planned: float, measured: float) -> bool:
    return abs(planned / measured - 1) <= WITHIN


def rows(tokenizer: Any) -> Rows:
    """Invented rows of several lengths; some are longer than the context and are cut into windows."""
    made = {
        name: tuple(
            Row(f"{name}.jsonl", line, "answer", f"What is {name} {line}?", "blue " * (line % 7 + 1))
            for line in range(1, count + 1)
        )
        for name, count in {"forget": 11, "retain": 17}.items()
    }
    made["forget"] += (Row("forget.jsonl", 12, "document", "", "A long story of a red fox. " * 5),)
    return Rows.of(Checked({}, made, None, Source.of("nowhere")), Rendering(context=64), tokenizer)


@pytest.mark.parametrize("subspace", ["full", "lora"])
@pytest.mark.parametrize("name", MAKERS)
def test_steps_and_checks_cost_what_the_counter_counts(name: str, subspace: str, tokenizer: Any) -> None:
    given, shape = rows(tokenizer), MAKERS[name]()
    shape._attn_implementation = "eager"  # the counter knows its products; it leaves a CPU's fused attention out
    chosen = select(AutoModelForCausalLM.from_config(shape).float().eval(), subspace, torch.device("cpu"))
    problem = problem_of(chosen.model, given.splits, tokenizer=tokenizer, context=64, adapter=chosen.adapter)
    with FlopCounterMode(display=False) as counter:
        apply(METHOD, problem, lambda entry: None)
    measured = counter.get_total_flops()

    found = cost(METHOD, problem)
    work = found.before + found.phases
    forward, training = trace.Stack(MAKERS[name](), subspace, torch.float32).curves(given.longest, training=True)
    checks = sum(times * forward.of(one.windows, one.width, one.targets) for times, one in work.measured)
    steps = sum(times * training.of(one.windows, one.width, one.targets) for times, one in work.trained)
    assert work.updates == 2 * -(-len(given.splits["forget"].windows) // 4) and not work.plain
    assert near(steps + checks, measured)
    # What the check must reject: steps without their backward, no checks, every window as long as the longest.
    padded = sum(times * training.of(one.windows, given.longest) for times, one in work.trained)
    assert not near(
        sum(times * forward.of(one.windows, one.width, one.targets) for times, one in work.trained) + checks, measured
    )
    assert not near(steps, measured)
    assert not near(padded + checks, measured)


def test_a_deep_stack_is_extended_from_two_shallow_ones() -> None:
    shape = MAKERS["grouped llama"]()
    shape.num_hidden_layers = 9
    if getattr(shape, "layer_types", None):
        shape.layer_types = shape.layer_types[:1] * 9
    for subspace in ("full", "lora"):
        stack, whole = trace.Stack(shape, subspace, torch.float32), trace.blueprint(shape, subspace).model
        assert len(stack.models) == 2
        for training in (True, False):
            found, true = stack.trace(3, 40, 60, training), trace.trace(whole, 3, 40, 60, training)
            assert (found.forward, found.whole) == (true.forward, true.whole)
            assert found.peak == pytest.approx(true.peak, rel=0.01)
        shallow = trace.trace(stack.models[0], 3, 40, 60, True)
        assert shallow.peak != pytest.approx(true.peak, rel=0.01)
        assert stack.cache_bytes() == 9 * 2 * 2 * (64 // 4) * 4  # layers, keys and values, 2 heads, 16 wide, 4 bytes


def test_recomputed_layers_keep_less_and_cost_a_forward_pass_more() -> None:
    shape = MAKERS["grouped llama"]()
    shape.num_hidden_layers = 8
    if getattr(shape, "layer_types", None):
        shape.layer_types = shape.layer_types[:1] * 8
    for subspace in ("full", "lora"):
        plain, light = (trace.Stack(shape, subspace, torch.float32, recompute=flag) for flag in (False, True))
        before, after = plain.trace(8, 40, 312, True), light.trace(8, 40, 312, True)
        assert after.peak < 0.4 * before.peak and after.forward == before.forward
        assert 0.5 * before.forward < after.whole - before.whole <= before.forward
        assert light.trace(8, 40, 312, False) == plain.trace(8, 40, 312, False)  # nothing is kept to begin with


def test_logits_in_chunks_are_traced_as_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = MAKERS["grouped llama"]()
    shape.vocab_size = 4000
    stack = trace.Stack(shape, "full", torch.float32)
    whole = stack.trace(8, 40, 312, True).peak
    monkeypatch.setattr("expunge.model.losses.MOST_LOGITS", 8 * 40 * 4000 - 1)
    monkeypatch.setattr("expunge.model.losses.CHUNK_LOGITS", 4000 * 30)
    assert stack.trace(8, 40, 312, True).peak < whole - 2 * 4 * 312 * 4000  # two copies of all logits at least


def test_a_pattern_of_layers_is_traced_whole() -> None:
    shape = MAKERS["opt"]()
    shape.num_hidden_layers = 6
    stack = trace.Stack(shape, "*.layers.5.fc1.weight", torch.float32)
    assert len(stack.models) == 1


def test_generated_tokens_attend_to_what_stands_before_them() -> None:
    curve = trace.Curve(linear=10.0, square=2.0)
    # Two windows, prompt of 3, head of 4 FLOPs a token: reading 2 (3 x 10 + 9 x 2) - 2 x 4 x 2 = 80; then the first of
    # two new tokens is read, which attends to 4 places: 2 (10 + 2 x 4) = 36. The second is not read.
    assert curve.reading(2, 3, 4) == 80 and curve.going_on(2, 3, 2) == 36
    assert curve.going_on(2, 3, 1) == 0 and curve.reading(2, 3, 4) + curve.going_on(2, 3, 3) != curve.of(2, 5)


def test_bytes_are_followed_to_their_end() -> None:
    with torch.device("meta"):
        known = torch.empty(100)
    with trace.Live([known]) as live:
        first = known + 1  # 400 bytes
        second = first * 2  # 800 live
        del first
        third = second + 1
        assert (live.now, live.peak) == (800, 800)
        view = third[:10]
        assert live.now == 800
        del second, third, view
    assert (live.now, live.peak) == (0, 800)
