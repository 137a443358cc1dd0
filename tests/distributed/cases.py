"""What two processes must find as one does: `main` is what both run, which leaves its findings in a file by rank.

Everything is float64 on a tiny Llama whose rows differ in length, one of them longer than the context.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import expunge
from distributed import world
from expunge import registry
from expunge.curvature import damping_for
from expunge.data import batches
from expunge.data.batches import Batch, Stream
from expunge.demo.tiny import byte_tokenizer
from expunge.evaluation import answers, divergence, evidence
from expunge.gradients.estimates import NOISE, SAMPLED, Source, estimate
from expunge.gradients.per_example import Squares, Stacked, measure
from expunge.gradients.summed import Terms, divergence_gradient, mean_gradient
from expunge.gradients.summed import gradients as gradients_of
from expunge.influence import directions
from expunge.loop.acceptance import Acceptance
from expunge.loop.minimise import Minimiser
from expunge.loop.phases import apply
from expunge.loop.proposals import ProposeRunner
from expunge.loop.training import Training, train
from expunge.loop.unlearning import Unlearning
from expunge.loop.watch import Outcome, Watch
from expunge.method import Propose, State, Trial
from expunge.methods.fisher_removal import FisherRemoval
from expunge.methods.libu_as_published import squared_batch_means
from expunge.model.losses import target_logits, window_means
from expunge.optim.step_size import RetainBudget
from expunge.optim.stepper import Plain
from expunge.problem import Problem, divided
from expunge.reference.cache import keep_distributions, log_likelihoods, row_losses
from expunge.runs import distributed
from expunge.runs.distributed import Runtime
from oracles import token_nll
from problems import METHODS, Moved, rows_of, short, text_model, text_problem

Found = dict[str, Any]
CONTEXT = 32
FEW = {"steps": 10, "epochs": 10, "replay_texts": 4, "replay_tokens": 12, "forget_rows": 5, "cycles": 2}
OWN = {"ng_diff": {"epochs": 5, "first_rate": 0.3}}  # each rate that is measured makes more of what was rounded before
CURVATURES = registry.names("curvatures")


def problem_of(
    subspace: str = "full",
    rows: int = 18,
    forget: int = 5,
    layers: int = 1,
    moved: Moved = None,
    linear: bool = False,
) -> Problem:
    """Answers of many lengths, and of each set a document; the retain set's is longer than the context."""
    torch.manual_seed(0)
    return text_problem(
        {
            name: rows_of(
                name,
                ["ab" * (n % 4 + 1) + str(n * 37) for n in range(count - 1)],
                [f"{name} is a long word" * long],
            )
            for name, count, long in (("forget", forget, 1), ("retain", rows, 4), ("unseen", forget, 1))
        },
        subspace,
        width=16,
        layers=layers,
        dtype=torch.float64,
        context=CONTEXT,
        moved=moved,
        linear=linear,
    )


def cross_entropy(problem: Problem) -> Callable[[Batch], Terms]:
    def loss(batch: Batch) -> Terms:
        value = window_means(token_nll(target_logits(problem.model, batch), batch), batch).mean()
        return Terms({batch.split: value}, -value if batch.split == "forget" else value)

    return loss


def accumulated(problem: Problem) -> Found:
    """Gradients and parts of one step: five forget windows and eight retain windows, so that shares are unequal."""
    drawn = [
        batch
        for name, count in (("forget", 5), ("retain", 8))
        for batch in Stream(name, problem.splits[name].windows, 3).draw(count)
    ]
    found = gradients_of(problem, drawn, cross_entropy(problem), apart=True)
    together = gradients_of(problem, drawn, cross_entropy(problem)).by_split[""]
    apart = {f"{split}: {name}": part for split, one in found.by_split.items() for name, part in one.items()}
    return found.parts | together | apart


