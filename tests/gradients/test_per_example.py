"""Exact per-example gradients against a loop of autograd and torch.func, in float64; wrong ways are rejected."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, vmap

from expunge.data.batches import collate
from expunge.data.tokens import Window
from expunge.errors import InputError
from expunge.gradients.per_example import Squares, Stacked, measure
from expunge.problem import Problem, Split
from oracles import row_gradients, same
from problems import FAMILIES, lora_of, model_of, problem_of, split_of


def check_all(problem: Problem, windows: int = 4) -> None:
    """Single gradients and sums of squares of a mixed split equal the loop's."""
    split = problem.splits["retain"]
    expected = row_gradients(problem, split)
    assert same(measure(problem, split, Stacked, "data", windows=windows).tensors, expected)
    found = measure(problem, split, Squares, "data", windows=windows)
    assert same(found.tensors, {name: rows.square().sum(0) for name, rows in expected.items()})
    assert found.examples == len(split.rows) and found.tokens == sum(window.targets for window in split.windows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_full_weights(family: str, tied: bool) -> None:
    """Padding, rows of several windows (one of more than a batch holds), tied embeddings, grouped heads, norms."""
    check_all(problem_of(model_of(family, tied=tied)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fresh", [True, False])
def test_lora(family: str, fresh: bool) -> None:
    problem = problem_of(lora_of(family, fresh))
    check_all(problem)
    squares = measure(problem, problem.splits["retain"], Squares, "data").tensors
    zero = {name for name, square in squares.items() if not square.any()}
    assert zero == ({name for name in squares if "lora_A" in name} if fresh else set())


def test_lora_on_embeddings() -> None:
    check_all(problem_of(lora_of("llama", target_modules=["embed_tokens", "v_proj"])))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_gradient_checkpointing(family: str, reentrant: bool, lora: bool) -> None:
    """A layer is seen twice, its gradient must count once; checkpointing is only on in training mode."""
    model = lora_of(family) if lora else model_of(family)
    plain = problem_of(model)
    expected = row_gradients(plain, plain.splits["retain"])
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    found = measure(plain, plain.splits["retain"], Squares, "data", windows=4)
    assert same(found.tensors, {name: rows.square().sum(0) for name, rows in expected.items()})


def test_torch_func_agrees() -> None:
    """vmap over windows of one length, by a way that shares no code with the hooks."""
    problem = problem_of(model_of("llama"))
    windows = tuple(Window(row, tuple(torch.randint(0, 13, (6,)).tolist()), (False,) + (True,) * 5) for row in range(5))
    split = Split("retain", split_of("retain", (1,) * 5).rows, windows)
    batch = collate("retain", windows, range(5))
    parameters = {name: tensor.detach() for name, tensor in problem.movable.items()}

    def loss(given: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        logits = functional_call(problem.model, given, (), {"input_ids": ids[None], "use_cache": False}).logits[0]
        return torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")

    expected = vmap(grad(loss), in_dims=(None, 0))(parameters, batch.ids)
    assert same(measure(problem, split, Stacked, "data").tensors, expected)


def test_layers_above_the_lowest_and_changes_in_place() -> None:
    """The backward pass ends at the lowest captured layer, whose output the model clamps in place."""
    model = model_of("olmo")
    model.config.clip_qkv = 0.5
    problem = problem_of(model)
    problem.movable = {name: tensor for name, tensor in problem.movable.items() if "layers.1" in name}
    below, seen = model.model.layers[0].mlp.down_proj, []
    handle = below.register_forward_hook(lambda module, arguments, output: seen.append(output.requires_grad))
    found = measure(problem, problem.splits["retain"], Squares, "data", windows=4).tensors
    handle.remove()
    assert not any(seen) and len(seen) > 1
    expected = row_gradients(problem, problem.splits["retain"])
    assert same(found, {name: rows.square().sum(0) for name, rows in expected.items()})
    model.config.clip_qkv = None
    unclamped = row_gradients(problem, problem.splits["retain"])
    assert not same(found, {name: rows.square().sum(0) for name, rows in unclamped.items()}, 0.1)


@pytest.mark.parametrize("windows", [1, 2, 3, 16])
def test_does_not_depend_on_how_rows_are_batched(windows: int) -> None:
    problem = problem_of(model_of("gpt2"))
    split = problem.splits["retain"]
    for labels in ("data", "sampled", "noise"):
        for gather in (Squares, Stacked):
            whole = measure(problem, split, gather, labels, windows=7)  # type: ignore[arg-type]
            parts = measure(problem, split, gather, labels, windows=windows)  # type: ignore[arg-type]
            assert same(parts.tensors, whole.tensors)


def test_pieces_of_a_large_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even one batch's gradients fit, they are made a few rows at a time."""
    monkeypatch.setattr("expunge.gradients.capture.MOST_ELEMENTS", 100)
    check_all(problem_of(model_of("opt")))


def test_leaves_the_model_as_it_was() -> None:
    problem = problem_of(lora_of("llama"))
    before = problem.snapshot()
    problem.movable[next(iter(problem.movable))].grad = torch.ones_like(problem.movable[next(iter(problem.movable))])
    flags = {name: tensor.requires_grad for name, tensor in problem.model.named_parameters()}
    measure(problem, problem.splits["retain"], Squares, "noise")
    assert {name: tensor.requires_grad for name, tensor in problem.model.named_parameters()} == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in problem.movable.items())
    assert problem.movable[next(iter(problem.movable))].grad is not None
    assert all(tensor.grad is None for tensor in list(problem.movable.values())[1:])
    assert not any(module._forward_hooks for module in problem.model.modules())


# Broken variants: each is what a peer does, and each must be told from the exact sums.


class SquaredBatch(Squares):
    """The square of a batch's summed gradient, as released code has it."""

    def take(self, name: str, gradients: torch.Tensor, places: Sequence[int]) -> None:
        super().take(name, gradients.sum(dim=0, keepdim=True), places)


def test_squared_batches_are_not_exact_under_data_labels() -> None:
    """They are only unbiased where cotangents have mean zero."""
    problem = problem_of(model_of("llama"))
    split = problem.splits["retain"]
    expected = {name: rows.square().sum(0) for name, rows in row_gradients(problem, split).items()}
    wrong = measure(problem, split, SquaredBatch, "data").tensors
    off = sum(float((wrong[name] - expected[name]).abs().sum()) for name in expected)
    assert off > 0.3 * sum(float(expected[name].sum()) for name in expected)


def test_padding_in_the_mask_would_be_seen() -> None:
    problem = problem_of(model_of("llama"))
    split = problem.splits["retain"]
    expected = {name: rows.square().sum(0) for name, rows in row_gradients(problem, split).items()}
    longest = max(len(window.ids) for window in split.windows)
    padded = tuple(
        Window(window.row, window.ids + (1,) * (longest - len(window.ids)), (False,) + (True,) * (longest - 1))
        for window in split.windows
    )
    wrong = measure(problem, replace(split, windows=padded), Squares, "data").tensors
    assert not same(wrong, expected, 0.1)


def test_tied_uses_squared_apart_would_be_seen() -> None:
    """The sum of the squares of the uses is not the square of their sum."""
    problem = problem_of(model_of("llama"))
    split = problem.splits["retain"]
    name = "model.embed_tokens.weight"
    exact = measure(problem, split, Squares, "data").tensors[name]
    untied = model_of("llama", tied=False)
    with torch.no_grad():
        for key, tensor in untied.named_parameters():
            tensor.copy_(problem.model.state_dict()[key])
    apart = measure(problem_of(untied), split, Squares, "data").tensors
    wrong = apart[name] + apart["lm_head.weight"]
    assert float((wrong - exact).abs().max()) > 0.1 * float(exact.abs().max())


def test_windows_squared_apart_would_be_seen() -> None:
    problem = problem_of(model_of("llama"))
    split = problem.splits["retain"]
    exact = measure(problem, split, Squares, "data").tensors
    apart = tuple(replace(window, row=place) for place, window in enumerate(split.windows))
    rows = split_of("retain", (1,) * len(apart)).rows
    wrong = measure(problem, Split("retain", rows, apart), Squares, "data").tensors
    assert not same(wrong, exact, 0.1)


class _Mixing(torch.nn.Module):
    """A layer with a parameter that no rule knows: it works on the tokens of all windows at once."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.scale = torch.nn.Parameter(torch.ones(1).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale


def test_a_layer_without_a_rule_is_named() -> None:
    model = model_of("llama")
    model.model.layers[0].mlp = _Mixing(model.model.layers[0].mlp)
    problem = problem_of(model)
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.scale belongs to _Mixing at model\.layers\.0\.mlp"):
        measure(problem, problem.splits["retain"], Squares, "data")
