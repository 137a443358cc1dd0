"""Controls of experiments, given by path: they change what they say and nothing else; and SOUL's rule by arithmetic."""

from copy import deepcopy as copy_of
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import controls
import curvature_ablation
import second_order
from ablation_tables import FAMILIES
from controls import sophia_shuffled
from controls.sophia_soul import RULE, SETTINGS
from expunge import registry
from expunge.comparison import variants
from expunge.config.commands import Compare
from expunge.curvature import damping_for
from expunge.curvatures.diagonal import Diagonal
from expunge.data.batches import Batch, Stream, collate
from expunge.gradients.estimates import Estimate, estimate
from expunge.influence import directions
from expunge.influence.refresh import WithSophia
from expunge.loop.phases import apply
from expunge.method import Descend, State, flattened
from expunge.methods.fisher_removal import FisherRemoval
from expunge.optim.sophia import Averages, Ratio, Rule, Sophia, SophiaSettings
from expunge.problem import Problem, divided
from oracles import same
from problems import mixed, model_of, problem_of, short

FOLDER = Path(controls.__file__).parent
FILES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__")
CURVATURES = ["shuffled_diagonal"]
SOPHIA = [name for name in FILES if name.startswith("sophia_")]
RATE = 0.1


@pytest.mark.parametrize("name", FILES)
def test_each_is_an_entry_by_its_path(name: str) -> None:
    catalogue = "curvatures" if name in CURVATURES else "methods"
    assert registry.load(catalogue, controls.path(name))()
    assert registry.title(controls.path(name)) == name
    assert registry.summary(catalogue, controls.path(name)).endswith(".")


@pytest.mark.parametrize("program", [second_order, curvature_ablation], ids=lambda program: program.__name__)
def test_the_variants_of_a_program_have_right_options(program: Any) -> None:
    """As `expunge.compare` builds them; those that are a program's own are named by none of the recipe's."""
    made = variants.variants(Compare(variants=program.variants()))
    assert len(made) == len(program.variants()) > len(program.CONTROLS)
    assert not program.CONTROLS.keys() & program.read_yaml(program.RECIPE)["variants"].keys()
    for settings in program.CONTROLS.values():
        assert any(str(settings.get(key)).startswith(str(FOLDER)) for key in ("method", "curvature"))


def test_every_use_of_a_curvature_has_its_controls() -> None:
    """Of each line of the tables that asks whether a curvature earns its place, all variants are compared somewhere."""
    known = second_order.variants().keys() | curvature_ablation.variants().keys()
    assert all(name in known for names in FAMILIES.values() for name in names)


# Sophia's curvature


def second_phase(name: str, problem: Problem) -> tuple[Descend, State]:
    """The last phase of libu, or of a control by name, and the state that it is for."""
    method: Any = short("libu" if name == "libu" else controls.path(name))
    problem = divided(problem, method.needs.parts)
    state = method.init(problem)
    phases = flattened(method.phases(problem, state))
    assert len(phases) == (2 if name == "libu" else 1)
    assert isinstance(phases[-1], Descend)
    return phases[-1], state


@pytest.mark.parametrize("name", SOPHIA)
def test_controls_of_sophia_are_libu_s_second_phase_but_for_the_optimiser(name: str) -> None:
    problem = mixed()
    assert short(controls.path(name)).needs == short("libu").needs
    (control, state), (libu, _) = second_phase(name, problem), second_phase("libu", problem)
    own = {field.name for field in fields(Descend)} - {"loss", "optimiser"}
    assert {one: getattr(control, one) for one in own} == {one: getattr(libu, one) for one in own}
    for split in ("forget", "retain", "unseen"):
        windows = problem.splits[split].windows
        batch = collate(split, windows, range(len(windows)))
        assert torch.equal(control.loss(problem, state, batch).total, libu.loss(problem, state, batch).total)
    assert (control.optimiser == libu.optimiser) == (name == "sophia_diagonal")
    assert isinstance(control.optimiser, WithSophia)
    assert control.optimiser.settings == (SETTINGS if name == "sophia_soul" else SophiaSettings())


def estimates(name: str) -> tuple[Estimate, Estimate]:
    """What the control puts in the place of an estimate, and the estimate."""
    problem = mixed()
    made = second_phase(name, problem)[0].optimiser
    assert isinstance(made, WithSophia) and made.estimate is not None
    batches = Stream("retain", problem.splits["retain"].windows, 1).draw(4)
    found = made.estimate(problem, batches, torch.Generator().manual_seed(3))
    again = made.estimate(problem, batches, torch.Generator().manual_seed(3))
    assert all(map(torch.equal, found.diagonal, again.diagonal))
    return found, estimate(problem, batches, torch.Generator().manual_seed(3))


