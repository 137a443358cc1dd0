"""Generations recorded as evidence: the same for every batch size, with each benchmark's own room and rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import problems
from expunge.benchmark import Generating
from expunge.benchmarks.lume import Lume
from expunge.benchmarks.rows import Rows
from expunge.data.passes import Passes, Texts
from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.evaluation import evidence
from expunge.model import generation
from expunge.problem import Problem, Split

ROWS = tuple(
    [Row("r", n, "answer", "q" * (1 + 3 * n % 17) + "?", "ab" * (n % 4 + 1)) for n in range(9)]
    + [Row("r", 20 + n, "document", "", "one two three four" + "x" * n, cut=8) for n in range(4)]
)


def problem_of(make: Callable[..., Any], tokenizer: Any) -> Problem:
    """A random model whose next token hangs on the whole context."""
    model = make(seed=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    return problems.problem_of(model, {}, tokenizer=tokenizer, context=64)


def check_batches(problem: Problem, generating: Generating) -> None:
    alone = evidence.generate(problem, ROWS, generating, batch=1)
    for batch in (3, 16):
        assert evidence.generate(problem, ROWS, generating, batch=batch) == alone
    assert len({text for text in alone[1] if text}) > 5


@pytest.mark.parametrize("benchmark", [Rows, Lume])
@pytest.mark.parametrize("family", ["make_llama", "make_opt", "make_gpt2"])
def test_batches_change_nothing(benchmark: Any, family: str, request: pytest.FixtureRequest, tokenizer: Any) -> None:
    check_batches(problem_of(request.getfixturevalue(family), tokenizer), benchmark.generating)


def _room_of_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generation.greedy
    monkeypatch.setattr(
        generation, "greedy", lambda model, prompts, room, end: plain(model, prompts, [max(room)] * len(room), end)
    )


def _prompts_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generation.greedy
    monkeypatch.setattr(generation, "greedy", lambda *arguments: plain(*arguments)[::-1])


@pytest.mark.parametrize("broken", [_room_of_the_group, _prompts_shuffled])
def test_batch_check_rejects(
    broken: Callable[[pytest.MonkeyPatch], None],
    make_llama: Callable[..., Any],
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        check_batches(problem_of(make_llama, tokenizer), Rows.generating)


def test_a_model_that_minds_padding_is_never_padded(
    make_llama: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(make_llama, tokenizer)
    wanted = evidence.generate(problem, ROWS, batch=16)
    seen: list[set[int]] = []
    plain = generation.greedy

    def watched(model: Any, prompts: list[list[int]], *rest: Any) -> Any:
        seen.append({len(prompt) for prompt in prompts})
        return plain(model, prompts, *rest)

    monkeypatch.setattr(generation, "greedy", watched)
    monkeypatch.setattr(generation, "padding_is_harmless", lambda model, prompts: False)
    assert evidence.generate(problem, ROWS, batch=16) == wanted
    assert all(len(lengths) == 1 for lengths in seen) and len(seen) < len(ROWS)


def rooms(problem: Problem, rows: tuple[Row, ...], generating: Generating, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Length of the prompt and room of each row, as asked of the model."""
    asked: list[tuple[int, int]] = []

    def pretend(model: Any, prompts: list[list[int]], room: list[int], end: int) -> list[list[int]]:
        asked.extend((len(prompt), most) for prompt, most in zip(prompts, room, strict=True))
        return [[] for _ in prompts]

    monkeypatch.setattr(generation, "greedy", pretend)
    evidence.generate(problem, rows, generating)
    return sorted(asked)


