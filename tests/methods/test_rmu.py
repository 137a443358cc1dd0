"""RMU: its loss by hand, the layers it moves, how far its passes run, and mistakes that must be seen."""

from typing import Any

import pytest
import torch

from expunge.data.batches import Batch, collate
from expunge.errors import InputError
from expunge.loop.phases import apply
from expunge.method import State
from expunge.methods import rmu
from expunge.methods.rmu import RMU, direction
from expunge.model.select import select
from expunge.problem import Problem
from expunge.runs.distributed import Runtime
from problems import problem_of, rows_of, text_model, text_problem

BATCH = Batch(
    "forget",
    ids=torch.tensor([[0, 1], [2, 0]]),
    attention=torch.tensor([[True, True], [True, False]]),
    counted=torch.tensor([[False, True], [False, False]]),
    rows=torch.tensor([0, 1]),
    windows=torch.tensor([0, 1]),
)
# D = 2; the padded place's states count for nothing
STATES = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 1.0], [9.0, 9.0]]])


def loss(split: str, state: State, monkeypatch: pytest.MonkeyPatch, **options: Any) -> float:
    monkeypatch.setattr(rmu, "hidden_states", lambda model, batch, layer: STATES)
    problem = problem_of(torch.nn.Linear(1, 1), {})
    return float(RMU(**options).loss(problem, state, Batch(split, *[getattr(BATCH, n) for n in NAMES])).total)


NAMES = ("ids", "attention", "counted", "rows", "windows")


def test_forget_states_are_led_to_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    # target (1, 1), two coordinates: of the first row ((0 + 1) / 2 + (1 + 1) / 2) / 2, of the second (4 + 0) / 2
    state = State(caches={"layer": 0, "target": torch.tensor([1.0, 1.0])})
    assert loss("forget", state, monkeypatch) == pytest.approx((0.75 + 2) / 2)
    assert loss("forget", state, monkeypatch) != pytest.approx(7 / 6, rel=0.1)  # all tokens alike
    assert loss("forget", state, monkeypatch) != pytest.approx((0.75 + (2 + 64) / 2) / 2, rel=0.1)  # padding counted


def test_retain_states_stay_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    # kept (1, 0), (0, 0) | (3, 0): (0 / 2 + 4 / 2) / 2 of the first row, 1 / 2 of the second, times the weight
    kept = (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    state = State(caches={"layer": 0, "retain": kept})
    assert loss("retain", state, monkeypatch, retain_weight=6.0) == pytest.approx(6 * (1 + 0.5) / 2)
    turned = State(caches={"layer": 0, "retain": kept[::-1]})  # windows mixed up: their lengths do not even fit
    with pytest.raises((RuntimeError, AssertionError)):
        assert loss("retain", turned, monkeypatch, retain_weight=6.0) == pytest.approx(4.5)


def test_the_direction_has_length_one_and_no_negative_entry() -> None:
    found = direction(64, 3)
    assert float(found.norm()) == pytest.approx(1.0)
    assert (found >= 0).all() and not torch.equal(found, direction(64, 4)) and torch.equal(found, direction(64, 3))


@pytest.mark.parametrize(
    ("count", "layer", "moved"),
    [(32, 7, [5, 6, 7]), (12, 3, [1, 2, 3]), (4, 1, [0, 1]), (3, 1, [0, 1]), (2, 0, [0])],
)
def test_which_layers(count: int, layer: int, moved: list[int]) -> None:
    """The paper's 5, 6 and 7 of 32; of a shallow model those that there are, never the last."""
    method = RMU()
    assert (method.layer(count), list(method.moved(count))) == (layer, moved)
    assert RMU(depth=0.99).layer(32) == 30
    with pytest.raises(InputError, match="one"):
        method.layer(1)


def made(subspace: str = "full", layers: int = 6) -> Problem:
    """Eight rows in each split; what may move is what the method needs of the subspace."""
    rows = {
        name: rows_of(name, [f"{n * 37 + place}" for n in range(8)]) for place, name in enumerate(("forget", "retain"))
    }
    return text_problem(rows, subspace, layers=layers, moved=RMU().needs.layers)


@pytest.mark.parametrize("subspace", ["full", "lora", "model.layers.*.mlp.*"])
def test_its_needs_decide_what_moves(subspace: str) -> None:
    problem = made(subspace)
    assert problem.movable
    assert {name.split("layers.")[1][0] for name in problem.movable} == {"0", "1"}  # of six: 1, and what is before it
    with pytest.raises(InputError, match="no parameter"):
        select(text_model(), "lm_head*", Runtime("cpu").device, RMU().needs.layers)


@pytest.mark.parametrize("subspace", ["full", "lora"])
def test_forget_states_move_to_the_direction_and_retain_states_do_not(subspace: str) -> None:
    problem = made(subspace)
    method = RMU(steps=80, learning_rate=3e-3, rows=8, retain_weight=10.0, steering=3.0)
    state = method.init(problem)

    def apart(split: str) -> float:
        windows = problem.splits[split].windows
        with torch.no_grad():
            return float(method.loss(problem, state, collate(split, windows, range(len(windows)))).total)

    before = {split: apart(split) for split in ("forget", "retain")}
    assert before["retain"] == 0
    apply(method, problem, lambda entry: None)
    assert apart("forget") < 0.8 * before["forget"]
    assert apart("retain") < 10.0 * before["forget"]


def test_passes_run_no_further_than_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    method = RMU(steps=2)
    ran: set[int] = set()
    for place, layer in enumerate(problem.model.model.layers):
        layer.register_forward_hook(lambda *arguments, place=place: ran.add(place))
    state = method.init(problem)
    windows = problem.splits["forget"].windows
    method.loss(problem, state, collate("forget", windows, range(len(windows)))).total.backward()
    assert ran == {0, 1} == set(range(state.notes["layer"] + 1))