def entries(tensor: Tensor) -> Tensor:
    """In order of size: what a permutation leaves as it is."""
    return tensor.flatten().sort().values


def test_shuffled_estimates_are_the_same_numbers_in_other_places() -> None:
    found, plain = estimates("sophia_shuffled")
    assert (found.targets, found.tokens) == (plain.targets, plain.tokens)
    for one, other in zip(found.diagonal, plain.diagonal, strict=True):
        assert one.shape == other.shape and not torch.equal(one, other)
        assert torch.equal(entries(one), entries(other))
        drawn = other.flatten()[torch.randint(other.numel(), (other.numel(),))]  # broken: drawn with replacement
        assert not torch.equal(entries(drawn), entries(other))


def test_the_order_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a moving average over estimates would level them, and the spread would be lost too."""
    parts = [torch.arange(12.0).view(3, 4), torch.arange(12.0).view(3, 4)]
    monkeypatch.setattr(sophia_shuffled, "estimate", lambda *given: Estimate(parts, 1, 1))
    once, twice = (
        sophia_shuffled.shuffled(mixed(), [], torch.Generator().manual_seed(seed)).diagonal for seed in (1, 2)
    )
    assert all(map(torch.equal, once, twice))
    assert not torch.equal(once[0], once[1])  # but each tensor has its own


def test_identity_estimates_are_ones_and_cost_as_much() -> None:
    found, plain = estimates("sophia_identity")
    assert (found.targets, found.tokens) == (plain.targets, plain.tokens)
    assert all(bool((one == 1).all()) for one in found.diagonal)
    assert [one.shape for one in found.diagonal] == [one.shape for one in plain.diagonal]


@pytest.mark.parametrize("name", ["libu_first", *SOPHIA])
def test_controls_run(name: str) -> None:
    """To other weights each, from the same start and with the same rows."""
    problem = mixed()
    before = problem.snapshot()
    outcome = apply(short(controls.path(name)), problem, lambda entry: None)
    assert outcome.steps > 0
    assert all(torch.isfinite(tensor).all() for tensor in problem.movable.values())
    assert not all(torch.equal(before[key], tensor) for key, tensor in problem.movable.items())
    assert bool(outcome.proposals) == (name == "libu_first")


def test_what_sophia_is_given_in_the_place_of_its_curvature_matters() -> None:
    """Else a control would be no control: its estimates never reach the step."""
    ends = []
    for name in SOPHIA:
        problem = mixed()
        apply(short(controls.path(name), steps=12), problem, lambda entry: None)
        ends.append(torch.cat([tensor.detach().flatten() for tensor in problem.movable.values()]))
    assert not any(torch.equal(one, other) for place, one in enumerate(ends) for other in ends[:place])


def test_libu_s_first_phase_alone_is_its_first_phase() -> None:
    ends = []
    for method in (short(controls.path("libu_first")), short("libu")):
        problem = mixed()
        outcome = apply(method, problem, lambda entry: None)
        ends.append((problem.snapshot(), outcome.proposals[0]))
    (alone, first), (whole, same_first) = ends
    assert {key: first[key] for key in ("step", "direction_norm", "retain_kl", "forget")} == {
        key: same_first[key] for key in ("step", "direction_norm", "retain_kl", "forget")
    }
    assert not same(alone, whole)  # which went on


# The diagonal, shuffled


def fitted(name: str) -> tuple[Any, Any, Problem]:
    problem = problem_of(model_of("llama"))
    curvature = directions.curvature_of(name, {})
    return curvature, curvature.init(problem, problem.splits["retain"]), problem


def test_the_shuffled_diagonal_is_the_diagonal_in_another_order() -> None:
    curvature, state, problem = fitted(controls.path("shuffled_diagonal"))
    plain, unshuffled, _ = fitted("diagonal")
    assert (curvature.labels, curvature.passes) == (plain.labels, plain.passes)
    assert state.tensors.keys() == unshuffled.tensors.keys()
    for name, tensor in state.tensors.items():
        assert not torch.equal(tensor, unshuffled.tensors[name])
        assert torch.equal(entries(tensor), entries(unshuffled.tensors[name]))
    for figure in ("mean", "median", "means", "examples", "tokens", "alive"):
        assert getattr(state, figure) == getattr(unshuffled, figure)
    assert damping_for(state, 0.1) == damping_for(unshuffled, 0.1)
    vector = {name: torch.randn_like(tensor) for name, tensor in problem.movable.items()}
    damping = damping_for(state, 0.1)
    expected = {name: vector[name] / (state.tensors[name] + damping.value) for name in vector}
    assert same(curvature.solve(problem, state, vector, damping).value, expected)
    assert not same(plain.solve(problem, unshuffled, vector, damping).value, expected)


def test_it_makes_no_forecast_and_costs_what_the_diagonal_costs() -> None:
    curvature, state, problem = fitted(controls.path("shuffled_diagonal"))
    assert Diagonal().forecasts and not curvature.forecasts
    assert curvature.cost(8) == Diagonal().cost(8)
    again = curvature.init(problem, problem.splits["retain"])
    assert same(again.tensors, state.tensors)
    other = curvature.init(replace(problem, seed=1), problem.splits["retain"])
    assert not torch.equal(other.tensors["model.norm.weight"], state.tensors["model.norm.weight"])


def test_a_method_takes_it_by_its_path() -> None:
    ends = []
    for curvature in ("diagonal", controls.path("shuffled_diagonal")):
        problem = mixed()
        outcome = apply(FisherRemoval(curvature=curvature, budget=1e-3), problem, lambda entry: None)
        ends.append(problem.snapshot())
        assert outcome.proposals[0]["step"] and outcome.proposals[0]["notes"]["curvature"] == registry.title(curvature)
    assert not same(ends[0], ends[1])


# SOUL's rule as released


def soul(parameter: Tensor, rule: Rule = RULE) -> Sophia:
    return Sophia([parameter], SETTINGS, rule, lr=RATE)


def test_the_released_soul_doubles_its_momentum() -> None:
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    once = Sophia([parameter], SophiaSettings(gamma=1.0, betas=(0.9, 0.95)), lr=RATE)
    parameter.grad = torch.ones(1, dtype=torch.float64)
    once.step()
    assert float(once.state[parameter]["momentum"]) == pytest.approx(0.10, abs=1e-12)
    # twice: 0.1, then 0.9 * 0.1 + 0.1 = 0.19
    doubled = soul(parameter)
    doubled.step()
    assert float(doubled.state[parameter]["momentum"]) == pytest.approx(0.19, abs=1e-12)


def of_the_batch(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
    """Broken: a batch's own size in place of the constant that was never changed."""
    return Ratio(averages["momentum"], gamma * 256 * averages["curvature"] + settings.eps)


