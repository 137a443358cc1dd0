"""Which linear layers a method moves: all, those of the MLPs, of the attention, the down-projections, or a pattern.

`auto` takes as many as memory holds the factors of, in this order (trials of margin_newton on a model of four layers,
40 rows to forget; documents in no file, which were at 0.14 nats, then stand at so many):

    all 0.21;  MLPs 0.24;  down-projections 0.35;  then down-projections of the middle half of the depth, quarter, ...

Fewer kinds of layer before fewer layers: the two middle layers of four, with all that is in them, ended at 0.31, but
their forget rows fell short of their targets (5.54 of 5.95, AUC 0.69), while down-projections of the whole depth did
not. An MLP's layers hold two thirds of the weights, and its widest factors: where not all fit, those of the attention
are what is least missed. Parts of the depth of down-projections were not tried.

Kinds are told by structure and not by names: the last linear layer of a decoder layer projects down from the MLP, and
those beside it in the same module are the MLP's; all others of the decoder layer are the attention's.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from expunge.errors import InputError
from expunge.model.layers import linear_weights, stack

AUTO = "auto"
KIND = re.compile(r"(auto|all|mlp|attention|down)(?: (\d+)-(\d+))?")
OWN = re.compile(r"\.(base_layer|lora_[AB]\.\w+)$")  # of a wrapped layer, after the name of the layer that it wraps
COPIES = 4  # of what moves: gradient, direction, snapshots
SHARE, MOST = 0.5, 0.7  # of the memory that the weights leave: for factors alone, and with the copies of what moves

Shapes = Mapping[str, torch.Size]
Bytes = Callable[[Shapes, Mapping[str, str]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayers:
    """What of a subspace may move at most: weights of linear layers, the output head excepted, and of these `which`.

    `bytes`: at the most, of what a method keeps of such layers, by the shapes of the weights that move and, where that
    is known, for each the first with the same input; `by_token`: of what it keeps of each of a request's tokens.
    """

    which: str
    bytes: Bytes
    by_token: Bytes = lambda shapes, shared: 0


def check(which: str) -> None:
    """Raises `InputError` for what is neither a kind nor a regular expression."""
    if KIND.fullmatch(which):
        return
    try:
        re.compile(which)
    except re.error as error:
        raise InputError(
            f"layers {which!r}: neither auto, all, mlp, attention or down (with a range of layers: down 8-23), nor a "
            f"regular expression of parameter names ({error})."
        ) from None


class Place(NamedTuple):
    """Of a linear layer: which decoder layer it stands in (None: in none), and its kinds."""

    depth: int | None
    kinds: frozenset[str]


def places(model: nn.Module) -> dict[str, Place]:
    """By the name of the layer; of a wrapped one, that of the layer that it wraps."""
    prefixes = [f"{name}." for name in stack(model).names()]
    by_depth: dict[int | None, list[str]] = {}
    for name in dict.fromkeys(map(layer_of, linear_weights(model, dict(model.named_parameters())))):
        depth = next((depth for depth, prefix in enumerate(prefixes) if name.startswith(prefix)), None)
        by_depth.setdefault(depth, []).append(name)
    found = {}
    for depth, names in by_depth.items():
        for name in names:
            kinds = {"all"}
            if depth is not None:
                beside = name.rpartition(".")[0] == names[-1].rpartition(".")[0]
                kinds |= {"mlp" if beside else "attention"} | ({"down"} if name == names[-1] else set())
            found[name] = Place(depth, frozenset(kinds))
    return found


def layer_of(weight: str) -> str:
    """The layer's name, from that of its weight or of a LoRA's matrix on it."""
    return OWN.sub("", weight.removesuffix(".weight"))


def chosen(model: nn.Module, which: str, unfit: Collection[str] = ()) -> set[str]:
    """Names of the layers, those that are `unfit` left out. Raises `InputError` where there is none."""
    known = places(model) if which != "all" else {}
    odd = set(map(layer_of, unfit))
    if which == "all":
        found = {layer_of(name) for name in linear_weights(model, dict(model.named_parameters()))}
    elif kind := KIND.fullmatch(which):
        part = range(int(kind[2]), int(kind[3]) + 1) if kind[2] else None
        found = {
            name for name, place in known.items() if kind[1] in place.kinds and (part is None or place.depth in part)
        }
    else:
        found = {name for name in known if re.search(which, name)}
    if found and found <= odd:
        raise InputError(
            f"layers {which!r}: two factors are defined for none of these ({min(found)} and others are not called once "
            "on each token). Choose other layers, or a method without a curvature, such as loss_matching."
        )
    if not found:
        raise InputError(
            f"layers {which!r}: no linear layer is one of these. Names look like {next(iter(known), '')!r}."
        )
    return found - odd


def rungs(depth: int) -> Iterator[str]:
    """What `auto` tries, in its order; the last is one layer."""
    yield from ("all", "mlp", "down")
    width = depth // 2
    while width:
        first = (depth - width) // 2
        yield f"down {first}-{first + width - 1}"
        width //= 2


class Choice(NamedTuple):
    """What `auto` stands for: which layers, how many, and bytes of what is kept of them and of the request's tokens in
    them."""

    which: str
    layers: int
    bytes: int


def choose(
    model: nn.Module,
    asked: LinearLayers,
    moves: Callable[[Iterable[str]], Shapes],
    left: int,
    shared: Mapping[str, str],
    unfit: Collection[str] = (),
    tokens: int = 0,
) -> Choice:
    """The first rung that fits into `left` bytes, what the weights leave; else the last; or what was asked for.

    `moves`: shapes of the weights that would move of so many layers; `shared`: see `LinearLayers`; `unfit`: layers that
    have no factors; `tokens` of the request, for `LinearLayers.by_token`.
    """
    tried = rungs(len(stack(model).layers)) if asked.which == AUTO else (asked.which,)
    made = None
    for which in tried:
        names = chosen(model, which, unfit)
        shapes = moves(names)
        if not shapes:
            continue  # a pattern of parameters may hold none of these
        size = asked.bytes(shapes, shared) + tokens * asked.by_token(shapes, shared)
        made = Choice(which, len(names), size)
        copies = 4 * COPIES * sum(shape.numel() for shape in shapes.values())
        if size <= SHARE * left and size + copies <= MOST * left:
            break
    if made is None:
        raise InputError("the subspace holds no weight of a linear layer. Choose another --subspace, such as full.")
    return made
