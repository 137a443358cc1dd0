"""K-FAC against dense matrices in float64: its factors, products, solves and powers; and what must be seen."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.curvature import Damping, damping_for
from expunge.curvatures import kfac
from expunge.curvatures.kfac import INPUTS, KFAC, OUTPUTS
from expunge.errors import InputError, NumericalError
from expunge.gradients import factors as made
from expunge.influence.dual import row_pairs
from expunge.model.layers import linear_weights
from expunge.problem import Problem, Split
from oracles import dense_power, same
from problems import FAMILIES, lora_of, model_of, problem_of, split_of

COUNTS = (1, 2, 1, 3)


def weights_of(model: Any) -> dict[int, nn.Module]:
    owners = [module for module in model.modules() if isinstance(getattr(module, "weight", None), Tensor)]
    return {id(module.weight): module for module in owners}


def eye(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=matrix.dtype)


class Seen:
    """What came into layers and what came out, by name; gradients of the latter are kept."""

    def __init__(self, problem: Problem, names: Iterable[str]) -> None:
        owners = weights_of(problem.model)
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.handles = [owners[id(problem.movable[name])].register_forward_hook(self.hook(name)) for name in names]

    def hook(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
            output.retain_grad()
            self.pairs[name] = (arguments[0].detach().flatten(0, -2), output)

        return keep

    def gradients(self) -> dict[str, Tensor]:
        """[tokens, O] of the last backward pass, which are cleared; nothing where none arrived."""
        found = {name: o.grad.flatten(0, -2).clone() for name, (_, o) in self.pairs.items() if o.grad is not None}
        for _, output in self.pairs.values():
            output.grad = None
        return found


def oracle(problem: Problem, split: Split, exact: bool = True) -> dict[str, tuple[Tensor, Tensor]]:
    """S and A of each layer, one window at a time without any padding, one backward pass for each target and entry of
    the vocabulary (or one, of the data's labels): (sum of g g' / targets, sum of x x' / tokens)."""
    owners = weights_of(problem.model)
    found: dict[str, list[Tensor]] = {}
    tokens, targets = split.tokens, sum(window.targets for window in split.windows)
    for name in linear_weights(problem.model, problem.movable):
        module = owners[id(problem.movable[name])]
        transposed = isinstance(module.weight, Tensor) and type(module).__name__ == "Conv1D"
        o, i = module.weight.shape[::-1] if transposed else module.weight.shape
        found[name] = [torch.zeros(o, o).double(), torch.zeros(i, i).double()]
    for window in split.windows:
        seen = Seen(problem, found)
        logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        for handle in seen.handles:
            handle.remove()
        for name, (x, _) in seen.pairs.items():
            found[name][1] += x.T @ x / tokens
        places = [place for place, counts in enumerate(window.counted) if counts]
        p = logits.detach().softmax(1)
        units = torch.eye(p.shape[1], dtype=p.dtype)
        if exact:
            cotangents = [
                (place, p[place - 1, entry].sqrt() * (units[entry] - p[place - 1]))
                for place in places
                for entry in range(p.shape[1])
            ]
            outputs = [(logits[place - 1], cotangent) for place, cotangent in cotangents]
        else:  # the row's own loss: all of its targets at once
            outputs = [
                (
                    logits[[place - 1 for place in places]],
                    torch.stack([p[t - 1] - units[window.ids[t]] for t in places]),
                )
            ]
        for out, cotangent in outputs:
            out.backward(cotangent, retain_graph=True)
            for name, g in seen.gradients().items():
                found[name][0] += g.T @ g / targets
    return {name: (s, a) for name, (s, a) in found.items()}


def problem(kind: str, counts: tuple[int, ...] = COUNTS) -> Problem:
    model = lora_of(kind.removeprefix("lora ")) if kind.startswith("lora") else model_of(kind)
    return problem_of(model, {"retain": counts})


KINDS = [*FAMILIES, *(f"lora {family}" for family in FAMILIES)]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_those_of_the_gauss_newton_matrix(kind: str) -> None:
    """Exact labels: every target and every entry of the vocabulary. Oracles run each window alone, without padding."""
    here = problem(kind, (1, 2, 1))
    split = here.splits["retain"]
    state = KFAC(labels="exact").init(here, split)
    expected = oracle(here, split)
    assert state.alive == expected.keys() and expected
    for name, (s, a) in expected.items():
        leader = state.shared[name]
        assert torch.allclose(state.tensors[f"{name} {OUTPUTS}"], s, rtol=1e-9, atol=1e-12), name
        assert torch.allclose(state.tensors[f"{leader} {INPUTS}"], a, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora opt"])
def test_data_labels_make_the_empirical_factors(kind: str) -> None:
    here = problem(kind)
    state = KFAC(labels="data").init(here, here.splits["retain"])
    for name, (s, _) in oracle(here, here.splits["retain"], exact=False).items():
        assert torch.allclose(state.tensors[f"{name} {OUTPUTS}"], s, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("labels", ["noise", "sampled"])
def test_random_labels_have_the_exact_ones_for_their_mean(labels: Any) -> None:
    here = problem("llama")
    split = here.splits["retain"]
    exact = KFAC(labels="exact").init(here, split)
    drawn = KFAC(labels=labels, passes=300).init(here, split)
    data = KFAC(labels="data").init(here, split)
    off = {
        what: sum(float((state.tensors[key] - exact.tensors[key]).norm()) for key in exact.tensors)
        for what, state in (("drawn", drawn), ("data", data))
    }
    assert off["drawn"] < 0.4 * off["data"]  # data labels make another matrix
    assert off["drawn"] < 0.1 * sum(float(part.norm()) for part in exact.tensors.values())
    for key in [key for key in exact.tensors if key.endswith(INPUTS)]:
        assert torch.allclose(drawn.tensors[key], exact.tensors[key], rtol=1e-9)


@pytest.mark.parametrize("mistake", ["padding", "exchanged", "counts twice", "rows for tokens"])
def test_mistakes_are_seen(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = problem("llama")
    split = here.splits["retain"]
    expected = oracle(here, split, exact=False)
    if mistake == "padding":
        monkeypatch.setattr(made, "flat", lambda values, attention: values.flatten(0, 1))
    state = KFAC(labels="data").init(here, split)
    tensors = dict(state.tensors)
    targets = sum(window.targets for window in split.windows)
    if mistake == "counts twice":
        tensors = {key: part / targets for key, part in tensors.items()}
    if mistake == "rows for tokens":
        tensors = {key: part * (split.tokens / len(split.rows)) for key, part in tensors.items()}
    off = []
    for name, (s, a) in expected.items():
        one, other = tensors[f"{name} {OUTPUTS}"], tensors[f"{state.shared[name]} {INPUTS}"]
        if mistake == "exchanged":
            one, other = (other, one) if one.shape == other.shape else (s, a)
        off.append(float(((one - s).norm() / s.norm()).maximum((other - a).norm() / a.norm())))
    assert max(off) > 0.1


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora llama"])
def test_products_and_solves_equal_the_dense_ones(kind: str) -> None:
    """kron(S + d_S, A + d_A) over the flattened [O, I]."""
    here = problem(kind)
    curvature = KFAC(labels="data")
    state = curvature.init(here, here.splits["retain"])
    damping = damping_for(state, 0.01, per_layer=True)
    random = torch.Generator().manual_seed(0)
    vector = {name: torch.randn(part.shape, generator=random).double() for name, part in here.movable.items()}
    found: dict[str, Mapping[str, Tensor]] = {
        "matvec": curvature.matvec(here, state, vector),
        "damped": curvature.damped(here, state, vector, damping),
        "solve": curvature.solve(here, state, vector, damping).value,
        "root": curvature.power(here, state, vector, -0.5, damping),
    }
    layers = linear_weights(here.model, here.movable)
    for name in state.alive:
        s, a = state.tensors[f"{name} {OUTPUTS}"], state.tensors[f"{state.shared[name]} {INPUTS}"]
        d_s, d_a = 0.1 * s.diagonal().mean(), 0.1 * a.diagonal().mean()  # the root of 0.01, of each factor's mean
        whole = torch.kron(s + d_s * eye(s), a + d_a * eye(a))
        flat = layers[name].matrix(vector[name]).reshape(-1)
        expected = {
            "matvec": torch.kron(s, a) @ flat,
            "damped": whole @ flat,
            "solve": torch.linalg.solve(whole, flat),
            "root": dense_power(whole, -0.5) @ flat,
        }
        for what, dense in expected.items():
            assert torch.allclose(layers[name].matrix(found[what][name]).reshape(-1), dense, rtol=1e-8, atol=1e-10), (
                what
            )
        turned = torch.kron(a + d_a * eye(a), s + d_s * eye(s))  # S and A exchanged
        assert not torch.allclose(torch.linalg.solve(turned, flat), expected["solve"], rtol=0.01)


def test_the_product_of_both_dampings_is_the_damping() -> None:
    here = problem("llama")
    curvature = KFAC(labels="data")
    state = curvature.init(here, here.splits["retain"])
    for damping in (damping_for(state, 0.3), damping_for(state, 0.01, per_layer=True), Damping(2.0, 0.0)):
        for name in state.alive:
            d_s, d_a = kfac._split_damping(state, name, damping)
            assert d_s * d_a == pytest.approx(damping.of(name))
            s, a = state.tensors[f"{name} {OUTPUTS}"], state.tensors[f"{state.shared[name]} {INPUTS}"]
            if state.shared[name] == name or damping.by_parameter:
                assert d_s / d_a == pytest.approx(float(s.diagonal().mean() / a.diagonal().mean()))
            assert d_a == pytest.approx(kfac._split_damping(state, state.shared[name], damping)[1])
            left, right = kfac.whitening(state, name, damping)
            assert torch.allclose(left.T @ left @ (s + d_s * eye(s)), eye(s), atol=1e-8)
            assert torch.allclose(right.T @ right @ (a + d_a * eye(a)), eye(a), atol=1e-8)


@pytest.mark.parametrize(("kind", "shared"), [("llama", 3), ("olmo", 3), ("opt", 3), ("gpt2", 1), ("lora llama", 2)])
def test_layers_with_one_input_share_its_factor(kind: str, shared: int) -> None:
    """q, k and v (and gate and up) of Llama; GPT-2's c_attn is one layer; of the LoRA q and k are wrapped."""
    here = problem(kind)
    leaders = KFAC(labels="data").init(here, here.splits["retain"]).shared
    sizes = [list(leaders.values()).count(leader) for leader in set(leaders.values())]
    assert max(sizes) == shared
    led = [name for name, leader in leaders.items() if leader != name]
    assert all(any(part in name for part in ("k_proj", "v_proj", "up_proj", "q_proj")) for name in led)


def test_what_it_covers() -> None:
    """Linear weights but the head; tied embeddings, norms and biases get no step."""
    here = problem("llama")
    curvature = KFAC()
    state = curvature.init(here, here.splits["retain"])
    assert {name.rsplit(".", 2)[1] for name in state.alive} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    vector = {name: torch.ones_like(part) for name, part in here.movable.items()}
    assert curvature.solve(here, state, vector, damping_for(state, 0.1)).value.keys() == state.alive
    untied = problem_of(model_of("llama", tied=False), {"retain": COUNTS})
    assert not [name for name in curvature.init(untied, untied.splits["retain"]).alive if "lm_head" in name]
    nothing = problem_of(model_of("llama"), {"retain": COUNTS})
    nothing.movable = {name: part for name, part in nothing.movable.items() if "norm" in name}
    with pytest.raises(InputError, match="no weight of a linear layer"):
        curvature.init(nothing, nothing.splits["retain"])


class Twice(nn.Module):
    """A layer that is called twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.again, self.head = nn.Embedding(13, 4), nn.Linear(4, 4), nn.Linear(4, 13)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, **others: Any) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(logits=self.head(self.again(self.again(self.embed(input_ids)).tanh())))


def test_layers_that_are_used_twice_are_refused_by_name() -> None:
    here = problem_of(Twice().double(), {"retain": COUNTS})
    with pytest.raises(InputError, match=r"again\.weight: this layer is used 2 times"):
        KFAC().init(here, here.splits["retain"])


def test_a_batch_may_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = problem("llama")
    state = KFAC().init(whole, whole.splits["retain"])
    cut = problem("llama")
    cut.portions.tokens = 9
    assert same(KFAC().init(cut, cut.splits["retain"]).tensors, state.tensors, 1e-12)
    monkeypatch.setattr(made, "BLOCK", 3)  # strips of three coordinates
    assert same(KFAC().init(whole, whole.splits["retain"]).tensors, state.tensors, 1e-12)


def test_factors_are_accumulated_in_float32_at_least() -> None:
    low = problem_of(model_of("llama").to(torch.bfloat16), {"retain": split_of("retain", COUNTS)})
    state = KFAC().init(low, low.splits["retain"])
    assert {part.dtype for part in state.tensors.values()} == {torch.float32}


@pytest.mark.parametrize("damping", [None, Damping(2.0, 0.0)])
def test_released_factors_leave_the_same_solves_and_half_the_bytes(damping: Damping | None) -> None:
    curvature, here = KFAC(labels="data"), problem("llama")
    split = here.splits["retain"]
    whole, released = (curvature.init(here, split) for _ in range(2))
    damping = damping or damping_for(whole, 0.01, per_layer=True)
    vector = {name: torch.ones_like(part) for name, part in here.movable.items()}
    expected = curvature.whitening(here, whole, damping)
    found = curvature.whitening(here, released, damping, release=True)
    assert found.keys() == expected.keys() and not released.tensors
    for name, one in found.items():
        assert one.leader == expected[name].leader and one.inputs is found[one.leader].inputs
        for left, right in zip(one[:2], expected[name][:2], strict=True):
            assert left is not None and right is not None and torch.equal(left, right)
    solved = [curvature.solve(here, state, vector, damping).value for state in (whole, released)]
    assert same(solved[0], solved[1], 0.0)
    kept = {id(part): part.nbytes for one in found.values() for part in one[:2] if part is not None}
    assert sum(kept.values()) == sum(part.nbytes for part in whole.tensors.values())
    with pytest.raises(KeyError):  # another damping would need the factors
        curvature.solve(here, released, vector, Damping(3.0, 0.0))


def test_a_layer_without_a_gradient_leads_nobody() -> None:
    """B of q is zero, so its A, which is the first with that input, has no curvature; that of k, which has, leads."""
    here = problem("lora llama")
    split = here.splits["retain"]
    with torch.no_grad():
        for name, tensor in here.movable.items():
            if "q_proj.lora_B" in name:
                tensor.zero_()
    state = KFAC(labels="data").init(here, split)
    dead = [name for name in here.movable if "q_proj.lora_A" in name]
    assert dead and not state.alive & set(dead) and not set(state.shared.values()) & set(dead)
    assert set(state.shared.values()) <= state.alive
    layers = linear_weights(here.model, here.movable)
    whitening = KFAC().whitening(here, state, damping_for(state, 0.01, per_layer=True))
    alive = {name: one for name, one in layers.items() if name in whitening}
    pairs = row_pairs(here, split, alive, whitening, lambda logits, places: torch.ones_like(logits))
    assert set(pairs.inputs) == set(state.shared.values())


def test_a_leader_without_a_gradient_leaves_the_others_their_input() -> None:
    """An index that only chooses comes first to the input of q, k and v: their factors are as without."""
    plain = problem("llama")
    whole = KFAC(labels="data").init(plain, plain.splits["retain"])
    model = model_of("llama")
    for layer in model.model.layers:
        layer.self_attn = Choosing(layer.self_attn, model.config.hidden_size)
    here = problem_of(model, {"retain": COUNTS})
    state = KFAC(labels="data").init(here, here.splits["retain"])
    assert any("index" in name for name in here.movable) and not any("index" in name for name in state.alive)
    assert {name.replace("attention.", "") for name in state.alive} == whole.alive
    for name in state.alive:
        first, own = state.shared[name], whole.shared[name.replace("attention.", "")]
        assert torch.allclose(state.tensors[f"{first} {INPUTS}"], whole.tensors[f"{own} {INPUTS}"], rtol=1e-9)


class Choosing(nn.Module):
    """Attention with an index before it, whose scores no gradient passes."""

    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention, self.index = attention, nn.Linear(width, 4, bias=False, dtype=torch.float64)

    def forward(self, hidden_states: Tensor, **rest: Any) -> Any:
        self.index(hidden_states).argmax()
        return self.attention(hidden_states, **rest)


def test_a_plan_counts_shared_inputs_once() -> None:
    here = problem_of(model_of("llama").float(), {"retain": COUNTS})
    state = KFAC().init(here, here.splits["retain"])
    shapes = {name: tensor.shape for name, tensor in here.movable.items() if name in state.alive}
    real = sum(part.nbytes for part in state.tensors.values())
    largest = max(max(shape) for shape in shapes.values())
    assert KFAC().whitened_bytes(shapes, state.shared) == real + 20 * largest**2
    assert KFAC().whitened_bytes(shapes, {}) > real + 20 * largest**2


def test_what_has_no_gradient_by_construction_gets_no_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A of a fresh LoRA, as wide as the model; of one that has moved both matrices have a curvature."""
    asked: list[set[str]] = []

    def factors(problem: Problem, split: Split, layers: Any, labels: Any, **more: Any) -> Any:
        asked.append(set(layers))
        return made.factors(problem, split, layers, labels, **more)

    monkeypatch.setattr(kfac, "factors", factors)
    for fresh in (True, False):
        here = problem_of(lora_of("llama", fresh=fresh), {"retain": COUNTS})
        state = KFAC().init(here, here.splits["retain"])
        assert state.alive == asked[-1]
        assert any("lora_A" in name for name in asked[-1]) != fresh


def test_a_damping_that_is_too_small_is_named() -> None:
    here = problem_of(model_of("llama"))
    state = KFAC(labels="data").init(here, here.splits["retain"])
    name = min(state.alive)
    state.tensors[f"{name} {OUTPUTS}"].fill_(1.0)  # of rank one
    with pytest.raises(NumericalError, match=rf"{re.escape(name)}: damping .* is too small"):
        kfac.whitening(state, name, Damping(1e-300, 0.0))