def at_a_measured_rate(problem: Problem) -> Found:
    """A step whose gradients are combined apart, at a rate that a look at both splits' losses sets."""
    looks: list[float] = []

    def rate(trial: Trial) -> float:
        looks.extend(trial.loss_at(0.1, split) for split in sorted(trial.splits))
        return 0.1

    def signs(by_split: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: by_split["forget"][name].sign() * part.abs() for name, part in by_split["retain"].items()}

    minimiser = Minimiser(
        problem,
        Plain(make=lambda parameters: torch.optim.SGD(parameters, lr=0.0)).begin(problem, {}, 0, lambda *_: None),
        {name: Stream(name, problem.splits[name].windows, 3) for name in ("forget", "retain")},
        {"forget": 3, "retain": 8},
        cross_entropy(problem),
        rate,
        steps=2,
        combine=signs,
    )
    minimiser.run(lambda step, losses: False, lambda *_: None)
    return (
        problem.snapshot()
        | {f"look {place}": value for place, value in enumerate(looks)}
        | {"tokens": minimiser.tokens}
    )


def plain_training(problem: Problem) -> Found:
    """By tokens, in steps of five windows."""
    loss = train(problem, problem.splits["retain"], Training(epochs=1, batch_rows=5, learning_rate=1e-2), "training")
    return problem.snapshot() | {"loss": loss}


def moved(problem: Problem) -> Problem:
    """The weights a little away from the original's."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in problem.movable.values():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return problem


def gradients(problem: Problem) -> Found:
    """Mean gradients of every kind, and what the original's cached distributions and likelihoods are."""
    kept = [(split, keep_distributions(problem, split)) for split in problem.splits.values()]
    found: Found = {"log-likelihoods": log_likelihoods(problem, problem.splits["retain"])}
    moved(problem)
    for name, gradient in (
        ("rows", mean_gradient(problem, problem.splits["retain"], "row")),
        ("tokens", mean_gradient(problem, problem.splits["retain"], "token")),
        ("some rows", mean_gradient(problem, problem.splits["forget"], "row", [1, 3])),
        ("divergence", divergence_gradient(problem, kept)),
        ("squared batch means", squared_batch_means(problem, problem.splits["retain"], 4)),
    ):
        found |= {f"{name}: {key}": value for key, value in gradient.items()}
    return found | {"losses": row_losses(problem, problem.model, problem.splits["retain"])}


def statistics(problem: Problem) -> Found:
    """Sums over examples under each label source, in batches of two, which cut the long row."""
    kinds: tuple[tuple[Any, Any], ...] = (
        (Stacked, "noise"),
        (Squares, "noise"),
        (Squares, "sampled"),
        (Squares, "data"),
    )
    found: Found = {}
    for gather, labels in kinds:
        sums = measure(problem, problem.splits["retain"], gather, labels, passes=2, windows=2)
        found |= {f"{gather.__name__}, {labels}: {name}": value for name, value in sums.tensors.items()}
    return found


def curvature(name: str, problem: Problem) -> Found:
    """The matrix times a vector, its inverse and its fourth root."""
    made = registry.load("curvatures", name)()
    state = made.init(problem, problem.splits["retain"])
    vector = mean_gradient(problem, problem.splits["forget"], "row")
    damping = damping_for(state, 0.1)
    solution = made.solve(problem, state, vector, damping)
    products = {"C v": made.matvec(problem, state, vector), "C^-1 v": solution.value}
    if made.has_powers:
        products["C^-1/4 v"] = made.power(problem, state, vector, -0.25, damping)
    found = {f"{what}: {key}": value for what, parts in products.items() for key, value in parts.items()}
    figures = {"status": solution.status, "residual": solution.residual, "iterations": solution.iterations}
    return found | figures | {"mean": state.mean, "median": state.median}


DATA = Source(lambda logits, batch, generator: token_nll(logits, batch).sum(), lambda shape, dtype, generator: None)
SOURCES = {"noise": NOISE, "sampled": SAMPLED, "data": DATA}
FORGETFUL = replace(NOISE, skip=DATA.skip)  # does not draw what another process draws


def estimates(problem: Problem, sources: Mapping[str, Source] = SOURCES) -> Found:
    """Sophia's curvature: three batches, whose chance does not depend on who takes them."""
    found: Found = {}
    for kind, source in sources.items():
        drawn = Stream("retain", problem.splits["retain"].windows, 1).draw(11, 4)
        made = estimate(problem, drawn, torch.Generator().manual_seed(2), source)
        found |= {f"{kind} {place}": part for place, part in enumerate(made.diagonal)}
        found |= {f"{kind} targets": made.targets, f"{kind} tokens": made.tokens}
    return found


