"""Estimates add up what each part of a run says it costs: against the problem that a run has, the tokens that really go
through a model, and the memory that a curvature is refused for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge import pipeline, registry
from expunge.config import commands, options
from expunge.curvature import STATE_SHARE
from expunge.curvatures.block import Block
from expunge.data.passes import MEASURING, Passes, Weighed
from expunge.errors import InputError
from expunge.intake.sets import check
from expunge.loop import phases
from expunge.loop.trial import method_of
from expunge.model.select import select
from expunge.model.trace import Blueprint
from expunge.planning import estimate, memory
from expunge.planning.estimate import Estimator, Fit
from expunge.planning.rows import Rows
from expunge.runs import memory as machine
from expunge.runs.distributed import Runtime
from problems import METHODS, problem_of, short, text_model, write_model

COUNTS = {"forget": 10, "retain": 24, "holdout": 12}
SIZES: dict[str, Any] = {"width": 32, "layers": 3, "context": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and rows, as a user has them."""
    made = tmp_path_factory.mktemp("given")
    write_model(made / "model", **SIZES)
    write_model(made / "base", seed=1, **SIZES)
    for name, count in COUNTS.items():
        rows = [
            {"prompt": f"{name} {line}?", "completion": "ab " * (line % 4 + 1) + str(line), "alternate": "no"}
            for line in range(count)
        ]
        (made / f"{name}_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        rows += [
            {"text": f"A document of {name}, which is {'very ' * line}long.", "alternate": "A book."}
            for line in range(4)
        ]
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def given(folder: Path, **more: Any) -> dict[str, Any]:
    rows = {name: str(folder / f"{name}.jsonl") for name in COUNTS}
    return {"model": str(folder / "model"), "device": "cpu", "join": "space", **rows} | more


def plan_of(folder: Path, **more: Any) -> commands.Plan:
    plan: commands.Plan = options.build(commands.Plan, given(folder, **more), "plan")
    return plan


def estimator(folder: Path, **more: Any) -> Estimator:
    plan = plan_of(folder, **more)
    rows, shape = Rows.before_loading(plan, check(plan, weights=False))
    return Estimator(plan, shape, rows, Runtime("cpu"), torch.float32)


# What is added up


def summed(passes: Weighed) -> list[tuple[float, Any]]:
    return sorted(passes)


def check_work(found: Passes, expected: Passes) -> None:
    for kind in ("trained", "measured", "plain"):
        assert summed(getattr(found, kind)) == summed(getattr(expected, kind)), kind
    assert (found.updates, found.copies, found.bytes) == (expected.updates, expected.copies, expected.bytes)
    assert (found.kept, found.generated) == (expected.kept, expected.generated)


def work_of(made: Estimator, name: str) -> Passes:
    return made._work(short(name), made.rows, "lora").steps


def run_of(rows: Rows, name: str) -> Passes:
    """Of the problem that a run has: a model with its parameters, and the splits that a method sees."""
    method = short(name)
    chosen = select(text_model(**SIZES), "lora", torch.device("cpu"), method.needs.layers)
    seen = {key: split for key, split in rows.splits.items() if key != "judging"}
    problem = problem_of(chosen.model, seen, tokenizer=rows.tokenizer, rendering=rows.rendering, adapter=True)
    found = phases.cost(method, problem)
    return found.before + found.phases


@pytest.mark.parametrize("name", METHODS)
def test_a_plan_without_a_model_adds_up_what_a_run_would(name: str, folder: Path) -> None:
    made = estimator(folder)
    check_work(work_of(made, name), run_of(made.rows, name))


