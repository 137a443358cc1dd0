"""MMLU through lm-eval, on a loaded model: an extra, and only where its data can be had (hub or local cache).

Micro average over the 14,042 test questions. The organisers of LUME used another tool and do not say how many examples
stood before each question; their 0.495 and 0.240 for the two untouched targets tell which setting is theirs.
"""

import importlib
from typing import Any, Literal

from scipy.stats import norm

from expunge.benchmark import Missing, Scored
from expunge.problem import Problem
from expunge.runs import distributed
from expunge.scoring.intervals import CONFIDENCE, Score

Shots = Literal["zero-shot", "five-shot"]
EXAMPLES = {"zero-shot": 0, "five-shot": 5}
QUESTIONS = 14_042


def measure(problem: Problem, shots: Shots) -> Scored:
    """The accuracy, or why there is none: nothing that lm-eval raises ends a run. One of several processes runs it."""
    return distributed.from_main(lambda: _measure(problem, shots))


def _measure(problem: Problem, shots: Shots) -> Scored:
    try:
        library = importlib.import_module("lm_eval")
        adapter = importlib.import_module("lm_eval.models.huggingface").HFLM
    except ImportError:
        return Missing('lm-eval is not installed (pip install "expunge[mmlu]")')
    try:
        with problem.runtime.autocast():
            wrapped = adapter(pretrained=problem.model, tokenizer=problem.tokenizer, batch_size=8)
            answer = library.simple_evaluate(model=wrapped, tasks=["mmlu"], num_fewshot=EXAMPLES[shots])
    except Exception as error:  # no data, no network, no memory: whatever it is, the score is missing
        first = (str(error).strip().splitlines() or [""])[0][:200]
        return Missing(f"lm-eval could not run it ({type(error).__name__}: {first})")
    return _accuracy(answer)


def _accuracy(answer: Any) -> Scored:
    try:
        found = answer["results"]["mmlu"]
        value = float(found["acc,none"])
    except (KeyError, TypeError, ValueError):
        return Missing("lm-eval gave no accuracy for it")
    if not 0 <= value <= 1:
        return Missing("lm-eval gave no accuracy between 0 and 1 for it")
    error = found.get("acc_stderr,none")
    if not isinstance(error, float):
        return Score(value, None, None, QUESTIONS)
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    return Score(value, max(0.0, value - half), min(1.0, value + half), QUESTIONS)