def budget(problem: Problem) -> Found:
    """A step up the forget loss, as long as a retain budget allows."""
    problem = divided(problem, {"retain": 1, "curvature": 2, "acceptance": 1})
    fitted = directions.fit(problem, FisherRemoval())
    phase = Propose(
        propose=lambda problem, state: directions.ascent(problem, state, fitted, stop_at_targets=False),
        step=RetainBudget(budget=1e-3),
        passes={},
    )
    state = State()
    unlearning = Unlearning(
        problem,
        state,
        Watch.at_original(problem, state),
        Outcome(),
        log=lambda entry: None,
        keep=lambda within: None,
        acceptance=Acceptance.at_original(problem, state),
    )
    taken = ProposeRunner(unlearning, phase).take()
    figures = ("step", "tokens", "direction_norm", "guess", "measurements")
    return problem.snapshot() | {name: taken[name] for name in figures} | taken["retain_kl"]


def method(name: str) -> Found:
    """All phases of a method, ten steps of each; one that names layers has two to choose from."""
    return run(short(name, **FEW | OWN.get(name, {})))


def run(made: Any, low_rank: float | None = None) -> Found:
    """A method of one layer's whole weights, or of two; in low rank also the products."""
    needs = made.needs
    problem = problem_of(layers=2 if needs.layers else 1, moved=needs.layers, linear=needs.linear)
    problem = replace(problem, low_rank=low_rank)
    torch.manual_seed(0)
    outcome = apply(made, problem, lambda entry: None)
    found = problem.snapshot() | {"steps": outcome.steps, "tokens": outcome.tokens, "stopped": outcome.stopped}
    found |= {f"step {place}": proposal["step"] for place, proposal in enumerate(outcome.proposals)}
    found |= {f"loss at {check['step']}": check["forget"] for check in outcome.history if "forget" in check}
    found |= {f"{name} {side}": part for name, one in outcome.change.items() for side, part in one.items()}
    return found | {f"target {place}": value for place, value in enumerate(outcome.targets or [])}


def scores(problem: Problem) -> Found:
    """Evidence: losses, generations in the order of the rows, and the distance from the original."""
    judged = dict(problem.splits)
    kept = divergence.keep(problem, judged)
    recorded = evidence.record(moved(problem), judged, ("unseen",), kept=kept)
    found: Found = {}
    for name, one in recorded.sets.items():
        found |= {f"{name} loss": torch.tensor(one.loss), f"{name} tokens": torch.tensor(one.token_loss)}
        found |= {f"{name} references": one.references, f"{name} generations": one.generations}
        if one.kl is not None:
            found[f"{name} kl"] = torch.tensor(one.kl)
    return found | answered(problem)


def answered(problem: Problem) -> Found:
    """What is recorded of other answers and of single tokens."""
    split = problem.splits["forget"]
    rows = [replace(row, paraphrased=("the same",), perturbed=(row.completion[::-1], "zz")) for row in split.rows]
    others, tokens = answers.others(problem, rows), answers.tokens(problem, split)
    assert others is not None
    parts = asdict(others) | {f"single {name}": values for name, values in asdict(tokens).items()}
    return {name: torch.tensor(values) for name, values in parts.items()}


def fewer_windows_than_processes() -> Found:
    """One row in each set: one of two processes has nothing to do, and takes part all the same."""
    problem = problem_of(rows=1, forget=1)
    problem = replace(problem, splits={name: split.of([0], name) for name, split in problem.splits.items()})
    only = {name: replace(split, windows=split.windows[:1]) for name, split in problem.splits.items()}
    problem = replace(problem, splits=only)
    stacked = measure(problem, problem.splits["retain"], Stacked, "noise").tensors
    found = accumulated(problem) | {f"of an example: {key}": value for key, value in stacked.items()}
    return found | {f"score {key}": value for key, value in scores(problem).items()}


def own_order() -> Found:
    """Where processes decide alike: what the main one holds, and the least of all."""
    tensor = torch.full((3,), float(distributed._rank() + 1))
    distributed.as_main_([tensor])
    return {"as main": tensor, "least": distributed.least(7 + distributed._rank())}