@pytest.mark.parametrize(
    "broken",
    [
        lambda found: replace(found, trained=found.trained[1:]),
        lambda found: replace(found, copies=found.copies - 1),
        lambda found: replace(found, bytes=found.bytes // 256),
        lambda found: found.times(2),
    ],
)
def test_other_work_would_be_seen(broken: Any, folder: Path) -> None:
    made = estimator(folder)
    method = short("fisher_removal", curvature="block", curvature_options={"gradients": 256})
    found = made._work(method, made.rows, "lora").steps
    assert found.bytes
    with pytest.raises(AssertionError):
        check_work(broken(found), found)


@pytest.fixture(scope="module")
def every(folder: Path) -> Any:
    """A plan for all methods, by name."""
    return {cost.name: cost for cost in pipeline.run_plan(plan_of(folder, subspace="full")).estimate.methods}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_plan(name: str, every: Any, folder: Path) -> None:
    questions = plan_of(folder, subspace="full", method=name, forget=str(folder / "forget_questions.jsonl"))
    cost = every[name] if name in every else pipeline.run_plan(questions).estimate.methods[0]
    assert cost.steps > 0 and cost.row_passes > 0 and cost.seconds > 0
    assert cost.step_flops > 0 and cost.other_flops > 0
    assert set(cost.memory.stages) >= {"measuring the original", "unlearning", "saving", "measuring what was written"}
    assert cost.memory.peak > 4 * sum(tensor.numel() for tensor in text_model(**SIZES).parameters())


def test_measuring_is_told_apart(every: Any, folder: Path) -> None:
    """Whatever the method: the same rows, under the original and what was written; and both times make up the whole."""
    made = estimator(folder, subspace="full")
    work = made._work(short("gradient_ascent"), made.rows, "full")
    for cost in every.values():
        assert cost.measuring_passes == pytest.approx(work.beside.row_passes) and cost.measuring_passes > 0
        assert 0 < cost.measuring_seconds < cost.seconds
    judged = sum(len(split.windows) for split in made.rows.judged(None).values())
    assert work.beside.row_passes > 2 * MEASURING * judged  # and settling, and the read-back of what was written


def test_a_method_that_moves_few_layers_takes_less_memory(every: Any) -> None:
    assert every["rmu"].memory.stages["unlearning"] < every["gradient_difference"].memory.stages["unlearning"]


def test_row_passes_are_those_of_the_steps(every: Any) -> None:
    """By hand, of 14 windows of forget rows: 10 passes by 32 are 10 steps of all 14, and there are 11 looks."""
    found = every["gradient_ascent"]
    assert found.steps == 10
    watched = sum(COUNTS[name] + 4 for name in ("forget", "retain"))  # a guard is part of the retain rows
    assert found.row_passes == pytest.approx(10 * 14 + MEASURING * watched * 11)


def spent(folder: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> float:
    """Tokens, padding excluded, that go through models in a whole run, a forward pass alone as a third; generation is
    left out, as plans hold it apart."""
    from transformers import LlamaForCausalLM

    counted = [0.0]
    forward = LlamaForCausalLM.forward

    def counting(self: Any, *arguments: Any, **named: Any) -> Any:
        if not named.get("use_cache"):
            share = 1.0 if torch.is_grad_enabled() else MEASURING
            counted[0] += share * int(named["attention_mask"].sum())
        return forward(self, *arguments, **named)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counting)
    output = folder / f"out-{len(list(folder.iterdir()))}"
    monkeypatch.setenv("EXPUNGE_CACHE", str(folder / f"cache of {output.name}"))  # nothing was measured before
    expunge.unlearn(**given(folder, **more), output=str(output), force=True)
    return counted[0]


def planned_tokens(folder: Path, **more: Any) -> float:
    made = estimator(folder, **more)
    method = registry.load("methods", more["method"])(**more["options"])
    work = made._work(method, made.rows, "lora")
    return (work.steps + work.beside).tokens


@pytest.mark.parametrize("beside", [{}, {"base": "base"}, {"retrained": "base"}])
def test_a_whole_run_sends_as_many_tokens_as_its_plan_says(
    beside: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps, their checks, and all that is measured around them; samples may be shorter than they may get."""
    more: dict[str, Any] = {"method": "gradient_difference", "subspace": "lora", "options": {"epochs": 3}}
    more |= {role: str(folder / name) for role, name in beside.items()}
    real, planned = spent(folder, monkeypatch, **more), planned_tokens(folder, **more)
    assert planned == pytest.approx(real, rel=0.1)
    # What the check must reject: a plan that forgets the judging, or one of the models.
    made = estimator(folder, **more)
    method = registry.load("methods", "gradient_difference")(epochs=3)
    assert made._work(method, made.rows, "lora").steps.tokens != pytest.approx(real, rel=0.1)
    assert planned - made._work(method, made.rows, "lora").beside.tokens / 3 != pytest.approx(real, rel=0.1)


# A curvature's memory

BLOCK = {"curvature": "block", "curvature_options": {"gradients": 256}}
M = 256


def filled(blueprint: Blueprint) -> int:
    """What the last block of each matrix lacks to 64 coordinates; the tiny model's matrices are no multiples."""
    lacking = sum(-tensor.numel() % 64 for tensor in blueprint.movable.values())
    assert lacking
    return lacking


def check_bytes(folder: Path) -> None:
    """Of block 256 gradients of all that moves, and again cut into full blocks, four bytes each; of diagonal two
    numbers."""
    made = estimator(folder, subspace="lora")
    blueprint = made.builder.blueprint("lora", torch.float32)
    costs = {
        name: made.unlearning("fisher_removal", short("fisher_removal", curvature=name))
        for name in ("block", "diagonal")
    }
    more = costs["block"].memory.stages["unlearning"] - costs["diagonal"].memory.stages["unlearning"]
    assert more == 4 * M * (2 * blueprint.moving + filled(blueprint)) - 8 * blueprint.moving


def test_a_plan_holds_all_of_a_curvature(folder: Path) -> None:
    check_bytes(folder)


def test_a_plan_that_counts_one_copy_would_be_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Block, "bytes", lambda self, shapes: 4 * sum(shape.numel() for shape in shapes.values()))
    with pytest.raises(AssertionError):
        check_bytes(folder)


def fit_at(folder: Path, size: int) -> Fit:
    """What a plan says of a run as it is asked for, in so much memory."""
    made = estimator(folder, subspace="lora")
    made.interpreter = 0
    return made.room(short("fisher_removal", **BLOCK), size, size)[0]


def run_is_refused(folder: Path, free: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a curvature is refused where so much memory is free once the model is there."""
    made = estimator(folder, subspace="lora")
    chosen = select(text_model(**SIZES), "lora", torch.device("cpu"))
    problem = problem_of(chosen.model, {"curvature": made.rows.splits["retain"]}, tokenizer=made.rows.tokenizer)
    monkeypatch.setattr(machine, "free", lambda device: free)
    try:
        Block(gradients=M).init(problem, problem.splits["curvature"])
    except InputError as error:
        assert "curvature block" in str(error)
        return True
    return False


def edge(folder: Path) -> tuple[int, int]:
    """Bytes of the weights, and of a curvature whose share of the memory beside them is just what it may be."""
    made = estimator(folder, subspace="lora")
    made_of = made.builder.blueprint("lora", torch.float32)
    need = Block(gradients=M).bytes({name: tensor.shape for name, tensor in made_of.movable.items()})
    assert need == 4 * M * (2 * made_of.moving + filled(made_of))
    return made_of.weight_bytes, int(need / STATE_SHARE)


@pytest.mark.parametrize("beside", [-2, 2])
def test_room_says_no_where_a_run_would_refuse(beside: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, free = edge(folder)
    found = fit_at(folder, weights + free + beside)
    refused = run_is_refused(folder, free + beside, monkeypatch)
    assert refused == (beside < 0)
    assert found.fits != refused
    assert (found.when == "fitting the curvature") == refused
    assert found.peak <= weights + free + beside  # it is not for want of memory for the rest


def test_room_that_looks_at_the_peak_alone_would_be_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, free = edge(folder)
    monkeypatch.setattr(estimate, "STATE_SHARE", 1.0)
    assert fit_at(folder, weights + free - 2).fits and run_is_refused(folder, free - 2, monkeypatch)


def test_the_first_flags_that_fit_are_the_last_that_are_tried(folder: Path) -> None:
    made = estimator(folder, subspace="full")
    made.interpreter = 0
    tried = made.room(short("gradient_difference"), 2**40, 2**40)
    assert len(tried) == 1 and tried[0].fits and tried[0].flags == ""
    none = made.room(short("gradient_difference"), 2**10, 2**10)
    assert [one.flags for one in none][:3] == ["", "--subspace lora", "--subspace lora --save-as adapter"]
    assert not any(one.fits for one in none)


# Which linear layers


def seven(folder: Path, **more: Any) -> Estimator:
    """A model of 7B parameters in bfloat16, of which there is nothing but its configuration."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    plan = plan_of(folder, method="margin_newton", **more)
    rows, _ = Rows.before_loading(plan, check(plan, weights=False))
    return Estimator(plan, LlamaConfig(vocab_size=32000, **sizes), rows, Runtime("cpu"), torch.bfloat16)


def test_a_plan_says_with_which_layers_seven_billion_fit_into_24_gb(folder: Path) -> None:
    """By hand, of a LoRA's B on 32 down-projections: S of 4096 x 4096 and A of 32 x 32 each, in float32, and 20 bytes
    an element of the largest while it is whitened; of each token what comes in and out. What does not fit is to read
    back what was written beside it."""
    made, size = seven(folder, save_as="adapter", subspace="lora"), 24 * 2**30
    made.interpreter = 0

    def unlearning(layers: str) -> tuple[Any, int]:
        method = method_of("margin_newton", {"layers": layers})
        linear, needs = made._linear(method.needs, made.rows, "lora", "lora", size)
        work = made._work(method, made.rows, "lora", needs)
        used = memory.unlearning(made.builder, needs, work.steps, work.beside, made.setting, made.runtime.device, size)
        return linear, used.stages["unlearning"]

    linear, used = unlearning("auto")
    forget, *kept = (made.rows.splits[name] for name in ("forget", "retain", "unseen"))
    tokens = round(forget.tokens * (1 + sum(map(len, kept)) / len(forget)))  # of a large request all that is kept
    assert linear == ("down", 32, 4 * 32 * (4096**2 + 32**2) + 20 * 4096**2 + 4 * tokens * 32 * (4096 + 32))
    assert used < size
    every, used = unlearning("all")
    assert every.layers == 7 * 32 and used > size
    fit = made.room(method_of("margin_newton", {}), size, size)[0]
    assert (fit.linear, fit.when) == (linear, "measuring what was written") and not fit.fits


def test_a_small_model_s_layers_all_fit(folder: Path) -> None:
    found = estimator(folder).unlearning("margin_newton", method_of("margin_newton", {}))
    assert found.linear is not None and (found.linear.which, found.linear.layers) == ("all", 21)
