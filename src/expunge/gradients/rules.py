"""From one use of a parameter to its gradient per example, by type of layer.

Shapes: B windows, T tokens, I layer input, O layer output, D width, V vocabulary, R LoRA rank. `x` is what came into
the layer, `g` [B, T, O] the gradient of the loss, summed over tokens, with respect to what came out. Every rule
returns [B, *parameter.shape]: the sum over the window's tokens, exact, nothing squared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Embedding as LoraEmbedding
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from transformers.pytorch_utils import Conv1D

from expunge.errors import InputError
from expunge.model.layers import is_linear

PerExample = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a parameter gets its gradient from a module's input and output gradient: `per_example(x, g)` [B, *shape].

    `whole_call`: `x` is all that the layer was called with.
    """

    per_example: PerExample
    whole_call: bool = False


def rules_of(model: nn.Module, movable: dict[str, Tensor]) -> dict[nn.Module, dict[str, Rule]]:
    """Rules by module and parameter name. Raises `InputError` for a parameter of a layer that has none, naming both."""
    names = {id(tensor): name for name, tensor in movable.items()}
    found: dict[nn.Module, dict[str, Rule]] = {}
    covered: set[str] = set()
    for path, module in model.named_modules():
        own = {key: names[id(tensor)] for key, tensor in _own(module).items() if id(tensor) in names}
        if own:
            found[module] = {name: _rule(module, key, name, path) for key, name in own.items()}
            covered |= set(own.values())
    if missing := sorted(set(movable) - covered):
        raise _refusal(missing[0], "a layer that this model does not have")
    return found


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that a module itself computes with, by a key for `_rule`."""
    if isinstance(module, LoraEmbedding):
        adapter = _only_adapter(module)
        return {"A": module.lora_embedding_A[adapter], "B": module.lora_embedding_B[adapter]}
    if isinstance(module, nn.ParameterDict | nn.ParameterList):
        return {}
    return {key: tensor for key, tensor in module._parameters.items() if tensor is not None}


def _rule(module: nn.Module, key: str, name: str, path: str) -> Rule:
    if isinstance(module, LoraEmbedding):
        return Rule(_lora_embedding_a(module) if key == "A" else _lora_embedding_b(module))
    if is_linear(module):
        return BIAS if key == "bias" else CONV1D if isinstance(module, Conv1D) else LINEAR
    if type(module).forward is nn.Embedding.forward:
        return _embedding(module, name)
    leaf = not any(True for _ in module.children())
    if leaf and all(tensor.dim() <= 2 for tensor in module.parameters()):
        return Rule(_by_vjp(module, key), whole_call=True)
    raise _refusal(name, f"{type(module).__name__} at {path}")


def _refusal(name: str, what: str) -> InputError:
    return InputError(
        f"--subspace: {name} belongs to {what}, for which no per-example gradient and so no curvature is defined "
        "(linear layers, Conv1D, embeddings, norms and LoRA are). Choose a subspace without it, such as lora."
    )


LINEAR = Rule(lambda x, g: torch.bmm(g.transpose(1, 2), x))
CONV1D = Rule(lambda x, g: torch.bmm(x.transpose(1, 2), g))
BIAS = Rule(lambda x, g: g.sum(dim=1))


def _embedding(module: nn.Module, name: str) -> Rule:
    """Rows of the table that were looked up get the sum of their tokens' gradients; the padding row gets none."""
    assert isinstance(module, nn.Embedding)
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise _refusal(name, "an embedding that renormalises or rescales by frequency")
    entries, padding = module.num_embeddings, module.padding_idx

    return Rule(lambda ids, g: _spread(ids, g, entries, padding))


def _spread(ids: Tensor, g: Tensor, entries: int, padding: int | None) -> Tensor:
    """[B, entries, D]: each token's g [B, T, D] added to the row of the table that its id [B, T] looks up."""
    out = g.new_zeros(g.shape[0], entries, g.shape[-1])
    out.scatter_add_(1, ids.unsqueeze(-1).expand(-1, -1, g.shape[-1]), g)
    if padding is not None:
        out[:, padding] = 0
    return out


def _only_adapter(module: LoraEmbedding) -> str:
    active = [name for name in module.active_adapters if name in module.lora_embedding_A]
    plain = len(active) == 1 and not module.lora_variant and module._get_embed_scale() is None
    if not plain:
        raise _refusal("lora_embedding_A", "an embedding with several adapters, a scale or a variant of LoRA")
    return str(active[0])


def _lora_embedding_a(module: LoraEmbedding) -> PerExample:
    """A [R, V]: out = scaling * A[:, ids]' B', with B [D, R]."""

    def per_example(ids: Tensor, g: Tensor) -> Tensor:
        adapter = _only_adapter(module)
        low = module.scaling[adapter] * (g @ module.lora_embedding_B[adapter].to(g.dtype))
        return _spread(ids, low, module.lora_embedding_A[adapter].shape[1], module.base_layer.padding_idx).transpose(
            1, 2
        )

    return per_example


def _lora_embedding_b(module: LoraEmbedding) -> PerExample:
    def per_example(ids: Tensor, g: Tensor) -> Tensor:
        adapter = _only_adapter(module)
        low = module.lora_embedding_A[adapter].to(g.dtype).T[ids]
        scaled: Tensor = module.scaling[adapter] * torch.bmm(g.transpose(1, 2), low)
        return scaled

    return per_example


def _by_vjp(module: nn.Module, key: str) -> PerExample:
    """Any small layer that treats windows apart (norms, position tables): its own derivative, window by window."""

    def per_example(call: tuple[tuple[object, ...], dict[str, object]], g: Tensor) -> Tensor:
        arguments, others = call
        parameter = dict(module.named_parameters(recurse=False))[key].detach().to(g.dtype)

        def one(given: dict[str, Tensor], out: Tensor) -> Tensor:
            whole = [given[str(place)][None] if str(place) in given else value for place, value in enumerate(arguments)]
            named = {name: given[name][None] if name in given else value for name, value in others.items()}

            def forward(value: Tensor) -> Tensor:
                result: Tensor = functional_call(module, {key: value}, tuple(whole), named)
                return result.to(out.dtype)

            return torch.as_tensor(vjp(forward, parameter)[1](out[None])[0])

        batched = {str(place): value for place, value in enumerate(arguments) if isinstance(value, Tensor)}
        batched |= {name: value for name, value in others.items() if isinstance(value, Tensor)}
        result: Tensor = vmap(one)(batched, g)
        return result

    return per_example