def test_the_released_soul_is_clipped_where_gradients_are_small() -> None:
    # g = 1: h = 0.05, bound = 0.04 * 5120 * 0.05 = 10.24, m = 0.19: unclipped, step 0.19 / 10.24
    # g = 1e-3: h = 5e-8, bound = 1.024e-5, m = 1.9e-4: clipped
    expected = pytest.approx([-RATE * 0.19 / 10.24, -RATE], rel=1e-9)
    for rule, holds in ((RULE, True), (replace(RULE, ratio=of_the_batch), False)):
        parameter = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimiser = soul(parameter, rule)
        parameter.grad = torch.tensor([1.0, 1e-3], dtype=torch.float64)
        optimiser.step()
        assert (parameter.tolist() == expected) == holds
        assert optimiser.unclipped_share() == 0.5


def test_a_restored_soul_goes_on_as_the_first() -> None:
    def steps(optimiser: Sophia, parameter: Tensor) -> Tensor:
        for gradient in ([1.0, 1.0], [1.0, -1.0], [2.0, 1e-3]):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
            optimiser.step()
        return parameter.detach().clone()

    parameter = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = soul(parameter)
    steps(optimiser, parameter)
    copy = parameter.detach().clone().requires_grad_()
    restored = soul(copy)
    restored.load_state_dict(copy_of(optimiser.state_dict()))
    anew = soul(other := parameter.detach().clone().requires_grad_())
    end = steps(optimiser, parameter)
    assert torch.equal(steps(restored, copy), end)
    assert not torch.equal(steps(anew, other), end)


def test_soul_never_estimates_but_is_measured() -> None:
    problem, settings = mixed(), replace(SETTINGS, refresh_every=4)
    asked: list[Any] = []

    def refuse(problem: Problem, batches: Any, generator: Any) -> Estimate:
        asked.append(batches)
        raise AssertionError("no estimate is due")

    phase, _ = second_phase("sophia_soul", problem)
    assert isinstance(phase.optimiser, WithSophia) and phase.optimiser.estimate is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.influence.refresh.estimate", refuse)
        made = replace(phase.optimiser, settings=settings)
        notes: list[dict[str, Any]] = []
        stepper = made.begin(problem, problem.splits, 0, lambda name, figures: notes.append({name: dict(figures)}))
        batches: list[Batch] = Stream("retain", problem.splits["retain"].windows, 1).draw(2)
        for step in range(8):
            stepper.before(step, batches)
            for tensor in problem.movable.values():
                tensor.grad = torch.ones_like(tensor)
            stepper.optimiser.step()
            stepper.after(step)
    assert not asked and stepper.tokens == 0
    assert [note["sophia"]["step"] for note in notes] == [3, 7]
    assert all(0 <= note["sophia"]["unclipped"] <= 1 for note in notes)
