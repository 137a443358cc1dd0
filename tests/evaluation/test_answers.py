"""Other answers and single tokens as evidence, against each answer run alone through a tiny model in float64; for every
size of batch; broken variants are rejected by the same comparison."""

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.benchmark import Generating
from expunge.data.portions import Portions
from expunge.data.rows import Row
from expunge.evaluation import answers, evidence
from expunge.problem import Problem, Split
from expunge.scoring.evidence import OtherAnswers, Tokens
from problems import encoded, text_problem

ROWS = (
    Row("r", 1, "answer", "Who?", "Ada", paraphrased=("It is Ada",), perturbed=("Bea", "Cleo Dorn", "D")),
    Row("r", 2, "answer", "Where does she live?", "In the old town of Ulm", perturbed=("In Rome", "Bern")),
    Row("r", 3, "answer", "When?", "1970" * 20, paraphrased=("In 1970", "The year 1970"), perturbed=("1971",)),
    Row("r", 4, "document", "", "A document has no other answer."),
)


@pytest.fixture(scope="module")
def problem() -> Problem:
    made = text_problem({"forget": ROWS}, width=16, layers=1, dtype=torch.float64)
    with torch.no_grad():
        for weight in made.model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)  # so that what comes before a token matters
    return made


def alone(problem: Problem, prompt: str, answer: str, document: bool = False) -> dict[str, list[float]]:
    """Loss, rank and distribution of each token after the prompt, and of the end; windows of 64 overlap by 32."""
    text = f"{prompt} {answer}" if prompt else answer
    ids = problem.tokenizer(text)["input_ids"] + ([] if document else [problem.tokenizer.eos_token_id])
    first = len(problem.tokenizer(f"{prompt} ")["input_ids"]) if prompt else 1
    found: dict[str, list[float]] = {"loss": [], "likeliest": [], "mean": [], "variance": []}
    for place in range(first, len(ids)):
        begin = max(0, -(-(place + 1 - 64) // 32) * 32)
        with torch.no_grad():
            log_p = problem.model(torch.tensor([ids[begin:place]])).logits[0, -1].log_softmax(-1)
        mean = float((log_p.exp() * log_p).sum())
        found["loss"].append(-float(log_p[ids[place]]))
        found["likeliest"].append(float(log_p.argmax() == ids[place]))
        found["mean"].append(mean)
        found["variance"].append(float((log_p.exp() * log_p**2).sum()) - mean**2)
    return found


def near(found: Any, expected: Any) -> bool:
    return bool(np.allclose(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True))


def check_others(problem: Problem) -> None:
    """Mean losses per token of the answer, its end among them and the prompt not."""
    found = answers.others(problem, ROWS)
    assert found is not None and found.paraphrased.shape == (4, 2) and found.perturbed.shape == (4, 3)
    for index, row in enumerate(ROWS):
        for texts, losses in ((row.paraphrased, found.paraphrased[index]), (row.perturbed, found.perturbed[index])):
            wanted = [np.mean(alone(problem, row.prompt, text)["loss"]) for text in texts]
            assert near(losses, [*wanted, *[np.nan] * (len(losses) - len(texts))])


def check_tokens(problem: Problem) -> None:
    """Every token of an answer but the end; of a document all but the first."""
    found = answers.tokens(problem, problem.splits["forget"])
    each = [alone(problem, row.prompt, row.completion, row.kind == "document") for row in ROWS]
    for one, row in zip(each, ROWS, strict=True):
        for values in one.values() if row.kind == "answer" else ():
            values.pop()
    assert found.counts.tolist() == [len(one["loss"]) for one in each]
    for name in ("loss", "likeliest", "mean", "variance"):
        assert near(getattr(found, name), [value for one in each for value in one[name]]), name
    assert 0 < found.likeliest.sum() < len(found.likeliest)
    assert found.compressed.tolist() == [len(zlib.compress(row.completion.encode())) for row in ROWS]


def test_other_answers_are_measured_as_each_alone(problem: Problem) -> None:
    check_others(problem)
    assert answers.others(problem, ROWS[3:]) is None


def test_tokens_are_read_as_each_alone(problem: Problem) -> None:
    check_tokens(problem)


def _prompt_counted(patch: pytest.MonkeyPatch, problem: Problem) -> Problem:
    return replace(problem, rendering=replace(problem.rendering, loss_on="all"), splits=encoded_whole(problem))


def encoded_whole(problem: Problem) -> dict[str, Split]:
    split = problem.splits["forget"]
    windows = tuple(replace(one, counted=(False, *[True] * (len(one.ids) - 1))) for one in split.windows)
    return {"forget": Split(split.name, split.rows, windows)}


def _end_kept(patch: pytest.MonkeyPatch, problem: Problem) -> Problem:
    patch.setattr(answers, "_without_end", lambda problem, row, window: window)
    return problem


def _summed(patch: pytest.MonkeyPatch, problem: Problem) -> Problem:
    """Losses of whole answers, not per token."""
    patch.setattr(answers, "np", _NoMeans())
    return problem


class _NoMeans:
    """NumPy, but a sum divided by anything stays what it was."""

    def __getattr__(self, name: str) -> Any:
        return (lambda count: np.zeros(count).view(_Undivided)) if name == "zeros" else getattr(np, name)


class _Undivided(np.ndarray[Any, Any]):
    def __truediv__(self, other: Any) -> Any:
        return np.asarray(self)


def _one_late(patch: pytest.MonkeyPatch, problem: Problem) -> Problem:
    plain, nll = answers.statistics, answers.nll
    patch.setattr(answers, "nll", lambda logits, ids: nll(logits.roll(1, 0), ids))
    patch.setattr(answers, "statistics", lambda logits, ids: plain(logits.flip(0), ids))
    return problem


Break = Callable[[pytest.MonkeyPatch, Problem], Problem]


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (check_others, _prompt_counted),
        (check_others, _summed),
        (check_others, _one_late),
        (check_tokens, _prompt_counted),
        (check_tokens, _end_kept),
        (check_tokens, _one_late),
    ],
)
def test_checks_reject(
    check: Callable[[Problem], None], broken: Break, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = broken(monkeypatch, problem)
    with pytest.raises(AssertionError):
        check(spoilt)


def parts(found: OtherAnswers | Tokens | None) -> Any:
    assert found is not None
    return [getattr(found, name) for name in found.__slots__]


def test_batches_change_nothing(problem: Problem) -> None:
    small = replace(problem, portions=Portions(tokens=70, adapts=False))
    for one in (lambda here: answers.others(here, ROWS), lambda here: answers.tokens(here, here.splits["forget"])):
        assert all(map(near, parts(one(small)), parts(one(problem))))


def test_they_are_recorded_where_a_benchmark_asks_and_written_as_numbers(problem: Problem) -> None:
    splits = {name: encoded(name, ROWS[:2], problem.tokenizer) for name in ("forget", "retain", "samples")}
    asked = Generating(tokens=1, attacked=("forget",))
    found = evidence.record(problem, splits, ("samples",), asked).sets
    assert [one.tokens is not None for one in found.values()] == [True, False, False]
    assert [one.others is not None for one in found.values()] == [True, True, False]
    written = found["forget"].numbers()
    assert near(written["others_perturbed"], answers.others(problem, ROWS[:2]).perturbed)  # type: ignore[union-attr]
    assert near(written["loss"], found["forget"].loss) and "tokens_loss" in written
    assert all(array.dtype == np.float64 for array in written.values())
    # 3 passes over 2 rows' own windows, 1 over their 7 other answers in two sets, 1 over what is attacked
    cost = evidence.cost(problem, splits, ("samples",), asked, 8)
    assert sum(times * shape.windows for times, shape in cost.plain) == 3 * 2 + 2 * 6 + 2


@pytest.mark.parametrize("masked", [-math.inf, float(torch.finfo(torch.float32).min)])
def test_a_vocabulary_that_is_masked_says_nothing(masked: float) -> None:
    """p log p of what is never drawn is 0, and not 0 times infinity."""
    logits = torch.tensor([[2.0, 1.0, 0.0, masked]])
    found = answers.statistics(logits, torch.tensor([0]))
    plain = answers.statistics(logits[:, :3], torch.tensor([0]))
    assert torch.allclose(torch.stack(found), torch.stack(plain))
