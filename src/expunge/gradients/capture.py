"""Hooks that hand over each parameter's gradient per example, during one ordinary backward pass.

A forward hook keeps a reference to what came into a layer, a tensor hook on what came out receives its gradient; the
two make the gradient per window (`gradients.rules`). While capturing, no parameter requires a gradient: the outputs of
captured layers do, so the backward pass goes no further down than an ordinary one, and the weight gradients are made
once, by the rules. (With checkpointing the input embedding's output does too: the re-entrant kind needs it.)

- A parameter used several times (tied embeddings, a layer called twice) is handed over once, summed over its uses.
- Windows of one row are summed before anything is made of them: an example is a row.
- With gradient checkpointing a layer is seen again while it is recomputed; its uses are counted in the first pass
  only, so both kinds of checkpointing (re-entrant or not) give the same.
- Everything is accumulated in the wider of float32 and the parameter's dtype.

Shapes: B windows, T tokens, E rows of the batch, e rows of a piece of it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.gradients.rules import Rule, rules_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

MOST_ELEMENTS = 2**25  # of one parameter's per-example gradients in memory at once
Take = Callable[[str, Tensor, slice], None]
Receive = Callable[[str, list["Use"]], None]


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a parameter: its rule, what came in, and the gradient [B, T, O] of what came out."""

    rule: Rule
    came_in: Any
    gradient: Tensor

    def per_example(self, windows: slice, dtype: torch.dtype) -> Tensor:
        """Gradients [windows, *shape]."""
        came_in = _picked(self.came_in, windows, len(self.gradient), dtype)
        return self.rule.per_example(came_in, self.gradient[windows].to(dtype))