def commands(folder: Path) -> Found:
    """Retrain, with a twin from the cache and one that is made now, and evaluate: in float32, from files to files."""

    def made() -> None:
        world.write(folder, text_model(width=16, layers=1, context=CONTEXT), byte_tokenizer([], 258))

    distributed.from_main(made)
    model, rows = str(folder / "model"), {role: str(folder / f"{role}.jsonl") for role in ("forget", "retain")}
    given = {"model": model, **rows, "device": "cpu"}
    asked = {"model": model, "forget": rows["forget"], "device": "cpu", "base": model}
    asked |= {"train": str(folder / "train.jsonl"), "train_config": str(folder / "training.yaml")}
    twins = []
    for output, seeds in (("one", 1), ("two", 2)):
        twins += expunge.retrain(**asked, output=str(folder / output), twins=seeds)
    run = expunge.evaluate(**given, unlearned=str(twins[0].output), output=str(folder / "judged"))
    scores = {f"{one.metric} of {one.set}, {one.model}": one.value for one in run.record.scores}
    return {f"twin {place}": twin.loss for place, twin in enumerate(twins)} | scores


def sound() -> dict[str, Callable[[], Found]]:
    """The cases by name."""
    cases: dict[str, Callable[[], Found]] = {
        "gradients of a step": lambda: accumulated(problem_of()),
        "gradients of a step, LoRA": lambda: accumulated(problem_of("lora")),
        "a step at a measured rate": lambda: at_a_measured_rate(problem_of()),
        "plain training": lambda: plain_training(problem_of()),
        "mean gradients": lambda: gradients(problem_of()),
        "sums over examples": lambda: statistics(problem_of()),
        "Sophia's estimates": lambda: estimates(problem_of()),
        "noise estimates": lambda: estimates(problem_of(), {"noise": NOISE}),
        "retain budget": lambda: budget(problem_of()),
        "scores": lambda: scores(problem_of()),
        "a change in low rank": lambda: run(short("margin_newton", refit_every=2, held_rows=2, iterations=3), 0.8),
        "fewer windows than processes": fewer_windows_than_processes,
        "deciding alike": own_order,
    }
    cases |= {f"curvature {name}": lambda name=name: curvature(name, problem_of()) for name in CURVATURES}  # type: ignore[misc]
    return cases | {f"method {name}": lambda name=name: method(name) for name in METHODS}  # type: ignore[misc]


@contextmanager
def changed(place: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, original)


def _mean_of_means(batch: Batch, places: Any) -> Batch:
    """The weight of a part as if all parts were of one size."""
    return replace(WHOLE(batch, places), weight=batch.weight / distributed.processes())


WHOLE = Batch.part


def broken() -> dict[str, Callable[[], Found]]:
    """Cases as they come out where something is wrong, by the name of the sound case and what is wrong."""

    def wrong(place: Any, name: str, value: Any, case: Callable[[], Found]) -> Callable[[], Found]:
        def run() -> Found:
            with changed(place, name, value):
                return case()

        return run

    def step() -> Found:
        return accumulated(problem_of())

    def diagonal() -> Found:
        return curvature("diagonal", problem_of())

    def ggn() -> Found:
        return curvature("ggn", problem_of())

    def same_rows(items: Any) -> Any:
        return items[:: distributed.processes()]

    def nothing_summed(tensors: dict[str, Tensor]) -> None:
        return

    return {
        "gradients of a step/the same rows on both": wrong(distributed, "share", same_rows, step),
        "gradients of a step/mean of means": wrong(batches.Batch, "part", _mean_of_means, step),
        "gradients of a step/not summed": wrong(distributed, "total_", nothing_summed, step),
        "curvature diagonal/the same rows on both": wrong(distributed, "share", same_rows, diagonal),
        "curvature diagonal/not summed": wrong(distributed, "total_", nothing_summed, diagonal),
        "curvature ggn/the same rows on both": wrong(distributed, "share", same_rows, ggn),
        "curvature ggn/not summed": wrong(distributed, "total_", nothing_summed, ggn),
        "noise estimates/nothing skipped": lambda: estimates(problem_of(), {"noise": FORGETFUL}),
    }


def main(folder: Path) -> None:
    """Runs all cases as one of the launched processes."""
    torch.set_num_threads(1)
    Runtime("cpu")
    found = {name: case() for name, case in (sound() | broken()).items()}
    found["commands"] = commands(folder)
    torch.save(found, folder / f"found-{distributed._rank()}.pt")
    distributed.leave()