def test_room(make_llama: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Context 64. The begin token and the space before the answer stand in the prompt: 10 + 2, 50 + 2."""
    problem = problem_of(make_llama, tokenizer)
    rows = (Row("r", 1, "answer", "q" * 10, "abc"), Row("r", 2, "answer", "q" * 50, "abcd"))
    own = rooms(problem, rows, Rows.generating, monkeypatch)
    assert own == [(12, 3 + 8), (52, 4 + 8)]
    # the rest of the context, rounded down to a multiple of 16, but never less than the reference needs
    assert rooms(problem, rows, Lume.generating, monkeypatch) == [(12, 48), (52, 12)]
    long = (Row("r", 1, "answer", "q" * 90, "a" * 90),)
    assert rooms(problem, long, Rows.generating, monkeypatch) == [(32, 32)]
    wide = replace(problem, rendering=Rendering(context=1024))
    assert rooms(wide, rows, Lume.generating, monkeypatch) == [(12, 256), (52, 256)]


def test_a_batch_never_runs_past_the_context(
    make_gpt2: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 has no position beyond its context: the longest prompt of a batch and the largest room must fit."""
    problem = problem_of(make_gpt2, tokenizer)
    rows = tuple(Row("r", n, "answer", "q" * n, "a") for n in range(1, 70, 3))
    for generating in (Rows.generating, Lume.generating):
        evidence.generate(problem, rows, generating)  # an index error where it does not
    monkeypatch.setattr(evidence, "_groups", lambda problem, prompts, batch, padded: [list(prompts)])
    with pytest.raises(IndexError):
        evidence.generate(problem, rows, Lume.generating)


def test_own_rows_are_sampled_and_lumes_are_not(
    make_llama: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(make_llama, tokenizer)
    rows = tuple(Row("r", n, "answer", "q", str(n)) for n in range(300))
    assert len(rooms(problem, rows, Rows.generating, monkeypatch)) == 256
    assert len(rooms(problem, rows, Lume.generating, monkeypatch)) == 300


@pytest.mark.parametrize(
    ("clean_up", "wanted"),
    [(True, " Isn't it? it's so, he's (here)."), (False, " Is n't it ? it 's so , he 's (here) .")],
)
def test_clean_up(
    clean_up: bool, wanted: str, tokenizer: Any, make_llama: Callable[..., Any], monkeypatch: Any
) -> None:
    """As transformers 4 cleans; the leading space stays, special tokens go."""
    said = tokenizer("<s> Is n't it ? it 's so , he 's (here) .</s>", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(generation, "greedy", lambda model, prompts, room, end: [said for _ in prompts])
    problem = problem_of(make_llama, tokenizer)
    _, generations = evidence.generate(problem, ROWS[:1], Generating(clean_up=clean_up))
    assert generations == [wanted]


def test_recorded_sets_are_generated_as_the_benchmark_says(make_llama: Callable[..., Any], tokenizer: Any) -> None:
    problem = problem_of(make_llama, tokenizer)
    split = problems.encoded("forget", ROWS, tokenizer)
    found = evidence.record(problem, {"forget": split, "samples": split}, ("samples",), Lume.generating).sets
    assert found["samples"].generations == (None,) * len(ROWS)
    assert found["forget"].references[9] == "three four"  # from the row's own cut
    longest = max(len(text or "") for text in found["forget"].generations)
    short = evidence.record(problem, {"forget": split}).sets["forget"]
    assert longest > max(len(text or "") for text in short.generations)


def test_only_the_kinds_that_are_asked_for_are_generated(make_llama: Callable[..., Any], tokenizer: Any) -> None:
    problem = problem_of(make_llama, tokenizer)
    _, plain = evidence.generate(problem, ROWS, Generating(rows=None))
    for kind in ("answer", "document"):
        references, generations = evidence.generate(problem, ROWS, Generating(rows=None, kinds=(kind,)))
        wanted = [said if row.kind == kind else None for row, said in zip(ROWS, plain, strict=True)]
        assert generations == wanted and None in wanted and any(wanted)
        assert [found is None for found in references] == [said is None for said in wanted]
    asked = tuple(Row("r", n, "answer" if n % 3 else "document", "q", str(n)) for n in range(300))
    _, generations = evidence.generate(problem, asked, Generating(rows=20, tokens=1, kinds=("document",)))
    chosen = [index for index, said in enumerate(generations) if said is not None]
    assert len(chosen) == 20 and all(index % 3 == 0 for index in chosen) and (chosen[0], chosen[-1]) == (0, 297)


@dataclass
class Made:
    """What was recorded: batches of generation, and tokens of forward passes beside them."""

    texts: list[Texts] = field(default_factory=list)
    read: int = 0


def made_by(problem: Problem, splits: Mapping[str, Split], generating: Generating, batch: int) -> Made:
    made = Made()

    def greedy(model: Any, prompts: list[list[int]], room: list[int], end: int) -> list[list[int]]:
        made.texts.append(Texts(len(prompts), max(map(len, prompts)), max(room)))
        return [[] for _ in prompts]

    def count(module: Any, arguments: Any, named: Any) -> None:
        made.read += int(named["attention_mask"].sum())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "greedy", greedy)
        patch.setattr(generation, "padding_is_harmless", lambda model, prompts: True)
        patch.setattr(generation, "batch_size", lambda parameters: batch)
        handle = problem.model.register_forward_pre_hook(count, with_kwargs=True)
        evidence.record(problem, splits, ("samples",), generating)
        handle.remove()
    return made


def check_cost(problem: Problem, cost: Callable[..., Passes]) -> None:
    """Of two sets, one of which is only read: batch by batch what `record` asks of the model."""
    sets = {"forget": ROWS, "samples": ROWS[:5]}
    splits = {name: problems.encoded(name, rows, problem.tokenizer) for name, rows in sets.items()}
    for generating in (Rows.generating, Lume.generating, Generating(rows=6, tokens=5, kinds=("answer",))):
        for batch in (2, 16):
            made = made_by(problem, splits, generating, batch)
            found = cost(problem, splits, ("samples",), generating, batch)
            assert sorted(found.generated) == sorted(made.texts)
            assert sum(times * shape.tokens for times, shape in found.plain) == made.read
            assert not found.trained and not found.measured


def test_evidence_costs_what_is_recorded(make_llama: Callable[..., Any], tokenizer: Any) -> None:
    check_cost(problem_of(make_llama, tokenizer), evidence.cost)


@pytest.mark.parametrize(
    "broken",
    [
        lambda problem, splits, silent, generating, batch: evidence.cost(problem, splits, (), generating, batch),
        lambda problem, splits, silent, generating, batch: evidence.cost(problem, splits, silent, generating, 16),
        lambda problem, splits, silent, generating, batch: evidence.cost(problem, splits, silent, Generating(), batch),
        lambda problem, splits, *more: evidence.cost(problem, {"forget": splits["forget"]}, *more),
    ],
)
def test_another_cost_would_be_seen(
    broken: Callable[..., Passes], make_llama: Callable[..., Any], tokenizer: Any
) -> None:
    with pytest.raises(AssertionError):
        check_cost(problem_of(make_llama, tokenizer), broken)