@dataclass(slots=True)
class Capture:
    """Hooks on one model. `take(name, gradients [e, *shape], rows)` receives rows of the batch, piece by piece.

    `receive(name, uses)` gets what came in and out in its place, where it is given: nothing is made of it then.
    """

    rules: Mapping[nn.Module, Mapping[str, Rule]]
    shapes: Mapping[str, tuple[torch.Size, torch.dtype]]
    take: Take
    receive: Receive | None = None
    _rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    _width: int = 0
    _open: bool = False
    _pending: dict[str, Tensor] = field(default_factory=dict)
    _expected: dict[str, int] = field(default_factory=dict)
    _uses: dict[str, list[Use]] = field(default_factory=dict)
    _backward: bool = False
    _busy: bool = False
    _cuts: dict[int, list[tuple[slice, list[slice]]]] = field(default_factory=dict)

    def begin(self, rows: Tensor, width: int, unfinished: bool = False) -> None:
        """Before a forward pass: to which row (0 ... E-1, ascending) each window [B] belongs; `width` is T.

        `unfinished`: the batch holds some windows of one row, of which more follow in the next batch.
        """
        self._rows, self._width, self._open = rows.cpu(), width, unfinished
        self._expected, self._uses, self._cuts, self._backward = {}, {}, {}, False

    def backward(self, outputs: Tensor, cotangent: Tensor) -> None:
        """Backward pass with the given cotangent of `outputs`; afterwards every parameter has been handed over."""
        self._backward = True
        outputs.backward(cotangent)
        for name in list(self._uses):  # an output that the loss does not depend on gives no gradient for its use
            self._hand_over(name)
        if not self._open:
            for name in list(self._pending):
                self.take(name, self._pending.pop(name)[None], slice(0, 1))

    def saw(
        self, module: nn.Module, arguments: tuple[object, ...], others: dict[str, object], output: Tensor
    ) -> Tensor:
        """Forward hook."""
        if self._busy:  # a rule calls the layer again
            return output
        rules = self.rules[module]
        if not self._backward:
            for name in rules:
                self._expected[name] = self._expected.get(name, 0) + 1
        if not torch.is_grad_enabled():
            return output
        windows = len(self._rows)
        if output.shape[0] == 1 and windows > 1:  # one table for all windows, such as GPT-2's positions
            output = output.expand(windows, *output.shape[1:])
            arguments = tuple(_widened(value, windows) for value in arguments)
            others = {name: _widened(value, windows) for name, value in others.items()}
        flat = output.dim() == 2 and len(output) == windows * self._width  # all tokens in a row, as in OPT's layers
        single = output.dim() == 4 and 1 in output.shape[1:3]  # one head for all, as keys of latent attention have
        if not flat and (output.shape[0] != windows or not (output.dim() == 3 or single)):
            raise InputError(
                f"--subspace: {next(iter(rules))} belongs to a {type(module).__name__} that mixes the windows of a "
                "batch, so there is no gradient per example. Choose a subspace without it, such as lora."
            )
        output = _rooted(output)
        call = (arguments, others)
        output.register_hook(partial(self._arrived, rules, call))
        return output

    def _arrived(
        self, rules: Mapping[str, Rule], call: tuple[tuple[object, ...], dict[str, object]], gradient: Tensor
    ) -> None:
        folded = self._in_windows(gradient.detach())
        for name, rule in rules.items():
            uses = self._uses.setdefault(name, [])
            came_in = call if rule.whole_call else call[0][0]
            uses.append(Use(rule, self._folded(came_in), folded))
            if len(uses) == self._expected.get(name, 1):
                self._hand_over(name)

    def _folded(self, value: object) -> object:
        """What came in or out, detached, with tokens in a row put back into their windows."""
        if isinstance(value, Tensor):
            return self._in_windows(value)
        if isinstance(value, tuple):
            return tuple(self._folded(one) for one in value)
        if isinstance(value, dict):
            return {name: self._folded(one) for name, one in value.items()}
        return value

    def _in_windows(self, value: Tensor) -> Tensor:
        windows, tokens = len(self._rows), len(self._rows) * self._width
        flat = value.dim() == 2 and len(value) == tokens and tokens != windows
        if value.dim() == 4 and len(value) == windows and 1 in value.shape[1:3]:
            return value.detach().flatten(1, 2)
        return value.detach().unflatten(0, (windows, self._width)) if flat else value.detach()

    @torch.no_grad()
    def _hand_over(self, name: str) -> None:
        """All uses of a parameter have arrived: sums them by row, in pieces that fit."""
        uses = self._uses.pop(name)
        if self.receive is not None:
            self.receive(name, uses)
            return
        self._busy = True
        self._reduce(name, uses)
        self._busy = False

    def _reduce(self, name: str, uses: list[Use]) -> None:
        shape, dtype = self.shapes[name]
        most = min(len(self._rows), max(1, MOST_ELEMENTS // max(1, shape.numel())))
        if most not in self._cuts:
            self._cuts[most] = list(_pieces(self._rows, most))
        for rows, windows in self._cuts[most]:
            total: Tensor | None = None
            for part in windows:
                gradients = uses[0].per_example(part, dtype)
                for use in uses[1:]:
                    gradients += use.per_example(part, dtype)
                if total is None and part.stop - part.start == rows.stop - rows.start:
                    total = gradients
                    continue
                total = gradients.new_zeros(rows.stop - rows.start, *shape) if total is None else total
                total.index_add_(0, (self._rows[part] - rows.start).to(gradients.device), gradients)
            assert total is not None
            self._deliver(name, total, rows)

    def _deliver(self, name: str, gradients: Tensor, rows: slice) -> None:
        if name in self._pending:
            gradients[0] += self._pending.pop(name)
        if self._open:
            self._pending[name] = gradients[0]
        else:
            self.take(name, gradients, rows)


@contextmanager
def capturing(
    model: "PreTrainedModel | PeftModel", movable: Mapping[str, Tensor], take: Take, receive: Receive | None = None
) -> Iterator[Capture]:
    """Hooks on the layers that hold `movable`, removed at the end. Raises `InputError` for a layer without a rule."""
    rules = rules_of(model, dict(movable))
    wide = {name: (tensor.shape, torch.promote_types(tensor.dtype, torch.float32)) for name, tensor in movable.items()}
    capture = Capture(rules, wide, take, receive)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = [module.register_forward_hook(capture.saw, with_kwargs=True) for module in rules]
    anchor = model.get_input_embeddings()
    checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if anchor not in rules and checkpoints:
        handles.append(anchor.register_forward_hook(_anchored))
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield capture
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


def _anchored(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
    """What the backward pass goes back to under checkpointing, since no parameter requires a gradient."""
    return _rooted(output) if torch.is_grad_enabled() else output


class _Root(torch.autograd.Function):
    """The same values as the start of a graph: no leaf, so a model may change them in place, and nothing is kept."""

    @staticmethod
    def forward(context: object, output: Tensor, root: Tensor) -> Tensor:
        return output.data

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> tuple[None, None]:
        return None, None


def _rooted(output: Tensor) -> Tensor:
    """A layer's output as one that requires a gradient, without a copy."""
    if output.requires_grad:
        return output
    rooted: Tensor = _Root.apply(output, torch.zeros((), requires_grad=True))
    return rooted


def _pieces(rows: Tensor, most: int) -> Iterator[tuple[slice, list[slice]]]:
    """Rows in pieces of at most `most` windows (a row at least), each with its windows in parts of at most `most`."""
    counts = torch.bincount(rows).tolist()
    first_row = first = 0
    while first_row < len(counts):
        last_row, last = first_row + 1, first + counts[first_row]
        while last_row < len(counts) and last + counts[last_row] - first <= most:
            last += counts[last_row]
            last_row += 1
        parts = [slice(start, min(start + most, last)) for start in range(first, last, most)]
        yield slice(first_row, last_row), parts
        first_row, first = last_row, last


def _widened(value: object, windows: int) -> object:
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == 1:
        return value.expand(windows, *value.shape[1:])
    return value


def _picked(came_in: object, windows: slice, count: int, dtype: torch.dtype) -> object:
    """The part of a layer's input that belongs to some windows, in the dtype of accumulation."""
    if isinstance(came_in, Tensor):
        part = came_in[windows] if came_in.dim() > 0 and came_in.shape[0] == count else came_in
        return part.to(dtype) if part.is_floating_point() else part
    if isinstance(came_in, tuple):
        return tuple(_picked(value, windows, count, dtype) for value in came_in)
    if isinstance(came_in, dict):
        return {name: _picked(value, windows, count, dtype) for name, value in came_in.items()}
    return came_in
